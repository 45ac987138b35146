"""The figures of a run: numbers of its retention matrix by one score, an object each.

run.json, the bootstrap, a run's tables, the report and the leaderboard read what a figure is called, says and computes from
`FIGURES`, in its order: a new one is one entry here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cpbench.metrics import retention
from cpbench.metrics.comparison import Key, compare
from cpbench.metrics.cosines import ROUNDING, Array
from cpbench.metrics.intervals import bootstrap

NOISE_SAMPLES = 4000
OF_A_RUN = ("ceiling", "upper", "standard_errors")  # what one run's scores tell
OF_THE_LEADERBOARD = ("since", "isolated")  # what takes single pictures, or another run
Pictures = Mapping[Key, float]


@dataclass(frozen=True)
class Columns:
    """Of drawn concepts (draws, n): the floor, right after its own task, the end, the best before the end and with it."""

    floor: Array
    learned: Array
    last: Array
    best_before: Array
    best: Array
    ceiling: Array


@dataclass(frozen=True)
class Figure:
    """One number of a run by one score.

    name: its key in run.json and, behind the score's, in leaderboard.csv. title, says: how tables head it, and what it is,
    in a sentence; what stands in [ ] is said where one score alone is meant, whose title is {score}. higher_is_better:
    None is neither.

    of: its function, of the retention matrix R (T+1, T) and, by keyword, of what `needs` names; NaN where it is not defined.

        ceiling          (T,) what the real pictures score among themselves, NaN where a score has no ceiling
        upper            (T+1, T) R with the cells of concepts not yet learned, NaN where they were not drawn
        standard_errors  (T+1, T) of R's cells, NaN where there is none
        since            (T,) each concept's mean over all models since it was learned
        isolated         (T,) each concept's score right after its own task in the run of `isolated` of the same seed

    The last two are known to the leaderboard alone, and by DINO: a figure that needs one is not in a run, can have nothing of
    the first three, and sees of R its last row and each concept right after its own task.

    resampled: the same of drawn concepts, (draws, n) columns to (draws,): what its interval is made of, see
    `figure_intervals`; without it there is none. earlier: it is of all concepts but the last learned.
    interval: (low, high) of a figure that is not in a run, from DINO picture by picture, "learned" (right after each
    concept's own task), "since" and "isolated".
    in_tables: whether tables have it; else it is in run.json alone. column: its place among the leaderboard's columns (by
    DINO); None: it is in leaderboard.csv and leaderboard.json alone.
    """

    name: str
    title: str
    says: str
    higher_is_better: bool | None
    of: Callable[..., float]
    needs: tuple[str, ...] = ()
    resampled: Callable[[Columns], Array] | None = None
    earlier: bool = False
    interval: Callable[[Mapping[str, Pictures]], tuple[float, float]] | None = None
    in_tables: bool = True
    column: int | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.needs) - {*OF_A_RUN, *OF_THE_LEADERBOARD}:
            raise ValueError(f"figure {self.name}: needs {', '.join(sorted(unknown))}, which nothing gives")
        if not self.in_a_run and set(self.needs) & set(OF_A_RUN):
            raise ValueError(f"figure {self.name}: needs {', '.join(self.needs)}, which nothing gives together")

    @property
    def in_a_run(self) -> bool:
        """Whether one run's scores tell it."""
        return set(self.needs) <= set(OF_A_RUN)

    def value(self, R: ArrayLike, **arrays: ArrayLike) -> float:
        """Of a matrix (T+1, T), with at least what it needs."""
        return self.of(R, **{name: arrays[name] for name in self.needs})

    def heading(self, score: str = "") -> str:
        """Its title; by the score of this title, or of several."""
        return _by(score, self.title)

    def sentence(self, score: str = "") -> str:
        """What it says; by the score of this title, or of several."""
        return _by(score, self.says)


def _by(score: str, text: str) -> str:
    return re.sub(r"\[(.*?)\]", r"\1" if score else "", text).replace("{score}", score)


def share(part: Array, whole: Array) -> Array:
    """sum(part) / sum(whole) of each draw (draws, n): (draws,); NaN where the whole is nothing, or less."""
    total = whole.sum(1)
    return np.divide(part.sum(1), total, out=np.full(len(total), np.nan), where=total > ROUNDING)


def _interval_of_since(pictures: Mapping[str, Pictures]) -> tuple[float, float]:
    since = pictures["since"]
    interval = bootstrap(list(since.values()), *([key[i] for key in since] for i in (0, 1)))
    return interval.low, interval.high


