"""The outfits of subjects: one function per outfit, (canvas, frame) -> iterator.

What is drawn before `yield` lies on the body, under the head; what comes after lies on the head. `frame` says where the
body is. Outfits are DreamBench's phrases; captions know other words for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import skia

from .canvas import (
    COLORS,
    GOLD,
    INK,
    PAPER,
    RGB,
    ellipse,
    ellipse_path,
    light,
    line,
    outline,
    paint,
    polygon,
    polygon_path,
    rect,
    rounded_path,
    shade,
    smooth_path,
    solid,
    star_points,
)
from .pose import Frame

Dressing = Callable[[skia.Canvas, Frame], Iterator[None]]


@dataclass(frozen=True)
class Outfit:
    """An outfit: its name is the phrase of DreamBench's prompts, `words` are all phrases captions have for it."""

    dress: Dressing
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.words[0]


OUTFITS: dict[str, Outfit] = {}


def outfit(*words: str) -> Callable[[Dressing], Dressing]:
    """Register a function as the outfit that DreamBench calls `words[0]`; the other words are for captions too."""

    def add(dress: Dressing) -> Dressing:
        OUTFITS[words[0]] = Outfit(dress, words)
        return dress

    return add


# Pieces of clothing


def shirt(c: skia.Canvas, f: Frame, color: RGB, sleeves: bool = True) -> None:
    """A shirt that fits: the body's own outline from the neck to the hem, and two short sleeves."""
    b = f.body.getBounds()
    c.save()
    c.clipRect(skia.Rect(b.left() - 9, b.top() - 9, b.right() + 9, f.hem))
    outline(c, f.body, color, 6)
    c.drawPath(f.body, paint(color, width=5))
    c.drawPath(f.body, paint(color))
    light(c, f.body, 0.14)
    c.restore()
    line(c, [(b.left() + 4, f.hem), (f.chest[0], f.hem + 5), (b.right() - 4, f.hem)], shade(color, 0.5), 5)
    if sleeves:
        for side in (-1, 1):
            x = side * (b.width() * 0.30)
            solid(
                c, smooth_path([(x - 13, -70), (x + 13, -70), (x + 15, -36), (x - 15, -36)]), shade(color, 0.93), edge=4
            )


def brim(c: skia.Canvas, f: Frame, y: float, wide: float, color: RGB) -> None:
    """The brim of a hat, `wide` head half-widths wide."""
    solid(c, ellipse_path(f.x, y, f.r * wide, 9), color, edge=4, lit=0.1)


# Outfits


@outfit("wearing a red hat", "with a red hat on its head", "in a red hat")
def red_hat(c: skia.Canvas, f: Frame) -> Iterator[None]:
    yield
    red, y = COLORS["red"], f.top + 12
    crown = [
        (f.x - f.r * 0.62, y),
        (f.x - f.r * 0.56, y - 28),
        (f.x, y - 36),
        (f.x + f.r * 0.56, y - 28),
        (f.x + f.r * 0.62, y),
    ]
    solid(c, smooth_path(crown), red, edge=4)
    brim(c, f, y, 1.12, red)
    rect(c, f.x - f.r * 0.6, y - 14, f.x + f.r * 0.6, y - 5, shade(red, 0.55))


@outfit("wearing a santa hat", "with a santa hat on its head", "in a red and white santa hat")
def santa_hat(c: skia.Canvas, f: Frame) -> Iterator[None]:
    yield
    y, w = f.top + 12, f.r * 0.8
    cone = [
        (f.x - w, y),
        (f.x - w * 0.5, y - 34),
        (f.x + w * 0.3, y - 46),
        (f.x + w * 1.35, y - 14),
        (f.x + w * 0.85, y - 16),
        (f.x + w, y),
    ]
    solid(c, polygon_path(cone), COLORS["red"], edge=4)
    solid(c, ellipse_path(f.x + w * 1.38, y - 8, 12, 12), PAPER, edge=3)
    solid(c, rounded_path(f.x - w * 1.18, y - 8, f.x + w * 1.18, y + 9, 9), PAPER, edge=3, lit=0.1)


