"""Shared by all places: the ground, their registration, and the plain room for prompts without a place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import skia

from ..canvas import RGB, ellipse, gradient, polygon, shade, vertical_gradient

GROUND = 222.0  # where a subject stands, in units from the top
SKY: RGB = (0.60, 0.82, 0.96)

Painting = Callable[[skia.Canvas, np.random.Generator], "Iterator[None] | None"]


@dataclass(frozen=True)
class Place:
    """A place: its name is the phrase of DreamBench's prompts, `words` are all phrases captions have for it.

    paint: (canvas, generator) paints the whole 256 x 256 picture; where it yields, the subject is put in, and what
    follows lies before it. ground: where the subject stands; sunk: whether it floats; mirror: whether it is reflected.
    """

    paint: Painting
    words: tuple[str, ...]
    ground: float = GROUND
    sunk: bool = False
    mirror: bool = False

    @property
    def name(self) -> str:
        return self.words[0]


PLACES: dict[str, Place] = {}


def place(*words: str, **facts: object) -> Callable[[Painting], Painting]:
    """Register a painting function as the place that DreamBench calls `words[0]`; the other words are for captions too."""

    def add(paint: Painting) -> Painting:
        PLACES[words[0]] = Place(paint, words, **facts)  # type: ignore[arg-type]
        return paint

    return add


def horizon(c: skia.Canvas, top: RGB, bottom: RGB, y: float) -> None:
    """Sky or wall above `y`, ground below, each with a slight gradient."""
    vertical_gradient(c, 0, y, shade(top, 0.94), shade(top, 1.15))
    vertical_gradient(c, y, 256, shade(bottom, 1.1), shade(bottom, 0.88))


def cloud(c: skia.Canvas, x: float, y: float, r: float, color: RGB = (1.0, 1.0, 1.0)) -> None:
    for dx, dy, k in ((-1.1, 0.2, 0.7), (0.0, -0.15, 1.0), (1.1, 0.2, 0.75)):
        ellipse(c, x + dx * r, y + dy * r, k * r, k * r * 0.75, color, 0.9)


def hill(c: skia.Canvas, x: float, y: float, w: float, h: float, color: RGB) -> None:
    """A round hill on the line y, lighter at the top."""
    c.save()
    c.clipRect(skia.Rect(-10, y - h - 5, 270, y + 1))
    p = gradient(x, y - h, x, y, [shade(color, 1.15), shade(color, 0.9)])
    c.drawOval(skia.Rect(x - w, y - h, x + w, y + h), p)
    c.restore()


def fir(c: skia.Canvas, x: float, y: float, h: float, color: RGB, snow: RGB | None = None) -> None:
    """A fir of three tiers standing on (x, y)."""
    polygon(
        c,
        [(x - h * 0.05, y), (x + h * 0.05, y), (x + h * 0.05, y - h * 0.25), (x - h * 0.05, y - h * 0.25)],
        (0.36, 0.25, 0.17),
    )
    for k in range(3):
        w, low, top = h * (0.36 - 0.08 * k), y - h * (0.14 + 0.24 * k), y - h * (0.55 + 0.22 * k)
        polygon(c, [(x - w, low), (x + w, low), (x, top)], shade(color, 0.9 + 0.1 * k))
        if snow:
            polygon(
                c,
                [
                    (x - w * 0.55, (low + top) / 2),
                    (x - w * 0.1, (low + top) / 2 + h * 0.06),
                    (x + w * 0.55, (low + top) / 2),
                    (x, top),
                ],
                snow,
            )


def studio(c: skia.Canvas, rng: np.random.Generator) -> None:
    """The place of a prompt without one: a plain room of a random soft colour."""
    wall: RGB = tuple(rng.uniform(0.55, 0.95, 3))  # type: ignore[assignment]
    horizon(c, wall, shade(wall, 0.82), rng.uniform(140, 185))
    ellipse(c, 128, 50, 150, 90, (1.0, 1.0, 1.0), 0.10)
