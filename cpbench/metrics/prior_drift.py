"""Prior drift: what learning concepts did to the plain class noun, such as "a photo of a dog"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from cpbench.metrics.cosines import Array, mean_cosines, paired_cosine


@dataclass(frozen=True)
class PriorDrift:
    """Of one noun, picture by picture, each (n,): take means, and intervals, over noun, prompt and picture.

    pres_before, pres_after: mean cosine of a class picture with the concept's real pictures. Their difference is what
    the class took over from the concept. moved: 1 - cosine of a class picture after and before, of the same noise.
    """

    pres_before: Array
    pres_after: Array
    moved: Array

    @property
    def means(self) -> dict[str, float]:
        """PRES (DreamBooth) before, after and its rise, and the mean distance moved; NaN without pictures."""
        before, after, moved = (
            float(v.mean()) if len(v) else float("nan") for v in (self.pres_before, self.pres_after, self.moved)
        )
        return {"pres_before": before, "pres_after": after, "pres_rise": after - before, "moved": moved}


def prior_drift(before: ArrayLike, after: ArrayLike, real: ArrayLike) -> PriorDrift:
    """Drift of one noun from embeddings of its plain class pictures and of a concept's real ones.

    before, after (n, d): row i of both has the same prompt and noise, drawn by the untouched model (row 0) and by the
    model after task t. real (m, d): the real pictures of a concept of that noun; call once a concept where there are
    several. An unchanged model moves by 0 exactly. `pres_after` is PRES of Ruiz et al. 2023 (DINO features); `moved` is
    ours. A zero vector gives NaN. ValueError if the shapes do not fit.
    """
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    # An equal row has the cosine 1 up to rounding, which would be a drift of 1e-16, or of less than nothing.
    moved = np.clip(1.0 - paired_cosine(before, after), 0.0, 2.0)
    moved[(before == after).all(axis=1) & ~np.isnan(moved)] = 0.0
    return PriorDrift(mean_cosines(before, real), mean_cosines(after, real), moved)
