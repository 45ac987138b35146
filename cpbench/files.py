"""Files: written whole or not at all, read with care, known by their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from cpbench.errors import UserError

MOST_JSON = 2**24  # bytes of a JSON file that is read; a record of 50 tasks has 100 thousand
READ_ONLY = 0o444  # pictures: what was judged stays what it was
FICLONE = 0x40049409  # of linux/fs.h


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


def escape_markdown(text: object) -> str:
    """Somebody's words in Markdown, in one line: no cell, HTML, code, picture or link is made of them."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    line = re.sub(r"([\\`|\[\]])", r"\\\1", line)
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")  # which many readers make links of


def short_hash(facts: dict) -> str:
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


def seed_of(*words: object) -> int:
    """A 63-bit seed that depends on the words alone, on every machine."""
    digest = hashlib.sha256("/".join(str(w) for w in words).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # names become folders of the run
