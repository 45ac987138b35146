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
from cpbench.files import plain
from cpbench.judges import identity
from cpbench.leaderboard.columns import IN_TERMINAL, MORE, RANKS, columns
from cpbench.leaderboard.entries import Run
from cpbench.leaderboard.rows import SOURCES, Group, Row
from cpbench.miniature import is_miniature
from cpbench.records import terminal

SCHEMA = 3  # of leaderboard.json: a row has its "scores"
HASH = re.compile(r"[0-9a-f]{64}")


def _shortened(judge: dict[str, str]) -> dict[str, str]:
    """A judge's facts with its tokenizer and an architecture of its own folder named by how its hash begins."""
    hashes = {k: judge.get(k, "") for k in ("architecture", "tokenizer")}
    return judge | {k: f"{k} {v[:12]}" for k, v in hashes.items() if HASH.fullmatch(v)}


def shared(group: Group) -> dict[str, tuple[str, str]]:
    """What the rows of a group have in common: by the name in `comparable`, what it is called and is."""

    def said(value: Any) -> str:
        return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    facts = group.facts
    rows, sampler = facts["rows"], facts["sampler"]
    judges = [[identity.title(judge), *list(_shortened(judge).values())[1:]] for judge in facts["judges"].values()]
    return {
        "sequence": ("sequence", f"{group.sequence}, content {facts['sequence'][:12]}"),
        "images": ("images", f"{SOURCES[group.pictures]}, content {said(facts['images'])}"),
        "backbone": ("backbone", f"{group.backbone}, weights {facts['backbone'][:12]}"),
        "judges": ("judges", "; ".join(", ".join([f"{m} [{h[:12]}]", *filter(None, more)]) for m, h, *more in judges)),
        "sampler": (
            "sampler",
            ", ".join(f"{k} {said(v)}" for k, v in sorted(sampler.items())) if sampler else "not recorded",
        ),
        "pictures_per_prompt": ("pictures a prompt", said(facts["pictures_per_prompt"])),
        "picture_size": ("pixels a side", said(facts["picture_size"])),
        "dtype": ("precision", said(facts["dtype"]).removeprefix("torch.")),
        "rows": ("rows drawn", rows if isinstance(rows, str) else ", ".join(map(str, rows))),
    }


def apart(group: Group) -> str:
    """What to know of a table: photographs on the miniature; why there is another one of this name."""
    foreign = group.pictures == "photographs" and is_miniature(group.backbone)
    return " ".join(filter(None, [f"These are {ON_THE_MINIATURE}." if foreign else "", differing(group)]))


def caveat(group: Group) -> str:
    """The line under a table by the miniature's judges; "" for others."""
    return identity.caveat(group.facts["judges"].values())


def differing(group: Group) -> str:
    """Why there is another table of this name: that in which this one differs."""
    named = shared(group)
    differs = [f"{named[k][0]} ({named[k][1]})" for k in group.apart]
    return f"Not comparable with the other tables of this name, by its {', '.join(differs)}." if differs else ""


def markdown(found: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str]) -> str:
    """One table for each group, and below it the picture of that name, if there is one; then what does not count."""
    every = columns(found)
    heads = [
        "rank",
        "method",
        "runs",
        *(c.head for c in every),
        "intervals over",
        "replay-free",
        "tested against",
        "settings",
    ]
    lines = ["# Leaderboard", ""]
    for group in found:
        lines += [f"## {plain(group.title)}", ""]
        facts = [f"{name}: {value}" for name, value in shared(group).values() if name != "judges"]
        lines += [
            f"Judges: {plain(group.judges)}.",
            f"What all rows share: {plain('; '.join(facts))}.",
            plain(apart(group)),
        ]
        lines += ["", table_row(heads), "|--:|---|" + "--:|" * (1 + len(every)) + "---|" * 4]
        for row in group.rows:
            cells = [every[0].cell(row) + every[0].bracket(row), *(c.cell(row) for c in every[1:])]
            words = [row.over, row.replay_free, row.tested_against, row.hash]
            lines.append(table_row([group.rank(row), row.label, len(row.runs), *cells, *words]))
        lines += ["", plain(caveat(group)), ""]
        if group.id in pictures:
            lines += [f"![one concept after each task, one row a method]({pictures[group.id]})", ""]
    if unfinished:
        lines += ["## Not finished", "", "These runs are in no table.", ""]
        lines += [table_row(UNFINISHED), "|---|---|---|--:|--:|---|---|"]
        lines += [*(table_row(cells) for cells in map(unfinished_cells, unfinished)), ""]
    lines += [RANKS, *MORE, "", *(f"- {c.head}: {c.says}." for c in every)]
    return re.sub("\n\n\n+", "\n\n", "\n".join(lines)) + "\n"


