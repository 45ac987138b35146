"""CLIP-I and DINO by two other rules than all pairs: the nearest real picture, and centred embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cpbench.concepts.sequences import Sequence
from cpbench.metrics.cosines import common_mean, cosine_centred, cosine_nearest, mean_products
from cpbench.metrics.scores import SCORES
from cpbench.records.folder import RunFolder
from cpbench.running.cells import cells_of_row, pictures_of
from cpbench.running.measures import features

if TYPE_CHECKING:
    from cpbench.judges.embeddings import Embeddings


def matrices(
    folder: Path,
    sequence: Sequence,
    rows: list[int],
    per_prompt: int,
    real: Mapping[str, np.ndarray],
    judges: Mapping[str, Embeddings],
) -> dict[str, pd.DataFrame]:
    """Retention matrices (rows, concepts) of a run's pictures on disk, by "clip_i-nearest", "clip_i-centred", "dino-...".

    See `cosines.cosine_nearest` and `cosines.cosine_centred`, whose centre is that of the real pictures of all the
    sequence's concepts. real: each concept's pictures (n, h, w, 3). NaN where there is no picture.
    """
    concepts = [c.name for c in sequence.concepts]
    pictures_by_row = {
        t: {
            cell.name: pictures
            for cell in cells_of_row(sequence, t, per_prompt)
            if cell.cell_type == "cell" and (pictures := pictures_of(RunFolder(folder).task(t), cell))
        }
        for t in rows
    }
    out = {}
    for metric, judge_name in ((score.name, score.judge) for score in SCORES.values() if score.of is mean_products):
        references = {c: judges[judge_name].images(real[c]) for c in concepts}
        centre = common_mean(references.values())
        nearest, centred = (pd.DataFrame(np.nan, index=pd.Index(rows, name="row"), columns=concepts) for _ in range(2))
        for t, pictures in pictures_by_row.items():
            for concept, vectors in features(judges[judge_name], pictures).items():
                embeddings = np.stack(list(vectors.values()))
                nearest.loc[t, concept] = cosine_nearest(embeddings, references[concept])
                centred.loc[t, concept] = cosine_centred(embeddings, references[concept], centre)
        out |= {f"{metric}-nearest": nearest, f"{metric}-centred": centred}
    return out
