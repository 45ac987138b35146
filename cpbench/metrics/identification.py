"""Identification: is the picture drawn for a concept nearest to that concept's real pictures, among all concepts?

A score of likeness does not say whether a method mixes its concepts up: a dog that looks like the other dog scores well.
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
    """counts[i, j]: pictures drawn for drawn[i] that are nearest to concepts[j]."""

    generated: tuple[str, ...]
    concepts: tuple[str, ...]
    counts: NDArray[np.int64]

    @property
    def per_concept(self) -> dict[str, float]:
        """Of each concept drawn, the share of its pictures that are nearest to its own; NaN where none was drawn."""
        columns = [self.concepts.index(c) for c in self.generated]
        totals = self.counts.sum(axis=1)
        return {
            c: float(self.counts[i, columns[i]] / totals[i]) if totals[i] else float("nan")
            for i, c in enumerate(self.generated)
        }

    @property
    def accuracy(self) -> float:
        """Mean of `per_concept`: the concept is the unit, not the picture. By chance 1 / len(concepts). NaN for none."""
        return float(np.mean(list(self.per_concept.values()))) if self.generated else float("nan")


def identify(
    generated: Mapping[str, ArrayLike], references: Mapping[str, ArrayLike], rule: str = "mean"
) -> Identification:
    """Confusion matrix from embeddings (n, d) of drawn pictures and (m, d) of real ones, by concept. Ours.

    rule: what a picture's nearness to a concept is. "mean": its mean cosine with the concept's real pictures, so the
    concept with the highest CLIP-I or DINO wins; "nearest": its largest cosine with one of them, which favours
    concepts with many. `references` are the concepts to choose from: more of them, or more alike, make it harder, so
    compare only equal sets. Of equal values the concept named first wins.

    ValueError for a drawn concept without references, one with none, or a picture without a direction, that is, a zero
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
