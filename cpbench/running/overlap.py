"""Evaluation of rows in a worker process, while the next task is learned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cpbench.output import collected
from cpbench.running.compilation import compiled_forward
from cpbench.running.gpu_sharing import two_fit
from cpbench.running.progress import Reporter
from cpbench.running.rows import evaluate_row, is_complete
from cpbench.running.stopping import signals_wait

if TYPE_CHECKING:
    from cpbench.config import RunConfig
    from cpbench.running.prepare import Run

WORTH_A_PROCESS = 2000  # denoiser evaluations of generation: for fewer, starting a worker takes longer than it saves
_run: Run | None = None  # the worker's own


def overlap_device(run: Run) -> str | None:
    """The device on which rows are evaluated while the next task is learned; None if this process evaluates them itself.

    By default: this machine's CPU, if it has as many spare cores as this process has threads and there is much to generate.
    Another GPU is used only if `overlap` is asked for: it may be somebody else's, or meant for another run. Where there is
    no other, it is the run's own, if its memory is enough for both.
    """
    overlap, device = run.config.overlap, str(run.backbone.device)
    much = sum(run.generation_work(t) for t in run.rows) >= WORTH_A_PROCESS
    if not (much if overlap is None else overlap):
        return None
    if device.startswith("cuda"):
        if not overlap:
            return None
        gpus = [f"cuda:{n}" for n in range(torch.cuda.device_count()) if n != (torch.device(device).index or 0)]
        return gpus[0] if gpus else device if two_fit(run) else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    spare = device == "cpu" and cores >= 2 * torch.get_num_threads()
    return device if spare or overlap else None


@contextmanager
def worker_process(run: Run) -> Iterator[Executor | None]:
    """An executor of one process that has its own backbone and judges, for `evaluate_in_worker`; or None."""
    device = overlap_device(run)
    if device is None:
        yield None
        return
    config = run.config.model_copy(update={"device": device})
    context = torch.multiprocessing.get_context("spawn")
    begin = (config, torch.get_num_threads(), os.getpid())
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=begin)
    try:
        with signals_wait():  # Ctrl-C in a terminal goes to both processes
            pool.submit(os.getpid)  # the first task starts the process
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):  # else the row in progress would be waited for
            process.kill()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(config: RunConfig, threads: int, parent: int) -> None:
    from cpbench.registry import load_method
    from cpbench.running.orphans import exit_with_parent
    from cpbench.running.prepare import prepare

    exit_with_parent(parent)
    torch.set_num_threads(threads)
    global _run
    method_class = load_method(config.method)
    _run = prepare(config, method_class, method_class.Options(**config.options))
    _run.backbone.compiled = compiled_forward(_run)


def evaluate_in_worker(t: int) -> tuple[bool, list[str]]:
    """`evaluate_row` with the state of task t read from disk. Returns (whether the row was new, its messages)."""
    assert _run is not None
    if is_complete(_run, t):
        return False, []
    with collected() as messages:
        evaluate_row(_run, t, _run.load_state(t) if t else None, Reporter("", 0))
    return True, messages
