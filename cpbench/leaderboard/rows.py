"""The leaderboard's rows and groups: what is averaged over a configuration's runs, who is compared with whom, and the ranks."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cpbench.errors import UserError
from cpbench.files import short_hash
from cpbench.leaderboard import figures
from cpbench.leaderboard.entries import Run, by_concept, comparable
from cpbench.metrics.comparison import Key, compare
from cpbench.metrics.figures import FIGURES, Figure, table_figures
from cpbench.metrics.intervals import FEWEST_SEEDS, bootstrap, t_interval
from cpbench.metrics.scores import MAIN, among
from cpbench.metrics.scores import SCORES as SCORES_OF_PICTURES
from cpbench.records import measures_table
from cpbench.records.record import is_built_in, is_own, judge_names, sequence_name
from cpbench.registry import facts_of
from cpbench.version import SCORES

NONE = (math.nan, math.nan)
FINAL_SCORE = f"{MAIN}_final_average"
EARLIER = "†"  # behind a method whose runs another SCORES made
MEASURED = {"identified": "identified", "prior_drift": "moved"}  # in measures.csv
FEWEST_UNITS = 3  # concepts or nouns that an interval rests on
SOURCES = {"drawn": "drawn stand-ins", "photographs": "photographs"}


@dataclass
class Row:
    """A method's configuration: its runs, of each number the mean and standard deviation over them, of scores an interval.

    scores: the SCORES that its runs were made with; 0 where today's code is not known to give their numbers.
    """

    method: str
    hash: str  # of its runs; of several, which have other paths or pictures a call, the first
    scores: int
    replay_free: str  # yes, generated, no
    tested_against: str
    runs: list[Run]
    mean: dict[str, float]
    std: dict[str, float]  # NaN of one run
    low: dict[str, float]  # of scores alone: the 95 % interval of the mean; NaN where there is none
    high: dict[str, float]
    rank: int | None = None
    compared: int = 0  # with how many other rows

    @property
    def over(self) -> str:
        """What its intervals are over: "concepts" of one run, "seeds" (and orders) of three or more, else "-"."""
        if not any(math.isfinite(it) for it in self.low.values()):
            return "-"
        return "concepts" if len(self.runs) == 1 else "seeds"

    @property
    def label(self) -> str:
        """Its method, marked where another SCORES than today's made it."""
        return self.method + (EARLIER if self.scores != SCORES else "")

    def pictures(self, what: str) -> dict[tuple[int, int], dict[Key, float]]:
        """By (seed, order), DINO picture by picture: "finals", "learned" or "since", see `Run`."""
        return {run.draw: getattr(run, what) for run in self.runs}


@dataclass
class Group:
    """Rows that can be compared, the best first, and the facts that their runs share."""

    id: str
    facts: dict[str, Any]
    sequence: str
    backbone: str
    pictures: str
    judges: str
    rows: list[Row]
    apart: list[str] = field(default_factory=list)  # facts in which it differs from another group of its title

    @property
    def title(self) -> str:
        return f"{self.sequence} on {self.backbone} ({SOURCES[self.pictures]})"

    def rank(self, row: Row) -> str:
        if row.rank is None:
            return "-"
        return str(row.rank) + ("~" if row.compared < len(self.rows) - 1 else "")

    @property
    def concepts(self) -> list[str]:
        """In the sequence's order, if one of the runs has it."""
        every = [run for row in self.rows for run in row.runs]
        return min(every, key=lambda run: run.record.config.order).record.sequence.concepts


# What is averaged


def in_tables() -> list[str]:
    """The figures that one run's scores tell, by name: those with an interval first, which is leaderboard.csv's order."""
    return [it.name for it in sorted(table_figures(), key=lambda it: it.resampled is None)]


def scores(run: Run, alone: Run | None) -> dict[str, float]:
    """What tells how good a run is; NaN is not defined, or not measured. alone: the run of `isolated` it is measured by."""
    out: dict[str, float | None] = {}
    for metric in among({*SCORES_OF_PICTURES, *run.figures}):
        out |= {f"{metric}_{k}": run.figures.get(metric, {}).get(k) for k in in_tables()}
    out |= {f"{MAIN}_{figure.name}": value for figure, value in of_pictures(run, alone)}
    out |= {column: run.measured.get(measure) for column, measure in MEASURED.items()}
    return {k: math.nan if v is None else float(v) for k, v in out.items()}


