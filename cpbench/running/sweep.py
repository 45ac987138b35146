"""Many runs: methods x sequences x backbones x seeds x orders, one process per run, on this machine or on a Ray cluster.

A grid is expanded into jobs. A job is a file that `cpbench run --config FILE` reads, written next to its log, so that a failed
job can be repeated by hand. A thread pool schedules the jobs on this machine, Ray on a cluster. Runs resume by themselves
(runner.py), so the same command resumes a sweep that was stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from rich.text import Text

from cpbench import config, miniature, own_modules
from cpbench.concepts import held_out, sequences
from cpbench.errors import UserError, did_you_mean
from cpbench.files import prepare_folder, read_json, short_hash, write_atomically
from cpbench.fitted_table import FittedTable
from cpbench.metrics.scores import MAIN, title_of
from cpbench.numbers import number
from cpbench.output import console, say
from cpbench.records import recorded_paths
from cpbench.running import cells, counting, gpu_sharing, stopping
from cpbench.running.engines import (
    COPY_FAILED,
    LOST,
    Job,
    Local,
    OnRay,
    Outcome,
    Resources,
    SweepPaths,
    check_target,
    resources_for,
)
from cpbench.running.progress import span
from cpbench.validation import validated
from cpbench.yaml_files import read_yaml

if TYPE_CHECKING:
    from cpbench.method import Method
    from cpbench.records.record import Record

LOG_EVERY_SECONDS = 60.0
WITHOUT_SCORES = {"output": None, "device": "", "overlap": None, "compile": "auto"}  # settings that change no score
AXES = ("methods", "sequences", "backbones", "seeds", "orders")
MOST_JOBS = 10_000
LONGEST_NAME = 200  # bytes; a job's files have its name


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Number = Annotated[int, Field(ge=0)]


class Grid(BaseModel):
    """The axes of a sweep. Settings may follow a method's name: "raretoken adapter=lora". `common` applies to all runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    methods: tuple[Name, ...] = Field(min_length=1)
    sequences: tuple[Name, ...] = Field(min_length=1)
    backbones: tuple[Name, ...] = Field((miniature.NAME,), min_length=1)
    seeds: tuple[Number, ...] = Field((0,), min_length=1)
    orders: tuple[Number, ...] = Field((0,), min_length=1)
    common: dict[str, Any] = {}


def grid_from(
    grid: str | None,
    axes: dict[str, list[Any] | None],
    config_file: Path | None,
    settings: tuple[str, ...],
    overrides: dict[str, Any],
) -> tuple[Grid, Path]:
    """(grid, output folder).

    Axes on the command line override the grid file's; `overrides` override --config, which overrides the grid's `common`.
    """
    source = f"grid {grid}" if grid else "sweep"
    values = read_grid(grid) if grid else {}
    values |= {axis: values_on_axis for axis, values_on_axis in axes.items() if values_on_axis}
    for axis in ("methods", "sequences"):
        if not values.get(axis):
            raise UserError(f"--{axis} is missing; pass it, or a --grid that has it")
    checked_grid = validated(Grid, values, source)
    config.checked(config.ANY_RUN | checked_grid.common, f"{source}: common")
    common = config.with_rows_in_evaluation(checked_grid.common)
    common |= config.with_rows_in_evaluation(config.read_config_file(config_file)) if config_file else {}
    common |= {key: value for key, value in overrides.items() if value is not None}
    common = config.with_rows_in_evaluation(common)
    for axis in AXES:
        if axis[:-1] in common:
            raise UserError(f"{axis[:-1]}: is an axis of the sweep, not a common setting; use --{axis}")
    common = config.with_settings(common, settings)
    output = config.checked(config.ANY_RUN | common, "sweep").output
    common.pop("output", None)
    common.setdefault("overlap", False)  # other runs use the cores
    return checked_grid.model_copy(update={"common": common}), output


def read_grid(name: str) -> dict[str, Any]:
    """A grid by its built-in name, or from a YAML file; without keys whose value is null."""
    built_in = {f.name.removesuffix(".yaml"): f for f in (sequences.tasks_folder() / "sweeps").iterdir()}
    if name not in built_in and not os.path.isfile(name):
        raise did_you_mean(name, sorted(built_in), "grid", "A path to a YAML file does as well.")
    values = read_yaml(built_in.get(name) or Path(name), f"grid {name}")
    if not isinstance(values, dict):
        validated(Grid, values, f"grid {name}")  # raises: it must be a mapping
    return {key: value for key, value in values.items() if value is not None}


