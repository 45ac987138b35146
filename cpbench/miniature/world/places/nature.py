"""Places in the open: jungle, snow, mountain, forest, fields, road."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import skia

from ..canvas import (
    PAPER,
    RGB,
    ellipse,
    leaf_path,
    line,
    mix,
    paint,
    polygon,
    rect,
    shade,
    solid,
)
from .ground import SKY, cloud, fir, hill, horizon, place


def big_leaf(c: skia.Canvas, x: float, y: float, dx: float, dy: float, wide: float, color: RGB) -> None:
    """A leaf with its midrib."""
    c.drawPath(leaf_path(x, y, dx, dy, wide), paint(color))
    line(c, [(x, y), (x + dx * 0.85, y + dy * 0.85)], shade(color, 1.3), 4)


@place("in the jungle", "in a jungle", "in the green jungle", "among the big leaves of a jungle")
def jungle(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, (0.26, 0.50, 0.30), (0.20, 0.36, 0.14), 178)
    ellipse(c, rng.uniform(90, 166), 46, 70, 66, (0.74, 0.90, 0.52), 0.55)  # light falls in from above
    for x in (rng.uniform(20, 48), rng.uniform(208, 236)):
        rect(c, x - 11, 0, x + 11, 190, (0.30, 0.22, 0.14))
        rect(c, x - 11, 0, x - 4, 190, (0.40, 0.30, 0.18))
    for x in (rng.uniform(70, 100), rng.uniform(150, 186)):  # lianas
        low = rng.uniform(50, 90)
        line(c, [(x, -4), (x - 9, low * 0.5), (x, low)], (0.14, 0.36, 0.16), 6)
    for x, way in ((0, 1), (256, -1)):
        lift = rng.uniform(-12, 12)
        big_leaf(c, x, 70 + lift, way * 92, -44, 44, (0.16, 0.46, 0.20))
        big_leaf(c, x, 40 + lift, way * 84, 34, 42, (0.24, 0.60, 0.26))
        big_leaf(c, x, 118 + lift, way * 72, 22, 40, (0.13, 0.42, 0.20))
        big_leaf(c, x, 172 + lift, way * 66, -34, 40, (0.30, 0.66, 0.28))
    for x, dx in ((80, -34), (110, 8), (150, -4), (180, 34)):
        big_leaf(c, x, -8, dx, 52, 32, (0.18, 0.50, 0.22))
    yield
    for x, dx in ((-6, 40), (14, 30), (262, -40), (242, -30)):
        big_leaf(c, x, 262, dx, -46, 28, (0.22, 0.58, 0.22))


@place("in the snow", "in deep snow", "on a snowy day", "in a snowy forest")
def snow(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, (0.60, 0.74, 0.90), (0.94, 0.97, 1.0), 150)
    hill(c, rng.uniform(20, 90), 156, 120, 46, (0.84, 0.90, 0.97))
    hill(c, rng.uniform(170, 240), 156, 110, 36, (0.80, 0.87, 0.95))
    white: RGB = (0.98, 0.99, 1.0)
    for x, h in ((rng.uniform(8, 36), 132), (rng.uniform(220, 248), 140), (rng.uniform(60, 84), 80)):
        fir(c, x, 172, h, (0.16, 0.38, 0.32), white)
    ellipse(c, rng.uniform(20, 60), 190, 80, 18, (0.98, 0.99, 1.0))
    ellipse(c, rng.uniform(200, 240), 196, 86, 20, (0.98, 0.99, 1.0))
    for k in range(11):
        ellipse(c, (23.4 * k + rng.uniform(0, 20)) % 256, rng.uniform(4, 130), 4.6, 4.6, white)
    yield
    for x in (12, 40, 214, 242):  # flakes fall before the subject, but not over it
        ellipse(c, x + rng.uniform(-10, 10), rng.uniform(110, 220), 5, 5, white)
    ellipse(c, 128, 262, 150, 30, (0.97, 0.98, 1.0))


@place(
    "with a mountain in the background",
    "in front of a snowy mountain",
    "near a big mountain",
    "with tall mountains behind it",
)
def mountain(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.50, 0.76, 0.95), (0.46, 0.68, 0.34), 172)
    cloud(c, rng.uniform(30, 226), rng.uniform(18, 34), 17)
    rock: RGB = (0.46, 0.47, 0.60)
    for x, top, w in ((rng.uniform(4, 40), 70, 96), (rng.uniform(216, 252), 62, 100), (rng.uniform(84, 172), 6, 128)):
        base = 176.0
        polygon(c, [(x - w, base), (x, top), (x + w, base)], rock)
        polygon(c, [(x, top), (x + w, base), (x + w * 0.2, base)], shade(rock, 0.78))
        h = (base - top) * 0.40
        k = w * 0.40
        polygon(
            c,
            [
                (x, top),
                (x - k, top + h),
                (x - k * 0.5, top + h * 0.78),
                (x - k * 0.1, top + h * 1.15),
                (x + k * 0.4, top + h * 0.8),
                (x + k, top + h),
            ],
            PAPER,
        )
    hill(c, 40, 184, 120, 20, (0.34, 0.58, 0.32))
    hill(c, 226, 184, 110, 24, (0.38, 0.62, 0.32))


def trunks(c: skia.Canvas, rng: np.random.Generator) -> None:
    """The trunks of a dense wood, near ones darker."""
    for k in range(7):
        x = 18 + 37 * k + rng.uniform(-9, 9)
        wide = rng.uniform(7, 12)
        color: RGB = mix((0.34, 0.24, 0.16), (0.30, 0.46, 0.34), 0.4 * (k % 2))
        rect(c, x - wide, 0, x + wide, 186, color)
        rect(c, x - wide, 0, x - wide * 0.3, 186, shade(color, 1.16))


@place(
    "on top of a purple rug in a forest", "on a purple rug in the forest", "on a purple rug among the trees of a forest"
)
def rug_in_forest(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.30, 0.48, 0.34), (0.36, 0.44, 0.22), 170)
    trunks(c, rng)
    for x in range(-10, 280, 44):
        ellipse(c, x + rng.uniform(-8, 8), rng.uniform(0, 14), 40, 34, (0.16, 0.40, 0.20))
        ellipse(c, x + 20 + rng.uniform(-8, 8), rng.uniform(-8, 6), 34, 30, (0.22, 0.50, 0.24))
    for x in (14, 60, 196, 244):
        ellipse(c, x + rng.uniform(-8, 8), 176, 30, 17, (0.20, 0.44, 0.20))
    purple: RGB = (0.50, 0.18, 0.66)
    for k in range(9):  # fringes
        y = 190 + 7 * k
        for side, edge in ((-1, 128 - 94 - 3.2 * k), (1, 128 + 94 + 3.2 * k)):
            line(c, [(edge, y), (edge + side * 11, y + 1)], (0.90, 0.80, 0.95), 4)
    polygon(c, [(34, 186), (222, 186), (252, 254), (4, 254)], purple)
    polygon(c, [(50, 193), (206, 193), (230, 247), (26, 247)], (0.80, 0.58, 0.92))
    polygon(c, [(58, 197), (198, 197), (219, 243), (37, 243)], purple)


def ear_of_wheat(c: skia.Canvas, x: float, y: float, h: float, lean: float, color: RGB) -> None:
    """A stalk that stands on (x, y), with its ear."""
    tip = (x + lean, y - h)
    line(c, [(x, y), (x + lean * 0.4, y - h * 0.6), tip], shade(color, 0.82), 4)
    c.save()
    c.rotate(lean * 0.8, *tip)
    solid(c, leaf_path(tip[0], tip[1] + 12, 0, -34, 15), color, edge=1.5, lit=0)
    c.restore()


@place("with a wheat field in the background", "in front of a wheat field", "near a field of golden wheat")
def wheat_field(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, SKY, (0.93, 0.76, 0.34), 108)
    cloud(c, rng.uniform(30, 226), rng.uniform(22, 44), 18)
    hill(c, rng.uniform(30, 226), 112, 130, 18, (0.55, 0.70, 0.36))
    for k in range(3):
        rect(c, 0, 120 + 34 * k, 256, 130 + 34 * k, (0.84, 0.64, 0.22), 0.55)
    gold: RGB = (0.96, 0.78, 0.28)
    for y, h in ((176, 60), (206, 78)):
        for k in range(9):
            x = 32 * k + rng.uniform(-8, 8)
            ear_of_wheat(c, x, y, h, rng.uniform(-9, 9), shade(gold, 0.94 if y < 200 else 1.0))
    yield
    for x in (6, 30, 226, 250):
        ear_of_wheat(c, x + rng.uniform(-6, 6), 262, rng.uniform(64, 92), rng.uniform(-8, 8), gold)


@place(
    "with a tree and autumn leaves in the background",
    "near a tree with autumn leaves",
    "under a tree in autumn",
    "among orange autumn leaves",
)
def autumn(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, (0.80, 0.88, 0.93), (0.76, 0.62, 0.34), 168)
    reds: tuple[RGB, ...] = ((0.92, 0.48, 0.12), (0.84, 0.28, 0.12), (0.96, 0.70, 0.20))
    side = 1 if rng.random() < 0.5 else -1
    x = 128 + side * rng.uniform(66, 84)
    trunk: RGB = (0.38, 0.25, 0.16)
    polygon(c, [(x - 17, 190), (x - 10, 60), (x + 10, 60), (x + 17, 190)], trunk)
    line(c, [(x, 96), (x - side * 44, 56)], trunk, 10)
    for k in range(26):  # the crown: dark clumps behind, bright ones before
        u, v = (k * 0.618 + 0.3) % 1, (k * 0.755) % 1
        clump = shade(reds[k % 3], 0.72) if k < 9 else reds[k % 3]
        ellipse(c, x - side * 30 + (u - 0.5) * 230, v * 58, 25, 21, clump)
    for k in range(9):
        fall(c, (k * 31 + rng.uniform(0, 24)) % 256, rng.uniform(184, 246), rng.uniform(0, 180), reds[k % 3])
    for k in range(5):
        fall(c, rng.uniform(0, 256), rng.uniform(84, 160), rng.uniform(0, 180), reds[k % 3])
    yield
    for k in range(4):
        fall(
            c,
            rng.choice([rng.uniform(4, 50), rng.uniform(206, 252)]),
            rng.uniform(232, 250),
            rng.uniform(0, 180),
            reds[k % 3],
        )


def fall(c: skia.Canvas, x: float, y: float, angle: float, color: RGB) -> None:
    """A fallen or falling leaf."""
    c.save()
    c.rotate(angle, x, y)
    c.drawPath(leaf_path(x - 11, y, 22, 0, 15), paint(shade(color, 0.5), width=2))
    c.drawPath(leaf_path(x - 11, y, 22, 0, 15), paint(color))
    c.restore()


def sunflower(c: skia.Canvas, x: float, y: float, r: float, foot: float) -> None:
    """A sunflower with its head at (x, y) and its stalk down to `foot`."""
    line(c, [(x, y), (x + 3, foot)], (0.20, 0.50, 0.18), 7)
    c.drawPath(leaf_path(x + 1, (y + foot) / 2 + 8, 24, -12, 13), paint((0.26, 0.60, 0.22)))
    c.drawPath(leaf_path(x + 1, (y + foot) / 2 + 20, -24, -12, 13), paint((0.26, 0.60, 0.22)))
    for k in range(10):
        c.save()
        c.rotate(36 * k, x, y)
        c.drawPath(
            leaf_path(x, y - r * 0.3, 0, -r * 0.78, r * 0.44),
            paint((0.99, 0.80, 0.10) if k % 2 else (0.97, 0.68, 0.06)),
        )
        c.restore()
    ellipse(c, x, y, r * 0.46, r * 0.46, (0.38, 0.22, 0.10))
    ellipse(c, x, y, r * 0.24, r * 0.24, (0.52, 0.33, 0.14))


@place(
    "on top of green grass with sunflowers around it",
    "on green grass with sunflowers around it",
    "among sunflowers on green grass",
    "on the grass near big sunflowers",
)
def sunflowers(c: skia.Canvas, rng: np.random.Generator) -> Iterator[None]:
    horizon(c, (0.62, 0.86, 0.97), (0.38, 0.72, 0.28), 136)
    cloud(c, rng.uniform(60, 196), rng.uniform(20, 40), 17)
    hill(c, rng.uniform(40, 216), 140, 130, 18, (0.30, 0.62, 0.28))
    for x, y, r in ((70, 100, 22), (186, 96, 22), (26, 84, 33), (232, 80, 33)):
        sunflower(c, x + rng.uniform(-7, 7), y + rng.uniform(-10, 10), r, 190)
    yield
    for x, y in ((22, 214), (236, 210)):
        sunflower(c, x + rng.uniform(-6, 6), y + rng.uniform(-6, 8), 30, 262)
    for k in range(10):
        x = 26 * k + rng.uniform(0, 14)
        polygon(c, [(x - 7, 258), (x + 7, 258), (x + rng.uniform(-6, 6), 238)], (0.26, 0.60, 0.20))


@place("on top of a dirt road", "on a dirt road", "in the middle of a brown dirt road", "on a long road of dirt")
def dirt_road(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, SKY, (0.48, 0.66, 0.30), 118)
    cloud(c, rng.uniform(30, 226), rng.uniform(22, 44), 18)
    hill(c, rng.uniform(20, 90), 122, 110, 30, (0.36, 0.58, 0.30))
    hill(c, rng.uniform(170, 240), 122, 100, 22, (0.42, 0.64, 0.32))
    side = 1 if rng.random() < 0.5 else -1
    x = 128 + side * rng.uniform(62, 84)  # the road comes round a bend, or the subject would hide it
    dirt: RGB = (0.72, 0.52, 0.33)

    def strip(a: float, b: float, color: RGB) -> None:
        """The part of the road between two shares of its width."""
        polygon(c, [(x + 26 * a, 118), (x + 26 * b, 118), (128 + 270 * b, 262), (128 + 270 * a, 262)], color)

    strip(-0.56, 0.56, shade(dirt, 0.72))
    strip(-0.5, 0.5, dirt)
    strip(-0.30, -0.18, shade(dirt, 0.8))  # ruts
    strip(0.18, 0.30, shade(dirt, 0.8))
    for k in range(4):  # a fence on the far side
        px, py = 128 - side * (30 + 34 * k), 138 + 16 * k
        rect(c, px - 4, py - 22 - 5 * k, px + 4, py, (0.48, 0.36, 0.25))
    line(c, [(128 - side * 30, 124), (128 - side * 132, 158)], (0.48, 0.36, 0.25), 5)
    for k in range(6):
        px, py = (k * 47 + rng.uniform(0, 30)) % 256, rng.uniform(206, 250)
        ellipse(c, px, py, 7, 4, shade(dirt, 1.25 if k % 2 else 0.7))
