"""A concept's pictures: rendered by the miniature's world, or read from a folder of photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cpbench.concepts import photographs
from cpbench.concepts.picture_files import left_out
from cpbench.concepts.sequences import Concept, Sequence
from cpbench.errors import UserError, did_you_mean, quoted
from cpbench.miniature import is_miniature

if TYPE_CHECKING:
    from cpbench.miniature.world import Identity

DRAWINGS = 5  # training pictures of a rendered concept; DreamBooth's subjects have 4 to 6 photographs


def is_rendered(concept: Concept, backbone: str) -> bool:
    return concept.rendered and is_miniature(backbone)


def are_rendered(concepts: Iterable[Concept], backbone: str) -> bool:
    """Whether all of a run's concepts are rendered; with a single photographed one, the run counts as photographs."""
    return all(is_rendered(concept, backbone) for concept in concepts)


def load(concept: Concept, backbone: str, size: int, data: Path | str | None = None, fit: str = "crop") -> np.ndarray:
    """The concept's pictures, uint8 (n, size, size, 3). UserError if one is missing or broken.

    data, fit: where to look for photographs and how to make them square, see `photographs`; both are unused for rendered concepts.
    """
    if is_rendered(concept, backbone):
        pictures = rendered(concept.name)
        if size != (side := pictures.shape[1]):
            raise UserError(
                f"concept {concept.name}: is rendered {side} pixels wide, not {size}; leave out --resolution"
            )
        return pictures
    if concept.images is None:
        raise UserError(
            f"concept {concept.name}: has no folder of photographs, which backbone {backbone} needs; add `images: {{folder: ...}}` to the sequence"
        )
    return photographs.load(concept, size, data, fit)


def number(concept: Concept, backbone: str, data: Path | str | None = None) -> int:
    """The number of the concept's pictures, without reading them; 0 if they are not at hand."""
    if is_rendered(concept, backbone):
        return DRAWINGS
    if concept.images is None:
        return 0
    try:
        return len(photographs.files_of(photographs.folder_of(concept, data), concept.name))
    except UserError:
        return 0


def notes(
    concepts: Iterable[Concept], backbone: str, pictures: Mapping[str, np.ndarray], data: str | None
) -> list[str]:
    """What the user should know of the photographs: files left out, animations, blank pictures, copies.

    pictures: by concept, as `load` returns them. UserError for a concept whose pictures are all blank.
    """
    lines: list[str] = []
    named: dict[str, str] = {}  # by content the first picture with it
    for concept in concepts:
        if is_rendered(concept, backbone):
            continue
        name, folder = concept.name, photographs.folder_of(concept, data)
        files = photographs.files_of(folder, name)
        if parts := left_out(folder, name):
            lines.append(f"{name}: left out: {parts}")
        lines += [f"{name}: {file.name} is animated; its first frame is used" for file in photographs.animated(files)]
        blank = [file.name for file, picture in zip(files, pictures[name], strict=True) if is_blank(picture)]
        if len(blank) == len(files):
            raise UserError(f"concept {name}: every picture in {folder} is of a single colour; replace them")
        lines += [f"{name}: {file} is of a single colour; replace or remove it" for file in blank]
        for file, picture in zip(files, pictures[name], strict=True):
            place = named.setdefault(content_hash(picture), f"{name}/{file.name}")
            if place != f"{name}/{file.name}" and file.name not in blank:
                lines.append(f"{name}: {file.name} is the same picture as {place}; keep one of them")
    return lines


def unread_prompts(sequence: Sequence, backbone: str) -> list[str]:
    """A line about the parts of rendered concepts' evaluation prompts that the drawn world does not show; none if it shows all."""
    types = dict.fromkeys(c.subject_type for c in sequence.concepts if is_rendered(c, backbone))
    if not types:
        return []
    from cpbench.miniature.world import unread

    templates = dict.fromkeys(t for subject_type in types for t in sequence.evaluation.prompts[subject_type])
    parts = dict.fromkeys(part for template in templates for part in unread(template))
    words = ", ".join(map(quoted, parts))
    return (
        [f"prompts ask for {words}, which the drawn world does not know: its oracle leaves that out"] if parts else []
    )


def is_blank(picture: np.ndarray) -> bool:
    """Whether all pixels of a picture (h, w, 3) have the same colour."""
    return bool((picture == picture[0, 0]).all())


def guarded(concept: Concept, backbone: str, data: Path | str | None = None) -> list[Path]:
    """The folders and files that hold the concept's pictures: they must not be opened while another concept is learned."""
    if concept.images is None:
        return []
    if is_rendered(concept, backbone):
        return [Path(concept.images)]
    return photographs.guarded(concept, data)


def rendered(name: str) -> np.ndarray:
    """The pictures of a drawn stand-in, uint8 (5, 64, 64, 3). UserError if the world has no subject of this name."""
    from cpbench.miniature.world import SUBJECTS, subject

    if name not in SUBJECTS:
        raise did_you_mean(name, sorted(SUBJECTS), "subject", "Those are all the subjects of the drawn world.")
    return drawings(subject(name), name)


def training_places(name: str) -> list[str]:
    """The places of an individual's training pictures."""
    from cpbench.miniature.world import seeded
    from cpbench.miniature.world.places import PLACES

    return [str(place) for place in seeded("reference places", name).choice(list(PLACES), DRAWINGS - 2, replace=False)]


def drawings(identity: Identity, name: str) -> np.ndarray:
    """Five pictures of an individual: two in plain rooms, three in places, each with pose and light seeded by the name."""
    from cpbench.miniature.world import Setting, render, seeded

    settings = [Setting(), *map(Setting, training_places(name)), Setting()]
    return np.stack([render(identity, s, seeded("reference", name, k)) for k, s in enumerate(settings)])


def oracle(name: str, template: str, seed: int, index: int) -> np.ndarray:
    """The world's own rendering of (concept, prompt), uint8 (64, 64, 3): what a perfect model would generate."""
    from cpbench.miniature.world import read_prompt, render, seeded, subject

    return render(subject(name), read_prompt(template), seeded("oracle", seed, name, template, index))


def __getattr__(name: str) -> Any:
    if name == "drawn":  # what cpbench 0.1 called it, in docs/adding-a-method.md too
        from cpbench.moved import warn_once

        warn_once("cpbench.concepts.images.drawn", "cpbench.concepts.images.rendered")
        return rendered
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def content_hash(images: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(images).tobytes()).hexdigest()
