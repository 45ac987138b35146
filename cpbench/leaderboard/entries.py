"""Runs as the leaderboard reads them: run.json and scores.csv of every folder, which may be from an untrusted source."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench.files import short_hash
from cpbench.leaderboard import figures as leaderboard_figures
from cpbench.metrics import equal_text
from cpbench.metrics.comparison import Key
from cpbench.metrics.scores import MAIN
from cpbench.output import say
from cpbench.records import checks, measures_table, tables
from cpbench.records.folder import RunFolder
from cpbench.records.reading import records
from cpbench.records.record import (
    Record,
    Scalar,
    contradiction,
    is_own,
    judge_names,
    method_name,
    sees_earlier_data,
    sequence_name,
)

if TYPE_CHECKING:
    import pandas as pd

MAX_PATHS = 3  # per message


@dataclass(frozen=True)
class Run:
    """One run folder.

    state: the reason why it is excluded, "" if it is included. sees_earlier_data: see the function of that name.
    finals, learned, since: DINO of each picture in the last row, right after its concept's own task, and as the mean over
    the evaluated rows from then on. equal_text: `equal_text.by_concept` of its scores. figures: `summary.summaries`, by metric. measures: means after the last task, {} without
    measures.csv. Figures and measures are read for included runs only.
    """

    folder: Path
    path: str  # relative to the results folder
    record: Record
    method: str
    sees_earlier_data: bool
    state: str
    finals: dict[Key, float]
    learned: dict[Key, float]
    since: dict[Key, float]
    equal_text: dict[str, dict[str, float]]
    figures: leaderboard_figures.Summary
    measures: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """(sequence, backbone, source of pictures, judges) by name, independent of hashes."""
        record = self.record
        return (sequence_name(record), Path(record.config.backbone).name, record.pictures, judge_names(record))

    @property
    def settings(self) -> str:
        """Hash of the facts that distinguish its row: the method, its options and the versions of the code."""
        facts = self.record.facts
        return short_hash([self.method, facts.options, facts.scores, facts.versions, facts.source])

    @property
    def seed_and_order(self) -> tuple[int, int]:
        return self.record.config.seed, self.record.config.order


def read_runs(folder: Path) -> list[Run]:
    """Every readable run below `folder`, see `without_duplicates`. Unreadable records are reported and left out."""
    return without_duplicates(
        [run_of(path, path.relative_to(folder).as_posix(), record) for path, record in records(folder)]
    )


def without_duplicates(runs: list[Run]) -> list[Run]:
    """The runs, of which at most one is included per configuration, seed and order. Every decision is reported.

    Of copies, whose tables have the same bytes, one is included. If tables differ, none is: it is unknown which one is
    right, and a missing row is noticed more easily than a wrong one.
    """
    by_seed: dict[tuple, list[Run]] = {}
    for run in runs:
        if not run.state:
            key = (short_hash(comparable_facts(run.record)), run.settings, run.seed_and_order, is_reference(run))
            by_seed.setdefault(key, []).append(run)
    counted, conflicting = [], []
    for same_seed in map(at_most_strengths, by_seed.values()):
        # by path, so that the result does not depend on the order of reading
        *duplicates, last = sorted(same_seed, key=lambda run: run.path)
        if all(table_hashes(copy) == table_hashes(last) for copy in duplicates):
            counted.append(last)
            if duplicates:
                say(f"counted once: {path_list([last, *duplicates])} are copies of the same run")
            continue
        say(
            f"left out {path_list([*duplicates, last])}: same configuration, seed and order but different scores; remove all but one"
        )
        for run in same_seed:
            conflicts = [other for other in same_seed if other is not run]
            conflicting.append(
                replace(run, state=f"same settings, seed and order as {path_list(conflicts)}, but different scores")
            )
    counted = without_replaced_references(counted)
    return counted + conflicting + [run for run in runs if run.state]


def at_most_strengths(runs: list[Run]) -> list[Run]:
    """Of runs that differ in nothing else those that have their last row at the most strengths; of as many the largest."""

    def strengths(run: Run) -> tuple[int, tuple[float, ...]]:
        scales = run.record.facts.adapter_scales
        return len(scales), tuple(map(float, sorted(scales)))

    most = max(map(strengths, runs))
    left_out = [run for run in runs if strengths(run) != most]
    if left_out:
        say(
            f"left out {path_list(left_out)}: another run of the same settings, seed and order has its last row at more, or "
            "at larger, strengths"
        )
    return [run for run in runs if run not in left_out]


def replacement_key(run: Run) -> tuple:
    """What a user's run and the reference run that it replaces have in common."""
    return run.key, run.record.references, run.method, run.seed_and_order


