"""A table as a chart: what each method learns, what it retains, and its cost."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from cpbench.leaderboard.groups import Group

RETENTION, LEARNED = "dino_normalised_retention", "dino_gap_closed"
INK, FAINT = "#0b62a8", "#9aa5ad"
INTERVAL_STYLES = {
    "concepts": ("#7fb2dc", "one run, over concepts"),
    "seeds": ("#e0913a", "three or more runs, over seeds"),
}
COSTS = (
    ("learning_unet_evaluations", 1000, "thousand\nevaluations,\nlearning"),
    ("carried_MB", 1, "state size,\nmegabytes"),
)


def draw(group: Group, target: Path) -> bool:
    """Write the chart of a table's rows, sorted by retention; False, and nothing written, if none has a retention.

    One line per method (number of runs). Hollow dots: share of the gap to the real pictures closed right after each concept's
    own task. Full dots, with 95 % intervals: the share closed after the last task. The other panels, on a log scale: evaluations
    of the denoiser while learning, and the state's size.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    rows = sorted(
        (row for row in group.rows if math.isfinite(row.mean.get(RETENTION, math.nan))),
        key=lambda row: row.mean[RETENTION],
    )
    if not rows:
        return False
    y = np.arange(len(rows))
    retention, learned = (np.array([row.mean[key] for row in rows]) for key in (RETENTION, LEARNED))
    sizes = {"font.size": 12, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with matplotlib.rc_context(sizes):
        fig = Figure(figsize=(10, 0.33 * len(rows) + 2), layout="constrained")
        shares, *panels = fig.subplots(1, 3, sharey=True, width_ratios=(2.7, 1, 1))
        shares.hlines(y, retention, learned, color=FAINT, linewidth=1.5)
        bounds = np.array([[row.low.get(RETENTION, math.nan), row.high.get(RETENTION, math.nan)] for row in rows])
        margins = np.abs(bounds.T - retention)
        for over, (colour, coverage) in INTERVAL_STYLES.items():
            of_kind = np.array([row.over == over for row in rows])
            if of_kind.any():
                bars = {"fmt": "none", "ecolor": colour, "elinewidth": 4, "label": f"95 % interval, {coverage}"}
                shares.errorbar(retention[of_kind], y[of_kind], xerr=margins[:, of_kind], **bars)
        shares.plot(learned, y, "o", color=FAINT, markerfacecolor="white", label="just learned")
        shares.plot(retention, y, "o", color=INK, label="after the last task")
        shares.set_yticks(y, [f"{row.label} ({len(row.runs)})" for row in rows])
        shares.set_xlabel("share of the gap between\nuntouched model and real\npictures, by DINO")
        fig.legend(loc="outside upper center", ncols=2, frameon=False)
        for axes, (key, unit, label) in zip(panels, COSTS, strict=True):
            cost = np.array([row.mean.get(key, math.nan) for row in rows])
            positive = cost > 0
            axes.set_xlabel(label)
            if not positive.any():
                continue
            axes.plot(cost[positive] / unit, y[positive], "o", color=INK)
            axes.set_xscale("log")
            decades = np.log10(cost[positive].max() / cost[positive].min())
            axes.xaxis.set_major_locator(
                LogLocator(subs=(1, 3) if decades < 2 else (1,), numticks=9 if decades < 2 else 3)
            )
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        for axes in (shares, *panels):
            axes.grid(axis="both", color="#e4e8ea", linewidth=0.6)
            axes.tick_params(length=0)
        fig.savefig(target, dpi=150, metadata={"Software": None})
    return True
