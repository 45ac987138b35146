"""leaderboard.html: the tables in one file that needs no network, to be sorted and filtered.

Names on it may come from anybody: the template escapes them all, and the page's own policy lets a browser load nothing,
and run the page's one script alone, which it knows by its hash. Without it all tables are there, in the order of rank.
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

from cpbench.leaderboard.columns import MORE, RANKS, Column, columns, score
from cpbench.leaderboard.entries import Run
from cpbench.leaderboard.rows import Group, Row
from cpbench.leaderboard.text import UNFINISHED, apart, caveat, shared, unfinished_cells
from cpbench.records.folder import RunFolder
from cpbench.report.templates import templates

REPLAY_FREE = ("yes", "generated", "no")


def page(found: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str], output: Path) -> str:
    environment = templates()
    script = environment.get_template("leaderboard.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shown = columns(found)
    every = [row for group in found for row in group.rows]
    return environment.get_template("leaderboard.html.j2").render(
        script=Markup(script),
        digest=digest,
        groups=[of_group(group, shown, pictures.get(group.id), output) for group in found],
        columns=shown,
        unfinished=[unfinished_cells(run) for run in unfinished],
        unfinished_heads=UNFINISHED,
        filters={
            "sequence": sorted({group.sequence for group in found}),
            "backbone": sorted({group.backbone for group in found}),
            "replay-free": [it for it in REPLAY_FREE if any(row.replay_free == it for row in every)],
        },
        rows=len(every),
        runs=sum(len(row.runs) for row in every),
        ranks=RANKS,
        more=MORE,
    )


def of_group(group: Group, shown: Sequence[Column], picture: str | None, output: Path) -> dict[str, Any]:
    return {
        "id": group.id,
        "title": group.title,
        "sequence": group.sequence,
        "backbone": group.backbone,
        "apart": apart(group),
        "caveat": caveat(group),
        "shared": shared(group).values(),
        "picture": picture,
        "rows": [of_row(row, shown, output) | {"shown_rank": group.rank(row)} for row in group.rows],
    }


def of_row(row: Row, shown: Sequence[Column], output: Path) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "method": row.label,
        "hash": row.hash,
        "runs": len(row.runs),
        "cells": [cell(column, row) for column in shown],
        "over": row.over,
        "replay_free": row.replay_free,
        "tested_against": row.tested_against,
        "report": report_of(row, output),
    }


def cell(column: Column, row: Row) -> dict[str, str]:
    """value: what is sorted by; interval: to two digits, which is what fits below the number."""
    mean, std = column.shown(row)
    value, bounds = row.mean.get(column.key, math.nan) * column.scale, column.interval(row)
    return {
        "mean": mean,
        "std": std,
        "interval": " to ".join(score(it, digits=2) for it in bounds) if bounds else "",
        "value": f"{value:.9g}" if math.isfinite(value) else "",
    }


def report_of(row: Row, output: Path) -> str | None:
    """The way from the page to the report of one of its runs, where `cpbench report` has made one."""
    for run in row.runs:
        file = RunFolder(run.folder).report
        if file.is_file():
            return quote(Path(os.path.relpath(file, output)).as_posix())
    return None
