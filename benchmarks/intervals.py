"""Width of the interval of a difference between two methods, by number of prompts and of pictures per prompt.

    python benchmarks/intervals.py results/runs/miniature-val6

For every pair of finished runs, the DINO scores of the final row are subtracted picture by picture (same noise). A nested
analysis of variance splits the variance of the differences into concepts, prompts within a concept and pictures within a
prompt. A design with P prompts and K pictures per prompt then has the half-width

    t(C - 1) sqrt((v_c + v_p / P + v_k / (P K)) / C)

for C concepts. The table shows the gain from more prompts and pictures, at the cost of more UNet evaluations per cell.
"""

from __future__ import annotations

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from cpbench.numbers import number
from cpbench.records import tables
from cpbench.records.folder import RunFolder, runs_below

DESIGNS = ((2, 1), (4, 1), (4, 2), (8, 1), (8, 2), (8, 4), (16, 2))


def final_row(folder: Path) -> pd.Series:
    """DINO of the last row, by (concept, prompt, index)."""
    scores = tables.read_scores(RunFolder(folder).scores)
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == "dino")]
    return cells[cells["row"] == cells["row"].max()].set_index(["concept", "prompt", "index"])["value"]


def components(difference: pd.Series) -> tuple[float, float, float]:
    """Variances of (concepts, prompts within a concept, pictures within a prompt), clipped at zero."""
    by_prompt = difference.groupby(["concept", "prompt"])
    means, pictures = by_prompt.mean(), float(by_prompt.size().mean())
    within = float(by_prompt.var().mean())
    by_concept = means.groupby("concept")
    prompts = float(by_concept.size().mean())
    between_prompts = max(0.0, float(by_concept.var().mean()) - within / pictures)
    variance_of_means = float(by_concept.mean().var())
    return (
        max(0.0, variance_of_means - between_prompts / prompts - within / (pictures * prompts)),
        between_prompts,
        within,
    )


def half_width(variances: tuple[float, float, float], concepts: int, prompts: int, pictures: int) -> float:
    v_c, v_p, v_k = variances
    spread = (v_c + v_p / prompts + v_k / (prompts * pictures)) / concepts
    return float(student.ppf(0.975, concepts - 1) * np.sqrt(spread))


def main(folder: Path) -> None:
    runs = {}
    for run in runs_below(folder):
        facts = json.loads(RunFolder(run).record.read_text())
        if facts["status"] == "finished" and facts["facts"]["method"] != "base":
            name = " ".join([facts["facts"]["method"], *(f"{k}={v}" for k, v in facts["changed"].items())])
            runs[name] = final_row(run)
    table = Table(title="95 % half-width of a difference in final DINO", box=None)
    table.add_column("methods")
    table.add_column("difference", justify="right")
    for prompts, pictures in DESIGNS:
        table.add_column(f"{prompts}x{pictures}", justify="right")
    for (a, x), (b, y) in combinations(runs.items(), 2):
        difference = x - y
        concepts = difference.index.get_level_values("concept").nunique()
        widths = [half_width(components(difference), concepts, *design) for design in DESIGNS]
        table.add_row(f"{a} - {b}", number(difference.mean(), sign=True), *(number(w) for w in widths))
    Console(width=160).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/runs/dreambench10"))