def without_replaced_references(runs: list[Run]) -> list[Run]:
    """Without reference runs for which the user has a run of the same method, seed and order, whatever the hashes."""
    user_runs: dict[tuple, list[Run]] = {}
    for run in runs:
        if not is_reference(run):
            user_runs.setdefault(replacement_key(run), []).append(run)
    replaced = [run for run in runs if is_reference(run) and replacement_key(run) in user_runs]
    if replaced:
        pairs = [f"{run.path} by {path_list(user_runs[replacement_key(run)])}" for run in replaced[:MAX_PATHS]]
        remainder = [f"and {len(replaced) - MAX_PATHS} more"] if len(replaced) > MAX_PATHS else []
        say(f"reference runs replaced by yours: {'; '.join([*pairs, *remainder])}")
    return [run for run in runs if all(run is not reference for reference in replaced)]


def path_list(runs: list[Run]) -> str:
    """Their paths, at most MAX_PATHS of them."""
    remainder = [f"{len(runs) - MAX_PATHS} more"] if len(runs) > MAX_PATHS else []
    return " and ".join([run.path for run in runs[:MAX_PATHS]] + remainder)


def table_hashes(run: Run) -> list[str | None]:
    """SHA-256 of the tables that its numbers are computed from; None for a missing table."""
    files = [RunFolder(run.folder).scores, RunFolder(run.folder).measures]
    return [tables.table_hash(file) if tables.is_there(file) else None for file in files]


def is_reference(run: Run) -> bool:
    return "reference" in Path(run.path).parts


def run_of(folder: Path, path: str, record: Record) -> Run:
    sees_earlier = sees_earlier_data(record)
    method = method_name(record) + (" (own file)" if is_own(record) else "") + ("*" if sees_earlier else "")
    finals, learned, since, problem = dino_scores(folder, record)
    measures: dict[str, float] = {}
    at_equal_text: dict[str, dict[str, float]] = {}
    figures: leaderboard_figures.Summary = {}
    if record.is_finished:
        problem = contradiction(record) or problem or checks.wrong_measures(folder, record)
    if record.is_finished and not problem:
        measures = measure_means(folder, record)
        at_equal_text = equal_text_of(folder, record)
        try:
            figures = leaderboard_figures.summary(folder, record.sequence.concepts)
        except ValueError as error:
            problem = str(error)
    state = (("" if record.is_finished else f"{record.status}: ") + problem).removesuffix(": ")
    return Run(
        folder, path, record, method, sees_earlier, state, finals, learned, since, at_equal_text, figures, measures
    )


