"""What a report shows of a run folder, read with care: the folder may be half finished, damaged, or come from anybody.

A folder that is no run at all is a UserError. Whatever else is missing or damaged becomes a note on the page.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from cpbench.config import ON_THE_MINIATURE
from cpbench.errors import UserError
from cpbench.files import FILE_NAME, file_hash, read_json
from cpbench.metrics import matrices as retention_matrices
from cpbench.metrics import summary as figures_of_scores
from cpbench.metrics.matrices import SCORE_COLUMNS, reference_row
from cpbench.metrics.scores import MAIN, main_first
from cpbench.metrics.summary import summaries
from cpbench.miniature import is_miniature
from cpbench.numbers import number
from cpbench.records import checks, curves, machine, measures_table, reading, tables
from cpbench.records.folder import REAL, RunFolder, TaskFolder, picture_name
from cpbench.records.measures_table import recorded_pictures
from cpbench.records.record import Cost, Record, changed_evaluation, method_label, sequence_name
from cpbench.records.upgrade import cost_today

USUAL_BATCH = 16  # pictures of a pipeline call
MOST_CURVE = 2**25  # bytes of a table that is read
MOST_PROMPTS = 64
MOST_NUMBER = 1e300  # that is added up and shown
MOST_SAID = 300  # characters of a fact
JUDGES = ("clip", "dino", "clip_preprocessing", "dino_preprocessing", "clip_activation")  # that a run may name


@dataclass
class Shown:
    """One run, ready to be shown.

    `matrices`, by score, identity first, have rows 0..T and a column a concept; what does not exist is NaN.
    """

    folder: Path
    record: Record
    concepts: list[str]
    method: str  # with the settings that are not its usual ones
    sequence: str
    pictures: str  # "drawn" or "photographs"
    judges: dict[str, dict[str, str]]
    label: str = ""  # what tells it from the others on the page
    notes: list[str] = field(default_factory=list)
    swapped: set[Path] = field(default_factory=set)  # pictures that are not those that were judged
    doubt: str = ""  # why its numbers cannot be those of such a run
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SCORE_COLUMNS))
    matrices: dict[str, pd.DataFrame] = field(default_factory=dict)
    drawn: list[int] = field(default_factory=list)  # rows of the matrices that exist
    prompts: dict[str, list[str]] = field(default_factory=dict)  # by concept, in the order of the pictures' numbers
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)  # task, phase, step, figure, value
    costs: dict[int, dict[str, float]] = field(default_factory=dict)
    identification: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None  # row, measure, concept, value
    classifier: pd.DataFrame | None = None  # the rows that `cpbench classify` made, a column a concept

    @property
    def tasks(self) -> int:
        return len(self.concepts)

    @property
    def last(self) -> int:
        """The last task whose row is there; 0 where there is none."""
        return max(self.drawn, default=0)

    @property
    def is_finished(self) -> bool:
        return self.record.is_finished

    def noun(self, concept: str) -> str:
        return self.record.sequence.class_nouns.get(concept, concept)  # older records have none

    @functools.cached_property
    def summary(self) -> dict[str, dict[str, float | None]]:
        """By metric, the figures of `metrics.summary` after the last task that is there."""
        if not self.last:
            return {}
        try:
            return summaries(self.scores, self.concepts, self.last)
        except ValueError:  # a matrix that lacks what the figures need
            return {}

    @functools.cached_property
    def intervals(self) -> dict[str, dict[str, list[float] | None]]:
        """By metric and figure the 95 % interval, (low, high), after the last task that is there."""
        try:
            return figures_of_scores.intervals(self.scores, self.concepts, self.last) if self.summary else {}
        except ValueError:  # a table as no run writes it
            return {}

    def reference(self, kind: str, metric: str) -> list[float]:
        """Per concept, the mean of a reference row: "real" or "oracle"."""
        return reference_row(self.scores, kind, metric, self.concepts)

    def picture_scores(self, metric: str) -> dict[tuple[int, str, str, int], float]:
        """(row, concept, prompt, index): the score of that picture."""
        own = self.scores[(self.scores["kind"] == "cell") & (self.scores["metric"] == metric)]
        keys = zip(own["row"], own["concept"], own["prompt"], own["index"], strict=True)
        return dict(zip(keys, own["value"], strict=True))

    def picture(self, row: int, concept: str, prompt: int, index: int = 0) -> Path | None:
        """The file of a picture; None for a name that could lead out of the folder."""
        return self._file(row, concept, picture_name(prompt, index))

    def real(self, concept: str) -> Path | None:
        """The file of the concept's first real picture."""
        return self._file(0, concept, REAL)

    def _file(self, row: int, concept: str, name: str) -> Path | None:
        if not FILE_NAME.fullmatch(concept):
            return None
        file = RunFolder(self.folder).task(row).pictures(concept) / name
        return file if os.path.isfile(file) and file not in self.swapped else None


