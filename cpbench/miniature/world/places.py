"""Where things stand: one function a place, (canvas, generator) -> None, painting the whole 256 x 256 picture.

Places are made of few large shapes: fine texture would cost the autoencoder the detail that subjects need.
The subject's ground line is at y = GROUND.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skia

from .canvas import RGB, ellipse, line, polygon, rect, shade, star_points, vertical_gradient

GROUND = 222.0
SKY: RGB = (0.62, 0.82, 0.95)


def halves(c: skia.Canvas, top: RGB, bottom: RGB, horizon: float) -> None:
    """Sky or wall above `horizon`, ground below, each with a slight gradient."""
    vertical_gradient(c, 0, horizon, shade(top, 0.92), shade(top, 1.12))
    vertical_gradient(c, horizon, 256, shade(bottom, 1.08), shade(bottom, 0.88))


def jungle(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.10, 0.34, 0.18), (0.16, 0.28, 0.12), 190)
    for x in (rng.uniform(-10, 40), rng.uniform(205, 260)):
        rect(c, x, 0, x + 22, 200, (0.28, 0.19, 0.10))
    for x in (10, 70, 180, 246):
        x += rng.uniform(-14, 14)
        y = rng.uniform(10, 50)
        for dx in (-50, 0, 50):
            polygon(
                c,
                [(x, y), (x + dx - 14, y + 70), (x + dx * 1.3, y + 96), (x + dx + 14, y + 66)],
                (0.18, 0.55, 0.22),
            )


def snow(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.72, 0.80, 0.90), (0.95, 0.97, 1.0), 150)
    for x in (rng.uniform(10, 60), rng.uniform(190, 240)):
        for k in range(3):
            y = 150 - 34 * k
            polygon(c, [(x - 34 + 8 * k, y), (x + 34 - 8 * k, y), (x, y - 52)], (0.24, 0.42, 0.36))
            polygon(c, [(x - 16 + 3 * k, y - 27), (x + 16 - 3 * k, y - 27), (x, y - 52)], (0.97, 0.98, 1.0))
    ellipse(c, rng.uniform(40, 210), 176, 120, 28, (0.98, 0.99, 1.0))


def beach(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, SKY, (0.93, 0.84, 0.60), 110)
    vertical_gradient(c, 92, 138, (0.10, 0.50, 0.74), (0.30, 0.74, 0.82))
    rect(c, 0, 136, 256, 144, (0.97, 0.98, 0.98))
    ellipse(c, rng.uniform(20, 236), rng.uniform(24, 52), 20, 20, (1.0, 0.93, 0.55))


def cobblestone(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.72, 0.62, 0.52), (0.46, 0.45, 0.46), 128)
    for x in (rng.uniform(10, 40), rng.uniform(190, 220)):
        rect(c, x, 30, x + 36, 96, (0.30, 0.26, 0.26))
    for row in range(4):
        for col in range(-1, 6):
            x, y = (col + 0.5 * (row % 2)) * 52 + 20, 146 + row * 32
            ellipse(c, x, y, 22, 11 + row, (0.62, 0.61, 0.60))


def pink_fabric(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.93, 0.62, 0.74), (0.96, 0.68, 0.80), 120)
    x = rng.uniform(0, 60)
    for k in range(4):
        polygon(
            c,
            [(x + 70 * k, 0), (x + 70 * k + 20, 0), (x + 70 * k - 40, 256), (x + 70 * k - 66, 256)],
            (0.86, 0.48, 0.64),
            0.7,
        )


def wooden_floor(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.90, 0.87, 0.80), (0.74, 0.50, 0.28), 128)
    rect(c, 0, 120, 256, 130, (0.98, 0.97, 0.94))
    shift = rng.uniform(-20, 20)
    for k in range(-4, 5):
        line(c, [(128 + shift + 26 * k, 130), (128 + shift + 70 * k, 256)], (0.50, 0.31, 0.15), 4)
    line(c, [(0, 178), (256, 178)], (0.50, 0.31, 0.15), 3)


def city(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.66, 0.76, 0.88), (0.50, 0.51, 0.54), 168)
    x = rng.uniform(-24, 0)
    for k, gray in enumerate((0.36, 0.48, 0.30, 0.44, 0.38)):
        w, top = 58, rng.uniform(14, 84)
        rect(c, x, top, x + w - 6, 170, (gray, gray * 1.02, gray * 1.15))
        for y in range(int(top) + 16, 150, 32):
            rect(c, x + 10, y, x + 22, y + 15, (0.98, 0.88, 0.50))
            rect(c, x + 32, y, x + 44, y + 15, (0.98, 0.88, 0.50) if k % 2 else (0.26, 0.3, 0.4))
        x += w
    rect(c, 0, 168, 256, 176, (0.75, 0.75, 0.74))


def mountain(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, SKY, (0.42, 0.62, 0.34), 166)
    for x, h in ((rng.uniform(10, 80), 120), (rng.uniform(150, 240), 140)):
        polygon(c, [(x - 110, 168), (x + 110, 168), (x, 168 - h)], (0.44, 0.44, 0.54))
        polygon(
            c,
            [(x - 34, 168 - h * 0.7), (x, 168 - h), (x + 34, 168 - h * 0.7), (x, 168 - h * 0.62)],
            (0.97, 0.98, 1.0),
        )


def house(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.80, 0.90, 0.96), (0.45, 0.68, 0.36), 170)
    x = rng.uniform(16, 66)
    rect(c, x, 60, x + 164, 176, (0.20, 0.42, 0.84))
    polygon(c, [(x - 18, 62), (x + 182, 62), (x + 82, 0)], (0.62, 0.25, 0.20))
    for dx in (18, 112):
        rect(c, x + dx, 84, x + dx + 34, 122, (0.95, 0.96, 0.98))


def trees(c: skia.Canvas, rng: np.random.Generator, crown: RGB, ground: RGB) -> None:
    halves(c, (0.78, 0.88, 0.84), ground, 168)
    for x in (rng.uniform(6, 44), rng.uniform(90, 150), rng.uniform(206, 250)):
        rect(c, x - 9, 80, x + 9, 176, (0.36, 0.24, 0.14))
        ellipse(c, x, 56, 48, 50, crown)


def rug_in_forest(c: skia.Canvas, rng: np.random.Generator) -> None:
    trees(c, rng, (0.20, 0.46, 0.22), (0.38, 0.50, 0.26))
    ellipse(c, 128, 222, 118, 30, (0.50, 0.18, 0.66))
    ellipse(c, 128, 222, 96, 22, (0.66, 0.36, 0.80))


def wheat_field(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, SKY, (0.90, 0.72, 0.28), 132)
    x = rng.uniform(-10, 10)
    for k in range(9):
        polygon(c, [(x + 32 * k - 8, 196), (x + 32 * k + 8, 196), (x + 32 * k, 112)], (0.80, 0.58, 0.16))


def autumn(c: skia.Canvas, rng: np.random.Generator) -> None:
    trees(c, rng, (0.90, 0.46, 0.12), (0.78, 0.56, 0.30))
    for _ in range(6):
        ellipse(c, rng.uniform(0, 256), rng.uniform(184, 250), 12, 7, (0.84, 0.26, 0.10))


def eiffel(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.80, 0.86, 0.94), (0.56, 0.70, 0.44), 176)
    x, iron = rng.uniform(60, 196), (0.40, 0.32, 0.26)
    polygon(
        c,
        [
            (x - 60, 178),
            (x - 34, 178),
            (x - 14, 100),
            (x + 14, 100),
            (x + 34, 178),
            (x + 60, 178),
            (x + 18, 92),
            (x + 4, 2),
            (x - 4, 2),
            (x - 18, 92),
        ],
        iron,
    )
    rect(c, x - 36, 128, x + 36, 138, iron)
    rect(c, x - 20, 88, x + 20, 97, iron)


def water(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.76, 0.90, 0.96), (0.12, 0.46, 0.72), 104)
    for y in (130, 164, 200, 240):
        x = rng.uniform(-60, 40)
        for k in range(3):
            line(c, [(x + 110 * k, y), (x + 110 * k + 56, y)], (0.56, 0.82, 0.93), 7)


def milk(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.95, 0.90, 0.78), (0.98, 0.97, 0.93), 104)
    for y in (130, 164, 200, 240):
        x = rng.uniform(-60, 40)
        for k in range(3):
            ellipse(c, x + 110 * k, y, 40, 7, (0.86, 0.83, 0.76))


def sunflowers(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.70, 0.88, 0.96), (0.32, 0.66, 0.26), 138)
    for x in (18, 62, 196, 240):
        x, y = x + rng.uniform(-8, 8), rng.uniform(86, 120)
        line(c, [(x, y), (x, y + 100)], (0.18, 0.46, 0.16), 7)
        polygon(c, star_points(x, y, 30, 20, 9), (0.99, 0.80, 0.10))
        ellipse(c, x, y, 13, 13, (0.36, 0.22, 0.10))


def mirror(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.50, 0.44, 0.42), (0.44, 0.38, 0.36), 150)
    ellipse(c, 128, 220, 124, 38, (0.80, 0.68, 0.30))
    ellipse(c, 128, 220, 114, 32, (0.80, 0.88, 0.93))
    x = rng.uniform(50, 90)
    polygon(c, [(x, 236), (x + 20, 242), (x + 54, 196), (x + 40, 194)], (0.96, 0.98, 1.0))


def sidewalk(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.70, 0.66, 0.62), (0.76, 0.75, 0.72), 160)
    for k in range(5):
        x, tone = (
            14 + 56 * k + rng.uniform(-10, 10),
            ((0.70, 0.25, 0.25), (0.22, 0.34, 0.58), (0.20, 0.22, 0.24), (0.32, 0.52, 0.36))[int(rng.integers(4))],
        )
        ellipse(c, x, 44, 14, 15, (0.86, 0.68, 0.55))
        polygon(c, [(x - 24, 66), (x + 24, 66), (x + 17, 168), (x - 17, 168)], tone)
    line(c, [(0, 200), (256, 200)], (0.58, 0.57, 0.56), 4)
    line(c, [(70, 160), (20, 256)], (0.58, 0.57, 0.56), 4)
    line(c, [(186, 160), (236, 256)], (0.58, 0.57, 0.56), 4)


def dirt_road(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, SKY, (0.46, 0.60, 0.30), 134)
    x = rng.uniform(100, 156)
    polygon(c, [(x - 14, 134), (x + 14, 134), (250, 256), (6, 256)], (0.62, 0.44, 0.28))


def white_rug(c: skia.Canvas, rng: np.random.Generator) -> None:
    halves(c, (0.62, 0.70, 0.68), (0.46, 0.34, 0.28), 140)
    ellipse(c, 128, 220, 124, 34, (0.97, 0.96, 0.94))
    ellipse(c, 128, 220, 100, 24, (0.90, 0.88, 0.85))
    x = rng.uniform(20, 170)
    rect(c, x, 30, x + 60, 90, (0.86, 0.78, 0.56))


def studio(c: skia.Canvas, rng: np.random.Generator) -> None:
    """Where a prompt names no place: a plain room of a random soft colour."""
    wall = tuple(rng.uniform(0.55, 0.92, 3))
    halves(c, wall, shade(wall, 0.8), rng.uniform(130, 180))


# The words of DreamBench's prompts -> the place they name. Order matters only where one phrase contains another.
PLACES: dict[str, Callable[[skia.Canvas, np.random.Generator], None]] = {
    "in the jungle": jungle,
    "in the snow": snow,
    "on the beach": beach,
    "on a cobblestone street": cobblestone,
    "on top of pink fabric": pink_fabric,
    "on top of a wooden floor": wooden_floor,
    "with a city in the background": city,
    "with a mountain in the background": mountain,
    "with a blue house in the background": house,
    "on top of a purple rug in a forest": rug_in_forest,
    "with a wheat field in the background": wheat_field,
    "with a tree and autumn leaves in the background": autumn,
    "with the Eiffel Tower in the background": eiffel,
    "floating on top of water": water,
    "floating in an ocean of milk": milk,
    "on top of green grass with sunflowers around it": sunflowers,
    "on top of a mirror": mirror,
    "on top of the sidewalk in a crowded street": sidewalk,
    "on top of a dirt road": dirt_road,
    "on top of a white rug": white_rug,
}
FLOATING = ("floating on top of water", "floating in an ocean of milk")