def _interval_of_gap(pictures: Mapping[str, Pictures]) -> tuple[float, float]:
    comparison = compare(pictures["isolated"], pictures["learned"])
    return comparison.low, comparison.high


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure(
            name="final_average",
            title="final average",
            says="mean [{score} ]score of all concepts at the end",
            higher_is_better=True,
            of=retention.final_average,
            resampled=lambda c: c.last.mean(1),
            column=1,
        ),
        Figure(
            name="plasticity",
            title="plasticity",
            says="mean [{score} ]score of each concept right after its own task",
            higher_is_better=True,
            of=retention.plasticity,
            resampled=lambda c: c.learned.mean(1),
            column=7,
        ),
        Figure(
            name="forgetting",
            title="forgetting",
            says="Chaudhry's[, by {score}]: the best a concept was before the last task, less what it is at the end; lower is better",
            higher_is_better=False,
            of=retention.forgetting,
            resampled=lambda c: (c.best_before - c.last).mean(1),
            earlier=True,
            column=5,
        ),
        Figure(
            name="forgetting_from_noise",
            title="forgetting by noise",
            says="what Chaudhry's maximum gives a method that forgets nothing, from the noise of the pictures alone (at most: rows share some of it); forgetting no larger than this shows none",
            higher_is_better=None,
            of=lambda R, standard_errors: retention.forgetting_from_noise(standard_errors, NOISE_SAMPLES),
            needs=("standard_errors",),
            column=6,
        ),
        Figure(
            name="backward_transfer",
            title="backward transfer",
            says="what later tasks did to concepts[, by {score}]; negative: lost",
            higher_is_better=True,
            of=retention.backward_transfer,
            resampled=lambda c: (c.last - c.learned).mean(1),
            earlier=True,
            column=3,
        ),
        Figure(
            name="forward_transfer",
            title="forward transfer",
            says="just before a concept's own task, less the untouched model's score[, by {score}]",
            higher_is_better=True,
            of=lambda R, upper: retention.forward_transfer(upper),
            needs=("upper",),
        ),
        Figure(
            name="normalised_retention",
            title="retention",
            says="gained over the untouched model and kept to the end, as a share of the gap to the real pictures[ ({score})]",
            higher_is_better=True,
            of=retention.normalised_retention,
            needs=("ceiling",),
            resampled=lambda c: share(c.last - c.floor, c.ceiling - c.floor),
            column=4,
        ),
        Figure(
            name="gap_closed",
            title="gap closed",
            says="gained over the untouched model right after learning, as a share of the gap to the real pictures[ ({score})]",
            higher_is_better=True,
            of=retention.gap_closed,
            needs=("ceiling",),
            resampled=lambda c: share(c.learned - c.floor, c.ceiling - c.floor),
        ),
        Figure(
            name="share_lost",
            title="share lost",
            says="of what was gained[, by {score}], gone at the end; all concepts but the last one",
            higher_is_better=False,
            of=retention.share_lost,
            resampled=lambda c: 1 - share(c.last - c.floor, c.learned - c.floor),
            earlier=True,
        ),
        Figure(
            name="forgetting_all_rows",
            title="forgetting, all rows",
            says="the last row in the maximum, all concepts in the mean[, by {score}]: continual-lora's code",
            higher_is_better=False,
            of=retention.forgetting_all_rows,
            resampled=lambda c: (c.best - c.last).mean(1),
            in_tables=False,
        ),
        Figure(
            name="over_tasks",
            title="[{score} ]over tasks",
            says="each concept's mean [{score} ]score over all models since it was learned, then the mean over concepts: where scores go up and down from task to task, the end alone may be a good or a bad moment (the average incremental score of class-incremental learning, a mean over tasks, would count the first concept most)",
            higher_is_better=True,
            of=retention.over_tasks,
            needs=("since",),
            interval=_interval_of_since,
            column=2,
        ),
        Figure(
            name="intransigence",
            title="intransigence",
            says="Chaudhry's[, by {score}], against “isolated” of the same seed: mean over concepts of its score less the method's, right after the concept's own task; lower is better, negative: earlier tasks helped; “-”: there is no such run",
            higher_is_better=False,
            of=retention.intransigence,
            needs=("isolated",),
            interval=_interval_of_gap,
            column=8,
        ),
    )
}


def in_a_run() -> list[Figure]:
    """Those that one run's scores tell."""
    return [figure for figure in FIGURES.values() if figure.in_a_run]


def table_figures() -> list[Figure]:
    """Those of `in_a_run` that tables have."""
    return [figure for figure in in_a_run() if figure.in_tables]


def values(R: ArrayLike, **arrays: ArrayLike) -> dict[str, float]:
    """By name, every figure of a matrix (T+1, T) whose needs are among what is given."""
    return {figure.name: figure.value(R, **arrays) for figure in FIGURES.values() if set(figure.needs) <= arrays.keys()}
