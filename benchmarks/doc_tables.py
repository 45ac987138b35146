"""Write the committed leaderboard's numbers into README.md and docs/; a test checks that they are up to date.

    python benchmarks/doc_tables.py

A table is placed between `<!-- results of SEQUENCE, full -->` and `<!-- end of results -->`: the leaderboard with all columns
(`full`), the ten rows of README with the columns in SHORT (`ten`), or the output of nouns.py, agreement.py, prompts.py, halves.py or
pairs.py (`nouns`, `agreement`, `prompts`, `halves`, or a key of PAIRS), and below it a line about its judges. In docs/methods.md the
column "place on the miniature" is updated. If a sequence has several versions, the one with the most rows is used.
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
from cpbench.leaderboard.rows import EARLIER_MARK
from cpbench.numbers import number
from cpbench.version import SCORES

ROOT = Path(__file__).parent.parent
PAGES = "README.md", "docs/findings.md", "docs/methods.md"
COLUMNS = {  # heading: (column of the leaderboard's CSV, digits or number format)
    "DINO final": ("dino_final_average", 3),
    "over tasks": ("dino_over_tasks", 3),
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
    """The rows of a sequence in the leaderboard's order, for the version with the most rows."""
    board = board[board["sequence"].str.startswith(f"{sequence} v")]
    return board[board["group"] == board["group"].mode()[0]]


def written(value: float, form: int | str) -> str:
    """form: the decimals of a score, or, of an amount, Python's own format."""
    return number(value, form) if isinstance(form, int) else "-" if pd.isna(value) else f"{value:{form}}"


def table(rows: pd.DataFrame, heads: Sequence[str] = tuple(COLUMNS)) -> str:
    """A Markdown table; the final score of several runs is followed by its standard deviation."""
    lines = [f"| rank | method | runs | {' | '.join(heads)} |", f"|--:|---|{'--:|' * (1 + len(heads))}"]
    for _, row in rows.iterrows():
        cells = []
        for column, form in (COLUMNS[head] for head in heads):
            spread = row.get(f"{column}_std", float("nan"))
            deviation = f" ± {number(spread)}" if column == "dino_final_average" and not pd.isna(spread) else ""
            cells.append(written(row[column], form) + deviation)
        is_earlier = row.get("scores", SCORES) != SCORES
        method = row["method"].replace("*", "\\*") + (EARLIER_MARK if is_earlier else "")
        lines.append(f"| {row['rank']} | {method} | {row['runs']} | {' | '.join(cells)} |")
    note = [
        "",
        f"{EARLIER_MARK}: run by an earlier version, whose numbers the current one does not reproduce bit for bit.",
    ]
    return "\n".join(lines + (note if any(EARLIER_MARK in line for line in lines) else [])) + "\n"


# Tables of other scripts


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table with left-aligned text in its first `text_columns` columns and numbers in the others."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * text_columns}{'--:|' * (len(heads) - text_columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def nouns_table(folder: Path, sequence: str) -> str:
    rows = [
        (m, str(n), number(own_words, 2), number(plain_noun, 2))
        for m, n, own_words, plain_noun in nouns.scores_by_method(folder / sequence)
    ]
    return markdown(("method", "runs", "its words", "the plain noun"), rows)


def pairs_table(method_pairs: Sequence[tuple[str, str]], folder: Path, sequence: str) -> str:
    board, rows = pairs.rows_of(folder, sequence), []
    for a, b in method_pairs:
        runs, cells = pairs.comparison_cells(pairs.row_of(board, a), pairs.row_of(board, b))
        rows.append((a, b, str(runs), *cells))
    return markdown(
        ("first", "second", "runs", *(head for part in pairs.PARTS.values() for head in (part, "p"))), rows, 2
    )


def agreement_table(folder: Path, sequence: str) -> str:
    rows = []
    for source, scores in agreement.PUBLISHED.items():
        for metric, name in agreement.JUDGES:
            means = agreement.finals(folder / sequence, metric)
            tau, low, high, p = agreement.agreement(means, scores)
            published = sorted(scores, key=lambda m: -scores[m])
            order = sorted(scores, key=lambda m: -means[m].mean())
            orders = source, ", ".join(published), name, ", ".join(order)
            rows.append(
                (*orders, f"{number(tau, 2, True)} [{number(low, 2, True)}, {number(high, 2, True)}]", number(p, 2))
            )
    return markdown(("published table", "its order", "ours by final", "our order", "Kendall's tau", "p"), rows, 4)


def halves_table(folder: Path, sequence: str) -> str:
    board = [pairs.row_of(pairs.rows_of(folder, sequence), method) for method in BY_HALVES]
    rows = [
        (row.method.replace("*", "\\*"), str(len(row.runs)), *(number(v, 2) for v in halves.halves(row)))
        for row in board
    ]
    return markdown(("method", "runs", *halves.HEADS), rows)


def prompts_table(folder: Path, sequence: str) -> str:
    means = prompts.by_prompt(folder, sequence, list(BY_PROMPT))
    rows = [(prompt, *(number(v, 2) for v in values)) for prompt, values in means.iterrows()]
    return markdown(("prompt", *BY_PROMPT), rows)


SCRIPT_TABLES: dict[str, Callable[[Path, str], str]] = {
    "nouns": nouns_table,
    "agreement": agreement_table,
    "prompts": prompts_table,
    "halves": halves_table,
    **{name: functools.partial(pairs_table, method_pairs) for name, method_pairs in PAIRS.items()},
}


@functools.cache
def script_table(name: str, sequence: str) -> str:
    return SCRIPT_TABLES[name](ROOT / "results" / "reference", sequence)


# Pages


def leaderboard_cell(row: re.Match, rows: pd.DataFrame) -> str:
    """A row of the table of methods, updated with its method's retention and rank."""
    cells = row[0].split("|")
    matches = rows[rows["method"].str.removesuffix("*") == row[1]]
    cells[METHOD_COLUMNS - 1] = " not yet "
    if len(matches):
        retention = number(matches.iloc[0]["dino_normalised_retention"])
        cells[METHOD_COLUMNS - 1] = f" {retention}, rank {matches.iloc[0]['rank']} "
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
            text = table(rows) if table_name == "full" else script_table(table_name, sequence)
        return f"{match[1]}{text}\n{NOTE}\n{match[4]}"

    text = MARKED.sub(marked, text)
    return (
        PLACE.sub(lambda row: leaderboard_cell(row, rows_of(board, "dreambench10")), text)
        if page.endswith("methods.md")
        else text
    )


def main() -> None:
    board = pd.read_csv(ROOT / "results" / "reference" / "leaderboard.csv")
    for page in PAGES:
        (ROOT / page).write_text(updated(page, board), encoding="utf-8")
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
