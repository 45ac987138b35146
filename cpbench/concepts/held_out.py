"""Pictures that identity is scored against and that no method has learned from.

Scores against the training pictures overestimate identity: a method that copies them wins. Of a drawn stand-in the world draws
further pictures, most of them in other places than the training pictures'. Of photographs the last ones in the files' order are kept from
learning, if the user asks for it (`evaluation.held_out`): there are few of them, and every one held out is missing from learning.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cpbench.concepts import images, photographs
from cpbench.concepts.sequences import Concept
from cpbench.errors import UserError

FURTHER_DRAWINGS = 8  # of a drawn stand-in, by default
FEWEST_TO_LEARN = 3  # photographs
MOST_NAMED = 12  # concepts in a line

Pictures = dict[str, np.ndarray]  # by concept, uint8 (n, size, size, 3)


def number(concept: Concept, backbone: str, held_out: int | None) -> int:
    """How many references of a concept are no training pictures; held_out: `evaluation.held_out`, None: the default."""
    if held_out is None:
        return FURTHER_DRAWINGS if images.is_rendered(concept, backbone) else 0
    return held_out


def number_to_learn(concept: Concept, backbone: str, held_out: int | None, data: Path | str | None = None) -> int:
    """How many pictures of a concept are learned from, without reading them; 0 if they are not at hand."""
    pictures = images.number(concept, backbone, data)
    return pictures if images.is_rendered(concept, backbone) else max(0, pictures - number(concept, backbone, held_out))


def load(
    concepts: Iterable[Concept],
    backbone: str,
    size: int,
    held_out: int | None,
    data: Path | str | None = None,
    fit: str = "crop",
) -> tuple[Pictures, Pictures]:
    """(training pictures, references) of the concepts; both are the same where none is held out. Arguments as in `images.load`.

    UserError if a picture is missing or broken, or if a concept has too few photographs.
    """
    concepts = list(concepts)
    pictures = {c.name: images.load(c, backbone, size, data, fit) for c in concepts}
    held = {c.name: number(c, backbone, held_out) for c in concepts}
    refuse_too_few({c.name: len(pictures[c.name]) for c in concepts if not images.is_rendered(c, backbone)}, held)
    training, references = dict(pictures), dict(pictures)
    for concept in concepts:
        name, n = concept.name, held[concept.name]
        if n and images.is_rendered(concept, backbone):
            references[name] = further_drawings(name, n)
        elif n:
            # copies: a view of the array would lead a method from the one to the other
            training[name], references[name] = pictures[name][:-n].copy(), pictures[name][-n:].copy()
    return training, references


def files(concept: Concept, backbone: str, held_out: int | None, data: Path | str | None = None) -> list[Path]:
    """The files of a photographed concept that are kept from learning."""
    n = number(concept, backbone, held_out)
    if not n or images.is_rendered(concept, backbone):
        return []
    return photographs.files_of(photographs.folder_of(concept, data), concept.name)[-n:]


def refuse_too_few(photographs: dict[str, int], held: dict[str, int]) -> None:
    """UserError, with the concepts that remain, if a concept has fewer than FEWEST_TO_LEARN photographs left to learn from."""
    too_few = [name for name, n in photographs.items() if held[name] and n < held[name] + FEWEST_TO_LEARN]
    if not too_few:
        return
    n = held[too_few[0]]
    remaining = [name for name in photographs if name not in too_few]
    advice = f"use a sequence of the others ({_listed(remaining)})" if remaining else "hold out fewer"
    counts = _listed([f"{name} has {photographs[name]}" for name in too_few])
    raise UserError(
        f"evaluation.held_out={n}: needs {n + FEWEST_TO_LEARN} photographs of each concept, and {counts}; {advice}"
    )


def _listed(names: list[str]) -> str:
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])


def further_drawings(name: str, n: int) -> np.ndarray:
    """n pictures of a drawn stand-in beside its training pictures, uint8 (n, 64, 64, 3): a third in plain rooms, the others in places
    that the training pictures do not have.

    Pose and light are seeded as the training pictures' are, by the name and a number that goes on from theirs.
    """
    from cpbench.miniature.world import Setting, render, seeded, subject
    from cpbench.miniature.world.places import PLACES

    trained = images.training_places(name)
    choices = [place for place in PLACES if place not in trained]
    in_places = n - n // 3
    places = seeded("held-out places", name).choice(choices, in_places, replace=in_places > len(choices))
    settings = [Setting()] * (n // 3) + [Setting(str(place)) for place in places]
    sys.audit("cpbench.references", name)  # no method may ask for them while it learns
    identity = subject(name)
    return np.stack(
        [
            render(identity, setting, seeded("reference", name, k))
            for k, setting in enumerate(settings, start=images.DRAWINGS)
        ]
    )
