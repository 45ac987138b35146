"""Runs as the leaderboard reads them: run.json and scores.csv of every folder, with care, for they may come from anybody."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench.files import short_hash
from cpbench.leaderboard import figures as leaderboard_figures
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

MOST_NAMED = 3  # of many runs in a line


@dataclass(frozen=True)
class Run:
    """One folder. state: why it does not count, "" if it does; sees_earlier_data: see the function of that name.

    Of DINO, picture by picture: finals, the last row; learned, each concept right after its own task; since, the mean over
    all rows from then on. figures: by metric, `summary.summaries`; measured: by measure, the mean at the end, {} where
    nothing was measured; both of the tables, and of runs that count alone.
    """

    folder: Path
    path: str  # below the folder of results
    record: Record
    method: str
    sees_earlier_data: bool
    state: str
    finals: dict[Key, float]
    learned: dict[Key, float]
    since: dict[Key, float]
    figures: leaderboard_figures.Summary
    measured: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What its row is called by, whatever the hash."""
        record = self.record
        return (sequence_name(record), Path(record.config.backbone).name, record.pictures, judge_names(record))

    @property
    def settings(self) -> str:
        """Eight digits of what tells its row from others: the method, its options, and the versions of what computed."""
        facts = self.record.facts
        return short_hash([self.method, facts.options, facts.scores, facts.versions, facts.source])

    @property
    def draw(self) -> tuple[int, int]:
        return self.record.config.seed, self.record.config.order


def read(folder: Path) -> list[Run]:
    """Every run below `folder` that can be read, see `decided`. Records of other content are named in a line, and left out."""
    return decided([run_of(path, path.relative_to(folder).as_posix(), record) for path, record in records(folder)])


def decided(found: list[Run]) -> list[Run]:
    """The runs, no two that count of one configuration, seed and order; what is done about such is said in a line each.

    Of copies, whose tables have the same bytes, one is kept. Of runs with other tables none counts: which of them is right
    cannot be told from here, and a row that is missing is noticed where a wrong one is not.
    """
    alike: dict[tuple, list[Run]] = {}
    for run in found:
        if not run.state:
            key = (short_hash(comparable(run.record)), run.settings, run.draw, is_reference(run))
            alike.setdefault(key, []).append(run)
    kept, doubtful = [], []
    for runs in alike.values():
        # by path, so that the order in which they were found decides nothing
        *others, last = sorted(runs, key=lambda run: run.path)
        if all(table_hashes(it) == table_hashes(last) for it in others):
            kept.append(last)
            if others:
                say(f"counted once: {listed([last, *others])} are copies of one run")
            continue
        say(
            f"left out {listed([*others, last])}: one configuration, seed and order, and other scores; remove all but one"
        )
        for run in runs:
            rest = [it for it in runs if it is not run]
            doubtful.append(
                replace(run, state=f"of the same settings, seed and order as {listed(rest)}, and other scores")
            )
    kept = own_first(kept)
    return kept + doubtful + [run for run in found if run.state]


def own_first(runs: list[Run]) -> list[Run]:
    """Without the reference runs that the reader has runs of: of that method, seed and order, whatever their hashes."""
    own: dict[tuple, list[Run]] = {}
    for run in runs:
        if not is_reference(run):
            own.setdefault((run.key, run.method, run.draw), []).append(run)
    gone = [run for run in runs if is_reference(run) and (run.key, run.method, run.draw) in own]
    if gone:
        pairs = [f"{run.path} to {listed(own[run.key, run.method, run.draw])}" for run in gone[:MOST_NAMED]]
        more = [f"and {len(gone) - MOST_NAMED} more"] if len(gone) > MOST_NAMED else []
        say(f"reference runs that give way to yours: {'; '.join([*pairs, *more])}")
    return [run for run in runs if all(run is not it for it in gone)]


def listed(runs: list[Run]) -> str:
    """Their paths."""
    more = [f"{len(runs) - MOST_NAMED} more"] if len(runs) > MOST_NAMED else []
    return " and ".join([run.path for run in runs[:MOST_NAMED]] + more)


def table_hashes(run: Run) -> list[str | None]:
    """SHA-256 of what its numbers are computed from; None for a table that is not there."""
    files = [RunFolder(run.folder).scores, RunFolder(run.folder).measures]
    return [tables.table_hash(file) if tables.is_there(file) else None for file in files]


def is_reference(run: Run) -> bool:
    return "reference" in Path(run.path).parts


