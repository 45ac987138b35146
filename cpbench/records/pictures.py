"""Pictures as files: read with care, written read-only."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from cpbench.files import READ_ONLY, write_atomically


def read_picture(path: Path, sha256: str | None = None) -> np.ndarray | None:
    """uint8 (h, w, 3), or None where there is no whole picture, or with `sha256` one of other bytes."""
    data = read_bytes(path, sha256)
    return None if data is None else decoded(data)


def read_bytes(path: Path, sha256: str | None = None) -> bytes | None:
    """A file's bytes; None where there is no file, or with `sha256` one of other bytes."""
    try:
        if not path.is_file():  # for example a pipe, which would be waited for forever
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data if sha256 is None or hashlib.sha256(data).hexdigest() == sha256 else None


def decoded(data: bytes) -> np.ndarray | None:
    """The picture in a file's bytes, uint8 (h, w, 3), or None if it is not whole."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def is_blank(picture: np.ndarray) -> bool:
    """Whether a picture (h, w, 3) is of one colour all over."""
    return bool((picture == picture[:1, :1]).all())


def png_bytes(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class CachedPicture:
    """A picture's file in the cache, the SHA-256 of its bytes, which its name ends with, and the bytes."""

    file: Path
    sha256: str
    data: bytes = field(repr=False)


def place(cached: CachedPicture, target: Path) -> None:
    """Put a cached picture where people look for it: a copy of its own, read-only, so that nobody changes the cache."""
    write_atomically(target, cached.data, READ_ONLY, like=cached.file)
