"""Scores from embeddings, and what a retention matrix says. Pure functions on numpy arrays.

Cosines are plain: between -1 and 1, neither times 100 nor CLIPScore's 2.5.

A retention matrix R is (T+1, T): row 0 is the untouched model, row t the model after task t, and column j
(counted from 0) holds concept j+1, so concept j's score right after its own task is `R[j, j - 1]`. The
formulas below count concepts from 1, as the papers do: R[i][j] is row i, concept j. Of a partly finished run
pass the rows that exist and as many concepts, `R[:t + 1, :t]`: then t takes the place of T everywhere.

A cell may be NaN: "not defined". It is never dropped: NaN in a cell that a formula uses makes its value NaN.
No formula uses the cells of a concept not yet learned, except those in row 0. A value that nothing defines
(forgetting after one task, a share of nothing) is NaN as well, never 0.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A sum of differences of scores as small as this is rounding, and no divisor.
ROUNDING = 1e-9


# Embeddings


def cosine_all_pairs(a: ArrayLike, b: ArrayLike) -> float:
    """Mean cosine over all pairs of a row of `a` (n, d) and a row of `b` (m, d); NaN without a pair.

    CLIP-I and DINO of a concept: a = generated pictures, b = its real ones (DreamBooth, Ruiz et al. 2023).
    A zero vector has no direction: the result is NaN. ValueError if the shapes do not fit.
    """
    a, b = _directions(a, "a"), _directions(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have the same width; got {a.shape} and {b.shape}")
    if not len(a) or not len(b):
        return float("nan")
    # The mean of all products is the product of the means: no (n, m) matrix is needed.
    return float(a.mean(axis=0) @ b.mean(axis=0))


def cosine_self_pairs(a: ArrayLike) -> float:
    """Mean cosine over all pairs i != j of the rows of `a` (n, d); NaN for n < 2.

    Ceiling 1: the real pictures of a concept against each other (DreamBooth's row "Real images"; that a
    picture is not compared with itself is our reading). A zero vector gives NaN. ValueError on other shapes.
    """
    a = _directions(a, "a")
    n = len(a)
    if n < 2:
        return float("nan")
    total = a.sum(axis=0)
    # |sum|^2 counts every ordered pair, and each row with itself, which is 1.
    return float((total @ total - n) / (n * (n - 1)))


def paired_cosine(a: ArrayLike, b: ArrayLike) -> Array:
    """Cosine of row i of `a` (n, d) and row i of `b` (n, d): (n,). NaN where either row is zero.

    CLIP-T: a = generated pictures, b = their prompts. ValueError unless the shapes are the same.
    """
    a, b = _directions(a, "a"), _directions(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape; got {a.shape} and {b.shape}")
    return np.einsum("nd,nd->n", a, b)


def _directions(x: ArrayLike, name: str) -> Array:
    """Rows at length 1, in double precision: (n, d). A zero row becomes NaN."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must be embeddings of shape (n, d) with d > 0; got {x.shape}")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, np.nan)


# The retention matrix


def final_average(R: ArrayLike) -> float:
    """A_T = mean_j R[T][j] of a (T+1, T) matrix (ACC of Lopez-Paz and Ranzato 2017)."""
    return _mean(_matrix(R)[-1])


def plasticity(R: ArrayLike) -> float:
    """L = mean_j R[j][j] of a (T+1, T) matrix: each concept right after its own task."""
    return _mean(_learned(_matrix(R)))


def forgetting(R: ArrayLike) -> float:
    """F_T = 1/(T-1) sum_{j<T} ( max_{j<=i<T} R[i][j] - R[T][j] ) of a (T+1, T) matrix; NaN for T < 2.

    From Chaudhry et al. 2018 (Riemannian Walk): the best a concept ever was, before the last task, less what
    it is now. The last concept does not count. Negative where the last task made the old concepts better.
    """
    R = _matrix(R)
    T = R.shape[1]
    return _mean([R[j:T, j - 1].max() - R[T, j - 1] for j in range(1, T)])


