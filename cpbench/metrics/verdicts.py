"""What a table shows of two methods: they differ, they are alike, or it is open.

Of each concept c and, where there are several runs, each ending o (a seed and order), d_co is the mean difference over its pictures.
All concepts of a run share its last task, so that endings are a second random factor beside concepts. With the mean squares of a
crossed layout without repetition (Searle, Casella, McCulloch 1992, chapter 4),

    var(d) = s_c^2 / C + s_o^2 / O + s_e^2 / (C O) = (MS_c + MS_o - MS_e) / (C O)

and Satterthwaite's degrees of freedom (1946). Below four endings their variance is not estimated: var(d) = MS_c / (C O) with C - 1
degrees of freedom, and what is shown is shown given these endings; of one ending this is Student's t over concepts (1908).

    differs   Student's t survives Benjamini and Hochberg's procedure (1995) at 5 % over all pairs of the table, and the 95 % interval
              lies beyond +-0.01
    alike     the 90 % interval lies within +-0.05 (two one-sided tests, Schuirmann 1987)
    open      neither
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Verdict = Literal["differs", "alike", "open"]
Name = TypeVar("Name")
LEVEL = 0.95
LEVEL_OF_LIKENESS = 0.90
RATE = 0.05  # of false discoveries among the pairs that differ
LEAST, MOST_ALIKE = 0.01, 0.05  # in the score's own unit
FEWEST_ENDINGS = 4  # for an estimate of their variance
FEWEST_CONCEPTS = 6  # for a rank


@dataclass(frozen=True)
class Effect:
    """A mean difference with its standard error and degrees of freedom, over so many concepts and endings."""

    mean: float
    error: float
    freedom: float
    concepts: int
    endings: int

    @property
    def is_given_endings(self) -> bool:
        """Whether it speaks of these endings only."""
        return self.endings < FEWEST_ENDINGS

    @property
    def p(self) -> float:
        """Two-sided, of no difference; NaN for one concept."""
        from scipy.special import stdtr  # scipy.stats, which has it as well, takes a second to import

        if np.isnan(self.error):
            return float("nan")
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """(low, high); NaN for one concept."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, (1 + level) / 2) * self.error) if self.freedom > 0 else float("nan")
        return self.mean - half, self.mean + half


def effect(differences: ArrayLike) -> Effect:
    """The effect of differences (C, O), by concept and ending. ValueError on another shape, or a difference that is NaN."""
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or not d.size or np.isnan(d).any():
        raise ValueError(f"one difference per concept and ending, (C, O), all of them numbers; got {d.shape}")
    C, O = d.shape  # noqa: E741
    mean = float(d.mean())
    if C == 1:
        return Effect(mean, float("nan"), 0.0, C, O)
    of_concepts = O * ((d.mean(1) - mean) ** 2).sum() / (C - 1)  # MS_c
    if O < FEWEST_ENDINGS:
        return Effect(mean, float(np.sqrt(of_concepts / (C * O))), C - 1, C, O)
    of_endings = C * ((d.mean(0) - mean) ** 2).sum() / (O - 1)  # MS_o
    residual = ((d - d.mean(1, keepdims=True) - d.mean(0, keepdims=True) + mean) ** 2).sum() / (
        (C - 1) * (O - 1)
    )  # MS_e
    total = of_concepts + of_endings - residual
    if total <= max(
        of_concepts, of_endings
    ):  # an estimate of a variance below 0: as if it were 0, but no less than the other
        larger, freedom = max((of_concepts, C - 1), (of_endings, O - 1))
        return Effect(mean, float(np.sqrt(larger / (C * O))), freedom, C, O)
    parts = of_concepts**2 / (C - 1) + of_endings**2 / (O - 1) + residual**2 / ((C - 1) * (O - 1))
    return Effect(mean, float(np.sqrt(total / (C * O))), float(total**2 / parts), C, O)


def discoveries(p: Sequence[float], rate: float = RATE) -> NDArray[np.bool_]:
    """Which hypotheses are rejected: the k smallest p, k the largest with p_(k) <= rate k / n. NaN is never rejected."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")  # NaN last
    below = np.nan_to_num(values[order], nan=np.inf) <= rate * np.arange(1, len(values) + 1) / max(1, len(values))
    rejected = np.zeros(len(values), dtype=bool)
    if below.any():
        rejected[order[: int(np.flatnonzero(below)[-1]) + 1]] = True
    return rejected


def verdicts(
    effects: Mapping[Name, Effect], least: float = LEAST, most_alike: float = MOST_ALIKE
) -> dict[Name, Verdict]:
    """Of all pairs of a table at once. least, most_alike: the margins, in the score's unit; the defaults are those of DINO."""
    rejected = discoveries([e.p for e in effects.values()])
    return {
        name: _verdict(of_pair, bool(is_rejected), least, most_alike)
        for (name, of_pair), is_rejected in zip(effects.items(), rejected, strict=True)
    }


def _verdict(of_pair: Effect, is_rejected: bool, least: float, most_alike: float) -> Verdict:
    low, high = of_pair.interval()
    if is_rejected and (low > least or high < -least):
        return "differs"
    low, high = of_pair.interval(LEVEL_OF_LIKENESS)
    return "alike" if -most_alike <= low and high <= most_alike else "open"
