"""Rank correlation between our methods and published tables: Kendall's tau with its interval.

    python benchmarks/agreement.py results/reference/dreambench10

Our scores are the final DINO and the final CLIP-I (last row, mean over concepts and seeds), the published ones the table's
picture score. p is exact: the probability that a random order of the methods agrees, or disagrees, at least as much. The
interval covers our side only: tau for 2000 bootstrap resamples of our concepts. It shows how certain our order is and is
not a test of agreement. With three or four methods no order has a small p.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from cpbench.leaderboard import entries
from cpbench.leaderboard.entries import Run
from cpbench.numbers import number
from cpbench.records import tables
from cpbench.records.folder import RunFolder

RESAMPLES = 2000
JUDGES = ("dino", "DINO"), ("clip_i", "CLIP-I")
# Published final picture scores, higher is better; their backbones, data and numbers of concepts differ from ours.
PUBLISHED = {
    "CIFC's ten concepts, CLIP-I, Stable Diffusion 1.5 (Dong et al. 2024; ContinualHyper's transcription)": {
        "seqlora": 0.737,
        "ewc": 0.759,
        "clora use_class_noun=true": 0.769,
        "cidm": 0.780,
    },
    "four items, share of pictures with the right one, PixArt-alpha (T2I-ConBench 2025, Unique-Acc)": {
        "base": 0.0075,
        "seqlora": 0.0525,
        "l2": 0.1575,
        "olora": 0.1775,
        "clora use_class_noun=true": 0.1850,
        "joint": 0.2225,
        "ewc": 0.2250,
    },
    "twenty concepts, CLIP-I of one concept (Concept Neuron Selection, 2025; its project page)": {
        "textualinversion": 72.76,
        "customdiffusion": 67.88,
        "clora": 71.82,
    },
}


@functools.cache
def runs_in(folder: Path) -> list[Run]:
    return entries.read_runs(folder)


@functools.cache
def finals(folder: Path, metric: str) -> pd.DataFrame:
    """Final scores: each row is a concept, each column a method, averaged over its runs."""
    parts: dict[str, list[pd.Series]] = {}
    for run in runs_in(folder):
        scores = tables.read_scores(RunFolder(run.folder).scores)
        if run.state or scores is None:
            continue
        last_row = len(run.record.sequence.concepts)
        cells = scores[(scores["kind"] == "cell") & (scores["metric"] == metric) & (scores["row"] == last_row)]
        parts.setdefault(run.method.removesuffix("*"), []).append(cells.groupby("concept")["value"].mean())
    return pd.DataFrame({method: pd.concat(series, axis=1).mean(axis=1) for method, series in parts.items()})


def agreement(final_scores: pd.DataFrame, published_scores: dict[str, float]) -> tuple[float, float, float, float]:
    """(tau, low, high, p): Kendall's tau-b of final scores (concepts, methods) with published ones, with its 95 % interval and exact p."""
    table, published = final_scores[list(published_scores)].to_numpy(), list(published_scores.values())
    generator = np.random.default_rng(0)
    resampled = [table[generator.integers(len(table), size=len(table))].mean(axis=0) for _ in range(RESAMPLES)]
    taus = [kendalltau(means, published).statistic for means in resampled]
    low, high = np.nanquantile(taus, [0.025, 0.975])
    result = kendalltau(table.mean(axis=0), published)
    return float(result.statistic), float(low), float(high), float(result.pvalue)


def main(folder: Path) -> None:
    console = Console()
    for source, published in PUBLISHED.items():
        for metric, name in JUDGES:
            means = finals(folder, metric)
            shared = {method: value for method, value in published.items() if method in means}
            unmatched = [method for method in published if method not in shared]
            table = Table(title=f"{source}; ours: final {name}", title_justify="left")
            for head in ("method", "published", "ours"):
                table.add_column(head, justify="left" if head == "method" else "right")
            for method, value in sorted(shared.items(), key=lambda item: -item[1]):
                table.add_row(method, f"{value:g}", number(means[method].mean()))
            console.print(table)
            if unmatched:
                console.print(f"no run of {', '.join(unmatched)}")
            if len(shared) > 2:
                tau, low, high, p = agreement(means, shared)
                console.print(
                    f"Kendall's tau {number(tau, 2, True)}, p {number(p, 2)}; over our concepts {number(low, 2, True)} to {number(high, 2, True)}\n"
                )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/reference/dreambench10"))
