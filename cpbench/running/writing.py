"""Files written beside the computation, in threads: pictures are encoded and hashed, and they and states written and synced.

Encoding, hashing and syncing release Python's lock. The order of what one writer gets is kept as far as waiting goes: a job
may wait for an earlier one's result.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    import torch

P, T = ParamSpec("P"), TypeVar("T")
MOST_THREADS = 4  # for a GPU: pictures of 1024 pixels take a core 0.2 s each
MOST_WAITING = 64  # jobs; at more, `submit` waits, so that a slow disk does not fill the memory with pictures


class Writer:
    """Threads for writing; a context manager, at whose end everything is written.

    An error in a thread, such as a full disk, is raised by the next `submit` or `wait`. After an error elsewhere, or a
    signal, what was submitted is written all the same; after an OSError, which the next file would meet too, it is not.
    """

    def __init__(self, device: torch.device):
        self._pool = ThreadPoolExecutor(threads_for(device), thread_name_prefix="cpbench-writer")
        self._jobs: deque[Future] = deque()

    def submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The future result of `job` with these arguments. Raises the error of an earlier job."""
        while self._jobs and (self._jobs[0].done() or len(self._jobs) >= MOST_WAITING):
            self._jobs.popleft().result()
        future = self._pool.submit(job, *args, **kwargs)
        self._jobs.append(future)
        return future

    def wait(self) -> None:
        """Wait until everything that was submitted is written. Raises the first error."""
        while self._jobs:
            self._jobs.popleft().result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.wait()
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._pool.shutdown(wait=True, cancel_futures=isinstance(error, OSError))


def threads_for(device: torch.device) -> int:
    """One beside a CPU's computation, which may have no core to spare; beside a GPU as many as there are cores, up to MOST_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if device.type == "cpu" else min(MOST_THREADS, cores)


def done(value: T) -> Future[T]:
    """A future that has its result already."""
    future: Future[T] = Future()
    future.set_result(value)
    return future
