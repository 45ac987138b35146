"""Identity at equal text: what a method reaches where its pictures still say what the prompt says.

A method can win identity by ignoring the prompt. So what it changed is put in at several strengths s, W_0 + s (W - W_0) of every
changed weight of the denoiser, and identity is read where the text score is the same for all: at a share q of the untouched
model's. Of each concept, with T(s) and D(s) the mean text and identity scores of its pictures, linear between strengths,

    f(q) = max { D(s) : T(s) >= q T_0 },   area = 1 / (1 - 0.8) integral from 0.8 to 1 of f(q) dq

f is empty only where no strength reaches q; there the area counts D_0, the untouched model's, which has q = 1. Figures are means
over concepts; that of f over the concepts that have it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cpbench.metrics.scores import MAIN

TEXT = "clip_t"
SHARES = {"dino_at_90": 0.90, "dino_at_95": 0.95}
AREA, LOWEST, HIGHEST = "dino_area", 0.8, 1.0
FIGURES = (*SHARES, AREA)
STEPS = 400  # of the area's trapezoids, beside the curve's own corners
SCALED = "scaled"  # the kind of these cells in scores.csv
STRENGTH = re.compile(r"@(\d+(?:\.\d+)?)$")


def scaled_name(concept: str, strength: float) -> str:
    """A concept's name in scores.csv at a strength: "dog@0.5"."""
    return f"{concept}@{strength:g}"


def identity_at(text: ArrayLike, identity: ArrayLike, least: float) -> float:
    """max { D : T >= least } on the line through the points (T_k, D_k), in the order of their strengths; NaN if there is none."""
    T, D = np.asarray(text, float), np.asarray(identity, float)
    reached = list(D[least <= T])
    for t, u, d, e in zip(T, T[1:], D, D[1:], strict=False):
        if (t - least) * (u - least) < 0:  # the line crosses the threshold between two strengths
            reached.append(d + (e - d) * (least - t) / (u - t))
    return float(max(reached)) if reached else math.nan


def area(text: ArrayLike, identity: ArrayLike, text_0: float, identity_0: float) -> float:
    """The mean of f(q) over q in [0.8, 1]; see the module."""
    corners = np.asarray(text, float) / text_0
    q = np.concatenate([np.linspace(LOWEST, HIGHEST, STEPS + 1), corners[(corners > LOWEST) & (corners < HIGHEST)]])
    q = np.unique(q)
    f = np.array([identity_at(text, identity, share * text_0) for share in q])
    f[np.isnan(f)] = identity_0
    return float(np.trapezoid(f, q) / (HIGHEST - LOWEST))


def curves(scores: pd.DataFrame, concepts: Sequence[str]) -> dict[str, pd.DataFrame]:
    """By concept its curve in the last row: a line per strength in its order, with columns "strength", "text" and "identity".

    Empty if the run has no other strength than 1. The strength 0 is not in it.
    """
    last = scores[(scores["row"] == len(concepts)) & scores["metric"].isin((TEXT, MAIN))]
    strengths = strengths_of(last)
    if not strengths:
        return {}
    means = last.groupby(["kind", "concept", "metric"])["value"].mean()
    out = {}
    for concept in concepts:
        lines = []
        for strength in sorted({*strengths, 1.0}):
            key = ("cell", concept) if strength == 1.0 else (SCALED, scaled_name(concept, strength))
            lines.append((strength, means.get((*key, TEXT), math.nan), means.get((*key, MAIN), math.nan)))
        table = pd.DataFrame(lines, columns=["strength", "text", "identity"]).dropna()
        if len(table) > 1:  # with the strength 1 alone it is not defined: a method that changes no weight
            out[concept] = table
    return out


def mean_curve(scores: pd.DataFrame, of_run: Mapping[str, pd.DataFrame]) -> list[tuple[float, float, float]]:
    """(strength, text score as a share of the untouched model's, identity), means over the concepts of `curves`."""
    first = scores[(scores["row"] == 0) & (scores["kind"] == "cell") & (scores["metric"] == TEXT)]
    untouched = first.groupby("concept")["value"].mean()
    table = pd.concat(
        [curve.assign(share=curve["text"] / untouched.get(concept, math.nan)) for concept, curve in of_run.items()]
    )
    by_strength = table.groupby("strength")[["share", "identity"]].mean()
    return [(float(s), float(line["share"]), float(line["identity"])) for s, line in by_strength.iterrows()]


def strengths_of(scores: pd.DataFrame) -> list[float]:
    """The strengths of the cells of a table, beside 1."""
    names = map(str, scores.loc[scores["kind"] == SCALED, "concept"].unique())
    return sorted({float(match[1]) for name in names if (match := STRENGTH.search(name))})  # a table may be anybody's


def by_concept(scores: pd.DataFrame, concepts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Each of FIGURES by concept, NaN where it is empty; {} for a run without strengths."""
    of_run = curves(scores, concepts)
    if not of_run:
        return {}
    first = scores[(scores["row"] == 0) & (scores["kind"] == "cell")]
    untouched = first.groupby(["metric", "concept"])["value"].mean()
    figures: dict[str, dict[str, float]] = {name: {} for name in FIGURES}
    for concept, curve in of_run.items():
        T_0, D_0 = (float(untouched.get((metric, concept), math.nan)) for metric in (TEXT, MAIN))
        for name, share in SHARES.items():
            figures[name][concept] = identity_at(curve["text"], curve["identity"], share * T_0)
        figures[AREA][concept] = area(curve["text"], curve["identity"], T_0, D_0)
    return figures


def means(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Each figure's mean over the concepts that have it; NaN if none has."""
    out = {}
    for name, values in figures.items():
        finite = [value for value in values.values() if math.isfinite(value)]
        out[name] = sum(finite) / len(finite) if finite else math.nan
    return out
