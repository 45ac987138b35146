"""Cube-shaped subjects: an individual's colours, pattern and badge on a box, with the essential parts of its class."""

from __future__ import annotations

from collections.abc import Callable

import skia

from .canvas import (
    EDGE,
    GOLD,
    INK,
    METAL,
    PAPER,
    RGB,
    ellipse,
    ellipse_path,
    gradient,
    line,
    luma,
    mix,
    outline,
    paint,
    polygon,
    polygon_path,
    rect,
    rounded_path,
    shade,
    smooth_path,
    solid,
    tube,
)
from .identity import Identity
from .pose import Pose
from .surfaces import badge, clothe

W, H, D = 60.0, 112.0, 32.0  # half the front's width, its height, the depth as drawn
MIDDLE = -H / 2


def cube(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    """The individual as a cube standing on the ground."""
    c.save()
    c.translate(-D * 0.4, 0)
    behind, before = FEATURES.get(identity.noun, (None, None))
    if behind:
        behind(c, identity, pose)
    second = identity.second if identity.noun not in ("dog", "cat") else shade(identity.main, 0.9)
    sides = polygon_path([(-W, -H), (-W + D, -H - D), (W + D, -H - D), (W + D, -D), (W, 0), (-W, 0)])
    outline(c, sides, identity.main, EDGE)
    polygon(c, [(-W, -H), (-W + D, -H - D), (W + D, -H - D), (W, -H)], shade(identity.main, 1.3))
    polygon(c, [(W, -H), (W + D, -H - D), (W + D, -D), (W, 0)], shade(identity.main, 0.6))
    clothe(c, polygon_path([(-W, -H), (W, -H), (W, 0), (-W, 0)]), identity, 30, second=second, edge=1.5, lit=0.1)
    for path in ([(-W, -H), (W, -H), (W, 0)], [(W, -H), (W + D, -H - D)]):
        for a, b in zip(path, path[1:], strict=False):
            line(c, [a, b], shade(identity.main, 0.45) if luma(identity.main) > 0.2 else METAL, 5)
    if before:
        before(c, identity, pose)
    c.restore()


def _eyes(c: skia.Canvas, y: float, gap: float, r: float, iris: RGB, pose: Pose) -> None:
    for side in (-1, 1):
        ellipse(c, side * gap, y, r + 2.5, r + 2.5, PAPER)
        ellipse(c, side * gap, y, r, r, iris)
        ellipse(c, side * gap + 2 * pose.turn, y, r * 0.6, r * 0.7, INK)


def _ears(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    color = (
        identity.second if identity.pattern in ("points", "saddle", "patch", "calico") else shade(identity.main, 0.9)
    )
    for side in (-1, 1):
        x = side * W * 0.62 + D * 0.5
        if identity.noun == "dog" and identity["ears"] in ("button", "hanging", "long"):
            continue  # they hang before the front
        solid(c, polygon_path([(x - 20, -H - D + 6), (x + 20, -H - D + 6), (x + side * 6, -H - D - 32)]), color)
        polygon(
            c,
            [(x - 9, -H - D + 2), (x + 9, -H - D + 2), (x + side * 4, -H - D - 18)],
            mix(color, (0.95, 0.66, 0.66), 0.6),
        )
    tube(c, [(W + D - 6, -D - 8), (W + D + 22, -D - 20), (W + D + 24, -D - 52 - 10 * pose.swing)], color, 13)


def _pet(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    """The face and the paws of a dog or a cat on the front."""
    cat = identity.noun == "cat"
    bright = identity.second if identity.pattern in ("bib", "mask", "tuxedo", "points") else shade(identity.main, 1.25)
    if not cat and identity["ears"] in ("button", "hanging", "long"):
        color = identity.second if identity.pattern in ("points", "saddle", "patch") else shade(identity.main, 0.85)
        for side in (-1, 1):
            solid(
                c,
                smooth_path(
                    [
                        (side * W * 0.62, -H - 4),
                        (side * W * 1.08, -H),
                        (side * W * 1.18, -H * 0.52),
                        (side * W * 0.84, -H * 0.62),
                    ]
                ),
                color,
            )
    iris: RGB = (0.45, 0.75, 0.30) if cat else (0.24, 0.14, 0.08)
    _eyes(c, -H * 0.68, W * 0.44, 10, iris, pose)
    if cat:
        for side in (-1, 1):
            ellipse(c, side * 9, -H * 0.42, 12, 10, bright)
            for dy in (-3, 6):
                line(
                    c,
                    [(side * 20, -H * 0.42 + dy), (side * 50, -H * 0.42 + 2 * dy)],
                    PAPER if luma(identity.main) < 0.45 else shade(identity.main, 0.4),
                    3,
                )
        polygon(c, [(-7, -H * 0.53), (7, -H * 0.53), (0, -H * 0.45)], (0.92, 0.55, 0.58))
    else:
        ellipse(c, 0, -H * 0.38, 26, 20, bright)
        ellipse(c, 0, -H * 0.48, 11, 8, INK)
        line(c, [(-12, -H * 0.32), (0, -H * 0.27), (12, -H * 0.32)], INK, 4)
        if pose.open_mouth:
            ellipse(c, 0, -H * 0.2, 8, 10, (0.95, 0.45, 0.52))
    for side in (-1, 1):
        solid(c, ellipse_path(side * W * 0.56, -5, 19, 10), shade(bright, 1.05), edge=4, lit=0)


def _plush_face(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    ellipse(c, 0, -H * 0.48, 24, 18, shade(identity.second, 1.1))
    for side in (-1, 1):
        ellipse(c, side * W * 0.42, -H * 0.70, 8, 8, INK)
        ellipse(c, side * W * 0.42 - 2, -H * 0.72, 2.5, 2.5, PAPER)
        solid(c, ellipse_path(side * W * 0.6, -8, 20, 17), identity.main)
        ellipse(c, side * W * 0.6, -8, 11, 9, identity.second)
    ellipse(c, 0, -H * 0.55, 9, 7, INK)
    line(c, [(-10, -H * 0.43), (0, -H * 0.38), (10, -H * 0.43)], INK, 4)


def _round_ears(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    for side in (-1, 1):
        x = side * W * 0.66 + D * 0.5
        solid(c, ellipse_path(x, -H - D - 4, 19, 19), identity.main)
        ellipse(c, x, -H - D - 4, 10, 10, identity.second)


def _toy_face(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    if identity.variant in ("car", "rocket"):
        solid(c, rounded_path(-W * 0.7, -H * 0.9, W * 0.7, -H * 0.55, 8), (0.66, 0.86, 0.95), edge=3)
        badge(c, 0, -H * 0.33, 15, identity, pose.mirrored)
        for side in (-1, 1):
            if identity.variant == "car":
                solid(c, ellipse_path(side * W * 0.62, -10, 20, 20), (0.15, 0.15, 0.17), edge=3, lit=0)
                ellipse(c, side * W * 0.62, -10, 10, 10, METAL)
            else:
                polygon(c, [(side * W * 0.6, -30), (side * (W + 24), 2), (side * W * 0.6, -4)], identity.accent)
        return
    for side in (-1, 1):
        ellipse(c, side * W * 0.42, -H * 0.68, 15, 15, INK)
        ellipse(c, side * W * 0.42, -H * 0.68, 12, 12, PAPER)
        ellipse(c, side * W * 0.42 + 3 * pose.turn, -H * 0.68, 6.5, 7, INK)
    if identity.variant == "duck":
        solid(
            c, smooth_path([(-24, -H * 0.46), (0, -H * 0.53), (24, -H * 0.46), (0, -H * 0.36)]), identity.accent, edge=4
        )
    else:
        rounded = rounded_path(-24, -H * 0.48, 24, -H * 0.36, 6)
        c.drawPath(rounded, paint(INK))
    badge(c, 0, -H * 0.18, 14, identity, pose.mirrored)


def _knob(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    if identity.noun == "toy" and identity.variant not in ("car",):
        tube(c, [(D * 0.5, -H - D + 8), (D * 0.5 + 5 * pose.swing, -H - D - 20)], identity.second, 7, 3)
        solid(c, ellipse_path(D * 0.5 + 5 * pose.swing, -H - D - 22, 10, 10), identity.accent, edge=4)


def _cartoon_limbs(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    for side in (-1, 1):
        x = W + D * 0.9 if side > 0 else -W
        tube(c, [(x, MIDDLE), (x + side * 24, MIDDLE - 10 - 24 * pose.swing * side)], identity.main, 16, 7)
        polygon(
            c,
            [
                (side * W * 0.6 + D * 0.5 - 16, -H - D + 4),
                (side * W * 0.6 + D * 0.5 + 16, -H - D + 4),
                (side * W * 0.7 + D * 0.5, -H - D - 26),
            ],
            INK,
        )
        polygon(
            c,
            [
                (side * W * 0.6 + D * 0.5 - 8, -H - D + 4),
                (side * W * 0.6 + D * 0.5 + 8, -H - D + 4),
                (side * W * 0.68 + D * 0.5, -H - D - 14),
            ],
            identity.main,
        )


def _cartoon_face(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    edges = [(-W, -H), (W, -H), (W, 0), (-W, 0)]
    c.drawPath(polygon_path(edges), paint(INK, width=8))
    for path in ([(-W, -H), (-W + D, -H - D), (W + D, -H - D), (W + D, -D), (W, 0)], [(W, -H), (W + D, -H - D)]):
        for a, b in zip(path, path[1:], strict=False):
            line(c, [a, b], INK, 8)
    for side in (-1, 1):
        ellipse(c, side * 24, -H * 0.68, 13, 13, INK)
        ellipse(c, side * 24, -H * 0.68, 9, 9, PAPER)
        ellipse(c, side * 24 + 3 * pose.turn, -H * 0.68, 5, 5, INK)
    line(c, [(-20, -H * 0.42), (0, -H * 0.36), (20, -H * 0.42)], INK if luma(identity.main) > 0.2 else PAPER, 7)
    badge(c, 0, -H * 0.18, 14, identity, pose.mirrored)


def _pot_behind(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    tube(c, [(-W + 6, -H * 0.75), (-W - 24, -H * 0.72), (-W - 24, -H * 0.28), (-W + 4, -H * 0.25)], identity.accent, 12)
    solid(
        c,
        polygon_path([(W + D - 4, -D - 10), (W + D - 4, -D - 46), (W + D + 22, -H * 0.95), (W + D + 36, -H * 0.92)]),
        identity.accent,
    )
    solid(c, ellipse_path(D * 0.5, -H - D - 8, 12, 12), identity.accent, edge=4)


def _vase_behind(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    for dx in (-24, 4, 30):
        x, y = D * 0.5 + dx + 6 * pose.swing, -H - D - 30 + abs(dx) * 0.3
        line(c, [(D * 0.5 + dx * 0.3, -H - D * 0.5), (x, y)], (0.30, 0.60, 0.28), 6)
        solid(c, ellipse_path(x, y, 13, 13), identity.trim, edge=3)
        ellipse(c, x, y, 5, 5, GOLD)


def _opening(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    """The open top of a vessel."""
    inside = shade(identity.main, 0.35) if identity.noun == "vase" else (0.20, 0.23, 0.42)
    polygon(c, [(-W + 22, -H - 7), (-W + D + 6, -H - D + 7), (W + D - 22, -H - D + 7), (W - 6, -H - 7)], inside)
    if identity.noun == "bowl":
        for dx, dy in ((-20, -16), (10, -18), (40, -16), (-4, -24), (24, -25)):
            ellipse(c, dx + 4, -H + dy + 2, 12, 11, (0.14, 0.15, 0.30))
            ellipse(c, dx + 4, -H + dy, 11, 10, (0.36, 0.40, 0.66))
    badge(c, 0, -H * 0.45, 20, identity, pose.mirrored)


def _middle_badge(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    badge(c, 0, -H * 0.62 if identity.noun == "backpack" else MIDDLE, 20, identity, pose.mirrored)


def _pack_behind(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    tube(
        c,
        [
            (D * 0.5 - 22, -H - D + 4),
            (D * 0.5 - 18, -H - D - 22),
            (D * 0.5 + 18, -H - D - 22),
            (D * 0.5 + 22, -H - D + 4),
        ],
        identity.accent,
        10,
        4,
    )
    tube(c, [(-W + 4, -H * 0.8), (-W - 20, -H * 0.5), (-W + 4, -H * 0.2)], identity.accent, 11, 4)


def _pack(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    solid(c, rounded_path(-W * 0.7, -H * 0.42, W * 0.7, -9, 9), identity.second, edge=4)
    line(c, [(-W * 0.55, -H * 0.32), (W * 0.55, -H * 0.32)], GOLD, 6)
    if identity.variant == "face":
        _eyes(c, -H * 0.7, W * 0.4, 8, INK, pose)
        ellipse(c, 0, -H * 0.52, 11, 8, INK)
    else:
        _middle_badge(c, identity, pose)


def _shoe(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    polygon(
        c,
        [(-W + 20, -H - 7), (-W + D + 4, -H - D + 7), (W + D - 20, -H - D + 7), (W - 4, -H - 7)],
        shade(identity.second, 0.4),
    )
    for k in range(3):
        y = -H * 0.86 + 20 * k
        line(c, [(-24, y), (24, y + 12)], PAPER, 7)
        line(c, [(24, y), (-24, y + 12)], PAPER, 7)
    sole = PAPER if identity.noun == "sneaker" else identity.trim
    solid(
        c,
        polygon_path([(-W - 6, -20), (W + 2, -20), (W + D + 4, -D - 18), (W + D + 4, -D + 2), (W + 4, 2), (-W - 6, 2)]),
        sole,
        edge=4,
        lit=0.1,
    )
    line(c, [(-W, -9), (W, -9)], identity.accent, 6)


def _can_front(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    polygon(c, [(-W + 6, -H - 3), (-W + D, -H - D + 3), (W + D - 6, -H - D + 3), (W - 2, -H - 3)], METAL)
    ellipse(c, D * 0.5, -H - D * 0.5, 18, 6, (0.45, 0.46, 0.50))
    rect(c, -W, -H, W, -H + 9, METAL)
    rect(c, -W, -9, W, 0, METAL)
    c.drawPath(ellipse_path(0, MIDDLE, 28, 28), paint(identity.accent))
    c.drawPath(ellipse_path(0, MIDDLE, 14, 14), paint(identity.trim))
    rect(c, -30, -H * 0.88 + 2, 30, -H * 0.88 + 11, INK if luma(identity.main) > 0.35 else PAPER)


def _candle_behind(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    x, y = D * 0.5, -H - D + 12
    line(c, [(x, y), (x, y - 12)], INK, 6)
    ellipse(c, x, y - 30, 32, 34, (1.0, 0.86, 0.4), 0.28)
    solid(
        c,
        smooth_path([(x + 5 * pose.swing, y - 56), (x + 14, y - 26), (x, y - 8), (x - 14, y - 26)]),
        (0.98, 0.60, 0.14),
        edge=3,
        lit=0,
    )
    ellipse(c, x, y - 22, 6, 10, (1.0, 0.95, 0.60))


def _candle(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    wax = shade(identity.main, 1.25)
    for x, h in ((-W + 8, 44), (-20, 22), (W - 10, 34)):
        line(c, [(x, -H + 2), (x, -H + h)], wax, 14)
    _middle_badge(c, identity, pose)


def _clock_behind(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    for side in (-1, 1):
        solid(c, ellipse_path(side * 34 + D * 0.5, -H - D - 6, 20, 18), identity.accent)


def _clock(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    c.drawCircle(0, MIDDLE, 46, paint(PAPER))
    c.drawCircle(0, MIDDLE, 46, paint(shade(identity.main, 0.45), width=5))
    for dx, dy in ((0, -37), (37, 0), (0, 37), (-37, 0)):
        ellipse(c, dx, MIDDLE + dy, 5, 5, INK)
    line(c, [(0, MIDDLE), (18 * pose.turn, MIDDLE - 22)], INK, 8)
    line(c, [(0, MIDDLE), (28, MIDDLE + 14 * pose.swing)], identity.accent if luma(identity.accent) < 0.8 else INK, 6)


def _glasses(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    """Square lenses on the front: a box of glass in a frame."""
    for side in (-1, 1):
        lens = rounded_path(side * 30 - 25, -H * 0.80, side * 30 + 25, -H * 0.34, 6)
        c.drawPath(
            lens,
            gradient(0, -H * 0.8, 0, -H * 0.34, [mix(identity.second, INK, 0.3), mix(identity.second, PAPER, 0.5)]),
        )
        c.drawPath(lens, paint(shade(identity.main, 0.4), width=14))
        c.drawPath(lens, paint(identity.accent, width=8))
        line(c, [(side * 30 - 12, -H * 0.44), (side * 30 + 8, -H * 0.72)], PAPER, 6, 0.7)
    line(c, [(-6, -H * 0.62), (6, -H * 0.62)], identity.accent, 9)
    tube(c, [(W, -H * 0.70), (W + D, -H * 0.70 - D)], identity.accent, 8, 3)


Feature = Callable[[skia.Canvas, Identity, Pose], None]
# What a class keeps as a cube: (behind the box, on the box). A class without an entry is a plain box with its badge.
FEATURES: dict[str, tuple[Feature | None, Feature]] = {
    "dog": (_ears, _pet),
    "cat": (_ears, _pet),
    "stuffed animal": (_round_ears, _plush_face),
    "toy": (_knob, _toy_face),
    "cartoon": (_cartoon_limbs, _cartoon_face),
    "backpack": (_pack_behind, _pack),
    "teapot": (_pot_behind, _middle_badge),
    "vase": (_vase_behind, _opening),
    "bowl": (None, _opening),
    "can": (None, _can_front),
    "sneaker": (None, _shoe),
    "boot": (None, _shoe),
    "candle": (_candle_behind, _candle),
    "clock": (_clock_behind, _clock),
    "glasses": (None, _glasses),
}
