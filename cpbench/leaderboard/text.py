"""The leaderboard as Markdown, CSV, JSON and in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from cpbench.config import ON_THE_MINIATURE
from cpbench.files import escape_markdown
from cpbench.fitted_table import compact
from cpbench.judges import identity
from cpbench.leaderboard.columns import IN_TERMINAL, MORE, board_columns, ranks
from cpbench.leaderboard.entries import Run
from cpbench.leaderboard.groups import PICTURE_SOURCES, Group
from cpbench.leaderboard.pairs import Pair, sign
from cpbench.leaderboard.rows import Row
from cpbench.miniature import is_miniature

SCHEMA = 4  # of leaderboard.json: a group has its "pairs"
HASH = re.compile(r"[0-9a-f]{64}")


def _shortened(judge: dict[str, str]) -> dict[str, str]:
    """A judge's facts, with hashes of its tokenizer and architecture shortened."""
    hashes = {k: judge.get(k, "") for k in ("architecture", "tokenizer")}
    return judge | {k: f"{k} {v[:12]}" for k, v in hashes.items() if HASH.fullmatch(v)}


def shared_facts(group: Group) -> dict[str, tuple[str, str]]:
    """(title, value) of the facts that the rows of a group share, by their name in `comparable_facts`."""

    def as_text(value: Any) -> str:
        return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    facts = group.facts
    rows, sampler = facts["rows"], facts["sampler"]
    judges = [[identity.title(judge), *list(_shortened(judge).values())[1:]] for judge in facts["judges"].values()]
    return {
        "sequence": ("sequence", f"{group.sequence}, content {facts['sequence'][:12]}"),
        "images": ("images", f"{PICTURE_SOURCES[group.pictures]}, content {as_text(facts['images'])}"),
        "references": ("identity against", references_text(facts["references"])),
        "backbone": ("backbone", f"{group.backbone}, weights {facts['backbone'][:12]}"),
        "judges": (
            "judges",
            "; ".join(", ".join([f"{m} [{h[:12]}]", *filter(None, details)]) for m, h, *details in judges),
        ),
        "sampler": (
            "sampler",
            ", ".join(f"{k} {as_text(v)}" for k, v in sorted(sampler.items())) if sampler else "not recorded",
        ),
        "pictures_per_prompt": ("pictures per prompt", as_text(facts["pictures_per_prompt"])),
        "picture_size": ("pixels per side", as_text(facts["picture_size"])),
        "dtype": ("precision", as_text(facts["dtype"]).removeprefix("torch.")),
        "rows": ("evaluated rows", rows if isinstance(rows, str) else ", ".join(map(str, rows))),
    }


def references_text(digest: str | None) -> str:
    return "the training pictures" if digest is None else f"held-out pictures, content {digest}"


def table_notes(group: Group) -> str:
    """Notes on a table: photographs on the miniature, and differences from other tables of the same name."""
    is_photographs_on_miniature = group.pictures == "photographs" and is_miniature(group.backbone)
    return " ".join(
        filter(None, [f"These are {ON_THE_MINIATURE}." if is_photographs_on_miniature else "", difference_note(group)])
    )


def caveat(group: Group) -> str:
    """The line under a table by the miniature's judges; "" for others."""
    return identity.caveat(group.facts["judges"].values())


def difference_note(group: Group) -> str:
    """The facts in which this table differs from others of the same name."""
    facts = shared_facts(group)
    differs = [f"{facts[k][0]} ({facts[k][1]})" for k in group.distinct_facts]
    return f"Not comparable with the other tables of this name, because of its {', '.join(differs)}." if differs else ""


