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
_listener: Callable[[Any], object] | None = None  # is called with everything that is said


def say(message: Any) -> None:
    """Say a line, which stays one, or anything that rich can print."""
    if _listener is not None:
        _listener(message)


def console() -> Console | None:
    """Where it is said, for what moves: bars and live tables. None where nobody looks."""
    return _console


@contextmanager
def opened() -> Iterator[None]:
    """For as long as it lasts what is said goes to standard output."""
    from rich.console import Console

    def tell(message: Any) -> None:
        if isinstance(message, str):  # names may come from anybody: nothing in them is markup, or moves a cursor
            line = "".join(c if c.isprintable() or c == "\n" else " " for c in message)
            console.print(line, markup=False, soft_wrap=True)
        else:
            console.print(message)

    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, highlight=False)
    with _set(console, tell):
        yield


@contextmanager
def collected() -> Iterator[list[Any]]:
    """For as long as it lasts what is said is kept in a list, for a process whose parent does the talking."""
    lines: list[Any] = []
    with _set(None, lines.append):
        yield lines


@contextmanager
def _set(console: Console | None, tell: Callable[[Any], object]) -> Iterator[None]:
    global _console, _listener
    before, (_console, _listener) = (_console, _listener), (console, tell)
    try:
        yield
    finally:
        _console, _listener = before
