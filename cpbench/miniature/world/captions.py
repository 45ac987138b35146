"""Captions of pictures, and the settings that prompts ask for.

A caption names the class, the place, the outfit, the finish and at most the main colour, never what makes the
individual. Every place, outfit and finish has several wordings, DreamBench's own first and most often.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain

import numpy as np

from .canvas import COLORS
from .finishes import FINISHES
from .identity import VARIANTS, Identity
from .outfits import OUTFITS
from .places import PLACES

ADJECTIVES = ("rare", "nice", "new", "old", "big", "little", "cute", "lovely")  # in captions, never in pictures
STARTS = ("{}", "a photo of {}", "a picture of {}", "a drawing of {}", "a painting of {}", "an image of {}")
START_ODDS = (0.36, 0.36, 0.09, 0.09, 0.05, 0.05)


@dataclass(frozen=True)
class Setting:
    """Everything a prompt says about a picture besides its subject; each is a phrase of DreamBench's prompts, or None."""

    place: str | None = None
    outfit: str | None = None
    finish: str | None = None


def read_prompt(prompt: str) -> Setting:
    """The setting in a caption, in any of the world's wordings, at any position."""
    text = prompt.lower()
    place, text = _find(text, {name: p.words for name, p in PLACES.items()})
    outfit, text = _find(text, {name: o.words for name, o in OUTFITS.items()})
    finish = next((f for f in FINISHES if re.search(rf"\b{f.split()[0]}\b", text)), None)  # "red", not "tired"
    return Setting(place, outfit, finish)


def unread(prompt: str, noun: str = "") -> list[str]:
    """The parts of a prompt that no picture of the world shows, in lower case: ["on the moon"] of "a dog on the moon".

    Shown are the class noun, one place, one outfit and one finish, each in any of its wordings. ADJECTIVES are not.
    """
    setting, text = read_prompt(prompt), prompt.lower()
    for start in sorted(STARTS, key=len, reverse=True):
        if text.strip().startswith(opening := start.removesuffix("{}")):
            text = text.strip().removeprefix(opening)
            break
    wordings = [
        PLACES[setting.place].words if setting.place else (),
        OUTFITS[setting.outfit].words if setting.outfit else (),
        # "shiny and bright" of "a shiny and bright {}"; in other words only the finish itself
        [w.removeprefix("a ").replace("{}", "").strip() for w in FINISHES.get(setting.finish or "", ())],
        (setting.finish.split()[0],) if setting.finish else (),
        (noun,) if noun else (),
    ]
    for words in wordings:
        matches = [m for w in words if (m := re.search(rf"\b{re.escape(w.lower())}\b", text))]
        if matches:
            longest = max(matches, key=lambda m: len(m[0]))
            text = f"{text[: longest.start()]}|{text[longest.end() :]}"
    parts = (re.findall(r"[\w'’-]+", part) for part in text.split("|"))
    return [" ".join(words) for words in map(_without_articles, parts) if words]


def _without_articles(words: list[str]) -> list[str]:
    """The words without articles and conjunctions at the beginning and the end."""
    small = ("a", "an", "the", "and")
    while words and words[0] in small:
        words = words[1:]
    while words and words[-1] in small:
        words = words[:-1]
    return words


def _find(text: str, wordings: dict[str, tuple[str, ...]]) -> tuple[str | None, str]:
    """The name with the longest wording in the text, and the text without that wording."""
    matches = [(len(w), name, w.lower()) for name, words in wordings.items() for w in words if w.lower() in text]
    if not matches:
        return None, text
    _, name, words = max(matches)
    return name, text.replace(words, " ")


def random_setting(noun: str, rng: np.random.Generator, live: bool) -> Setting:
    """A setting as in pretraining: mostly a place, often nothing else, sometimes an outfit or a finish.

    DreamBench asks for outfits and its first ten places with live subjects, and for all twenty places with objects.
    """
    names = list(PLACES)[:10] if live and rng.random() < 0.5 else list(PLACES)
    place = names[rng.integers(len(names))] if rng.random() < 0.8 else None
    outfit = finish = None
    if live and rng.random() < 0.4:
        outfit = list(OUTFITS)[rng.integers(len(OUTFITS))]
    elif rng.random() < 0.28:
        finish = list(FINISHES)[rng.integers(len(FINISHES))]
    if (outfit or finish) and rng.random() < 0.5:
        place = None
    return Setting(place, outfit, finish)


def _wording(words: tuple[str, ...], rng: np.random.Generator) -> str:
    """DreamBench's own words half of the time, else another wording."""
    return words[0] if rng.random() < 0.5 else words[1 + rng.integers(len(words) - 1)]


def caption(identity: Identity, setting: Setting, rng: np.random.Generator) -> str:
    """A caption of a picture: class, place, outfit, finish and sometimes the main colour, but never the identity."""
    thing = identity.noun if setting.finish or rng.random() < 0.5 else f"{identity.main_name} {identity.noun}"
    thing = (_wording(FINISHES[setting.finish], rng) if setting.finish else "a {}").format(thing)
    if rng.random() < 0.2:
        thing = f"a {ADJECTIVES[rng.integers(len(ADJECTIVES))]} {thing.removeprefix('a ')}"
    if rng.random() < 0.1:
        thing = f"the {thing.removeprefix('a ')}"
    parts = [STARTS[rng.choice(len(STARTS), p=START_ODDS)].format(thing)]
    if setting.outfit:
        parts.append(_wording(OUTFITS[setting.outfit].words, rng))
    if setting.place:
        parts.append(_wording(PLACES[setting.place].words, rng))
    return re.sub(r"\ba (?=[aeiou])", "an ", " ".join(parts))


def vocabulary() -> set[str]:
    """Every word that a caption can hold."""
    phrases = chain(
        *(p.words for p in PLACES.values()), *(o.words for o in OUTFITS.values()), *FINISHES.values(),
        VARIANTS, COLORS, ADJECTIVES, STARTS, ("a an the",),
    )  # fmt: skip
    return {w for phrase in phrases for w in re.findall(r"[a-z]+", phrase.lower())}
