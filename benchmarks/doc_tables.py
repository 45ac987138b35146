"""Writes the committed leaderboard's numbers into README.md and docs/: a test finds no difference after it.

    python benchmarks/doc_tables.py

Between `<!-- results of SEQUENCE, full -->` (or `short`, with the columns of SHORT) and `<!-- end of results -->` stands a
table; in docs/methods.md it is the column "place on the miniature". Of several versions of a sequence it is the one with
the most rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parent.parent
PAGES = "README.md", "docs/findings.md", "docs/methods.md"
COLUMNS = {  # head: (column of the leaderboard's CSV, how its number is written)
    "DINO final": ("dino_final_average", ".3f"),
    "over tasks": ("dino_over_tasks", ".3f"),
    "plasticity": ("dino_plasticity", ".3f"),
    "backward transfer": ("dino_backward_transfer", ".3f"),
    "forgetting": ("dino_forgetting", ".3f"),
    "retention": ("dino_normalised_retention", ".3f"),
    "CLIP-T final": ("clip_t_final_average", ".3f"),
    "identified": ("identified", ".2f"),
    "prior drift": ("prior_drift", ".2f"),
    "carried MB": ("carried_MB", ".3g"),
    "UNet evaluations": ("learning_unet_evaluations", ",.0f"),
}
SHORT = "DINO final", "over tasks", "backward transfer", "retention", "CLIP-T final", "UNet evaluations"
MARKED = re.compile(r"(<!-- results of (\S+), (full|short) -->\n).*?(<!-- end of results -->)", re.DOTALL)
PLACE = re.compile(r"^\| `(\w+)` \|(?:[^|\n]*\|){9}$", re.MULTILINE)
METHOD_COLUMNS = 10


def rows_of(board: pd.DataFrame, sequence: str) -> pd.DataFrame:
    """The rows of a sequence, in the leaderboard's order; of its versions the one with the most rows."""
    board = board[board["sequence"].str.startswith(f"{sequence} v")]
    return board[board["group"] == board["group"].mode()[0]]


def number(value: float, form: str) -> str:
    return "-" if pd.isna(value) else f"{value:{form}}".replace("-0.000", "0.000")


def table(rows: pd.DataFrame, heads: Sequence[str] = tuple(COLUMNS)) -> str:
    """Markdown: a final score of several runs has its standard deviation behind it."""
    lines = [f"| rank | method | runs | {' | '.join(heads)} |", f"|--:|---|{'--:|' * (1 + len(heads))}"]
    for _, row in rows.iterrows():
        cells = []
        for column, form in (COLUMNS[head] for head in heads):
            spread = row.get(f"{column}_std", float("nan"))
            told = f" ± {spread:.3f}" if column == "dino_final_average" and not pd.isna(spread) else ""
            cells.append(number(row[column], form) + told)
        method = row["method"].replace("*", "\\*")
        lines.append(f"| {row['rank']} | {method} | {row['runs']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def place(row: re.Match, rows: pd.DataFrame) -> str:
    """A row of the table of methods, with what its method has in the leaderboard."""
    cells = row[0].split("|")
    mine = rows[rows["method"].str.removesuffix("*") == row[1]]
    cells[METHOD_COLUMNS - 1] = " not yet "
    if len(mine):
        retention = number(mine.iloc[0]["dino_normalised_retention"], ".3f")
        cells[METHOD_COLUMNS - 1] = f" {retention}, rank {mine.iloc[0]['rank']} "
    return "|".join(cells)


def updated(page: str, board: pd.DataFrame) -> str:
    """The page's text with the leaderboard's numbers."""
    text = (ROOT / page).read_text(encoding="utf-8")

    def marked(found: re.Match) -> str:
        heads = SHORT if found[3] == "short" else tuple(COLUMNS)
        return found[1] + table(rows_of(board, found[2]), heads) + found[4]

    text = MARKED.sub(marked, text)
    return (
        PLACE.sub(lambda row: place(row, rows_of(board, "dreambench10")), text) if page.endswith("methods.md") else text
    )


def main() -> None:
    board = pd.read_csv(ROOT / "results" / "reference" / "leaderboard.csv")
    for page in PAGES:
        (ROOT / page).write_text(updated(page, board), encoding="utf-8")
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
