"""How commands print what they found: a table for a terminal, plain lines for a file or a pipe, or JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cpbench import output

if TYPE_CHECKING:
    from rich.table import Table

LINE_WIDTH = 120  # of paragraphs and matrices where there is no terminal


def _messages_apart(context: click.Context, parameter: click.Parameter, as_json: bool) -> bool:
    if as_json:  # standard output is for the JSON only
        context.with_resource(output.opened(error=True))
    return as_json


AS_JSON = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_messages_apart,
    help="Print JSON. Messages go to standard error.",
)


def print_json(value: Any) -> None:
    """Any value of mappings, lists, numbers and paths; what is not a finite number is null."""
    click.echo(json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    number = float(value)  # numpy's as well
    return number if math.isfinite(number) else None


def by_row(matrix: Any) -> dict[str, dict[str, float]]:
    """A retention matrix for JSON: by row (the task after which it was measured), the score of each concept."""
    return {str(t): {str(c): float(v) for c, v in values.items()} for t, values in matrix.iterrows()}


def print_list(table: Table) -> None:
    """A list: as it fits on a terminal; elsewhere each row is one line, so that grep and awk can read it."""
    from rich.console import Console

    from cpbench.fitted_table import unwrapped

    if sys.stdout.isatty():
        Console(highlight=False).print(table)
        return
    for line in unwrapped(table):
        click.echo(line)


def print_tables(*tables: Table) -> None:
    """Tables of numbers: as they fit on a terminal, or into the lines of a log."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else LINE_WIDTH, highlight=False)
    for table in tables:
        console.print(table)
