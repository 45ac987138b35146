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
import pandas as pd

from cpbench import metrics
from cpbench.sequences import Concept, Sequence

if TYPE_CHECKING:
    from cpbench.judges import Judge

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
    found["clip_t"] = metrics.paired_cosine(by_clip, clip.texts([t.format(*nouns) for t in templates]))
    what = [" and a ".join(nouns), *nouns]
    likeness = by_clip @ clip.texts([f"a photo of a {words}" for words in what]).T
    return found | {"both": (likeness.argmax(1) == 0).astype(float)}


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """From scores in long form: by row, means over the pairs (dino and clip_i also over the two concepts); {} without any."""
    drawn = table[table["kind"] == "pair"]
    by = drawn.assign(metric=drawn["metric"].str.replace("_(?:first|second)$", "", regex=True))
    means = by.groupby(["row", "concept", "metric"])["value"].mean().groupby(["row", "metric"]).mean()
    return {str(row): {k: float(v) for k, v in part.droplevel(0).items()} for row, part in means.groupby("row")}
