"""Places under a roof, and things to lie on: fabric, floor, mirror, rug."""

from __future__ import annotations

import numpy as np
import skia

from ..canvas import (
    GOLD,
    PAPER,
    RGB,
    ellipse,
    ellipse_path,
    gradient,
    line,
    paint,
    polygon,
    rect,
    rounded,
    shade,
    smooth_path,
)
from .ground import horizon, place


@place("on top of pink fabric", "on pink fabric", "on a piece of soft pink fabric")
def pink_fabric(c: skia.Canvas, rng: np.random.Generator) -> None:
    pink: RGB = (0.96, 0.64, 0.77)
    c.drawRect(skia.Rect(-1, -1, 257, 257), gradient(0, 0, 256, 256, [shade(pink, 1.12), shade(pink, 0.96)]))
    shift = rng.uniform(-20, 20)
    for k in range(5):  # folds run down from the upper edge and spread round what lies on the cloth
        x0 = -12 + 62 * k + shift
        x1 = 128 + (x0 - 128) * 1.25
        side = [(x0, -6), (x0 + 14, 70), (x1 - 6, 150), (x1 + 10, 262)]
        c.drawPath(smooth_path([*side, *((x + 24, y) for x, y in reversed(side))]), paint(shade(pink, 0.80), 0.75))
        line(c, [(x - 5, y) for x, y in side], shade(pink, 1.5), 8)
    line(c, [(20, 232), (90, 244), (170, 240), (240, 228)], shade(pink, 0.78), 12)
    line(c, [(16, 224), (90, 235), (170, 231), (244, 219)], shade(pink, 1.5), 6)


def boards(c: skia.Canvas, y: float, wood: RGB, shift: float) -> None:
    """Floor boards that run towards us from the line y."""
    for k in range(-6, 7):
        tone = shade(wood, (1.0, 1.12, 0.90, 1.06)[k % 4])
        a, b = 128 + shift + 24 * k, 128 + shift + 24 * (k + 1)
        x0, x1 = 128 + (a - 128) * 2.9, 128 + (b - 128) * 2.9
        polygon(c, [(a, y), (b, y), (x1, 258), (x0, 258)], tone)
        line(c, [(a, y), (x0, 258)], shade(wood, 0.62), 4)
        for share in (0.3 + 0.35 * (k % 2),):  # where two boards meet end to end
            px, qx, py = a + (x0 - a) * share, b + (x1 - b) * share, y + (258 - y) * share
            line(c, [(px, py), (qx, py)], shade(wood, 0.62), 4)


@place("on top of a wooden floor", "on a wooden floor", "on the wooden floor of a room", "on a floor of wooden boards")
def wooden_floor(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.84, 0.89, 0.86), (0.76, 0.52, 0.30), 126)
    x = rng.uniform(20, 60) if rng.random() < 0.5 else rng.uniform(156, 190)
    rounded(c, x - 6, 8, x + 54, 84, 3, PAPER)
    rect(c, x, 14, x + 48, 78, (0.62, 0.84, 0.96))
    line(c, [(x + 24, 14), (x + 24, 78)], PAPER, 5)
    line(c, [(x, 46), (x + 48, 46)], PAPER, 5)
    boards(c, 126, (0.78, 0.54, 0.31), rng.uniform(-12, 12))
    rect(c, 0, 114, 256, 127, PAPER)
    line(c, [(0, 128), (256, 128)], (0.55, 0.38, 0.22), 3)


@place("on top of a mirror", "on a mirror", "on a round mirror", ground=204.0, mirror=True)
def mirror(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.60, 0.50, 0.56), (0.42, 0.32, 0.36), 140)
    ellipse(c, 128, 213, 125, 44, (0.26, 0.18, 0.22), 0.6)
    ellipse(c, 128, 208, 124, 44, shade(GOLD, 0.75))
    ellipse(c, 128, 206, 122, 42, GOLD)
    glass = ellipse_path(128, 206, 110, 34)
    c.drawPath(glass, gradient(20, 172, 236, 240, [(0.72, 0.86, 0.95), (0.90, 0.96, 0.99), (0.66, 0.80, 0.90)]))
    c.save()
    c.clipPath(glass, doAntiAlias=True)
    x = rng.uniform(-10, 10)
    for a, w in ((34, 16), (62, 8), (190, 18)):
        polygon(c, [(x + a, 244), (x + a + w, 244), (x + a + w + 40, 168), (x + a + 40, 168)], (1, 1, 1), 0.7)
    c.restore()
    for px, py in ((26, 60), (228, 44)):  # what glitters says glass
        sparkle(c, px + rng.uniform(-8, 8), py + rng.uniform(-10, 10), 15)
    sparkle(c, 40, 190, 15)


def sparkle(c: skia.Canvas, x: float, y: float, r: float, color: RGB = (1.0, 1.0, 1.0)) -> None:
    """A star of four thin points."""
    k = r * 0.2
    polygon(
        c,
        [
            (x, y - r),
            (x + k, y - k),
            (x + r, y),
            (x + k, y + k),
            (x, y + r),
            (x - k, y + k),
            (x - r, y),
            (x - k, y - k),
        ],
        color,
    )


@place("on top of a white rug", "on a white rug", "on a soft white rug", "on a fluffy white rug in a room")
def white_rug(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.44, 0.62, 0.62), (0.50, 0.34, 0.24), 146)
    rect(c, 0, 138, 256, 148, (0.90, 0.88, 0.82))
    side = 1 if rng.random() < 0.5 else -1
    x = 128 + side * rng.uniform(82, 96)  # a lamp on one side, a picture on the other
    line(c, [(x, 60), (x, 178)], (0.25, 0.20, 0.20), 6)
    polygon(c, [(x - 18, 34), (x + 18, 34), (x + 30, 76), (x - 30, 76)], (0.98, 0.86, 0.56))
    px = 128 - side * 78
    rounded(c, px - 32, 26, px + 32, 88, 3, (0.86, 0.66, 0.34))
    rect(c, px - 25, 33, px + 25, 81, (0.80, 0.90, 0.96))
    polygon(c, [(px - 25, 81), (px - 4, 50), (px + 14, 81)], (0.40, 0.62, 0.46))
    ellipse(c, px + 12, 47, 7, 7, (0.98, 0.80, 0.30))
    white: RGB = (0.98, 0.97, 0.95)
    for k in range(20):  # a fluffy edge
        a = 2 * np.pi * k / 20
        ellipse(c, 128 + 108 * np.cos(a), 217 + 28 * np.sin(a), 20, 12, shade(white, 0.84))
    for k in range(20):
        a = 2 * np.pi * (k + 0.5) / 20
        ellipse(c, 128 + 106 * np.cos(a), 214 + 27 * np.sin(a), 20, 12, white)
    ellipse(c, 128, 214, 108, 28, white)
    for k in range(7):
        x = 50 + 26 * k
        line(c, [(x - 8, 224 + 6 * (k % 2)), (x, 228 + 6 * (k % 2)), (x + 8, 224 + 6 * (k % 2))], shade(white, 0.84), 4)
