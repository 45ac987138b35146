"""Writes the committed leaderboard's numbers into README.md and docs/: a test finds no difference after it.

    python benchmarks/doc_tables.py

Between `<!-- results of SEQUENCE, full -->` and `<!-- end of results -->` stands a table: the leaderboard's, with all
columns, or the ten rows of README with those of SHORT (`ten`), or what nouns.py, agreement.py, prompts.py, halves.py and, of the methods in PAIRS,
pairs.py print (`nouns`, `agreement`, `prompts`, `halves`, `pairs-dc`, ...), and below it whose scores these are. In docs/methods.md it is the column "place on the
miniature". Of several versions of a sequence it is the one with the most rows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import agreement
import halves
import nouns
import pairs
import pandas as pd
import prompts
from chart import TEN

from cpbench.judges import identity
from cpbench.leaderboard.rows import EARLIER
from cpbench.version import SCORES

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
NOTE = identity.caveat([{"weights_sha256": weights} for weights in identity.OF_THE_MINIATURE])
SHORT = "DINO final", "over tasks", "backward transfer", "retention", "CLIP-T final", "UNet evaluations"
MARKED = re.compile(r"(<!-- results of (\S+), ([\w-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
PLACE = re.compile(r"^\| `(\w+)` \|(?:[^|\n]*\|){9}$", re.MULTILINE)
METHOD_COLUMNS = 10
BY_HALVES = "isolated", "joint", "dcscore", "ewc", "cidm", "raretoken", "seqlora"
BY_PROMPT = "base", "oracle", "isolated", "joint", "dcscore", "raretoken", "ewc", "seqlora"
PAIRS = {
    "pairs-keeping": (
        ("dcscore", "seqlora"),
        ("raretoken", "seqlora"),
        ("ewc", "seqlora"),
        ("isolated", "joint"),
        ("joint", "dcscore"),
    ),
    "pairs-dc": (
        ("dcscore", "ewc"),
        ("dcscore variant=ewc-dc", "ewc"),
        ("dcscore variant=ewc-dc", "dcscore variant=ewc"),
        ("dcscore variant=ewc-dc", "dcscore ewc_weight=0.0004 variant=ewc"),
        ("dcscore", "dcscore variant=dsc-ewc"),
        ("dcscore variant=dsc-ewc", "dcscore variant=dsc"),
        ("dcscore", "dcscore variant=ewc-dc"),
    ),
    "pairs-raretoken": (
        ("raretoken", "dreambooth"),
        ("raretoken", "seqlora"),
        ("raretoken", "isolated"),
        ("raretoken", "raretoken adapter=lora"),
    ),
}


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
        earlier = row.get("scores", SCORES) != SCORES
        method = row["method"].replace("*", "\\*") + (EARLIER if earlier else "")
        lines.append(f"| {row['rank']} | {method} | {row['runs']} | {' | '.join(cells)} |")
    note = ["", f"{EARLIER}: run by an earlier version; today's does not give the same numbers bit for bit."]
    return "\n".join(lines + (note if any(EARLIER in line for line in lines) else [])) + "\n"


# What other scripts print


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A table whose first `words` columns are words, the others numbers."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * words}{'--:|' * (len(heads) - words)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def nouns_table(folder: Path, sequence: str) -> str:
    rows = [(m, str(n), f"{words:.2f}", f"{plain:.2f}") for m, n, words, plain in nouns.heard(folder / sequence)]
    return markdown(("method", "runs", "its words", "the plain noun"), rows)


def pairs_table(of: Sequence[tuple[str, str]], folder: Path, sequence: str) -> str:
    board, rows = pairs.rows_of(folder, sequence), []
    for a, b in of:
        runs, cells = pairs.told(pairs.row_of(board, a), pairs.row_of(board, b))
        rows.append((a, b, str(runs), *cells))
    return markdown(
        ("first", "second", "runs", *(head for what in pairs.PARTS.values() for head in (what, "p"))), rows, 2
    )


def agreement_table(folder: Path, sequence: str) -> str:
    rows = []
    for source, theirs in agreement.PUBLISHED.items():
        for metric, name in agreement.JUDGES:
            ours = agreement.finals(folder / sequence, metric)
            tau, low, high, p = agreement.agreement(ours, theirs)
            published = sorted(theirs, key=lambda m: -theirs[m])
            mine = sorted(theirs, key=lambda m: -ours[m].mean())
            orders = source, ", ".join(published), name, ", ".join(mine)
            rows.append((*orders, f"{tau:+.2f} [{low:+.2f}, {high:+.2f}]", f"{p:.2f}"))
    return markdown(("published table", "its order", "ours by final", "our order", "Kendall's tau", "p"), rows, 4)


def halves_table(folder: Path, sequence: str) -> str:
    board = [pairs.row_of(pairs.rows_of(folder, sequence), method) for method in BY_HALVES]
    rows = [
        (row.method.replace("*", "\\*"), str(len(row.runs)), *(f"{v:.2f}" for v in halves.halves(row))) for row in board
    ]
    return markdown(("method", "runs", *halves.HEADS), rows)


def prompts_table(folder: Path, sequence: str) -> str:
    found = prompts.by_prompt(folder, sequence, list(BY_PROMPT))
    rows = [(prompt, *(f"{v:.2f}" for v in values)) for prompt, values in found.iterrows()]
    return markdown(("prompt", *BY_PROMPT), rows)


OTHERS: dict[str, Callable[[Path, str], str]] = {
    "nouns": nouns_table,
    "agreement": agreement_table,
    "prompts": prompts_table,
    "halves": halves_table,
    **{kind: functools.partial(pairs_table, of) for kind, of in PAIRS.items()},
}


@functools.cache
def other(kind: str, sequence: str) -> str:
    return OTHERS[kind](ROOT / "results" / "reference", sequence)


# Pages


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
        kind, sequence = found[3], found[2]
        if kind == "ten":
            rows = rows_of(board, sequence)
            text = table(rows[rows["method"].isin(TEN)], SHORT)
        else:
            text = table(rows_of(board, sequence)) if kind == "full" else other(kind, sequence)
        return f"{found[1]}{text}\n{NOTE}\n{found[4]}"

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
