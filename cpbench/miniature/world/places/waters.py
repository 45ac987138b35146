"""Places to float in: water, and an ocean of milk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import skia

from ..canvas import RGB, arc, ellipse, gradient, line, mix, paint, shade, smooth_path
from .ground import cloud, horizon, place

LINE = 200.0  # the water line before the subject


def swell(c: skia.Canvas, rng: np.random.Generator, top: RGB, bottom: RGB) -> None:
    """The near water: see-through at its edge, with a crest."""
    shift = rng.uniform(-12, 12)
    crest = [(x + shift, LINE + (5 if k % 2 else -5)) for k, x in enumerate(range(-24, 300, 36))]
    body = smooth_path([*crest, (320, 270), (-60, 270)])
    c.drawPath(body, gradient(0, LINE - 6, 0, 256, [top, bottom, bottom], [0.72, 0.94, 1.0]))
    line(c, crest, mix(top, (1, 1, 1), 0.75), 7)


@place(
    "floating on top of water", "floating on water", "floating in the blue water", "in the water of a lake", sunk=True
)
def water(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, (0.70, 0.88, 0.98), (0.14, 0.50, 0.78), 96)
    cloud(c, rng.uniform(30, 226), rng.uniform(26, 44), 18)
    for y, dark in ((112, 0), (134, 1), (158, 0), (182, 1)):
        x = rng.uniform(-60, 20)
        for k in range(4):
            a = x + 86 * k
            line(
                c,
                [(a, y), (a + 16, y - 5), (a + 34, y), (a + 50, y - 4)],
                (0.60, 0.86, 0.96) if not dark else (0.10, 0.38, 0.66),
                6,
            )
    yield
    swell(c, rng, (0.30, 0.66, 0.90), (0.08, 0.36, 0.66))
    for k in range(2):
        arc(c, 128, LINE + 6 + 15 * k, 84 + 22 * k, 12 + 5 * k, 15, 150, (0.82, 0.95, 1.0), 6)
    for x, y in ((24, 232), (216, 226)):
        line(c, [(x - 18, y), (x, y - 6), (x + 18, y)], (0.70, 0.90, 0.98), 6)


@place(
    "floating in an ocean of milk",
    "floating in milk",
    "in an ocean of white milk",
    "floating on a sea of milk",
    sunk=True,
)
def milk(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, (0.36, 0.60, 0.84), (0.96, 0.94, 0.88), 104)
    white: RGB = (0.99, 0.98, 0.95)
    for k in range(5):  # far waves roll up against the sky
        x = -20 + 68 * k + rng.uniform(-14, 14)
        c.drawPath(
            smooth_path([(x - 46, 116), (x - 10, 84 + rng.uniform(-8, 6)), (x + 18, 84), (x + 4, 98), (x + 46, 116)]),
            paint(white),
        )
    for k in range(5):
        x = rng.uniform(-20, 10) + 66 * k
        y = 128 + 14 * (k % 2)
        line(c, [(x - 26, y), (x, y - 7), (x + 26, y)], shade(white, 0.86), 6)
    for k in range(4):
        x = rng.uniform(-20, 10) + 84 * k
        line(c, [(x - 34, 170), (x, 162), (x + 34, 170)], shade(white, 0.85), 7)
    for x, y, r in ((-1, 60, 11), (1, 48, 9), (-1, 88, 7), (1, 76, 12)):  # a splash on either side
        ellipse(c, 128 + x * rng.uniform(88, 116), y + rng.uniform(-8, 8), r, r * 1.2, white)
    yield
    swell(c, rng, white, (0.95, 0.92, 0.85))
    for side in (-1, 1):  # milk leaps up beside what floats in it
        x, up = 128 + side * 104, rng.uniform(20, 30)
        splash = smooth_path(
            [(x - 20, LINE + 10), (x - 8, LINE - up), (x + 2, LINE - 8), (x + 12, LINE - up * 0.8), (x + 20, LINE + 10)]
        )
        c.drawPath(splash, paint(shade(white, 0.84), width=4))
        c.drawPath(splash, paint(white))
    for y, x in ((222, 60), (226, 190), (242, 120)):
        line(c, [(x - 26, y), (x, y - 8), (x + 26, y)], shade(white, 0.84), 7)
