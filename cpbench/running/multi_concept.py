"""Two learned concepts in one picture: "a <v3> dog and a <v7> backpack on the beach".

A sequence's `compositions` are templates with two slots. They are drawn of pairs of concepts, an earlier and a later one, by
the untouched model (row 0, by their class nouns) and by the last. Each picture is judged by each concept's real pictures,
by the prompt, and for the presence of both: whether CLIP holds it rather for "a photo of a dog and a backpack" than
for a photo of either alone. What the untouched model reaches is the floor of all of it: a picture of one thing is a
little like the other.
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
BOTH = "both"  # whether CLIP holds a picture for one of both
Pair = tuple[Concept, Concept]


def concept_pairs(sequence: Sequence) -> list[Pair]:
    """Concept j and concept j + T // 2, in the order of learning, where they are of different classes; the first three."""
    if not sequence.evaluation.multi_concept_prompts:
        return []
    concepts, half = sequence.concepts, len(sequence.concepts) // 2
    candidates = [
        (a, b) for a, b in zip(concepts, concepts[half:], strict=False) if half and a.class_noun != b.class_noun
    ]
    return candidates[:MOST_PAIRS]


def pair_metrics(scores: Iterable[Score]) -> list[str]:
    """What a picture of two concepts is scored by: a score against real pictures twice, for the first and the second."""
    names = [
        [f"{score.name}_{position}" for position in POSITIONS] if score.against == "pictures" else [score.name]
        for score in scores
    ]
    return [*itertools.chain(*names), BOTH]


def pair_scores(
    pair: Pair, templates: list[str], pictures: np.ndarray, real: dict[str, np.ndarray], judges: dict[str, Judge]
) -> dict[str, np.ndarray]:
    """By metric, a value for every picture (n, h, w, 3), drawn of the template at its place."""
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
