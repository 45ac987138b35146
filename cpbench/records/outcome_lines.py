"""What a task came to, and what a run came to, each in one line: what was learned, what is kept, what was hit hardest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from cpbench.metrics import matrices
from cpbench.metrics.matrices import reference_row
from cpbench.metrics.scores import main_first, title_of
from cpbench.numbers import number

LEAST_LOSS = 0.0005  # a smaller one is no loss at three decimals


def task_line(scores: pd.DataFrame, concepts: Sequence[str], t: int) -> str:
    """Task t in one line, by the main score: its concept, what is kept of the earlier ones, and which lost most in this task."""
    head = f"task {t} of {len(concepts)}, {concepts[t - 1]}"
    by_score = matrices.matrices(scores, list(concepts))
    if not by_score:
        return f"{head}: learned; no score of it"
    metric = main_first(by_score)[0]
    matrix = by_score[metric]
    floor = matrix.iloc[0, t - 1] if matrix.index[0] == 0 else math.nan
    line = f"{head}: learned {number(matrix.loc[t].iloc[t - 1])} by {title_of(metric)} (untouched {number(floor)})"
    earlier = range(t - 1)
    if matrix.loc[t].iloc[: t - 1].isna().all():  # none yet, or its row has the concept of its own task alone
        return line
    line += f"; kept {number(_mean(matrix.loc[t].iloc[j] for j in earlier))}"
    after_own_task = _after_own_task(matrix, earlier)
    line += f" of {number(after_own_task)}" if not math.isnan(after_own_task) else ""
    drop = largest_drop(matrix, [t])
    return f"{line}; {drop}" if drop else f"{line}; nothing lost"


def verdict(scores: pd.DataFrame, concepts: Sequence[str]) -> str:
    """A whole run in one line, by the main score; "" without scores."""
    by_score = matrices.matrices(scores, list(concepts))
    if not by_score:
        return ""
    metric = main_first(by_score)[0]
    matrix, last = by_score[metric], len(concepts)
    ceiling = _mean(reference_row(scores, "real", metric, list(concepts)))
    references = [
        ("untouched", _mean(matrix.iloc[0]) if matrix.index[0] == 0 else math.nan),
        ("real pictures", ceiling),
    ]
    listed = ", ".join(f"{name} {number(value)}" for name, value in references if not math.isnan(value))
    line = f"{title_of(metric)} after {last} task{'s' if last > 1 else ''}: {number(_mean(matrix.loc[last]))}"
    line += f" ({listed})" if listed else ""
    learned = _after_own_task(matrix, range(last))
    line += (
        f"; right after its own task a concept had {number(learned)}" if last > 1 and not math.isnan(learned) else ""
    )
    drop = largest_drop(matrix, [t for t in matrix.index if t > 1])
    return f"{line}; {drop}" if drop else line


def largest_drop(matrix: pd.DataFrame, rows: Sequence[int]) -> str:
    """Which concept lost most in one of these rows, against the last row before it that has the concept, and which concepts
    were learned in between; "" for no loss."""
    concepts, drops = list(matrix.columns), []
    for t, j in ((row, j) for row in rows for j in range(row - 1)):
        column = matrix.iloc[:, j].dropna()
        before = max((row for row in column.index if j < row < t), default=None)
        if before is None or t not in column.index:
            continue
        pair = float(column.loc[before]), float(column.loc[t])
        if pair[0] - pair[1] > LEAST_LOSS:
            drops.append((pair[0] - pair[1], concepts[j], *pair, " or ".join(concepts[before:t])))
    if not drops:
        return ""
    _, concept, high, low, causes = max(drops, key=lambda drop: drop[0])
    return f"hit hardest: {concept} {number(high)} -> {number(low)}, by {causes}"


def _after_own_task(matrix: pd.DataFrame, indices: Sequence[int]) -> float:
    """The mean over concepts of each one's score right after its own task; NaN where one of these rows was left out."""
    rows = [j + 1 for j in indices]
    return _mean(matrix.loc[j + 1].iloc[j] for j in indices) if set(rows) <= set(matrix.index) else math.nan


def _mean(values: object) -> float:
    numbers = np.array([float(v) for v in values])  # type: ignore[attr-defined]
    return float(np.nanmean(numbers)) if np.isfinite(numbers).any() else math.nan
