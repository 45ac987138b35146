"""The charts of README.md and docs/findings.md: what each method learns, what it retains, and its cost.

    python benchmarks/chart.py results/reference/leaderboard.csv dreambench10 docs/findings-methods.png
    python benchmarks/chart.py results/reference/leaderboard.csv dreambench10 docs/results-methods.png ten

The first shows the largest table of the sequence in a leaderboard, the second the ten methods of README; one line per method
(number of runs), sorted by retention. Hollow dots: share of the gap to the real pictures closed right after each concept's own
task. Full dots, with 95 % intervals: the share closed after the last task. The other panels show UNet evaluations and state size
on a log scale.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

RETENTION, LEARNED = "dino_normalised_retention", "dino_gap_closed"
INK, FAINT = "#0b62a8", "#9aa5ad"
INTERVAL_STYLES = {
    "concepts": ("#7fb2dc", "one run, over concepts"),
    "seeds": ("#e0913a", "three or more runs, over seeds"),
}


# README's rows: the three references, and methods of the main groups of docs/methods.md
TEN = "isolated", "joint*", "dcscore", "ewc", "raretoken", "cidm", "seqlora", "textualinversion", "base", "clora"


def rows_of(file: Path, sequence: str) -> pd.DataFrame:
    """The largest table of the sequence, in any version, sorted by retention, lowest first."""
    table = pd.read_csv(file)
    table = table[table["sequence"].str.startswith(f"{sequence} v")]
    table = table[table["group"] == table["group"].mode()[0]]
    return table.sort_values(RETENTION, kind="stable")


def chart(table: pd.DataFrame, target: Path) -> None:
    sizes = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with matplotlib.rc_context(sizes):
        fig = Figure(figsize=(10, 0.33 * len(table) + 2), layout="constrained")
        shares, work, size = fig.subplots(1, 3, sharey=True, width_ratios=(2.7, 1, 1))
        y, retention = np.arange(len(table)), table[RETENTION].to_numpy()
        shares.hlines(y, retention, table[LEARNED], color=FAINT, linewidth=1.5)
        margins = np.abs(table[[f"{RETENTION}_low", f"{RETENTION}_high"]].to_numpy().T - retention)
        for over, (colour, coverage) in INTERVAL_STYLES.items():
            selected = (table["intervals_over"] == over).to_numpy()
            bars = {"fmt": "none", "ecolor": colour, "elinewidth": 4, "label": f"95 % interval, {coverage}"}
            shares.errorbar(retention[selected], y[selected], xerr=margins[:, selected], **bars)
        shares.plot(table[LEARNED], y, "o", color=FAINT, markerfacecolor="white", label="just learned")
        shares.plot(retention, y, "o", color=INK, label="after the last task")
        shares.set_yticks(y, [f"{m} ({n})" for m, n in zip(table["method"], table["runs"], strict=True)])
        shares.set_xlabel("share of the gap between\nuntouched model and real\npictures, by miniature's DINO")
        fig.legend(loc="outside upper center", ncols=2, frameon=False)
        for axes, column, unit, label in (
            (work, "learning_unet_evaluations", 1000, "thousand UNet\nevaluations,\nlearning"),
            (size, "carried_MB", 1, "state size,\nmegabytes"),
        ):
            positive = table[column] > 0
            axes.plot(table[column][positive] / unit, y[positive], "o", color=INK)
            axes.set_xscale("log")
            decades = np.log10(table[column][positive].max() / table[column][positive].min())
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 3) if decades < 2 else (1,), numticks=9 if decades < 2 else 3)
            )
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(label)
        for axes in (shares, work, size):
            axes.grid(axis="both", color="#e4e8ea", linewidth=0.6)
            axes.tick_params(length=0)
        fig.savefig(target, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[4:] not in ([], ["ten"]):
        sys.exit(__doc__)
    rows = rows_of(Path(sys.argv[1]), sys.argv[2])
    chart(rows[rows["method"].isin(TEN)] if sys.argv[4:] else rows, Path(sys.argv[3]))
    print(f"wrote {sys.argv[3]}")
