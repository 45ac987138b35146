"""`cpbench compare`: two runs picture by picture, after the last task of which both have drawn a row."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cpbench.errors import UserError
from cpbench.metrics.comparison import Comparison, Key, compare
from cpbench.metrics.scores import title_of
from cpbench.numbers import number
from cpbench.records.terminal import compact
from cpbench.report import data
from cpbench.report.data import Shown, scores_of


def compared(one: Path, other: Path) -> tuple[list[Shown], int, dict[str, Comparison], list[str]]:
    """(the runs, the row, by metric the comparison of the first with the second, what else differs between them).

    UserError where they have no pictures of the same concepts, prompts and noise, or other judges.
    """
    runs = [data.read(one), data.read(other)]
    notes = data.comparable(runs)
    data.label(runs)
    if len({(r.record.config.seed, r.record.config.order) for r in runs}) > 1:
        raise UserError(
            "compare: the runs have other seeds or orders, and so other noise or pasts; name two that share both"
        )
    for run in runs:
        if run.scores.empty:
            raise UserError(
                f"compare: {run.folder}: neither its scores.csv nor a row's can be read; run it again, or name another"
            )
        if run.doubt:
            raise UserError(f"compare: {run.folder}: {run.doubt}; run it again, or name another")
    row = max({*runs[0].drawn} & {*runs[1].drawn} - {0}, default=0)
    if not row:
        raise UserError(
            "compare: after no task there are pictures of both runs; let them go on, or draw the same --rows"
        )
    found = {}
    for metric in scores_of(runs):
        sides = [of_row(run, metric, row) for run in runs]
        if all(sides):
            found[metric] = compare(*sides)
    return runs, row, found, notes


def left_out(found: dict[str, Comparison]) -> list[str]:
    """A line for every metric of which pictures of one run have no like in the other."""
    lines = []
    for metric, it in found.items():
        if it.unpaired:
            concepts = f", and with them all of {', '.join(it.left_out)}" if it.left_out else ""
            lines.append(
                f"{title_of(metric)}: {it.unpaired} pictures are in one run alone, or have no score{concepts}."
            )
    return lines


def of_row(run: Shown, metric: str, row: int) -> dict[Key, float]:
    """Every picture's score in a row."""
    return {key[1:]: value for key, value in run.picture_scores(metric).items() if key[0] == row}


def table(runs: list[Shown], row: int, found: dict[str, Comparison]) -> Table:
    """A line a metric: the mean difference, its interval, the p value, and in words what it shows."""
    shown = compact(f"{runs[0].label} (A) minus {runs[1].label} (B), after task {row}")
    for head in ("", "A - B", "95 % interval", "p", "concepts", "pairs", ""):
        shown.add_column(head, justify="left" if not head else "right", no_wrap=True)
    for metric, it in found.items():
        says = "no difference shown" if not it.is_significant else "A is higher" if it.difference > 0 else "B is higher"
        interval = f"{number(it.low, sign=True)} to {number(it.high, sign=True)}"
        cells = (number(it.difference, sign=True), interval, number(it.p), str(it.concepts), str(it.pairs))
        shown.add_row(title_of(metric), *cells, says)
    return shown
