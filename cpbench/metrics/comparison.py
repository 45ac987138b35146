"""Comparison of two runs, paired by picture: the same concept, prompt and noise in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cpbench.errors import UserError
from cpbench.metrics.intervals import LEVEL, RESAMPLES, bootstrap, concept_means

Key = tuple[str, str, int]  # concept, prompt, index
MOST_EXACT = 12  # concepts whose 2^12 signs are all tried
SIGN_FLIPS = 9999


@dataclass(frozen=True)
class Comparison:
    """The mean of a - b with its interval, the p value of no difference, and the numbers of concepts and pairs."""

    difference: float
    low: float
    high: float
    p: float
    concepts: int
    pairs: int
    unpaired: int  # keys that are not a number in both
    left_out: tuple[str, ...]  # concepts without a single pair
    level: float = LEVEL

    @property
    def is_significant(self) -> bool:
        """Whether the runs differ: the interval excludes 0 and p is below 1 - level."""
        return (self.low > 0 or self.high < 0) and self.p < 1 - self.level


def compare(
    a: Mapping[Key, float], b: Mapping[Key, float], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare one score of two runs, by (concept, prompt, index): pairs are pictures of the same noise.

    The mean difference a - b is over concepts of means over prompts of their pairs; its interval is the hierarchical
    bootstrap (`intervals.bootstrap`), its p value `sign_flip` over the concepts' differences. A key that is missing or
    NaN on one side is counted, not used. UserError if no pair is left.
    """
    both = [k for k in a if k in b and not np.isnan(a[k] - b[k])]
    keys = a.keys() | b.keys()
    if not both:
        raise UserError("compare: the two runs have no picture of the same concept, prompt and index in common")
    differences = np.array([a[k] - b[k] for k in both])
    concepts, prompts = [k[0] for k in both], [k[1] for k in both]
    interval = bootstrap(differences, concepts, prompts, level, resamples, seed)
    return Comparison(
        difference=interval.mean,
        low=interval.low,
        high=interval.high,
        p=sign_flip(concept_means(differences, concepts, prompts)[1], seed=seed),
        concepts=interval.units,
        pairs=len(both),
        unpaired=len(keys) - len(both),
        left_out=tuple(sorted({k[0] for k in keys} - set(concepts))),
        level=level,
    )


def sign_flip(differences: ArrayLike, flips: int = SIGN_FLIPS, seed: int = 0) -> float:
    """Two-sided p value of a mean difference (C,) of 0: how often random signs give one at least as far from 0.

    Fisher's randomisation test (1935): where two methods do not differ, a - b of a concept is as likely b - a. Up to 12
    concepts all 2^C signs are tried, and the smallest p is 2 / 2^C: fewer than 6 concepts never reach 0.05. With more,
    `flips` random signs of a seeded generator, and p = (1 + hits) / (1 + flips) (Phipson and Smyth 2010). NaN for NaN, or for
    no concept. ValueError on another shape.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1:
        raise ValueError(f"one difference per concept, (C,); got {d.shape}")
    C = len(d)
    if not C or np.isnan(d).any():
        return float("nan")
    exact = C <= MOST_EXACT
    if exact:
        bits = np.arange(2**C)[:, None] >> np.arange(C) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, size=(flips, C))
    rounding = 1e-12 * np.abs(d).sum()  # equal sums in another order
    hits = int((np.abs((1 - 2 * bits) @ d) >= abs(d.sum()) - rounding).sum())
    return hits / 2**C if exact else (1 + hits) / (1 + flips)
