"""A run's progress: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from cpbench import output
from cpbench.files import write_json

LOG_EVERY_SECONDS = 30.0
WRITE_EVERY_SECONDS = 1.0
BAR_FROM_WIDTH, BAR_WIDTH = 100, 20  # columns of the terminal, and of the bar


def span(seconds: float | None) -> str:
    """A duration as text; "?" if it is not known yet."""
    if seconds is None:
        return "?"
    for unit, name in ((86400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} seconds"


def bar(console: Console) -> Progress:
    """A live line: the stage, the share done, the time spent and left; with a bar where there is room for one."""
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    ]
    if console.width >= BAR_FROM_WIDTH:
        columns.insert(1, BarColumn(BAR_WIDTH))
    return Progress(*columns, console=console, transient=True)


class Reporter:
    """Counts denoiser evaluations done out of the total; a context manager around the work.

    total: the planned evaluations; 0 if they are not counted: then no share and no remaining time is shown.
    file: {stage, share done, seconds left} is written to it at most once per second, for a sweep that follows many runs.
    """

    def __init__(self, title: str, total: int, file: Path | None = None):
        self.file, self._written = file, 0.0
        self.console = output.console()
        self.title, self.total, self.done = title, max(total, 1), 0.0
        self.counted = total > 0
        self.stage = ""
        self._began = self._last_message = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Reporter:
        if self.console is not None and self.console.is_terminal:
            self._bar = bar(self.console)
            self._bar.start()
            self._id = self._bar.add_task(self.title, total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, stage: str) -> None:
        """Set the name of the current stage."""
        self.stage = stage
        if self._bar:
            self._bar.update(self._id, description=stage)
        self._write()

    def advance(self, evaluations: float) -> None:
        self.done += evaluations
        self._write()
        if self._bar:
            self._bar.update(self._id, completed=self.done)
            return
        if time.monotonic() - self._last_message >= LOG_EVERY_SECONDS:
            self._last_message = time.monotonic()
            share = (
                f"  {100 * self.done / self.total:.0f} %  about {self._left / 60:.0f} min left" if self.counted else ""
            )
            output.say(f"{self.title}  {self.stage}{share}")

    @property
    def _left(self) -> float:
        return (time.monotonic() - self._began) * max(self.total - self.done, 0) / max(self.done, 1)

    def _write(self) -> None:
        if self.file and time.monotonic() - self._written >= WRITE_EVERY_SECONDS:
            self._written = time.monotonic()
            progress = {
                "stage": self.stage,
                "share": min(self.done / self.total, 1.0),
                "left": self._left if self.done else None,
            }
            with contextlib.suppress(OSError):  # no result depends on it
                write_json(self.file, progress)
