"""Forgetting, plasticity, transfer and other figures of a retention matrix. Pure functions on numpy arrays.

Cosines are plain: between -1 and 1, neither times 100 nor CLIPScore's 2.5.

A retention matrix R is (T+1, T): row 0 is the untouched model, row t the model after task t, and column j
(counted from 0) holds concept j+1, so concept j's score right after its own task is `R[j, j - 1]`. The
formulas below count concepts from 1, as the papers do: R[i][j] is row i, concept j. Of a partly finished run
pass the rows that exist and as many concepts, `R[:t + 1, :t]`: then t takes the place of T everywhere.

A cell may be NaN: "not defined". It is never dropped: NaN in a cell that a formula uses makes its value NaN.
No formula uses the cells of a concept not yet learned, except those in row 0 and, in `forward_transfer` alone,
the one just before the concept's own task. A value that nothing defines (forgetting after one task, a share of
nothing) is NaN as well, never 0.
"""

import numpy as np
from numpy.typing import ArrayLike

from cpbench.errors import did_you_mean
from cpbench.metrics.cosines import ROUNDING, Array, _mean

CONVENTIONS = ("chaudhry", "lrcp", "first-minus-last")  # of forgetting


def final_average(R: ArrayLike) -> float:
    """A_T = mean_j R[T][j] of a (T+1, T) matrix (ACC of Lopez-Paz and Ranzato 2017)."""
    return _mean(_matrix(R)[-1])


def plasticity(R: ArrayLike) -> float:
    """L = mean_j R[j][j] of a (T+1, T) matrix: each concept right after its own task."""
    return _mean(_learned(_matrix(R)))


def forgetting(R: ArrayLike, convention: str = "chaudhry") -> float:
    """F_T of a (T+1, T) matrix by a named convention; NaN for T < 2 in each, for nothing can be forgotten yet.

    "chaudhry": 1/(T-1) sum_{j<T} ( max_{j<=i<T} R[i][j] - R[T][j] ), from Chaudhry et al. 2018 (Riemannian Walk):
    the best a concept ever was before the last task, minus what it is now. Theirs takes the rows before a concept was
    learned into the maximum, too; here these tell forward transfer, and the maximum begins with the concept's own row, since
    what was not learned cannot be forgotten. The last concept does not count. Negative
    where the last task made the old concepts better. The maximum makes noise look like forgetting: read it together with
    `forgetting_from_noise`.
    "lrcp": `forgetting_all_rows`.
    "first-minus-last": 1/(T-1) sum_{j<T} ( R[j][j] - R[T][j] ), which is -BWT: no maximum, so noise adds nothing.
    UserError for another name.
    """
    if convention not in CONVENTIONS:
        raise did_you_mean(convention, CONVENTIONS, "forgetting convention")
    R = _matrix(R)
    T = R.shape[1]
    if convention == "lrcp":
        return forgetting_all_rows(R)
    if convention == "first-minus-last":
        return 0.0 - backward_transfer(R)  # a minus sign would make -0.0 of nothing lost
    return _mean([R[j:T, j - 1].max() - R[T, j - 1] for j in range(1, T)])


def forgetting_all_rows(R: ArrayLike) -> float:
    """1/T sum_j ( max_{j<=i<=T} R[i][j] - R[T][j] ) of a (T+1, T) matrix; NaN for T < 2.

    The convention of the code of Low-Rank Continual Personalization (luk-st/continual-lora): the last row is
    in the maximum, so it is never below 0, and the last concept adds a zero to a mean over all T. Not to be
    put in one column with `forgetting`. After one task that code has 0; here it is not defined, as everywhere.
    """
    R = _matrix(R)
    T = R.shape[1]
    if T < 2:
        return float("nan")
    return _mean([R[j:, j - 1].max() - R[T, j - 1] for j in range(1, T + 1)])


def forgetting_from_noise(standard_errors: ArrayLike, samples: int = 20_000, seed: int = 0) -> float:
    """The noise floor of `forgetting`: its expected value without any forgetting, from noise alone; NaN for T < 2.

    standard_errors (T+1, T): of each cell, in the score's own unit: `standard_error`. Cells that Chaudhry's formula does
    not use may be NaN; NaN in one that it uses gives NaN.
    The true scores of a concept are taken to be the same in all rows, and the cells' errors to be normal and
    independent; then F is the mean over j < T of E max_{j<=i<T} e[i][j], since E e[T][j] = 0. That is taken by Monte
    Carlo from `samples` matrices of a seeded generator: its own error is about 1 / sqrt(samples) of a standard error.

    The noise meant is that of which pictures were drawn. With fixed noise per (concept, prompt, index) a model that did
    not change draws equal pictures, and its F is 0 exactly; one that did change draws others, whose errors are shared
    in part. So this value is for cells that share nothing, and bounds the share of noise in F from above. Ours.
    ValueError for another shape or a negative standard error.
    """
    se = _matrix(standard_errors)
    if (se < 0).any():
        raise ValueError(f"a standard error is not negative; got {np.nanmin(se)}")
    T = se.shape[1]
    generator = np.random.default_rng(seed)
    highest = [(generator.standard_normal((samples, T - j)) * se[j:T, j - 1]).max(axis=1) for j in range(1, T)]
    return _mean(np.mean(highest, axis=1)) if highest else float("nan")


