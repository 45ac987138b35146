"""measures.csv and identification.csv: what pictures say beyond the matrices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from cpbench.files import read_json, write_atomically
from cpbench.records import tables
from cpbench.records.folder import RunFolder, TaskFolder

COLUMNS = ["row", "measure", "concept", "value"]
CONFUSION = ["row", "concept", "nearest", "count"]


@dataclass(frozen=True)
class Measurements:
    """table: columns COLUMNS; confusion: columns CONFUSION, the pictures of each concept counted by the concept that they look most like.

    refused: why the last row has no value of a distance, by its name.
    """

    table: pd.DataFrame
    confusion: pd.DataFrame
    refused: dict[str, str] = field(default_factory=dict)


def recorded_pictures(task: Path) -> dict[str, str]:
    """By path below a task's folder the SHA-256 of its row's pictures; {} where row.json has none (of an older version)."""
    row = read_json(TaskFolder(task).row)
    hashes = row.get("pictures") if isinstance(row, dict) else None
    return hashes if isinstance(hashes, dict) else {}


def write(folder: Path, measurements: Measurements) -> None:
    """measures.csv and identification.csv."""
    run = RunFolder(folder)
    for file, table in ((run.measures, measurements.table), (run.identification, measurements.confusion)):
        write_atomically(file, table.to_csv(index=False, float_format="%.6f").encode())


def read(folder: Path) -> pd.DataFrame | None:
    """measures.csv of a run; None where there is none or it is not whole."""
    kinds = {"row": int, "measure": str, "concept": str, "value": float}
    return tables.read_table(RunFolder(folder).measures, kinds, COLUMNS[:-1])


def read_confusion(folder: Path) -> pd.DataFrame | None:
    """identification.csv of a run; None where there is none or it is not whole."""
    kinds = {"row": int, "concept": str, "nearest": str, "count": int}
    return tables.read_table(RunFolder(folder).identification, kinds, CONFUSION[:-1])


def summary(table: pd.DataFrame, t: int) -> dict[str, float]:
    """Of row t, by measure, the mean over concepts or nouns, those that are defined; {} where nothing is."""
    means = table[(table["row"] == t) & table["value"].notna()].groupby("measure")["value"].mean()
    return {str(k): round(float(v), 6) for k, v in means.items()}
