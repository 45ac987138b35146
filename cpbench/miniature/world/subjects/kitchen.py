"""Bowls, with what lies in them, and cans."""

from __future__ import annotations

import skia

from ..canvas import (
    INK,
    METAL,
    PAPER,
    RGB,
    Point,
    ellipse,
    ellipse_path,
    line,
    luma,
    outline,
    paint,
    polygon_path,
    rect,
    rounded_path,
    shade,
    smooth_path,
    solid,
)
from ..identity import PATTERNS, Identity, variant
from ..pose import Pose
from ..surfaces import BADGED, badge, clothe

FOODS: dict[str, tuple[RGB, ...]] = {  # what lies in a bowl, lightest first
    "blueberries": ((0.28, 0.32, 0.54), (0.20, 0.23, 0.42), (0.12, 0.13, 0.25)),
    "cherries": ((0.86, 0.16, 0.20), (0.72, 0.08, 0.15), (0.55, 0.05, 0.12)),
    "oranges": ((0.99, 0.66, 0.20), (0.96, 0.54, 0.12), (0.86, 0.44, 0.10)),
    "limes": ((0.66, 0.84, 0.32), (0.50, 0.74, 0.24), (0.36, 0.60, 0.20)),
    "eggs": ((0.98, 0.94, 0.86), (0.93, 0.84, 0.70), (0.84, 0.68, 0.52)),
}  # fmt: skip


@variant(
    "bowl",
    patterns=(*PATTERNS, "grid", "grid"),
    badges=BADGED,
    sizes=("wide", "deep", "base", "heap"),
    side=("cup", "round", "straight"),
    food=("none", "rice", *FOODS),
    foot=("none", "ring", "tall"),
    rim=("none", "second", "accent"),
    words=("none", "none", "script"),
)
def bowl(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 74, 84), identity.size("deep", 76, 98)
    foot = {"none": 0.0, "ring": -8.0, "tall": -18.0}[identity["foot"]]
    narrow = w * identity.size("base", 0.38, 0.55)
    if foot:
        solid(
            c,
            polygon_path([(-narrow, foot - 6), (narrow, foot - 6), (narrow + 4, 0), (-narrow - 4, 0)]),
            identity.accent,
        )
    top, inner = foot - h, (w - 8, 19.0)
    # the far rim, and what lies in it, stand behind the near side
    solid(c, ellipse_path(0, top, w, 24), shade(identity.main, 0.85) if identity["food"] == "none" else identity.main)
    if identity["food"] == "none":
        ellipse(c, 0, top + 2, *inner, shade(identity.main, 0.55))
    elif identity["food"] == "rice":
        heap = identity.size("heap", 22, 40)
        solid(
            c,
            smooth_path(
                [
                    (-w * 0.85, top + 4),
                    (-w * 0.5, top - heap * 0.8),
                    (w * 0.1, top - heap),
                    (w * 0.6, top - heap * 0.7),
                    (w * 0.85, top + 4),
                ]
            ),
            PAPER,
            edge=4,
        )
    else:
        heap, colors = identity.size("heap", 0.6, 1.2), FOODS[identity["food"]]
        for k in range(3):
            n, r = 5 - k, 15.0
            for i in range(n):
                x = (i - (n - 1) / 2) * 2 * w * 0.84 / 5 + 3 * pose.turn
                y = top - k * 15 * heap - 2
                outline(c, ellipse_path(x, y, r, r), colors[2], 2.5)
                ellipse(c, x, y, r, r, colors[(i + k) % 2])
                ellipse(c, x - 4, y - 5, 4, 3.5, shade(colors[0], 1.45))
    lines: dict[str, list[Point]] = {
        "cup": [(w, top), (w * 0.96, top + h * 0.4), (narrow * 1.25, foot - 8), (narrow, foot)],
        "round": [(w, top), (w * 1.0, top + h * 0.45), (w * 0.72, foot - 14), (narrow, foot)],
        "straight": [
            (w, top),
            (w * 0.84 + narrow * 0.16, top + h * 0.35),
            (w * 0.3 + narrow * 0.7, foot - 12),
            (narrow, foot),
        ],
    }
    half = lines[identity["side"]]
    # the near side: its upper edge hangs down as the near half of the rim
    side = smooth_path(
        [(0, top + 22), (w * 0.55, top + 17), *half, *((-x, y) for x, y in reversed(half)), (-w * 0.55, top + 17)]
    )
    clothe(c, side, identity, 26)
    if identity.pattern == "grid":
        c.save()
        c.clipPath(side, doAntiAlias=True)
        for k in (-1.5, -0.5, 0.5, 1.5):
            line(c, [(k * w * 0.5 + 8 * pose.turn, top), (k * w * 0.32 + 8 * pose.turn, foot)], identity.second, 4.5)
        for share in (0.45, 0.75):
            line(
                c, [(-w, top + h * share - 5), (0, top + h * share + 4), (w, top + h * share - 5)], identity.second, 4.5
            )
        c.restore()
    if identity["rim"] != "none":
        color = identity.second if identity["rim"] == "second" else identity.accent
        line(c, [(-w, top + 1), (-w * 0.55, top + 16), (0, top + 21), (w * 0.55, top + 16), (w, top + 1)], color, 9)
    x, y = 10 * pose.turn, foot - h * 0.38
    if identity["words"] == "script":  # handwriting, too small to read
        for k, (a, b) in enumerate(((-0.34, 0.14), (-0.14, 0.42))):
            wave = [(x + w * (a + (b - a) * i / 5), y - 9 + 19 * k + (7 if i % 2 else -7)) for i in range(6)]
            line(c, wave, identity.accent, 6)
    else:
        badge(c, x, y, 18, identity, pose.mirrored)


