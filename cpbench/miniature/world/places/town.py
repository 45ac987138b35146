"""Places among houses: a street of cobbles, a city, a blue house, Paris, a crowded sidewalk."""

from __future__ import annotations

import numpy as np
import skia

from ..canvas import (
    GOLD,
    PAPER,
    RGB,
    ellipse,
    line,
    paint,
    polygon,
    rect,
    rounded,
    rounded_path,
    shade,
    vertical_gradient,
)
from .ground import SKY, cloud, hill, horizon, place

GLASS: RGB = (0.60, 0.78, 0.88)
LAMPLIGHT: RGB = (1.0, 0.86, 0.48)


def front(c: skia.Canvas, x: float, w: float, top: float, foot: float, wall: RGB, rng: np.random.Generator) -> None:
    """A narrow town house with a pitched roof and two columns of windows."""
    rect(c, x, top, x + w, foot, wall)
    polygon(c, [(x - 4, top + 2), (x + w + 4, top + 2), (x + w / 2, top - w * 0.42)], (0.60, 0.30, 0.24))
    lit = rng.random() < 0.5
    for row in range(int((foot - top - 22) / 34)):
        for col in range(2):
            wx, wy = x + w * (0.16 + 0.44 * col), top + 12 + 34 * row
            rect(c, wx, wy, wx + w * 0.25, wy + 19, LAMPLIGHT if lit and (row + col) % 2 else shade(wall, 0.45))


@place("on a cobblestone street", "on a street of cobblestone", "on an old cobblestone street", "on gray cobblestone")
def cobblestone(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.74, 0.84, 0.92), (0.40, 0.39, 0.41), 132)
    walls: tuple[RGB, ...] = (
        (0.90, 0.74, 0.50),
        (0.84, 0.52, 0.40),
        (0.93, 0.87, 0.70),
        (0.62, 0.72, 0.74),
        (0.80, 0.62, 0.62),
    )
    first = int(rng.integers(5))
    for k, (x, w, top) in enumerate(((-14, 54, 34), (42, 46, 62), (166, 46, 58), (214, 54, 30))):
        front(c, x + rng.uniform(-5, 5), w, top + rng.uniform(-8, 8), 134, walls[(first + k) % 5], rng)
    stones: tuple[RGB, ...] = ((0.64, 0.63, 0.64), (0.56, 0.56, 0.59), (0.71, 0.69, 0.67))
    y, row = 139.0, 0
    while y < 262:  # rows of stones, larger as they come nearer
        h = 9 + (y - 132) * 0.13
        w = h * 2.3
        for col in range(int(256 / w) + 3):
            x = (col - 1 + 0.5 * (row % 2)) * w
            c.drawPath(
                rounded_path(x + 2, y, x + w - 2, y + h - 2, h * 0.45), paint(stones[(col * 7 + row * 5 + first) % 3])
            )
        y, row = y + h, row + 1


@place(
    "with a city in the background",
    "in front of a city",
    "near the tall buildings of a city",
    "with a big city behind it",
)
def city(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.62, 0.80, 0.94), (0.46, 0.47, 0.50), 178)
    cloud(c, rng.uniform(20, 236), 22, 15)
    x = rng.uniform(-26, -6)
    tones: tuple[RGB, ...] = (
        (0.34, 0.42, 0.56),
        (0.52, 0.58, 0.66),
        (0.44, 0.38, 0.44),
        (0.62, 0.54, 0.48),
        (0.30, 0.46, 0.52),
    )
    start = int(rng.integers(5))
    for k in range(6):
        w = (46, 54, 42, 50, 46, 56)[k]
        top = (46, 14, 62, 30, 8, 52)[k] + rng.uniform(-12, 16)
        tone = tones[(start + k * 2) % 5]
        rect(c, x, top, x + w - 4, 180, tone)
        rect(c, x, top, x + 7, 180, shade(tone, 1.18))
        if k % 3 == 1:
            line(c, [(x + w / 2 - 2, top), (x + w / 2 - 2, top - 18)], tone, 5)
        for row in range(int((168 - top) / 24)):
            for col in range(2):
                wx, wy = x + 11 + (w - 22) * 0.5 * col, top + 10 + 24 * row
                rect(c, wx, wy, wx + 10, wy + 13, LAMPLIGHT if (row * 3 + col * 5 + k) % 4 else shade(tone, 0.6))
        x += w
    rect(c, 0, 178, 256, 188, (0.74, 0.74, 0.74))
    for k in range(4):  # the road's dashes
        rect(c, 10 + 70 * k, 244, 44 + 70 * k, 251, (0.94, 0.92, 0.80))