def markdown(groups: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str]) -> str:
    """One table per group, with its picture below if there is one, then the excluded runs."""
    columns = board_columns(groups)
    heads = [
        "rank",
        "method",
        "runs",
        "methods below",
        *(c.head for c in columns),
        "intervals over",
        "replay-free",
        "tested against",
        "settings",
    ]
    lines = ["# Leaderboard", ""]
    for group in groups:
        lines += [f"## {escape_markdown(group.title)}", ""]
        facts = [f"{name}: {value}" for name, value in shared_facts(group).values() if name != "judges"]
        lines += [
            f"Judges: {escape_markdown(group.judges)}.",
            f"Shared by all rows: {escape_markdown('; '.join(facts))}.",
            escape_markdown(table_notes(group)),
        ]
        lines += ["", table_row(heads), "|--:|---|" + "--:|" * (2 + len(columns)) + "---|" * 4]
        for row in group.rows:
            cells = [columns[0].cell(row) + columns[0].bracket(row), *(c.cell(row) for c in columns[1:])]
            texts = [row.over, row.replay_free, row.tested_against, row.hash]
            lines.append(table_row([group.rank(row), row.label, len(row.runs), group.below(row), *cells, *texts]))
        lines += ["", escape_markdown(caveat(group)), ""]
        lines += [escape_markdown(ranks(group.ranked_by)), "", *matrix_lines(group), ""]
        if group.id in pictures:
            lines += [f"![One concept after each task, one row per method]({pictures[group.id]})", ""]
    if unfinished:
        lines += ["## Excluded runs", "", "These runs are unfinished or invalid, and appear in no table.", ""]
        lines += [table_row(UNFINISHED), "|---|---|---|--:|--:|---|---|"]
        lines += [*(table_row(cells) for cells in map(unfinished_cells, unfinished)), ""]
    lines += [*MORE, "", *(f"- {c.head}: {c.description}." for c in columns)]
    return re.sub("\n\n\n+", "\n\n", "\n".join(lines)) + "\n"


MATRIX_SAYS = "+ it is higher, - lower, = alike, . open, ? not compared"


def matrix_lines(group: Group) -> list[str]:
    """Who differs from whom, as a block of fixed width: a line per row, a column for each row it was compared with."""
    if not group.pairs:
        return []
    labels = [row.label.replace("`", "'") for row in group.rows]  # no name ends the block
    width = max(map(len, labels))
    n = len(group.rows)
    digits = len(str(n))
    columns = range(1, n + 1)
    tens = (
        [f"{'':{width + digits + 2}}{' '.join(str(k // 10) if k % 10 == 0 else ' ' for k in columns)}"] if n > 9 else []
    )
    heads = f"{'':{width + digits + 2}}{' '.join(str(k % 10) for k in columns)}"
    lines = [
        f"{i + 1:>{digits}} {label:<{width}} {' '.join(sign(group.pairs, i, j) or ' ' for j in range(n))}"
        for i, label in enumerate(labels)
    ]
    intro = f"Who differs from whom, by {group.ranked_by.title}, row against column ({MATRIX_SAYS}):"
    return [intro, "", "```", *(line.rstrip() for line in [*tens, heads, *lines]), "```"]


def table_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(escape_markdown, cells))} |"


UNFINISHED = ("method", "sequence", "backbone", "seed", "order", "settings", "state")


def unfinished_cells(run: Run) -> list[str]:
    seed, order = run.seed_and_order
    return [run.method, run.key[0], run.key[1], str(seed), str(order), run.record.hash, run.state]


def score_table(groups: Sequence[Group]) -> pd.DataFrame:
    """All rows of all groups for the CSV file; suffixes: _std for deviations, _low and _high for bounds of intervals."""
    lines = []
    for group in groups:
        for row in group.rows:
            line: dict[str, Any] = {
                "sequence": group.sequence,
                "backbone": group.backbone,
                "pictures": group.pictures,
                "judges": group.judges,
                "group": group.id,
                "rank": row.rank,
                "compared": row.compared,
                "below": row.below,
                "method": row.method,
                "hash": row.hash,
                "scores": row.scores,
                "runs": len(row.runs),
                "intervals_over": row.over,
                "replay_free": row.replay_free,
                "tested_against": row.tested_against,
            }
            line |= row.mean | {f"{k}_std": v for k, v in row.std.items()}
            for k in row.low:
                line |= {f"{k}_low": row.low[k], f"{k}_high": row.high[k]}
            lines.append(line)
    return pd.DataFrame(lines).astype({"rank": "Int64"})