def costs(run: Run) -> dict[str, float]:
    every = [cost for _, cost in sorted(run.record.costs.items())]
    seconds = sum(cost.learning_seconds for cost in every)
    carried = float(sum(every[-1].state_bytes.values())) if every else 0.0
    out = {
        "carried_MB": carried / 1e6,
        "carried_kB": carried / 1e3,
        "carried_parameters": every[-1].state_parameters if every else 0.0,
        "trainable_parameters": max((cost.trainable_parameters for cost in every), default=0.0),
        "learning_unet_evaluations": sum(cost.learning_evaluations for cost in every),
        "learning_seconds": seconds,
        "learning_minutes": seconds / 60,
    }
    return {k: float(v) for k, v in out.items()}


# Intransigence


def alone_of(rows: Sequence[Sequence[Run]]) -> list[Run]:
    """The runs of `isolated` with its usual settings that have their scores; [] without such a row.

    Of several such rows of a group, made by different code, say, the one with the most runs, so that all others are
    measured by one and the same.
    """
    found = [[run for run in row if run.learned] for row in rows if is_isolated(row[0])]
    return max(found, key=len, default=[])  # the first of equally many: rows come by their hash


def is_isolated(run: Run) -> bool:
    record = run.record
    return record.facts.method == "isolated" and not record.changed and not is_own(record)


def reference_of(run: Run, alone: Sequence[Run]) -> Run | None:
    """The run of `isolated` of the same seed, and of the same order if there is one: it learns every concept alone."""
    seed, order = run.draw
    same = [it for it in alone if it.draw[0] == seed]
    return min(same, key=lambda it: (it.draw[1] != order, it.draw[1]), default=None)


def of_pictures(run: Run, alone: Run | None) -> list[tuple[Figure, float]]:
    """The figures that are not in a run, by DINO, pictures averaged in concepts; NaN where a concept they need has none."""
    concepts = run.record.sequence.concepts
    given = {name: in_concepts(own, concepts) for name, own in pictures_of(run, alone).items()}
    T = len(concepts)
    R = np.full((T + 1, T), np.nan)
    np.fill_diagonal(R[1:], given["learned"])
    R[T] = in_concepts(run.finals, concepts)
    return [(figure, figure.value(R, **given)) for figure in FIGURES.values() if not figure.in_a_run]


def pictures_of(run: Run, alone: Run | None) -> dict[str, dict[Key, float]]:
    """What `Figure.interval` is of."""
    return {"learned": run.learned, "since": run.since, "isolated": alone.learned if alone else {}}


def in_concepts(pictures: dict[Key, float], concepts: Sequence[str]) -> list[float]:
    """The mean of each concept's pictures, as a cell of the matrix is; NaN without a picture."""
    of = by_concept(pictures)
    return [of.get(c, math.nan) for c in concepts]


# Intervals


def own_intervals(run: Run, alone: Run | None) -> dict[str, tuple[float, float]]:
    """Of one run, the 95 % bootstrap of its concepts, prompts and pictures.

    Those of its figures, and from three concepts or nouns on those of MEASURED.
    """
    out, drawn = {}, {}
    with contextlib.suppress(ValueError):  # of a table that no run writes
        drawn = figures.bounds(run.folder, run.record.sequence.concepts)
    for metric, every in drawn.items():
        out |= {f"{metric}_{k}": v for k, v in every.items() if k in in_tables() and v is not None}
    for figure, value in of_pictures(run, alone):
        if figure.interval and not math.isnan(value):
            with contextlib.suppress(UserError):  # of two runs without a picture in common
                out[f"{MAIN}_{figure.name}"] = figure.interval(pictures_of(run, alone))
    table, last = measures_table.read(run.folder), len(run.record.sequence.concepts)
    for key, measure in MEASURED.items() if table is not None else ():
        own = table[(table["row"] == last) & (table["measure"] == measure)].dropna(subset="value")
        if len(own) >= FEWEST_UNITS:
            found = bootstrap(own["value"], list(own["concept"]))
            out[key] = (found.low, found.high)
    return out