def jobs_of(grid: Grid) -> list[Job]:
    """All combinations. UserError for the first whose names or options `cpbench run` would refuse."""
    axes = (grid.sequences, grid.backbones, grid.orders, grid.seeds, grid.methods)
    if (count := math.prod(map(len, axes))) > MOST_JOBS:
        raise UserError(f"sweep: {count:,} runs are more than {MOST_JOBS:,}; split it into several sweeps")
    jobs: dict[str, Job] = {}
    for sequence, backbone, order, seed, words in itertools.product(*axes):
        method, *method_settings = words.split()
        job_settings = {
            "options": {},
            "evaluation": {},
            **grid.common,
            "method": method,
            "sequence": sequence,
            **(
                {"backbone": backbone} if "backbones" in grid.model_fields_set else {}
            ),  # only if named: else `common` decides
            "seed": seed,
            "order": order,
        }
        job_settings = config.with_settings(job_settings, tuple(method_settings))
        run_config, _, _ = config.resolve(job_settings)
        cells.whole_rows(run_config, len(sequences.load(sequence).concepts))
        name = f"{Path(sequence).stem}-{Path(backbone).name}-{'-'.join([Path(method).stem, *method_settings])}-order{order}-seed{seed}"
        name = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in name)
        if len(name.encode()) > LONGEST_NAME:
            name = f"{name[:40]}-{short_hash(job_settings)}"
        if name in jobs:
            raise UserError(f"sweep: {name} occurs twice; remove one")
        jobs[name] = Job(name, job_settings)
    return list(jobs.values())


# Running


def start(
    grid: Grid,
    output: Path,
    engine: str,
    address: str | None,
    jobs: int | None,
    threads: int,
    gpus_per_run: float | Literal["auto"],
    copy_to: str | None,
) -> int:
    """Run a grid on the engine of this name. Returns the exit code, see `sweep`.

    gpus_per_run: the share of a GPU that each run gets, or "auto", by the memory that the runs need.
    """
    device = str(grid.common.get("device", "auto"))
    if engine == "local" and address:
        raise UserError("--address is for Ray clusters only; add --engine ray")
    if engine == "ray" and ":" in device:
        raise UserError(f"--device {device}: Ray chooses each run's GPU; leave out ':{device.partition(':')[2]}'")
    if copy_to:
        check_target(copy_to)
    settings = settings_to_rehearse(grid, output) if gpus_per_run == "auto" and device != "cpu" else []
    if engine == "ray":
        number_given = 1.0 if gpus_per_run == "auto" else gpus_per_run
        resources = Resources(len(grid.methods), threads, 0.0 if device == "cpu" else number_given, rehearsed=settings)
        return sweep(grid, output, lambda paths: OnRay(paths, resources, copy_to, address))
    share = automatic_share(device, settings, jobs, threads) if gpus_per_run == "auto" else gpus_per_run
    resources = resources_for(device, grid.backbones, jobs, threads, share)
    return sweep(grid, output, lambda paths: Local(paths, resources, copy_to))


def settings_to_rehearse(grid: Grid, output: Path) -> list[dict[str, Any]]:
    """The settings of the runs that are not finished."""
    return [{**e.job.settings, "output": str(output)} for e in estimate_jobs(grid, output) if not e.is_finished]


