"""Retention matrices of a table of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpbench.metrics.scores import among

if TYPE_CHECKING:
    import pandas as pd

SCORE_COLUMNS = ["row", "kind", "concept", "prompt", "index", "metric", "value"]


def matrices(scores: pd.DataFrame, concepts: list[str], kinds: tuple[str, ...] = ("cell",)) -> dict[str, pd.DataFrame]:
    """Retention matrix of each score, in the order of `scores.among`: rows 0..t (those that exist), columns the concepts in the order learned.

    A cell is the mean over its pictures; cells that do not exist are NaN. The cells of concepts not yet learned, if they were
    generated, are of the kind "unlearned".
    """
    cells = scores[scores["kind"].isin(kinds)].groupby(["metric", "row", "concept"])["value"].mean()
    out = {}
    for metric in among(cells.index.get_level_values(0).unique()):
        table = cells[metric].unstack("concept")
        out[metric] = table.reindex(columns=concepts).sort_index()
    return out


def reference_row(scores: pd.DataFrame, kind: str, metric: str, concepts: list[str]) -> list[float]:
    """Per concept, the mean of a reference row: kind "real" (ceiling 1) or "oracle" (ceiling 2)."""
    part = scores[(scores["kind"] == kind) & (scores["metric"] == metric)].groupby("concept")["value"].mean()
    return [float(part.get(c, float("nan"))) for c in concepts]
