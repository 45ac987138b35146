"""Whether a run's tables can be those of its record: what the leaderboard, a report and a comparison ask before they show a number."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from cpbench.metrics import matrices, retention
from cpbench.metrics.scores import main_first, title_of
from cpbench.numbers import number
from cpbench.records import measures_table, tables
from cpbench.records.folder import RunFolder
from cpbench.records.record import Record, contradiction
from cpbench.records.tables import ROUGHLY, no_cosine

ROUNDED = 1e-4  # what is written of a score may be off by
LARGEST = {
    "identified": 1,
    "moved": 2,
    "unrelated_moved": 2,
}  # what a leaderboard shows of measures.csv, and the most it can be


def doubt(folder: Path, record: Record, scores: pd.DataFrame | None) -> str:
    """Why the numbers of a finished run cannot be believed, "" where nothing speaks against them.

    scores: its scores.csv, None where that cannot be read. A run at work is in no doubt: its tables grow after its record.
    """
    if not record.is_finished:
        return ""
    return contradiction(record) or wrong_scores(folder, record, scores) or wrong_measures(folder, record)


def wrong_scores(folder: Path, record: Record, scores: pd.DataFrame | None) -> str:
    """Why scores.csv cannot be the finished run's, or ""."""
    file = RunFolder(folder).scores
    if scores is None:
        return f"its scores.csv is {'damaged' if tables.is_there(file) else 'missing'}"
    if altered(record, file):
        return "its scores.csv is not the one that its run.json tells of"
    return no_cosine(scores) or other_average(record, scores)


def altered(record: Record, file: Path) -> bool:
    """Whether a table is not the one whose SHA-256 is recorded; older records have none."""
    digest = record.files.get(file.name)
    return digest is not None and digest != tables.table_hash(file)


def other_average(record: Record, scores: pd.DataFrame) -> str:
    """Which recorded final average is not that of the scores, where a row of the matrix is whole; or "".

    Of the figures the one that every version of cpbench computed alike.
    """
    concepts = record.sequence.concepts
    by_score = matrices.matrices(scores, concepts)
    for score in main_first(by_score):
        matrix = by_score[score]
        recorded = record.figures.get(score, {}).get("final_average")
        if recorded is None or len(concepts) not in matrix.index:
            continue
        average = retention.final_average(matrix.reindex(range(len(concepts) + 1)).to_numpy())
        if math.isfinite(average) and not math.isclose(average, recorded, abs_tol=ROUNDED):
            return f"its run.json tells of a final {title_of(score)} of {number(recorded)}, its scores.csv of {number(average)}"
    return ""


def wrong_measures(folder: Path, record: Record) -> str:
    """Why measures.csv cannot be the run's, "" also without one."""
    file = RunFolder(folder).measures
    if not tables.is_there(file):
        return ""
    table = measures_table.read(folder)
    if table is None:
        return "its measures.csv is damaged"
    if altered(record, file):
        return "its measures.csv is not the one that its run.json tells of"
    for measure, largest in LARGEST.items():
        values = table[table["measure"] == measure]["value"]
        outside = values[(values < -ROUGHLY) | (values > largest + ROUGHLY)]
        if len(outside):
            return f"its measures.csv has {measure} {outside.iloc[0]:g}, which is between 0 and {largest}"
    return ""
