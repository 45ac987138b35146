"""A run folder as the report reads it. The folder may be unfinished, damaged, or from an untrusted source.

A folder without a run is a UserError. Anything else that is missing or damaged becomes a note on the page.
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
from cpbench.metrics import equal_text
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

DEFAULT_BATCH_SIZE = 16  # pictures per pipeline call
MOST_TABLE_BYTES = 2**25  # bytes; larger tables are not read
MOST_BYTES_OF_PICTURE = 2**26  # larger files are no pictures of a run, and are not read
MOST_PROMPTS = 64
MOST_NUMBER = 1e300  # larger costs are not shown, their sum could overflow
MOST_CHARACTERS = 300  # per fact
JUDGE_OPTIONS = ("clip", "dino", "clip_preprocessing", "dino_preprocessing", "clip_activation")  # of `cpbench run`


@dataclass
class RunView:
    """One run, with everything that a report shows.

    matrices: by score, identity first; each has rows 0..T and one column per concept, NaN where a cell does not exist.
    """

    folder: Path
    record: Record
    concepts: list[str]
    method: str  # with the settings that differ from its preset
    sequence: str
    pictures: str  # their source: "drawn" (rendered by the miniature's world) or "photographs"
    judges: dict[str, dict[str, str]]
    label: str = ""  # its name on the page, unique among the runs
    notes: list[str] = field(default_factory=list)
    altered_pictures: set[Path] = field(default_factory=set)  # pictures that have changed since they were scored
    doubt: str = ""  # why its scores cannot come from this run
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SCORE_COLUMNS))
    matrices: dict[str, pd.DataFrame] = field(default_factory=dict)
    scored_rows: list[int] = field(default_factory=list)  # rows of the matrices that have scores
    prompts: dict[str, list[str]] = field(default_factory=dict)  # by concept, in the order of the pictures' indices
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)  # task, phase, step, figure, value
    costs: dict[int, dict[str, float]] = field(default_factory=dict)
    identification: pd.DataFrame | None = None
    measures: pd.DataFrame | None = None  # row, measure, concept, value
    classifier: pd.DataFrame | None = None  # the rows computed by `cpbench classify`, one column per concept

    @property
    def tasks(self) -> int:
        return len(self.concepts)

    @property
    def whole_rows(self) -> list[int]:
        """The rows that have scores of all concepts learned so far, not of the own task's concept alone."""
        return [t for t in self.scored_rows if t in self.record.whole_rows]

    @property
    def last(self) -> int:
        """The last task whose row has scores and is whole; 0 if there is none."""
        return max(self.whole_rows, default=0)

    @property
    def is_finished(self) -> bool:
        return self.record.is_finished

    def noun(self, concept: str) -> str:
        return self.record.sequence.class_nouns.get(concept, concept)  # older records have none

    @functools.cached_property
    def summary(self) -> dict[str, dict[str, float | None]]:
        """By metric, the figures of `metrics.summary` after the last task with scores."""
        if not self.last:
            return {}
        try:
            return summaries(self.scores, self.concepts, self.last)
        except ValueError:  # the matrix lacks cells that the figures need
            return {}

    @functools.cached_property
    def intervals(self) -> dict[str, dict[str, list[float] | None]]:
        """By metric and figure the 95 % interval, (low, high), after the last task with scores."""
        try:
            return figures_of_scores.intervals(self.scores, self.concepts, self.last) if self.summary else {}
        except ValueError:  # a table that no run writes
            return {}

    def reference(self, name: str, metric: str) -> list[float]:
        """The mean of each concept in a reference row, "real" or "oracle"."""
        return reference_row(self.scores, name, metric, self.concepts)

    def picture_scores(self, metric: str) -> dict[tuple[int, str, str, int], float]:
        """The score of each picture, by (row, concept, prompt, index)."""
        cells = self.scores[(self.scores["kind"] == "cell") & (self.scores["metric"] == metric)]
        keys = zip(cells["row"], cells["concept"], cells["prompt"], cells["index"], strict=True)
        return dict(zip(keys, cells["value"], strict=True))

    def picture(self, row: int, concept: str, prompt: int, index: int = 0) -> Path | None:
        """The file of a picture; None if it does not exist, has changed, or its name could lead out of the folder."""
        return self._file(row, concept, picture_name(prompt, index))

    def real(self, concept: str) -> Path | None:
        """The file of the concept's first real picture."""
        return self._file(0, concept, REAL)

    def _file(self, row: int, concept: str, name: str) -> Path | None:
        if not FILE_NAME.fullmatch(concept):
            return None
        file = RunFolder(self.folder).task(row).pictures(concept) / name
        return file if os.path.isfile(file) and file not in self.altered_pictures else None


