"""Scores of a row's pictures, and the reference rows: real pictures and oracle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cpbench.concepts import images
from cpbench.errors import UserError
from cpbench.metrics.scores import of_judges
from cpbench.records.pictures import is_blank
from cpbench.running import multi_concept
from cpbench.running.unrelated import UNRELATED

WITHOUT_CONCEPT = ("prior", UNRELATED)  # cells with no concept in them

if TYPE_CHECKING:
    from cpbench.judges.embeddings import Embeddings, RowEmbeddings
    from cpbench.judges.judge import Judge
    from cpbench.running.cells import Cell


def cell_metrics(cell_type: str, judges: Collection[str]) -> list[str]:
    """Metrics that pictures of a cell of this type are scored by, with these judges."""
    scores = of_judges(judges)
    if cell_type == "pair":
        return multi_concept.pair_metrics(scores)
    return [score.name for score in scores if cell_type not in WITHOUT_CONCEPT or score.against == "words"]


def score_cell(
    t: int,
    cell: Cell,
    entry_type: str,
    pictures: np.ndarray,
    real: Mapping[str, np.ndarray],
    judges: Mapping[str, Judge | Embeddings | RowEmbeddings],
) -> list[tuple]:
    """Lines of scores.csv: each picture's scores against its concept's real pictures and against its prompt.

    entry_type: the table's column `kind`. real: the references of each concept. Pairs of concepts are scored by
    `multi_concept.pair_scores`, pictures of no concept only against words. A picture of a single colour gets NaN: it comes from a broken model or a safety filter and says nothing
    about likeness. UserError if a package's score does not give one number per picture.
    """
    templates = [template for template, _ in cell.samples]
    if cell.cell_type == "pair":
        values = multi_concept.pair_scores(cell.concepts, templates, pictures, real, judges)
    else:
        words, values = [template.format(*cell.nouns) for template in templates], {}
        for score in of_judges(judges):
            judge = judges[score.judge]
            if score.against == "words":
                values[score.name] = score.of(judge.images(pictures), judge.texts(words))
            elif cell.concepts:
                values[score.name] = score.of(judge.images(pictures), judge.images(real[cell.concepts[0].name]))
    for metric, vector in values.items():
        if np.shape(vector) != (len(pictures),):
            raise UserError(
                f"score {metric}: gave {np.shape(vector)} numbers for {len(pictures)} pictures; it must give one per picture"
            )
    blank = [is_blank(p) for p in pictures]
    return [
        (t, entry_type, cell.name, template, index, metric, float("nan") if blank[i] else float(vector[i]))
        for metric, vector in values.items()
        for i, (template, index) in enumerate(cell.samples)
    ]


def reference_rows(
    cell: Cell,
    real: Mapping[str, np.ndarray],
    judges: Mapping[str, Judge | Embeddings | RowEmbeddings],
    seed: int | None,
    training: Mapping[str, np.ndarray],
) -> list[tuple]:
    """Ceiling 1: the training pictures as if they were generated; with a seed (miniature) also the row `oracle`.

    real: the references; where they are the training pictures, these are scored against each other, without self-pairs.
    """
    rows: list[tuple] = []
    for score in of_judges(judges):
        if score.ceiling:
            references = judges[score.judge].images(real[cell.name])
            if training[cell.name] is real[cell.name]:
                value = float(score.ceiling(references))
            else:
                value = float(np.mean(score.of(judges[score.judge].images(training[cell.name]), references)))
            rows.append((0, "real", cell.name, "", 0, score.name, value))
    if seed is not None:
        drawings = [images.oracle(cell.name, template, seed, k) for template, k in cell.samples]
        rows += score_cell(0, cell, "oracle", np.stack(drawings), real, judges)
    return rows