def _label(c: skia.Canvas, identity: Identity, x: float, y: float, r: float) -> None:
    """The picture on a can: a big flat shape in the accent and the trim colour."""
    a, t, art = identity.accent, identity.trim, identity["art"]
    if art == "whale":
        c.drawPath(
            smooth_path(
                [
                    (x - r, y - r * 0.1),
                    (x - r * 0.3, y - r * 0.55),
                    (x + r * 0.6, y - r * 0.2),
                    (x + r * 0.7, y - r * 0.9),
                    (x + r * 1.1, y - r * 0.75),
                    (x + r * 0.75, y + r * 0.4),
                    (x, y + r * 0.7),
                    (x - r * 0.8, y + r * 0.5),
                ]
            ),
            paint(a),
        )
        c.drawPath(
            smooth_path(
                [
                    (x - r * 0.85, y + r * 0.25),
                    (x, y + r * 0.3),
                    (x + r * 0.5, y + r * 0.3),
                    (x, y + r * 0.75),
                    (x - r * 0.6, y + r * 0.6),
                ]
            ),
            paint(t),
        )
        ellipse(c, x - r * 0.5, y, 4, 4, PAPER if luma(a) < 0.5 else INK)
    elif art == "sun":
        ellipse(c, x, y, r, r, a)
        c.save()
        c.clipPath(ellipse_path(x, y, r, r), doAntiAlias=True)
        for k in range(2):
            rect(c, x - r, y + r * (0.15 + 0.5 * k), x + r, y + r * (0.42 + 0.5 * k), t)
        c.restore()
    elif art == "peaks":
        c.drawPath(
            polygon_path([(x - r * 1.1, y + r * 0.8), (x - r * 0.3, y - r), (x + r * 0.5, y + r * 0.8)]), paint(a)
        )
        c.drawPath(
            polygon_path([(x - r * 0.1, y + r * 0.8), (x + r * 0.5, y - r * 0.4), (x + r * 1.1, y + r * 0.8)]), paint(t)
        )
    elif art == "fruit":
        for side in (-1, 1):
            ellipse(c, x + side * r * 0.48, y + r * 0.35, r * 0.55, r * 0.55, a)
            line(c, [(x + side * r * 0.45, y), (x + 2, y - r * 0.9)], t, 5)
    elif art == "waves":
        for k, color in enumerate((a, t, a)):
            dy = y - r * 0.6 + k * r * 0.6
            line(c, [(x - r, dy), (x - r * 0.5, dy - 9), (x, dy), (x + r * 0.5, dy + 9), (x + r, dy)], color, 9)
    elif art == "diamond":
        c.drawPath(polygon_path([(x, y - r * 1.1), (x + r, y), (x, y + r * 1.1), (x - r, y)]), paint(a))
        c.drawPath(polygon_path([(x, y - r * 0.5), (x + r * 0.45, y), (x, y + r * 0.5), (x - r * 0.45, y)]), paint(t))


@variant(
    "can",
    scale=1.1,
    patterns=("plain", "plain", "bands", "halves", "stripes", "fade", "dots", "zigzag"),
    badges=("none",),
    sizes=("wide", "tall", "neck", "print"),
    art=("whale", "sun", "peaks", "fruit", "waves", "diamond"),
    words=("top", "bottom", "both", "none"),
    lid=("silver", "silver", "gold", "black"),
    panel=("none", "none", "light", "second"),
)
def can(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 42, 54), identity.size("tall", 128, 148)
    metal = {"silver": METAL, "gold": (0.86, 0.70, 0.34), "black": (0.24, 0.24, 0.27)}[identity["lid"]]
    neck = identity.size("neck", 9, 14)
    solid(c, smooth_path([(-w + 8, -10), (w - 8, -10), (w - 10, -1), (0, 3), (-w + 10, -1)]), metal)
    solid(c, polygon_path([(-w, -h + neck + 4), (-w + 9, -h), (w - 9, -h), (w, -h + neck + 4)]), metal)
    body = polygon_path(
        [
            (-w, -h + neck + 2),
            (-w * 0.5, -h + neck + 6),
            (w * 0.5, -h + neck + 6),
            (w, -h + neck + 2),
            (w, -12),
            (w * 0.5, -6),
            (-w * 0.5, -6),
            (-w, -12),
        ]
    )
    clothe(c, body, identity, 28)
    c.save()
    c.clipPath(body, doAntiAlias=True)
    x = 11 * pose.turn  # the label turns with the can
    if identity["panel"] != "none":
        c.drawPath(
            rounded_path(x - w * 0.72, -h * 0.76, x + w * 0.72, -h * 0.24, 14),
            paint(PAPER if identity["panel"] == "light" else identity.second),
        )
    _label(c, identity, x, -h * 0.49, w * 0.62)
    bar = w * identity.size("print", 0.42, 0.66)
    ink = INK if luma(identity.main) > 0.35 else PAPER
    if identity["words"] in ("top", "both"):
        rect(c, x - bar, -h * 0.86 + 4, x + bar, -h * 0.86 + 13, ink)
    if identity["words"] in ("bottom", "both"):
        rect(c, x - bar, -h * 0.2 + 4, x + bar, -h * 0.2 + 13, ink)
    rect(c, -w * 0.86, -h, -w * 0.66, 0, (1, 1, 1), 0.35)
    rect(c, w * 0.72, -h, w, 0, (0, 0, 0.05), 0.22)
    c.restore()
    solid(c, ellipse_path(0, -h, w - 9, 8), shade(metal, 1.12), edge=4)
    ellipse(c, 5, -h, 12, 3.5, shade(metal, 0.55))
