"""What a run shows: the retention matrices, the summary figures and the costs, as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.table import Table

from cpbench.fitted_table import compact
from cpbench.metrics import figures, matrices
from cpbench.metrics.matrices import reference_row
from cpbench.metrics.multi_concept import summary as pair_summary
from cpbench.metrics.scores import among, title_of
from cpbench.metrics.summary import intervals, summaries
from cpbench.numbers import number
from cpbench.records import tables
from cpbench.records.folder import RunFolder
from cpbench.records.grid import MOST_COLUMNS
from cpbench.records.record import Cost


def run_tables(folder: Path, concepts: list[str], t: int) -> list[Table]:
    """Rich tables after task t: one retention matrix per score if it fits a terminal, then the summary."""
    scores = tables.read_scores(RunFolder(folder).scores)
    out = []
    by_score = matrices.matrices(scores, concepts) if len(concepts) <= MOST_COLUMNS else {}
    for metric, matrix in by_score.items():
        table = matrix_table(f"{title_of(metric)} after task {t}", matrix)
        for kind, name in (("real", "real"), ("oracle", "oracle")):
            values = reference_row(scores, kind, metric, concepts)
            if not all(math.isnan(v) for v in values):
                table.add_row(name, *map(number, values), style="dim")
        out.append(table)
    out.append(summary_table(scores, concepts, t))
    pairs = pair_summary(scores)
    return [*out, composition_table(pairs)] if t == len(concepts) and pairs else out


def run_matrices(folder: Path, concepts: list[str]) -> dict[str, pd.DataFrame]:
    """The retention matrices in a folder with a scores.csv, by score."""
    return matrices.matrices(tables.read_scores(RunFolder(folder).scores), concepts)


def run_figures(folder: Path, concepts: list[str], t: int) -> dict[str, dict[str, float | None]]:
    """The figures after task t, by score."""
    return summaries(tables.read_scores(RunFolder(folder).scores), concepts, t)


def matrix_table(title: str, matrix: pd.DataFrame) -> Table:
    """A retention matrix; bold: each concept right after its own task."""
    table = compact(title, gap=1 if (matrix < 0).any(axis=None) else 2, split=True)
    table.add_column("model", no_wrap=True)
    for concept in matrix.columns:
        table.add_column(concept, justify="right", overflow="fold", min_width=5)
    for row, values in matrix.iterrows():
        name = "untouched" if row == 0 else f"task {row}"
        cells = [f"[bold]{number(v)}[/bold]" if row == j + 1 else number(v) for j, v in enumerate(values)]
        table.add_row(name, *cells)
    return table


def composition_table(rows: dict[str, dict[str, float]]) -> Table:
    """Pictures of two concepts, from `multi_concept.summary`: likeness to either, to the prompt, and how often both are there."""
    table = compact("two concepts in one picture", split=True)
    table.add_column("model", no_wrap=True)
    names = [*among({name for means in rows.values() for name in means}), "both"]
    for name in names:
        table.add_column(title_of(name), justify="right", no_wrap=True)
    for row, means in rows.items():
        name = "untouched" if row == "0" else f"task {row}"
        table.add_row(name, *(number(means.get(k, math.nan)) for k in names))
    return table


def summary_table(scores: pd.DataFrame, concepts: list[str], t: int) -> Table:
    """The figures; after the last task each with its 95 % interval, of resampled concepts, prompts and pictures."""
    by_score, ended = summaries(scores, concepts, t), t == len(concepts)
    bounds = intervals(scores, concepts, t) if ended else {}
    table = compact(f"summary after task {t}" + (", with 95 % intervals" if ended else ""), split=True)
    table.add_column("")
    for metric in by_score:
        table.add_column(title_of(metric), justify="left" if ended else "right", no_wrap=True)
    for figure in figures.table_figures():
        cells = [number(by_score[m][figure.name]) + between(bounds.get(m, {}).get(figure.name)) for m in by_score]
        table.add_row(figure.heading(), *cells)
    return table


def between(bounds: list[float] | None) -> str:
    """The bounds in square brackets, for rich, with two decimals; "" where there are none."""
    if bounds is None:
        return ""
    low, high = (number(v, 2) for v in bounds)
    return rf" \[{low}, {high}]"


def cost_table(costs: Mapping[int, Cost]) -> Table:
    """What each task cost; row 0 is generating and judging with the untouched model."""
    table = compact("cost by task", drop=("trained", "reused", "judge s", "evaluations", "generated", "peak MB"))
    heads = (
        "task",
        "learn s",
        "generate s",
        "judge s",
        "evaluations",
        "generated",
        "reused",
        "trained",
        "state kB",
        "peak MB",
    )
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for t, cost in sorted(costs.items()):
        seconds = (cost.learning_seconds, cost.generation_seconds, cost.judging_seconds)
        table.add_row(
            str(t),
            *(f"{s:.1f}" for s in seconds),
            str(cost.learning_evaluations + cost.generation_evaluations),
            *map(str, (cost.pictures_generated, cost.pictures_reused, cost.trainable_parameters)),
            f"{sum(cost.state_bytes.values()) / 1000:.0f}",
            f"{cost.peak_memory_bytes / 1e6:.0f}",
        )
    return table
