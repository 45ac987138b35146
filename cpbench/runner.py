"""The sequential runner: for every task learn, save, read back, draw every concept seen so far, judge.

A method object and a pristine backbone are made new for every task; only the state, read back from disk, survives.
Everything finished is on disk before the next thing starts, so a run that was stopped goes on from there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout

from cpbench import (
    adapters,
    audit,
    backbones,
    cells,
    composition,
    curves,
    images,
    inception,
    judge_identity,
    judges,
    machine,
    measures,
    own_modules,
    photographs,
    prompt_length,
    report,
    results,
    rows,
    sequences,
)
from cpbench.config import ON_THE_MINIATURE, RunConfig, changed
from cpbench.cost import PeakMemory, Stopwatch
from cpbench.embeddings import Embeddings
from cpbench.errors import DamagedState, UserError, near, quoted
from cpbench.method import KINDS, Method, Options, State, Task
from cpbench.progress import Reporter
from cpbench.records.upgrade import CODE, SCHEMA
from cpbench.records.upgrade import read as read_record
from cpbench.sampling import Sampler

LEARNING_COST = "cost.json"
DROPPED = "dropped"  # in a task's folder: its state's tensors were taken off the disk on purpose


@dataclass
class Run:
    """One run at work: what was asked for, and the things made for it once."""

    config: RunConfig
    method_class: type[Method]
    options: Options
    sequence: sequences.Sequence
    backbone: backbones.Backbone
    judges: dict[str, judges.Judge]
    images: dict[str, np.ndarray]
    sampler: Sampler
    pictures_per_prompt: int
    folder: Path
    facts: dict[str, Any]
    notes: list[str]  # what should be known before it begins

    @property
    def concepts(self) -> list[str]:
        return [c.name for c in self.sequence.concepts]

    @property
    def rows(self) -> list[int]:
        """The rows of the matrix that are drawn."""
        return rows_of(self.config, len(self.concepts))

    @property
    def cache(self) -> Path:
        return self.config.output / ".cache" / "pictures"

    def task_folder(self, t: int) -> Path:
        return self.folder / f"task-{t:02d}"

    def bound(self, t: int) -> dict[str, Any]:
        """What state t belongs to, see `State.save`; the state before must be there."""
        return {
            "run": results.hash8(self.facts),
            "seed": self.config.seed,
            "order": self.config.order,
            "task": t,
            "before": self.state_checksum(t - 1),
        }

    def state_checksum(self, t: int) -> str | None:
        """Of state t, None of the untouched model. Raises as `State.load` does."""
        return State.checksum(self.task_folder(t)) if t else None

    def load_state(self, t: int) -> State:
        """State t, from 1 on, if it is of this run, seed and order and follows the one before. Raises as `State.load` does."""
        return State.load(self.task_folder(t), self.bound(t))

    def _records(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(task, "learning" or "row", what is recorded of it), of those on disk, by task."""
        for t in range(len(self.concepts) + 1):
            for stage, file in (("learning", LEARNING_COST), ("row", rows.ROW)):
                if isinstance(record := results.read_json(self.task_folder(t) / file), dict):
                    yield t, stage, record

    @property
    def costs(self) -> dict[int, dict[str, Any]]:
        """What each task that is on disk cost, its learning and its row, by number; row 0 is that of the untouched model."""
        found: dict[int, dict[str, Any]] = {}
        for t, _, record in self._records():
            if isinstance(cost := record.get("cost"), dict):
                found.setdefault(t, {}).update(cost)
        return found

    @property
    def made_on(self) -> list[dict[str, Any]]:
        """On what each task was learned and each row made: the facts of `machine.facts`, with the numbers of those they hold for."""
        found: dict[str, dict[str, Any]] = {}
        for t, stage, record in self._records():
            if isinstance(facts := record.get("made_on"), dict):
                each = found.setdefault(json.dumps(facts, sort_keys=True), {**facts, "learning": [], "row": []})
                each[stage].append(t)
        return list(found.values())

    def learning_work(self, t: int) -> int:
        """Progress that task t is worth: a training step's evaluation counts three times, for its way back."""
        return 3 * self.method_class(self.options).unet_evaluations(t)

    def cells_of(self, t: int) -> list[cells.Cell]:
        """What is drawn in row t."""
        return cells.of_row(self.sequence, t, self.pictures_per_prompt, bool(self.config.evaluation.upper_triangle))

    def drawing_work(self, t: int) -> int:
        """UNet evaluations of drawing row t."""
        return self.sampler.evaluations(sum(cell.pictures for cell in self.cells_of(t)))


