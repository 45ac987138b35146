"""Copying: whether a generated picture is closer to a training picture than real pictures are to each other.

A method that learned a picture instead of a concept reproduces it, and then has the highest CLIP-I and DINO of all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cpbench.metrics.cosines import ROUNDING, Array, directions, nearest_cosines


def copy_ceiling(real: ArrayLike, quantile: float = 1.0) -> float:
    """How close two different real pictures (m, d) of a concept are: a quantile of their cosines; NaN for m < 2.

    By default the largest (1.0): with 3 to 6 pictures there are 3 to 15 cosines, too few for another
    quantile to mean much. Two copies of one file among the real pictures make it 1, and nothing can be above.
    """
    rows = directions(real, "real")
    if len(rows) < 2:
        return float("nan")
    return float(np.quantile((rows @ rows.T)[np.triu_indices(len(rows), k=1)], quantile))


def copied(generated: ArrayLike, training: ArrayLike, quantile: float = 1.0) -> Array:
    """Per generated picture (n, d), whether its largest cosine with a training picture (m, d) is above `copy_ceiling`: (n,), 1 or 0.

    As numbers, for intervals. NaN if it is not defined: a zero vector, or fewer than two training pictures. Ours.
    """
    ceiling = copy_ceiling(training, quantile)
    cosines = nearest_cosines(generated, training)
    return np.where(np.isnan(cosines) | np.isnan(ceiling), np.nan, cosines > ceiling + ROUNDING)


def share_copied(generated: ArrayLike, training: ArrayLike, quantile: float = 1.0) -> float:
    """The share of generated pictures (n, d) closer to a training picture (m, d) than real ones are to each other; NaN for none.

    A generated picture has m chances to be close, real pictures have m (m - 1) / 2 pairs: with four or more training
    pictures the ceiling errs on the side of not calling a picture copied. Lower is better. Ours.
    """
    flags = copied(generated, training, quantile)
    return float(flags.mean()) if len(flags) else float("nan")
