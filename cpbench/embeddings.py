"""Embeddings of pictures, kept beside a run by the pictures' content: a new metric encodes nothing again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpbench.results import write_atomically

if TYPE_CHECKING:
    from cpbench.judges import Judge


class Embeddings:
    """A judge that looks into its file first; `save` once at the end.

    The file is of one judge: its name holds the judge's, with the hash of its weights.
    """

    def __init__(self, folder: Path, judge: Judge):
        weights = judge.identity["weights_sha256"][:8]
        self.judge, self.file = judge, folder / "embeddings" / f"{judge.name}-{weights}.safetensors"
        self.known, self.grown = _read(self.file), False

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Unit vectors (n, d) of pictures (n, h, w, 3)."""
        from cpbench.judges import content_key

        keys = [content_key(picture) for picture in pictures]
        if new := [i for i, key in enumerate(keys) if key not in self.known]:
            vectors = self.judge.images(pictures[new])
            self.known |= {keys[i]: vector for i, vector in zip(new, vectors, strict=True)}
            self.grown = True
        return np.stack([self.known[key] for key in keys])

    def texts(self, prompts: list[str]) -> np.ndarray:
        return self.judge.texts(prompts)

    def save(self) -> None:
        from safetensors.numpy import save

        if self.grown:
            write_atomically(self.file, save({k: np.ascontiguousarray(v) for k, v in sorted(self.known.items())}))


def _read(file: Path) -> dict[str, np.ndarray]:
    """What is kept; nothing where the file is not whole, since it can be made again."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(file.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError):
        return {}