def table_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(plain, cells))} |"


UNFINISHED = ("method", "sequence", "backbone", "seed", "order", "settings", "state")


def unfinished_cells(run: Run) -> list[str]:
    seed, order = run.draw
    return [run.method, run.key[0], run.key[1], str(seed), str(order), run.record.hash, run.state]


def table(found: Sequence[Group]) -> pd.DataFrame:
    """Every row of every group, for the CSV file; deviations have names ending in _std, bounds of intervals in _low and _high."""
    lines = []
    for group in found:
        for row in group.rows:
            line: dict[str, Any] = {
                "sequence": group.sequence,
                "backbone": group.backbone,
                "pictures": group.pictures,
                "judges": group.judges,
                "group": group.id,
                "rank": row.rank,
                "compared": row.compared,
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


def as_json(found: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str]) -> dict[str, Any]:
    """Everything, with numbers to six places; null is not defined."""

    def finite(values: dict[str, float]) -> dict[str, float | None]:
        return {k: round(v, 6) + 0.0 if math.isfinite(v) else None for k, v in values.items()}

    def sound(value: Any) -> Any:  # JSON has no NaN, which a foreign record may
        if isinstance(value, dict):
            return {k: sound(v) for k, v in value.items()}
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    def of_run(run: Run) -> dict[str, Any]:
        return {"path": run.path, "seed": run.draw[0], "order": run.draw[1]}

    def of_row(row: Row) -> dict[str, Any]:
        own = {
            k: getattr(row, k)
            for k in ("rank", "compared", "method", "hash", "scores", "over", "replay_free", "tested_against")
        }
        averaged = {k: finite(getattr(row, k)) for k in ("mean", "std", "low", "high")}
        return own | {"runs": list(map(of_run, row.runs))} | averaged

    return {
        "schema": SCHEMA,
        "groups": [
            {k: getattr(g, k) for k in ("id", "sequence", "backbone", "pictures", "judges")}
            | {"comparable": sound(g.facts), "grid": pictures.get(g.id), "rows": list(map(of_row, g.rows))}
            for g in found
        ],
        "unfinished": [
            of_run(r) | {"method": r.method, "hash": r.record.hash, "sequence": r.key[0], "backbone": r.key[1], "state": r.state}
            for r in unfinished
        ],
    }  # fmt: skip


def in_terminal(found: Sequence[Group], unfinished: Sequence[Run], width: int) -> list[Table]:
    """The means that fit 120 characters, and the first one's interval where there are as many. Names are not markup."""
    out = []
    few = [c for c in columns(found) if c.key in IN_TERMINAL]
    for group in found:
        made = terminal.compact("")
        made.title = Text("\n".join(filter(None, [group.title, apart(group)])))
        made.caption, made.caption_justify = Text(caveat(group)) if caveat(group) else None, "left"
        made.add_column("rank", justify="right", no_wrap=True)
        made.add_column("method", overflow="fold")
        for head in ("runs", *(c.head for c in few), "replay-free"):
            made.add_column(head.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in group.rows:
            means = [c.shown(row)[0] for c in few]
            if width >= 120:
                means[0] += few[0].bracket(row, digits=2)
            made.add_row(group.rank(row), Text(row.label), str(len(row.runs)), *map(Text, means), row.replay_free)
        out.append(made)
    if unfinished:
        made = terminal.compact("Not finished, and in no table")
        for head in UNFINISHED:
            made.add_column(head, overflow="fold")
        for run in unfinished:
            made.add_row(*map(Text, unfinished_cells(run)))
        out.append(made)
    return out