def intervals_of(table: pd.DataFrame, runs: Sequence[Run], alone: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """By column of `table`, (runs, scores): of one run its own, of three or more Student's t over them, of two none."""
    if len(runs) == 1:
        return own_intervals(runs[0], reference_of(runs[0], alone))
    if len(runs) < FEWEST_SEEDS:
        return {}
    every = {key: t_interval(table[key].dropna()) for key in table}
    return {key: (it.low, it.high) for key, it in every.items()}


# What is said of a method


def tested_against(run: Run) -> str:
    name = run.record.facts.method
    return facts_of(name)["tested_against"] if is_ours(run) else "-"


def replay_free(run: Run) -> str:
    if run.sees_earlier_data:
        return "no"
    return facts_of(run.record.facts.method).get("replays") or "yes" if is_ours(run) else "yes"


def is_ours(run: Run) -> bool:
    return is_built_in(run.record)


# Rows, groups, ranks


def groups(runs: Sequence[Run]) -> list[Group]:
    """The finished runs as rows, in groups that can be compared, by title."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        if not run.state:
            together.setdefault(short_hash(comparable(run.record)), []).append(run)
    found = []
    for key, members in together.items():
        members.sort(key=lambda run: (run.draw, run.path))
        rows: dict[tuple[str, str], list[Run]] = {}
        for run in members:  # `entries.decided` has seen to it that a seed and order is there once
            rows.setdefault((run.method, run.settings), []).append(run)
        first = min(members, key=lambda run: run.key)  # equal weights may be called by two names
        named = (sequence_name(first.record), first.key[1], first.record.pictures, judge_names(first.record))
        by_name = sorted(rows.items())
        alone = alone_of([own for _, own in by_name])
        made = ranked([row_of(own, alone) for _, own in by_name])
        found.append(Group(key, comparable(first.record), *named, made))
    for group in found:
        others = [other.facts for other in found if other is not group and other.title == group.title]
        group.apart = [k for k in group.facts if any(other[k] != group.facts[k] for other in others)]
    return sorted(found, key=lambda group: (group.title, group.judges, group.id))


def row_of(runs: list[Run], alone: Sequence[Run]) -> Row:
    """The row of these runs, which `alone`, the runs of `isolated`, are the measure of."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of infinities, which a record may have
        good = pd.DataFrame([scores(run, reference_of(run, alone)) for run in runs])
        table = pd.concat([good, pd.DataFrame([costs(run) for run in runs])], axis=1)
        mean, std = table.mean().to_dict(), table.std().to_dict()
        found = intervals_of(good, runs, alone)
    low, high = ({key: found.get(key, NONE)[side] for key in good} for side in (0, 1))
    record = min((run.record for run in runs), key=lambda record: record.hash)
    of = (runs[0].method, record.hash, record.facts.scores, replay_free(runs[0]), tested_against(runs[0]))
    return Row(*of, runs, mean, std, low, high)


def ranked(rows: list[Row]) -> list[Row]:
    """The rows with their ranks, by final DINO. Every pair is compared once, over all concepts or not at all.

    A row without a final score has no rank: one that failed at what is hard must not be measured by the rest.
    """
    concepts = {key[0] for row in rows for run in row.runs for key in run.finals}
    for row in rows:
        row.rank = 1 if any(run.finals for run in row.runs) and math.isfinite(row.mean[FINAL_SCORE]) else None
    able = [row for row in rows if row.rank]
    for i, a in enumerate(able):
        for b in able[:i]:
            sides = common(a.pictures("finals"), b.pictures("finals"))
            if {key[0] for key in sides[0]} != concepts:
                continue
            found = compare(*sides)
            a.compared, b.compared = a.compared + 1, b.compared + 1
            if found.is_significant:
                worse = b if found.difference > 0 else a
                worse.rank += 1
    for row in able:
        if not row.compared and len(able) > 1:
            row.rank = None

    def place(row: Row) -> tuple:
        final = row.mean[FINAL_SCORE]
        return math.inf if math.isnan(final) else -final, row.rank or math.inf, row.method, row.hash

    return sorted(rows, key=place)


def common(
    mine: dict[tuple[int, int], dict[Key, float]], theirs: dict[tuple[int, int], dict[Key, float]]
) -> tuple[dict[Key, float], dict[Key, float]]:
    """Of two rows' `pictures`, by picture, each the mean over the seeds and orders in which both have that picture."""
    pairs: dict[Key, list[tuple[float, float]]] = {}
    for draw in mine.keys() & theirs.keys():
        for key in mine[draw].keys() & theirs[draw].keys():
            pairs.setdefault(key, []).append((mine[draw][key], theirs[draw][key]))
    means = {key: np.mean(sorted(pairs[key]), axis=0) for key in sorted(pairs)}  # sorted: sums of equal bytes
    return {k: float(v[0]) for k, v in means.items()}, {k: float(v[1]) for k, v in means.items()}
