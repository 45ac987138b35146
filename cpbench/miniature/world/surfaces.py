"""The surfaces of subjects: pattern, badge and letter."""

from __future__ import annotations

from collections.abc import Callable

import skia

from .canvas import (
    EDGE,
    GOLD,
    INK,
    PAPER,
    RGB,
    ellipse,
    gradient,
    heart_path,
    light,
    line,
    luma,
    outline,
    paint,
    polygon,
    rect,
    star_points,
)
from .identity import BADGES, Identity

BADGED = ("none", *BADGES)  # with a badge more often than not, without one more often than any

# Patterns: (canvas, left, top, right, bottom, step, colour, individual), clipped to the thing's outline


def bands(c, x0, y0, x1, y1, step, color, identity) -> None:
    y = y0 + step * 0.55
    while y < y1:
        rect(c, x0, y, x1, y + step * 0.5, color)
        y += step


def stripes(c, x0, y0, x1, y1, step, color, identity) -> None:
    x = x0 + step * 0.4
    while x < x1:
        rect(c, x, y0, x + step * 0.5, y1, color)
        x += step


def dots(c, x0, y0, x1, y1, step, color, identity) -> None:
    for row in range(int((y1 - y0) / step) + 2):
        for col in range(-1, int((x1 - x0) / step) + 2):
            ellipse(c, x0 + (col + 0.5 * (row % 2)) * step, y0 + (row + 0.3) * step, step * 0.29, step * 0.29, color)


def halves(c, x0, y0, x1, y1, step, color, identity) -> None:
    rect(c, x0, y0 + (y1 - y0) * 0.55, x1, y1, color)


def upper(c, x0, y0, x1, y1, step, color, identity) -> None:
    """The upper third, with a wavy edge."""
    h, w = y1 - y0, x1 - x0
    polygon(
        c,
        [
            (x0, y0),
            (x1, y0),
            (x1, y0 + h * 0.2),
            (x0 + w * 0.6, y0 + h * 0.42),
            (x0 + w * 0.3, y0 + h * 0.28),
            (x0, y0 + h * 0.46),
        ],
        color,
    )


def checks(c, x0, y0, x1, y1, step, color, identity) -> None:
    side = step * 0.75
    for row in range(int((y1 - y0) / side) + 1):
        for col in range(int((x1 - x0) / side) + 1):
            if (row + col) % 2:
                x, y = x0 + col * side, y0 + row * side
                rect(c, x, y, x + side, y + side, color)


def zigzag(c, x0, y0, x1, y1, step, color, identity) -> None:
    y = y0 + step * 0.4
    while y < y1 + step:
        n = int((x1 - x0) / (step * 0.6)) + 2
        points = [(x0 + step * 0.6 * k, y - (step * 0.4 if k % 2 else 0)) for k in range(n)]
        polygon(c, [*points, *((x, v + step * 0.5) for x, v in reversed(points))], color)
        y += step * 1.15


def fade(c, x0, y0, x1, y1, step, color, identity) -> None:
    c.drawRect(skia.Rect(x0, y0, x1, y1), gradient(x0, y0, x0, y1, [color, color, color], [0.0, 0.3, 1.0]))


def hoop(c, x0, y0, x1, y1, step, color, identity) -> None:
    """One broad band between two thin lines."""
    y, h = y0 + (y1 - y0) * 0.38, (y1 - y0) * 0.26
    rect(c, x0, y, x1, y + h, color)
    for edge in (y - 11, y + h + 3):
        rect(c, x0, edge, x1, edge + 8, identity.accent)


def marbled(c, x0, y0, x1, y1, step, color, identity) -> None:
    for u, v, w in identity.scatter(7):
        x, y = x0 + u * (x1 - x0), y0 + v * (y1 - y0)
        ellipse(c, x, y, step * (0.25 + 0.3 * w), step * (0.7 - 0.3 * w), color, 0.85)


PAINTERS: dict[str, Callable[..., None]] = {
    "bands": bands,
    "stripes": stripes,
    "dots": dots,
    "halves": halves,
    "upper": upper,
    "checks": checks,
    "zigzag": zigzag,
    "fade": fade,
    "hoop": hoop,
    "marbled": marbled,
}


