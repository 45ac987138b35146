"""The folder of `cpbench sample`: pictures 00.png, 01.png, ..., and sample.json, which says how each was made.

Pictures of earlier calls stay: new ones get the next numbers. The same request again gives the same files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from cpbench.errors import UserError
from cpbench.files import file_hash, read_json, write_atomically, write_json
from cpbench.records.pictures import png_bytes

RECORD = "sample.json"
LOCK = ".sample.lock"
SCHEMA = 1
PICTURE = re.compile(r"(\d{2,9})\.png")
PLACES = ("run", "files")  # of an entry: what does not make it another request


def entries_of(folder: Path) -> list[dict[str, Any]]:
    """The requests in sample.json, each with its `files`, in order of index. UserError if it is not as `write` leaves it."""
    file = folder / RECORD
    if not file.exists():
        return []
    content = read_json(file)
    entries = content.get("samples") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise UserError(
            f"{file}: is not a list of samples as cpbench writes it; move it away, or pass another --output"
        )
    return entries


def _is_entry(entry: object) -> bool:
    files = entry.get("files") if isinstance(entry, dict) else None
    return isinstance(files, list) and all(
        isinstance(f, dict) and isinstance(f.get("sha256"), str) and PICTURE.fullmatch(str(f.get("name")))
        for f in files
    )


def write(folder: Path, pictures: np.ndarray, request: dict[str, Any]) -> list[Path]:
    """Write pictures, uint8 (n, h, w, 3), and their entry in sample.json; returns their paths, in order.

    request: what made them, as JSON. UserError for a damaged sample.json.
    """
    encoded = [png_bytes(picture) for picture in pictures]
    hashes = [hashlib.sha256(data).hexdigest() for data in encoded]
    with FileLock(folder / LOCK):  # only one process numbers pictures at a time
        entries = entries_of(folder)
        entry = next((e for e in entries if _without(e) == _without(request)), None)
        names = [f["name"] for f in entry["files"]][: len(encoded)] if entry else []
        if not all(_is_free_for(folder / name, digest) for name, digest in zip(names, hashes, strict=False)):
            entry, names = None, []  # a file has other content today: it is kept
        names += _next_names(folder, entries, len(encoded) - len(names))
        for name, data in zip(names, encoded, strict=True):
            write_atomically(folder / name, data)
        files = [{"name": name, "sha256": digest} for name, digest in zip(names, hashes, strict=True)]
        if entry is None:
            entries.append(request | {"files": files})
        else:
            entry |= request | {"files": files + entry["files"][len(files) :]}
        write_json(folder / RECORD, {"schema": SCHEMA, "samples": entries})
    return [folder / name for name in names]


def _without(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in PLACES}


def _is_free_for(file: Path, digest: str) -> bool:
    """Whether nothing is lost if a picture with this SHA-256 is written there."""
    return not file.exists() or (file.is_file() and file_hash(file) == digest)


def _next_names(folder: Path, entries: Iterable[dict[str, Any]], n: int) -> list[str]:
    """The next n numbers: none of a file that is there, or that sample.json names."""
    names = [f.name for f in folder.iterdir()] + [f["name"] for entry in entries for f in entry["files"]]
    used = [int(match[1]) for name in names if (match := PICTURE.fullmatch(name))]
    first = max(used, default=-1) + 1
    return [f"{k:02d}.png" for k in range(first, first + n)]
