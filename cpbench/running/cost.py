"""Cost of a task: seconds by stage, and peak memory, sampled while the task runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SAMPLE_SECONDS = 0.05


class PeakMemory:
    """The sampled peak of this process's resident memory, in bytes; on a CUDA device its allocator's own peak instead."""

    def __init__(self, device: torch.device):
        self.device, self.peak = device, 0
        self._stop = threading.Event()

    def __enter__(self) -> PeakMemory:
        import psutil
        import torch

        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        process = psutil.Process()

        def sample() -> None:
            while True:
                self.peak = max(self.peak, process.memory_info().rss)
                if self._stop.wait(SAMPLE_SECONDS):
                    return

        self._thread = threading.Thread(target=sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        import torch

        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device)
            return
        self._stop.set()
        self._thread.join()


class Stopwatch:
    """Seconds by stage: `with watch("generation"): ...`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def record(self) -> dict[str, Any]:
        return {f"{stage}_seconds": round(s, 3) for stage, s in self.seconds.items()}
