"""Identities: what distinguishes one dog from another. Geometry, colours, pattern, badge and parts, sampled from a seeded space.

A class noun has one or more variants: every dog is drawn by one function, but a toy is a robot, a duck or a car. Each
variant lists the attributes that its function reads (see `variant` below); an identity has a value for each of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .canvas import COLORS, RGB, jitter, mix

if TYPE_CHECKING:
    import skia

    from .pose import Frame, Pose

NEAR = 0.4  # individuals closer than this look alike: see `distance`
CLEAR = 0.3  # colours that differ by more than this in a channel are clearly different

BADGES = ("none", "star", "heart", "ring", "bolt", "flower", "cross", "moon", "letter")
PATTERNS = ("plain", "bands", "stripes", "dots", "halves", "upper", "checks", "zigzag", "fade", "hoop", "marbled")

# Natural colours of fur. What stands before a slash is the name that captions use.
FUR: dict[str, RGB] = {
    "brown": (0.50, 0.31, 0.19),
    "brown/chocolate": (0.35, 0.22, 0.17),
    "brown/taupe": (0.60, 0.48, 0.42),
    "orange": (0.86, 0.54, 0.25),
    "orange/russet": (0.72, 0.36, 0.16),
    "yellow": (0.90, 0.76, 0.50),
    "white": (0.94, 0.92, 0.88),
    "gray": (0.52, 0.54, 0.58),
    "gray/silver": (0.72, 0.73, 0.75),
    "black": (0.17, 0.16, 0.18),
}


@dataclass(frozen=True)
class Identity:
    """One individual of a class noun.

    main_name: the word for the main colour; main, second, accent, trim: its colours; pattern and badge: names of
    as drawn by `surfaces`; parts: its variant's discrete attributes; sizes: its continuous ones, each in [0, 1].
    """

    noun: str
    variant: str
    main_name: str
    main: RGB
    second: RGB
    accent: RGB
    trim: RGB
    pattern: str
    badge: str
    parts: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[str, float], ...]

    def __getitem__(self, part: str) -> str:
        """The value of a discrete attribute of its variant."""
        for name, value in self.parts:
            if name == part:
                return value
        raise KeyError(f"{self.noun}/{self.variant} has no part {part!r}")

    def size(self, name: str, low: float = 0.0, high: float = 1.0) -> float:
        """The value of a continuous attribute of its variant, from `low` to `high`."""
        for key, value in self.sizes:
            if key == name:
                return low + (high - low) * value
        raise KeyError(f"{self.noun}/{self.variant} has no size {name!r}")

    def scatter(self, n: int) -> list[tuple[float, float, float]]:
        """`n` triples in [0, 1], evenly spread and always the same for this individual: the positions of its spots."""
        start = sum((k + 1) * value for k, (_, value) in enumerate(self.sizes)) * 7.31
        return [
            ((start + 0.754878 * k) % 1, (3.7 * start + 0.569840 * k) % 1, (9.1 * start + 0.618034 * k) % 1)
            for k in range(n)
        ]


Painter = Callable[["skia.Canvas", Identity, "Pose"], "Frame | None"]


@dataclass(frozen=True)
class Variant:
    """A variant of a class noun: the function that draws it, and the attributes in which individuals differ."""

    noun: str
    name: str
    render: Painter
    live: bool
    palette: Mapping[str, RGB]
    patterns: tuple[str, ...]
    badges: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    sizes: tuple[str, ...]
    scale: float  # enlarges the drawing, so that wide and narrow things fill the picture equally

    def looks(self) -> int:
        """The number of individuals that differ in a discrete attribute or in one of three colours, without sizes and shades."""
        both, vivid = self.palette.values(), COLORS.values()
        colors = sum(_far(p, q) > CLEAR < min(_far(p, r), _far(q, r)) for p in both for q in both for r in vivid)
        return colors * math.prod(len(set(c)) for c in (self.patterns, self.badges, *self.parts.values()))


VARIANTS: dict[str, dict[str, Variant]] = {}  # by class noun, then by name


def variant(
    noun: str,
    name: str = "",
    *,
    live: bool = False,
    palette: Mapping[str, RGB] = COLORS,
    patterns: tuple[str, ...] = PATTERNS,
    badges: tuple[str, ...] = BADGES,
    sizes: tuple[str, ...] = (),
    scale: float = 1.0,
    **parts: tuple[str, ...],
) -> Callable[[Painter], Painter]:
    """Register a drawing function as a variant of the class `noun`. parts: its discrete attributes and their values."""

    def add(render: Painter) -> Painter:
        entry = Variant(noun, name or noun, render, live, palette, patterns, badges, parts, sizes, scale)
        VARIANTS.setdefault(noun, {})[entry.name] = entry
        return render

    return add


def seeded(*words: object) -> np.random.Generator:
    """A generator that depends only on these words, the same on every machine."""
    digest = hashlib.sha256("/".join(str(w) for w in words).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def _far(a: RGB, b: RGB) -> float:
    """The largest difference between two colours in a channel."""
    return max(abs(p - q) for p, q in zip(a, b, strict=True))


def _shade_of(words: str, palette: Mapping[str, RGB]) -> tuple[str, RGB]:
    """The name and the colour of "orange" or, with a shade of its own, "orange #d98a3d"."""
    name, _, code = words.partition(" #")
    if code:
        return name, tuple(int(code[k : k + 2], 16) / 255 for k in (0, 2, 4))  # type: ignore[return-value]
    return name, palette[name]


def _colors(variant: Variant, rng: np.random.Generator, fixed: Mapping[str, str]) -> tuple[str, list[RGB]]:
    """The main colour's name and the four colours: main and second from the variant's palette, two vivid ones.

    Each differs clearly from the previous ones, unless it is fixed.
    """
    softness = (0.0, 0.0, 0.25, -0.18)[rng.integers(4)] if variant.palette is COLORS else 0.0
    main_name, colors = "", []
    for role in ("main", "second", "accent", "trim"):
        palette = variant.palette if role in ("main", "second") else COLORS
        names = [n for n, c in palette.items() if all(_far(c, other) > CLEAR for other in colors)] or list(palette)
        name = names[rng.integers(len(names))]
        color = jitter(palette[name], rng, 0.06)
        if softness > 0 and name != "black":  # pastel
            color = mix(color, (1.0, 0.98, 0.95), softness)
        elif softness < 0 and name not in ("white", "yellow"):  # deep: yellow would turn brown
            color = mix(color, (0.0, 0.0, 0.05), -softness)
        if role in fixed:
            name, color = _shade_of(fixed[role], palette)
        main_name = main_name or name.split("/")[0]
        colors.append(tuple(float(v) for v in color))  # type: ignore[arg-type]
    return main_name, colors


def sample_identity(noun: str, rng: np.random.Generator, fixed: Mapping[str, object] | None = None) -> Identity:
    """An individual of the class `noun`.

    `fixed` overrides attributes by name: "variant", the colours, "pattern", "badge", and the variant's parts and sizes.
    """
    fixed = dict(fixed or {})
    variants = VARIANTS[noun]
    variant = variants[str(fixed.pop("variant", list(variants)[rng.integers(len(variants))]))]
    fixed.pop("noun", None)
    main_name, (main, second, accent, trim) = _colors(variant, rng, fixed)

    def choice(name: str, among: tuple[str, ...]) -> str:
        random_choice = among[rng.integers(len(among))]
        value = fixed.get(name, random_choice)
        if value not in among:
            raise ValueError(f"{noun}/{variant.name}: {name} is one of {among}, not {value!r}")
        return str(value)

    attributes = {"main", "second", "accent", "trim", "pattern", "badge", *variant.parts, *variant.sizes}
    if unknown := set(fixed) - attributes:
        raise ValueError(f"{noun}/{variant.name} has no {sorted(unknown)}")
    return Identity(
        noun=noun,
        variant=variant.name,
        main_name=main_name,
        main=main,
        second=second,
        accent=accent,
        trim=trim,
        pattern=choice("pattern", variant.patterns),
        badge=choice("badge", variant.badges),
        parts=tuple((name, choice(name, among)) for name, among in variant.parts.items()),
        sizes=tuple(
            (name, float(fixed.get(name, v)))
            for name, v in zip(variant.sizes, rng.random(len(variant.sizes)), strict=True)
        ),
    )


def distance(a: Identity, b: Identity) -> float:
    """The share of visible attributes in which two individuals differ: 0 for equal, 1 for nothing in common.

    For different classes or variants it is 1. Otherwise each colour counts by its difference (the main colour most), each
    discrete attribute by whether it is equal, and each size by its difference; up to `NEAR`, two look alike.
    """
    if (a.noun, a.variant) != (b.noun, b.variant):
        return 1.0
    terms = [
        (weight, min(1.0, _far(p, q) / 0.4))
        for weight, p, q in (
            (3.0, a.main, b.main), (2.0, a.second, b.second), (1.0, a.accent, b.accent), (0.5, a.trim, b.trim),
        )
    ]  # fmt: skip
    terms += [(2.0, float(a.pattern != b.pattern)), (1.0, float(a.badge != b.badge))]
    terms += [(1.0, float(p != q)) for (_, p), (_, q) in zip(a.parts, b.parts, strict=True)]
    terms += [(0.4, min(1.0, abs(p - q) / 0.4)) for (_, p), (_, q) in zip(a.sizes, b.sizes, strict=True)]
    return sum(w * t for w, t in terms) / sum(w for w, _ in terms)