def clothe(
    c: skia.Canvas,
    path: skia.Path,
    identity: Identity,
    step: float = 30.0,
    main: RGB | None = None,
    second: RGB | None = None,
    edge: float = EDGE,
    lit: float = 0.2,
) -> None:
    """Fill `path` with the individual's main colour and its pattern, `step` units a repeat; with edge and light."""
    main, second = main or identity.main, second or identity.second
    outline(c, path, main, edge)
    c.drawPath(path, paint(main))
    if identity.pattern in PAINTERS:
        c.save()
        c.clipPath(path, doAntiAlias=True)
        b = path.getBounds()
        PAINTERS[identity.pattern](c, b.left(), b.top(), b.right(), b.bottom(), step, second, identity)
        c.restore()
    if lit:
        light(c, path, lit)


# Badges. Letters are strokes in a box of 2 x 2 around 0: fonts differ from machine to machine.

LETTERS: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (((-0.7, 0.9), (0.0, -0.9)), ((0.0, -0.9), (0.7, 0.9)), ((-0.4, 0.3), (0.4, 0.3))),  # A
    (((-0.6, -0.9), (-0.6, 0.9)), ((0.6, -0.9), (-0.5, 0.0)), ((-0.5, 0.0), (0.6, 0.9))),  # K
    (((-0.7, -0.8), (0.7, -0.8)), ((0.7, -0.8), (-0.7, 0.8)), ((-0.7, 0.8), (0.7, 0.8))),  # Z
    (((-0.7, -0.9), (0.7, 0.9)), ((0.7, -0.9), (-0.7, 0.9))),  # X
    (((-0.4, -0.6), (0.1, -0.9)), ((0.1, -0.9), (0.1, 0.9))),  # 1
    (((-0.7, -0.8), (0.7, -0.8)), ((0.7, -0.8), (-0.1, 0.9))),  # 7
    (((-0.6, -0.9), (-0.6, 0.9)), ((-0.6, 0.9), (0.6, 0.9))),  # L
    (((-0.6, -0.9), (-0.6, 0.9)), ((0.6, -0.9), (0.6, 0.9)), ((-0.6, 0.0), (0.6, 0.0))),  # H
    (
        ((-0.5, -0.8), (0.3, -0.95), (0.45, -0.4), (-0.1, -0.05)),
        ((-0.1, -0.05), (0.6, 0.3), (0.3, 0.95), (-0.6, 0.8)),
    ),  # 3
)


def letter(c: skia.Canvas, x: float, y: float, r: float, number: int, color: RGB, mirrored: bool = False) -> None:
    """Letter `number` of LETTERS, 2 r high, readable in a mirrored drawing as well."""
    flip = -1 if mirrored else 1
    for stroke in LETTERS[number % len(LETTERS)]:
        line(c, [(x + flip * r * px, y + r * py) for px, py in stroke], color, r * 0.5)


def badge(c: skia.Canvas, x: float, y: float, r: float, identity: Identity, mirrored: bool = False) -> None:
    """The individual's badge at (x, y), `r` units in radius: its accent colour on a light or dark disc."""
    if identity.badge == "none":
        return
    color = identity.accent
    ellipse(c, x, y, r * 1.2, r * 1.2, INK if luma(color) > 0.55 else PAPER)
    r *= 0.95
    if identity.badge == "star":
        polygon(c, star_points(x, y, r, r * 0.5), color)
    elif identity.badge == "heart":
        c.drawPath(heart_path(x, y + r * 0.1, r * 0.9), paint(color))
    elif identity.badge == "ring":
        c.drawCircle(x, y, r * 0.6, paint(color, width=r * 0.46))
    elif identity.badge == "bolt":
        points = [(0.25, -0.95), (-0.6, 0.2), (-0.05, 0.2), (-0.25, 0.95), (0.6, -0.25), (0.05, -0.25)]
        polygon(c, [(x + r * px, y + r * py) for px, py in points], color)
    elif identity.badge == "flower":
        for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            ellipse(c, x + r * dx, y + r * dy, r * 0.43, r * 0.43, color)
        ellipse(c, x, y, r * 0.3, r * 0.3, GOLD if luma(color) < 0.55 else INK)
    elif identity.badge == "cross":
        rect(c, x - r * 0.3, y - r * 0.85, x + r * 0.3, y + r * 0.85, color)
        rect(c, x - r * 0.85, y - r * 0.3, x + r * 0.85, y + r * 0.3, color)
    elif identity.badge == "moon":
        moon = skia.Op(
            skia.Path.Circle(x - r * 0.1, y, r * 0.85),
            skia.Path.Circle(x + r * 0.4, y - r * 0.15, r * 0.7),
            skia.kDifference_PathOp,
        )
        c.drawPath(moon, paint(color))
    elif identity.badge == "letter":
        letter(c, x, y, r * 0.68, int(identity.scatter(1)[0][0] * len(LETTERS)), color, mirrored)
