"""Records are found and read here, each with one line for what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cpbench.errors import UserError, quoted
from cpbench.files import read_json
from cpbench.output import say
from cpbench.records import upgrade
from cpbench.records.folder import RunFolder, runs_below
from cpbench.records.record import SCHEMA, Record

MOST_DEPTH = 20  # of mappings and lists in run.json
MOST_REASON = 400  # characters


def find(run: Path) -> Path:
    """The run folder that is meant: `run` itself, or the only one below it."""
    if os.path.isfile(RunFolder(run).record):  # unlike pathlib's, calm about names too long to be a file's
        return run
    below = list(runs_below(run)) if os.path.isdir(run) else []
    if len(below) == 1:
        return below[0]
    if not below:
        raise UserError(f"run {run}: there is no run.json in it; name a run folder, e.g. below results/runs")
    raise UserError(f"run {run}: holds {len(below)} runs; name one of them, e.g. {below[0]}")


def read(folder: Path) -> Record:
    """The record of a run folder, in today's schema. UserError where there is none, or it is not as cpbench writes it."""
    try:
        return parsed(read_json(RunFolder(folder).record))
    except ValueError as reason:
        raise UserError(f"run {folder}: {reason}; run it again, or name another") from None


def parsed(content: Any) -> Record:
    """A record of any known schema, of a file's content. ValueError, in one line, for anything else."""
    if too_deep(content):
        raise ValueError(f"its run.json is damaged, or not of a schema up to {SCHEMA}")
    upgraded = upgrade.today(content)
    if not isinstance(upgraded, dict) or upgraded.get("schema") != SCHEMA:
        raise ValueError(f"its run.json is damaged, or not of a schema up to {SCHEMA}")
    try:
        return Record.model_validate(upgraded)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        entry = f"{place} = {quoted(first['input'])}: " if place else ""
        reason = f"its run.json is not as cpbench writes it ({entry}{first['msg']})"
        raise ValueError(reason[:MOST_REASON]) from None


def too_deep(value: Any) -> bool:
    """Whether it is nested deeper than anything that a run writes, and than what prints values can bear."""
    level = [value]
    for _ in range(MOST_DEPTH):
        nested = [inner for inner in level if isinstance(inner, dict | list)]
        level = [v for inner in nested for v in (inner.values() if isinstance(inner, dict) else inner)]
    return bool(level)


def records(folder: Path) -> list[tuple[Path, Record]]:
    """(folder, record) of every run below `folder`, by path. What cannot be read is named in a line, and left out."""
    readable = []
    for path in runs_below(folder):
        try:
            readable.append((path, parsed(read_json(RunFolder(path).record))))
        except ValueError as reason:
            skip(path, str(reason))
    return readable


def finished_runs(folder: Path) -> list[tuple[Path, Record]]:
    """(folder, record) of every finished run below `folder`, by path."""
    return [(path, record) for path, record in records(folder) if record.is_finished]


def skip(folder: Path, reason: str) -> None:
    say(f"left out {folder}: {reason}; run it again, or remove it")
