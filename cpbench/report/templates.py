"""The templates of the HTML pages."""

from __future__ import annotations

from collections.abc import Callable

import jinja2


def templates(**filters: Callable[..., str]) -> jinja2.Environment:
    """The environment of cpbench/templates: values are escaped, and a missing value is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cpbench"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment
