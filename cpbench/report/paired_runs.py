"""`cpbench compare`: two runs, picture by picture, after the last task that both have evaluated, and their figures."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from cpbench.errors import UserError
from cpbench.fitted_table import compact
from cpbench.metrics.comparison import Comparison, Key, compare
from cpbench.metrics.figures import table_figures
from cpbench.metrics.scores import MAIN, title_of
from cpbench.metrics.summary import summaries
from cpbench.metrics.verdicts import Verdict
from cpbench.numbers import number
from cpbench.report import data
from cpbench.report.data import RunView, metrics_of


def compare_runs(first: Path, second: Path) -> tuple[list[RunView], int, dict[str, Comparison], list[str]]:
    """(runs, row, comparison of the first with the second by metric, notes on other differences).

    UserError if their judges differ, or if they share no pictures of the same concept, prompt and noise.
    """
    runs = [data.read_run(first), data.read_run(second)]
    notes = data.comparison_notes(runs)
    data.label_runs(runs)
    if len({(run.record.config.seed, run.record.config.order) for run in runs}) > 1:
        raise UserError(
            "compare: the runs differ in seed or order, so their noise or earlier tasks differ; choose runs that share both"
        )
    for run in runs:
        if run.scores.empty:
            raise UserError(
                f"compare: {run.folder}: neither its scores.csv nor any task's can be read; run it again, or choose another run"
            )
        if run.doubt:
            raise UserError(f"compare: {run.folder}: {run.doubt}; run it again, or choose another run")
    row = max({*runs[0].whole_rows} & {*runs[1].whole_rows} - {0}, default=0)
    if not row:
        raise UserError("compare: the runs have no evaluated task in common; finish both, or evaluate the same --rows")
    comparisons = {}
    for metric in metrics_of(runs):
        sides = [row_scores(run, metric, row) for run in runs]
        if all(sides):
            comparisons[metric] = compare(*sides, has_margins=metric == MAIN)
    return runs, row, comparisons, notes


def unpaired_notes(comparisons: dict[str, Comparison]) -> list[str]:
    """One line per metric for which pictures of one run have no counterpart in the other."""
    lines = []
    for metric, comparison in comparisons.items():
        if comparison.unpaired:
            concepts = (
                f"; this excludes all pictures of {', '.join(comparison.left_out)}" if comparison.left_out else ""
            )
            lines.append(
                f"{title_of(metric)}: {comparison.unpaired} pictures exist in only one run or have no score, and are not compared{concepts}."
            )
    return lines


def row_scores(run: RunView, metric: str, row: int) -> dict[Key, float]:
    """The score of every picture in a row, by (concept, prompt, index)."""
    return {key[1:]: value for key, value in run.picture_scores(metric).items() if key[0] == row}


def common_figures(runs: list[RunView], row: int) -> dict[str, list[dict[str, float | None]]]:
    """By metric, each run's figures after task `row`, from the cells that both runs have; None where one needs another.

    A run that left out rows (see `evaluation.rows`) thus has the same cells in a figure as the one beside it.
    """
    cell = ["kind", "metric", "row", "concept"]
    tables = [run.scores[run.scores["kind"].isin(("cell", "unlearned"))].dropna(subset="value") for run in runs]
    common = tables[0][cell].drop_duplicates().merge(tables[1][cell].drop_duplicates())
    parts = [
        pd.concat([table.merge(common), run.scores[run.scores["kind"] == "real"]])
        for run, table in zip(runs, tables, strict=True)
    ]
    concepts = runs[0].concepts
    sides = [summaries(part, concepts, row) for part in parts]
    return {metric: [side[metric] for side in sides] for metric in metrics_of(runs) if all(metric in s for s in sides)}


def figure_table(runs: list[RunView], row: int) -> Table:
    """The figures by the main metric: of either run, from the cells that both have, and their difference."""
    figures_by_metric = common_figures(runs, row)
    metric = next(iter(figures_by_metric))
    first, second = figures_by_metric[metric]
    output = compact(Text(f"{title_of(metric)} after task {row}, from the cells that both runs have"))
    for head in ("", "A", "B", "A - B"):
        output.add_column(head, justify="right" if head else "left", no_wrap=True)
    for figure in table_figures():
        a, b = (math.nan if v is None else v for v in (first[figure.name], second[figure.name]))
        output.add_row(figure.heading(), number(a), number(b), number(a - b, sign=True))
    return output


def verdict_text(verdict: Verdict, difference: float) -> str:
    """What a table says of a pair whose first has the higher mean by this difference."""
    if verdict != "differs":
        return verdict
    return "A is higher" if difference > 0 else "B is higher"


def comparison_facts(runs: list[RunView], row: int, comparisons: dict[str, Comparison]) -> dict[str, Any]:
    """The comparison for JSON: differences are of the first run minus the second; figures are `common_figures`, in order."""
    scores = {metric: asdict(comparison) for metric, comparison in comparisons.items()}
    facts = {"runs": [str(run.folder) for run in runs], "task": row, "scores": scores}
    return facts | {"figures": common_figures(runs, row)}


def comparison_table(runs: list[RunView], row: int, comparisons: dict[str, Comparison]) -> Table:
    """One line per metric: mean difference, its interval, p value and verdict."""
    title = f"{runs[0].label} (A) minus {runs[1].label} (B), after task {row}"
    output = compact(Text(title), drop=("pairs", "concepts", "p by signs", "p"))  # labels have brackets, no markup
    for head in ("", "A - B", "95 % interval", "p", "p by signs", "concepts", "pairs", " "):
        output.add_column(head, justify="right" if head.strip() else "left", no_wrap=True)
    for metric, comparison in comparisons.items():
        verdict = verdict_text(comparison.verdict, comparison.difference)
        interval = f"{number(comparison.low, sign=True)} to {number(comparison.high, sign=True)}"
        cells = (
            number(comparison.difference, sign=True),
            interval,
            number(comparison.p),
            number(comparison.p_of_signs),
            str(comparison.concepts),
            str(comparison.pairs),
        )
        output.add_row(title_of(metric), *cells, verdict)
    return output