@outfit("wearing a rainbow scarf", "with a rainbow scarf", "in a long rainbow scarf")
def rainbow_scarf(c: skia.Canvas, f: Frame) -> Iterator[None]:
    colors = [COLORS[n] for n in ("red", "orange", "yellow", "green", "blue", "purple")]
    x, y = f.chest
    yield
    half = f.r * 0.86
    end = rounded_path(x + half * 0.12, y - 6, x + half * 0.12 + 27, y + 58, 5)
    collar = smooth_path(
        [
            (x - half, y - 16),
            (x, y - 6),
            (x + half, y - 16),
            (x + half * 0.94, y + 5),
            (x, y + 15),
            (x - half * 0.94, y + 5),
        ]
    )
    for path in (end, collar):
        outline(c, path, INK, 4)
    for k, color in enumerate(colors):  # stripes across the scarf's length
        rect(c, x + half * 0.12, y - 2 + 10 * k, x + half * 0.12 + 27, y + 9 + 10 * k, color)
    c.save()
    c.clipPath(collar, doAntiAlias=True)
    for k, color in enumerate(colors):
        rect(c, x - half + half * k / 3, y - 22, x - half + half * (k + 1) / 3 + 1, y + 20, color)
    c.restore()


@outfit("wearing a black top hat and a monocle", "with a black top hat and a monocle", "in a top hat and a monocle")
def top_hat(c: skia.Canvas, f: Frame) -> Iterator[None]:
    yield
    black, y = (0.12, 0.12, 0.15), f.top + 12
    solid(
        c,
        polygon_path(
            [(f.x - f.r * 0.56, y), (f.x - f.r * 0.64, y - 50), (f.x + f.r * 0.64, y - 50), (f.x + f.r * 0.56, y)]
        ),
        black,
        edge=4,
    )
    rect(c, f.x - f.r * 0.58, y - 16, f.x + f.r * 0.58, y - 6, (0.70, 0.16, 0.24))
    brim(c, f, y, 1.05, black)
    ex = f.x + f.eye_gap
    ellipse(c, ex, f.eye_y, 16, 16, (0.85, 0.95, 1.0), 0.35)
    c.drawCircle(ex, f.eye_y, 16, paint(shade(GOLD, 0.5), width=8))
    c.drawCircle(ex, f.eye_y, 16, paint(GOLD, width=5))
    line(c, [(ex + 12, f.eye_y + 11), (ex + 20, f.eye_y + 34), (ex + 14, f.eye_y + 56)], GOLD, 4)


@outfit("in a chef outfit", "dressed as a chef", "wearing a chef outfit", "wearing a white chef hat and jacket")
def chef(c: skia.Canvas, f: Frame) -> Iterator[None]:
    shirt(c, f, PAPER)
    x, y = f.chest
    for side in (-1, 1):
        for k in range(2):
            ellipse(c, x + side * 10, y + 22 + 17 * k, 4.5, 4.5, INK)
    polygon(c, [(x - 22, y - 6), (x + 22, y - 6), (x, y + 16)], (0.86, 0.20, 0.20))
    yield
    y = f.top + 12
    puff = smooth_path(
        [
            (f.x - f.r * 0.7, y - 18),
            (f.x - f.r * 1.0, y - 42),
            (f.x - f.r * 0.5, y - 56),
            (f.x, y - 62),
            (f.x + f.r * 0.5, y - 56),
            (f.x + f.r * 1.0, y - 42),
            (f.x + f.r * 0.7, y - 18),
        ]
    )
    solid(c, puff, PAPER, edge=4)
    for dx in (-0.35, 0.35):
        line(c, [(f.x + dx * f.r, y - 22), (f.x + dx * f.r * 1.1, y - 46)], (0.80, 0.80, 0.82), 4)
    solid(c, rounded_path(f.x - f.r * 0.74, y - 24, f.x + f.r * 0.74, y + 4, 5), (0.93, 0.93, 0.93), edge=4, lit=0.1)


@outfit(
    "in a firefighter outfit",
    "dressed as a firefighter",
    "wearing a firefighter outfit",
    "wearing a firefighter helmet and jacket",
)
def firefighter(c: skia.Canvas, f: Frame) -> Iterator[None]:
    tan, stripe = (0.30, 0.26, 0.24), (0.92, 0.93, 0.35)
    shirt(c, f, tan)
    b = f.body.getBounds()
    c.save()
    c.clipPath(f.body, doAntiAlias=True)
    rect(c, b.left() - 9, f.hem - 20, b.right() + 9, f.hem - 8, stripe)
    rect(c, b.left() - 9, f.hem - 16, b.right() + 9, f.hem - 12, PAPER)
    c.restore()
    for side in (-1, 1):
        x = side * b.width() * 0.30
        rect(c, x - 14, -50, x + 14, -41, stripe)
    yield
    red, y = (0.88, 0.18, 0.12), f.top + 14
    dome = [
        (f.x - f.r * 0.76, y),
        (f.x - f.r * 0.66, y - 28),
        (f.x, y - 44),
        (f.x + f.r * 0.66, y - 28),
        (f.x + f.r * 0.76, y),
    ]
    solid(c, smooth_path(dome), red, edge=4)
    line(c, [(f.x, y - 44), (f.x, y - 24)], shade(red, 0.6), 6)
    solid(c, smooth_path([(f.x - f.r * 1.3, y + 8), (f.x, y - 9), (f.x + f.r * 1.3, y + 8), (f.x, y + 8)]), red, edge=4)
    solid(
        c,
        smooth_path([(f.x - 15, y - 30), (f.x + 15, y - 30), (f.x + 13, y - 9), (f.x, y + 1), (f.x - 13, y - 9)]),
        GOLD,
        edge=3,
    )