def standard_error(scores: ArrayLike) -> float:
    """Of a cell of the matrix, from one concept's scores (rows, pictures): sqrt(s^2 / pictures), for `forgetting_from_noise`.

    Column p is the same prompt and noise in every row. A prompt that is harder than another is so in all rows and is no
    noise; so s^2 is the variance of what is left of x[i, p] - mean_p - mean_i + mean, over (rows - 1)(pictures - 1)
    degrees of freedom (a two-way layout without interaction). It is 0 for a model that generates the same pictures in all rows. A
    picture that failed in one row (NaN) is left out of all. NaN for fewer than two rows or pictures. Ours.
    """
    x = np.asarray(scores, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"one concept's scores must be (rows, pictures); got {x.shape}")
    x = x[:, ~np.isnan(x).any(axis=0)]
    rows, pictures = x.shape
    if rows < 2 or pictures < 2:
        return float("nan")
    residuals = x - x.mean(axis=0) - x.mean(axis=1, keepdims=True) + x.mean()
    return float(np.sqrt((residuals**2).sum() / ((rows - 1) * (pictures - 1)) / pictures))


def backward_transfer(R: ArrayLike) -> float:
    """BWT = 1/(T-1) sum_{j<T} ( R[T][j] - R[j][j] ) of a (T+1, T) matrix; NaN for T < 2.

    From Lopez-Paz and Ranzato 2017 (GEM). Negative where concepts were lost.
    """
    R = _matrix(R)
    return _mean((R[-1] - _learned(R))[:-1])


def forward_transfer(R: ArrayLike) -> float:
    """FWT = 1/(T-1) sum_{j>1} ( R[j-1][j] - R[0][j] ) of a (T+1, T) matrix; NaN for T < 2.

    From Lopez-Paz and Ranzato 2017 (GEM), their b (a random model) being row 0, the untouched one: what the tasks before
    a concept's own did for it. It needs the cell just above the diagonal, R[j-1][j], a concept not yet learned, generated from
    its bare class noun; NaN if a run has none (`forward_transfer_cells`).
    """
    R = _matrix(R)
    return _mean((np.diagonal(R) - R[0])[1:])


def intransigence(R: ArrayLike, isolated: ArrayLike) -> float:
    """I = mean_j ( S_j - R[j][j] ) of a (T+1, T) matrix and the scores S (T,) of the concepts learned alone.

    From Chaudhry et al. 2018: what learning in a sequence costs right after a concept's own task; negative where the
    earlier tasks helped. Their reference is a model trained on all data so far; here it is the method `isolated`,
    which learns each concept from the untouched model. ValueError if the shapes do not fit.
    """
    R, S = _one_a_concept(R, isolated, "isolated scores")
    return _mean(S - _learned(R))


def over_tasks(R: ArrayLike, since: ArrayLike) -> float:
    """Mean over concepts of each one's mean score since (T,) over all models from its own task on, R (T+1, T). Ours.

    Those means are given, not taken from R: a picture that failed in one row is then left out of that picture's mean.
    ValueError if the shapes do not fit.
    """
    return _mean(_one_a_concept(R, since, "means since learning")[1])


def normalised_retention(R: ArrayLike, ceiling: ArrayLike) -> float:
    """sum_j ( R[T][j] - R[0][j] ) / sum_j ( C_j - R[0][j] ) of a (T+1, T) matrix and ceilings C (T,).

    0: no better than the untouched model; 1: at the ceiling. Sums are divided, not concepts' shares averaged:
    a concept that the untouched model already generates well would otherwise outweigh all others. NaN if the
    ceilings are not above the floor. Ours.
    """
    R, C = _one_a_concept(R, ceiling, "ceiling")
    return _share(R[-1] - R[0], C - R[0])


def gap_closed(R: ArrayLike, ceiling: ArrayLike) -> float:
    """sum_j ( R[j][j] - R[0][j] ) / sum_j ( C_j - R[0][j] ) of a (T+1, T) matrix and ceilings C (T,).

    `normalised_retention`, each concept taken right after its own task instead of at the end. Ours.
    """
    R, C = _one_a_concept(R, ceiling, "ceiling")
    return _share(_learned(R) - R[0], C - R[0])


def share_lost(R: ArrayLike) -> float:
    """1 - sum_{j<T} ( R[T][j] - R[0][j] ) / sum_{j<T} ( R[j][j] - R[0][j] ) of a (T+1, T) matrix.

    The share of what was gained on the earlier concepts that is gone at the end: 0 nothing, 1 all of it,
    above 1 worse than the untouched model, negative where they got better still. NaN for T < 2, and where
    nothing was gained. Small gains make it noisy: read it together with `gap_closed`. Ours.
    """
    R = _matrix(R)
    return 1.0 - _share((R[-1] - R[0])[:-1], (_learned(R) - R[0])[:-1])


def _matrix(R: ArrayLike) -> Array:
    """R in double precision. ValueError unless it has one row more than it has columns."""
    R = np.asarray(R, dtype=np.float64)
    if R.ndim != 2 or R.shape[0] != R.shape[1] + 1:
        raise ValueError(
            f"a retention matrix must be (T+1, T), row 0 the untouched model; got {R.shape}; "
            "of a partly finished run pass R[:t + 1, :t]"
        )
    return R


def _one_a_concept(R: ArrayLike, values: ArrayLike, name: str) -> tuple[Array, Array]:
    """R and the values in double precision. ValueError, with their name, unless there is one per concept."""
    R, values = _matrix(R), np.asarray(values, dtype=np.float64)
    if values.shape != (R.shape[1],):
        raise ValueError(f"the {name} must be (T,) = ({R.shape[1]},), one per concept; got {values.shape}")
    return R, values


def _learned(R: Array) -> Array:
    """R[j][j]: each concept right after its own task, (T,)."""
    return np.diagonal(R[1:])


def _share(part: Array, whole: Array) -> float:
    """sum(part) / sum(whole); NaN where the whole is nothing, or less."""
    total = whole.sum()
    return float(part.sum() / total) if total > ROUNDING else float("nan")
