"""The charts of README.md and docs/findings.md: what each method learned, what it kept, and what that cost.

    python benchmarks/chart.py results/reference/leaderboard.csv dreambench10 docs/findings-methods.png
    python benchmarks/chart.py results/reference/leaderboard.csv dreambench10 docs/results-methods.png ten

The first has every method of the largest table over the sequence, the second the ten of README. One line per method, with
its number of runs; the method that kept most stands first. Hollow circle: the share of the way to the real pictures that
was closed right after each concept's own task. Full circle, with its 95 % interval: the share that is kept after the last
task. Then UNet evaluations to learn, and the state's size in megabytes, both on a log scale.
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
    "concepts": ("#7fb2dc", "one run: over concepts"),
    "seeds": ("#e0913a", "three runs or more: over seeds"),
}


# README's rows: the three references, and methods of the main groups of docs/methods.md
TEN = "isolated", "joint*", "dcscore", "ewc", "raretoken", "cidm", "seqlora", "textualinversion", "base", "clora"


def rows_of(file: Path, sequence: str) -> pd.DataFrame:
    """The largest table over the sequence, of whatever version; the method that kept least stands first."""
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
        for over, (colour, label) in INTERVAL_STYLES.items():
            selected = (table["intervals_over"] == over).to_numpy()
            bars = {"fmt": "none", "ecolor": colour, "elinewidth": 4, "label": f"95 % interval, {label}"}
            shares.errorbar(retention[selected], y[selected], xerr=margins[:, selected], **bars)
        shares.plot(table[LEARNED], y, "o", color=FAINT, markerfacecolor="white", label="just learned")
        shares.plot(retention, y, "o", color=INK, label="kept at the end")
        shares.set_yticks(y, [f"{m} ({n})" for m, n in zip(table["method"], table["runs"], strict=True)])
        shares.set_xlabel("share of the way from the\nuntouched model to the real\npictures, by miniature's DINO")
        fig.legend(loc="outside upper center", ncols=2, frameon=False)
        for axes, column, unit, title in (
            (work, "learning_unet_evaluations", 1000, "thousand UNet\nevaluations\nto learn all"),
            (size, "carried_MB", 1, "state at\nthe end,\nmegabytes"),
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
            axes.set_xlabel(title)
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
