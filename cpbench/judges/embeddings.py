"""Embeddings of pictures, stored with a run by the pictures' content, so that a new metric does not encode them again."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpbench.files import write_atomically
from cpbench.judges import identity
from cpbench.version import SCORES

if TYPE_CHECKING:
    from cpbench.judges.judge import Judge

LIBRARIES = ("torch", "open_clip_torch", "timm", "torch-fidelity", "pillow")  # that encode pictures or prepare them


class Embeddings:
    """A judge with a file of embeddings; call `save` once at the end.

    The file belongs to one judge, one type of device and one version of the libraries; its name and content identify them.
    """

    def __init__(self, folder: Path, judge: Judge):
        self.judge, self.key = judge, _key(judge)
        self.file = folder / f"{judge.name}-{identity.key(self.key)}.safetensors"
        self.known, self.grown = _read(self.file, self.key), False

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
        from safetensors.numpy import save

        if self.grown:
            held = {k: np.ascontiguousarray(v) for k, v in sorted(self.known.items())}
            facts = {"key": json.dumps(self.key, sort_keys=True), "sha256": _digest(held)}
            write_atomically(self.file, save(held, facts))


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
