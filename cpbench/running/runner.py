"""The sequential runner: for every task learn, save, read back, generate every concept learned so far, judge.

Every task gets a new method object and a pristine backbone; only the state, read back from the bytes that are written, is
passed on. A task's state and pictures are written while its row is generated and judged; they are on disk before the row is
recorded and the next task starts, so a stopped run resumes from there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from pathlib import Path

from cpbench.concepts import images, photographs
from cpbench.config import ON_THE_MINIATURE, RunConfig
from cpbench.errors import RulesError
from cpbench.files import prepare_folder
from cpbench.judges import identity
from cpbench.method import Method, Options, State
from cpbench.miniature import is_miniature
from cpbench.output import say
from cpbench.records import curves, machine, measures_table, outcome_lines, tables, terminal
from cpbench.records.grid import retention_grid
from cpbench.running import collector, compilation, counting, measures, memory, receipts, rows, stopping
from cpbench.running.bookkeeping import (
    is_finished,
    record_of,
    remove_temporary,
    resume_point,
    run_lock,
    runs_of_other_versions,
    write_record,
    write_tables,
)
from cpbench.running.devices import few_threads
from cpbench.running.overlap import evaluate_in_worker, worker_process
from cpbench.running.prepare import Run, judges_for_measures, prepare
from cpbench.running.progress import Reporter
from cpbench.running.task import drop_state, learn_task
from cpbench.running.writing import Writer


def execute(
    config: RunConfig,
    method_class: type[Method],
    options: Options,
    patience: float = 0.0,
    progress: Path | None = None,
    request: RunConfig | None = None,
    verbose: bool = False,
) -> Run:
    """Run, or resume, one configuration to its end; a finished run is not changed.

    patience: see `run_lock`; progress: a file for the progress, which a sweep follows; request: the configuration before
    presets and defaults were filled in, for a receipt of the finished run; verbose: print the tables after every task, not
    only after the last.
    """
    prepare_folder(config.output)
    inputs = receipts.input_files(request) if request else None
    with collector.paused():
        run = prepare(config, method_class, options)
    record_of(run, "running")  # refuses what no record may hold, before the folder is made
    prepare_folder(run.folder)
    with run_lock(run.folder, patience):
        remove_temporary(run.folder)
        if is_finished(run):
            say(receipts.finished_line(run.folder))
            if request:
                receipts.keep(request, inputs, run)
            return run
        if run.at.record.exists():
            say(f"this run {resume_point(run)}")
        else:
            for line in runs_of_other_versions(run):
                say(line)
        run.backbone.compiled = compilation.compiled_forward(run)
        try:
            write_record(run, "running")
            with few_threads(run.backbone):
                _execute(run, progress, verbose)
            write_record(run, "finished")
        except BaseException as error:
            # for example a full disk: then the first error is the one to report
            with contextlib.suppress(OSError):
                record_end(run, error)
            if isinstance(error, SystemExit):
                raise RulesError(
                    f"it ended the program by sys.exit({error.code!r}); raise an error instead, or return"
                ) from error
            raise
        if request:
            receipts.keep(request, inputs, run)
    return run


def record_end(run: Run, error: BaseException) -> None:
    """Record that the run was stopped, or why it failed. To a stop is added from where the same command resumes."""
    if stopping.is_stopped(error):
        error.add_note(f"the same command {resume_point(run)}")
        write_record(run, "stopped", stopping.signal_name())
    else:  # SystemExit as well, which a method may raise
        write_record(run, "failed", memory.shortage_line(error) or f"{type(error).__name__}: {error}")


def _execute(run: Run, progress: Path | None, verbose: bool) -> None:
    concepts = run.sequence.concepts
    learning = sum(run.learning_work(t) for t in range(1, len(concepts) + 1))
    total = learning + sum(run.generation_work(t) for t in run.rows)
    title = f"{run.facts['method']} on {run.sequence.name}"
    with Reporter(title, total, progress) as reporter:
        are_drawn = images.are_rendered(concepts, run.config.backbone)
        source = "drawn stand-ins" if are_drawn else f"photographs in {photographs_folder(run)}"
        if not are_drawn and is_miniature(run.config.backbone):
            say(f"these are {ON_THE_MINIATURE}")
        say(
            f"{title}: {len(concepts)} concepts ({source}), backbone {run.backbone.name}, seed {run.config.seed}, order {run.config.order}"
        )
        say("judges: " + ", ".join(identity.title(judge.identity) for _, judge in sorted(run.judges.items())))
        say(f"folder: {run.folder}")
        for note in run.notes:
            say(f"note: {note}")
        state: State | None = State()
        with Writer(run.backbone.device) as writer, worker_process(run) as pool:
            queue = RowQueue(run, pool, reporter, writer, verbose)
            queue.make(0, None)
            for t in range(1, len(concepts) + 1):
                state = learn_task(run, t, state, reporter, writer)
                queue.make(t, state)
            queue.wait()
        for table in terminal.run_tables(run.folder, run.concepts, len(concepts)):
            say(table)
        say(terminal.cost_table(run.costs))
        notes = (
            machine.differences(run.made_on),
            counting.difference(run.counts, run.costs),
            compilation.cost_line(run.costs),
        )
        for line in filter(None, notes):
            say(line)
    measure(run)
    ornament(run.at.grid, lambda target: retention_grid(run.folder, run.concepts, target))
    ornament(run.at.curves, lambda target: curves.plot(run.folder, run.concepts, target))
    say(
        f"finished: {run.folder} (scores.csv, matrix-*.csv, measures.csv, identification.csv, grid.png, curves.png, run.json)"
    )
    if line := outcome_lines.verdict(tables.read_scores(run.at.scores), run.concepts):
        say(line)
    say(f"next: cpbench report {shlex.quote(str(run.folder))}")


def ornament(target: Path, make: Callable[[Path], None]) -> None:
    """Make a picture that nothing depends on; if that fails, the run is still finished, with a message."""
    try:
        make(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # nothing else can be written either
            raise
        say(f"{target.name} could not be made: {error}")
    except Exception as error:  # a picture library's errors have many types
        say(f"{target.name} could not be made: {type(error).__name__}: {error}")


class RowQueue:
    """Rows in progress: evaluated here at once, or in `pool` while the next task is learned; finished in order."""

    def __init__(self, run: Run, pool: Executor | None, reporter: Reporter, writer: Writer, verbose: bool = False):
        self.run, self.pool, self.reporter, self.writer, self.verbose = run, pool, reporter, writer, verbose
        self.waiting: dict[int, Future] = {}

    def make(self, t: int, state: State | None) -> None:
        if t not in self.run.rows:
            self.writer.wait()  # for the state
            say(
                f"task {t} of {len(self.run.concepts)}, {self.run.concepts[t - 1]}: learned; its row is left out (evaluation.rows)"
            )
            return
        if self.pool is None:
            self.finish(t, rows.evaluate_row(self.run, t, state, self.reporter, self.writer))
            return
        self.writer.wait()  # the other process reads the state from the disk
        try:
            self.waiting[t] = self.pool.submit(evaluate_in_worker, t)
        except BrokenExecutor:
            self.waiting[t] = broken_future()
        while self.waiting and next(iter(self.waiting.values())).done():
            self.collect(next(iter(self.waiting)))

    def wait(self) -> None:
        """Wait until every row is finished."""
        for t in list(self.waiting):
            self.reporter.at(f"waiting for row {t}")
            self.collect(t)

    def collect(self, t: int) -> None:
        future = self.waiting.pop(t)
        if isinstance(future.exception(), BrokenExecutor):
            if self.pool is not None:
                say(
                    "the second process, which generates the rows, was lost (killed, perhaps for memory): this one goes on alone"
                )
            self.pool = None
            state = self.run.load_state(t) if t else None
            self.finish(t, rows.evaluate_row(self.run, t, state, self.reporter, self.writer))
            return
        is_new, messages = future.result()
        for line in messages:
            say(line)
        self.reporter.advance(self.run.generation_work(t))
        self.finish(t, is_new)

    def finish(self, t: int, is_new: bool) -> None:
        """After row t: write the run's tables, drop earlier states that are not to be kept, and print what the task came to."""
        if t == 0:
            return
        write_tables(self.run, t)
        for before in range(max(1, *(row for row in self.run.rows if row < t)), t):
            drop_state(self.run, before)
        if not is_new:
            return
        say(outcome_lines.task_line(tables.read_scores(self.run.at.scores), self.run.concepts, t))
        if self.verbose and t < len(self.run.concepts):  # the last ones are printed at the end
            for table in terminal.run_tables(self.run.folder, self.run.concepts, t):
                say(table)


def broken_future() -> Future:
    """The future of a row that a lost process cannot take any more."""
    future: Future = Future()
    future.set_exception(BrokenExecutor())
    return future


def measure(run: Run) -> None:
    """Measures of the pictures beyond the matrices; prints a line for those that need more pictures."""
    cached_judges = judges_for_measures(run.folder, run.judges, run.backbone.device)
    partial = set(run.rows) - set(run.whole_rows)
    measurements = measures.measure(
        run.folder,
        run.sequence,
        run.rows,
        run.pictures_per_prompt,
        run.references,
        cached_judges,
        partial,
        training=run.images,
        are_drawn=images.are_rendered(run.sequence.concepts, run.config.backbone),
    )
    for judge in cached_judges.values():
        judge.save()
    measures_table.write(run.folder, measurements)
    for line in measures.refusals(measurements.refused):
        say(line)


def photographs_folder(run: Run) -> Path:
    """The common parent of the photographed concepts' folders; of a single concept its own folder."""
    photographed = [c for c in run.sequence.concepts if not images.is_rendered(c, run.config.backbone)]
    folders = [photographs.folder_of(c, run.config.data).absolute() for c in photographed]
    return Path(os.path.commonpath(folders))
