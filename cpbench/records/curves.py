"""Training curves of a run as one picture: a panel for every figure that was logged, a line for every task.

A penalty that never bites lies flat at nothing; a method that stops learning shows in the norms of what it trains.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from cpbench.files import write_atomically
from cpbench.records.folder import RunFolder

COLUMNS = 3
NAMES = 20  # in a column of the legend
LONG = ["task", "phase", "step", "figure", "value"]
LARGEST = 1e30  # a figure, or a step, that is shown
MOST_BYTES = 2**25  # of a task's curve that is read
SMOOTHED = 25  # windows a line: single steps of small batches are mostly noise


def read(folder: Path, tasks: int) -> tuple[pd.DataFrame, list[int]]:
    """Long form of all tasks' curves, columns LONG, and the tasks whose file is damaged. Empty where nothing was logged."""
    parts, damaged = [], []
    for t in range(1, tasks + 1):
        try:
            long = read_one(RunFolder(folder).task(t).curve)
        except ValueError:
            damaged.append(t)
        else:
            if long is not None:
                parts.append(long.assign(task=t)[LONG])
    return (pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=LONG)), damaged


def read_one(file: Path) -> pd.DataFrame | None:
    """Long form of a task's curve, the figures that are numbers: phase, step, figure, value. None where there is none.

    ValueError for a file that is damaged, or too large to be one.
    """
    try:
        if not os.path.isfile(file):  # which, unlike pathlib's, is calm about names too long to be a file's
            return None
        if file.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wide = pd.read_csv(file, dtype={"phase": str}, low_memory=False)
        long = wide.melt(id_vars=["phase", "step"], var_name="figure")
        for column in ("step", "value"):
            long[column] = pd.to_numeric(long[column], errors="coerce")
    except (OSError, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not a curve: {error}") from None
    long["phase"] = long["phase"].fillna("")
    # the larger ones of floats can be read, and not be drawn
    return long[(long["value"].abs() <= LARGEST) & (long["step"].abs() <= LARGEST)]


def smoothed(values: pd.Series) -> pd.Series:
    """Running means over a 25th of the line."""
    return values.rolling(max(1, len(values) // SMOOTHED), min_periods=1, center=True).mean()


def plot(folder: Path, concepts: list[str], target: Path) -> None:
    """Write the picture; nothing where nothing was logged."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    curves, _ = read(folder, len(concepts))
    if curves.empty:
        return
    panels = list(curves.groupby(["phase", "figure"], sort=False))
    rows = -(-len(panels) // COLUMNS)
    names = [f"{t}: {c}" for t, c in enumerate(concepts, 1)]
    beside = -(-len(names) // NAMES)  # columns of the legend
    legend = beside * (0.6 + 0.075 * max(map(len, names)))  # inches; matplotlib's own layouts draw everything twice
    width, height = 4.2 * COLUMNS + legend, 2.6 * rows
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(width, height), squeeze=False)
    figure.subplots_adjust(
        left=0.6 / width,
        right=1 - (legend + 0.2) / width,
        bottom=0.5 / height,
        top=1 - 0.35 / height,
        wspace=0.22,
        hspace=0.42,
    )
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
    figure.legend(handles, names, loc="upper right", fontsize=7, ncols=beside, title="task", title_fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    write_atomically(target, buffer.getvalue())
