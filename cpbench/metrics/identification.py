"""Identification: is a picture generated for a concept closest to that concept's real pictures, among all concepts?

A similarity score does not show whether a method confuses its concepts: a dog that looks like the other dog scores well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpbench.errors import did_you_mean
from cpbench.metrics.cosines import mean_cosines, nearest_cosines

RULES = {"mean": mean_cosines, "nearest": nearest_cosines}


@dataclass(frozen=True)
class Identification:
    """counts[i, j]: number of pictures generated for generated[i] that are closest to concepts[j]."""

    generated: tuple[str, ...]
    concepts: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def per_concept(self) -> dict[str, float]:
        """Per generated concept, the share of its pictures that are closest to it; NaN without pictures."""
        columns = [self.concepts.index(c) for c in self.generated]
        totals = self.counts.sum(axis=1)
        return {
            c: float(self.counts[i, columns[i]] / totals[i]) if totals[i] else float("nan")
            for i, c in enumerate(self.generated)
        }

    @property
    def accuracy(self) -> float:
        """Mean of `per_concept`: the unit is the concept, not the picture. Chance: 1 / len(concepts). NaN without concepts."""
        return float(np.mean(list(self.per_concept.values()))) if self.generated else float("nan")


def identify(
    generated: Mapping[str, ArrayLike], references: Mapping[str, ArrayLike], rule: str = "mean"
) -> Identification:
    """Confusion matrix from embeddings (n, d) of generated pictures and (m, d) of real ones, by concept. Ours.

    rule: how close a picture is to a concept. "mean": its mean cosine with the concept's real pictures, so the
    concept with the highest CLIP-I or DINO wins; "nearest": its largest cosine with one of them, which favours
    concepts with many. `references` are the concepts to choose from: more of them, or more similar ones, make it harder, so
    compare only equal sets. In a tie the first concept wins.

    ValueError for a generated concept without references, one with none, or a picture without a direction, that is, a zero
    or undefined embedding; UserError for another rule.
    """
    if rule not in RULES:
        raise did_you_mean(rule, RULES, "identification rule")
    if absent := [c for c in generated if c not in references]:
        raise ValueError(f"no real pictures of {', '.join(absent)}")
    counts = np.zeros((len(generated), len(references)), dtype=np.int64)
    for i, (concept, pictures) in enumerate(generated.items()):
        nearness = np.stack([RULES[rule](pictures, real) for real in references.values()])  # (concepts, n)
        if np.isnan(nearness).any():
            raise ValueError(f"{concept}: a picture without a direction, or a concept without real pictures")
        counts[i] = np.bincount(nearness.argmax(axis=0), minlength=len(references))
    return Identification(tuple(generated), tuple(references), counts)
