"""Write the committed leaderboard's numbers into README.md and docs/; a test checks that they are up to date.

    python benchmarks/doc_tables.py

A table is placed between `<!-- results of SEQUENCE, full -->` and `<!-- end of results -->`: the leaderboard with all columns
(`full`), the ten rows of README with the columns in SHORT (`ten`), or what `cpbench compare` says of the pairs of a key of PAIRS,
and below it a line about its judges. In docs/methods.md the column "place on the miniature" is updated. If a sequence has several
tables, the one with the most rows is used.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cpbench.judges import identity
from cpbench.leaderboard import compared_methods
from cpbench.leaderboard.groups import Group
from cpbench.leaderboard.pairs import PARTS, Pair
from cpbench.leaderboard.rows import EARLIER_MARK
from cpbench.numbers import number
from cpbench.version import SCORES

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "results" / "reference"
PAGES = "README.md", "docs/findings.md", "docs/methods.md"
COLUMNS = {  # heading: (column of the leaderboard's CSV, digits or number format)
    "over tasks": ("dino_over_tasks", 3),
    "DINO final": ("dino_final_average", 3),
    "plasticity": ("dino_plasticity", 3),
    "backward transfer": ("dino_backward_transfer", 3),
    "forgetting": ("dino_forgetting", 3),
    "retention": ("dino_normalised_retention", 3),
    "CLIP-T final": ("clip_t_final_average", 3),
    "identified": ("identified", 2),
    "language drift": ("prior_drift", 2),
    "state size, MB": ("carried_MB", ".3g"),
    "UNet evaluations": ("learning_unet_evaluations", ",.0f"),
}
NOTE = identity.caveat([{"weights_sha256": weights} for weights in identity.OF_THE_MINIATURE])
# README's rows: the three references, and methods of the main groups of docs/methods.md; the Makefile's chart has them too
TEN = "isolated", "joint*", "dcscore", "ewc", "raretoken", "cidm", "seqlora", "textualinversion", "base", "clora"
SHORT = "over tasks", "DINO final", "backward transfer", "retention", "CLIP-T final", "UNet evaluations"
MARKED = re.compile(r"(<!-- results of (\S+), ([\w-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)
PLACE = re.compile(r"^\| `(\w+)` \|(?:[^|\n]*\|){9}$", re.MULTILINE)
METHOD_COLUMNS = 10
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
    """The rows of a sequence in the leaderboard's order, for the version with the most rows."""
    board = board[board["sequence"].str.startswith(f"{sequence} v")]
    return board[board["group"] == board["group"].mode()[0]]


def written(value: float, form: int | str) -> str:
    """form: the decimals of a score, or, of an amount, Python's own format."""
    return number(value, form) if isinstance(form, int) else "-" if pd.isna(value) else f"{value:{form}}"


def rank_of(row: pd.Series) -> str:
    """Its rank; "-" without one."""
    return "-" if pd.isna(row["rank"]) else str(int(row["rank"]))


def table(rows: pd.DataFrame, heads: Sequence[str] = tuple(COLUMNS)) -> str:
    """A Markdown table; the primary score of several runs is followed by its standard deviation."""
    lines = [
        f"| rank | methods below | method | runs | {' | '.join(heads)} |",
        f"|--:|--:|---|{'--:|' * (1 + len(heads))}",
    ]
    for _, row in rows.iterrows():
        cells = []
        for column, form in (COLUMNS[head] for head in heads):
            spread = row.get(f"{column}_std", float("nan"))
            deviation = f" ± {number(spread)}" if column == "dino_over_tasks" and not pd.isna(spread) else ""
            cells.append(written(row[column], form) + deviation)
        is_earlier = row.get("scores", SCORES) != SCORES
        method = row["method"].replace("*", "\\*") + (EARLIER_MARK if is_earlier else "")
        below = "-" if pd.isna(row["rank"]) else row["below"]
        lines.append(f"| {rank_of(row)} | {below} | {method} | {row['runs']} | {' | '.join(cells)} |")
    note = [
        "",
        f"{EARLIER_MARK}: run by an earlier version, whose numbers the current one does not reproduce bit for bit.",
    ]
    return "\n".join(lines + (note if any(EARLIER_MARK in line for line in lines) else [])) + "\n"


# Pairs


def pairs_table(name: str, folder: Path, sequence: str) -> str:
    """A Markdown table of a key of PAIRS: by part the difference, first minus second, with its interval, and the verdict."""
    heads = ["first", "second", "runs", *PARTS.values()]
    lines = [f"| {' | '.join(heads)} |", f"|---|---|{'--:|' * (len(heads) - 2)}"]
    for first, second in PAIRS[name]:
        _, comparisons = compared(folder, sequence, first, second)
        cells = [pair_cell(comparisons[title]) if title in comparisons else "-" for title in PARTS.values()]
        endings = max(pair.effect.endings for pair in comparisons.values())
        lines.append(f"| {' | '.join([first, second, str(endings), *cells])} |")
    return "\n".join(lines) + "\n"


def pair_cell(pair: Pair) -> str:
    low, high = (number(bound, 2, sign=True) for bound in pair.effect.interval())
    return f"{number(pair.effect.mean, 2, sign=True)} [{low}, {high}] {pair.verdict}"


def compared(folder: Path, sequence: str, first: str, second: str) -> tuple[Group, dict[str, Pair]]:
    """The comparison in the table with the most rows."""
    entries = compared_methods.compare_methods(groups_of(folder, sequence), first, second)
    return max(entries, key=lambda entry: len(entry[0].rows))


@functools.cache
def groups_of(folder: Path, sequence: str) -> tuple[Group, ...]:
    return tuple(compared_methods.groups_of(folder, sequence, None))


# Pages


def leaderboard_cell(row: re.Match, rows: pd.DataFrame) -> str:
    """A row of the table of methods, updated with its method's retention and rank."""
    cells = row[0].split("|")
    matches = rows[rows["method"].str.removesuffix("*") == row[1]]
    cells[METHOD_COLUMNS - 1] = " not yet "
    if len(matches):
        retention = number(matches.iloc[0]["dino_normalised_retention"])
        cells[METHOD_COLUMNS - 1] = f" {retention}, rank {rank_of(matches.iloc[0])} "
    return "|".join(cells)


def updated(page: str, board: pd.DataFrame) -> str:
    """The page's text with up-to-date numbers."""
    text = (ROOT / page).read_text(encoding="utf-8")

    def marked(match: re.Match) -> str:
        table_name, sequence = match[3], match[2]
        rows = rows_of(board, sequence)
        if table_name == "ten":
            text = table(rows[rows["method"].isin(TEN)], SHORT)
        else:
            text = table(rows) if table_name == "full" else pairs_table(table_name, REFERENCE, sequence)
        return f"{match[1]}{text}\n{NOTE}\n{match[4]}"

    text = MARKED.sub(marked, text)
    return (
        PLACE.sub(lambda row: leaderboard_cell(row, rows_of(board, "dreambench10")), text)
        if page.endswith("methods.md")
        else text
    )


def main() -> None:
    board = pd.read_csv(REFERENCE / "leaderboard.csv")
    for page in PAGES:
        (ROOT / page).write_text(updated(page, board), encoding="utf-8")
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
