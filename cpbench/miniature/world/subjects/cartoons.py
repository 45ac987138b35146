"""Cartoons: flat creatures with a thick black line around them, standing up and waving."""

from __future__ import annotations

import skia

from ..canvas import (
    COLORS,
    INK,
    PAPER,
    Point,
    ellipse,
    ellipse_path,
    line,
    luma,
    mirrored,
    open_path,
    paint,
    polygon,
    polygon_path,
    rect,
    rounded_path,
    smooth_path,
)
from ..identity import Identity, variant
from ..pose import Pose
from ..surfaces import PAINTERS, badge

LINE = 7.0  # what makes it a cartoon
HALVES: dict[str, list[Point]] = {  # the right half of the body, head and trunk in one, 2 wide and 2 high
    "pill": [(0, -1.0), (0.5, -0.9), (0.8, -0.5), (0.84, 0.2), (0.84, 0.8), (0.5, 0.98), (0, 1.0)],
    "pear": [(0, -1.0), (0.5, -0.88), (0.62, -0.4), (0.98, 0.35), (0.8, 0.92), (0, 1.0)],
    "egg": [(0, -1.0), (0.72, -0.75), (1.0, -0.1), (0.86, 0.6), (0.5, 0.94), (0, 1.0)],
    "bell": [(0, -1.0), (0.6, -0.92), (0.7, -0.3), (0.78, 0.4), (1.05, 0.95), (0, 1.0)],
}


