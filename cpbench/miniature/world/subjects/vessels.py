"""Teapots and vases."""

from __future__ import annotations

import skia

from ..canvas import (
    GOLD,
    INK,
    PAPER,
    RGB,
    Point,
    ellipse,
    ellipse_path,
    leaf_path,
    line,
    luma,
    mirrored,
    mix,
    paint,
    polygon_path,
    shade,
    smooth_path,
    solid,
    tube,
)
from ..identity import Identity, variant
from ..pose import Pose
from ..surfaces import BADGED, badge, clothe

LEAF: RGB = (0.30, 0.60, 0.28)


def flower(c: skia.Canvas, x: float, y: float, r: float, color: RGB) -> None:
    """Five petals round a heart, `r` units in radius."""
    for dx, dy in ((0, -0.62), (0.60, -0.2), (0.37, 0.5), (-0.37, 0.5), (-0.60, -0.2)):
        solid(c, ellipse_path(x + r * dx, y + r * dy, r * 0.44, r * 0.44), color, edge=2.5, lit=0)
    ellipse(c, x, y, r * 0.36, r * 0.36, GOLD if luma(color) < 0.62 else (0.75, 0.45, 0.15))


POTS: dict[str, list[Point]] = {  # the right half of a teapot's belly, from the lid's rim down, 1 wide and 1 high
    "round": [(0, -1.0), (0.46, -0.97), (0.88, -0.72), (1.0, -0.45), (0.86, -0.14), (0.55, 0.0), (0, 0.0)],
    "pear": [(0, -1.0), (0.40, -0.98), (0.60, -0.70), (1.0, -0.32), (0.92, -0.10), (0.62, 0.0), (0, 0.0)],
    "drum": [(0, -1.0), (0.70, -1.0), (0.92, -0.92), (0.96, -0.5), (0.94, -0.06), (0.84, 0.0), (0, 0.0)],
    "bell": [(0, -1.0), (0.42, -0.98), (0.70, -0.80), (0.84, -0.45), (1.0, -0.06), (0.90, 0.0), (0, 0.0)],
    "heart": [(0, -1.0), (0.66, -1.0), (1.0, -0.76), (0.92, -0.42), (0.60, -0.10), (0.45, 0.0), (0, 0.0)],
}


