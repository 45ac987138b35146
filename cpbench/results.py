"""The run folder: where it is, what is in it, and how it is read and written without ever being half there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import html
import io
import json
import os
import re
import subprocess
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("clip_i", "clip_t", "dino")
PACKAGES = ("torch", "diffusers", "transformers", "peft", "open_clip_torch", "timm", "numpy", "skia-python")
MOST_JSON = 2**24  # bytes of a JSON file that is read; a record of 50 tasks has 100 thousand
READ_ONLY = 0o444  # pictures: what was judged stays what it was
FICLONE = 0x40049409  # of linux/fs.h
SCORE_COLUMNS = ["row", "kind", "concept", "prompt", "index", "metric", "value"]


def write_atomically(path: Path, data: bytes, mode: int = 0o644, like: Path | None = None) -> None:
    """All of `data` or nothing: a temporary file beside it, synced and renamed.

    like: a file with these bytes, whose blocks are shared where the filesystem can (copy on write): no second copy.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if like is None or not _shares_blocks(file.fileno(), like):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # what a person knows, not the temporary file
        raise


def _shares_blocks(handle: int, like: Path) -> bool:
    """Whether the open, empty file now shares the blocks of `like`: Linux's FICLONE, on filesystems that have it."""
    try:
        import fcntl

        with like.open("rb") as source:
            fcntl.ioctl(handle, FICLONE, source.fileno())
        return True
    except (ImportError, OSError):
        return False


def sync_folder(folder: Path) -> None:
    """Have a rename in it outlast a loss of power, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The file's value; None where there is none or it is not whole."""
    try:
        return json.loads(path.read_text()) if path.is_file() and path.stat().st_size <= MOST_JSON else None
    except (OSError, ValueError, RecursionError):
        return None


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def plain(text: object) -> str:
    """Somebody's words in Markdown, in one line: no cell, HTML, code, picture or link is made of them."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    line = re.sub(r"([\\`|\[\]])", r"\\\1", line)
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")  # which many readers make links of


def run_folder(output: Path, sequence: str, backbone: str, method: str, hash8: str, order: int, seed: int) -> Path:
    return output / sequence / backbone / method / hash8 / f"order{order}-seed{seed}"


def hash8(facts: dict) -> str:
    """Eight hex digits over everything that moves a score."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def prepare_folder(folder: Path) -> None:
    """Make the folder and see that it can be written. UserError, one line, if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output folder {folder}: cannot be written ({error.strerror or error}); name another with --output"
        ) from None


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
        data = path.read_bytes() if path.is_file() else b""
        if not data.endswith(b"\n"):
            return None  # cut in its last number, perhaps, which would be another number
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that do not fit, which are errors besides
            table = pd.read_csv(io.BytesIO(data), dtype=kinds, keep_default_na=False, na_values={"value": [""]})
    except (OSError, ValueError, OverflowError):
        return None
    return table if list(table.columns) == list(kinds) and not table.duplicated(key).any() else None


def matrices(scores: pd.DataFrame, concepts: list[str], kinds: tuple[str, ...] = ("cell",)) -> dict[str, pd.DataFrame]:
    """Retention matrix of each metric: rows 0..t (those that exist), columns the concepts in the order learned.

    A cell is the mean over its pictures; cells that do not exist are NaN. The upper triangle, if it was drawn, is there with
    the kind "unlearned".
    """
    cells = scores[scores["kind"].isin(kinds)].groupby(["metric", "row", "concept"])["value"].mean()
    out = {}
    for metric in METRICS:
        if metric in cells.index.get_level_values(0):
            table = cells[metric].unstack("concept")
            out[metric] = table.reindex(columns=concepts).sort_index()
    return out


def reference_row(scores: pd.DataFrame, kind: str, metric: str, concepts: list[str]) -> list[float]:
    """Per concept, the mean of a reference row: kind "real" (ceiling 1) or "oracle" (ceiling 2)."""
    part = scores[(scores["kind"] == kind) & (scores["metric"] == metric)].groupby("concept")["value"].mean()
    return [float(part.get(c, float("nan"))) for c in concepts]


def versions() -> dict[str, str]:
    """By name, of those libraries of PACKAGES that are installed, and of cpbench."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """Read once: every picture's key has them, and those of a process do not change."""
    found = {}
    for name in ("cpbench", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def commit() -> str | None:
    """The checkout's commit, with "+" if its code has changes; None outside a checkout. Presets are recorded as options."""
    but = [":(top)", ":(top,exclude)baselines/presets"]
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10)
        if head.returncode:
            return None
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "--", *but], cwd=here, capture_output=True, text=True, timeout=10
        ).stdout
        return head.stdout.strip() + ("+" if dirty.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None
