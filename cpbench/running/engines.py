"""Engines, which execute the runs of a sweep: processes on this machine, or tasks on a Ray cluster.

An engine has `words` (its description for the user), `submit` (a job; returns a future of its outcome), `stop` and `close`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cpbench import config
from cpbench.errors import UserError
from cpbench.miniature import is_miniature
from cpbench.output import opened, say
from cpbench.records.folder import RECORD
from cpbench.running import failures, gpu_sharing, receipts, stopping

PATIENCE_SECONDS = 60.0  # a run that Ray restarts waits this long for its folder: its first process may still be dying
COPY_FAILED = 4  # exit code of a job whose run is finished and could not be copied
LOST = -1000  # instead of an exit code, for a process that Ray gave up: how it ended is unknown
RETRIES = 3  # by Ray, of a run whose worker or node was lost
MINIATURE_BYTES = 1_500_000_000  # memory of one run on the miniature, libraries included
OTHERS_BYTES = 8_000_000_000


@dataclass(frozen=True)
class Job:
    """One run: its name in the sweep, and its settings, as `cpbench run --config FILE` reads them."""

    name: str
    settings: dict[str, Any]


@dataclass
class SweepPaths:
    """Paths of a sweep's own files: jobs, logs and progress."""

    output: Path

    def file(self, job: Job, ending: str) -> Path:
        return self.output / "sweep" / f"{job.name}.{ending}"


@dataclass
class Outcome:
    """How a job ended: the exit code of its run, negative for a signal, None if it never started."""

    code: int | None
    seconds: float = 0.0


# One job


def run_job(settings: dict[str, Any], progress: Path, threads: int, copy_to: str | None, patience: float) -> int:
    """Execute one run in this process. Returns its exit code; its messages go to standard output."""
    with opened():
        return _run_job(settings, progress, threads, copy_to, patience)


def _run_job(settings: dict[str, Any], progress: Path, threads: int, copy_to: str | None, patience: float) -> int:
    try:
        request = config.requested(settings)
        if folder := receipts.finished_folder(request):
            say(receipts.finished_line(folder))
        else:
            import torch

            from cpbench.running.runner import execute

            torch.set_num_threads(threads)
            run_config, method_class, options = config.resolved(request)
            run = execute(run_config, method_class, options, patience, progress, request)
            folder = run.folder.absolute()
    except BaseException as error:
        return _failed(error)
    if copy_to:
        try:
            say(f"copied to {copy(folder, request.output.absolute(), copy_to)}")
        except Exception as error:  # of any file system, which has its own
            say(f"cpbench: the run is finished: {folder}; but copying it to {copy_to} failed ({_one_line(error)})")
            return COPY_FAILED
    return 0


def _failed(error: BaseException) -> int:
    """Say in one line why a run did not finish, or the traceback of an unexpected error. Returns the exit code."""
    answer = failures.line_and_code(error)
    if answer is not None:
        say(f"cpbench: {answer[0]}")
        return answer[1]
    if not isinstance(error, Exception):
        raise error
    say("".join(traceback.format_exception(error)).rstrip())
    return failures.FAILED


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def check_target(url: str) -> None:
    """Try whether folders can be made and files written at a --copy-to URL. UserError, in one line, if not."""
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url)
        probe = f"{root.rstrip('/')}/.cpbench-probe-{os.getpid()}"
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(probe, b"probe")
        fs.rm_file(probe)
    except Exception as error:  # of any file system, or of its library, which may not be installed
        raise UserError(f"--copy-to {url}: cannot be written ({_one_line(error)}); choose another URL") from None


