"""Multi-concept generation: mean scores of pictures that show two concepts."""

from __future__ import annotations

import pandas as pd


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Per row, each score's mean over the pairs of concepts; dino and clip_i also over a pair's two concepts. {} without pairs.

    table: the scores in long form.
    """
    pairs = table[table["kind"] == "pair"]
    by = pairs.assign(metric=pairs["metric"].str.replace("_(?:first|second)$", "", regex=True))
    means = by.groupby(["row", "concept", "metric"])["value"].mean().groupby(["row", "metric"]).mean()
    return {str(row): {k: float(v) for k, v in part.droplevel(0).items()} for row, part in means.groupby("row")}
