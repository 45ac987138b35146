"""The subjects of the benchmark: stand-ins for DreamBench's thirty, the validation subjects, and the long run's fifty.

A stand-in has the memorable features of the photographs; the rest is sampled with its name as the seed. A colour is a
name, for captions, and a shade. No individual in pretraining is, or looks like, one of these.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np

from .identity import NEAR, Identity, distance, sample_identity, seeded

Spec = dict[str, object]

DREAMBENCH: dict[str, Spec] = {
    "backpack": {
        "noun": "backpack", "variant": "daypack", "main": "red #b01c42", "second": "red #9c1838", "accent": "red #7c1430",
        "trim": "yellow #e8c040", "pattern": "plain", "badge": "none", "pocket": "main", "zip": "gold", "patch": "two",
        "base": "none", "side": "none", "wide": 0.4, "tall": 0.9, "round": 0.5, "pocket_height": 0.7,
    },
    "backpack_dog": {
        "noun": "backpack", "variant": "face", "main": "gray #b4b2ac", "second": "gray #8e8880", "accent": "blue #2c62b4",
        "trim": "blue #2456b0", "pattern": "plain", "ears": "folded", "muzzle": "second", "mouth": "tongue",
        "cheeks": "none", "eye": "dots", "eyes": 0.2, "nose": 0.9,
    },
    "bear_plushie": {
        "noun": "stuffed animal", "variant": "sitting", "main": "brown #97482f", "second": "white #efe6da", "accent": "blue #7fc4ea",
        "trim": "white #f0e8dc", "pattern": "plain", "badge": "none", "ears": "round", "face": "muzzle", "coat": "curly",
        "headwear": "bow", "neckwear": "none", "soles": "light", "tummy": "none", "arms": 0.3, "ear": 0.6,
    },
    "berry_bowl": {
        "noun": "bowl", "main": "white #f4f1ea", "second": "gray #6b6b70", "accent": "brown #b98a4e", "trim": "brown #b98a4e",
        "pattern": "grid", "badge": "none", "words": "script", "side": "straight", "food": "blueberries", "foot": "none", "rim": "none",
        "wide": 0.4, "deep": 0.9, "heap": 0.4,
    },
    "can": {
        "noun": "can", "main": "blue #55b4e6", "second": "white #e8eef0", "accent": "green #2c4234", "trim": "yellow #d8d060",
        "pattern": "plain", "art": "whale", "words": "both", "lid": "silver", "panel": "none", "wide": 0.5, "tall": 0.8,
        "print": 0.8,
    },
    "candle": {
        "noun": "candle", "variant": "jar", "main": "white #f2f0e8", "second": "white #e2ddd0", "accent": "brown #a3612c",
        "trim": "brown #b47a44", "pattern": "plain", "badge": "none", "top": "wood", "glass": "frosted", "knob": "knob",
        "label": "none", "wide": 0.7, "tall": 0.1, "lid": 0.9, "wax": 0.3,
    },
    "cat": {
        "noun": "cat", "main": "orange #cf8d4e", "second": "orange #97551f", "accent": "red #b03030", "trim": "white #f0e8dc",
        "pattern": "tabby", "ears": "tall", "coat": "short", "tail": "hook", "neckwear": "none", "iris": "copper",
        "nose": "pink", "bib": "white", "girth": 0.3, "ear": 0.7, "eyes": 0.3,
    },
    "cat2": {
        "noun": "cat", "main": "gray #676c78", "second": "gray #565b68", "accent": "blue #3a5a80", "trim": "gray #80858f",
        "pattern": "plain", "ears": "wide", "coat": "short", "tail": "up", "neckwear": "none", "iris": "yellow",
        "nose": "dark", "bib": "none", "girth": 0.15, "ear": 0.9, "eyes": 0.9, "face": 0.1,
    },
    "clock": {
        "noun": "clock", "variant": "alarm", "main": "yellow #f6c410", "second": "yellow #e0a808", "accent": "yellow #eab508",
        "trim": "gray #6c6c70", "pattern": "plain", "bells": "two", "bell_color": "main", "feet": "pegs",
        "handle": "arch", "dial": "white", "marks": "figure", "hands": "dark", "figure": 0.99, "bells_size": 0.9,
        "rim": 0.7,
    },
    "colorful_sneaker": {
        "noun": "sneaker", "main": "white #efe6d0", "second": "white #f4f0e6", "accent": "purple #c3a0d6", "trim": "teal #7fd0c0",
        "pattern": "plain", "badge": "none", "cut": "low", "sole": "wave", "sole_color": "white", "mark": "stripes",
        "toe": "bumper", "heel": "panel", "heel_color": "blue", "laces": "white", "thick": 0.7,
    },
    "dog": {
        "noun": "dog", "main": "orange #cf8434", "second": "white #f6f0e8", "accent": "red #c04040", "trim": "white #ffffff",
        "pattern": "bib", "ears": "pointed", "coat": "shaggy", "ruff": "none", "tail": "plume", "neckwear": "none",
        "iris": "dark", "nose": "black", "head": 0.9, "girth": 0.8, "ear": 0.3, "muzzle": 0.7, "eyes": 0.4, "spots": 0.9,
    },
    "dog2": {
        "noun": "dog", "main": "orange #c46a20", "second": "brown #6a3416", "accent": "brown #8a4a20", "trim": "brown #a05a28",
        "pattern": "mask", "ears": "round", "coat": "shaggy", "ruff": "mane", "tail": "curled", "neckwear": "none",
        "iris": "dark", "nose": "black", "head": 0.6, "girth": 1.0, "ear": 0.3, "muzzle": 0.9,
    },
    "dog3": {
        "noun": "dog", "main": "white #f0ebe2", "second": "white #f6f2ea", "accent": "blue #4060a0", "trim": "red #b03030",
        "pattern": "plain", "ears": "hanging", "coat": "curly", "ruff": "none", "tail": "curled", "neckwear": "tag",
        "iris": "dark", "nose": "black", "head": 0.7, "girth": 0.3, "ear": 0.2,
    },
    "dog5": {
        "noun": "dog", "main": "orange #b8672c", "second": "brown #74361a", "accent": "brown #60301c", "trim": "brown #8a5030",
        "pattern": "points", "ears": "long", "coat": "shaggy", "ruff": "none", "tail": "thin", "neckwear": "none",
        "iris": "dark", "nose": "black", "head": 0.3, "girth": 0.1, "ear": 0.7, "muzzle": 0.2,
    },
    "dog6": {
        "noun": "dog", "main": "yellow #cda36a", "second": "white #f6efe2", "accent": "orange #e07020", "trim": "white #ffffff",
        "pattern": "bib", "ears": "bat", "coat": "short", "ruff": "none", "tail": "stub", "neckwear": "none",
        "iris": "dark", "nose": "black", "head": 0.1, "girth": 0.0, "ear": 0.9, "muzzle": 0.1, "eyes": 1.0, "spots": 0.1,
    },
    "dog7": {
        "noun": "dog", "main": "brown #99542a", "second": "brown #b87444", "accent": "brown #5a3018", "trim": "white #e8e0d4",
        "pattern": "plain", "ears": "button", "coat": "shaggy", "ruff": "none", "tail": "plume", "neckwear": "none",
        "iris": "amber", "nose": "brown", "head": 0.7, "girth": 0.6, "ear": 0.9, "muzzle": 0.6,
    },
    "dog8": {
        "noun": "dog", "main": "gray #a3a5ab", "second": "black #34343a", "accent": "pink #d87890", "trim": "white #f4f4f4",
        "pattern": "merle", "ears": "pointed", "coat": "shaggy", "ruff": "none", "tail": "plume", "neckwear": "none",
        "iris": "amber", "nose": "black", "head": 0.4, "girth": 0.5, "ear": 0.2, "spots": 0.3,
    },
    "duck_toy": {
        "noun": "toy", "variant": "duck", "main": "yellow #f5cd1c", "second": "yellow #e8b810", "accent": "orange #ee6a1c",
        "trim": "orange #e08020", "pattern": "plain", "badge": "none", "headwear": "none", "neckwear": "none",
        "wing": "main", "shades": "none", "bill": 0.5, "head": 0.8,
    },
    "fancy_boot": {
        "noun": "boot", "main": "white #e6dac4", "second": "white #d8c8ac", "accent": "brown #b49a78", "trim": "brown #7c4a2c",
        "pattern": "plain", "badge": "none", "height": "tall", "toe": "pointed", "heel": "block", "trim_on": "fringe",
        "top": "straight", "wide": 0.7, "foot": 0.1, "shaft": 1.0,
    },
    "grey_sloth_plushie": {
        "noun": "stuffed animal", "variant": "sitting", "main": "brown #937468", "second": "white #f2ece4", "accent": "brown #5c4038",
        "trim": "brown #80645a", "pattern": "plain", "badge": "none", "ears": "none", "face": "badger", "coat": "shaggy",
        "headwear": "none", "neckwear": "none", "soles": "main", "tummy": "none", "arms": 1.0, "head": 0.5, "belly": 0.3, "feet": 0.1,
    },
    "monster_toy": {
        "noun": "toy", "variant": "monster", "main": "red #c4161e", "second": "yellow #e9bc2c", "accent": "red #a01018",
        "trim": "white #f0f0ec", "pattern": "plain", "eyes": "stalks", "mouth": "teeth", "coat": "curly", "belly": "second",
        "limbs": "plain", "horns": "none", "wide": 0.6, "tall": 0.4,
    },
    "pink_sunglasses": {
        "noun": "glasses", "main": "pink #d8a088", "second": "pink #c06878", "accent": "yellow #c8a060", "trim": "pink #f0b0b0",
        "badge": "none", "lens": "butterfly", "tint": "dusk", "frame": "thin", "bridge": "arch", "temples": "main",
        "wide": 0.9, "tall": 0.6,
    },
    "poop_emoji": {
        "noun": "toy", "variant": "swirl", "main": "brown #7c5044", "second": "brown #6a4238", "accent": "white #ffffff",
        "trim": "brown #5a382e", "pattern": "plain", "tiers": "three", "mouth": "grin", "topper": "none", "cheeks": "none",
        "sprinkles": "none", "eyes": 0.8,
    },
    "rc_car": {
        "noun": "toy", "variant": "car", "main": "red #cc2c20", "second": "yellow #f2b418", "accent": "green #a8cc28",
        "trim": "blue #2c5ca0", "pattern": "upper", "badge": "ring", "body": "buggy", "rider": "helmet", "roof": "antenna",
        "bumper": "accent", "wheels": 0.8, "high": 0.8, "cabin": 0.5,
    },
    "red_cartoon": {
        "noun": "cartoon", "main": "red #e0101c", "second": "red #e0101c", "accent": "red #b80c14", "trim": "red #e0101c",
        "pattern": "plain", "badge": "none", "body": "pill", "top": "ears", "eyes": "dots", "mouth": "line", "hands": "round",
        "belly": "none", "look": 0.1, "gap": 0.5,
    },
    "robot_toy": {
        "noun": "toy", "variant": "robot", "main": "white #eceef0", "second": "black #2a2c32", "accent": "blue #2450c0",
        "trim": "gray #a0a4aa", "pattern": "plain", "badge": "ring", "head": "helmet", "look": "visor", "base": "wheels",
        "hands": "claws", "top": "none", "wide": 0.5,
    },
    "shiny_sneaker": {
        "noun": "sneaker", "main": "blue #a4c8f0", "second": "pink #eab4dc", "accent": "white #f4f4f6", "trim": "purple #b8a8ec",
        "pattern": "sheen", "badge": "none", "cut": "low", "sole": "chunky", "sole_color": "white", "mark": "band",
        "toe": "none", "heel": "tab", "heel_color": "accent", "laces": "white", "thick": 0.9,
    },
    "teapot": {
        "noun": "teapot", "main": "brown #583430", "second": "brown #7a4c3a", "accent": "brown #643c34", "trim": "brown #6e443a",
        "pattern": "plain", "badge": "none", "belly": "round", "spout": "cone", "handle": "ear", "knob": "ball",
        "under": "saucer", "trim_color": "main", "wide": 0.9, "tall": 0.1, "pour": 0.2,
    },
    "vase": {
        "noun": "vase", "main": "red #9a1e22", "second": "black #2c1416", "accent": "brown #4a2420", "trim": "yellow #d8a83c",
        "pattern": "marbled", "badge": "none", "outline": "slim", "holds": "twigs", "handles": "none", "facets": "facets",
        "lip": "accent", "wide": 0.6, "tall": 1.0,
    },
    "wolf_plushie": {
        "noun": "stuffed animal", "variant": "lying", "main": "gray #8f9298", "second": "white #f0eeea", "accent": "red #c82028",
        "trim": "white #f0eeea", "pattern": "plain", "badge": "none", "ears": "pointed", "face": "mask", "coat": "shaggy",
        "headwear": "none", "neckwear": "ribbon", "tail": "bushy", "lift": 0.9, "ear": 0.2,
    },
}  # fmt: skip

# For tuning, in no benchmark sequence: looks depend only on the seed.
VALIDATION: dict[str, Spec] = {
    "val_dog": {"noun": "dog"},
    "val_backpack": {"noun": "backpack"},
    "val_cat": {"noun": "cat"},
    "val_sneaker": {"noun": "sneaker"},
    "val_dog2": {"noun": "dog"},
    "val_vase": {"noun": "vase"},
}

# The long run: fifty more, DreamBench's class nouns in turn; looks depend only on the seed.
LONG_NOUNS = (
    "dog", "backpack", "teapot", "stuffed animal", "sneaker", "cat", "toy", "vase", "clock", "boot", "bowl", "cartoon",
    "candle", "glasses", "can",
)  # fmt: skip
LONG: dict[str, Spec] = {
    f"{noun.replace(' ', '_')}_m{turn}": {"noun": noun}
    for noun, turn in ((LONG_NOUNS[k % len(LONG_NOUNS)], k // len(LONG_NOUNS) + 1) for k in range(50))
}
SUBJECTS: dict[str, Spec] = DREAMBENCH | VALIDATION | LONG


def subject(name: str) -> Identity:
    """The subject with this name. KeyError if the world has none."""
    sys.audit("cpbench.subject", name)  # cpbench.running.audit listens while a method learns
    return _stand_in(name)


@cache
def _stand_in(name: str) -> Identity:
    spec = SUBJECTS[name]
    if name in DREAMBENCH:
        return sample_identity(str(spec["noun"]), seeded("subject", name), spec)
    earlier = []  # subjects of the same class before this one, which must look like none of them
    for other, other_spec in SUBJECTS.items():
        if other == name:
            break
        if other_spec["noun"] == spec["noun"]:
            earlier.append(_stand_in(other))
    return _unlike(str(spec["noun"]), seeded("subject", name), earlier)


def _unlike(noun: str, rng: np.random.Generator, crowd: list[Identity]) -> Identity:
    """An individual that looks like none of `crowd`: sampled until that holds."""
    while True:
        identity = sample_identity(noun, rng)
        if all(distance(identity, other) > NEAR for other in crowd):
            return identity


def training_identity(noun: str, index: int, split: str = "pretraining") -> Identity:
    """Individual number `index` of a split, which never is, or looks like, a subject of a sequence."""
    held_out = [subject(name) for name, spec in SUBJECTS.items() if spec["noun"] == noun]
    return _unlike(noun, seeded(split, noun, index), held_out)
