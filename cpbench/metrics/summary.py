"""The figures of a run by score, from its table of scores, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from cpbench.metrics import matrices, retention
from cpbench.metrics.cosines import Array
from cpbench.metrics.figure_intervals import figure_intervals
from cpbench.metrics.figures import in_a_run
from cpbench.metrics.matrices import reference_row


def summaries(scores: pd.DataFrame, concepts: list[str], t: int) -> dict[str, dict[str, float | None]]:
    """The figures of a run after task t, by score and figure; None if one is not defined."""
    learned, out = concepts[:t], {}
    wider = matrices.matrices(scores, learned, ("cell", "unlearned"))
    for metric, table in matrices.matrices(scores, learned).items():
        whole, upper = (frame.reindex(range(t + 1)).to_numpy() for frame in (table, wider[metric]))
        arrays = {
            "ceiling": reference_row(scores, "real", metric, learned),
            "upper": upper,
            "standard_errors": standard_errors(scores, metric, learned),
        }
        # a row that was not generated is NaN
        values = {figure.name: figure.value(whole, **arrays) for figure in in_a_run()}
        out[metric] = {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()}
    return out


def standard_errors(scores: pd.DataFrame, metric: str, concepts: list[str]) -> Array:
    """`retention.standard_error` of the cells (T+1, T) that Chaudhry's maximum needs; NaN if such a row was not generated."""
    T = len(concepts)
    errors = np.full((T + 1, T), np.nan)
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == metric)]
    for j, concept in enumerate(concepts[:-1], 1):
        own_rows = cells[(cells["concept"] == concept) & cells["row"].between(j, T)]
        pictures = own_rows.pivot_table(index="row", columns=["prompt", "index"], values="value", dropna=False)
        if len(pictures) == T + 1 - j:
            errors[j:T, j - 1] = retention.standard_error(pictures.to_numpy())
    return errors


def intervals(scores: pd.DataFrame, concepts: list[str], t: int) -> dict[str, dict[str, list[float] | None]]:
    """By score and figure the 95 % interval [low, high] after task t; None if it is not defined."""
    learned, out = concepts[:t], {}
    for metric in matrices.matrices(scores, learned):
        ceiling = reference_row(scores, "real", metric, learned)
        bounds = figure_intervals(scores, metric, learned, ceiling)
        out[metric] = {
            k: None if math.isnan(low) else [round(low, 6), round(high, 6)] for k, (low, high) in bounds.items()
        }
    return out