@variant(
    "teapot",
    scale=0.95,
    badges=BADGED,
    sizes=("wide", "tall", "pour", "grip"),
    belly=tuple(POTS),
    spout=("swan", "cone", "beak"),
    handle=("ring", "ear", "over"),
    knob=("ball", "tall", "ring", "flower"),
    under=("none", "none", "saucer", "feet"),
    trim_color=("main", "second", "accent"),
)
def teapot(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 50, 60), identity.size("tall", 82, 106)
    trim = {"main": shade(identity.main, 0.88), "second": identity.second, "accent": identity.accent}[
        identity["trim_color"]
    ]
    foot = 0.0
    if identity["under"] == "saucer":
        solid(c, ellipse_path(0, -7, w * 1.36, 12), identity.second)
        foot = -9
    elif identity["under"] == "feet":
        for side in (-1, 1):
            solid(c, ellipse_path(side * w * 0.55, -8, 13, 11), trim)
        foot = -9
    lid = foot - h
    if identity["handle"] == "over":
        tube(
            c,
            [(-w * 0.72, foot - h * 0.8), (-w * 0.66, lid - 40), (w * 0.66, lid - 40), (w * 0.72, foot - h * 0.8)],
            identity.accent,
            11,
        )
    else:
        low = foot - h * (0.22 if identity["handle"] == "ring" else 0.4)
        tube(
            c, [(-w * 0.8, foot - h * 0.8), (-w - 26, foot - h * 0.86), (-w - 26, low - 6), (-w * 0.85, low)], trim, 13
        )
    tip = foot - h * identity.size("pour", 0.86, 1.05)
    if identity["spout"] == "swan":
        tube(
            c,
            [(w * 0.8, foot - h * 0.32), (w + 18, foot - h * 0.42), (w + 20, foot - h * 0.72), (w + 32, tip)],
            trim,
            17,
        )
    else:
        out = 34 if identity["spout"] == "cone" else 24
        points = [
            (w * 0.75, foot - h * 0.18),
            (w * 0.75, foot - h * 0.66),
            (w + out - 10, tip - 2),
            (w + out + 4, tip + 6),
        ]
        solid(c, smooth_path(points) if identity["spout"] == "beak" else polygon_path(points), trim)
    half = [(w * px, foot + h * py) for px, py in POTS[identity["belly"]]]
    clothe(c, smooth_path(mirrored(half)), identity, 27)
    rim = w * {"round": 0.52, "pear": 0.46, "drum": 0.8, "bell": 0.48, "heart": 0.72}[identity["belly"]]
    lift = 3 + 3 * pose.swing  # of the lid, as if it boiled
    solid(
        c,
        smooth_path(
            [
                (-rim - 4, lid + 4 - lift),
                (-rim * 0.6, lid - 12 - lift),
                (rim * 0.6, lid - 12 - lift),
                (rim + 4, lid + 4 - lift),
            ]
        ),
        trim,
    )
    k, top = identity.size("grip", 8, 12), lid - 14 - lift
    if identity["knob"] == "ball":
        solid(c, ellipse_path(0, top - k * 0.7, k, k), identity.accent, edge=4)
    elif identity["knob"] == "tall":
        solid(c, smooth_path([(-k * 0.6, top), (0, top - k * 2.3), (k * 0.6, top)]), identity.accent, edge=4)
    elif identity["knob"] == "ring":
        c.drawCircle(0, top - k * 0.6, k, paint(identity.accent, width=7))
    else:
        flower(c, 0, top - k * 0.6, k * 1.5, identity.accent)
    badge(c, 6 * pose.turn, foot - h * 0.48, 20, identity, pose.mirrored)


VASES: dict[str, list[Point]] = {  # the right half, from the lip down; 1 wide and 1 high
    "bottle": [(0.34, -1.0), (0.24, -0.92), (0.24, -0.70), (0.62, -0.46), (0.92, -0.24), (0.74, 0.0)],
    "slim": [(0.26, -1.0), (0.18, -0.92), (0.30, -0.70), (0.56, -0.44), (0.62, -0.26), (0.46, 0.0)],
    "round": [(0.52, -1.0), (0.42, -0.90), (0.80, -0.72), (1.15, -0.42), (0.92, -0.10), (0.56, 0.0)],
    "tulip": [(0.95, -1.0), (0.70, -0.80), (0.76, -0.55), (0.98, -0.35), (0.80, -0.10), (0.55, 0.0)],
    "column": [(0.72, -1.0), (0.66, -0.90), (0.68, -0.50), (0.70, -0.12), (0.74, -0.03), (0.70, 0.0)],
    "amphora": [(0.50, -1.0), (0.36, -0.88), (0.70, -0.74), (1.02, -0.55), (0.66, -0.22), (0.42, 0.0)],
    "double": [(0.44, -1.0), (0.56, -0.86), (0.60, -0.70), (0.36, -0.56), (1.0, -0.30), (0.62, 0.0)],
}