def read(run: Path) -> Shown:
    """The run in this folder, or the only one below it. UserError if there is none, or its run.json is not a run's."""
    folder = reading.find(run)
    shown = from_record(reading.read(folder), folder)
    if shown.pictures == "photographs" and is_miniature(shown.record.config.backbone):
        shown.notes.append(f"These are {ON_THE_MINIATURE}.")
    add_scores(shown)
    add_prompts(shown)
    add_curves(shown)
    add_pictures(shown)
    add_conditions(shown)
    add_costs(shown)
    add_identification(shown)
    add_measures(shown)
    add_classifier(shown)
    return shown


def from_record(record: Record, folder: Path) -> Shown:
    return Shown(
        folder,
        record,
        record.sequence.concepts,
        method=method_label(record),
        sequence=sequence_name(record),
        pictures=record.pictures,
        doubt=checks.doubt(folder, record),
        judges={
            name: {str(k): said(v) for k, v in judge.as_json().items()} for name, judge in sorted(record.judges.items())
        },
    )


def said(value: object) -> str:
    """A fact in one line of bounded length, whatever it is."""
    text = "-" if value is None else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= MOST_SAID else text[: MOST_SAID - 3] + "..."


def add_scores(shown: Shown) -> None:
    """Scores and matrices: of scores.csv, or of the tasks' own where the run was stopped before it was written."""
    notes = shown.notes
    file = RunFolder(shown.folder).scores
    scores = tables.read_scores(file)
    if scores is None and tables.is_there(file):
        notes.append(
            "scores.csv is damaged, so no numbers of it are shown; the same command with cpbench run mends it."
        )
    elif scores is None:
        parts = [tables.read_scores(RunFolder(shown.folder).task(t).scores) for t in range(shown.tasks + 1)]
        there = [p for p in parts if p is not None]
        scores = pd.concat(there, ignore_index=True) if there else None
        if scores is None:
            notes.append("There are no scores yet.")
    if scores is not None:
        notes += [f"These numbers are in doubt, and not in the leaderboard: {shown.doubt}."] if shown.doubt else []
        apart = scores["kind"] == "pair"  # of two concepts
        known = (scores["concept"].isin(shown.concepts) | apart) & scores["row"].between(0, shown.tasks)
        scores = scores[known].copy()
        scores["value"] = scores["value"].where(np.isfinite(scores["value"]))
        shown.scores = scores
        found = retention_matrices.matrices(scores, shown.concepts)
        shown.drawn = sorted({int(r) for r in scores.loc[scores["kind"] == "cell", "row"].unique()})
        rows = range(shown.tasks + 1)
        shown.matrices = {metric: found[metric].reindex(rows) for metric in main_first(found)}
    if not shown.is_finished:
        reason = f", {said(shown.record.reason)}" if shown.record.reason else ""
        far = f"rows up to task {shown.last} of {shown.tasks} are there" if shown.last else "no task is drawn yet"
        notes.append(
            f"This run is not finished (status: {shown.record.status}{reason}): {far}, and figures are of those."
        )
    skipped = [t for t in range(shown.last + 1) if t not in shown.drawn]
    if shown.drawn and skipped:
        notes.append(
            f"Rows {listed(skipped)} of the matrices were not drawn (--rows): figures that need them are not defined."
        )


def listed(numbers: list[int]) -> str:
    """1, 2, 3, 7: "1-3, 7"."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def add_prompts(shown: Shown) -> None:
    """Which prompt each picture's number stands for: what the record says, if it agrees with scores.csv."""
    cells = shown.scores[shown.scores["kind"] == "cell"]
    there = {c: set(own["prompt"]) for c, own in cells.groupby("concept")}
    for concept, texts in shown.record.sequence.prompts.items():
        if concept in shown.concepts and set(texts) == there.get(concept, set(texts)):
            shown.prompts[concept] = texts
    if there and len(shown.prompts) < shown.tasks:
        shown.notes.append(
            "run.json does not say which prompts were drawn: they are numbered, and single pictures have no scores."
        )


