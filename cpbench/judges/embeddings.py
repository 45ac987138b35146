"""Embeddings of pictures, stored with a run by the pictures' content, so that a new metric does not encode them again."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpbench.files import write_atomically
from cpbench.judges import identity
from cpbench.version import SCORES

if TYPE_CHECKING:
    from cpbench.judges.judge import Judge

MOST_AT_ONCE = 3  # arrays that a cell's scores compare: its pictures, and the real ones of two concepts
LIBRARIES = ("torch", "open_clip_torch", "timm", "torch-fidelity", "pillow")  # that encode pictures or prepare them


class Embeddings:
    """A judge with a file of embeddings; call `save` once at the end.

    The file belongs to one judge, one type of device and one version of the libraries; its name and content identify them.
    """

    def __init__(self, folder: Path, judge: Judge):
        self.judge, self.key = judge, _key(judge)
        self.file = _file(folder, judge.name, self.key)
        self.of_rows = sorted(folder.glob(f"{self.file.stem}-row*.safetensors"))  # see `RowEmbeddings`
        self.known, self.grown = _read(self.file, self.key), bool(self.of_rows)
        for file in self.of_rows:
            self.known |= _read(file, self.key)

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Unit vectors (n, d) of pictures (n, h, w, 3)."""
        from cpbench.judges.judge import content_key

        keys = [content_key(picture) for picture in pictures]
        if new := [i for i, key in enumerate(keys) if key not in self.known]:
            vectors = self.judge.images(pictures[new])
            like = (vectors[0].shape, vectors[0].dtype)
            if any(
                (vector.shape, vector.dtype) != like for vector in self.known.values()
            ):  # the file is not of this judge after all
                self.known = {}
                return self.images(pictures)
            self.known |= {keys[i]: vector for i, vector in zip(new, vectors, strict=True)}
            self.grown = True
        return np.stack([self.known[key] for key in keys])

    def texts(self, prompts: list[str]) -> np.ndarray:
        return self.judge.texts(prompts)

    def save(self) -> None:
        if self.grown:
            _write(self.file, self.key, self.known)
        for file in self.of_rows:
            file.unlink(missing_ok=True)


class RowEmbeddings:
    """A judge that notes its embeddings of a row's pictures, for `Embeddings`: another process may need them later."""

    def __init__(self, judge: Judge):
        self.judge = judge
        self.noted: dict[str, np.ndarray] = {}
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=MOST_AT_ONCE)

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Unit vectors (n, d) of pictures (n, h, w, 3); the same array again is not hashed again."""
        from cpbench.judges.judge import content_key

        for array, vectors in self._recent:
            if array is pictures:
                return vectors
        vectors = self.judge.images(pictures)
        if len(vectors) == len(pictures):  # else the score, of a package, will be refused
            self.noted |= dict(zip(map(content_key, pictures), vectors, strict=True))
        self._recent.append((pictures, vectors))
        return vectors

    def texts(self, prompts: list[str]) -> np.ndarray:
        return self.judge.texts(prompts)

    def save(self, folder: Path, t: int) -> None:
        """Write what was noted in row t to a file of its own, which `Embeddings` puts together with the others."""
        key = _key(self.judge)
        file = _file(folder, self.judge.name, key)
        _write(file.with_stem(f"{file.stem}-row{t:02d}"), key, self.noted)


def _file(folder: Path, name: str, key: dict[str, Any]) -> Path:
    return folder / f"{name}-{identity.key(key)}.safetensors"


def _write(file: Path, key: dict[str, Any], vectors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save

    held = {k: np.ascontiguousarray(v) for k, v in sorted(vectors.items())}
    write_atomically(file, save(held, {"key": json.dumps(key, sort_keys=True), "sha256": _digest(held)}))


def _key(judge: Judge) -> dict[str, Any]:
    """Everything that affects an embedding, besides the picture."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    device = getattr(judge, "device", None)
    conditions = {"device": device.type if device else "cpu", "versions": versions, "scores": SCORES}
    return {"judge": identity.counted(judge.identity), **conditions}


def _digest(vectors: dict[str, np.ndarray]) -> str:
    """SHA-256 over the pictures' keys and their vectors, in the keys' order."""
    digest = hashlib.sha256()
    for key, vector in sorted(vectors.items()):
        digest.update(f"{key} {vector.dtype.str} {vector.shape} ".encode())
        digest.update(np.ascontiguousarray(vector).tobytes())
    return digest.hexdigest()


def _read(file: Path, key: dict[str, Any]) -> dict[str, np.ndarray]:
    """The stored embeddings; none if the file is damaged or has another key, since they can be computed again."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="np") as opened:
            facts = opened.metadata() or {}
            if json.loads(facts["key"]) != json.loads(json.dumps(key)):
                return {}
            held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    # of one length and type, so that they can be stacked
    uniform = len({(v.dtype.str, v.shape) for v in held.values()}) == 1 and next(iter(held.values())).ndim == 1
    return held if uniform and facts.get("sha256") == _digest(held) else {}
