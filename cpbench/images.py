"""Where a concept's pictures come from: drawn by the miniature's world, or a folder of photographs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from cpbench.errors import UserError, near
from cpbench.sequences import Concept

if TYPE_CHECKING:
    from cpbench.miniature.world import Identity

REFERENCES = 5  # drawn pictures a concept, as many as DreamBooth's subjects have photographs (4 to 6)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


def is_drawn(concept: Concept, backbone: str) -> bool:
    return concept.drawn and backbone == "miniature"


def load(concept: Concept, backbone: str, size: int) -> np.ndarray:
    """The concept's pictures, uint8 (n, size, size, 3). UserError names what is missing or broken."""
    if is_drawn(concept, backbone):
        return drawn(concept.name)
    if concept.images is None:
        raise UserError(
            f"concept {concept.name}: has no folder of photographs, which backbone {backbone} needs; add `images: {{folder: ...}}` to the sequence"
        )
    return photographs(Path(concept.images), concept.name, size)


def drawn(name: str) -> np.ndarray:
    """The drawn stand-in's pictures, uint8 (5, 64, 64, 3). UserError for a name the world does not have."""
    from cpbench.miniature.world import SUBJECTS, subject

    if name not in SUBJECTS:
        raise near(name, sorted(SUBJECTS), "subject", "The drawn world has no other subjects.")
    return references(subject(name), name)


def references(who: Identity, name: str) -> np.ndarray:
    """Five pictures of an individual: two plain rooms, three places, each in its own pose and light, by the name."""
    from cpbench.miniature.world import Setting, draw, seeded
    from cpbench.miniature.world.places import PLACES

    chosen = seeded("reference places", name).choice(list(PLACES), REFERENCES - 2, replace=False)
    settings = [Setting(), *(Setting(str(p)) for p in chosen), Setting()]
    return np.stack([draw(who, s, seeded("reference", name, k)) for k, s in enumerate(settings)])


def oracle(name: str, template: str, seed: int, index: int) -> np.ndarray:
    """The world's own drawing of (concept, prompt): what a perfect model would draw. uint8 (64, 64, 3)."""
    from cpbench.miniature.world import draw, read_prompt, seeded, subject

    return draw(subject(name), read_prompt(template), seeded("oracle", seed, name, template, index))


def photographs(folder: Path, concept: str, size: int) -> np.ndarray:
    """Every picture of a folder, in order of name, its middle square resized (Lanczos) to `size`."""
    if not folder.is_dir():
        raise UserError(
            f"concept {concept}: there is no folder {folder}; put its pictures there or mend `images` in the sequence"
        )
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"concept {concept}: no pictures ({', '.join(SUFFIXES)}) in {folder}; put 3 to 6 there")
    out = []
    for file in files:
        try:
            with Image.open(file) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")  # upright, as viewers show it
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(
                f"concept {concept}: {file} cannot be read as a picture ({error}); replace or remove it"
            ) from None
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        out.append(np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)))
    return np.stack(out)


def content_hash(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
