"""The test set of the model card: every noun in every place, outfit and finish, and individuals held out of training."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.backbones.sampling import generate as sample

from ..world import LIVE, NOUNS, SUBJECTS, Identity, Setting, render, seeded, subject, training_identity
from ..world.finishes import FINISHES
from ..world.outfits import OUTFITS
from ..world.places import PLACES

SPLIT = "validation"  # individuals of no other split
PEOPLE = 12  # of each class noun
GALLERY_PLACES = tuple(PLACES)[:10]
ASPECTS = {"class": NOUNS, "place": tuple(PLACES), "outfit": tuple(OUTFITS), "finish": tuple(FINISHES)}


@dataclass(frozen=True)
class Question:
    """One prompt, and what its picture should show."""

    noun: str
    setting: Setting

    @property
    def prompt(self) -> str:
        """In DreamBench's words."""
        if self.setting.finish:
            return FINISHES[self.setting.finish][0].format(self.noun)
        return f"a {self.noun} {self.setting.place or self.setting.outfit}"

    def label(self, aspect: str) -> int:
        """The index of its class, place, outfit or finish; -1 if it asks for none."""
        word = self.noun if aspect == "class" else getattr(self.setting, aspect)
        return ASPECTS[aspect].index(word) if word else -1


QUESTIONS = tuple(
    [Question(n, Setting(place=p)) for n, p in product(NOUNS, PLACES)]
    + [Question(n, Setting(outfit=o)) for n, o in product(LIVE, OUTFITS)]
    + [Question(n, Setting(finish=f)) for n, f in product(NOUNS, FINISHES)]
)


def labels(questions: tuple[Question, ...], aspect: str) -> np.ndarray:
    return np.array([q.label(aspect) for q in questions])


def answered_by_the_world(copies: int) -> tuple[tuple[Question, ...], np.ndarray]:
    """Every question rendered `copies` times, with individuals held out of training: (questions, pictures)."""
    questions = tuple(q for q in QUESTIONS for _ in range(copies))
    people = {noun: [training_identity(noun, k, SPLIT) for k in range(PEOPLE)] for noun in NOUNS}
    pictures = [
        render(people[q.noun][i % PEOPLE], q.setting, seeded("exam", q.prompt, i % copies))
        for i, q in enumerate(questions)
    ]
    return questions, np.stack(pictures)


def answered_by_the_model(
    backbone, copies: int, seed: int = 0, sampler: Sampler | None = None, stride: int = 1
) -> tuple[tuple[Question, ...], np.ndarray]:
    """Every question generated `copies` times by the untouched model: (questions, pictures).

    sampler: by default that of runs. stride: 4 takes one of four questions.
    """
    questions = tuple(q for q in QUESTIONS[::stride] for _ in range(copies))
    requests = [SampleRequest(q.prompt, seed, "exam", q.prompt, k % copies) for k, q in enumerate(questions)]
    return questions, sample(backbone, requests, sampler or Sampler(batch_size=48))


@dataclass(frozen=True)
class Gallery:
    """Pictures uint8 (n, 64, 64, 3) of held-out individuals; numbers by class noun, individual and place."""

    pictures: np.ndarray
    noun: np.ndarray
    individual: np.ndarray
    place: np.ndarray


def held_out() -> dict[str, Identity]:
    """All individuals held out of training: the subjects of all sequences, and PEOPLE more of each class noun."""
    crowd = {f"{n} {k}": training_identity(n, k, SPLIT) for n, k in product(NOUNS, range(PEOPLE))}
    return {name: subject(name) for name in SUBJECTS} | crowd


def gallery(people: dict[str, Identity], places: tuple[str, ...] = GALLERY_PLACES) -> Gallery:
    """One picture of each individual in each place."""
    rows = [
        (render(identity, Setting(place), seeded("portrait", name, place)), NOUNS.index(identity.noun), i, p)
        for i, (name, identity) in enumerate(people.items())
        for p, place in enumerate(places)
    ]
    pictures, *numbers = zip(*rows, strict=True)
    return Gallery(np.stack(pictures), *(np.array(n) for n in numbers))