def as_json(groups: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str]) -> dict[str, Any]:
    """Everything, with numbers to six places; null means undefined."""

    def finite(values: dict[str, float]) -> dict[str, float | None]:
        return {k: round(v, 6) + 0.0 if math.isfinite(v) else None for k, v in values.items()}

    def sound(value: Any) -> Any:  # JSON has no NaN, but a record may contain one
        if isinstance(value, dict):
            return {k: sound(v) for k, v in value.items()}
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    def run_json(run: Run) -> dict[str, Any]:
        return {"path": run.path, "seed": run.seed_and_order[0], "order": run.seed_and_order[1]}

    def row_json(row: Row) -> dict[str, Any]:
        fields = {
            k: getattr(row, k)
            for k in ("rank", "compared", "below", "method", "hash", "scores", "over", "replay_free", "tested_against")
        }
        statistics = {k: finite(getattr(row, k)) for k in ("mean", "std", "low", "high")}
        return fields | {"runs": list(map(run_json, row.runs))} | statistics

    def pair_json(pair: Pair, i: int, j: int) -> dict[str, Any]:
        low, high = pair.effect.interval()
        numbers = {
            "difference": pair.effect.mean,
            "low": low,
            "high": high,
            "p": pair.effect.p,
            "p_of_signs": pair.p_of_signs,
        }
        counts = {"concepts": pair.effect.concepts, "endings": pair.effect.endings}
        return {"rows": [i, j], "verdict": pair.verdict} | finite(numbers) | counts

    return {
        "schema": SCHEMA,
        "groups": [
            {k: getattr(g, k) for k in ("id", "sequence", "backbone", "pictures", "judges")}
            | {"comparable": sound(g.facts), "grid": pictures.get(g.id), "rows": list(map(row_json, g.rows))}
            | {"ranked_by": g.ranked_by.name, "pairs": [pair_json(pair, i, j) for (i, j), pair in g.pairs.items()]}
            for g in groups
        ],
        "unfinished": [
            run_json(r) | {"method": r.method, "hash": r.record.hash, "sequence": r.key[0], "backbone": r.key[1], "state": r.state}
            for r in unfinished
        ],
    }  # fmt: skip


def terminal_tables(groups: Sequence[Group], unfinished: Sequence[Run], width: int) -> list[Table]:
    """The columns that fit 120 characters, with the first one's interval on terminals that wide; on narrower ones the columns of
    IN_TERMINAL go from the last. Names are not markup."""
    tables = []
    columns = [c for c in board_columns(groups) if c.key in IN_TERMINAL]
    heads = ["runs", *(c.head.replace(" ", "\n") for c in columns), "replay-free"]
    for group in groups:
        table = compact("", drop=(heads[-1], *heads[-2:1:-1], heads[0]))
        table.title = Text("\n".join(filter(None, [group.title, table_notes(group)])))
        table.caption, table.caption_justify = Text(caveat(group)) if caveat(group) else None, "left"
        table.add_column("rank", justify="right", no_wrap=True)
        table.add_column("method")
        for head in heads:
            table.add_column(head, justify="right", no_wrap=True)
        for row in group.rows:
            means = [c.mean_and_std(row)[0] for c in columns]
            if width >= 120:
                means[0] += columns[0].bracket(row, digits=2)
            table.add_row(group.rank(row), Text(row.label), str(len(row.runs)), *map(Text, means), row.replay_free)
        tables.append(table)
    if unfinished:
        table = compact("Excluded runs", drop=("settings", "backbone", "order", "seed"))
        for head in UNFINISHED:
            table.add_column(head)
        for run in unfinished:
            table.add_row(*map(Text, unfinished_cells(run)))
        tables.append(table)
    return tables