def rows_of(config: RunConfig, last: int) -> list[int]:
    """The rows of the matrix that are drawn, of a sequence of `last` tasks: all, or those wanted and both ends."""
    return sorted({0, last, *(range(last + 1) if config.rows is None else config.rows)})


def pick_device(wanted: str) -> str:
    """The device asked for, or the best there is for "auto". UserError for one that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind, _, index = wanted.partition(":")
    if kind not in there:
        raise near(wanted, there, "device")
    if index and not (kind == "cuda" and index.isdigit() and int(index) < torch.cuda.device_count()):
        raise UserError(f"device {wanted}: there is none of this number; leave out ':{index}'")
    if not there[kind]:
        raise UserError(f"device {wanted}: torch finds none on this machine; use --device cpu or leave it out")
    return wanted


def device_for(config: RunConfig) -> str:
    """The run's device, see `pick_device`, ready for the same bits at every call where that is asked for."""
    device = pick_device(config.device)
    if config.deterministic and device.startswith("cuda"):  # a CPU gives them anyway
        machine.set_deterministic()
    return device


def drawing_of(config: RunConfig, sequence: sequences.Sequence) -> tuple[Sampler, int]:
    """How a run's pictures are drawn, and how many of a prompt: its own choices over the sequence's."""
    chosen = config.evaluation
    test = sequence.evaluation.drawing(images.are_drawn(sequence.concepts, config.backbone))
    sampler = Sampler(
        chosen.num_inference_steps or test.num_inference_steps,
        test.guidance_scale if chosen.guidance_scale is None else chosen.guidance_scale,
        chosen.batch_size,
    )
    return sampler, chosen.pictures_per_prompt or test.pictures_per_prompt


def prepare(config: RunConfig, method_class: type[Method], options: Options) -> Run:
    """Load and check everything a run needs, before anything is spent. UserError for bad input."""
    in_file_order = sequences.load(config.sequence)
    sequence = sequences.ordered(in_file_order, config.order)
    device = device_for(config)
    backbone = backbones.load(config.backbone, device, config.loading)
    method_class(options).check(backbone)
    pictures = {
        c.name: images.load(c, config.backbone, backbone.picture_size, config.data, config.fit)
        for c in sequence.concepts
    }
    theirs = judges.load_for(
        config.backbone,
        config.clip,
        config.dino,
        device,
        config.clip_preprocessing,
        config.dino_preprocessing,
        config.clip_activation,
    )
    if (targets := config.options.get("target_modules")) is not None:
        try:
            if not targets:
                raise ValueError("target_modules is empty")
            adapters.matching_modules(backbone.unet, targets)
        except ValueError as error:
            raise UserError(f"method {config.method}: {error}; name layers of the UNet, e.g. to_q") from None
    sampler, per_prompt = drawing_of(config, sequence)
    backbone.check(sampler.num_inference_steps)
    if config.rows and max(config.rows) > len(sequence.concepts):
        raise UserError(f"rows: there is no row {max(config.rows)}; the sequence has {len(sequence.concepts)} tasks")
    drawn = cells.of_row(sequence, 0, per_prompt)
    notes = prompt_length.check(prompt_length.readers_of(backbone, theirs["clip"].tokenizer, added=1), drawn)
    facts = {
        "method": Path(config.method).stem,
        **own_modules.identity(method_class),
        "options": config.options,
        # order and seed have a folder level of their own: a sequence has one hash in all its orders
        "sequence": sequences.content_hash(in_file_order),
        "images": {name: images.content_hash(p) for name, p in pictures.items()},
        "backbone": backbone.weights_hash,
        "judges": {name: judge_identity.counted(j.identity) for name, j in theirs.items()},
        "sampler": asdict(sampler),
        "pictures_per_prompt": per_prompt,
        "dtype": str(backbone.dtype),
        "picture_size": backbone.picture_size,
    }
    if config.rows is not None:
        facts["rows"] = sorted(config.rows)
    if config.evaluation.upper_triangle:
        facts["upper_triangle"] = True
    folder = results.run_folder(
        config.output,
        sequence.name,
        Path(config.backbone).name,
        facts["method"],
        results.hash8(facts),
        config.order,
        config.seed,
    )
    return Run(
        config,
        method_class,
        options,
        sequence,
        backbone,
        theirs,
        pictures,
        sampler,
        per_prompt,
        folder,
        facts,
        notes,
    )