@variant(
    "cartoon",
    scale=0.95,
    patterns=("plain", "plain", "halves", "bands", "dots", "stripes", "fade"),
    badges=("none", "none", "star", "heart", "bolt", "letter"),
    sizes=("wide", "tall", "look", "gap", "limbs"),
    body=tuple(HALVES),
    top=("ears", "horns", "antennae", "tuft", "fin", "crown"),
    eyes=("dots", "round", "one", "sleepy", "angry"),
    mouth=("line", "smile", "teeth", "tongue"),
    hands=("round", "pointed"),
    belly=("none", "none", "patch"),
)
def cartoon(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    wide, high = identity.size("wide", 42, 58), identity.size("tall", 54, 66)
    y = -28 - high
    limb = identity.size("limbs", 19, 27)
    for side in (-1, 1):
        up = 44 * (pose.swing * side if abs(pose.swing) > 0.5 else abs(pose.swing))
        arm = [(side * wide * 0.6, y + 14), (side * (wide + 12), y + 18 - up * 0.4), (side * (wide + 27), y + 30 - up)]
        _limb(c, identity, arm, limb * 0.9)
        _limb(c, identity, [(side * wide * 0.42, -40), (side * (wide * 0.46 + 3), -limb * 0.5 - 3)], limb)
    _top(c, identity, wide, y - high)
    body = smooth_path([(wide * px, y + high * py) for px, py in mirrored(HALVES[identity["body"]])])
    c.drawPath(body, paint(INK, width=2 * LINE))
    c.drawPath(body, paint(identity.main))
    c.save()
    c.clipPath(body, doAntiAlias=True)
    b = body.getBounds()
    if identity.pattern in PAINTERS:
        PAINTERS[identity.pattern](c, b.left(), b.top(), b.right(), b.bottom(), 30, identity.second, identity)
    if identity["belly"] == "patch":
        ellipse(c, 0, y + high * 0.6, wide * 0.55, high * 0.45, identity.accent)
    c.restore()
    badge(c, 0, y + high * 0.52, 15, identity, pose.mirrored)
    _face(c, identity, pose, wide, y - high * 0.42)


def _limb(c: skia.Canvas, identity: Identity, points: list[Point], width: float) -> None:
    path = open_path(points)
    c.drawPath(path, paint(INK, width=width + 2 * LINE - 2))
    c.drawPath(path, paint(identity.main, width=width - 1))
    if identity["hands"] == "pointed":
        ellipse(c, *points[-1], width * 0.3, width * 0.3, identity.second)


def _top(c: skia.Canvas, identity: Identity, wide: float, top: float) -> None:
    """What grows out of the head, drawn before it."""
    edge = paint(INK, width=2 * LINE - 2)

    def piece(points: list[Point], color, smooth: bool = False) -> None:
        path = smooth_path(points) if smooth else polygon_path(points)
        c.drawPath(path, edge)
        c.drawPath(path, paint(color))

    for side in (-1, 1):
        if identity["top"] == "ears":
            piece(
                [(side * wide * 0.2, top + 12), (side * wide * 0.74, top - 18), (side * wide * 0.85, top + 26)],
                identity.main,
            )
        elif identity["top"] == "horns":
            piece(
                [(side * wide * 0.3, top + 10), (side * wide * 0.95, top - 20), (side * wide * 0.7, top + 24)],
                identity.second,
                True,
            )
        elif identity["top"] == "antennae":
            line(c, [(side * wide * 0.3, top + 10), (side * wide * 0.5, top - 16)], INK, 8)
            c.drawPath(ellipse_path(side * wide * 0.54, top - 18, 9, 9), edge)
            ellipse(c, side * wide * 0.54, top - 18, 9, 9, identity.accent)
    if identity["top"] == "tuft":
        piece(
            [
                (-wide * 0.3, top + 12),
                (-wide * 0.3, top - 16),
                (0, top - 4),
                (wide * 0.05, top - 24),
                (wide * 0.3, top + 12),
            ],
            identity.second,
        )
    elif identity["top"] == "fin":
        piece([(-wide * 0.35, top + 12), (wide * 0.1, top - 24), (wide * 0.4, top + 14)], identity.accent, True)
    elif identity["top"] == "crown":
        w = wide * 0.5
        piece(
            [
                (-w, top + 10),
                (-w, top - 18),
                (-w / 2, top - 4),
                (0, top - 22),
                (w / 2, top - 4),
                (w, top - 18),
                (w, top + 10),
            ],
            COLORS["yellow"],
        )


def _face(c: skia.Canvas, identity: Identity, pose: Pose, wide: float, y: float) -> None:
    x, gap, size = 6 * pose.turn, wide * identity.size("gap", 0.32, 0.48), identity.size("look", 9, 13)
    dark = INK if luma(identity.main) > 0.2 or identity["eyes"] != "dots" else PAPER
    places = [(x, y)] if identity["eyes"] == "one" else [(x - gap, y), (x + gap, y)]
    for k, (px, py) in enumerate(places):
        if pose.blink:
            line(c, [(px - size, py), (px + size, py)], INK if luma(identity.main) > 0.2 else PAPER, 5)
        elif identity["eyes"] == "dots":
            ellipse(c, px, py, size * 0.66, size * 0.72, dark)
        else:
            r = size * (1.7 if identity["eyes"] == "one" else 1.1)
            ellipse(c, px, py, r + 4, r + 4, INK)
            ellipse(c, px, py, r, r, PAPER)
            ellipse(c, px + 4 * pose.turn, py, r * 0.5, r * 0.5, INK)
            if identity["eyes"] == "sleepy":
                rect(c, px - r - 3, py - r - 4, px + r + 3, py - r * 0.1, INK)
                rect(c, px - r, py - r, px + r, py - r * 0.4, identity.main)
            elif identity["eyes"] == "angry":
                tilt = 8 if k == 0 else -8
                line(c, [(px - r, py - r - tilt * 0.7), (px + r, py - r + tilt * 0.7)], INK, 8)
    y += size + 14
    ink = INK if luma(identity.main) > 0.2 else PAPER
    if identity["mouth"] == "line":
        line(c, [(x - 13, y), (x + 13, y - 3)], ink, 6)
    elif identity["mouth"] == "smile":
        line(c, [(x - 16, y - 4), (x, y + 6), (x + 16, y - 4)], ink, 6)
    else:
        mouth = rounded_path(x - 18, y - 6, x + 18, y + 12, 9)
        c.drawPath(mouth, paint(INK))
        if identity["mouth"] == "teeth":
            for k in (-1, 0, 1):
                polygon(c, [(x + 10 * k - 5, y - 5), (x + 10 * k + 5, y - 5), (x + 10 * k, y + 4)], PAPER)
        else:
            ellipse(c, x, y + 9, 9, 6, (0.95, 0.42, 0.48))
