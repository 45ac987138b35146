"""Tables of a run: long form, CSV, or .csv.gz where they are kept for good; read with care, for they may come from anybody."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from cpbench.files import read_limited, write_atomically
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.metrics.scores import among

if TYPE_CHECKING:
    import pandas as pd


MOST_BYTES = 2**28  # of a table; fifty concepts' have 8 million
ROUGHLY = 1e-3  # and what half precision may put a cosine above 1 by


def is_there(path: Path) -> bool:
    """Whether there is a table, as it is or compressed."""
    return path.is_file() or compressed(path).is_file()


def compressed(path: Path) -> Path:
    """Where a table is kept for good: results/reference has scores.csv.gz for scores.csv."""
    return path.with_name(f"{path.name}.gz")


def table_bytes(path: Path) -> bytes:
    """A table's bytes, of itself or of its compressed form; b"" where there is none, it is not whole, or it is too large."""
    try:
        if path.is_file():
            return read_limited(path, MOST_BYTES) or b""
        if not compressed(path).is_file():
            return b""
        with gzip.open(compressed(path)) as opened:
            data = opened.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        return b""
    return data if len(data) <= MOST_BYTES else b""


def table_hash(path: Path) -> str:
    """SHA-256 of a table's own bytes, whether it is compressed or not."""
    return hashlib.sha256(table_bytes(path)).hexdigest()


def keep_table(path: Path, target: Path) -> None:
    """A compressed copy in the folder `target`; equal tables give equal files."""
    write_atomically(target / compressed(path).name, gzip.compress(table_bytes(path), 9, mtime=0))


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """The long form, one row a measurement, columns SCORE_COLUMNS, sorted so that equal runs give equal files."""
    ordered = scores[SCORE_COLUMNS].sort_values(SCORE_COLUMNS[:-1], kind="stable")
    write_atomically(path, ordered.to_csv(index=False, float_format="%.6f").encode())


def read_scores(path: Path) -> pd.DataFrame | None:
    """The table of `write_scores`; None where there is none, or it is not whole, or a number in it is none, or is twice."""
    # a concept may be called 007, or null
    kinds = {"row": int, "kind": str, "concept": str, "prompt": str, "index": int, "metric": str, "value": float}
    return read_table(path, kinds, SCORE_COLUMNS[:-1])


def read_table(path: Path, kinds: dict[str, type], key: list[str]) -> pd.DataFrame | None:
    """A CSV file with exactly these columns, in this order, whose `value` may be empty; None if it is not.

    Nor may two lines be of one `key`: which of them counted would be left to whoever reads them.
    """
    import pandas as pd

    try:
        data = table_bytes(path)
        if not data.endswith(b"\n"):
            return None  # cut in its last number, perhaps, which would be another number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that do not fit, which are errors besides
            table = pd.read_csv(io.BytesIO(data), dtype=kinds, keep_default_na=False, na_values={"value": [""]})
    except (OSError, ValueError, OverflowError):
        return None
    return table if list(table.columns) == list(kinds) and not table.duplicated(key).any() else None


def no_cosine(scores: pd.DataFrame) -> str:
    """Which score is none, or ""."""
    score_of = {name: re.sub("_(?:first|second)$", "", name) for name in scores["metric"].unique()}
    score_objects = among(set(score_of.values()))
    cosines = scores[
        scores["metric"].isin(
            [k for k, name in score_of.items() if name in score_objects and score_objects[name].is_cosine]
        )
    ]
    outside = cosines[cosines["value"].abs() > 1 + ROUGHLY]
    if outside.empty:
        return ""
    metric, value = outside.iloc[0][["metric", "value"]]
    return f"its scores.csv has {metric[:40]} {value:g}, and a cosine is between -1 and 1"
