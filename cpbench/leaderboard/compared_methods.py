"""`cpbench compare` for methods: two of them over all seeds and orders that both have, or all pairs of a table at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from cpbench.errors import UserError, did_you_mean
from cpbench.fitted_table import compact
from cpbench.leaderboard.entries import read_runs
from cpbench.leaderboard.groups import Group, group_runs
from cpbench.leaderboard.pairs import PARTS, PRIMARY, Pair, RankingScore, differences, pairs_of
from cpbench.leaderboard.rows import Row
from cpbench.leaderboard.text import matrix_lines
from cpbench.metrics.equal_text import FIGURES as EQUAL_TEXT
from cpbench.metrics.verdicts import FEWEST_ENDINGS
from cpbench.numbers import number
from cpbench.report.paired_runs import verdict_text

Comparisons = dict[str, Pair]  # by what is compared


def groups_of(folder: Path, sequence: str | None, backbone: str | None, score: RankingScore = PRIMARY) -> list[Group]:
    """The tables of the finished runs below a folder, of a sequence and a backbone if they are named. UserError if there is none."""
    if not folder.is_dir():
        raise UserError(f"results folder {folder}: it does not exist; name it with --results")
    groups = group_runs(read_runs(folder), score)
    if not groups:
        raise UserError(f"results folder {folder}: no finished run in it; finish one, or name another with --results")
    sequences = sorted({group.sequence.rpartition(" v")[0] for group in groups})
    backbones = sorted({group.backbone for group in groups})
    if sequence and sequence not in sequences:
        raise did_you_mean(sequence, sequences, "sequence", f"Those have finished runs in {folder}.")
    if backbone and backbone not in backbones:
        raise did_you_mean(backbone, backbones, "backbone", f"Those have finished runs in {folder}.")
    return [
        group
        for group in groups
        if sequence in (None, group.sequence.rpartition(" v")[0]) and backbone in (None, group.backbone)
    ]


def row_named(rows: Iterable[Row], method: str) -> Row | None:
    """The row of a method, named as in the table with or without its star; of several versions the one with the most runs."""
    matches = [row for row in rows if method in (row.method, row.method.replace("*", ""))]
    return max(matches, key=lambda row: len(row.runs), default=None)


def compare_methods(groups: Collection[Group], first: str, second: str) -> list[tuple[Group, Comparisons]]:
    """By table that has both methods: DINO by PARTS and, where both have it, at equal text; the first minus the second.

    UserError for a method without a row, or if no table has both with a common seed and order.
    """
    names = sorted({row.method.replace("*", "") for group in groups for row in group.rows})
    for method in (first, second):
        if not any(row_named(group.rows, method) for group in groups):
            raise did_you_mean(method, names, "finished method", "A run's folder can be named as well, if both are.")
    out = []
    for group in groups:
        a, b = row_named(group.rows, first), row_named(group.rows, second)
        if a is None or b is None:
            continue
        parts = [(title, part, "") for part, title in PARTS.items()]
        parts += [(name.replace("_", " ").replace("dino", "DINO"), "", name) for name in EQUAL_TEXT]
        tables = {title: differences(a, b, part, name) for title, part, name in parts}
        comparisons = {title: pairs_of({(0, 1): table})[0, 1] for title, (c, table) in tables.items() if c}
        if comparisons:
            out.append((group, comparisons))
    if not out:
        raise UserError(
            f"compare: no table has {first} and {second} with a seed and order in common; run both over the same sequence"
        )
    return out


def method_table(group: Group, comparisons: Comparisons, first: str, second: str) -> Table:
    """One line per part: mean difference, its interval, p values and verdict."""
    output = compact(Text(f"{group.title}: {first} (A) minus {second} (B), DINO"), drop=("p by signs", "endings", "p"))
    for head in ("", "A - B", "95 % interval", "p", "p by signs", "concepts", "endings", " "):
        output.add_column(head, justify="right" if head.strip() else "left", no_wrap=True)
    for title, pair in comparisons.items():
        low, high = pair.effect.interval()
        cells = (
            number(pair.effect.mean, sign=True),
            f"{number(low, sign=True)} to {number(high, sign=True)}",
            number(pair.effect.p),
            number(pair.p_of_signs),
            str(pair.effect.concepts),
            str(pair.effect.endings),
        )
        output.add_row(title, *cells, verdict_text(pair.verdict, pair.effect.mean))
    return output


def notes(pairs: Iterable[Pair], is_one_pair: bool) -> list[str]:
    """What is to be said of them besides."""
    pairs = list(pairs)
    lines = []
    if any(pair.effect.endings < FEWEST_ENDINGS for pair in pairs):
        lines.append(
            f"With fewer than {FEWEST_ENDINGS} seeds and orders what is shown is shown given these endings: all concepts of a run "
            "share its last task."
        )
    if is_one_pair:
        lines.append("Of this pair alone; `cpbench compare --all` corrects for all pairs of a table.")
    return lines


def all_lines(group: Group) -> list[str]:
    """The matrix of a table, and how many of its pairs differ."""
    words = [pair.verdict for pair in group.pairs.values()]
    counts = f"{words.count('differs')} differ, {words.count('alike')} alike, {words.count('open')} open"
    return [group.title, *matrix_lines(group), f"{len(words)} pairs: {counts}"]


def as_json(group: Group, pairs: dict[str, Pair]) -> dict[str, Any]:
    """A table's pairs by name, with every number."""
    entries = {}
    for name, pair in pairs.items():
        low, high = pair.effect.interval()
        entries[name] = {"difference": pair.effect.mean, "low": low, "high": high, "p": pair.effect.p} | {
            "p_of_signs": pair.p_of_signs,
            "concepts": pair.effect.concepts,
            "endings": pair.effect.endings,
            "verdict": pair.verdict,
        }
    return {"table": group.title, "id": group.id, "pairs": entries}