def add_curves(shown: Shown) -> None:
    """Long form of all tasks' training curves, see `curves.read`."""
    shown.curves, damaged = curves.read(shown.folder, shown.tasks)
    if damaged:
        shown.notes.append(f"The training curves of tasks {listed(damaged)} are damaged and left out.")


def add_pictures(shown: Shown) -> None:
    """Which pictures are not those that were judged, by what the rows recorded: they are not shown."""
    for t in range(shown.tasks + 1):
        task = RunFolder(shown.folder).task(t).path
        for name, digest in recorded_pictures(task).items():
            file = task / name
            if ".." not in Path(name).parts and os.path.isfile(file) and file_hash(file) != digest:
                shown.swapped.add(file)
    if not any(RunFolder(shown.folder).task(t).all_pictures.is_dir() for t in range(shown.tasks + 1)):
        shown.notes.append(
            "Only the tables of this run are kept, and at most a small grid: this page is made of those. Its pictures and "
            f"training curves come with running it again: {command(shown)}"
        )
    if shown.swapped:
        first = min(shown.swapped).relative_to(shown.folder)
        shown.notes.append(
            f"{len(shown.swapped)} pictures are not those that were judged, and are left out (the first: {first}); the "
            "same command with cpbench run draws them anew."
        )


def add_conditions(shown: Shown) -> None:
    """Under which conditions what was made, where they differ."""
    if line := machine.differences([conditions.model_dump(mode="json") for conditions in shown.record.made_on]):
        shown.notes.append(said(line[:1].upper() + line[1:] + "."))


def add_costs(shown: Shown) -> None:
    """Numbers by task, of run.json and, where that was written before the task was done, of the task's own files."""
    for t in range(shown.tasks + 1):
        cost = shown.record.costs.get(t) or own_cost(RunFolder(shown.folder).task(t))
        numbers = {
            key: float(value)
            for key, value in cost.as_json().items()
            if key != "state_bytes" and abs(value) < MOST_NUMBER  # which no NaN is
        }
        if cost.state_bytes:
            numbers["state_bytes"] = float(sum(cost.state_bytes.values()))
        if numbers:
            shown.costs[t] = numbers


def own_cost(task: TaskFolder) -> Cost:
    """What a task's own files say of its cost, as far as they are whole."""
    numbers: dict[str, Any] = {}
    for file in (task.cost, task.row):
        content = read_json(file)
        part = content.get("cost") if isinstance(content, dict) else None
        with contextlib.suppress(ValidationError):
            numbers |= Cost.model_validate(cost_today(part)).as_json()
    return Cost.model_validate(numbers)


def add_identification(shown: Shown) -> None:
    """How often pictures of a concept, after a task, are nearest to which concept's real ones; None without the file."""
    if not tables.is_there(file := RunFolder(shown.folder).identification):
        return
    table = measures_table.read_confusion(shown.folder)
    if table is None or (table["count"] < 0).any():
        shown.notes.append(f"{file.name} is damaged and left out.")
        return
    shown.identification = table[table["concept"].isin(shown.concepts)].astype({"count": float})


# Told of a run


def add_measures(shown: Shown) -> None:
    """measures.csv, of the rows that are there; None without the file."""
    table = measures_table.read(shown.folder)
    if table is not None:
        shown.measures = table[table["row"].isin(shown.drawn)]
    elif tables.is_there(RunFolder(shown.folder).measures):
        shown.notes.append("measures.csv is damaged and left out.")


def add_classifier(shown: Shown) -> None:
    """The diffusion classifier's matrix: shares of real pictures, a row for each that was made; None without the file."""
    file = RunFolder(shown.folder).classifier_matrix
    try:
        if not os.path.isfile(file):
            return
        if file.stat().st_size > MOST_CURVE:
            raise ValueError("too large")
        text = file.read_text()
        head, *lines = csv.reader(io.StringIO(text), strict=True)
        if head != ["row", *shown.concepts] or not text.endswith("\n"):
            raise ValueError("other columns, or cut")
        rows = [int(line[0]) for line in lines]
        values = np.array([[float(v) if v else math.nan for v in line[1:]] for line in lines])
        known = set(range(shown.tasks + 1))
        if values.shape != (len(rows), shown.tasks) or len(set(rows) & known) < len(lines):
            raise ValueError("rows that are none")
        if not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
            raise ValueError("shares that are none")
        shown.classifier = pd.DataFrame(values, rows, shown.concepts).sort_index()
    except (OSError, ValueError, IndexError, OverflowError, csv.Error):
        shown.notes.append(f"{file.relative_to(shown.folder).as_posix()} is damaged and left out.")