@place(
    "with a blue house in the background",
    "in front of a blue house",
    "near a blue house",
    "with a blue house behind it",
)
def blue_house(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.74, 0.90, 0.98), (0.44, 0.72, 0.34), 176)
    cloud(c, rng.choice([28, 228]), 24, 14)
    x = rng.uniform(-8, 8)
    blue: RGB = (0.20, 0.44, 0.88)
    rect(c, x + 206, 10, x + 226, 60, (0.62, 0.34, 0.28))
    rect(c, x + 18, 66, x + 238, 184, blue)
    for k in range(4):
        rect(c, x + 18, 86 + 26 * k, x + 238, 90 + 26 * k, shade(blue, 0.8))
    polygon(c, [(x, 74), (x + 256, 74), (x + 214, 18), (x + 42, 18)], (0.46, 0.26, 0.26))
    rect(c, x, 68, x + 256, 78, PAPER)
    for wx in (36, 188):
        rounded(c, x + wx - 5, 92, x + wx + 37, 140, 3, PAPER)
        rect(c, x + wx, 97, x + wx + 32, 135, (0.98, 0.92, 0.66))
        line(c, [(x + wx + 16, 97), (x + wx + 16, 135)], PAPER, 5)
        line(c, [(x + wx, 116), (x + wx + 32, 116)], PAPER, 5)
    rect(c, x + 102, 104, x + 154, 184, (0.88, 0.30, 0.26))
    for k in range(8):
        ellipse(c, 8 + 34 * k + rng.uniform(-6, 6), 184, 20, 11, (0.26, 0.56, 0.24))


@place(
    "with the Eiffel Tower in the background",
    "in front of the Eiffel Tower",
    "near the Eiffel Tower",
    "in Paris with the Eiffel Tower behind it",
)
def eiffel(c: skia.Canvas, rng: np.random.Generator) -> None:
    vertical_gradient(c, 0, 180, (0.56, 0.76, 0.95), (0.98, 0.88, 0.82))
    vertical_gradient(c, 180, 256, (0.52, 0.74, 0.36), (0.42, 0.64, 0.30))
    x = 128 + (1 if rng.random() < 0.5 else -1) * rng.uniform(66, 78)
    cloud(c, 256 - x + rng.uniform(-10, 10), 34, 16)
    for k in range(9):  # the roofs of Paris
        rect(c, 30 * k - 8, 166 + 5 * (k % 3), 30 * k + 24, 184, (0.80, 0.76, 0.76) if k % 2 else (0.68, 0.68, 0.74))
    iron: RGB = (0.42, 0.31, 0.24)
    right = [(3, 2), (7, 52), (15, 96), (28, 142), (50, 190), (29, 190), (21, 166)]
    tower = [*((x + px, y) for px, y in right), (x, 150), *((x - px, y) for px, y in reversed(right))]
    polygon(c, tower, iron)
    for y, half in ((94, 22), (138, 34)):
        rounded(c, x - half, y, x + half, y + 10, 2, shade(iron, 0.75))
    light: RGB = (0.93, 0.87, 0.82)
    for y0, y1, a, b in ((108, 134, 9, 13), (66, 90, 4.5, 6.5)):  # openings in the ironwork
        polygon(c, [(x - a, y0), (x + a, y0), (x + b, y1), (x - b, y1)], light)
    for y in (74, 120):
        line(c, [(x - 12, y), (x + 12, y)], iron, 5)
    line(c, [(x, 8), (x, -4)], iron, 5)
    polygon(c, [(x - 24, 190), (x + 24, 190), (160, 258), (96, 258)], (0.88, 0.82, 0.68))
    hill(c, 0, 198, 40, 18, (0.30, 0.54, 0.26))
    hill(c, 256, 198, 40, 18, (0.30, 0.54, 0.26))


