"""Scores of a row's pictures, and of the rows that frame them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cpbench.concepts import images
from cpbench.metrics.cosines import cosine_self_pairs, paired_cosine
from cpbench.records.pictures import is_blank
from cpbench.running import composition

if TYPE_CHECKING:
    from cpbench.judges.embeddings import Embeddings
    from cpbench.judges.judge import Judge
    from cpbench.running.cells import Cell


def score(
    t: int,
    cell: Cell,
    kind: str,
    pictures: np.ndarray,
    real: Mapping[str, np.ndarray],
    judges: Mapping[str, Judge | Embeddings],
) -> list[tuple]:
    """CLIP-I, CLIP-T and DINO of each picture: mean cosine with every real picture; cosine with the prompt's words.

    Of two concepts what `composition.scores` tells, of a plain noun CLIP-T alone. No number for a picture of one
    colour all over: that is a model that broke, or a filter, not a bad likeness.
    """
    templates = [template for template, _ in cell.which]
    if cell.kind == "pair":
        values = composition.scores(cell.concepts, templates, pictures, real, judges)
    else:
        clip = judges["clip"]
        words = clip.texts([template.format(*cell.nouns) for template in templates])
        values = {"clip_t": paired_cosine(clip.images(pictures), words)}
        for metric, judge in (("clip_i", clip), ("dino", judges["dino"])) if cell.concepts else ():
            values[metric] = (judge.images(pictures) @ judge.images(real[cell.name]).T).mean(1)
    blank = [is_blank(p) for p in pictures]
    return [
        (t, kind, cell.name, template, index, metric, float("nan") if blank[i] else float(vector[i]))
        for metric, vector in values.items()
        for i, (template, index) in enumerate(cell.which)
    ]


def reference_rows(
    cell: Cell, real: Mapping[str, np.ndarray], judges: Mapping[str, Judge | Embeddings], seed: int | None
) -> list[tuple]:
    """Ceiling 1, the real pictures against each other without self-pairs; with a seed, on the miniature, also the `oracle` row."""
    rows: list[tuple] = [
        (0, "real", cell.name, "", 0, metric, cosine_self_pairs(judges[judge].images(real[cell.name])))
        for metric, judge in (("clip_i", "clip"), ("dino", "dino"))
    ]
    if seed is not None:
        drawings = [images.oracle(cell.name, template, seed, k) for template, k in cell.which]
        rows += score(0, cell, "oracle", np.stack(drawings), real, judges)
    return rows