def forgetting_all_rows(R: ArrayLike) -> float:
    """1/T sum_j ( max_{j<=i<=T} R[i][j] - R[T][j] ) of a (T+1, T) matrix.

    The convention of the code of Low-Rank Continual Personalization (luk-st/continual-lora): the last row is
    in the maximum, so it is never below 0, and the last concept adds a zero to a mean over all T. Not to be
    put in one column with `forgetting`.
    """
    R = _matrix(R)
    T = R.shape[1]
    return _mean([R[j:, j - 1].max() - R[T, j - 1] for j in range(1, T + 1)])


def backward_transfer(R: ArrayLike) -> float:
    """BWT = 1/(T-1) sum_{j<T} ( R[T][j] - R[j][j] ) of a (T+1, T) matrix; NaN for T < 2.

    From Lopez-Paz and Ranzato 2017 (GEM). Negative where concepts were lost.
    """
    R = _matrix(R)
    return _mean((R[-1] - _learned(R))[:-1])


def normalised_retention(R: ArrayLike, ceiling: ArrayLike) -> float:
    """sum_j ( R[T][j] - R[0][j] ) / sum_j ( C_j - R[0][j] ) of a (T+1, T) matrix and ceilings C (T,).

    0: no better than the untouched model; 1: at the ceiling. Sums are divided, not concepts' shares averaged:
    a concept that the untouched model draws well already would otherwise outweigh all others. NaN if the
    ceilings are not above the floor. Ours.
    """
    R, C = _with_ceiling(R, ceiling)
    return _share(R[-1] - R[0], C - R[0])


def gap_closed(R: ArrayLike, ceiling: ArrayLike) -> float:
    """sum_j ( R[j][j] - R[0][j] ) / sum_j ( C_j - R[0][j] ) of a (T+1, T) matrix and ceilings C (T,).

    `normalised_retention`, each concept taken right after its own task instead of at the end. Ours.
    """
    R, C = _with_ceiling(R, ceiling)
    return _share(_learned(R) - R[0], C - R[0])


def share_lost(R: ArrayLike) -> float:
    """1 - sum_{j<T} ( R[T][j] - R[0][j] ) / sum_{j<T} ( R[j][j] - R[0][j] ) of a (T+1, T) matrix.

    The share of what was gained on the earlier concepts that is gone at the end: 0 nothing, 1 all of it,
    above 1 worse than the untouched model, negative where they got better still. NaN for T < 2, and where
    nothing was gained. Small gains make it noisy: read it beside `gap_closed`. Ours.
    """
    R = _matrix(R)
    return 1.0 - _share((R[-1] - R[0])[:-1], (_learned(R) - R[0])[:-1])


def summary(R: ArrayLike, ceiling: ArrayLike) -> dict[str, float]:
    """All of the above by name, for a (T+1, T) matrix and ceilings (T,): NaN where a score has no ceiling."""
    R, C = _with_ceiling(R, ceiling)
    alone: tuple[Callable[[ArrayLike], float], ...] = (
        final_average,
        plasticity,
        forgetting,
        forgetting_all_rows,
        backward_transfer,
        share_lost,
    )
    values = {f.__name__: f(R) for f in alone}
    return values | {f.__name__: f(R, C) for f in (normalised_retention, gap_closed)}


def _matrix(R: ArrayLike) -> Array:
    """R in double precision. ValueError unless it has one row more than it has columns."""
    R = np.asarray(R, dtype=np.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1] + 1:
        raise ValueError(
            f"a retention matrix must be (T+1, T), row 0 the untouched model; got {R.shape}; "
            "of a partly finished run pass R[:t + 1, :t]"
        )
    return R


def _with_ceiling(R: ArrayLike, ceiling: ArrayLike) -> tuple[Array, Array]:
    R, C = _matrix(R), np.asarray(ceiling, dtype=np.float64)
    if C.shape != (R.shape[1],):
        raise ValueError(f"the ceiling must be (T,) = ({R.shape[1]},), one a concept; got {C.shape}")
    return R, C


def _learned(R: Array) -> Array:
    """R[j][j]: each concept right after its own task, (T,)."""
    return np.diagonal(R[1:])


def _mean(values: ArrayLike) -> float:
    """The mean; NaN, without numpy's warning, of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def _share(part: Array, whole: Array) -> float:
    """sum(part) / sum(whole); NaN where the whole is nothing, or less."""
    total = whole.sum()
    return float(part.sum() / total) if total > ROUNDING else float("nan")
