"""Scores of two concepts in one picture, averaged."""

from __future__ import annotations

import pandas as pd


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """From scores in long form: by row, means over the pairs (dino and clip_i also over the two concepts); {} without any."""
    drawn = table[table["kind"] == "pair"]
    by = drawn.assign(metric=drawn["metric"].str.replace("_(?:first|second)$", "", regex=True))
    means = by.groupby(["row", "concept", "metric"])["value"].mean().groupby(["row", "metric"]).mean()
    return {str(row): {k: float(v) for k, v in part.droplevel(0).items()} for row, part in means.groupby("row")}