@contextlib.contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """The run folder for this process alone; a second one is told, after `patience` seconds, who holds it.

    The lock is the operating system's: it ends with the process that had it, however that ended.
    """
    lock, holder = FileLock(folder / ".lock"), folder / ".holder.json"
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        who = results.read_json(holder) or {}
        raise UserError(
            f"run folder {folder}: process {who.get('pid', '?')} on {who.get('host', '?')} has held it since "
            f"{who.get('since', '?')}; wait for it, or stop it and start again"
        ) from None
    try:
        results.write_json(
            holder,
            {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")},
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def execute(
    config: RunConfig,
    method_class: type[Method],
    options: Options,
    patience: float = 0.0,
    progress: Path | None = None,
) -> Run:
    """Run, or go on with, one configuration to its end; a finished one is left as it is.

    patience: see `held`; progress: a file that says how far it is, for whoever watches many.
    """
    results.prepare_folder(config.output)
    run = prepare(config, method_class, options)
    results.prepare_folder(run.folder)
    with held(run.folder, patience):
        remove_temporary(run.folder)
        if is_finished(run):
            print(f"finished already: {run.folder} (delete it to run again)")
            return run
        if not (run.folder / "run.json").exists():
            for line in earlier(run):
                print(line)
        write_record(run, "running")
        try:
            _execute(run, progress)
        except KeyboardInterrupt:
            with contextlib.suppress(OSError):
                write_record(run, "interrupted")
            raise
        except Exception as error:
            with contextlib.suppress(OSError):  # a full disk, say, which is what is told then
                write_record(run, "failed", f"{type(error).__name__}: {error}")
            raise
        write_record(run, "finished")
    return run


def earlier(run: Run) -> Iterator[str]:
    """A line for each run of the same settings, seed and order that other code made: it is left as it is."""
    mine = json.loads(json.dumps({k: v for k, v in run.facts.items() if k not in CODE}))
    for file in sorted(run.folder.parent.parent.glob(f"*/{run.folder.name}/run.json")):
        record = read_record(file.parent)
        try:
            facts, version = record["facts"], record["versions"]["cpbench"]
            alike = {k: v for k, v in facts.items() if k not in CODE} == mine
            how = "made" if record["status"] == "finished" else "begun, and not finished,"
        except (TypeError, KeyError, AttributeError):  # what is no record
            continue
        if alike and file.parent != run.folder:
            yield f"{file.parent}: {how} by cpbench {version}, kept; a new run goes to {run.folder}"


def _execute(run: Run, progress: Path | None) -> None:
    concepts = run.sequence.concepts
    learning = sum(run.learning_work(t) for t in range(1, len(concepts) + 1))
    total = learning + sum(run.drawing_work(t) for t in run.rows)
    title = f"{run.facts['method']} on {run.sequence.name}"
    with Reporter(title, total, progress) as reporter:
        drawn = images.are_drawn(concepts, run.config.backbone)
        what = "drawn stand-ins" if drawn else f"photographs in {where_photographs_are(run)}"
        if not drawn and run.config.backbone == "miniature":
            reporter.say(f"these are {ON_THE_MINIATURE}")
        reporter.say(
            f"{title}: {len(concepts)} concepts ({what}), backbone {run.backbone.name}, seed {run.config.seed}, order {run.config.order}"
        )
        reporter.say("judges: " + ", ".join(f"{name} {j.identity['model']}" for name, j in sorted(run.judges.items())))
        reporter.say(f"folder: {run.folder}")
        for note in run.notes:
            reporter.say(f"note: {note}")
        state: State | None = None
        with rows.second_process(run) as pool:
            made = RowQueue(run, pool, reporter)
            made.make(0, None)
            for t in range(1, len(concepts) + 1):
                state = learn_task(run, t, state, reporter)
                made.make(t, state)
            made.wait()
        reporter.say(report.cost_table(run.costs))
        if line := machine.differences(run.made_on):
            reporter.say(line)
    measure(run)
    ornament(run.folder / "grid.png", lambda target: report.retention_grid(run.folder, run.concepts, target))
    ornament(run.folder / "curves.png", lambda target: curves.plot(run.folder, run.concepts, target))
    print(
        f"finished: {run.folder} (scores.csv, matrix-*.csv, measures.csv, identification.csv, grid.png, curves.png, run.json)"
    )


def ornament(target: Path, make: Callable[[Path], None]) -> None:
    """Make a picture that nothing depends on; where it cannot be made, the run is finished all the same, and says so."""
    try:
        make(target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):  # then nothing else can be written either
            raise
        print(f"{target.name} could not be made: {error}")
    except Exception as error:  # a picture library's errors have many types
        print(f"{target.name} could not be made: {type(error).__name__}: {error}")


class RowQueue:
    """Rows on their way: made here at once, or in `pool` while the next task is learned; finished in their order."""

    def __init__(self, run: Run, pool: Executor | None, reporter: Reporter):
        self.run, self.pool, self.reporter = run, pool, reporter
        self.waiting: dict[int, Future] = {}

    def make(self, t: int, state: State | None) -> None:
        if t not in self.run.rows:
            return
        if self.pool is None:
            self.finish(t, rows.evaluate(self.run, t, state, self.reporter))
            return
        self.waiting[t] = self.pool.submit(rows.elsewhere, t)
        while self.waiting and next(iter(self.waiting.values())).done():
            self.collect(next(iter(self.waiting)))

    def wait(self) -> None:
        """Until every row is finished."""
        for t in list(self.waiting):
            self.reporter.at(f"waiting for row {t}")
            self.collect(t)

    def collect(self, t: int) -> None:
        fresh, said = self.waiting.pop(t).result()
        for line in said:
            self.reporter.say(line)
        self.reporter.advance(self.run.drawing_work(t))
        self.finish(t, fresh)

    def finish(self, t: int, fresh: bool) -> None:
        """What follows when row t is there: the run's tables, and the state before that is not to be kept."""
        if t == 0:
            return
        write_tables(self.run, t)
        for before in range(max(1, *(row for row in self.run.rows if row < t)), t):
            drop_state(self.run, before)
        if fresh or t == len(self.run.concepts):
            for table in report.run_tables(self.run.folder, self.run.concepts, t):
                self.reporter.say(table)


def measure(run: Run) -> None:
    """What the pictures say beyond the matrices; in a line each, what they are too few for."""
    kept = measuring(run.folder, run.judges)
    found = measures.measure(run.folder, run.sequence, run.rows, run.pictures_per_prompt, run.images, kept)
    for judge in kept.values():
        judge.save()
    measures.write(run.folder, found)
    for line in measures.refusals(found.refused):
        print(line)


def measuring(folder: Path, theirs: Mapping[str, judges.Judge]) -> dict[str, Embeddings]:
    """The judges that `measures` asks, with what they said before: the run's, and Inception where it is at hand."""
    file = inception.weights()
    every = theirs if file is None else {**theirs, "inception": inception.Inception(file)}
    return {kind: Embeddings(folder, judge) for kind, judge in every.items()}


def where_photographs_are(run: Run) -> Path:
    """The folder above the concepts' own, or the first's own where they have none in common."""
    taken = [c for c in run.sequence.concepts if not images.is_drawn(c, run.config.backbone)]
    folders = [photographs.folder_of(c, run.config.data).absolute() for c in taken]
    return Path(os.path.commonpath(folders))


def remove_temporary(folder: Path) -> None:
    """What was being written when an earlier process was killed; nobody reads it."""
    for file in folder.rglob(".*.tmp"):
        file.unlink(missing_ok=True)


def drop_state(run: Run, t: int) -> None:
    """Take the tensors of state t off the disk, once task t + 1 is learned and drawn, where they are not to be kept."""
    folder = run.task_folder(t)
    if run.config.keep_states == "all" or not (folder / "state.safetensors").exists():
        return
    if run.config.keep_states == "last" or "weights" in State.load(folder).bytes_by_kind():
        (folder / DROPPED).touch()  # first: a state without tensors is damaged unless this says why
        (folder / "state.safetensors").unlink()


def is_dropped(run: Run, t: int) -> bool:
    """Whether state t was taken off the disk, and a later one, and its row, make up for it."""
    drawn = t not in run.rows or rows.is_complete(run, t)
    if not (run.task_folder(t) / DROPPED).exists() or not drawn:
        return False
    return t < len(run.concepts) and ((run.task_folder(t + 1) / "state.safetensors").exists() or is_dropped(run, t + 1))


def learn_task(run: Run, t: int, state: State | None, reporter: Reporter) -> State | None:
    """State t: read back if it is there and whole, else learned, saved, and read back. None if it was dropped."""
    folder, concept = run.task_folder(t), run.sequence.concepts[t - 1]
    if is_dropped(run, t):
        reporter.advance(run.learning_work(t))
        return None
    if (folder / DROPPED).exists():  # and nothing makes up for it
        for name in ("state.json", DROPPED):
            (folder / name).unlink(missing_ok=True)
    try:
        saved = run.load_state(t)
        reporter.advance(run.learning_work(t))
        return saved
    except FileNotFoundError:
        pass
    except DamagedState as error:
        aside = set_aside(folder, ("state.json", "state.safetensors", "scores.csv"))
        reporter.say(f"{error}; set aside as {aside}, task {t} is done again")
    reporter.at(f"task {t} of {len(run.concepts)}: learning {concept.name}")
    curve: list[dict[str, float | str]] = []
    shown = run.backbone.unet_evaluations

    def log(step: int, phase: str = "train", **figures: float) -> None:
        nonlocal shown
        curve.append({"phase": phase, "step": step, **figures})
        reporter.advance(3 * (run.backbone.unet_evaluations - shown))
        shown = run.backbone.unet_evaluations

    task = Task(t, concept.name, concept.class_noun, run.images[concept.name], run.config.seed, log)
    others = [
        path
        for c in run.sequence.concepts
        if c.name != concept.name
        for path in images.guarded(c, run.config.backbone, run.config.data)
    ]
    backbone, watch = run.backbone, Stopwatch()
    backbone.restore()
    before, backbone.trainable_parameters = backbone.unet_evaluations, 0
    method = run.method_class(run.options)
    guard = (
        contextlib.nullcontext()
        if method.sees_earlier_data
        else audit.learning_only(concept.name, others, run.config.output)
    )
    with PeakMemory(backbone.device.type) as memory, watch("learning"), guard:
        learned = method.learn(backbone, task, state)
    reporter.advance(3 * (backbone.unet_evaluations - shown))
    backbone.restore()
    refuse_odd_state(run.config.method, t, learned, run.concepts[:t])
    for name, tensor in learned.tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"task {t}, {concept.name}: {name} came out as no number (NaN or infinity); lower the rates"
            )
    if not method.sees_earlier_data:
        if kept := [name for name in learned.tensors if name.startswith("pictures/")]:
            raise audit.RulesError(f"it carries {kept[0]}, and does not say that it sees earlier data")
        audit.search_state(
            learned.tensors,
            {name: (run.images[name], backbone.encode_images(run.images[name])[0]) for name in run.concepts[:t]},
        )
    if curve:
        results.write_atomically(
            folder / "curve.csv", pd.DataFrame(curve).to_csv(index=False, float_format="%.6g").encode()
        )
    cost = {
        **watch.record(),
        "learning_unet_evaluations": backbone.unet_evaluations - before,
        "trainable_parameters": backbone.trainable_parameters,
        "carried_parameters": sum(v.numel() for v in learned.tensors.values()),
        "carried_bytes": learned.bytes_by_kind(),
        "peak_memory_bytes": memory.peak,
    }
    results.write_json(folder / LEARNING_COST, {"cost": cost, "made_on": machine.facts(backbone.device)})
    learned.save(folder, run.bound(t))
    return run.load_state(t)


def refuse_odd_state(method: str, t: int, learned: object, concepts: list[str]) -> None:
    """UserError for what `learn` may not return, said before it is saved."""
    where = f"method {method}: task {t}: learn"
    if not isinstance(learned, State):
        raise UserError(f"{where} must return a cpbench.method.State, and returned {quoted(learned)}")
    if learned.concepts != concepts:
        raise UserError(
            f"{where} returned a state whose facts['concepts'] is {quoted(learned.concepts)}; make it {concepts}"
        )
    if odd := [name for name in learned.tensors if "/" not in name or name.partition("/")[0] not in KINDS]:
        raise UserError(
            f"{where} returned a tensor called {quoted(odd[0])}; begin it with one of {', '.join(KINDS)} and /"
        )


def set_aside(folder: Path, files: tuple[str, ...]) -> str:
    """Rename, never delete: the files stay beside the new ones under the ending that is returned."""
    n = 1
    while any((folder / f"{name}.damaged-{n}").exists() for name in files):
        n += 1
    for name in files:
        if (folder / name).exists():
            (folder / name).rename(folder / f"{name}.damaged-{n}")
    return f"*.damaged-{n}"


def write_tables(run: Run, t: int) -> None:
    """scores.csv of the whole run so far, and one matrix file a metric."""
    files = [run.task_folder(k) / "scores.csv" for k in run.rows if k <= t]
    parts = [results.read_scores(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part is None:  # a mount that went away, say
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    scores = pd.concat(parts, ignore_index=True)
    results.write_scores(run.folder / "scores.csv", scores)
    for metric, table in results.matrices(scores, run.concepts).items():
        results.write_atomically(run.folder / f"matrix-{metric}.csv", table.to_csv(float_format="%.6f").encode())


def is_finished(run: Run) -> bool:
    """Whether states, scores and hash agree with a record that says so."""
    record = results.read_json(run.folder / "run.json")
    if (
        not isinstance(record, dict)
        or record.get("status") != "finished"
        or record.get("facts") != json.loads(json.dumps(run.facts))
    ):
        return False
    try:
        for t in range(1, len(run.concepts) + 1):
            if is_dropped(run, t):
                State.checksum(run.task_folder(t), run.bound(t))
            else:
                run.load_state(t)
    except (FileNotFoundError, DamagedState):
        return False
    if not all(rows.is_complete(run, t) for t in run.rows):
        return False
    return record.get("files") == shown_files(run.folder) != {}


def shown_files(folder: Path) -> dict[str, str]:
    """SHA-256 of what a run shows: scores, matrices, measures, grid."""
    found = [f for pattern in ("*.csv", "*.png") for f in sorted(folder.glob(pattern))]
    return {f.name: results.file_hash(f) for f in found}


def write_record(run: Run, status: str, reason: str = "") -> None:
    """run.json: all one needs to know what the scores beside it mean."""
    scores = results.read_scores(run.folder / "scores.csv")
    done = 0 if scores is None else int(scores["row"].max())
    drawn = images.are_drawn(run.sequence.concepts, run.config.backbone)
    record = {
        "schema": SCHEMA,
        "status": status,
        "reason": reason,
        "config": run.config.model_dump(mode="json") | {"output": None},
        "changed": changed(run.config.method, run.config.backbone, run.options),
        "facts": run.facts,
        "hash": results.hash8(run.facts),
        "sequence": {
            "name": run.sequence.name,
            "version": run.sequence.version,
            "concepts": run.concepts,
            "class_nouns": {c.name: c.class_noun for c in run.sequence.concepts},
            "prompts": {c.name: list(run.sequence.evaluation.prompts[c.kind]) for c in run.sequence.concepts},
        },
        "photographs_on_the_miniature": run.config.backbone == "miniature" and not drawn,
        "pictures": "drawn" if drawn else "photographs",
        "sees_earlier_data": run.method_class.sees_earlier_data,
        "judges": {name: j.identity for name, j in run.judges.items()},
        "backbone": run.backbone.facts,
        "made_on": run.made_on,
        "costs": {str(t): c for t, c in sorted(run.costs.items())},
        "summary": report.summaries(scores, run.concepts, done) if done else {},
        "intervals": report.intervals(scores, run.concepts, done) if done else {},
        "composition": composition.summary(scores) if done else {},
        "measures": measures.summary(table, done) if (table := measures.read(run.folder)) is not None else {},
        "files": shown_files(run.folder),
        "versions": results.versions(),
        "commit": results.commit(),
    }
    results.write_json(run.folder / "run.json", record)
