"""The figures of a run: numbers computed from its retention matrix of one score, each of them one object.

run.json, the bootstrap, a run's tables, the report and the leaderboard take names, titles, descriptions and functions from
`FIGURES`, in its order: a new figure is one entry here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cpbench.errors import UserError
from cpbench.metrics import retention
from cpbench.metrics.comparison import Key, paired
from cpbench.metrics.cosines import ROUNDING, Array
from cpbench.metrics.intervals import bootstrap

NOISE_SAMPLES = 4000
OF_A_RUN = ("ceiling", "upper", "standard_errors")  # computed from one run's scores
OF_THE_LEADERBOARD = ("since", "isolated")  # computed from single pictures, or from another run
Pictures = Mapping[Key, float]


@dataclass(frozen=True)
class Columns:
    """Per resample and concept, (resamples, n): the floor, right after its own task, the end, the best before and with the end."""

    floor: Array
    learned: Array
    last: Array
    best_before: Array
    best: Array
    ceiling: Array


@dataclass(frozen=True)
class Figure:
    """One number of a run, by one score.

    name: its key in run.json and, after the score's, in leaderboard.csv. title: its heading in tables. says: one sentence
    that describes it; text in [ ] is used only where one score is meant, whose title replaces {score}. higher_is_better:
    None if neither is better.

    of: its function of the retention matrix R (T+1, T) and, by keyword, of the arrays in `needs`; NaN if it is not defined.

        ceiling          (T,) score of the real pictures among themselves, NaN if the score has no ceiling
        upper            (T+1, T) R with the cells of concepts not yet learned, NaN if they were not generated
        standard_errors  (T+1, T) of R's cells, NaN if there is none
        since            (T,) each concept's mean over the evaluated rows since it was learned
        isolated         (T,) each concept's score right after its own task in the run of `isolated` of the same seed

    Only the leaderboard knows the last two, for DINO. A figure that needs one of them is not in run.json, cannot need any of
    the first three, and gets of R only its last row and each concept's score right after its own task.

    resampled: the figure of resampled concepts, from `Columns` to (resamples,), which its interval is computed from (see
    `figure_intervals`); None: no interval. earlier: whether the last concept learned is left out.
    interval: (low, high) of a figure that is not in run.json, from DINO scores of pictures: "learned" (right after each
    concept's own task), "since" and "isolated".
    in_tables: whether tables show it; otherwise it is in run.json only. column: its position among the leaderboard's columns
    (by DINO); None: it is in leaderboard.csv and leaderboard.json only.
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
            raise ValueError(f"figure {self.name}: needs {', '.join(sorted(unknown))}, which nothing provides")
        if not self.in_a_run and set(self.needs) & set(OF_A_RUN):
            raise ValueError(f"figure {self.name}: needs {', '.join(self.needs)}, which nothing provides together")

    @property
    def in_a_run(self) -> bool:
        """Whether it can be computed from one run's scores."""
        return set(self.needs) <= set(OF_A_RUN)

    def value(self, R: ArrayLike, **arrays: ArrayLike) -> float:
        """Its value for a matrix (T+1, T); arrays: at least those it needs."""
        return self.of(R, **{name: arrays[name] for name in self.needs})

    def heading(self, score: str = "") -> str:
        """Its title, for the score with this title; "" for several scores."""
        return _by(score, self.title)

    def sentence(self, score: str = "") -> str:
        """Its sentence, for the score with this title; "" for several scores."""
        return _by(score, self.says)


def _by(score: str, text: str) -> str:
    return re.sub(r"\[(.*?)\]", r"\1" if score else "", text).replace("{score}", score)


def share(part: Array, whole: Array) -> Array:
    """sum(part) / sum(whole) per resample, (resamples, n) to (resamples,); NaN where the whole is not above 0."""
    total = whole.sum(1)
    return np.divide(part.sum(1), total, out=np.full(len(total), np.nan), where=total > ROUNDING)


def _interval_of_since(pictures: Mapping[str, Pictures]) -> tuple[float, float]:
    since = pictures["since"]
    interval = bootstrap(list(since.values()), *([key[i] for key in since] for i in (0, 1)))
    return interval.low, interval.high


def _interval_of_gap(pictures: Mapping[str, Pictures]) -> tuple[float, float]:
    differences = paired(pictures["isolated"], pictures["learned"])
    if not differences:
        raise UserError("the two runs have no picture in common")
    interval = bootstrap(list(differences.values()), *([key[i] for key in differences] for i in (0, 1)))
    return interval.low, interval.high


FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        Figure(
            name="final_average",
            title="final average",
            says="mean [{score} ]score of all concepts after the last task",
            higher_is_better=True,
            of=retention.final_average,
            resampled=lambda c: c.last.mean(1),
            column=2,
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
            says="Chaudhry's forgetting[ of {score}]: a concept's best score before the last task minus its score at the end; lower is better",
            higher_is_better=False,
            of=retention.forgetting,
            resampled=lambda c: (c.best_before - c.last).mean(1),
            earlier=True,
            column=5,
        ),
        Figure(
            name="forgetting_from_noise",
            title="forgetting, noise floor",
            says="what the maximum in Chaudhry's formula yields without any forgetting, from the noise of the pictures alone (an upper bound, since rows share some of it); forgetting up to this value is no evidence of forgetting",
            higher_is_better=None,
            of=lambda R, standard_errors: retention.forgetting_from_noise(standard_errors, NOISE_SAMPLES),
            needs=("standard_errors",),
            column=6,
        ),
        Figure(
            name="backward_transfer",
            title="backward transfer",
            says="effect of later tasks on the concepts[, by {score}]; negative: loss",
            higher_is_better=True,
            of=retention.backward_transfer,
            resampled=lambda c: (c.last - c.learned).mean(1),
            earlier=True,
            column=3,
        ),
        Figure(
            name="forward_transfer",
            title="forward transfer",
            says="score just before a concept's own task minus the untouched model's[, by {score}]",
            higher_is_better=True,
            of=lambda R, upper: retention.forward_transfer(upper),
            needs=("upper",),
        ),
        Figure(
            name="normalised_retention",
            title="retention",
            says="gain over the untouched model that is left at the end, as a share of the gap to the real pictures[ ({score})]",
            higher_is_better=True,
            of=retention.normalised_retention,
            needs=("ceiling",),
            resampled=lambda c: share(c.last - c.floor, c.ceiling - c.floor),
            column=4,
        ),
        Figure(
            name="gap_closed",
            title="gap closed",
            says="gain over the untouched model right after learning, as a share of the gap to the real pictures[ ({score})]",
            higher_is_better=True,
            of=retention.gap_closed,
            needs=("ceiling",),
            resampled=lambda c: share(c.learned - c.floor, c.ceiling - c.floor),
        ),
        Figure(
            name="share_lost",
            title="share lost",
            says="share of the gain[ in {score}] that is lost at the end; all concepts but the last",
            higher_is_better=False,
            of=retention.share_lost,
            resampled=lambda c: 1 - share(c.last - c.floor, c.learned - c.floor),
            earlier=True,
        ),
        Figure(
            name="forgetting_all_rows",
            title="forgetting, all rows",
            says="forgetting as in continual-lora's code[, by {score}]: the last row is in the maximum, all concepts are in the mean",
            higher_is_better=False,
            of=retention.forgetting_all_rows,
            resampled=lambda c: (c.best - c.last).mean(1),
            in_tables=False,
        ),
        Figure(
            name="over_tasks",
            title="[{score} ]over tasks",
            says="each concept's mean [{score} ]score over the evaluated rows since it was learned, then the mean over concepts: the primary score. Where scores go up and down from task to task, the last row alone may be a good or a bad moment (the average incremental score of class-incremental learning, a mean over tasks, would count the first concept most)",
            higher_is_better=True,
            of=retention.over_tasks,
            needs=("since",),
            interval=_interval_of_since,
            column=1,
        ),
        Figure(
            name="intransigence",
            title="intransigence",
            says="Chaudhry's intransigence[, by {score}], with “isolated” of the same seed as the reference: mean over concepts of its score minus the method's, right after the concept's own task; lower is better, negative: earlier tasks helped; “-”: there is no such run",
            higher_is_better=False,
            of=retention.intransigence,
            needs=("isolated",),
            interval=_interval_of_gap,
            column=8,
        ),
    )
}


def in_a_run() -> list[Figure]:
    """The figures that can be computed from one run's scores."""
    return [figure for figure in FIGURES.values() if figure.in_a_run]


def table_figures() -> list[Figure]:
    """The figures of `in_a_run` that tables show."""
    return [figure for figure in in_a_run() if figure.in_tables]


def values(R: ArrayLike, **arrays: ArrayLike) -> dict[str, float]:
    """By name, every figure of a matrix (T+1, T) whose needs are all among `arrays`."""
    return {figure.name: figure.value(R, **arrays) for figure in FIGURES.values() if set(figure.needs) <= arrays.keys()}
