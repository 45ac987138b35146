"""Signals that stop a run: Ctrl-C (SIGINT), SIGTERM, as schedulers send it, and SIGHUP, when the terminal is closed.

The first one is raised in the main thread as `Stopped`, so that a run records that it was stopped. Another one, while the process
is ending, ends it at once and in silence.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_received: int | None = None


class Stopped(KeyboardInterrupt):
    """The process got one of SIGNALS. Like Ctrl-C's exception, it is not caught by `except Exception`."""


@contextmanager
def signals_raise(interruptible: bool = False) -> Iterator[None]:
    """Within this context the SIGNALS are raised as `Stopped`, apart from those that are ignored, as `nohup` ignores SIGHUP.

    interruptible: raise SIGINT even if it is ignored, as in the background jobs of a shell. After a signal the handlers stay
    as they are, so that a second one during the interpreter's own end is handled too.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    _received, earlier_handlers = None, {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in earlier_handlers.items():
        if handler is not signal.SIG_IGN or (interruptible and number == signal.SIGINT):
            signal.signal(number, _raise)
    try:
        yield
    finally:
        if _received is None:
            for number, handler in earlier_handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def signals_wait() -> Iterator[None]:
    """Within this context the SIGNALS wait. A process that is started in it never gets them: its parent handles them, and ends it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def is_stopped(error: BaseException) -> bool:
    """Whether an error is a stop, or follows from one: a library may have turned the signal's exception into its own."""
    return isinstance(error, KeyboardInterrupt) or _received is not None


def exit_code() -> int:
    """128 + the signal that stopped this process, as shells count: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + (_received or signal.SIGINT)


def signal_name() -> str:
    """The signal that stopped this process; SIGINT also for a KeyboardInterrupt without a signal."""
    return signal.Signals(_received or signal.SIGINT).name


def line_of(error: BaseException, hint: str) -> str:
    """What is said of a stop: the signal, and the error's notes, which say from where a run resumes; without notes `hint`."""
    return f"stopped by {signal_name()}; {'; '.join(getattr(error, '__notes__', [])) or hint}"


def _raise(number: int, frame: FrameType | None) -> None:
    global _received
    _received = number
    for other in SIGNALS:
        signal.signal(other, _leave)
    raise Stopped(signal.Signals(number).name)


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + (_received or number))
