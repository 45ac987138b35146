"""How each class of thing is drawn: one function a class noun, (canvas, identity, pose) -> None.

The thing stands on the ground line y = 0, about 170 units high and at most 180 wide, centred on x = 0 (y up is negative).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import skia

from .canvas import (
    RGB,
    arc,
    ellipse,
    ellipse_path,
    line,
    paint,
    polygon,
    polygon_path,
    rect,
    rounded_path,
    shade,
    smooth_path,
    star_points,
)
from .identity import Identity

INK: RGB = (0.10, 0.09, 0.10)


@dataclass(frozen=True)
class Pose:
    """Where things of the subject are in one picture; `swing` in [-1, 1] moves legs, heads, handles."""

    swing: float = 0.0
    blink: bool = False


def clothe(c: skia.Canvas, path: skia.Path, who: Identity, pattern_scale: float = 1.0) -> None:
    """Fill `path` with the identity's main colour and its pattern, and give it a thin dark edge."""
    c.save()
    c.clipPath(path, doAntiAlias=True)
    c.drawPath(path, paint(who.main))
    b = path.getBounds()
    x0, y0, x1, y1, w, h = b.left(), b.top(), b.right(), b.bottom(), b.width(), b.height()
    step = (26 + 14 * who.shape[7]) * pattern_scale
    if who.pattern == "bands":
        y = y0 + step * 0.6
        while y < y1:
            rect(c, x0, y, x1, y + step * 0.45, who.second)
            y += step
    elif who.pattern == "stripes":
        x = x0 - h * 0.3
        while x < x1:
            polygon(
                c,
                [(x, y1), (x + step * 0.45, y1), (x + step * 0.45 + h * 0.3, y0), (x + h * 0.3, y0)],
                who.second,
            )
            x += step
    elif who.pattern == "dots":
        for row in range(int(h / step) + 2):
            for col in range(int(w / step) + 2):
                ellipse(
                    c,
                    x0 + (col + 0.5 * (row % 2)) * step,
                    y0 + (row + 0.4) * step,
                    step * 0.27,
                    step * 0.27,
                    who.second,
                )
    elif who.pattern == "halves":
        rect(c, x0, y0 + h * (0.45 + 0.2 * who.shape[6]), x1, y1, who.second)
    elif who.pattern == "checks":
        for row in range(int(h / step) + 1):
            for col in range(int(w / step) + 1):
                if (row + col) % 2:
                    rect(
                        c,
                        x0 + col * step,
                        y0 + row * step,
                        x0 + (col + 1) * step,
                        y0 + (row + 1) * step,
                        who.second,
                    )
    elif who.pattern == "patch":
        ellipse(c, x0 + w * (0.25 + 0.5 * who.shape[6]), y0 + h * 0.35, w * 0.24, h * 0.36, who.second)
    c.drawPath(
        polygon_path([(x0, y1), (x1, y1), (x1, y0 + h * 0.3), (x0 + w * 0.75, y1 - h * 0.2)]),
        paint(INK, 0.10),
    )
    c.restore()
    c.drawPath(path, paint(shade(who.main, 0.45), width=3))


def badge(c: skia.Canvas, x: float, y: float, r: float, who: Identity) -> None:
    """The identity's badge at (x, y), `r` units in radius, in the accent colour."""
    if who.badge == "none":
        return
    light = sum(who.accent) > 1.5
    ellipse(c, x, y, r * 1.12, r * 1.12, INK if light else (0.97, 0.97, 0.95))
    if who.badge == "star":
        polygon(c, star_points(x, y, r, r * 0.45), who.accent)
    elif who.badge == "heart":
        ellipse(c, x - r * 0.38, y - r * 0.2, r * 0.42, r * 0.42, who.accent)
        ellipse(c, x + r * 0.38, y - r * 0.2, r * 0.42, r * 0.42, who.accent)
        polygon(c, [(x - r * 0.76, y), (x + r * 0.76, y), (x, y + r * 0.85)], who.accent)
    elif who.badge == "ring":
        c.drawCircle(x, y, r * 0.6, paint(who.accent, width=r * 0.42))
    elif who.badge == "bolt":
        points = [(0.2, -0.95), (-0.55, 0.15), (-0.05, 0.15), (-0.2, 0.95), (0.55, -0.2), (0.05, -0.2)]
        polygon(c, [(x + r * px, y + r * py) for px, py in points], who.accent)
    elif who.badge == "flower":
        for dx, dy in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)):
            ellipse(c, x + r * dx, y + r * dy, r * 0.42, r * 0.42, who.accent)
        ellipse(c, x, y, r * 0.28, r * 0.28, (0.98, 0.9, 0.4))
    elif who.badge == "cross":
        rect(c, x - r * 0.28, y - r * 0.85, x + r * 0.28, y + r * 0.85, who.accent)
        rect(c, x - r * 0.85, y - r * 0.28, x + r * 0.85, y + r * 0.28, who.accent)


