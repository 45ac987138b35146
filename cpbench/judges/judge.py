"""A judge: an encoder with explicit preprocessing, and its identity."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cpbench.backbones import hub
from cpbench.errors import UserError
from cpbench.judges import identity as judge_identity

TEXT_RULE = "the words for the concept are replaced by its class noun"
PAIR_RULE = "mean cosine over all pairs (drawn, real)"
MOST_PIXELS = 4096  # per side
CLASS_TOKEN = "class token after the final norm"
TIMM_CROP = 0.875  # timm's default if a config has none
TIMM_ARCHITECTURE = ("architecture", "model_args", "num_classes", "global_pool")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize` (by PIL), crop the middle `crop`, then (x - mean) / std."""

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    @staticmethod
    def of(size: Any, mean: Any, std: Any, resize: Any = None, interpolation: Any = "bicubic") -> Preprocessing:
        """From a config's values; resize None: as large as the crop. TypeError or ValueError for invalid values."""
        resize = size if resize is None else resize
        if (
            not all(isinstance(side, int) and 0 < side <= MOST_PIXELS for side in (size, resize))
            or size > resize
            or interpolation not in judge_identity.INTERPOLATIONS
            or len(mean) != 3
            or len(std) != 3
            or not all(math.isfinite(x) for x in (*mean, *std))
            or not all(x > 0 for x in std)
        ):
            raise ValueError(
                f"not a valid preprocessing: resize {resize} {interpolation}, crop {size}, mean {mean}, std {std}"
            )
        return Preprocessing(resize, size, tuple(map(float, mean)), tuple(map(float, std)), interpolation)

    def changed(self, words: str | None) -> Preprocessing:
        """This preprocessing with a user's changes, see `identity.preprocessing_settings`. ValueError for invalid ones."""
        if not words:
            return self
        settings = judge_identity.preprocessing_settings(words)
        whole = asdict(self) | settings
        return Preprocessing.of(whole.pop("crop"), **whole)

    @property
    def words(self) -> str:
        return f"resize {self.resize} {self.interpolation}, centre crop {self.crop}, mean {self.mean}, std {self.std}"

    def __call__(self, images: list[np.ndarray] | np.ndarray) -> torch.Tensor:
        """uint8 pictures (h, w, 3), of any sizes -> float (n, 3, crop, crop)."""
        return self.normalised(torch.from_numpy(self.cropped(images)))

    def cropped(self, images: Sequence[np.ndarray] | np.ndarray, threads: int = 1) -> np.ndarray:
        """uint8 pictures (h, w, 3), of any sizes -> resized and cropped, uint8 (n, crop, crop, 3).

        PIL, whose pixels the judges' published scores depend on, resizes in several threads at once: it needs no lock.
        """
        if threads == 1 or len(images) == 1:
            return np.stack([self._cropped(np.asarray(image)) for image in images])
        with ThreadPoolExecutor(min(threads, len(images))) as pool:
            return np.stack(list(pool.map(self._cropped, images)))

    def _cropped(self, image: np.ndarray) -> np.ndarray:
        h, w = image.shape[:2]
        if min(h, w) != self.resize:
            size = (
                int(w * self.resize / min(h, w)),
                int(h * self.resize / min(h, w)),
            )  # cut off, as torchvision's
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling[self.interpolation.upper()]))
        y0, x0 = (round((side - self.crop) / 2) for side in image.shape[:2])  # half to even, as in torchvision
        return image[y0 : y0 + self.crop, x0 : x0 + self.crop]

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 (n, crop, crop, 3) -> float (n, 3, crop, crop), on the same device."""
        x = pixels.permute(0, 3, 1, 2).contiguous().float() / 255
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def content_key(picture: np.ndarray) -> str:
    """SHA-256 of a picture's shape and pixels."""
    picture = np.asarray(picture)
    return hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()


MOST_KEPT = 4096  # embeddings that a judge caches
MOST_THREADS = 8


