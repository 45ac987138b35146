"""DINO of concepts learned early and late, right after learning and after the last task.

    python benchmarks/halves.py results/reference dreambench10 isolated joint dcscore ewc raretoken seqlora

Early is the first half of the sequence, late the second. Means over concepts and runs. Without methods: all of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from pairs import row_of, rows_of
from rich.console import Console
from rich.table import Table

from cpbench.leaderboard.entries import by_concept
from cpbench.leaderboard.rows import Row
from cpbench.numbers import number

HEADS = "early, just learned", "early, at the end", "late, just learned", "late, at the end"


def halves(row: Row) -> list[float]:
    """Four means, in the order of HEADS."""
    means = []
    for run in row.runs:
        order = run.record.sequence.concepts
        for part in (order[: len(order) // 2], order[len(order) // 2 :]):
            for pictures in (run.learned, run.finals):
                scores = by_concept(pictures)
                means.append(np.mean([scores[concept] for concept in part]))
    return [float(mean) for mean in np.reshape(means, (len(row.runs), 4)).mean(axis=0)]


def main(folder: Path, sequence: str, methods: list[str]) -> None:
    rows = rows_of(folder, sequence)
    table = Table(title=f"{sequence}: DINO by half", title_justify="left")
    for head in ("method", "runs", *HEADS):
        table.add_column(head, justify="left" if head == "method" else "right")
    for row in [row_of(rows, m) for m in methods] if methods else rows:
        table.add_row(row.method, str(len(row.runs)), *(number(v) for v in halves(row)))
    Console(width=140).print(table)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