@outfit(
    "in a police outfit",
    "dressed as a police officer",
    "wearing a police outfit",
    "wearing a blue police hat and shirt",
)
def police(c: skia.Canvas, f: Frame) -> Iterator[None]:
    navy = (0.13, 0.21, 0.50)
    shirt(c, f, navy)
    x, y = f.chest
    polygon(c, [(x - 5, y), (x + 5, y), (x + 8, y + 34), (x, y + 44), (x - 8, y + 34)], INK)
    star = polygon_path(star_points(x + 22, y + 26, 14, 7))
    outline(c, star, navy, 3)
    c.drawPath(star, paint(GOLD))
    yield
    y = f.top + 12
    cap = [
        (f.x - f.r * 0.72, y - 6),
        (f.x - f.r * 1.12, y - 30),
        (f.x, y - 44),
        (f.x + f.r * 1.12, y - 30),
        (f.x + f.r * 0.72, y - 6),
    ]
    solid(c, smooth_path(cap), navy, edge=4)
    rect(c, f.x - f.r * 0.74, y - 13, f.x + f.r * 0.74, y + 1, (0.92, 0.93, 0.96))
    solid(
        c,
        smooth_path([(f.x - f.r * 0.76, y), (f.x, y - 3), (f.x + f.r * 0.76, y), (f.x, y + 13)]),
        (0.10, 0.10, 0.13),
        edge=3,
        lit=0.1,
    )
    c.drawPath(polygon_path(star_points(f.x, y - 25, 12, 6)), paint(GOLD))


@outfit("wearing pink glasses", "with pink glasses", "with big pink glasses on its nose")
def pink_glasses(c: skia.Canvas, f: Frame) -> Iterator[None]:
    yield
    pink: RGB = (0.98, 0.34, 0.64)
    half = f.eye_gap * 0.84
    line(c, [(f.x - f.r * 0.98, f.eye_y - 3), (f.x + f.r * 0.98, f.eye_y - 3)], pink, 7)
    for side in (-1, 1):
        lens = ellipse_path(f.x + side * f.eye_gap * 1.06, f.eye_y, half, half)
        c.drawPath(lens, paint((1.0, 0.80, 0.92), 0.45))
        c.drawPath(lens, paint(shade(pink, 0.45), width=11))
        c.drawPath(lens, paint(pink, width=8))


@outfit("wearing a yellow shirt", "in a yellow shirt", "with a yellow shirt on")
def yellow_shirt(c: skia.Canvas, f: Frame) -> Iterator[None]:
    yellow: RGB = (0.99, 0.84, 0.14)
    shirt(c, f, yellow)
    x, y = f.chest
    for side in (-1, 1):
        solid(
            c, polygon_path([(x, y + 2), (x + side * 22, y - 10), (x + side * 20, y + 12)]), shade(yellow, 1.2), edge=3
        )
    for k in range(2):
        ellipse(c, x, y + 20 + 16 * k, 4, 4, shade(yellow, 0.45))
    yield


@outfit(
    "in a purple wizard outfit",
    "dressed as a purple wizard",
    "wearing a purple wizard outfit",
    "wearing a purple wizard hat and robe",
)
def wizard(c: skia.Canvas, f: Frame) -> Iterator[None]:
    robe: RGB = (0.48, 0.18, 0.68)
    shirt(c, f, robe)
    x, y = f.chest
    for dx, dy in ((-22, 26), (24, 34), (2, 42)):
        polygon(c, star_points(x + dx, y + dy, 9, 4), GOLD)
    yield
    y = f.top + 13
    cone = [
        (f.x - f.r * 0.72, y),
        (f.x - f.r * 0.22, y - 46),
        (f.x + f.r * 0.22, y - 66),
        (f.x + f.r * 0.30, y - 40),
        (f.x + f.r * 0.72, y),
    ]
    solid(c, polygon_path(cone), robe, edge=4)
    line(c, [(f.x - f.r * 0.64, y - 7), (f.x + f.r * 0.64, y - 7)], GOLD, 8)
    brim(c, f, y + 1, 1.16, robe)
    polygon(c, star_points(f.x - 2, y - 30, 11, 5), GOLD)
