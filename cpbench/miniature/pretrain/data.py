"""Training pictures of the drawn world, rendered once and kept in the work folder.

Picture i shows individual i // VIEWS in its own setting, pose and light, so consecutive pictures are views of one
individual. No individual is, or looks like, a benchmark subject (`world.training_identity`).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..world import LIVE, NOUNS, caption, random_setting, render, seeded, training_identity

VIEWS = 8


@dataclass(frozen=True)
class Pictures:
    """`images` uint8 (n, 64, 64, 3); `captions` and `finishes` n each; picture i shows individual i // VIEWS."""

    images: np.ndarray
    captions: list[str]
    finishes: list[str | None]
    nouns: list[str]


def describe_picture(index: int, split: str, seed: int):
    """(identity, setting, caption, generator for the rendering) of picture `index`."""
    number = index // VIEWS
    noun = NOUNS[number % len(NOUNS)]
    identity = training_identity(noun, number // len(NOUNS), split)
    rng = seeded("picture", split, seed, index)
    setting = random_setting(noun, rng, noun in LIVE)
    return identity, setting, caption(identity, setting, rng), rng


def load(folder: Path, n: int, split: str = "pretraining", seed: int = 0, report=print) -> Pictures:
    """The first `n` pictures of a split, rendered into `folder` unless they are there."""
    images_file, words_file = folder / f"{split}-{n}-{seed}.npy", folder / f"{split}-{n}-{seed}.json"
    if not words_file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = images_file.with_suffix(f".{os.getpid()}.tmp.npy")
        images = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(n, 64, 64, 3))
        words = []
        for i in range(n):
            identity, setting, text, rng = describe_picture(i, split, seed)
            images[i] = render(identity, setting, rng)
            words.append((text, setting.finish, identity.noun))
            if (i + 1) % 5000 == 0:
                report(f"rendered {i + 1} of {n} pictures")
        images.flush()
        del images
        temporary.rename(images_file)
        words_file.write_text(json.dumps(words))
    captions, finishes, nouns = (list(column) for column in zip(*json.loads(words_file.read_text()), strict=True))
    return Pictures(np.load(images_file, mmap_mode="r"), captions, finishes, nouns)
