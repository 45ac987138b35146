"""Intervals: a bootstrap over concepts, then prompts, then pictures; over seeds a t-interval.

The unit of inference is the concept: an interval says where the mean over other concepts of the same kind would lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpbench.metrics.cosines import Array

LEVEL = 0.95
RESAMPLES = 2000
AT_ONCE = 2**20  # numbers resampled at a time: some 30 MB
FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Interval:
    """A mean, its interval, and how many units (concepts or seeds) it rests on. NaN: not defined."""

    mean: float
    low: float
    high: float
    units: int


@dataclass(frozen=True)
class _Nested:
    """Ragged (concept, prompt, picture) values, padded: values (C, P, K), prompts (C,), pictures (C, P)."""

    values: Array
    prompts: NDArray[np.int64]
    pictures: NDArray[np.int64]

    @property
    def of_prompts(self) -> Array:
        """Mean over the pictures of each prompt: (C, P), 0 for padding."""
        return np.divide(
            self.values.sum(axis=2), self.pictures, out=np.zeros(self.pictures.shape), where=self.pictures > 0
        )

    @property
    def of_concepts(self) -> Array:
        """Mean over the prompts of each concept: (C,)."""
        return self.of_prompts.sum(axis=1) / self.prompts


def concept_means(
    values: ArrayLike, concepts: Sequence[str], prompts: Sequence[str] | None = None
) -> tuple[list[str], Array]:
    """The concepts, sorted, and their means (C,): pictures are averaged in prompts, and prompts in concepts.

    Arguments as in `bootstrap`. NaN for a concept without a value.
    """
    names, keep, nested = _nest(values, concepts, prompts)
    means = np.full(len(names), np.nan)
    means[keep] = nested.of_concepts
    return names, means


def bootstrap(
    values: ArrayLike,
    concepts: Sequence[str],
    prompts: Sequence[str] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Hierarchical percentile bootstrap of the mean over concepts of the means over prompts of their pictures.

    values (n,): one per picture; concepts, prompts (n,): what it shows (without prompts, all are of one). `resamples` times,
    concepts are sampled with replacement, in each its prompts, in each its pictures (Davison and Hinkley 1997, chapter 3);
    the interval is from the quantiles of the means (Efron 1979). The order of the rows does not matter.

    A NaN value is a picture that failed: it is left out, as it is of its cell. A concept without any value makes mean and
    interval NaN. For a single concept, the interval is that of its prompts and pictures, and
    says nothing about other concepts. With few concepts a percentile interval is too narrow (a 95 % interval covers the
    truth about 83 % of the time with 5 concepts, 89 % with 10), which is why `units` is given with it. ValueError if the shapes do not fit.
    """
    names, keep, nested = _nest(values, concepts, prompts)
    if not keep.all() or not names:
        return Interval(float("nan"), float("nan"), float("nan"), len(names))
    generator = np.random.default_rng(seed)
    C, P, K = nested.values.shape
    part = max(1, AT_ONCE // (C * P * K))
    means = np.concatenate(
        [_resample(nested, min(part, resamples - at), generator) for at in range(0, resamples, part)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(nested.of_concepts.mean()), float(low), float(high), C)


def t_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """t-interval of the mean of one value per seed (n,); bounds NaN for n < 3, all NaN if a value is.

    ValueError on another shape.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"one value per seed, (n,); got {values.shape}")
    n = len(values)
    mean = float(values.mean()) if n else float("nan")
    if n < FEWEST_SEEDS:
        return Interval(mean, float("nan"), float("nan"), n)
    from scipy.special import stdtrit  # Student's t; scipy.stats, which has it as well, takes a second to import

    half = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def _nest(
    values: ArrayLike, concepts: Sequence[str], prompts: Sequence[str] | None
) -> tuple[list[str], NDArray[np.bool_], _Nested]:
    """All concepts' names, which of them have a value that is a number, and those values, nested."""
    values = np.asarray(values, dtype=np.float64)
    prompts = [""] * len(concepts) if prompts is None else prompts
    if values.ndim != 1 or not len(values) == len(concepts) == len(prompts):
        raise ValueError(
            f"values, concepts and prompts must be (n,), one per picture; got {values.shape}, {len(concepts)} and {len(prompts)}"
        )
    names, all_of = np.unique(np.asarray(concepts, dtype=str), return_inverse=True)
    _, prompt = np.unique(np.asarray(prompts, dtype=str), return_inverse=True)
    defined = ~np.isnan(values)
    values, of, prompt = values[defined], all_of[defined], prompt[defined]
    order = np.lexsort((values, prompt, of))  # sorted, so that equal sets of rows give equal intervals
    values, of, prompt = values[order], of[order], prompt[order]
    keep = np.isin(np.arange(len(names)), of)

    new_concept = np.diff(of, prepend=-1) != 0
    new_prompt = new_concept | (np.diff(prompt, prepend=-1) != 0)
    c = np.cumsum(new_concept) - 1
    p = np.cumsum(new_prompt) - 1
    p -= p[new_concept][c] if len(c) else 0  # counted from 0 in each concept
    rows = np.arange(len(values))
    k = rows - np.maximum.accumulate(np.where(new_prompt, rows, 0)) if len(rows) else rows  # and in each prompt
    shape = tuple(int(i.max()) + 1 if len(i) else 0 for i in (c, p, k))
    cube = np.zeros(shape)
    cube[c, p, k] = values
    pictures = np.zeros(shape[:2], dtype=np.int64)
    np.add.at(pictures, (c, p), 1)
    return names.tolist(), keep, _Nested(cube, (pictures > 0).sum(axis=1), pictures)


def _resample(nested: _Nested, resamples: int, generator: np.random.Generator) -> Array:
    """Means (resamples,) of resampled concepts, prompts and pictures. Padding is resampled too, with weight 0."""
    C, P, K = nested.values.shape
    c = generator.integers(C, size=(resamples, C))
    prompts = nested.prompts[c][..., None]  # (resamples, C, 1)
    p = (generator.random((resamples, C, P)) * prompts).astype(np.int64)
    pictures = nested.pictures[c[..., None], p][..., None]  # (resamples, C, P, 1)
    k = (generator.random((resamples, C, P, K)) * pictures).astype(np.int64)
    sample = nested.values[c[..., None, None], p[..., None], k]
    of_prompts = (sample * (np.arange(K) < pictures)).sum(axis=3) / pictures[..., 0]
    of_concepts = (of_prompts * (np.arange(P) < prompts)).sum(axis=2) / prompts[..., 0]
    return of_concepts.mean(axis=1)
