"""Progress messages: one channel, which the command line opens. In a library it is closed, and nothing is printed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 120  # columns of tables where there is no terminal
_console: Console | None = None
_listener: Callable[[Any], object] | None = None  # called with every message


def say(message: Any) -> None:
    """Print a message: one line of text, or anything that rich can print. Nothing happens while the channel is closed."""
    if _listener is not None:
        _listener(message)


def console() -> Console | None:
    """The open console, for progress bars and live tables; None while the channel is closed."""
    return _console


@contextmanager
def opened(error: bool = False) -> Iterator[None]:
    """Within this context, messages go to standard output, or to standard error."""
    from rich.console import Console

    from cpbench.fitted_table import FittedTable, unwrapped

    def tell(message: Any) -> None:
        if isinstance(message, str):  # names are untrusted: nothing in them is markup or moves the cursor
            line = "".join(c if c.isprintable() or c == "\n" else " " for c in message)
            console.print(line, markup=False, soft_wrap=True)
        elif isinstance(message, FittedTable) and not console.is_terminal and not message.split:
            for line in unwrapped(message):  # a list is one line per row in a log
                console.print(line, markup=False, soft_wrap=True)
        else:
            console.print(message)

    stream = sys.stderr if error else sys.stdout
    console = Console(width=None if stream.isatty() else LOG_WIDTH, highlight=False, stderr=error)
    with _set(console, tell):
        yield


@contextmanager
def collected() -> Iterator[list[Any]]:
    """Within this context, messages are collected in a list, for a process whose parent prints them."""
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
