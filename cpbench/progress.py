"""What a run says while it works: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_EVERY_SECONDS = 30.0


class Reporter:
    """Counts UNet evaluations done against those planned; `with` it around the work."""

    def __init__(self, title: str, total: int):
        self.console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
        self.title, self.total, self.done = title, max(total, 1), 0.0
        self.stage = ""
        self._began = self._told = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Reporter:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:3.0f} %"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._id = self._bar.add_task(self.title, total=self.total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def at(self, stage: str) -> None:
        """Name what is being done now."""
        self.stage = stage
        if self._bar:
            self._bar.update(self._id, description=f"{self.title}  {stage}")

    def advance(self, evaluations: float) -> None:
        self.done += evaluations
        if self._bar:
            self._bar.update(self._id, completed=self.done)
            return
        now = time.monotonic()
        if now - self._told >= LOG_EVERY_SECONDS:
            self._told = now
            left = (now - self._began) * max(self.total - self.done, 0) / max(self.done, 1) / 60
            self.console.print(
                f"{self.title}  {self.stage}  {100 * self.done / self.total:.0f} %  about {left:.0f} min left",
                highlight=False,
            )

    def say(self, what: RenderableType) -> None:
        (self._bar.console if self._bar else self.console).print(what, highlight=False)