def read_run(path: Path) -> RunView:
    """The run in this folder, or the only run below it. UserError if there is none, or if its run.json is not a run record."""
    folder = reading.find(path)
    run = from_record(reading.read(folder), folder)
    if run.pictures == "photographs" and is_miniature(run.record.config.backbone):
        run.notes.append(f"These are {ON_THE_MINIATURE}.")
    add_scores(run)
    add_prompts(run)
    add_curves(run)
    add_pictures(run)
    add_conditions(run)
    add_costs(run)
    add_identification(run)
    add_measures(run)
    add_classifier(run)
    return run


def from_record(record: Record, folder: Path) -> RunView:
    return RunView(
        folder,
        record,
        record.sequence.concepts,
        method=method_label(record),
        sequence=sequence_name(record),
        pictures=record.pictures,
        judges={
            name: {str(k): one_line(v) for k, v in judge.as_json().items()}
            for name, judge in sorted(record.judges.items())
        },
    )


def one_line(value: object) -> str:
    """A value as one line of bounded length."""
    text = "-" if value is None else str(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 3] + "..."


def add_scores(run: RunView) -> None:
    """Add scores and matrices from scores.csv, or from the tasks' own tables if the run stopped before writing it."""
    notes = run.notes
    file = RunFolder(run.folder).scores
    scores = tables.read_scores(file)
    run.doubt = checks.doubt(run.folder, run.record, scores)
    if scores is None and tables.is_there(file):
        notes.append(
            "scores.csv is damaged, so its scores are not shown; repeat the cpbench run command to restore it."
        )
    elif scores is None:
        parts = [tables.read_scores(RunFolder(run.folder).task(t).scores) for t in range(run.tasks + 1)]
        task_tables = [table for table in parts if table is not None]
        scores = pd.concat(task_tables, ignore_index=True) if task_tables else None
        if scores is None:
            notes.append("There are no scores yet.")
    if scores is not None:
        notes += [f"These scores are in doubt and excluded from the leaderboard: {run.doubt}."] if run.doubt else []
        is_pair = scores["kind"] == "pair"  # of two concepts
        is_scaled = (scores["kind"] == equal_text.SCALED) & scores["concept"].str.rsplit("@", n=1).str[0].isin(
            run.concepts
        )
        is_valid = (scores["concept"].isin(run.concepts) | is_pair | is_scaled) & scores["row"].between(0, run.tasks)
        scores = scores[is_valid].copy()
        scores["value"] = scores["value"].where(np.isfinite(scores["value"]))
        run.scores = scores
        by_metric = retention_matrices.matrices(scores, run.concepts)
        run.scored_rows = sorted({int(r) for r in scores.loc[scores["kind"] == "cell", "row"].unique()})
        rows = range(run.tasks + 1)
        run.matrices = {metric: by_metric[metric].reindex(rows) for metric in main_first(by_metric)}
    if not run.is_finished:
        reason = f", {one_line(run.record.reason)}" if run.record.reason else ""
        progress = f"evaluated up to task {run.last} of {run.tasks}" if run.last else "no task has been evaluated yet"
        notes.append(
            f"This run is not finished (status: {run.record.status}{reason}): {progress}. The figures cover the evaluated tasks only."
        )
    skipped = [t for t in range(run.last + 1) if t not in run.scored_rows]
    if run.scored_rows and skipped:
        notes.append(
            f"Rows {ranges(skipped)} of the matrices were not evaluated (--rows); figures that need them are undefined."
        )
    if alone := [t for t in run.scored_rows if t not in run.whole_rows]:
        notes.append(
            f"Rows {ranges(alone)} of the matrices have the concept of their own task alone (evaluation.diagonal); figures that "
            "need other cells of them are undefined."
        )


def ranges(numbers: list[int]) -> str:
    """1, 2, 3, 7: "1-3, 7"."""
    spans: list[list[int]] = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans)


def add_prompts(run: RunView) -> None:
    """Add the prompts of each concept, in the order of the pictures' indices, if the record agrees with scores.csv."""
    cells = run.scores[run.scores["kind"] == "cell"]
    scored_prompts = {c: set(group["prompt"]) for c, group in cells.groupby("concept")}
    for concept, texts in run.record.sequence.prompts.items():
        if concept in run.concepts and set(texts) == scored_prompts.get(concept, set(texts)):
            run.prompts[concept] = texts
    if scored_prompts and len(run.prompts) < run.tasks:
        run.notes.append(
            "run.json does not contain the prompts of all concepts; missing prompts are numbered, and their pictures have no scores."
        )


def add_curves(run: RunView) -> None:
    """Add the training curves of all tasks in long form, see `curves.read`."""
    run.curves, damaged = curves.read(run.folder, run.tasks)
    if damaged:
        run.notes.append(f"The training curves of tasks {ranges(damaged)} are damaged and left out.")


