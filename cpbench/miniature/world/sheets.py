"""Contact sheets of the world, for `cpbench world`."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cpbench.errors import UserError, did_you_mean
from cpbench.files import prepare_folder, write_atomically

from .captions import Setting, read_prompt, unread
from .cast import DREAMBENCH, SUBJECTS, subject, training_identity
from .finishes import FINISHES
from .identity import VARIANTS, Identity, seeded
from .outfits import OUTFITS
from .places import PLACES
from .scene import render

SCALE = 2  # pixels of a sheet per pixel of a picture
GAP, LABEL = 6, 18  # pixels between pictures, and below them for their name
SPLIT = "sheets"  # individuals of no other split

Labelled = list[tuple[str, np.ndarray]]


def sheet(pictures: Labelled, columns: int, scale: int = SCALE) -> Image.Image:
    """Labelled pictures, uint8 (n, n, 3), in rows of `columns`, each enlarged by a whole number."""
    cell = max(p.shape[0] for _, p in pictures) * scale
    label = LABEL if any(words for words, _ in pictures) else 0
    rows = -(-len(pictures) // columns)
    image = Image.new("RGB", (columns * (cell + GAP) + GAP, rows * (cell + label + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    for k, (words, picture) in enumerate(pictures):
        x, y = GAP + k % columns * (cell + GAP), GAP + k // columns * (cell + label + GAP)
        image.paste(Image.fromarray(picture).resize((cell, cell), Image.Resampling.NEAREST), (x, y))
        pen.text((x + cell / 2, y + cell + 2), _shortened(words, pen, font, cell), fill="black", font=font, anchor="mt")
    return image


def _shortened(words: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont, width: float) -> str:
    """The words, or as many letters as fit, with dots."""
    if pen.textlength(words, font) <= width:
        return words
    while words and pen.textlength(words + "...", font) > width:
        words = words[:-1]
    return words.rstrip() + "..."


def subjects() -> Labelled:
    """DreamBench's thirty stand-ins, each in a plain room and in a place."""
    out = []
    for name in DREAMBENCH:
        place = str(seeded("sheet", name).choice(list(PLACES)))
        out += [
            (name, render(subject(name), s, seeded("sheet", name, k)))
            for k, s in enumerate((Setting(), Setting(place)))
        ]
    return out


def places() -> Labelled:
    """Every place, with a pet and with an object; DreamBench uses the last ten only for objects."""
    return _each([Setting(place=p) for p in PLACES], ("dog6", "teapot"))


def outfits() -> Labelled:
    return _each([Setting(outfit=o) for o in OUTFITS], ("dog", "cat2"))


def finishes() -> Labelled:
    return _each(
        [Setting(finish=f) for f in FINISHES],
        ("dog3", "cat", "robot_toy", "fancy_boot", "clock", "can"),
        by_subject=True,
    )


def individuals() -> Labelled:
    """Six individuals of every class noun, as in pretraining: none is a subject of a sequence."""
    pairs = [(noun, k) for noun in VARIANTS for k in range(6)]
    return [(n, render(training_identity(n, k, SPLIT), Setting(), seeded("sheet", n, k))) for n, k in pairs]


def _each(settings: list[Setting], names: tuple[str, ...], by_subject: bool = False) -> Labelled:
    """Every setting with every subject, labelled with DreamBench's words."""
    pairs = [(s, n) for n in names for s in settings] if by_subject else [(s, n) for s in settings for n in names]
    return [
        (s.place or s.outfit or s.finish or "", render(subject(n), s, seeded("sheet", n, s.place, s.outfit, s.finish)))
        for s, n in pairs
    ]


SHEETS = {
    "subjects": (subjects, 10),
    "places": (places, 8),
    "outfits": (outfits, 10),
    "finishes": (finishes, 10),
    "individuals": (individuals, 12),
}


def write_sheets(folder: Path) -> list[Path]:
    """Write one PNG per sheet into `folder`; returns their paths."""
    prepare_folder(folder)
    paths = []
    for name, (pictures, columns) in SHEETS.items():
        paths.append(folder / f"{name}.png")
        save(sheet(pictures(), columns), paths[-1])
    return paths


def write_caption(text: str, target: Path, name: str | None = None, count: int = 8, seed: int = 0) -> None:
    """Render a caption `count` times into one PNG: of the subject with this name, or of individuals of the caption's class."""
    if target.suffix.lower() != ".png":
        raise UserError(f"{target}: a sheet must be a PNG file; use a name that ends in .png")
    prepare_folder(target.parent)
    setting = read_prompt(text)
    people = [subject_of(name)] * count if name else strangers(text, count, seed)
    pictures = [("", render(identity, setting, seeded("caption", seed, text, k))) for k, identity in enumerate(people)]
    save(sheet(pictures, min(count, 8), 2 * SCALE), target)


def subject_of(name: str) -> Identity:
    """The subject of this name. UserError, with near matches, for an unknown one."""
    if name not in SUBJECTS:
        raise did_you_mean(name, SUBJECTS, "subject", "`cpbench world` shows DreamBench's thirty with their names.")
    return subject(name)


def unread_in(text: str, name: str | None = None) -> list[str]:
    """The parts of a caption that `write_caption` does not show."""
    return unread(text, subject(name).noun if name else class_noun_in(text))


def class_noun_in(text: str) -> str:
    """The first class noun in a caption. UserError if it has none."""
    matches = [(m.start(), -len(n), n) for n in VARIANTS if (m := re.search(rf"\b{n}\b", text.lower()))]
    if not matches:
        raise UserError(
            f"{text!r} contains no class noun of the world, and there is no --subject; the class nouns are {', '.join(VARIANTS)}"
        )
    return min(matches)[2]


def strangers(text: str, count: int, seed: int) -> list[Identity]:
    """Individuals of the first class noun in the caption, none of them a subject. UserError if it has none."""
    noun = class_noun_in(text)
    return [training_identity(noun, 1000 * seed + k, SPLIT) for k in range(count)]


def save(image: Image.Image, target: Path) -> None:
    """Save as PNG, with every value rounded to a multiple of 4: a quarter smaller, with no visible difference."""
    buffer = io.BytesIO()
    image.point(lambda v: min(255, (v + 2) // 4 * 4)).save(buffer, format="PNG", optimize=True)
    write_atomically(target, buffer.getvalue())