def dino_scores(folder: Path, record: Record) -> tuple[dict[Key, float], dict[Key, float], dict[Key, float], str]:
    """(finals, learned, since, problem): DINO by (concept, prompt, index), see `Run`, and why the scores are incomplete.

    `since` is over the rows that the run was to evaluate, and {} if a concept has no score in one of them from its own task
    on. A record without scores.csv is a problem: its figures alone prove nothing.
    """
    concepts, file = record.sequence.concepts, RunFolder(folder).scores
    scores = tables.read_scores(file)
    if not record.is_finished and not tables.is_there(file):
        rows = [t for t in record.rows if RunFolder(folder).task(t).scores.is_file()]
        return {}, {}, {}, f"{len(rows)} of {len(record.rows)} rows exist"
    problem = checks.wrong_scores(folder, record, scores) if scores is None or record.is_finished else ""
    if scores is None or problem:
        return {}, {}, {}, problem
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == MAIN) & scores["concept"].isin(concepts)]
    rows = set(cells["row"]) & set(record.rows)
    problem = "" if len(rows) == len(record.rows) else f"{len(rows)} of {len(record.rows)} rows exist"
    own_task = cells["concept"].map({c: t for t, c in enumerate(concepts, 1)})
    finals = by_picture(cells[cells["row"] == len(concepts)])
    since = cells[(cells["row"] >= own_task) & cells["row"].isin(record.rows)]
    means = since.groupby(["concept", "prompt", "index"], as_index=False)["value"].mean()
    numbers_per_cell = since.groupby(["row", "concept"])["value"].count()
    expected = [
        (t, c) for j, c in enumerate(concepts, 1) for t in record.rows if t >= j and (t in record.whole_rows or t == j)
    ]
    is_complete = all(numbers_per_cell.get(cell, 0) > 0 for cell in expected)
    return finals, by_picture(cells[cells["row"] == own_task]), by_picture(means) if is_complete else {}, problem


def equal_text_of(folder: Path, record: Record) -> dict[str, dict[str, float]]:
    """`equal_text.by_concept` of a run that has other strengths; {} of others."""
    scores = tables.read_scores(RunFolder(folder).scores) if record.facts.adapter_scales else None
    return {} if scores is None else equal_text.by_concept(scores, record.sequence.concepts)


def measure_means(folder: Path, record: Record) -> dict[str, float]:
    """Mean of each measure in the last row; {} without measures.csv."""
    table = measures_table.read(folder)
    return {} if table is None else measures_table.summary(table, len(record.sequence.concepts))


def by_concept(pictures: dict[Key, float]) -> dict[str, float]:
    """The mean of each concept's pictures, as in a matrix cell."""
    values: dict[str, list[float]] = {}
    for (concept, _, _), value in sorted(pictures.items()):  # sorted: same sums, byte for byte
        values.setdefault(concept, []).append(value)
    return {concept: sum(scores) / len(scores) for concept, scores in values.items()}


def by_picture(cells: pd.DataFrame) -> dict[Key, float]:
    """The finite values, by (concept, prompt, index)."""
    lines = zip(cells["concept"], cells["prompt"], cells["index"], cells["value"], strict=True)
    return {(c, p, int(k)): float(v) for c, p, k, v in lines if math.isfinite(v)}


# Comparable runs


def comparable_facts(record: Record) -> dict[str, Any]:
    """The facts that runs in one table share. A fact missing from an old record is None, which matches only None.

    Seed and order are not included, because rows average over them. Neither is the batch size of sampling, because every
    picture has its own noise.
    """
    facts, last = record.facts, len(record.sequence.concepts)
    return {
        "sequence": facts.sequence or f"{sequence_name(record)}: {', '.join(sorted(record.sequence.concepts))}",
        "images": None if facts.images is None else short_hash(dict(facts.images)),
        "pictures": record.pictures,
        "references": None if facts.references is None else short_hash(dict(facts.references)),
        "backbone": facts.backbone or Path(record.config.backbone).name,
        "judges": {name: judge.compared for name, judge in sorted(record.judges.items())},
        "sampler": None
        if facts.sampler is None
        else {k: as_float(v) for k, v in facts.sampler.items() if k != "batch_size"},
        "pictures_per_prompt": facts.pictures_per_prompt,
        "dtype": facts.dtype,
        "picture_size": facts.picture_size,
        "rows": generated_rows(record, last),
    }


def generated_rows(record: Record, last: int) -> str | list[int]:
    """The rows of the matrix: "all", their numbers, or both the numbers of whole rows and a word for single concepts."""
    rows = record.whole_rows
    if rows == list(range(last + 1)):
        return "all"
    return f"{', '.join(map(str, rows))} and the diagonal" if record.facts.diagonal else rows


def as_float(value: Scalar) -> Scalar:
    """An integer as a float, so that a guidance scale of 4 equals 4.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