def add_pictures(run: RunView) -> None:
    """Find the pictures that have changed since they were scored, by the hashes in their rows' records: they are not shown."""
    for t in range(run.tasks + 1):
        task = RunFolder(run.folder).task(t).path
        for name, digest in recorded_pictures(task).items():
            file = task / name
            if ".." in Path(name).parts or not os.path.isfile(file):
                continue
            if file.stat().st_size > MOST_BYTES_OF_PICTURE or file_hash(file) != digest:
                run.altered_pictures.add(file)
    if not any(RunFolder(run.folder).task(t).all_pictures.is_dir() for t in range(run.tasks + 1)):
        run.notes.append(
            "This folder has only the run's tables and at most a small grid of pictures. To restore its pictures and "
            f"training curves, run it again: {command(run)}"
        )
    if run.altered_pictures:
        first = min(run.altered_pictures).relative_to(run.folder)
        run.notes.append(
            f"{len(run.altered_pictures)} pictures have changed since they were scored and are left out (the first: {first}); "
            "repeat the cpbench run command to generate them again."
        )


def add_conditions(run: RunView) -> None:
    """Note which parts of the run were computed under different conditions."""
    if line := machine.differences([conditions.model_dump(mode="json") for conditions in run.record.made_on]):
        run.notes.append(one_line(line[:1].upper() + line[1:] + "."))


def add_costs(run: RunView) -> None:
    """Add the costs of each task from run.json, or from the task's own files if run.json was written before the task ended."""
    for t in range(run.tasks + 1):
        cost = run.record.costs.get(t) or task_cost(RunFolder(run.folder).task(t))
        numbers = {
            key: float(value)
            for key, value in cost.as_json().items()
            if key != "state_bytes" and abs(value) < MOST_NUMBER  # false for NaN
        }
        if cost.state_bytes:
            numbers["state_bytes"] = float(sum(cost.state_bytes.values()))
        if numbers:
            run.costs[t] = numbers


def task_cost(task: TaskFolder) -> Cost:
    """The costs in a task's own files; damaged values are left out."""
    numbers: dict[str, Any] = {}
    for file in (task.cost, task.row):
        content = read_json(file)
        part = content.get("cost") if isinstance(content, dict) else None
        with contextlib.suppress(ValidationError):
            numbers |= Cost.model_validate(cost_today(part)).as_json()
    return Cost.model_validate(numbers)


def add_identification(run: RunView) -> None:
    """Add counts of pictures by row, prompted concept and nearest concept; None without the file."""
    if not tables.is_there(file := RunFolder(run.folder).identification):
        return
    table = measures_table.read_confusion(run.folder)
    if table is None or (table["count"] < 0).any():
        run.notes.append(f"{file.name} is damaged and left out.")
        return
    run.identification = table[table["concept"].isin(run.concepts)].astype({"count": float})


# Other measures


def add_measures(run: RunView) -> None:
    """Add measures.csv for the rows with scores; None without the file."""
    table = measures_table.read(run.folder)
    if table is not None:
        run.measures = table[table["row"].isin(run.scored_rows)]
    elif tables.is_there(RunFolder(run.folder).measures):
        run.notes.append("measures.csv is damaged and left out.")


def add_classifier(run: RunView) -> None:
    """Add the diffusion classifier's matrix (shares of real pictures, one row per classified task); None without the file."""
    file = RunFolder(run.folder).classifier_matrix
    try:
        if not os.path.isfile(file):
            return
        if file.stat().st_size > MOST_TABLE_BYTES:
            raise ValueError("too large")
        text = file.read_text()
        head, *lines = csv.reader(io.StringIO(text), strict=True)
        if head != ["row", *run.concepts] or not text.endswith("\n"):
            raise ValueError("other columns, or cut")
        rows = [int(line[0]) for line in lines]
        values = np.array([[float(v) if v else math.nan for v in line[1:]] for line in lines])
        task_rows = set(range(run.tasks + 1))
        if values.shape != (len(rows), run.tasks) or len(set(rows) & task_rows) < len(lines):
            raise ValueError("rows that are none")
        if not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
            raise ValueError("shares that are none")
        run.classifier = pd.DataFrame(values, rows, run.concepts).sort_index()
    except (OSError, ValueError, IndexError, OverflowError, csv.Error):
        run.notes.append(f"{file.relative_to(run.folder).as_posix()} is damaged and left out.")


def metrics_of(runs: Sequence[RunView]) -> list[str]:
    """Names of the scores of all runs, in the order of the page: identity first."""
    return main_first({metric for run in runs for metric in run.matrices})


