"""Comparison of two runs, paired by picture: the same concept, prompt and noise in both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cpbench.errors import UserError
from cpbench.metrics.intervals import concept_means
from cpbench.metrics.verdicts import Verdict, effect, verdicts

Key = tuple[str, str, int]  # concept, prompt, index
MOST_EXACT = 12  # concepts whose 2^12 signs are all tried
SIGN_FLIPS = 9999


@dataclass(frozen=True)
class Comparison:
    """The mean of a - b over concepts, with its interval and p value, and the numbers of concepts and pairs.

    low, high, p: Student's, over the concepts; NaN for one concept. p_of_signs: `sign_flip`'s. verdict: of this pair alone.
    """

    difference: float
    low: float
    high: float
    p: float
    p_of_signs: float
    verdict: Verdict
    concepts: int
    pairs: int
    unpaired: int  # keys that are not a number in both
    left_out: tuple[str, ...]  # concepts without a single pair


def compare(a: Mapping[Key, float], b: Mapping[Key, float], seed: int = 0, has_margins: bool = True) -> Comparison:
    """Compare one score of two runs, by (concept, prompt, index): pairs are pictures of the same noise.

    The differences are averaged in prompts and these in concepts, over which `verdicts.effect` and `sign_flip` are. A key that
    is missing or NaN on one side is counted, not used. has_margins: whether the score is DINO, for which `verdicts` knows what is
    too small to matter; of another only equal values are alike. UserError if no pair is left.
    """
    both = paired(a, b)
    keys = a.keys() | b.keys()
    if not both:
        raise UserError("compare: the two runs have no picture of the same concept, prompt and index in common")
    concepts, means = concept_means(list(both.values()), *([key[i] for key in both] for i in (0, 1)))
    of_pair = effect(means[:, None])
    low, high = of_pair.interval()
    return Comparison(
        difference=of_pair.mean,
        low=low,
        high=high,
        p=of_pair.p,
        p_of_signs=sign_flip(means, seed=seed),
        verdict=(verdicts({"": of_pair}) if has_margins else verdicts({"": of_pair}, 0.0, 0.0))[""],
        concepts=len(concepts),
        pairs=len(both),
        unpaired=len(keys) - len(both),
        left_out=tuple(sorted({k[0] for k in keys} - set(concepts))),
    )


def paired(a: Mapping[Key, float], b: Mapping[Key, float]) -> dict[Key, float]:
    """a - b of the pictures that have a score on both sides."""
    return {k: a[k] - b[k] for k in a if k in b and not np.isnan(a[k] - b[k])}


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
