"""Paired differences in DINO between rows of the leaderboard: at the end, over tasks, just learned, and the change since.

    python benchmarks/pairs.py results/reference dreambench10 dcscore ewc seqlora

For every pair of the given methods (default: all): mean difference, first minus second, over the seeds and orders that both
have, its 95 % interval (bootstrap over concepts, prompts and pictures) and the p value of a sign-flip test over concepts.
If a sequence has several versions, the one with the most rows is used.
"""

from __future__ import annotations

import functools
import itertools
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cpbench.leaderboard import entries
from cpbench.leaderboard import rows as leaderboard_rows
from cpbench.leaderboard.rows import Row
from cpbench.metrics.comparison import Comparison, Key, compare
from cpbench.numbers import number

PARTS = {"finals": "at the end", "since": "over tasks", "learned": "right after learning", "change": "change since"}


def row_of(rows: list[Row], method: str) -> Row:
    """The row of a method with its settings; if different code versions have one, the one with the most runs."""
    matches = [row for row in rows if row.method.removesuffix("*") == method]
    if not matches:
        sys.exit(f"no row of {method}; choose one of {', '.join(row.method for row in rows)}")
    return max(matches, key=lambda row: len(row.runs))


def pictures(row: Row, part: str) -> dict[tuple[int, int], dict[Key, float]]:
    """DINO of each picture by (seed, order); the part "change" is the end minus right after learning (backward transfer)."""
    if part != "change":
        return row.pictures(part)
    ends, starts = row.pictures("finals"), row.pictures("learned")
    return {d: {k: ends[d][k] - starts[d][k] for k in ends[d].keys() & starts[d].keys()} for d in ends}


def compare_rows(a: Row, b: Row, part: str) -> tuple[Comparison, int]:
    """(comparison of one part, number of seeds and orders that both rows have)."""
    first, second = pictures(a, part), pictures(b, part)
    return compare(*leaderboard_rows.common_pictures(first, second)), len(first.keys() & second.keys())


@functools.cache
def rows_of(folder: Path, sequence: str) -> list[Row]:
    groups = leaderboard_rows.group_runs(entries.read_runs(folder))
    return max((g.rows for g in groups if g.sequence.startswith(f"{sequence} v")), key=len, default=[])


def comparison_cells(a: Row, b: Row) -> tuple[int, list[str]]:
    """(number of seeds and orders that both rows have, formatted difference and p of each part)."""
    cells = []
    for part in PARTS:
        comparison, runs = compare_rows(a, b, part)
        cells += [
            f"{number(comparison.difference, sign=True)} [{number(comparison.low, sign=True)}, {number(comparison.high, sign=True)}]",
            number(comparison.p),
        ]
    return runs, cells


def main(folder: Path, sequence: str, methods: list[str]) -> None:
    rows = rows_of(folder, sequence)
    selected = [row_of(rows, m) for m in methods] if methods else rows
    table = Table(title=f"{sequence}: differences in DINO", title_justify="left")
    for head in ("first", "second", "runs", *(head for part in PARTS.values() for head in (part, "p"))):
        table.add_column(head, justify="left" if head in ("first", "second") else "right")
    for a, b in itertools.combinations(selected, 2):
        runs, cells = comparison_cells(a, b)
        table.add_row(a.method, b.method, str(runs), *cells)
    Console(width=200).print(table)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
