"""Files: written atomically, read with limits, identified by hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import html
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from cpbench.errors import UserError

MOST_JSON = 2**24  # bytes of a JSON file; a record of 50 tasks has 100 thousand
READ_ONLY = 0o444  # for pictures: a judged picture must not change
FICLONE = 0x40049409  # of linux/fs.h


def write_atomically(path: Path, data: bytes, mode: int = 0o644, like: Path | None = None) -> None:
    """Write all of `data` or nothing: to a temporary file in the same folder, which is synced and renamed.

    like: a file with the same bytes, whose blocks are shared if the filesystem supports that (copy on write).
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
            error.filename, error.filename2 = str(path), None  # the path the user knows, not the temporary file
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
    """Make a rename in this folder survive a loss of power, if the system supports that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """The file's content; None if there is no such file or it is damaged."""
    try:
        return json.loads(path.read_text()) if path.is_file() and path.stat().st_size <= MOST_JSON else None
    except (OSError, ValueError, RecursionError):
        return None


def read_limited(file: Path, most: int) -> bytes | None:
    """A file's bytes; None if there is none, if it is a pipe or a device, which may never end, or has more than `most` bytes."""
    if not os.path.isfile(file) or os.path.getsize(file) > most:
        return None
    with file.open("rb") as opened:
        data = opened.read(most + 1)  # it may grow
    return data if len(data) <= most else None


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes. OSError for a pipe or a device, which may never end."""
    if not os.path.isfile(file) and os.path.exists(file):
        raise OSError(errno.EINVAL, "it is not a file", str(file))
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def escape_markdown(text: object) -> str:
    """Untrusted text as one line of Markdown that contains no cells, HTML, code, pictures or links."""
    line = html.escape(" ".join(str(text).split()), quote=False)
    line = re.sub(r"([\\`|\[\]])", r"\\\1", line)
    return line.replace("://", "&#58;//").replace("www.", "www&#46;")  # many viewers turn these into links


def short_hash(facts: dict) -> str:
    """Eight hex digits over facts (any JSON); over a run's facts, the run's hash."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def prepare_folder(folder: Path) -> None:
    """Create the folder, and check that it is writable. UserError, in one line, if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"output folder {folder}: cannot be written ({error.strerror or error}); pass another with --output"
        ) from None


def seed_of(*words: object) -> int:
    """A 63-bit seed that depends only on these words, the same on every machine."""
    digest = hashlib.sha256("/".join(str(w) for w in words).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")  # names become folders of the run