def scores_of(runs: Sequence[Shown]) -> list[str]:
    """The scores that any of the runs has, in the order of the page: identity first."""
    return main_first({metric for run in runs for metric in run.matrices})


def judge_of(run: Shown) -> str:
    """The metric that single pictures and curves are shown with."""
    return next(iter(run.matrices), MAIN)


def prompts_of(runs: Sequence[Shown]) -> int:
    """How many prompts there are pictures of."""

    def there(k: int) -> bool:
        return any(run.picture(t, c, k) for run in runs for c in run.concepts for t in {0, run.last})

    return next((k for k in range(MOST_PROMPTS) if not there(k)), MOST_PROMPTS)


def figure(value: float | None) -> str:
    return number(value)


# Several


def label(runs: list[Shown]) -> None:
    """Give each run the shortest name that no other has: its method, then seed and order, then hash, then a number."""
    seeds = [f"seed {r.record.config.seed}, order {r.record.config.order}" for r in runs]
    more = [
        [r.method for r in runs],
        [f"{r.method} ({s})" for r, s in zip(runs, seeds, strict=True)],
        [f"{r.method} ({s}, {said(r.record.hash)})" for r, s in zip(runs, seeds, strict=True)],
        [f"{r.method} ({k})" for k, r in enumerate(runs, 1)],
    ]
    names = next(names for names in more if len(set(names)) == len(names))
    for r, name in zip(runs, names, strict=True):
        r.label = name


def counted_judges(shown: Shown) -> dict[str, dict[str, Any]]:
    """By name what of a judge moves a score."""
    return {name: judge.counted for name, judge in shown.record.judges.items()}


def comparable(runs: list[Shown]) -> list[str]:
    """Notes on what differs between runs set side by side. UserError where their scores cannot be compared."""
    first, notes = runs[0], []
    for other in runs[1:]:
        both = f"{first.folder} and {other.folder} cannot be set side by side"
        if (first.sequence, sorted(first.concepts)) != (other.sequence, sorted(other.concepts)):
            raise UserError(f"{both}: they are of {first.sequence} and {other.sequence}; name runs of one sequence")
        if first.pictures != other.pictures:
            raise UserError(f"{both}: one has drawn stand-ins, one photographs; name runs of one kind")
        if counted_judges(first) != counted_judges(other):
            raise UserError(f"{both}: their judges differ, and so do their scales; name runs of the same judges")
    for key, words in (
        ("backbone", "backbones"),
        ("sampler", "samplers"),
        ("pictures_per_prompt", "numbers of pictures a prompt"),
        ("images", "training pictures"),
        ("dtype", "precisions"),
    ):
        if len({repr(getattr(r.record.facts, key)) for r in runs}) > 1:
            notes.append(f"These runs have different {words}: what differs between them is not the method alone.")
    if len({r.record.config.seed for r in runs}) > 1:
        notes.append("These runs have different seeds: their pictures are drawn from different noise.")
    if len({tuple(r.concepts) for r in runs}) > 1:
        notes.append("These runs learned the concepts in different orders.")
    return notes


# To run it again


def command(shown: Shown) -> str:
    """The command line that makes this run again, where the presets are still the same."""
    config, words = shown.record.config.as_json(), ["cpbench", "run"]
    for key in ("method", "sequence", "backbone", "seed", "order", "data", "fit", *JUDGES):
        value = config.get(key)
        if value is not None and (key, value) != ("fit", "crop"):
            words += [f"--{key.replace('_', '-')}", said(value)]
    for name in shown.record.config.judges:
        words += ["--judge", name]
    rows = shown.record.config.rows
    words += ["--rows", ",".join(map(str, rows))] if rows is not None else []
    batch_size = shown.record.config.evaluation.get("batch_size")
    settings = shown.record.changed | changed_evaluation(shown.record.config.evaluation)
    settings |= {"evaluation.batch_size": batch_size} if batch_size not in (None, USUAL_BATCH) else {}
    for key, value in settings.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
        words += ["--set", f"{key}={text}"]
    for key, value in shown.record.config.loading.items():
        if value not in (None, False, "auto"):
            words += [f"--{key.replace('_', '-')}", *([] if value is True else [said(value)])]
    return shlex.join(words)


def config_file(shown: Shown) -> str:
    """The whole configuration as YAML, for `cpbench run --config`: every option, whatever the presets say by then."""
    config = {k: v for k, v in shown.record.config.as_json().items() if v is not None and k != "output"}
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
