"""`cpbench compare`: two runs picture by picture, after the last task that both have drawn."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from cpbench import report_data
from cpbench.comparison import Comparison, Key, compare
from cpbench.errors import UserError
from cpbench.report import TITLES, compact
from cpbench.report_data import SHOWN, Shown, part


def compared(one: Path, other: Path) -> tuple[list[Shown], int, dict[str, Comparison], list[str]]:
    """(the runs, the row, by metric the comparison of the first with the second, what else differs between them).

    UserError where they have no pictures of the same concepts, prompts and noise, or other judges.
    """
    runs = [report_data.read(one), report_data.read(other)]
    notes = report_data.comparable(runs)
    report_data.label(runs)
    if len({str([part(r.record, "config").get(k) for k in ("seed", "order")]) for r in runs}) > 1:
        raise UserError(
            "compare: the runs have other seeds or orders, and so other noise or pasts; name two that share both"
        )
    row = min(r.last for r in runs)
    if not row:
        raise UserError("compare: one of the runs has drawn nothing after its first task yet; let it go on")
    found = {}
    for metric in SHOWN:
        sides = [of_row(run, metric, row) for run in runs]
        if all(sides):
            found[metric] = compare(*sides)
    return runs, row, found, notes


def of_row(run: Shown, metric: str, row: int) -> dict[Key, float]:
    """Every picture's score in a row."""
    return {key[1:]: value for key, value in run.picture_scores(metric).items() if key[0] == row}


def table(runs: list[Shown], row: int, found: dict[str, Comparison]) -> Table:
    """A line a metric: the mean difference, its interval, the p value, and in words what it shows."""
    shown = compact(f"{runs[0].label} (A) minus {runs[1].label} (B), after task {row}")
    for head in ("", "A - B", "95 % interval", "p", "concepts", "pairs", ""):
        shown.add_column(head, justify="left" if not head else "right", no_wrap=True)
    for metric, it in found.items():
        says = "no difference shown" if not it.shown else "A is higher" if it.difference > 0 else "B is higher"
        interval = f"{it.low:+.3f} to {it.high:+.3f}"
        cells = (f"{it.difference:+.3f}", interval, f"{it.p:.3f}", str(it.concepts), str(it.pairs))
        shown.add_row(TITLES[metric], *cells, says)
    return shown
