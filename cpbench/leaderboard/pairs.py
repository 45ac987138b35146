"""Which rows of a table differ: verdicts on all of its pairs at once (`metrics.verdicts`), and the ranks that follow.

The primary score, fixed before any run, is a concept's mean DINO over the evaluated rows since it was learned. The last row alone
is secondary: its scores spread more over concepts, and the one task that a run ends with moves all of them together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpbench.leaderboard.rows import Row
from cpbench.metrics import equal_text
from cpbench.metrics.comparison import Key, sign_flip
from cpbench.metrics.intervals import concept_means
from cpbench.metrics.verdicts import FEWEST_CONCEPTS, Effect, Verdict, effect, verdicts

Ending = tuple[int, int]  # seed and order


@dataclass(frozen=True)
class RankingScore:
    """A score of single concepts that rows can be ranked by.

    column: its mean, in `Row.mean`. part: the attribute of `entries.Run` with DINO by picture; "" if it is in `Run.equal_text`.
    """

    name: str
    title: str
    column: str
    part: str = ""


RANKING_SCORES = {
    score.name: score
    for score in (
        RankingScore("over-tasks", "DINO over tasks", "dino_over_tasks", "since"),
        RankingScore("final", "final DINO", "dino_final_average", "finals"),
        RankingScore("dino-at-90", "DINO at 90 % of CLIP-T", "dino_at_90"),
        RankingScore("dino-at-95", "DINO at 95 % of CLIP-T", "dino_at_95"),
        RankingScore("dino-area", "DINO over CLIP-T", equal_text.AREA),
    )
}
PRIMARY = RANKING_SCORES["over-tasks"]
# What `cpbench compare` shows of two methods. "change" is the last row minus right after each concept's own task.
PARTS = {"since": "over tasks", "finals": "at the end", "learned": "right after learning", "change": "change since"}


@dataclass(frozen=True)
class Pair:
    """What is shown of two rows: the effect is of the first minus the second, over concepts and endings.

    p_of_signs: of `sign_flip` over the concepts' mean differences, beside Student's in `effect`.
    """

    effect: Effect
    verdict: Verdict
    p_of_signs: float

    @property
    def sign(self) -> str:
        """How the first stands to the second: + or - where they differ, = alike, . open."""
        if self.verdict == "differs":
            return "+" if self.effect.mean > 0 else "-"
        return "=" if self.verdict == "alike" else "."


def values(row: Row, part: str) -> dict[Ending, dict[Key, float]]:
    """DINO of each picture, by ending; part: a key of PARTS."""
    if part != "change":
        return row.pictures(part)
    ends, starts = row.pictures("finals"), row.pictures("learned")
    return {d: {k: ends[d][k] - starts[d][k] for k in ends[d].keys() & starts[d].keys()} for d in ends}


def differences(a: Row, b: Row, part: str, name: str = "") -> tuple[list[str], NDArray[np.float64]]:
    """(concepts, their differences a - b (C, O)) over the endings that both rows have; pictures are paired by prompt and noise.

    part: of a RankingScore, or a key of PARTS; name: if it is "", the key of `Run.equal_text`. Concepts that lack a value in one of the endings are left out.
    """
    columns: list[dict[str, float]] = []
    for ending in sorted(_endings(a) & _endings(b)):
        if part:
            first, second = values(a, part)[ending], values(b, part)[ending]
            if not first or not second:  # one of the two has no such score of this ending
                continue
            keys = sorted(first.keys() & second.keys())
            names, means = concept_means([first[k] - second[k] for k in keys], *([k[i] for k in keys] for i in (0, 1)))
            columns.append({c: float(m) for c, m in zip(names, means, strict=True)})
        else:
            of_a, of_b = (_at_equal_text(row, ending, name) for row in (a, b))
            if not of_a or not of_b:
                continue
            columns.append({c: of_a[c] - of_b[c] for c in of_a.keys() & of_b.keys()})
    concepts = sorted(set.intersection(*map(set, columns))) if columns else []
    concepts = [c for c in concepts if all(math.isfinite(column[c]) for column in columns)]
    return concepts, np.array([[column[c] for column in columns] for c in concepts]).reshape(
        len(concepts), len(columns)
    )


def _endings(row: Row) -> set[Ending]:
    return {run.seed_and_order for run in row.runs}


def _at_equal_text(row: Row, ending: Ending, name: str) -> dict[str, float]:
    run = next(run for run in row.runs if run.seed_and_order == ending)
    return run.equal_text.get(name, {})


def _concepts(row: Row, score: RankingScore) -> set[str]:
    """The concepts that the row has a score of, in any of its runs."""
    if score.part:
        return {key[0] for pictures in row.pictures(score.part).values() for key in pictures}
    names = [run.equal_text.get(score.column, {}) for run in row.runs]
    return {concept for by_concept in names for concept, value in by_concept.items() if math.isfinite(value)}


def compared(rows: Sequence[Row], score: RankingScore) -> dict[tuple[int, int], Pair]:
    """By (i, j), i < j, every pair of rows that have a score of all concepts of the table in a common ending."""
    concepts = set().union(*(_concepts(row, score) for row in rows)) if rows else set()
    tables = {}
    for i, j in itertools.combinations(range(len(rows)), 2):
        names, table = differences(rows[i], rows[j], score.part, score.column)
        if names and set(names) == concepts:
            tables[i, j] = table
    return pairs_of(tables)


def pairs_of(tables: dict[tuple[int, int], NDArray[np.float64]]) -> dict[tuple[int, int], Pair]:
    """The verdicts on these tables of differences (C, O), as one family of tests."""
    effects = {pair: effect(table) for pair, table in tables.items()}
    words = verdicts(effects)
    return {pair: Pair(effects[pair], words[pair], sign_flip(tables[pair].mean(1))) for pair in tables}


def ranked(rows: list[Row], score: RankingScore = PRIMARY) -> tuple[list[Row], dict[tuple[int, int], Pair]]:
    """(the rows, sorted and with their ranks; their pairs by position).

    A rank is 1 + the number of rows that are shown to be better; there is none under FEWEST_CONCEPTS concepts. A row without
    the score has none either: a method that fails on hard concepts must not be ranked by the others.
    """
    most = max((len(_concepts(row, score)) for row in rows), default=0)

    def place(row: Row) -> tuple[bool, float, str, str]:
        mean = row.mean.get(score.column, math.nan)
        is_partial = len(_concepts(row, score)) < most  # a mean over the concepts that reach it is not comparable
        return is_partial, math.inf if math.isnan(mean) else -mean, row.method, row.hash

    rows = sorted(rows, key=place)
    pairs = compared(rows, score)
    for i, row in enumerate(rows):
        signs = [sign(pairs, i, j) for j in range(len(rows))]
        row.compared = sum(s not in ("", "?") for s in signs)
        row.below = len({other.family for s, other in zip(signs, rows, strict=True) if s == "+"} - {row.family})
        has_score = math.isfinite(row.mean.get(score.column, math.nan))
        has_rank = most >= FEWEST_CONCEPTS and has_score and (row.compared or len(rows) == 1)
        row.rank = 1 + signs.count("-") if has_rank else None
    return rows, pairs


_TURNED = {"+": "-", "-": "+", "=": "=", ".": "."}


def sign(pairs: dict[tuple[int, int], Pair], i: int, j: int) -> str:
    """How row i stands to row j; "" on the diagonal, "?" for rows that were not compared."""
    if i == j:
        return ""
    pair = pairs.get((min(i, j), max(i, j)))
    if pair is None:
        return "?"
    return pair.sign if i < j else _TURNED[pair.sign]
