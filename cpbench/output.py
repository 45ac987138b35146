"""What cpbench says while it works: one channel, which the command line opens. In a library it is closed: nothing is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 120  # columns of tables where there is no terminal
_console: Console | None = None
_told: Callable[[Any], object] | None = None  # who hears what is said


def say(what: Any) -> None:
    """Say a line, which stays one, or anything that rich can print."""
    if _told is not None:
        _told(what)


def console() -> Console | None:
    """Where it is said, for what moves: bars and live tables. None where nobody looks."""
    return _console


@contextmanager
def opened() -> Iterator[None]:
    """For as long as it lasts what is said goes to standard output."""
    from rich.console import Console

    def tell(what: Any) -> None:
        if isinstance(what, str):  # names may come from anybody: nothing in them is markup, or moves a cursor
            line = "".join(c if c.isprintable() or c == "\n" else " " for c in what)
            shown.print(line, markup=False, soft_wrap=True)
        else:
            shown.print(what)

    shown = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    with _set(shown, tell):
        yield


@contextmanager
def collected() -> Iterator[list[Any]]:
    """For as long as it lasts what is said is kept in a list, for a process whose parent does the talking."""
    lines: list[Any] = []
    with _set(None, lines.append):
        yield lines


@contextmanager
def _set(shown: Console | None, tell: Callable[[Any], object]) -> Iterator[None]:
    global _console, _told
    before, (_console, _told) = (_console, _told), (shown, tell)
    try:
        yield
    finally:
        _console, _told = before