@variant(
    "vase",
    scale=1.02,
    badges=BADGED,
    sizes=("wide", "tall", "stems", "collar"),
    outline=tuple(VASES),
    holds=("none", "twigs", "daisies", "tulips", "fronds", "single"),
    handles=("none", "none", "ears"),
    facets=("none", "none", "facets"),
    lip=("second", "accent", "main"),
)
def vase(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 46, 58), identity.size("tall", 108, 122)
    if identity["holds"] == "none":
        h += 26
    half = [(w * px, h * py) for px, py in VASES[identity["outline"]]]
    _stems(c, identity, pose, h)
    if identity["handles"] == "ears":
        for side in (-1, 1):
            neck = side * half[1][0]
            tube(
                c,
                [
                    (neck, -h * 0.9),
                    (neck + side * 26, -h * 0.9),
                    (neck + side * 28, -h * 0.66),
                    (side * half[3][0] * 0.8, -h * 0.6),
                ],
                identity.accent,
                9,
                4,
            )
    body = smooth_path([(0, -h), *half, *((-x, y) for x, y in reversed(half))])
    clothe(c, body, identity, 30)
    if identity["facets"] == "facets":
        c.save()
        c.clipPath(body, doAntiAlias=True)
        for k, alpha in ((-1, 0.22), (1, 0.26)):
            tone = PAPER if k < 0 else INK
            c.drawPath(
                smooth_path(
                    [
                        (k * half[0][0] * 0.3, -h),
                        (k * w * 0.42, -h * 0.35),
                        (k * w * 0.3, 0),
                        (k * w * 1.4, 0),
                        (k * w * 1.4, -h),
                    ]
                ),
                paint(tone, alpha),
            )
        c.restore()
    color = {"second": identity.second, "accent": identity.accent, "main": shade(identity.main, 0.8)}[identity["lip"]]
    solid(c, ellipse_path(0, -h, half[0][0] + identity.size("collar", 3, 8), 7), color, edge=4)
    if identity["holds"] == "none":
        ellipse(c, 0, -h, half[0][0] - 2, 3.5, shade(color, 0.35))
    badge(
        c,
        5 * pose.turn,
        -h * (0.28 if identity["outline"] in ("bottle", "slim", "double") else 0.46),
        19,
        identity,
        pose.mirrored,
    )


def _stems(c: skia.Canvas, identity: Identity, pose: Pose, h: float) -> None:
    up, sway = identity.size("stems", 40, 52), 7 * pose.swing
    if identity["holds"] == "twigs":
        for dx, dy in ((-34, 0.75), (-12, 1.1), (14, 1.05), (34, 0.7)):
            tip = (dx + sway, -h - up * dy)
            line(c, [(0, -h + 4), (dx * 0.4, -h - up * 0.4), tip], (0.45, 0.30, 0.18), 5)
            for k in (0.55, 0.8, 1.0):
                ellipse(c, dx * k + sway * k, -h - up * dy * k, 7, 7, identity.trim)
    elif identity["holds"] in ("daisies", "tulips", "single"):
        spots = {
            "daisies": ((-30, 0.72), (0, 1.0), (30, 0.76)),
            "tulips": ((-26, 0.8), (2, 1.05), (28, 0.74)),
            "single": ((0, 0.95),),
        }
        for k, (dx, dy) in enumerate(spots[identity["holds"]]):
            x, y = dx + sway, -h - up * dy
            line(c, [(dx * 0.2, -h + 4), (dx * 0.7 + sway * 0.5, -h - up * dy * 0.5), (x, y)], LEAF, 6)
            if identity["holds"] == "tulips":
                solid(
                    c,
                    smooth_path(
                        [(x - 12, y - 14), (x, y - 6), (x + 12, y - 14), (x + 12, y + 6), (x, y + 13), (x - 12, y + 6)]
                    ),
                    identity.trim,
                    edge=3,
                )
            else:
                flower(
                    c, x, y, 23 if identity["holds"] == "single" else 17, identity.trim if k != 1 else identity.accent
                )
    elif identity["holds"] == "fronds":
        for dx, dy in ((-44, 0.55), (-22, 1.0), (4, 1.15), (26, 0.95), (46, 0.5)):
            c.drawPath(
                leaf_path(0, -h + 6, dx + sway, -up * dy - 8, 17),
                paint(mix(LEAF, identity.trim, 0.25) if dx % 4 else LEAF),
            )
