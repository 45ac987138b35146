"""`cpbench list runs`: the runs below a folder, finished or not, with what each of them came to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import psutil
from rich.text import Text

from cpbench.files import read_json
from cpbench.fitted_table import FittedTable
from cpbench.metrics.scores import MAIN, title_of
from cpbench.numbers import number
from cpbench.records import reading
from cpbench.records.folder import RunFolder
from cpbench.records.record import Record, method_name

FINAL = "final_average"
MOST_PID = 2**31
LEAST_FIRST = ("folder", "settings", "order", "seed", "backbone")  # columns that a narrow terminal leaves out


def status_of(folder: Path, record: Record) -> str:
    """The recorded status; "stopped" for a run that says it is running and whose process is gone."""
    if record.status == "running":
        return "running" if _is_held(folder) else "stopped"
    return record.status


def _is_held(folder: Path) -> bool:
    """Whether the process that has the run folder is alive; of another machine's it is not known, and assumed."""
    holder = read_json(RunFolder(folder).holder)
    if not isinstance(holder, dict):
        return False
    pid = holder.get("pid")
    if holder.get("host") != socket.gethostname():
        return True
    return isinstance(pid, int) and 0 < pid < MOST_PID and psutil.pid_exists(pid)


def run_facts(folder: Path, record: Record) -> dict[str, Any]:
    """The facts of one run, for JSON. The final score is None unless the run is finished."""
    final = record.figures.get(MAIN, {}).get(FINAL) if record.is_finished else None
    return {
        "method": method_name(record),
        "sequence": record.sequence.name,
        "backbone": Path(record.config.backbone).name,
        "seed": record.config.seed,
        "order": record.config.order,
        "status": status_of(folder, record),
        f"{MAIN}_{FINAL}": final,
        "settings": record.hash,
        "folder": str(folder),
    }


def runs_in(folder: Path) -> list[dict[str, Any]]:
    """The facts of every run below `folder`, by path. A record that cannot be read is named in a line, and left out."""
    return [run_facts(path, record) for path, record in reading.records(folder)]


def runs_table(runs: list[dict[str, Any]]) -> FittedTable:
    table = FittedTable(box=None, padding=(0, 2, 0, 0), pad_edge=False, drop=LEAST_FIRST)
    score = f"{title_of(MAIN)} final"
    for head in ("method", "sequence", "backbone", "seed", "order", "status", score, "settings", "folder"):
        table.add_column(
            head, justify="right" if head in ("seed", "order", score) else "left", no_wrap=head != "method"
        )
    for facts in runs:
        values = {**facts, f"{MAIN}_{FINAL}": number(facts[f"{MAIN}_{FINAL}"])}
        table.add_row(*(Text(str(value)) for value in values.values()))
    return table
