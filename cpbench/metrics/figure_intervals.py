"""Intervals of a retention matrix's figures, by a bootstrap of its concepts, their prompts and their pictures.

A figure is a mean, or a ratio of sums, over concepts, so a bootstrap of the whole matrix needs only its columns. Within a
resample all rows use the same prompts and pictures, which have the same noise in all rows: what two rows have in common
adds nothing to the interval of their difference.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cpbench.metrics.cosines import Array
from cpbench.metrics.figures import Columns, in_a_run
from cpbench.metrics.intervals import AT_ONCE, LEVEL

RESAMPLES = 1000
ROOM = (
    2**22
)  # numbers of a cube, some 30 MB, and for each that is there PADDING more: a table of any content may ask for
PADDING = 1000


def figure_intervals(
    scores: pd.DataFrame, metric: str, concepts: list[str], ceiling: list[float], level: float = LEVEL, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """By name of each figure that can be resampled (low, high), quantiles over resamples; NaN unless every resample defines it.

    scores: the long form, with the rows 0..T of the T `concepts`, in the order learned; ceiling (T,), NaN where there is
    none. With few concepts such intervals are too narrow (see `intervals.bootstrap`), and those of Chaudhry's maximum lie
    higher than they should, since a maximum over noisier means is higher: the figure itself may be outside.
    """
    cube = cube_of(scores, metric, concepts)
    T = len(concepts)
    out = {}
    for earlier, n in ((False, T), (True, T - 1)):
        generator = np.random.default_rng(seed)
        part = max(1, AT_ONCE // max(1, cube[:, : max(n, 1)].size))
        columns = [
            resampled(cube, np.array(ceiling), n, min(part, RESAMPLES - at), generator)
            for at in range(0, RESAMPLES if n else 0, part)
        ]
        for figure in in_a_run():
            if figure.resampled is None or figure.earlier != earlier:
                continue
            values = np.concatenate([figure.resampled(c) for c in columns]) if columns else np.array([np.nan])
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            out[figure.name] = (float(low), float(high))
    return out


def cube_of(scores: pd.DataFrame, metric: str, concepts: list[str]) -> NDArray[np.float64]:
    """(T+1, T, prompts, pictures) of a metric's cells, padded with NaN; also NaN for a picture that failed or was not generated.

    ValueError where nearly all of it would be padding, as no run's table makes it.
    """
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == metric) & scores["concept"].isin(concepts)]
    prompt = cells.groupby("concept")["prompt"].transform(lambda p: pd.factorize(p, sort=True)[0])
    T, P = len(concepts), int(prompt.max()) + 1 if len(cells) else 1
    picture = cells.groupby(["concept", "prompt"])["index"].transform(lambda k: pd.factorize(k, sort=True)[0])
    K = int(picture.max()) + 1 if len(cells) else 1
    if ROOM + PADDING * len(cells) < (T + 1) * T * P * K:
        raise ValueError(f"{metric}: {len(cells)} scores of up to {P} prompts per concept and {K} pictures per prompt")
    cube = np.full((T + 1, T, P, K), np.nan)
    inside = cells["row"].between(0, T)
    column = cells["concept"].map({c: j for j, c in enumerate(concepts)})
    at = tuple(values[inside].to_numpy(dtype=int) for values in (cells["row"], column, prompt, picture))
    cube[at] = cells["value"][inside]
    return cube


def resampled(
    cube: NDArray[np.float64], ceiling: Array, n: int, resamples: int, generator: np.random.Generator
) -> Columns:
    """Sample n of the first n concepts, in each its prompts, in each its pictures, `resamples` times."""
    T = cube.shape[1]
    existing = (~np.isnan(cube)).any(axis=0)  # (T, P, K): pictures that some row has
    prompts = existing.any(axis=2).sum(axis=1)
    pictures = existing.sum(axis=2)
    c = generator.integers(n, size=(resamples, n))
    p = (generator.random((resamples, n, cube.shape[2])) * np.maximum(prompts[c], 1)[..., None]).astype(int)
    many = np.maximum(pictures[c[..., None], p], 1)[..., None]
    k = (generator.random((*p.shape, cube.shape[3])) * many).astype(int)
    values = cube[:, c[..., None, None], p[..., None], k]  # (T+1, resamples, n, P, K)
    weights = (np.arange(cube.shape[3]) < many) & (np.arange(cube.shape[2]) < prompts[c][..., None])[..., None]
    of_prompts, some = mean_where(values, weights, 4)
    R, _ = mean_where(of_prompts, some, 3)  # (T+1, resamples, n)
    task = c + 1  # the row in which a concept was learned
    rows = np.arange(T + 1)[:, None, None]
    before = np.where((rows >= task) & (rows < T), R, -np.inf).max(axis=0)
    with_last = (
        np.where(rows >= task, R, -np.inf).max(axis=0) if T > 1 else np.full(task.shape, np.nan)
    )  # nothing to forget
    learned = np.take_along_axis(R, task[None], axis=0)[0]
    return Columns(R[0], learned, R[T], before, with_last, ceiling[c])


def mean_where(values: NDArray[np.float64], weights: NDArray[np.bool_], axis: int) -> tuple[NDArray, NDArray]:
    """Mean over an axis of what is there and a number, and whether anything is; NaN where nothing is."""
    use = weights & ~np.isnan(values)
    count = use.sum(axis=axis)
    total = np.where(use, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0), count > 0