def run_of(folder: Path, path: str, record: Record) -> Run:
    sees = sees_earlier_data(record)
    method = method_name(record) + (" (own file)" if is_own(record) else "") + ("*" if sees else "")
    finals, learned, since, lacking = scores_of(folder, record)
    measured: dict[str, float] = {}
    figures: leaderboard_figures.Summary = {}
    if record.is_finished:
        lacking = contradiction(record) or lacking or checks.wrong_measures(folder, record)
    if record.is_finished and not lacking:
        measured = measured_in(folder, record)
        try:
            figures = leaderboard_figures.summary(folder, record.sequence.concepts)
        except ValueError as error:
            lacking = str(error)
    state = (("" if record.is_finished else f"{record.status}: ") + lacking).removesuffix(": ")
    return Run(folder, path, record, method, sees, state, finals, learned, since, figures, measured)


def scores_of(folder: Path, record: Record) -> tuple[dict[Key, float], dict[Key, float], dict[Key, float], str]:
    """DINO by (concept, prompt, index) of the last row, right after a concept's own task, and the mean over all rows from
    then on, {} where a concept has no picture in one of them; and what of the rows is lacking.

    A record alone, without its scores.csv, does not count: anybody can write figures.
    """
    concepts, file = record.sequence.concepts, RunFolder(folder).scores
    if not tables.is_there(file):
        rows = [t for t in record.rows if RunFolder(folder).task(t).scores.is_file()]
        if record.is_finished:
            return {}, {}, {}, "its scores.csv is missing"
        return {}, {}, {}, f"{len(rows)} of {len(record.rows)} rows are there"
    scores = tables.read_scores(file)
    if scores is None:
        return {}, {}, {}, "its scores.csv is damaged"
    if record.is_finished and (wrong := checks.wrong_scores(folder, record, scores)):
        return {}, {}, {}, wrong
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == MAIN) & scores["concept"].isin(concepts)]
    rows = set(cells["row"]) & set(record.rows)
    lacking = "" if len(rows) == len(record.rows) else f"{len(rows)} of {len(record.rows)} rows are there"
    own_task = cells["concept"].map({c: t for t, c in enumerate(concepts, 1)})
    finals = by_picture(cells[cells["row"] == len(concepts)])
    later = cells[cells["row"] >= own_task]
    means = later.groupby(["concept", "prompt", "index"], as_index=False)["value"].mean()
    whole = later.groupby(["row", "concept"])["value"].count().all()
    return finals, by_picture(cells[cells["row"] == own_task]), by_picture(means) if whole else {}, lacking


def measured_in(folder: Path, record: Record) -> dict[str, float]:
    """By measure its mean in the last row; {} without measures.csv."""
    table = measures_table.read(folder)
    return {} if table is None else measures_table.summary(table, len(record.sequence.concepts))


def by_concept(pictures: dict[Key, float]) -> dict[str, float]:
    """The mean of each concept's pictures, as a matrix has it."""
    of: dict[str, list[float]] = {}
    for (concept, _, _), value in sorted(pictures.items()):  # sorted: sums of equal bytes
        of.setdefault(concept, []).append(value)
    return {concept: sum(own) / len(own) for concept, own in of.items()}


def by_picture(cells: pd.DataFrame) -> dict[Key, float]:
    """The values that are numbers, by (concept, prompt, index)."""
    lines = zip(cells["concept"], cells["prompt"], cells["index"], cells["value"], strict=True)
    return {(c, p, int(k)): float(v) for c, p, k, v in lines if math.isfinite(v)}


# What makes runs comparable


def comparable(record: Record) -> dict[str, Any]:
    """The facts in which runs must agree to be in one table. What a record is too old to say is None, and agrees with None.

    The order and the seed are not among them: they are what is averaged over. The number of pictures a pipeline call
    takes is not either: every picture has noise of its own.
    """
    facts, last = record.facts, len(record.sequence.concepts)
    return {
        "sequence": facts.sequence or f"{sequence_name(record)}: {', '.join(sorted(record.sequence.concepts))}",
        "images": None if facts.images is None else short_hash(dict(facts.images)),
        "pictures": record.pictures,
        "backbone": facts.backbone or Path(record.config.backbone).name,
        "judges": {name: judge.compared for name, judge in sorted(record.judges.items())},
        "sampler": None
        if facts.sampler is None
        else {k: as_float(v) for k, v in facts.sampler.items() if k != "batch_size"},
        "pictures_per_prompt": facts.pictures_per_prompt,
        "dtype": facts.dtype,
        "picture_size": facts.picture_size,
        "rows": "all" if record.rows == list(range(last + 1)) else record.rows,
    }


def as_float(value: Scalar) -> Scalar:
    """A guidance of 4 is one of 4.0."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
