"""Training curves of a run as one picture: a panel for every figure that was logged, a line for every task.

A penalty that never bites lies flat at nothing; a method that stops learning shows in the norms of what it trains.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd

from cpbench import results

COLUMNS = 3
SMOOTHED = 25  # windows a line: single steps of small batches are mostly noise


def read(folder: Path, concepts: list[str]) -> pd.DataFrame:
    """Long form of all tasks' curves: task, phase, step, figure, value. Empty where nothing was logged."""
    parts = []
    for t in range(1, len(concepts) + 1):
        file = folder / f"task-{t:02d}" / "curve.csv"
        if file.exists():
            wide = pd.read_csv(file)
            long = wide.melt(id_vars=["phase", "step"], var_name="figure").dropna(subset="value")
            parts.append(long.assign(task=t))
    empty = pd.DataFrame(columns=["task", "phase", "step", "figure", "value"])
    return pd.concat(parts, ignore_index=True)[list(empty.columns)] if parts else empty


def smoothed(values: pd.Series) -> pd.Series:
    """Running means over a 25th of the line."""
    return values.rolling(max(1, len(values) // SMOOTHED), min_periods=1, center=True).mean()


def plot(folder: Path, concepts: list[str], target: Path) -> None:
    """Write the picture; nothing where nothing was logged."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves = read(folder, concepts)
    if curves.empty:
        return
    panels = list(curves.groupby(["phase", "figure"], sort=False))
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(4.2 * COLUMNS, 2.6 * rows), squeeze=False, layout="constrained")
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(concepts)))
    for axis, ((phase, name), lines) in zip(axes.flat, panels, strict=False):
        for task, line in lines.groupby("task"):
            axis.plot(line["step"], smoothed(line["value"]), color=shades[task - 1], linewidth=1)
        if (lines["value"] > 0).all() and lines["value"].max() > 30 * lines["value"].min():
            axis.set_yscale("log")
        axis.set_title(f"{phase}: {name}", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("step", fontsize=7)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles = [plt.Line2D([], [], color=shade) for shade in shades]
    names = [f"{t}: {c}" for t, c in enumerate(concepts, 1)]
    figure.legend(handles, names, loc="outside right upper", fontsize=7, title="task", title_fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    results.write_atomically(target, buffer.getvalue())