def automatic_share(device: str, settings: list[dict[str, Any]], jobs: int | None, threads: int) -> float:
    """The share of this machine's GPUs that each run gets, by memory, cores and the number of runs at once that was given."""
    from cpbench.running.devices import pick_device, visible_gpus

    picked = pick_device(device)
    if not picked.startswith("cuda"):
        return 1.0
    gpus = len(visible_gpus()) if picked == "cuda" else 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = -(-min(cores // threads, jobs or MOST_JOBS) // gpus)
    return gpu_sharing.share_of(gpu_sharing.runs_per_gpu(settings, max(1, most), gpu_sharing.measured_apart))


def sweep(grid: Grid, output: Path, engine: Callable[[SweepPaths], Local | OnRay]) -> int:
    """Run all jobs; a failed one does not stop the others. Returns the exit code.

    0: all finished; 1: none finished; 3: some did not finish; 130, 143 or 129: stopped by a signal.
    """
    jobs, paths = jobs_of(grid), SweepPaths(output)
    prepare_folder(output / "sweep")
    for job in jobs:
        for ending in ("log", "progress"):
            paths.file(job, ending).unlink(missing_ok=True)
        settings = {**job.settings, "output": str(output)}
        write_atomically(paths.file(job, "yaml"), yaml.safe_dump(settings).encode())
    running_engine = engine(paths)
    say(f"{len(jobs)} runs, {running_engine.words}; logs in {output / 'sweep'}")
    futures: dict[str, Future] = {}
    try:
        with contextlib.suppress(KeyboardInterrupt):
            for job in jobs:
                settings = {**job.settings, "output": str(output.absolute())}
                futures[job.name] = running_engine.submit(Job(job.name, settings))
            follow(jobs, futures, paths)
        if waiting := [job for job in jobs if job.name not in futures or not futures[job.name].done()]:
            running_engine.stop()
            say(
                f"stopped by {stopping.signal_name()} with {len(waiting)} runs left; "
                "the same command resumes after the last complete tasks"
            )
            return stopping.exit_code()
    finally:
        running_engine.close()
    outcomes = {name: _outcome(future) for name, future in futures.items()}
    say(outcome_table(jobs, outcomes, output))
    for line in outcome_lines(jobs, outcomes, paths):
        say(line)
    failed = sum(o.code != 0 for o in outcomes.values())
    return 0 if not failed else 1 if failed == len(jobs) else 3


def _outcome(future: Future) -> Outcome:
    if future.cancelled():
        return Outcome(None)
    if future.exception() is not None:  # Ray's, for a worker that died more often than Ray restarts it
        return Outcome(LOST)
    return future.result()


def follow(jobs: list[Job], futures: dict[str, Future], paths: SweepPaths) -> None:
    """Report each run's progress until all are done: a live table on a terminal, lines per minute in a log."""
    from rich.live import Live

    terminal = console()
    if terminal is not None and terminal.is_terminal:
        with Live(table(jobs, futures, paths), console=terminal, refresh_per_second=2, transient=True) as live:
            while not all(f.done() for f in futures.values()):
                time.sleep(0.5)
                live.update(table(jobs, futures, paths))
        return
    reported, last = set(), time.monotonic()
    while not all(f.done() for f in futures.values()):
        time.sleep(0.2)
        for job in jobs:
            if futures[job.name].done() and job.name not in reported:
                reported.add(job.name)
                say(f"{job.name}: {state(_outcome(futures[job.name]))}")
        if time.monotonic() - last >= LOG_EVERY_SECONDS:
            last = time.monotonic()
            for job in jobs:
                if job.name not in reported and (progress := read_json(paths.file(job, "progress"))):
                    say(
                        f"{job.name}: {progress['stage']}, {progress['share']:.0%}, about {span(progress['left'])} left"
                    )
            say(overall(jobs, futures, paths))


def overall(jobs: list[Job], futures: dict[str, Future], paths: SweepPaths) -> str:
    """How many runs have ended, and the time left in all, in one line."""
    outcomes = [_outcome(f) for f in futures.values() if f.done()]
    waiting = [job for job in jobs if not futures[job.name].done()]
    progress = [p for job in waiting if (p := read_json(paths.file(job, "progress")))]
    seconds = time_left([o.seconds for o in outcomes if o.code == 0], progress, len(waiting) - len(progress))
    about = f", about {span(seconds)} left in all" if seconds is not None else ", time left not known yet"
    return f"{len(outcomes)} of {len(jobs)} runs ended{about if waiting else ''}"


def time_left(seconds: list[float], progress: list[dict[str, Any]], waiting: int) -> float | None:
    """Seconds until all runs have ended, if as many run at once as now; None if nothing tells.

    seconds: of the finished runs; progress: of those that run, {"share": done, "left": seconds or None}; waiting: runs that
    have not started. A run that has not started is expected to take as long as the others on average.
    """
    estimates = [p for p in progress if p["left"] is not None]
    whole = [*seconds, *(p["left"] / (1 - p["share"]) for p in estimates if p["share"] < 1)]
    unknown = len(progress) - len(estimates) + waiting
    if not whole and unknown:
        return None
    mean = sum(whole) / len(whole) if whole else 0.0
    lefts = [p["left"] for p in estimates]
    return max([(sum(lefts) + unknown * mean) / max(len(progress), 1), *lefts])


def table(jobs: list[Job], futures: dict[str, Future], paths: SweepPaths) -> FittedTable:
    """One row per run: its state, its task, and its remaining time. The title has the time left in all, and runs at work come
    first: a terminal shows no more rows than it has."""
    title = overall(jobs, futures, paths)
    rich_table = FittedTable(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), drop=("task", "left"))
    for head in ("run", "state", "task", "left"):
        rich_table.add_column(head, no_wrap=head == "run")
    running, pending = [], []
    for job in jobs:
        future, progress = futures[job.name], read_json(paths.file(job, "progress"))
        if future.done():
            pending.append((job.name, state(_outcome(future)), "", ""))
        elif progress:
            running.append((job.name, f"running, {progress['share']:.0%}", progress["stage"], span(progress["left"])))
        else:
            pending.append((job.name, "starting" if paths.file(job, "log").exists() else "waiting", "", ""))
    for row in (*running, *pending):
        rich_table.add_row(*map(Text, row))
    return rich_table


def outcome_table(jobs: list[Job], outcomes: dict[str, Outcome], output: Path) -> FittedTable:
    """One row per run: how it ended, and its final score if it is finished."""
    scores = final_scores(jobs, output)
    score = f"{title_of(MAIN)} final"
    rich_table = FittedTable(box=None, padding=(0, 2, 0, 0), drop=(score,))
    rich_table.add_column("run", no_wrap=True)
    rich_table.add_column("state")
    rich_table.add_column(score, justify="right", no_wrap=True)
    for job in jobs:
        rich_table.add_row(Text(job.name), state(outcomes[job.name]), number(scores.get(job.name)))
    return rich_table


def final_scores(jobs: list[Job], output: Path) -> dict[str, float | None]:
    """By job the final average of the main score, of those that are finished."""
    runs, scores = recorded_runs(output), {}
    for job in jobs:
        run_config, method_class, _ = config.resolve(job.settings)
        seq = sequences.load(run_config.sequence)
        settings, identity = settings_of(run_config, seq), run_identity(method_class, seq)
        run = next((r for r in runs if r.is_of(settings, identity)), None)
        if run is not None:
            scores[job.name] = run.record.figures.get(MAIN, {}).get("final_average")
    return scores


def state(outcome: Outcome) -> str:
    if outcome.code == 0:
        return f"finished in {span(outcome.seconds)}"
    if outcome.code is None:
        return "missing: never started"
    if outcome.code == LOST:
        return "failed: its worker was lost"
    if outcome.code in [128 + number for number in stopping.SIGNALS]:
        return "stopped"
    if outcome.code == COPY_FAILED:
        return "finished, but not copied"
    if outcome.code < 0:
        return f"failed: killed by signal {-outcome.code}"
    return f"failed with exit code {outcome.code}"


def outcome_lines(jobs: list[Job], outcomes: dict[str, Outcome], paths: SweepPaths) -> Iterator[str]:
    """The number of finished runs; for each other run the reason and its log."""
    bad = [job for job in jobs if outcomes[job.name].code != 0]
    finished = sum(outcomes[job.name].code in (0, COPY_FAILED) for job in jobs)
    yield f"{finished} of {len(jobs)} runs finished"
    for job in bad:
        log = paths.file(job, "log")
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        yield f"{job.name}: {state(outcomes[job.name])}{': ' + lines[-1] if lines else ''} (log: {log})"
    if bad:
        yield "the same command resumes after the last complete tasks"


# Dry run


@dataclass(frozen=True)
class JobEstimate:
    """Estimated cost of a job: whether it is finished already, evaluations of learning, and at most of generation.

    learning: None if not counted yet; `cpbench plan` and every run count them.
    """

    job: Job
    is_finished: bool
    learning: int | None
    generation: int
    seconds: float | None  # mean of earlier runs that differ at most in seed and order


def estimate_jobs(grid: Grid, output: Path) -> list[JobEstimate]:
    """For --dry-run: nothing is loaded or started; finished runs are recognised by their run.json."""
    from cpbench.running.prepare import generation_settings

    runs = recorded_runs(output) if output.is_dir() else []
    estimates = []
    for job in jobs_of(grid):
        run_config, method_class, options = config.resolve(job.settings)
        seq = sequences.load(run_config.sequence)
        sampler, per_prompt = generation_settings(run_config, seq)
        settings = settings_of(run_config, seq)
        similar = [r for r in runs if r.agrees(settings, ("seed", "order"))]
        same = any(r.is_of(settings, run_identity(method_class, seq)) for r in similar)
        seconds = [sum(cost.seconds for cost in r.record.costs.values()) for r in similar]
        picture_counts = {
            c.name: held_out.number_to_learn(c, run_config.backbone, run_config.evaluation.held_out, run_config.data)
            for c in seq.concepts
        }
        counts = counting.remembered_counts(
            counting.key_of(method_class, run_config.options, run_config.backbone, picture_counts)
        )
        learning = sum(counts) if counts is not None else None
        rows = cells.rows_of(run_config, len(seq.concepts))
        pictures = sum(cell.pictures for t in rows for cell in cells.cells_of(run_config, seq, t, per_prompt))
        generation = sampler.evaluations(pictures)
        estimates.append(JobEstimate(job, same, learning, generation, sum(seconds) / len(seconds) if seconds else None))
    return estimates


def dry_run_table(estimates: list[JobEstimate]) -> FittedTable:
    """A line per run: whether it is finished, or what it would cost."""
    table = FittedTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, drop=("as before", "to generate, at most"))
    table.add_column("run", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for head in ("to learn", "to generate, at most", "as before"):
        table.add_column(head, justify="right")
    for e in estimates:
        learning = f"{e.learning:,} evaluations" if e.learning is not None else "not counted yet"
        costs = (learning, f"{e.generation:,} evaluations", span(e.seconds) if e.seconds else "-")
        table.add_row(
            Text(e.job.name), "finished" if e.is_finished else "to do", *(("", "", "") if e.is_finished else costs)
        )
    return table


def dry_run_total(estimates: list[JobEstimate]) -> str:
    """What all runs that are not finished would cost, in one line."""
    unfinished = [e for e in estimates if not e.is_finished]
    uncounted = sum(e.learning is None for e in unfinished)
    more = f" (of {uncounted} not counted yet; `cpbench plan` counts)" if uncounted else ""
    return (
        f"{len(unfinished)} of {len(estimates)} runs to do: {sum(e.learning or 0 for e in unfinished):,} UNet evaluations to learn{more}, "
        f"{sum(e.generation for e in unfinished):,} at most to generate"
    )


def dry_run_facts(estimates: list[JobEstimate]) -> list[dict[str, Any]]:
    """The same for JSON; null is what is not known yet."""
    return [
        {
            "name": e.job.name,
            "settings": {key: str(v) if isinstance(v, Path) else v for key, v in e.job.settings.items()},
            "is_finished": e.is_finished,
            "learning_evaluations": e.learning,
            "generation_evaluations_at_most": e.generation,
            "seconds_as_before": e.seconds,
        }
        for e in estimates
    ]


def settings_of(run_config: config.RunConfig, seq: sequences.Sequence) -> dict[str, Any]:
    """A run's settings as its record has them, paths too, without those that change no score."""
    settings = run_config.model_dump(mode="json")
    paths = recorded_paths.absolute_paths(settings, seq.concepts)
    return without_usual_evaluation(recorded_paths.with_paths(settings, paths) | WITHOUT_SCORES)


def without_usual_evaluation(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of the evaluation that are not the usual ones: an older record has not all of today's."""
    usual = {name: field.default for name, field in config.EvaluationChoices.model_fields.items()}
    evaluation = settings.get("evaluation") or {}
    return settings | {"evaluation": {k: v for k, v in evaluation.items() if k not in usual or v != usual[k]}}


def run_identity(method_class: type[Method], seq: sequences.Sequence) -> dict[str, Any]:
    """The facts of a run that tell which code and which sequence it is of."""
    return own_modules.identity(method_class) | {"sequence": sequences.content_hash(seq)}


@dataclass(frozen=True)
class RecordedRun:
    """A finished run, and its settings as they are found today."""

    record: Record
    settings: dict[str, Any]

    def agrees(self, settings: dict[str, Any], ignored: tuple[str, ...] = ()) -> bool:
        """Whether it has these settings, apart from those that are ignored."""
        return all(self.settings.get(k) == v for k, v in settings.items() if k not in ignored)

    def is_of(self, settings: dict[str, Any], identity: dict[str, Any]) -> bool:
        """Whether it has these settings, and was made by today's code."""
        return self.agrees(settings) and identity.items() <= self.record.facts.as_json().items()


def recorded_runs(output: Path) -> list[RecordedRun]:
    """The finished runs below a folder."""
    from cpbench.records.reading import finished_runs

    return [
        RecordedRun(record, without_usual_evaluation(recorded_paths.config_today(record, folder) | WITHOUT_SCORES))
        for folder, record in finished_runs(output)
    ]