def main_metric(run: RunView) -> str:
    """The metric shown for single pictures and in curves."""
    return next(iter(run.matrices), MAIN)


def prompt_count(runs: Sequence[RunView]) -> int:
    """The number of prompts with pictures."""

    def has_pictures(k: int) -> bool:
        return any(run.picture(t, c, k) for run in runs for c in run.concepts for t in {0, run.last})

    return next((k for k in range(MOST_PROMPTS) if not has_pictures(k)), MOST_PROMPTS)


def figure(value: float | None) -> str:
    return number(value)


# Several runs


def label_runs(runs: list[RunView]) -> None:
    """Label each run by its method; where labels repeat, add seed and order, then the hash, or else a number."""
    seeds = [f"seed {run.record.config.seed}, order {run.record.config.order}" for run in runs]
    candidates = [
        [run.method for run in runs],
        [f"{run.method} ({seed})" for run, seed in zip(runs, seeds, strict=True)],
        [f"{run.method} ({seed}, {one_line(run.record.hash)})" for run, seed in zip(runs, seeds, strict=True)],
        [f"{run.method} ({k})" for k, run in enumerate(runs, 1)],
    ]
    names = next(names for names in candidates if len(set(names)) == len(names))
    for run, name in zip(runs, names, strict=True):
        run.label = name


def judge_identities(run: RunView) -> dict[str, dict[str, Any]]:
    """By judge, the facts that determine its scores."""
    return {name: judge.counted for name, judge in run.record.judges.items()}


def comparison_notes(runs: list[RunView]) -> list[str]:
    """Notes on the differences between runs on one page. UserError if their scores cannot be compared."""
    first, notes = runs[0], []
    for other in runs[1:]:
        refusal = f"{first.folder} and {other.folder} cannot be compared"
        if (first.sequence, sorted(first.concepts)) != (other.sequence, sorted(other.concepts)):
            raise UserError(
                f"{refusal}: their sequences or concepts differ ({first.sequence}, {other.sequence}); choose runs of the same sequence"
            )
        if first.pictures != other.pictures:
            raise UserError(
                f"{refusal}: one uses drawn stand-ins, the other photographs; choose runs with the same source of pictures"
            )
        if first.record.references != other.record.references:
            raise UserError(
                f"{refusal}: one is scored against its training pictures, the other against held-out ones; "
                "choose runs with the same references"
            )
        if judge_identities(first) != judge_identities(other):
            raise UserError(
                f"{refusal}: their judges differ, so their scores have different scales; choose runs with the same judges"
            )
    for key, nouns in (
        ("backbone", "backbones"),
        ("sampler", "samplers"),
        ("pictures_per_prompt", "numbers of pictures per prompt"),
        ("images", "training pictures"),
        ("references", "references"),
        ("dtype", "precisions"),
    ):
        if len({repr(getattr(run.record.facts, key)) for run in runs}) > 1:
            notes.append(f"These runs have different {nouns}, so their scores do not differ by the method alone.")
    if len({run.record.config.seed for run in runs}) > 1:
        notes.append("These runs have different seeds, so their pictures start from different noise.")
    if len({(*run.record.whole_rows, run.record.facts.diagonal) for run in runs}) > 1:
        notes.append("These runs have different rows of the matrix; a figure that needs a missing cell is empty.")
    if len({tuple(run.concepts) for run in runs}) > 1:
        notes.append("These runs learned the concepts in different orders.")
    return notes


# Repeating a run


def command(run: RunView) -> str:
    """The command line that repeats this run as long as the presets have not changed."""
    config, arguments = run.record.config.as_json(), ["cpbench", "run"]
    for key in ("method", "sequence", "backbone", "seed", "order", "data", "fit", *JUDGE_OPTIONS):
        value = config.get(key)
        if value is not None and (key, value) != ("fit", "crop"):
            arguments += [f"--{key.replace('_', '-')}", one_line(value)]
    for name in run.record.config.judges:
        arguments += ["--judge", name]
    batch_size = run.record.config.evaluation.get("batch_size")
    settings = run.record.changed | changed_evaluation(run.record.config.evaluation)
    settings |= {"evaluation.batch_size": batch_size} if batch_size not in (None, DEFAULT_BATCH_SIZE) else {}
    for key, value in settings.items():
        text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
        arguments += ["--set", f"{key}={text}"]
    for key, value in run.record.config.loading.items():
        if value not in (None, False, "auto"):
            arguments += [f"--{key.replace('_', '-')}", *([] if value is True else [one_line(value)])]
    return shlex.join(arguments)


def config_file(run: RunView) -> str:
    """The full configuration as YAML for `cpbench run --config FILE`: every option, independent of the presets."""
    config = {k: v for k, v in run.record.config.as_json().items() if v is not None and k != "output"}
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