def passer_by(c: skia.Canvas, x: float, top: float, rng: np.random.Generator) -> None:
    """Someone on foot, seen from the front, head at `top`."""
    coats: tuple[RGB, ...] = (
        (0.80, 0.26, 0.26),
        (0.22, 0.36, 0.64),
        (0.24, 0.25, 0.29),
        (0.30, 0.56, 0.38),
        (0.86, 0.66, 0.24),
        (0.55, 0.36, 0.62),
    )
    skins: tuple[RGB, ...] = ((0.95, 0.78, 0.64), (0.80, 0.58, 0.42), (0.50, 0.34, 0.25))
    coat, skin = coats[rng.integers(6)], skins[rng.integers(3)]
    hair: RGB = ((0.22, 0.15, 0.10), (0.80, 0.62, 0.28), (0.10, 0.10, 0.12))[rng.integers(3)]
    for side in (-1, 1):
        rect(c, x + side * 8 - 6, top + 96, x + side * 8 + 6, top + 160, (0.20, 0.21, 0.28))
    c.drawPath(rounded_path(x - 22, top + 26, x + 22, top + 108, 14), paint(shade(coat, 0.6), width=4))
    c.drawPath(rounded_path(x - 22, top + 26, x + 22, top + 108, 14), paint(coat))
    line(c, [(x, top + 40), (x, top + 104)], shade(coat, 0.7), 4)
    ellipse(c, x, top + 9, 16, 16, hair)
    ellipse(c, x, top + 14, 13, 14, skin)
    for side in (-1, 1):
        ellipse(c, x + side * 5, top + 14, 2.6, 2.6, (0.1, 0.1, 0.1))


@place(
    "on top of the sidewalk in a crowded street",
    "on the sidewalk of a crowded street",
    "in a crowded street",
    "on a sidewalk with a crowd of people",
)
def sidewalk(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, (0.80, 0.74, 0.66), (0.78, 0.77, 0.75), 172)
    for k in range(3):  # shop windows
        x = -30 + 100 * k + rng.uniform(-8, 8)
        rect(c, x, 30, x + 84, 170, GLASS)
        for stripe in range(6):
            rect(
                c,
                x + 14 * stripe,
                14,
                x + 14 * stripe + 14,
                38,
                PAPER if stripe % 2 else ((0.84, 0.26, 0.28), (0.24, 0.50, 0.44), (0.90, 0.60, 0.20))[k],
            )
    for k in (0, 2, 4, 1, 3, 5):  # the far ones first
        passer_by(c, 16 + 45 * k + rng.uniform(-9, 9), (24 if k % 2 else 10) + rng.uniform(-6, 8), rng)
    for x0, x1 in ((-40, -150), (52, 10), (128, 128), (204, 246), (296, 406)):
        line(c, [(x0, 172), (x1, 258)], (0.60, 0.59, 0.58), 4)
    for y in (172, 206):
        line(c, [(0, y), (256, y)], (0.60, 0.59, 0.58), 4)
    rect(c, 0, 244, 256, 256, (0.56, 0.56, 0.58))
    rect(c, 0, 244, 256, 248, GOLD)


@place("on the beach", "on a beach", "on the sand of a beach", "on a sunny beach near the sea")
def beach(c: skia.Canvas, rng: np.random.Generator) -> None:
    horizon(c, SKY, (0.96, 0.87, 0.64), 140)
    vertical_gradient(c, 88, 144, (0.08, 0.48, 0.76), (0.34, 0.78, 0.84))
    for y, x in ((104, rng.uniform(0, 60)), (120, rng.uniform(0, 60))):
        for k in range(3):
            line(c, [(x + 96 * k, y), (x + 96 * k + 36, y)], (0.80, 0.94, 0.97), 5)
    line(c, [(-10, 146), (50, 139), (110, 148), (180, 140), (266, 147)], (1.0, 1.0, 1.0), 9)
    side = 1 if rng.random() < 0.5 else -1
    sun_x = 128 - side * rng.uniform(70, 96)
    ellipse(c, sun_x, 34, 32, 32, (1.0, 0.95, 0.62), 0.5)
    ellipse(c, sun_x, 34, 22, 22, (1.0, 0.90, 0.38))
    x = 128 + side * rng.uniform(88, 104)  # a palm at one side, a parasol at the other
    line(c, [(x + side * 6, 206), (x - side * 2, 130), (x - side * 16, 62)], (0.58, 0.42, 0.26), 12)
    top = (x - side * 16, 60)
    for dx, dy in ((-58, 4), (-40, -30), (2, -42), (42, -28), (56, 8), (-30, 30), (32, 34)):
        mid = (top[0] + dx * 0.55, top[1] + dy * 0.5 - 10)
        line(c, [top, mid, (top[0] + dx, top[1] + dy)], (0.20, 0.56, 0.28), 11)
    px = 128 - side * rng.uniform(92, 106)
    line(c, [(px, 116), (px, 208)], PAPER, 6)
    for k in range(4):
        a, b = px - 42 + 21 * k, px - 21 + 21 * k
        polygon(c, [(px, 98), (a, 134), (b, 134)], (0.90, 0.28, 0.26) if k % 2 == 0 else PAPER)
    ellipse(c, 128 + side * rng.uniform(40, 90), 244, 9, 6, (0.95, 0.62, 0.52))
