"""The templates that HTML pages are made of."""

from __future__ import annotations

from collections.abc import Callable

import jinja2


def templates(**filters: Callable[..., str]) -> jinja2.Environment:
    """Those of cpbench/templates: what is put into them is escaped, and what they ask for and lack is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cpbench"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment
