"""Many runs: methods x sequences x backbones x seeds x orders, each in a process of its own, here or on a Ray cluster.

A grid is expanded into jobs; a job is what `cpbench run --config` reads, and is written beside its log, so that one that
failed can be tried by hand. Scheduling is a thread pool's here, and Ray's on a cluster. Runs are resumed by themselves
(runner.py), so a sweep that was stopped is started again with the same words.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from cpbench import config, results, sequences
from cpbench.errors import UserError, near
from cpbench.progress import span

LOG_EVERY_SECONDS = 60.0
PATIENCE_SECONDS = 60.0  # a run that Ray starts again waits so long for its folder: its first process may be dying
LOST = 1
RETRIES = 3  # Ray's, of a run whose worker or node is gone
MINIATURE_BYTES = 1_500_000_000  # memory of one run on the miniature, with torch and all
OTHERS_BYTES = 8_000_000_000
AXES = ("methods", "sequences", "backbones", "seeds", "orders")


class Grid(BaseModel):
    """What to run. A method may have settings behind it: "raretoken adapter=lora". `common` is for all runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    methods: tuple[str, ...] = Field(min_length=1)
    sequences: tuple[str, ...] = Field(min_length=1)
    backbones: tuple[str, ...] = Field(("miniature",), min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    orders: tuple[int, ...] = Field((0,), min_length=1)
    common: dict[str, Any] = {}


@dataclass(frozen=True)
class Job:
    """One run: its name here, and what it is given."""

    name: str
    given: dict[str, Any]


@dataclass
class Places:
    """Where a sweep keeps its own files: jobs, logs and how far each run is."""

    output: Path

    def file(self, job: Job, ending: str) -> Path:
        return self.output / "sweep" / f"{job.name}.{ending}"


@dataclass
class Outcome:
    """How a job ended: the exit code of its run, negative for a signal, None where it was never started."""

    code: int | None
    seconds: float = 0.0


def asked_for(
    grid: str | None,
    axes: dict[str, list[Any] | None],
    config_file: Path | None,
    settings: tuple[str, ...],
    given: dict[str, Any],
) -> tuple[Grid, Path]:
    """(grid, output folder): the command line's axes over the grid file's; `given` over --config over its `common`."""
    values = read_grid(grid) if grid else {}
    values |= {axis: chosen for axis, chosen in axes.items() if chosen}
    for axis in ("methods", "sequences"):
        if not values.get(axis):
            raise UserError(f"--{axis} is missing; name some, or a --grid that has them")
    common = values.get("common") or {}
    if not isinstance(common, dict):
        raise UserError(f"grid {grid}: common: must be a mapping of settings that all runs share")
    common = common | (config.read_config_file(config_file) if config_file else {})
    common |= {key: value for key, value in given.items() if value is not None}
    for axis in AXES:
        if axis[:-1] in common:
            raise UserError(f"{axis[:-1]}: is no setting that all runs of a sweep share; use --{axis}")
    own, evaluation = config.split_settings(config.parse_settings(settings))
    for part, more in (("options", own), ("evaluation", evaluation)):
        if more:
            common[part] = {**common.get(part, {}), **more}
    common.setdefault("overlap", False)  # there are other runs for the cores
    output = Path(common.pop("output", config.DEFAULT_OUTPUT))
    return config.validated(Grid, values | {"common": common}, "grid"), output


def read_grid(name: str) -> dict[str, Any]:
    """A grid by its built-in name, or from a YAML file."""
    known = {f.name.removesuffix(".yaml"): f for f in (sequences._tasks() / "sweeps").iterdir()}
    path = known.get(name) or Path(name)
    if name not in known and not path.is_file():
        raise near(name, sorted(known), "grid", "A path to a YAML file does as well.")
    given = sequences._read(path, name)
    if not isinstance(given, dict):
        raise UserError(f"grid {name}: must be a mapping with the keys {', '.join(AXES)} and common")
    return given


def jobs_of(grid: Grid) -> list[Job]:
    """Every combination, checked: UserError for the first that `cpbench run` would refuse for its names or options."""
    jobs = []
    axes = (grid.sequences, grid.backbones, grid.orders, grid.seeds, grid.methods)
    for sequence, backbone, order, seed, words in itertools.product(*axes):
        method, *settings = words.split()
        own, evaluation = config.split_settings(config.parse_settings(tuple(settings)))
        given = {
            **grid.common,
            "method": method,
            "sequence": sequence,
            "backbone": backbone,
            "seed": seed,
            "order": order,
        }
        given["options"] = {**grid.common.get("options", {}), **own}
        given["evaluation"] = {**grid.common.get("evaluation", {}), **evaluation}
        config.resolve(given)
        sequences.load(sequence)
        name = f"{Path(sequence).stem}-{Path(backbone).name}-{'-'.join([Path(method).stem, *settings])}-order{order}-seed{seed}"
        jobs.append(Job("".join(c if c.isalnum() or c in "-_.=" else "_" for c in name), given))
    if twice := {j.name for j in jobs if sum(j.name == k.name for k in jobs) > 1}:
        raise UserError(f"sweep: {sorted(twice)[0]} occurs twice; leave one out")
    return jobs


# One job


def work(given: dict[str, Any], progress: Path, threads: int, copy_to: str | None, patience: float) -> int:
    """Do one run in this process. Returns its exit code; what it has to say goes to standard output."""
    import torch

    from cpbench.runner import execute

    torch.set_num_threads(threads)
    try:
        run = execute(*config.resolve(given), patience=patience, progress=progress)
        if copy_to:
            print(f"copied to {copy(run.folder, run.config.output, copy_to)}")
    except UserError as error:
        print(f"cpbench: {error}")
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        traceback.print_exc(file=sys.stdout)
        return 1
    return 0


def copy(folder: Path, output: Path, url: str) -> str:
    """Copy a run folder to any fsspec URL, below its path in `output`; run.json last, which makes it count."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(url)
    target = f"{root.rstrip('/')}/{folder.relative_to(output).as_posix()}"
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(".")]
    for file in sorted(files, key=lambda f: f.name == "run.json"):
        there = f"{target}/{file.relative_to(folder).as_posix()}"
        fs.makedirs(there.rpartition("/")[0], exist_ok=True)
        fs.put_file(str(file), there)
    return target


# Engines: each starts jobs as there is room, and yields outcomes by future


@dataclass
class Room:
    """How many runs at once, and what each gets."""

    jobs: int
    threads: int = 1
    gpus_per_run: float = 1.0
    gpus: list[str] = field(default_factory=list)  # a slot a run: the number of its GPU; empty on CPUs


def room(grid: Grid, jobs: int | None, threads: int, gpus_per_run: float) -> Room:
    """As many runs at once as cores, memory or GPUs allow."""
    import psutil
    import torch

    device = str(grid.common.get("device", "auto"))
    if device in ("auto", "cuda") and torch.cuda.is_available():
        each = max(1, int(1 / gpus_per_run))
        slots = [str(n) for _ in range(each) for n in range(torch.cuda.device_count())]
        return Room(min(jobs or len(slots), len(slots)), threads, gpus_per_run, slots)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    need = max(MINIATURE_BYTES if b == "miniature" else OTHERS_BYTES for b in grid.backbones)
    fit = min(cores // threads, psutil.virtual_memory().available // need)
    return Room(jobs or max(1, fit), threads)


class Local:
    """One process a run, `room.jobs` at a time, each with its threads and its GPU."""

    def __init__(self, places: Places, room: Room, copy_to: str | None):
        self.places, self.room, self.copy_to = places, room, copy_to
        self.words = f"{room.jobs} at a time with {room.threads} thread{'s' * (room.threads > 1)} each"
        self.pool = ThreadPoolExecutor(room.jobs)
        self.slots: queue.SimpleQueue[str] = queue.SimpleQueue()
        for slot in room.gpus:
            self.slots.put(slot)
        self.running: dict[str, subprocess.Popen] = {}
        self.stopped = False

    def submit(self, job: Job) -> Future:
        return self.pool.submit(self._run, job)

    def _run(self, job: Job) -> Outcome:
        if self.stopped:
            return Outcome(None)
        began, threads = time.monotonic(), str(self.room.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
        gpu = self.slots.get() if self.room.gpus else None
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        words = [
            str(self.places.file(job, "yaml")),
            str(self.places.file(job, "progress")),
            threads,
            self.copy_to or "",
        ]
        try:
            with self.places.file(job, "log").open("w") as log:
                command = [sys.executable, "-m", "cpbench.sweep", *words]
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
                process.send_signal(signal.SIGINT)
        self.pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        self.pool.shutdown()


class OnRay:
    """A Ray task a run: Ray finds the node, gives the GPU, and starts again what a dead worker or node took with it."""

    def __init__(self, places: Places, room: Room, copy_to: str | None, address: str | None):
        try:
            import ray
        except ImportError:
            raise UserError("engine ray: is not installed; pip install 'cpbench[ray]'") from None
        self.ray, self.places, self.room, self.copy_to = ray, places, room, copy_to
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=None)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"engine ray: no cluster at {address} ({error}); start one with `ray start --head`"
                ) from None
        gpus = room.gpus_per_run if ray.cluster_resources().get("GPU") else 0
        self.words = f"on Ray: {len(ray.nodes())} nodes, {ray.cluster_resources().get('CPU', 0):.0f} CPUs"
        # max_calls: a new process for every run, so that none inherits another's memory
        how = {"num_cpus": room.threads, "num_gpus": gpus, "max_retries": RETRIES, "max_calls": 1}
        self.task = ray.remote(**how)(_on_a_worker)
        self.refs: list[Any] = []

    def submit(self, job: Job) -> Future:
        files = [str(self.places.file(job, ending).absolute()) for ending in ("log", "progress")]
        self.refs.append(self.task.remote(job.given, *files, self.room.threads, self.copy_to))
        return self.refs[-1].future()

    def stop(self) -> None:
        for ref in self.refs:
            self.ray.cancel(ref, force=True)
        self.close()

    def close(self) -> None:
        self.ray.shutdown()


def _on_a_worker(given: dict[str, Any], log: str, progress: str, threads: int, copy_to: str | None) -> Outcome:
    """What a Ray worker does."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)  # before torch is imported
    began = time.monotonic()
    with open(log, "a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = work(given, Path(progress), threads, copy_to, PATIENCE_SECONDS)
    return Outcome(code, time.monotonic() - began)


# The whole


def start(
    grid: Grid,
    output: Path,
    engine: str,
    address: str | None,
    jobs: int | None,
    threads: int,
    gpus_per_run: float,
    copy_to: str | None,
) -> int:
    """Run a grid on the engine of this name. Returns the exit code, see `sweep`."""
    how = room(grid, jobs, threads, gpus_per_run)
    if engine == "local" and address:
        raise UserError("--address is a Ray cluster's; add --engine ray")
    if engine == "ray":
        return sweep(grid, output, lambda places: OnRay(places, how, copy_to, address))
    return sweep(grid, output, lambda places: Local(places, how, copy_to))


def sweep(grid: Grid, output: Path, engine: Callable[[Places], Local | OnRay]) -> int:
    """Run everything; one that fails stops none of the others. Returns the exit code.

    0: all finished; 1: none did; 3: some did not; 130: interrupted.
    """
    jobs, places = jobs_of(grid), Places(output)
    results.prepare_folder(output / "sweep")
    for job in jobs:
        for ending in ("log", "progress"):
            places.file(job, ending).unlink(missing_ok=True)
        given = {**job.given, "output": str(output)}
        results.write_atomically(places.file(job, "yaml"), yaml.safe_dump(given).encode())
    at_work = engine(places)
    print(f"{len(jobs)} runs, {at_work.words}; logs in {output / 'sweep'}", flush=True)
    try:
        futures = {
            job.name: at_work.submit(Job(job.name, {**job.given, "output": str(output.absolute())})) for job in jobs
        }
        with contextlib.suppress(KeyboardInterrupt):
            follow(jobs, futures, places)
        if waiting := [f for f in futures.values() if not f.done()]:
            at_work.stop()
            print(f"interrupted with {len(waiting)} runs to do; the same command goes on from the last whole tasks")
            return 130
    finally:
        at_work.close()
    outcomes = {name: _outcome(future) for name, future in futures.items()}
    for line in summary(jobs, outcomes, places):
        print(line)
    failed = sum(o.code != 0 for o in outcomes.values())
    return 0 if not failed else 1 if failed == len(jobs) else 3


def _outcome(future: Future) -> Outcome:
    if future.cancelled():
        return Outcome(None)
    if future.exception() is not None:  # Ray's, for a worker that died more often than it was started again
        return Outcome(LOST)
    return future.result()


def follow(jobs: list[Job], futures: dict[str, Future], places: Places) -> None:
    """Say how each run is doing until all are done: a live table on a terminal, a line a minute in a log."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    if console.is_terminal:
        with Live(table(jobs, futures, places), console=console, refresh_per_second=2) as live:
            while not all(f.done() for f in futures.values()):
                time.sleep(0.5)
                live.update(table(jobs, futures, places))
            live.update(table(jobs, futures, places))
        return
    told, last = set(), time.monotonic()
    while not all(f.done() for f in futures.values()):
        time.sleep(0.2)
        for job in jobs:
            if futures[job.name].done() and job.name not in told:
                told.add(job.name)
                print(f"{job.name}: {state(_outcome(futures[job.name]))}", flush=True)
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            for job in jobs:
                if job.name not in told and (now := results.read_json(places.file(job, "progress"))):
                    print(f"{job.name}: {now['stage']}, {now['share']:.0%}, about {span(now['left'])} left", flush=True)


def table(jobs: list[Job], futures: dict[str, Future], places: Places) -> Any:
    """A row a run: its state, its task, and the time it has left."""
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("run", "state", "task", "left"):
        shown.add_column(head)
    for job in jobs:
        future, now = futures[job.name], results.read_json(places.file(job, "progress"))
        if future.done():
            shown.add_row(job.name, state(_outcome(future)), "", "")
        elif now:
            shown.add_row(job.name, f"running, {now['share']:.0%}", now["stage"], span(now["left"]))
        else:
            shown.add_row(job.name, "starting" if places.file(job, "log").exists() else "waiting", "", "")
    return shown


def state(outcome: Outcome) -> str:
    if outcome.code == 0:
        return f"finished in {span(outcome.seconds)}"
    if outcome.code is None:
        return "missing: never started"
    if outcome.code < 0:
        return f"failed: killed by signal {-outcome.code}"
    return f"failed with exit code {outcome.code}"


def summary(jobs: list[Job], outcomes: dict[str, Outcome], places: Places) -> Iterator[str]:
    """How many finished; of each that did not, why, and where it says more."""
    bad = [job for job in jobs if outcomes[job.name].code != 0]
    yield f"{len(jobs) - len(bad)} of {len(jobs)} runs finished"
    for job in bad:
        log = places.file(job, "log")
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        yield f"{job.name}: {state(outcomes[job.name])}{': ' + lines[-1] if lines else ''} (log: {log})"
    if bad:
        yield "the same command goes on from the last whole tasks"


# What would be done


@dataclass(frozen=True)
class Outlook:
    """What a job would come to: whether it is finished already, UNet evaluations to learn and at most to draw."""

    job: Job
    finished: bool
    learning: int
    drawing: int
    seconds: float | None  # of an earlier run of the same method, sequence and backbone, whatever its seed and order


def outlook(grid: Grid, output: Path) -> list[Outlook]:
    """For --dry-run: nothing is loaded or started; finished runs are known by what their run.json says."""
    from cpbench.leaderboard import finished_runs
    from cpbench.runner import code_hash, drawing_of

    there = [record for _, record in finished_runs(output)] if output.is_dir() else []
    found = []
    for job in jobs_of(grid):
        chosen, kind, options = config.resolve(job.given)
        seq = sequences.load(chosen.sequence)
        sampler, per_prompt = drawing_of(chosen, seq)
        wanted = chosen.model_dump(mode="json") | {"output": None, "device": "", "overlap": None}
        alike = [r for r in there if _same(r["config"], wanted, ("seed", "order"))]
        same = [r for r in alike if _same(r["config"], wanted, ()) and r["facts"]["code"] == code_hash(kind)]
        same = [r for r in same if r["facts"]["sequence"] == sequences.content_hash(seq)]
        seconds = [sum(v for c in r["costs"].values() for k, v in c.items() if k.endswith("_seconds")) for r in alike]
        learning = sum(kind(options).unet_evaluations(t) for t in range(1, len(seq.concepts) + 1))
        cells = [sampler.evaluations(len(seq.evaluation.prompts[c.kind]) * per_prompt) for c in seq.concepts]
        rows = {0, len(cells), *(range(len(cells) + 1) if chosen.rows is None else chosen.rows)}
        drawing = sum(sum(cells[:t]) if t else sum(cells) for t in rows)
        found.append(Outlook(job, bool(same), learning, drawing, sum(seconds) / len(seconds) if seconds else None))
    return found


def dry_run(grid: Grid, output: Path) -> Iterator[str]:
    """The outlook as a person reads it."""
    found = outlook(grid, output)
    width = max(len(o.job.name) for o in found)
    for o in found:
        cost = f"{o.learning:>9,} UNet evaluations to learn, {o.drawing:>9,} at most to draw"
        before = f", about {span(o.seconds)} as before" if o.seconds else ""
        yield f"{o.job.name:{width}}  {'finished' if o.finished else f'{cost}{before}'}"
    left = [o for o in found if not o.finished]
    yield (
        f"{len(left)} of {len(found)} runs to do: {sum(o.learning for o in left):,} UNet evaluations to learn, "
        f"{sum(o.drawing for o in left):,} at most to draw"
    )


def _same(theirs: dict[str, Any], wanted: dict[str, Any], but: tuple[str, ...]) -> bool:
    theirs = theirs | {"output": None, "device": "", "overlap": None}
    return all(theirs.get(k) == v for k, v in wanted.items() if k not in but)


def main(words: list[str]) -> int:
    """The process of one job: python -m cpbench.sweep JOB.yaml PROGRESS THREADS COPY_TO."""
    from cpbench.orphans import leave_with

    leave_with(os.getppid())
    job, progress, threads, copy_to = words
    return work(yaml.safe_load(Path(job).read_text()), Path(progress), int(threads), copy_to or None, 0.0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
