"""A run's figures and their intervals, computed from its scores.csv; those in its record are not read.

They are cached (`cpbench.remembered`) by everything they depend on, so that a second leaderboard computes nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpbench import remembered
from cpbench.files import short_hash
from cpbench.judges import added
from cpbench.metrics import comparison, cosines, figure_intervals, figures, intervals, matrices, retention, verdicts
from cpbench.metrics import scores as score_objects
from cpbench.metrics import summary as figures_of_scores
from cpbench.records import tables
from cpbench.records.folder import RunFolder

TOPIC = "figures"
COMPUTED_BY = (
    figures_of_scores, figures, score_objects, retention, matrices, cosines, figure_intervals, intervals, comparison, verdicts,
    tables,
)  # fmt: skip
Summary = dict[str, dict[str, float | None]]  # by metric and figure, as in run.json
Bounds = dict[str, dict[str, list[float] | None]]


def summary(folder: Path, concepts: list[str]) -> Summary:
    """`summary.summaries` of the complete run in this folder, with its concepts in the order learned.

    ValueError if scores.csv cannot be read or lacks cells that the figures need.
    """
    return _cached(figures_of_scores.summaries, folder, concepts)


def bounds(folder: Path, concepts: list[str]) -> Bounds:
    """`summary.intervals` of the complete run in this folder, as `summary`."""
    return _cached(figures_of_scores.intervals, folder, concepts)


def _cached(compute: Callable[[pd.DataFrame, list[str], int], Any], folder: Path, concepts: list[str]) -> Any:
    file = RunFolder(folder).scores
    digest, code = tables.table_hash(file), _code()
    key = {"what": compute.__name__, "scores": digest, "concepts": concepts, "code": code}
    key |= {"figures": list(figures.FIGURES), "judges": _packages()}
    key |= {"numpy": np.__version__, "pandas": pd.__version__}
    cached = remembered.recall(TOPIC, key) if code else None
    if isinstance(cached, dict) and cached.get("hash") == short_hash(cached.get("figures")):
        return cached["figures"]
    scores = tables.read_scores(file)
    if scores is None or tables.table_hash(file) != digest:
        raise ValueError("its scores.csv cannot be read")
    result = compute(scores, concepts, len(concepts))
    if code:
        remembered.remember(TOPIC, key, {"figures": result, "hash": short_hash(result)})
    return result


@functools.cache
def _packages() -> list[str]:
    """The judges of installed packages: without its judge, a score has no figures."""
    return added.names()


@functools.cache
def _code() -> str | None:
    """Hash of the code that computes the figures; None without its source, and then nothing is cached."""
    try:
        return short_hash([inspect.getsource(module) for module in COMPUTED_BY])
    except OSError:
        return None