def eyes(c: skia.Canvas, x: float, y: float, gap: float, r: float, pose: Pose) -> None:
    for side in (-1, 1):
        ellipse(c, x + side * gap, y, r * 1.25, r * 1.35, (0.97, 0.97, 0.95))
        if pose.blink:
            rect(
                c,
                x + side * gap - r * 1.3,
                y - r * 1.4,
                x + side * gap + r * 1.3,
                y + r * 0.2,
                shade(INK, 1.3),
            )
        ellipse(c, x + side * gap + pose.swing * r * 0.4, y + r * 0.1, r * 0.8, r * 0.9, INK)


def head_top(who: Identity) -> tuple[float, float, float]:
    """(x, y, half width) of the top of the head or lid: where hats sit."""
    s = who.shape
    return {
        "dog": (34.0, -158.0 - 10 * s[1], 38.0),
        "cat": (30.0, -150.0 - 10 * s[1], 36.0),
        "stuffed animal": (0.0, -162.0, 40.0),
        "toy": (0.0, -160.0, 34.0),
    }.get(who.noun, (0.0, -150.0, 40.0))


def dog(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s, dark = who.shape, shade(who.main, 0.75)
    long, high = 54 + 16 * s[0], 44 + 12 * s[2]
    line(
        c,
        [(-long + 4, -high - 26), (-long - 18, -high - 50 - 14 * pose.swing)],
        who.second if who.parts[0] else dark,
        11,
    )
    for i, x in enumerate((-long + 14, -long + 34, 14, 36)):
        step = 6 * pose.swing * (1 if i % 2 else -1)
        c.drawPath(
            rounded_path(x - 9 + step, -high, x + 9 + step, 0, 8),
            paint(who.second if who.parts[1] == 1 else dark),
        )
    clothe(
        c,
        smooth_path(
            [
                (-long, -high - 20),
                (-10, -high - 34),
                (40, -high - 34),
                (46, -high),
                (10, -high + 14),
                (-long + 4, -high + 10),
            ]
        ),
        who,
    )
    x, y, r = 34 + 5 * pose.swing, -120 - 10 * s[1], 36 + 5 * s[3]
    ear = shade(who.second if who.parts[2] else who.main, 0.85)
    if s[4] < 0.5:  # hanging ears
        under = [
            (x - r * 0.8, y - r * 0.6),
            (x - r * 1.35, y + r * 0.2),
            (x - r * 1.1, y + r * 0.7),
            (x - r * 0.6, y + r * 0.1),
        ]
        polygons = [under, [(2 * x - px, py) for px, py in under]]
        clothe(c, ellipse_path(x, y, r, r * 0.95), who, 0.8)
        for p in polygons:
            c.drawPath(smooth_path(p), paint(ear))
    else:  # upright ears
        for side in (-1, 1):
            polygon(
                c,
                [
                    (x + side * r * 0.25, y - r * 0.7),
                    (x + side * r * 0.75, y - r * (1.3 + 0.4 * s[4])),
                    (x + side * r * 0.95, y - r * 0.3),
                ],
                ear,
            )
        clothe(c, ellipse_path(x, y, r, r * 0.95), who, 0.8)
    ellipse(c, x, y + r * 0.42, r * (0.45 + 0.2 * s[5]), r * 0.4, shade(who.second, 1.25))
    ellipse(c, x, y + r * 0.22, r * 0.2, r * 0.15, INK)
    eyes(c, x, y - r * 0.15, r * 0.42, r * 0.15, pose)
    line(c, [(x - r * 0.75, y + r * 0.95), (x + r * 0.75, y + r * 0.95)], who.accent, 12)
    badge(c, x, y + r * 1.25, 15, who)


def cat(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s, dark = who.shape, shade(who.main, 0.75)
    wide = 44 + 14 * s[0]
    tail = skia.Path()
    tail.moveTo(-wide + 12, -14)
    tail.cubicTo(-wide - 50, -10, -wide - 40 - 12 * pose.swing, -90, -wide - 14 - 14 * pose.swing, -96 - 20 * s[2])
    c.drawPath(tail, paint(who.second if who.parts[0] else dark, width=14))
    clothe(
        c,
        smooth_path([(-wide, -10), (-wide + 6, -56), (0, -96), (wide - 10, -60), (wide, -10), (0, -2)]),
        who,
    )
    for side in (-1, 1):
        ellipse(c, side * 20, -8, 16, 10, shade(who.second if who.parts[1] == 1 else who.main, 1.2))
    x, y, r = 14 + 16 * (s[6] - 0.5) + 6 * pose.swing, -112 - 10 * s[1], 37 + 5 * s[3]
    for side in (-1, 1):
        tip = 1.25 + 0.45 * s[4]
        ear = [
            (x + side * r * 0.2, y - r * 0.75),
            (x + side * r * 0.85, y - r * tip),
            (x + side * r * 0.98, y - r * 0.15),
        ]
        polygon(c, ear, who.second if who.parts[2] else dark)
        polygon(
            c,
            [(0.6 * px + 0.4 * (x + side * r * 0.66), 0.6 * py + 0.4 * (y - r * 0.7)) for px, py in ear],
            (0.95, 0.65, 0.65),
        )
    clothe(c, ellipse_path(x, y, r * 1.06, r * 0.9), who, 0.8)
    iris = (0.35, 0.75, 0.3) if s[5] < 0.5 else (0.95, 0.75, 0.2)
    for side in (-1, 1):
        ellipse(c, x + side * r * 0.45, y - r * 0.08, r * 0.23, r * (0.06 if pose.blink else 0.23), iris)
        ellipse(
            c,
            x + side * r * 0.45 + pose.swing * 2,
            y - r * 0.08,
            r * 0.09,
            r * (0.05 if pose.blink else 0.2),
            INK,
        )
    ellipse(c, x, y + r * 0.35, r * 0.42, r * 0.28, shade(who.second, 1.3))
    polygon(c, [(x - 6, y + r * 0.2), (x + 6, y + r * 0.2), (x, y + r * 0.36)], (0.85, 0.4, 0.45))
    line(c, [(x - r * 0.7, y + r * 0.92), (x + r * 0.7, y + r * 0.92)], who.accent, 12)
    badge(c, x, y + r * 1.22, 14, who)


def backpack(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s = who.shape
    w, h = 54 + 16 * s[0], 140 + 22 * s[1]
    arc(c, 0, -h, 20, 18, 180, 180, shade(who.accent, 0.8), 9)
    for side in (-1, 1):
        arc(c, side * (w - 4), -h * 0.5, 20 + 4 * pose.swing * side, h * 0.36, -90, 180 * side, who.accent, 11)
    clothe(c, rounded_path(-w, -h, w, 0, 22 + 30 * s[2]), who, 1.2)
    pocket = 0.34 + 0.14 * s[3]
    rounded_pocket = rounded_path(-w * 0.72, -h * pocket - 4, w * 0.72, -10, 10 + 12 * s[4])
    c.drawPath(rounded_pocket, paint(who.accent if who.parts[0] else who.second))
    c.drawPath(rounded_pocket, paint(INK, 0.55, width=3))
    line(c, [(-w * 0.6, -h * pocket + 8), (w * 0.6, -h * pocket + 8)], (0.92, 0.9, 0.8), 4)
    line(c, [(-w * 0.75, -h * 0.78), (w * 0.75, -h * 0.78)], INK if who.parts[1] else who.accent, 5)
    badge(c, 0, -h * 0.6, 19, who)


def teapot(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s = who.shape
    w, h = 54 + 12 * s[0], 96 + 24 * s[1]
    arc(c, -w - 2, -h * 0.55, 26 + 6 * s[2], h * 0.3, 80, 200, who.accent, 12)
    tip = -h * (0.85 + 0.25 * s[3])
    polygon(
        c,
        [(w * 0.7, -h * 0.25), (w * 0.7, -h * 0.6), (w + 26, tip), (w + 40, tip + 4)],
        who.accent if who.parts[0] else shade(who.main, 0.8),
    )
    belly = s[4]
    clothe(
        c,
        smooth_path(
            [
                (-w * 0.6, 0),
                (-w, -h * (0.35 + 0.2 * belly)),
                (-w * 0.5, -h * 0.97),
                (w * 0.5, -h * 0.97),
                (w, -h * (0.35 + 0.2 * belly)),
                (w * 0.6, 0),
            ]
        ),
        who,
    )
    rect(c, -w * 0.5, -6, w * 0.5, 2, shade(who.second, 0.8))
    lid_lift = 4 * abs(pose.swing)
    c.drawPath(ellipse_path(0, -h - lid_lift, w * 0.6, 13), paint(who.second))
    c.drawPath(ellipse_path(0, -h - lid_lift, w * 0.6, 13), paint(INK, 0.5, width=3))
    ellipse(c, 0, -h - 20 - lid_lift, 10 + 6 * s[5], 10, who.accent)
    badge(c, 0, -h * 0.48, 21, who)


def toy(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    """A toy robot."""
    s = who.shape
    w, h = 38 + 12 * s[0], 62 + 12 * s[1]
    for side in (-1, 1):
        c.drawPath(rounded_path(side * w * 0.5 - 12, -34, side * w * 0.5 + 12, 0, 5), paint(who.accent))
        swing = 22 * pose.swing * side
        line(
            c,
            [(side * (w + 2), -34 - h * 0.85), (side * (w + 24), -34 - h * 0.45 - swing)],
            shade(who.second, 0.9),
            15,
        )
        ellipse(c, side * (w + 25), -34 - h * 0.42 - swing, 11, 11, who.accent)
    clothe(c, rounded_path(-w, -32 - h, w, -30, 8 + 14 * s[2]), who, 0.9)
    top = -36 - h
    hw, hh = 28 + 12 * s[3], 42 + 8 * s[4]
    line(c, [(0, top - hh), (0, top - hh - 18)], shade(who.second, 0.7), 5)
    ellipse(c, 0, top - hh - 20, 8, 8, who.accent)
    head = rounded_path(-hw, top - hh, hw, top, 6 + 16 * s[5])
    c.drawPath(head, paint(who.second if who.parts[0] else who.main))
    c.drawPath(head, paint(INK, 0.6, width=3))
    eyes(c, 0, top - hh * 0.58, hw * 0.45, 8, pose)
    rect(c, -hw * 0.5, top - hh * 0.24, hw * 0.5, top - hh * 0.12, INK if who.parts[1] else who.accent)
    badge(c, 0, -30 - h * 0.52, 17, who)


def sneaker(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s = who.shape
    high = 76 + 40 * s[0]
    back, front = -76.0, 80.0
    upper = [
        (back, -22),
        (back - 2, -high),
        (back + 44 + 14 * s[1], -high - 4),
        (back + 62, -62),
        (20, -52 - 8 * s[2]),
        (front - 6, -38),
        (front, -20),
    ]
    clothe(c, smooth_path([*upper, (0, -14)]), who)
    c.drawPath(ellipse_path(front - 26, -28, 28, 18), paint(who.accent if who.parts[0] else shade(who.second, 1.3)))
    c.drawPath(
        rounded_path(back - 6, -22 - 8 * s[3], front + 8, 0, 9),
        paint((0.96, 0.95, 0.92) if who.parts[1] else who.accent),
    )
    rect(c, back - 2, -9, front + 4, -4, who.second)
    for i in range(3):
        x = -14 + 20 * i
        line(
            c,
            [(x - 10, -58 + 4 * i - 6 * pose.swing), (x + 6, -42 + 3 * i)],
            who.accent if sum(who.accent) > 1 else (0.97, 0.97, 0.95),
            7,
        )
    line(c, [(back + 4, -high + 8), (back + 42, -high + 6)], who.accent, 9)
    badge(c, back + 34, -52, 17, who)


def vase(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s = who.shape
    h, belly, neck = 112 + 24 * s[0], 40 + 22 * s[1], 16 + 14 * s[2]
    stems = 1 + who.parts[0]
    for i in range(stems):
        x = (i - (stems - 1) / 2) * 26 + 6 * pose.swing
        line(c, [(x * 0.4, -h), (x, -h - 34)], (0.2, 0.5, 0.22), 5)
        ellipse(c, x, -h - 38, 15, 15, who.accent)
        ellipse(c, x, -h - 38, 6, 6, (0.98, 0.9, 0.4))
    at = 0.3 + 0.35 * s[3]
    base = 22 + 14 * s[4]
    side = [(base, 0), (belly, -h * at), (neck, -h * 0.86), (neck + 8 + 10 * s[5], -h)]
    clothe(c, smooth_path([*side, *[(-x, y) for x, y in reversed(side)]]), who)
    ellipse(c, 0, -h, neck + 6, 7, shade(who.second, 0.7))
    if who.parts[1]:
        for k in (-1, 1):
            arc(c, k * (neck + 8), -h * 0.72, 20, 22, -100 if k > 0 else 80, 200, who.accent, 8)
    badge(c, 0, -h * at, 20, who)


def stuffed_animal(c: skia.Canvas, who: Identity, pose: Pose) -> None:
    s, light = who.shape, shade(who.second, 1.2)
    w, h = 40 + 12 * s[0], 44 + 6 * s[1]
    for side in (-1, 1):
        ellipse(c, side * (w - 2), -16, 24, 19, who.main)
        ellipse(c, side * (w + 2), -14, 13, 11, light)
        c.save()
        c.translate(side * (w + 4), -62)
        c.rotate(side * (25 + 20 * pose.swing))
        ellipse(c, 0, 10, 15, 27, shade(who.main, 0.88))
        c.restore()
    clothe(c, ellipse_path(0, -h - 4, w, h), who)
    ellipse(c, 0, -h + 6, w * 0.55, h * 0.6, light)
    x, y, r = 5 * pose.swing, -120.0, 40 + 5 * s[2]
    for side in (-1, 1):
        if s[3] < 0.4:  # long ears
            ellipse(c, x + side * r * 0.5, y - r * 1.15, 11, 26, who.main)
            ellipse(c, x + side * r * 0.5, y - r * 1.15, 5, 17, who.accent)
        else:
            ellipse(c, x + side * r * 0.72, y - r * 0.72, 17, 17, who.main)
            ellipse(c, x + side * r * 0.72, y - r * 0.72, 9, 9, who.accent)
    clothe(c, ellipse_path(x, y, r * 1.05, r * 0.92), who, 0.8)
    ellipse(c, x, y + r * 0.32, r * 0.48, r * 0.36, light)
    ellipse(c, x, y + r * 0.16, 9, 6, INK)
    eyes(c, x, y - r * 0.16, r * 0.42, 5.5, pose)
    if who.parts[0]:
        for side in (-1, 1):
            polygon(
                c,
                [(x, y + r * 0.98), (x + side * 24, y + r * 0.78), (x + side * 24, y + r * 1.28)],
                who.accent,
            )
    badge(c, 0, -h + 6, 17, who)


DRAW: dict[str, Callable[[skia.Canvas, Identity, Pose], None]] = {
    "dog": dog,
    "cat": cat,
    "backpack": backpack,
    "teapot": teapot,
    "toy": toy,
    "sneaker": sneaker,
    "vase": vase,
    "stuffed animal": stuffed_animal,
}
