"""A run's folder: its lock, its record and tables, and whether the run is finished."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from cpbench.concepts import images
from cpbench.errors import DamagedState, UserError
from cpbench.files import read_json, short_hash, write_atomically, write_json
from cpbench.method import State
from cpbench.metrics import matrices, summary
from cpbench.metrics.multi_concept import summary as pair_summary
from cpbench.metrics.summary import summaries
from cpbench.records import machine, measures_table, recorded_paths, tables
from cpbench.records.folder import RunFolder
from cpbench.records.reading import read
from cpbench.records.record import SCHEMA, Record, Status
from cpbench.records.upgrade import CODE
from cpbench.registry import changed
from cpbench.running import rows
from cpbench.running.prepare import Run
from cpbench.running.receipts import shown_files
from cpbench.running.task import is_dropped
from cpbench.validation import validated

MOST_REASON = 1000  # characters of an error that is recorded


@contextlib.contextmanager
def run_lock(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Lock the run folder for this process; UserError, after `patience` seconds, if another process holds it.

    The lock is the operating system's: it is released when the process that holds it ends, however it ends.
    """
    lock, holder = FileLock(RunFolder(folder).lock), RunFolder(folder).holder
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        owner = read_json(holder) or {}
        raise UserError(
            f"run folder {folder}: process {owner.get('pid', '?')} on {owner.get('host', '?')} has held it since "
            f"{owner.get('since', '?')}; wait for it to finish, or stop it and start again"
        ) from None
    try:
        write_json(
            holder,
            {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")},
        )
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def runs_of_other_versions(run: Run) -> Iterator[str]:
    """A line per run with the same settings, seed and order that other code made; such a run is not changed."""
    facts_of_run = json.loads(json.dumps(run.facts))
    for folder in sorted(run.folder.parent.parent.glob(f"*/{run.folder.name}")):
        try:
            record = read(folder)
        except UserError:  # no record
            continue
        facts, version = record.facts.as_json(), record.versions.get("cpbench")
        # which references there are by default is the code's choice as well
        apart = CODE if record.facts.scores == run.facts["scores"] else {*CODE, "references"}
        old, new = ({k: v for k, v in side.items() if k not in apart} for side in (facts, facts_of_run))
        if old == new and version and folder != run.folder:
            status = "a finished" if record.is_finished else "an unfinished"
            yield f"{folder}: {status} run by cpbench {version}; it is kept, the new run goes to {run.folder}"


def remove_temporary(folder: Path) -> None:
    """Remove files that were half written when an earlier process was killed."""
    for file in folder.rglob(".*.tmp"):
        file.unlink(missing_ok=True)


def write_tables(run: Run, t: int) -> None:
    """scores.csv of the whole run so far, and one matrix file per metric."""
    files = [run.at.task(k).scores for k in run.rows if k <= t]
    parts = [tables.read_scores(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part is None:  # for example a mount that is gone
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    scores = pd.concat(parts, ignore_index=True)
    tables.write_scores(run.at.scores, scores)
    for metric, table in matrices.matrices(scores, run.concepts).items():
        write_atomically(run.at.matrix(metric), table.to_csv(float_format="%.6f").encode())


def is_finished(run: Run) -> bool:
    """Whether the record says finished, and states, scores and hash agree with it."""
    try:
        record = read(run.folder)
    except UserError:
        return False
    if not record.is_finished or record.facts.as_json() != json.loads(json.dumps(run.facts)):
        return False
    try:
        for t in range(1, len(run.concepts) + 1):
            if is_dropped(run, t):
                State.checksum(run.at.task(t).path, run.state_binding(t))
            else:
                run.load_state(t)
    except (FileNotFoundError, DamagedState):
        return False
    if not all(rows.is_complete(run, t) for t in run.rows):
        return False
    return record.files == shown_files(run.at) != {}


def tasks_complete(run: Run) -> int:
    """The number of tasks, from the first on, whose states are on disk; none of them is read."""
    last = len(run.concepts)
    return next((t - 1 for t in range(1, last + 1) if not run.at.task(t).state_record.exists()), last)


def resume_point(run: Run) -> str:
    """From where the run goes on: "resumes after task 2 of 3", or "begins again with task 1 of 3" if none is complete."""
    complete, last = tasks_complete(run), len(run.concepts)
    return f"resumes after task {complete} of {last}" if complete else f"begins again with task 1 of {last}"


def write_record(run: Run, status: Status, reason: str = "") -> None:
    """Write run.json: everything needed to interpret the scores beside it."""
    write_json(run.at.record, record_of(run, status, reason).as_json())


def record_of(run: Run, status: Status, reason: str = "") -> Record:
    """The record of a run as it is on disk. UserError for a value that no record may hold: it could not be read later."""
    are_drawn = images.are_rendered(run.sequence.concepts, run.config.backbone)
    config = run.config.model_dump(mode="json")
    paths = recorded_paths.absolute_paths(config, run.sequence.concepts)
    record = {
        "schema": SCHEMA,
        "status": status,
        "reason": "".join(c if c.isprintable() else " " for c in reason)[:MOST_REASON],
        "config": recorded_paths.with_paths(config, paths) | {"output": None},
        "changed": changed(run.config.method, run.config.backbone, run.options),
        "facts": json.loads(json.dumps(run.facts)),
        "hash": short_hash(run.facts),
        "sequence": {
            "name": run.sequence.name,
            "version": run.sequence.version,
            "concepts": run.concepts,
            "class_nouns": {c.name: c.class_noun for c in run.sequence.concepts},
            "prompts": {c.name: list(run.sequence.evaluation.prompts[c.subject_type]) for c in run.sequence.concepts},
        },
        "pictures": "drawn" if are_drawn else "photographs",
        "sees_earlier_data": run.method_class.sees_earlier_data,
        "judges": {name: judge.identity for name, judge in run.judges.items()},
        "backbone": run.backbone.facts,
        "made_on": run.made_on,
        "costs": {t: cost.as_json() for t, cost in sorted(run.costs.items())},
        "files": shown_files(run.at),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }
    if paths and (folder := str(run.folder.absolute())).isprintable():
        record["folder"] = folder
    return validated(Record, record | (outcome(run) if status == "finished" else {}), "run")


def outcome(run: Run) -> dict[str, Any]:
    """The figures of a finished run; for unfinished runs the readers compute them."""
    scores, last = tables.read_scores(run.at.scores), len(run.concepts)
    if scores is None:
        return {}
    table = measures_table.read(run.folder)
    return {
        "figures": summaries(scores, run.concepts, last),
        "intervals": summary.intervals(scores, run.concepts, last),
        "multi_concept": pair_summary(scores),
        "measures": {} if table is None else measures_table.summary(table, last),
    }
