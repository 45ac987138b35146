"""A run's folder: held by one process, its record and tables written, and whether it is finished."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from cpbench.concepts import images
from cpbench.errors import DamagedState, UserError
from cpbench.files import file_hash, read_json, short_hash, write_atomically, write_json
from cpbench.method import State
from cpbench.metrics import matrices, summary
from cpbench.metrics.multi_concept import summary as pair_summary
from cpbench.metrics.summary import summaries
from cpbench.miniature import is_miniature
from cpbench.records import machine, measures_table, tables
from cpbench.records.folder import RunFolder
from cpbench.records.upgrade import CODE, SCHEMA
from cpbench.records.upgrade import read as read_record
from cpbench.registry import changed
from cpbench.running import rows
from cpbench.running.prepare import Run
from cpbench.running.task import is_dropped


@contextlib.contextmanager
def held(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """The run folder for this process alone; a second one is told, after `patience` seconds, who holds it.

    The lock is the operating system's: it ends with the process that had it, however that ended.
    """
    lock, holder = FileLock(RunFolder(folder).lock), RunFolder(folder).holder
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        who = read_json(holder) or {}
        raise UserError(
            f"run folder {folder}: process {who.get('pid', '?')} on {who.get('host', '?')} has held it since "
            f"{who.get('since', '?')}; wait for it, or stop it and start again"
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


def earlier(run: Run) -> Iterator[str]:
    """A line for each run of the same settings, seed and order that other code made: it is left as it is."""
    mine = json.loads(json.dumps({k: v for k, v in run.facts.items() if k not in CODE}))
    for folder in sorted(run.folder.parent.parent.glob(f"*/{run.folder.name}")):
        record = read_record(folder)
        try:
            facts, version = record["facts"], record["versions"]["cpbench"]
            alike = {k: v for k, v in facts.items() if k not in CODE} == mine
            how = "made" if record["status"] == "finished" else "begun, and not finished,"
        except (TypeError, KeyError, AttributeError):  # what is no record
            continue
        if alike and folder != run.folder:
            yield f"{folder}: {how} by cpbench {version}, kept; a new run goes to {run.folder}"


def remove_temporary(folder: Path) -> None:
    """What was being written when an earlier process was killed; nobody reads it."""
    for file in folder.rglob(".*.tmp"):
        file.unlink(missing_ok=True)


def write_tables(run: Run, t: int) -> None:
    """scores.csv of the whole run so far, and one matrix file a metric."""
    files = [run.at.task(k).scores for k in run.rows if k <= t]
    parts = [tables.read_scores(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part is None:  # a mount that went away, say
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file))
    scores = pd.concat(parts, ignore_index=True)
    tables.write_scores(run.at.scores, scores)
    for metric, table in matrices.matrices(scores, run.concepts).items():
        write_atomically(run.at.matrix(metric), table.to_csv(float_format="%.6f").encode())


def is_finished(run: Run) -> bool:
    """Whether states, scores and hash agree with a record that says so."""
    record = read_json(run.at.record)
    if (
        not isinstance(record, dict)
        or record.get("status") != "finished"
        or record.get("facts") != json.loads(json.dumps(run.facts))
    ):
        return False
    try:
        for t in range(1, len(run.concepts) + 1):
            if is_dropped(run, t):
                State.checksum(run.at.task(t).path, run.bound(t))
            else:
                run.load_state(t)
    except (FileNotFoundError, DamagedState):
        return False
    if not all(rows.is_complete(run, t) for t in run.rows):
        return False
    return record.get("files") == shown_files(run.at) != {}


def shown_files(at: RunFolder) -> dict[str, str]:
    """SHA-256 of what a run shows: scores, matrices, measures, grid."""
    return {file.name: file_hash(file) for file in at.shown()}


def write_record(run: Run, status: str, reason: str = "") -> None:
    """run.json: all one needs to know what the scores beside it mean."""
    scores = tables.read_scores(run.at.scores)
    done = 0 if scores is None else int(scores["row"].max())
    drawn = images.are_rendered(run.sequence.concepts, run.config.backbone)
    record = {
        "schema": SCHEMA,
        "status": status,
        "reason": reason,
        "config": run.config.model_dump(mode="json") | {"output": None},
        "changed": changed(run.config.method, run.config.backbone, run.options),
        "facts": run.facts,
        "hash": short_hash(run.facts),
        "sequence": {
            "name": run.sequence.name,
            "version": run.sequence.version,
            "concepts": run.concepts,
            "class_nouns": {c.name: c.class_noun for c in run.sequence.concepts},
            "prompts": {c.name: list(run.sequence.evaluation.prompts[c.subject_type]) for c in run.sequence.concepts},
        },
        "photographs_on_the_miniature": is_miniature(run.config.backbone) and not drawn,
        "pictures": "drawn" if drawn else "photographs",
        "sees_earlier_data": run.method_class.sees_earlier_data,
        "judges": {name: j.identity for name, j in run.judges.items()},
        "backbone": run.backbone.facts,
        "made_on": run.made_on,
        "costs": {str(t): c for t, c in sorted(run.costs.items())},
        "summary": summaries(scores, run.concepts, done) if done else {},
        "intervals": summary.intervals(scores, run.concepts, done) if done else {},
        "composition": pair_summary(scores) if done else {},
        "measures": measures_table.summary(table, done)
        if (table := measures_table.read(run.folder)) is not None
        else {},
        "files": shown_files(run.at),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }
    write_json(run.at.record, record)
