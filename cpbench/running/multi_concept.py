"""Two learned concepts in one picture: "a <v3> dog and a <v7> backpack on the beach".

A sequence's `compositions` are templates with two slots. Pictures are generated for pairs of an earlier and a later
concept, by the untouched model (row 0, with their class nouns) and by the final one. Each picture is scored against each
concept's real pictures, against the prompt, and for the presence of both: whether CLIP prefers "a photo of a dog and a
backpack" to a photo of either alone. The untouched model's scores are the floor: a picture of one concept always
resembles the other a little.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from cpbench.concepts.sequences import Concept, Sequence
from cpbench.metrics.scores import Score, of_judges

if TYPE_CHECKING:
    from cpbench.judges.judge import Judge

MOST_PAIRS = 3
POSITIONS = ("first", "second")
BOTH = "both"  # whether CLIP prefers the caption with both nouns
Pair = tuple[Concept, Concept]


def concept_pairs(sequence: Sequence) -> list[Pair]:
    """The first three pairs of concepts j and j + T // 2, in learning order, that have different class nouns."""
    if not sequence.evaluation.multi_concept_prompts:
        return []
    concepts, half = sequence.concepts, len(sequence.concepts) // 2
    candidates = [
        (a, b) for a, b in zip(concepts, concepts[half:], strict=False) if half and a.class_noun != b.class_noun
    ]
    return candidates[:MOST_PAIRS]


def pair_metrics(scores: Iterable[Score]) -> list[str]:
    """Metrics of a picture of two concepts: scores against real pictures occur twice, for the first and the second concept."""
    names = [
        [f"{score.name}_{position}" for position in POSITIONS] if score.against == "pictures" else [score.name]
        for score in scores
    ]
    return [*itertools.chain(*names), BOTH]


def pair_scores(
    pair: Pair, templates: list[str], pictures: np.ndarray, real: dict[str, np.ndarray], judges: dict[str, Judge]
) -> dict[str, np.ndarray]:
    """By metric, one value per picture (n, h, w, 3); `templates` holds each picture's template."""
    nouns, values = [c.class_noun for c in pair], {}
    words = [template.format(*nouns) for template in templates]
    for score in of_judges(judges):
        judge = judges[score.judge]
        embeddings = judge.images(pictures)
        if score.against == "words":
            values[score.name] = score.of(embeddings, judge.texts(words))
        else:
            for position, concept in zip(POSITIONS, pair, strict=True):
                values[f"{score.name}_{position}"] = score.of(embeddings, judge.images(real[concept.name]))
    clip, subjects = judges["clip"], [" and a ".join(nouns), *nouns]
    likeness = clip.images(pictures) @ clip.texts([f"a photo of a {subject}" for subject in subjects]).T
    return values | {BOTH: (likeness.argmax(1) == 0).astype(float)}