@dataclass
class Judge:
    """An encoder to unit vectors. identity: its model, hash of weights, preprocessing and rules."""

    name: str
    model: torch.nn.Module
    preprocessing: Preprocessing
    identity: dict[str, Any]
    tokenizer: Any = None
    _vectors: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def images(self, pictures: np.ndarray | list[np.ndarray], batch_size: int = 64) -> np.ndarray:
        """Unit vectors (n, d); the embeddings of the last `MOST_KEPT` pictures are cached."""
        keys = [content_key(picture) for picture in pictures]
        vectors = {k: self._vectors.pop(k) for k in dict.fromkeys(keys) if k in self._vectors}
        new = [i for i, k in enumerate(keys) if k not in vectors]
        for at in range(0, len(new), batch_size):
            part = new[at : at + batch_size]
            pixels = self.preprocessing.cropped([pictures[i] for i in part], _threads(self.device))
            x = self.preprocessing.normalised(torch.from_numpy(pixels).to(self.device))
            encode = getattr(self.model, "encode_image", self.model)
            for i, v in zip(part, F.normalize(encode(x).float(), dim=-1).cpu().numpy(), strict=True):
                vectors[keys[i]] = v.copy()  # a copy: a view would keep the whole batch in memory
        self._vectors |= vectors  # the most recently used are at the end
        for oldest in list(self._vectors)[:-MOST_KEPT]:
            del self._vectors[oldest]
        return np.stack([vectors[k] for k in keys])

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> np.ndarray:
        """Unit vectors (n, d) of the prompts. TypeError for a judge without a text encoder."""
        if self.tokenizer is None:
            raise TypeError(f"judge {self.name} has no text encoder")
        tokens = self.tokenizer(prompts).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1).cpu().numpy()


def _threads(device: torch.device) -> int:
    """Threads that prepare pictures: beside a GPU one per core, up to MOST_THREADS; on a CPU as many as torch has."""
    if device.type == "cpu":
        return min(torch.get_num_threads(), MOST_THREADS)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_THREADS)


def content_hash(value: Any) -> str:
    """SHA-256 of any JSON, independent of the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def tokenizer_hash(tokenizer: Any, folder: Path | None = None, settings: Any = None) -> str:
    """SHA-256 of a tokenizer: of the tables and length of open_clip's own, else of the folder's files.

    settings: the tokenizer's settings in the folder's config. Versions of libraries are not part of it.
    """
    if hasattr(tokenizer, "bpe_ranks"):
        merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
        tables = [sorted(tokenizer.encoder.items()), [list(pair) for pair in merges], tokenizer.context_length]
        return content_hash([*tables, settings] if settings else tables)
    files = {name: hub.file_hash(folder / name) for name in TOKENIZER_FILES if folder and (folder / name).is_file()}
    return content_hash([files, tokenizer.context_length, settings])


def open_clip_preprocessing(config: dict[str, Any]) -> Preprocessing:
    """The preprocessing in an open_clip_config.json. KeyError, TypeError or ValueError if it is incomplete or unsupported."""
    cfg = config["preprocess_cfg"]
    if cfg.get("resize_mode", "shortest") != "shortest":
        raise ValueError(f"resize_mode {cfg['resize_mode']!r}: only 'shortest' is supported")
    size = config["model_cfg"]["vision_cfg"]["image_size"]
    return Preprocessing.of(size, cfg["mean"], cfg["std"], interpolation=cfg.get("interpolation", "bicubic"))


def timm_preprocessing(cfg: dict[str, Any]) -> Preprocessing:
    """The preprocessing in a timm model's pretrained_cfg, as in timm's own evaluation; errors as in `open_clip_preprocessing`."""
    if cfg.get("crop_mode", "center") != "center":
        raise ValueError(f"crop_mode {cfg['crop_mode']!r}: only 'center' is supported")
    size = cfg["input_size"][-1]
    resize = math.floor(size / (cfg.get("crop_pct") or TIMM_CROP))
    return Preprocessing.of(size, cfg["mean"], cfg["std"], resize, cfg.get("interpolation", "bicubic"))


def changed_preprocessing(
    pre: Preprocessing, words: str | None, judge_type: str, model: str, sizes: int | None = None
) -> Preprocessing:
    """The preprocessing with a user's changes; UserError if the model does not support them.

    sizes: None if the model takes pictures of one size only, else the number that their side must be a multiple of.
    """
    flag = f"--{judge_type}-preprocessing"
    try:
        changed = pre.changed(words)
    except ValueError as error:
        raise UserError(f"{flag} {words}: {error}") from None
    if changed.crop % (sizes or pre.crop) or (sizes is None and changed.crop != pre.crop):
        size = f"{pre.crop}" if sizes is None else f"a multiple of {sizes}"
        raise UserError(f"{flag} {words}: {model} takes pictures of another size; set crop to {size}")
    return changed
