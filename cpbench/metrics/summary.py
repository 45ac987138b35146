"""The figures of a run by metric, from its scores, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from cpbench.metrics import matrices, retention
from cpbench.metrics.figure_intervals import figure_intervals
from cpbench.metrics.matrices import reference_row

NOISE_DRAWS = 4000
TITLES = {"clip_i": "CLIP-I", "clip_t": "CLIP-T", "dino": "DINO"}
FIGURES = (
    "final_average",
    "plasticity",
    "forgetting",
    "forgetting_from_noise",
    "backward_transfer",
    "forward_transfer",
    "normalised_retention",
    "gap_closed",
    "share_lost",
)


def summaries(scores: pd.DataFrame, concepts: list[str], t: int) -> dict[str, dict[str, float | None]]:
    """By metric, the figures of `metrics.summary` after task t, and forgetting's share of noise and forward transfer.

    None where a figure is not defined.
    """
    learned, out = concepts[:t], {}
    wider = matrices.matrices(scores, learned, ("cell", "unlearned"))
    for metric, table in matrices.matrices(scores, learned).items():
        ceiling = reference_row(scores, "real", metric, learned)
        whole = table.reindex(range(t + 1))  # a row that was not drawn defines nothing
        values = retention.summary(whole.to_numpy(), ceiling)
        values["forgetting_from_noise"] = noise_in_forgetting(scores, metric, learned)
        values["forward_transfer"] = retention.forward_transfer(wider[metric].reindex(range(t + 1)).to_numpy())
        out[metric] = {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()}
    return out


def noise_in_forgetting(scores: pd.DataFrame, metric: str, concepts: list[str]) -> float:
    """`retention.forgetting_from_noise` of a run; NaN where a row that Chaudhry's maximum needs was not drawn."""
    T = len(concepts)
    errors = np.full((T + 1, T), np.nan)
    own = scores[(scores["kind"] == "cell") & (scores["metric"] == metric)]
    for j, concept in enumerate(concepts[:-1], 1):
        mine = own[(own["concept"] == concept) & own["row"].between(j, T)]
        pictures = mine.pivot_table(index="row", columns=["prompt", "index"], values="value", dropna=False)
        if len(pictures) == T + 1 - j:
            errors[j:T, j - 1] = retention.standard_error(pictures.to_numpy())
    return retention.forgetting_from_noise(errors, NOISE_DRAWS)


def intervals(scores: pd.DataFrame, concepts: list[str], t: int) -> dict[str, dict[str, list[float] | None]]:
    """By metric and figure the 95 % interval [low, high] after task t; None where it is not defined."""
    learned, out = concepts[:t], {}
    for metric in matrices.matrices(scores, learned):
        ceiling = reference_row(scores, "real", metric, learned)
        found = figure_intervals(scores, metric, learned, ceiling)
        out[metric] = {
            k: None if math.isnan(low) else [round(low, 6), round(high, 6)] for k, (low, high) in found.items()
        }
    return out
