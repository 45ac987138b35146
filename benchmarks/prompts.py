"""Final DINO by prompt, with the score of the miniature world's own rendering.

    python benchmarks/prompts.py results/reference dreambench10 base oracle isolated joint dcscore seqlora

Each row is a prompt, each column a method (named as in the leaderboard), averaged over concepts and runs. `oracle` is the
world's own rendering of the prompt, which follows it. A prompt that changes the subject itself ("a purple ...") lowers the
score of a model that follows it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from pairs import row_of, rows_of
from rich.console import Console
from rich.table import Table

from cpbench.numbers import number
from cpbench.records import tables
from cpbench.records.folder import RunFolder


def by_prompt(folder: Path, sequence: str, methods: list[str]) -> pd.DataFrame:
    """Mean DINO (prompts, methods)."""
    rows, columns = rows_of(folder, sequence), {}
    for method in methods:
        row = row_of(rows, "base" if method == "oracle" else method)
        row_type = "oracle" if method == "oracle" else "cell"
        parts = []
        for run in row.runs:
            scores = tables.read_scores(RunFolder(run.folder).scores)
            last_row = 0 if method == "oracle" else len(run.record.sequence.concepts)
            cells = scores[(scores["kind"] == row_type) & (scores["metric"] == "dino") & (scores["row"] == last_row)]
            parts.append(cells.groupby("prompt")["value"].mean())
        columns[method] = pd.concat(parts, axis=1).mean(axis=1)
    return pd.DataFrame(columns)


def main(folder: Path, sequence: str, methods: list[str]) -> None:
    means = by_prompt(folder, sequence, methods)
    means.loc["all"] = means.mean()
    table = Table(title=f"{sequence}: final DINO by prompt", title_justify="left")
    table.add_column("prompt")
    for method in methods:
        table.add_column(method, justify="right")
    for prompt, values in means.iterrows():
        table.add_row(str(prompt), *(number(v) for v in values))
    Console(width=140).print(table)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
