"""leaderboard.html: sortable, filterable tables in one file that needs no network.

Names may be from an untrusted source: the template escapes them all, and the page's content security policy allows only the
page's own script, by its hash. Without scripts all tables are shown, sorted as in Markdown.
"""

from __future__ import annotations

import base64
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from cpbench.leaderboard.columns import MORE, Column, board_columns, ranks
from cpbench.leaderboard.entries import Run
from cpbench.leaderboard.groups import Group
from cpbench.leaderboard.pairs import sign
from cpbench.leaderboard.rows import Row
from cpbench.leaderboard.text import MATRIX_SAYS, UNFINISHED, caveat, shared_facts, table_notes, unfinished_cells
from cpbench.numbers import number
from cpbench.records.folder import RunFolder
from cpbench.report.templates import templates

REPLAY_FREE = ("yes", "generated", "no")


def page(groups: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str], output: Path) -> str:
    environment = templates()
    script = environment.get_template("leaderboard.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    columns = board_columns(groups)
    rows = [row for group in groups for row in group.rows]
    return environment.get_template("leaderboard.html.j2").render(
        script=Markup(script),
        digest=digest,
        groups=[group_context(group, columns, pictures.get(group.id), output) for group in groups],
        columns=columns,
        unfinished=[unfinished_cells(run) for run in unfinished],
        unfinished_heads=UNFINISHED,
        filters={
            "sequence": sorted({group.sequence for group in groups}),
            "backbone": sorted({group.backbone for group in groups}),
            "replay-free": [choice for choice in REPLAY_FREE if any(row.replay_free == choice for row in rows)],
        },
        rows=len(rows),
        runs=sum(len(row.runs) for row in rows),
        more=MORE,
    )


def group_context(group: Group, columns: Sequence[Column], picture: str | None, output: Path) -> dict[str, Any]:
    return {
        "id": group.id,
        "title": group.title,
        "sequence": group.sequence,
        "backbone": group.backbone,
        "apart": table_notes(group),
        "caveat": caveat(group),
        "shared": shared_facts(group).values(),
        "picture": picture,
        "rows": [
            row_context(row, columns, output) | {"shown_rank": group.rank(row), "below": group.below(row)}
            for row in group.rows
        ],
        "ranks": ranks(group.ranked_by),
        "ranked_by": group.ranked_by.title,
        "matrix": matrix(group),
        "matrix_says": MATRIX_SAYS,
    }


def matrix(group: Group) -> list[dict[str, Any]]:
    """Who differs from whom: a line per row, with a cell per column that has the difference as its title; [] without pairs."""
    lines = []
    for i, row in enumerate(group.rows) if group.pairs else ():
        cells = []
        for j, other in enumerate(group.rows):
            pair = group.pairs.get((min(i, j), max(i, j)))
            title = ""
            if pair and i != j:
                turn = 1 if i < j else -1
                low, high = sorted(turn * bound for bound in pair.effect.interval())
                interval = f"{number(low, sign=True)} to {number(high, sign=True)}"
                title = (
                    f"{row.label} minus {other.label}: {number(turn * pair.effect.mean, sign=True)} ({interval}), "
                    f"p {number(pair.effect.p)}, by signs {number(pair.p_of_signs)}; {pair.verdict}"
                )
            cells.append({"sign": sign(group.pairs, i, j), "title": title})
        lines.append({"number": i + 1, "method": row.label, "cells": cells})
    return lines


def row_context(row: Row, columns: Sequence[Column], output: Path) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "method": row.label,
        "hash": row.hash,
        "runs": len(row.runs),
        "cells": [cell(column, row) for column in columns],
        "over": row.over,
        "replay_free": row.replay_free,
        "tested_against": row.tested_against,
        "report": report_of(row, output),
    }


def cell(column: Column, row: Row) -> dict[str, str]:
    """value: the sort key; interval: with two digits, to fit below the number."""
    mean, std = column.mean_and_std(row)
    value, bounds = row.mean.get(column.key, math.nan) * column.scale, column.interval(row)
    return {
        "mean": mean,
        "std": std,
        "interval": " to ".join(number(bound, digits=2) for bound in bounds) if bounds else "",
        "value": f"{value:.9g}" if math.isfinite(value) else "",
    }


def report_of(row: Row, output: Path) -> str | None:
    """Relative link to the report of one of its runs, if `cpbench report` has written one."""
    for run in row.runs:
        file = RunFolder(run.folder).report
        if file.is_file():
            return quote(Path(os.path.relpath(file, output)).as_posix())
    return None
