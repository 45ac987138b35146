"""Two learned concepts in one picture: "a <v3> dog and a <v7> backpack on the beach".

A sequence's `compositions` are templates with two slots. They are drawn of pairs of concepts, an earlier and a later one, by
the untouched model (row 0, by their class nouns) and by the last. Each picture is judged by each concept's real pictures,
by the prompt, and for the presence of both: whether CLIP holds it rather for "a photo of a dog and a backpack" than
for a photo of either alone. What the untouched model reaches is the floor of all of it: a picture of one thing is a
little like the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cpbench.concepts.sequences import Concept, Sequence
from cpbench.metrics.cosines import paired_cosine

if TYPE_CHECKING:
    from cpbench.judges.judge import Judge

MOST_PAIRS = 3
METRICS = ("dino_first", "dino_second", "clip_i_first", "clip_i_second", "clip_t", "both")
Pair = tuple[Concept, Concept]


def pairs(sequence: Sequence) -> list[Pair]:
    """Concept j and concept j + T // 2, in the order of learning, where they are of different classes; the first three."""
    if not sequence.evaluation.compositions:
        return []
    concepts, half = sequence.concepts, len(sequence.concepts) // 2
    found = [(a, b) for a, b in zip(concepts, concepts[half:], strict=False) if half and a.class_noun != b.class_noun]
    return found[:MOST_PAIRS]


def scores(
    pair: Pair, templates: list[str], pictures: np.ndarray, real: dict[str, np.ndarray], judges: dict[str, Judge]
) -> dict[str, np.ndarray]:
    """By metric, a value for every picture (n, h, w, 3), drawn of the template at its place."""
    clip, dino = judges["clip"], judges["dino"]
    by_clip, by_dino = clip.images(pictures), dino.images(pictures)
    nouns = [c.class_noun for c in pair]
    found = {}
    for place, concept in zip(("first", "second"), pair, strict=True):
        found[f"dino_{place}"] = (by_dino @ dino.images(real[concept.name]).T).mean(1)
        found[f"clip_i_{place}"] = (by_clip @ clip.images(real[concept.name]).T).mean(1)
    found["clip_t"] = paired_cosine(by_clip, clip.texts([t.format(*nouns) for t in templates]))
    what = [" and a ".join(nouns), *nouns]
    likeness = by_clip @ clip.texts([f"a photo of a {words}" for words in what]).T
    return found | {"both": (likeness.argmax(1) == 0).astype(float)}