def copy(folder: Path, output: Path, url: str) -> str:
    """Copy a run folder to any fsspec URL, under its path in `output`; run.json, which makes it valid, is copied last."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    target = f"{root.rstrip('/')}/{folder.relative_to(output).as_posix()}"
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    for file in sorted(files, key=lambda f: f.name == RECORD):
        path = f"{target}/{file.relative_to(folder).as_posix()}"
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(file), path)
    return target


# Engines


@dataclass
class Resources:
    """How many runs at once, and the threads and GPUs of each."""

    jobs: int
    threads: int = 1
    gpus_per_run: float = 1.0
    gpus: list[str] = field(default_factory=list)
    """For each concurrent run its GPU, as CUDA_VISIBLE_DEVICES names it; empty where all runs have the same device."""
    rehearsed: list[dict[str, Any]] = field(default_factory=list)
    """On Ray, settings of the runs whose memory decides `gpus_per_run`; empty where it was given."""


def resources_for(
    device: str, backbones: Sequence[str], jobs: int | None, threads: int, gpus_per_run: float
) -> Resources:
    """Resources for as many runs at once as cores, memory or GPUs allow. UserError for a device that is not available.

    Without a number, runs are spread over the GPUs that this process may use; each sees only its own. "cuda:1", or Apple's
    GPU, is for one run at a time, or as many as `gpus_per_run` allows.
    """
    import psutil

    from cpbench.running.devices import pick_device, visible_gpus

    device, runs_per_gpu = pick_device(device), max(1, int(1 / gpus_per_run))
    if device == "cuda":
        slots = visible_gpus() * runs_per_gpu
        return Resources(min(jobs or len(slots), len(slots)), threads, gpus_per_run, slots)
    if device != "cpu":
        return Resources(min(jobs or runs_per_gpu, runs_per_gpu), threads, gpus_per_run)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    need = max(MINIATURE_BYTES if is_miniature(b) else OTHERS_BYTES for b in backbones)
    fit = min(cores // threads, psutil.virtual_memory().available // need)
    return Resources(jobs or max(1, fit), threads)


class Local:
    """One process per run, `resources.jobs` at a time, each with its threads and its GPU."""

    def __init__(self, paths: SweepPaths, resources: Resources, copy_to: str | None):
        self.paths, self.resources, self.copy_to = paths, resources, copy_to
        self.words = f"{resources.jobs} at a time with {resources.threads} thread{'s' * (resources.threads > 1)} each"
        self.pool = ThreadPoolExecutor(resources.jobs)
        self.slots: queue.SimpleQueue[str] = queue.SimpleQueue()
        for slot in resources.gpus:
            self.slots.put(slot)
        self.running: dict[str, subprocess.Popen] = {}
        self.stopped = False

    def submit(self, job: Job) -> Future:
        return self.pool.submit(self._run, job)

    def _run(self, job: Job) -> Outcome:
        if self.stopped:
            return Outcome(None)
        began, threads = time.monotonic(), str(self.resources.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        gpu = self.slots.get() if self.resources.gpus else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        words = [
            str(self.paths.file(job, "yaml")),
            str(self.paths.file(job, "progress")),
            threads,
            self.copy_to or "",
        ]
        try:
            with self.paths.file(job, "log").open("w") as log:
                command = [sys.executable, "-m", "cpbench.running.engines", *words]
                process = subprocess.Popen(
                    command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )
                self.running[job.name] = process
                code = process.wait()
        finally:
            self.running.pop(job.name, None)
            if gpu is not None:
                self.slots.put(gpu)
        return Outcome(code, time.monotonic() - began)

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running.values()):
            with contextlib.suppress(OSError):
                process.terminate()  # SIGTERM: unlike SIGINT, a background job does not ignore it
        self.pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        self.pool.shutdown()


class OnRay:
    """One Ray task per run: Ray chooses the node, assigns the GPU, and restarts runs whose worker or node died."""

    def __init__(self, paths: SweepPaths, resources: Resources, copy_to: str | None, address: str | None):
        try:
            import ray
        except ImportError:
            raise UserError("engine ray: ray is not installed; pip install 'cpbench[ray]'") from None
        self.ray, self.paths, self.resources, self.copy_to = ray, paths, resources, copy_to
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=None)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"engine ray: no cluster at {address} ({error}); start one with `ray start --head`"
                ) from None
        self.gpus = self._gpus_per_run() if ray.cluster_resources().get("GPU") else 0
        self.words = f"on Ray: {len(ray.nodes())} nodes, {ray.cluster_resources().get('CPU', 0):.0f} CPUs"
        # max_calls: a new process for every run, so that no run inherits another's memory
        remote_options = {"num_cpus": resources.threads, "num_gpus": self.gpus, "max_retries": RETRIES, "max_calls": 1}
        self.task = ray.remote(**remote_options)(_on_a_worker)
        self.refs: list[Any] = []

    def _gpus_per_run(self) -> float:
        """As given, or by the memory of rehearsals on the cluster's GPUs."""
        if not self.resources.rehearsed:
            return self.resources.gpus_per_run
        options = {"num_cpus": self.resources.threads, "num_gpus": 1, "max_calls": 1}
        rehearse = self.ray.remote(**options)(_rehearsed_on_a_worker)
        refs = {str(s): rehearse.remote(s, os.getcwd()) for s in gpu_sharing.distinct(self.resources.rehearsed)}
        runs = gpu_sharing.runs_per_gpu(
            self.resources.rehearsed, gpu_sharing.MOST_RUNS, lambda settings: self.ray.get(refs[str(settings)])
        )
        return gpu_sharing.share_of(runs)

    def submit(self, job: Job) -> Future:
        files = [str(self.paths.file(job, ending).absolute()) for ending in ("log", "progress")]
        self.refs.append(self.task.remote(job.settings, os.getcwd(), *files, self.resources.threads, self.copy_to))
        return self.refs[-1].future()

    def stop(self) -> None:
        for ref in self.refs:
            self.ray.cancel(ref, force=True)
        self.close()

    def close(self) -> None:
        self.ray.shutdown()


def _on_a_worker(
    settings: dict[str, Any], folder: str, log: str, progress: str, threads: int, copy_to: str | None
) -> Outcome:
    """Execute one run on a Ray worker. folder: the sweep's working directory, which relative paths refer to."""
    with contextlib.suppress(OSError):  # if this node has no such folder, the error for the missing path says so
        os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)  # before torch is imported
    began = time.monotonic()
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = run_job(settings, Path(progress), threads, copy_to, PATIENCE_SECONDS)
    return Outcome(code, time.monotonic() - began)


def _rehearsed_on_a_worker(settings: dict[str, Any], folder: str) -> gpu_sharing.Need | None:
    """The memory that a run needs, rehearsed on a Ray worker with a GPU; None if it cannot be rehearsed."""
    with contextlib.suppress(OSError):
        os.chdir(folder)
    try:
        return gpu_sharing.measured(settings)
    except Exception:  # the run itself will say it
        return None


def main(words: list[str]) -> int:
    """The process of one job: python -m cpbench.running.engines JOB.yaml PROGRESS THREADS COPY_TO."""
    from cpbench.running.orphans import exit_with_parent

    exit_with_parent(os.getppid(), records=True)
    job, progress, threads, copy_to = words
    settings = yaml.safe_load(Path(job).read_text())
    with stopping.signals_raise(interruptible=True):
        return run_job(settings, Path(progress), int(threads), copy_to or None, 0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
