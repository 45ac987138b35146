"""Cosines of embeddings, which CLIP-I, DINO and CLIP-T are computed from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
CLIPSCORE = 2.5  # the factor of Hessel et al. 2021
# A sum of differences of scores as small as this is rounding, and no divisor.
ROUNDING = 1e-9


def mean_products(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    """CLIP-I and DINO, per picture: the mean product of each row of `a` (n, d) with the rows of `b` (m, d), (n,).

    a = generated pictures, b = the concept's real ones, both as a judge gives them: unit vectors, so that a product is a
    cosine (DreamBooth, Ruiz et al. 2023). A concept's score is the mean over its pictures. In the precision of the
    arguments, float32 for a judge. ValueError if the widths differ, or for m = 0.
    """
    if not len(b):
        raise ValueError("no pictures to compare with")
    return (a @ b.T).mean(1)


def mean_cosines(a: ArrayLike, b: ArrayLike) -> Array:
    """The mean cosine of each row of `a` (n, d) with the rows of `b` (m, d): (n,), NaN for m = 0.

    `mean_products` of vectors of any length, in double precision. A zero vector has no direction: NaN. ValueError if the
    shapes do not fit.
    """
    a, b = _same_width(a, b)
    # The mean of all products is the product with the mean: no (n, m) matrix is needed.
    return a @ b.mean(axis=0) if len(b) else np.full(len(a), np.nan)


def nearest_cosines(a: ArrayLike, b: ArrayLike) -> Array:
    """The largest cosine of each row of `a` (n, d) with a row of `b` (m, d): (n,), NaN for m = 0.

    A zero vector in `b` makes all of them NaN, one in `a` its own.
    """
    a, b = _same_width(a, b)
    return (a @ b.T).max(axis=1) if len(b) else np.full(len(a), np.nan)


def cosine_nearest(a: ArrayLike, b: ArrayLike) -> float:
    """Mean over the rows of `a` (n, d) of the largest cosine with a row of `b` (m, d); NaN without a pair.

    CLIP-I or DINO by the nearest real picture: a = generated pictures, b = the concept's real ones. Never below
    the mean over all pairs, and higher the more real pictures there are: do not put both in one column. Ours.
    """
    return _mean(nearest_cosines(a, b))


def common_mean(groups: Iterable[ArrayLike]) -> Array:
    """The centre (d,) for `centred`: mean over groups (n_g, d), one per concept, of the mean of their rows at length 1.

    A concept with more pictures does not weigh more. ValueError without a group, or with an empty one.
    """
    means = []
    for group in groups:
        rows = directions(group, "a group")
        if not len(rows):
            raise ValueError("a common mean needs at least one picture of every concept")
        means.append(rows.mean(axis=0))
    if not means:
        raise ValueError("a common mean needs at least one concept")
    return np.mean(means, axis=0)


def centred(a: ArrayLike, centre: ArrayLike) -> Array:
    """Rows of `a` (n, d) at length 1, less the centre (d,), at length 1 again: (n, d); NaN for a row at the centre."""
    a, centre = directions(a, "a"), np.asarray(centre, dtype=np.float64)
    if centre.shape != a.shape[1:]:
        raise ValueError(f"the centre must be as wide as the rows, {a.shape[1:]}; got {centre.shape}")
    return directions(a - centre, "a")


def cosine_centred(a: ArrayLike, b: ArrayLike, centre: ArrayLike) -> float:
    """Mean of `mean_cosines` of a (n, d) and b (m, d), both `centred` at a common mean embedding (d,).

    The embeddings of an encoder lie in a narrow cone, so plain cosines of unrelated pictures are far above 0. With
    what all pictures share taken out, unrelated concepts are near 0 (below it, where the centre is their own mean).
    `centre`: `common_mean` of the real pictures of all concepts of the sequence, the same for every row and run. Ours.
    """
    return _mean(mean_cosines(centred(a, centre), centred(b, centre)))


def cosine_self_pairs(a: ArrayLike) -> float:
    """Mean cosine over all pairs i != j of the rows of `a` (n, d); NaN for n < 2.

    Ceiling 1: the real pictures of a concept against each other (DreamBooth's row "Real images"; that a
    picture is not compared with itself is our reading). A zero vector gives NaN. ValueError on other shapes.
    """
    a = directions(a, "a")
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
    a, b = directions(a, "a"), directions(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a and b must have the same shape; got {a.shape} and {b.shape}")
    return np.einsum("nd,nd->n", a, b)


def directions(x: ArrayLike, name: str) -> Array:
    """Rows at length 1, in double precision: (n, d). A zero row becomes NaN. ValueError on another shape."""
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"{name} must be embeddings of shape (n, d) with d > 0; got {x.shape}")
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, np.nan)


def _same_width(a: ArrayLike, b: ArrayLike) -> tuple[Array, Array]:
    """Both as `directions`. ValueError unless they are equally wide."""
    a, b = directions(a, "a"), directions(b, "b")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have the same width; got {a.shape} and {b.shape}")
    return a, b


def _mean(values: ArrayLike) -> float:
    """The mean; NaN, without numpy's warning, of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")
