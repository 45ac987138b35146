"""Footwear, seen from the side with the toe to the right: sneakers and boots."""

from __future__ import annotations

import skia

from ..canvas import (
    GOLD,
    METAL,
    PAPER,
    Point,
    ellipse,
    ellipse_path,
    gradient,
    line,
    luma,
    paint,
    polygon_path,
    rect,
    rounded_path,
    shade,
    smooth_path,
    solid,
    star_points,
    tube,
)
from ..identity import Identity, variant
from ..pose import Pose
from ..surfaces import BADGED, badge, clothe


def _sheen(c: skia.Canvas, path: skia.Path, identity: Identity) -> None:
    """Cloth that shimmers from one colour into three others."""
    b = path.getBounds()
    c.drawPath(
        path,
        gradient(
            b.left(),
            b.top(),
            b.right(),
            b.bottom(),
            [identity.main, identity.second, identity.main, identity.trim, identity.main],
        ),
    )


@variant(
    "sneaker",
    scale=0.92,
    patterns=("plain", "plain", "plain", "dots", "stripes", "checks", "fade", "sheen", "sheen"),
    badges=("none", "none", "star", "bolt", "letter", "heart", "ring"),
    sizes=("collar", "instep", "thick", "long"),
    cut=("low", "low", "high"),
    sole=("flat", "chunky", "wedge", "wave"),
    sole_color=("white", "white", "accent", "second"),
    mark=("stripes", "swoosh", "none", "band"),
    toe=("none", "cap", "bumper"),
    heel=("none", "panel", "tab"),
    heel_color=("accent", "trim", "blue"),
    laces=("white", "trim", "accent"),
)
def sneaker(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    back, front = -80.0, identity.size("long", 74, 86)
    sole = {"flat": 18.0, "chunky": 30.0, "wedge": 26.0, "wave": 28.0}[identity["sole"]] + identity.size("thick", -3, 3)
    high = -sole - (identity.size("collar", 78, 92) if identity["cut"] == "high" else identity.size("collar", 50, 60))
    toe = -sole - identity.size("instep", 22, 30)
    bottom = -sole + 8
    inside: list[Point] = [(back + 6, high + 6), (back + 24, high - 8), (-18, high + 2), (-14, high + 18)]
    solid(c, smooth_path(inside), shade(identity.second, 0.55), edge=4)  # the tongue side, dark inside
    upper = smooth_path(
        [
            (back - 1, bottom),
            (back, high * 0.6),
            (back + 5, high),
            (back + 28, high + 9),
            (-14, high + 8),
            (8, high + 26),
            (40, toe - 8),
            (front - 8, toe + 10),
            (front, bottom - 6),
            (front - 12, bottom),
            (0, bottom),
        ]
    )
    clothe(c, upper, identity, 22)
    c.save()
    c.clipPath(upper, doAntiAlias=True)
    if identity.pattern == "sheen":
        _sheen(c, upper, identity)
    heel = {"accent": identity.accent, "trim": identity.trim, "blue": (0.36, 0.52, 0.70)}[identity["heel_color"]]
    if identity["heel"] == "panel":
        c.drawPath(
            smooth_path([(back - 8, high + 24), (back + 26, high + 32), (back + 36, bottom), (back - 8, bottom + 6)]),
            paint(heel),
        )
    if identity["toe"] == "cap":
        c.drawPath(
            smooth_path([(front - 46, bottom + 4), (front - 40, toe - 4), (front + 4, toe), (front + 8, bottom + 4)]),
            paint(identity.trim),
        )
    elif identity["toe"] == "bumper":
        c.drawPath(
            smooth_path(
                [(front - 62, bottom + 4), (front - 30, bottom - 18), (front + 6, bottom - 22), (front + 8, bottom + 4)]
            ),
            paint(identity.accent),
        )
    if identity["mark"] == "stripes":
        for k in range(3):
            x = -32 + 20 * k
            line(c, [(x, bottom), (x - 14, high + 30)], identity.trim, 9)
    elif identity["mark"] == "swoosh":
        c.drawPath(
            smooth_path(
                [
                    (-52, bottom - 26),
                    (-40, bottom - 8),
                    (0, bottom - 12),
                    (46, toe - 6),
                    (-4, bottom - 30),
                    (-36, bottom - 26),
                ]
            ),
            paint(identity.trim),
        )
    elif identity["mark"] == "band":
        c.drawPath(smooth_path([(-34, high), (-6, high + 6), (6, bottom + 4), (-26, bottom + 4)]), paint(identity.trim))
    c.restore()
    if identity["heel"] == "tab":
        solid(c, rounded_path(back - 7, high + 2, back + 9, high + 30, 6), heel, edge=3)
    lace = {"white": PAPER, "trim": identity.trim, "accent": identity.accent}[identity["laces"]]
    for k in range(3 if identity["cut"] == "low" else 4):  # along the slope of the instep
        x = 38 - 19 * k
        y = toe - 7 + (high + 20 - toe) * k / (2.6 if identity["cut"] == "low" else 3.4)
        tube(c, [(x - 13, y + 9), (x + 5, y - 3)], lace, 6, 2.5)
    for way in (-1, 1):  # the bow's ends dangle
        tube(c, [(x + 3, y - 4), (x + 16 + 6 * way, y - 13 + 8 * way + 7 * pose.swing)], lace, 5, 2.5)
    if identity["cut"] == "high":
        badge(c, -44, high + 36, 15, identity, pose.mirrored)
    else:
        badge(c, -52, bottom - 20, 13, identity, pose.mirrored)
    _sole(c, identity, back, front, sole)


def _sole(c: skia.Canvas, identity: Identity, back: float, front: float, sole: float) -> None:
    color = {"white": PAPER, "accent": identity.accent, "second": identity.second}[identity["sole_color"]]
    stripe = identity.second if identity["sole_color"] != "second" else identity.accent
    if identity["sole"] == "flat":
        solid(c, rounded_path(back - 7, -sole - 2, front + 7, 0, 8), color)
        rect(c, back - 4, -sole * 0.5, front + 4, -sole * 0.5 + 5, stripe)
    elif identity["sole"] == "wedge":
        solid(
            c,
            smooth_path(
                [
                    (back - 8, -sole - 8),
                    (back - 8, -2),
                    (front - 10, -1),
                    (front + 8, -12),
                    (front + 2, -17),
                    (0, -sole + 4),
                ]
            ),
            color,
        )
        line(c, [(back, -sole * 0.5), (front - 8, -8)], stripe, 6)
    elif identity["sole"] == "wave":
        solid(
            c,
            smooth_path(
                [
                    (back - 8, -sole - 4),
                    (back - 10, -8),
                    (back + 20, 0),
                    (front - 20, 0),
                    (front + 10, -12),
                    (front + 4, -sole + 2),
                    (30, -sole + 6),
                    (-10, -sole - 6),
                    (-50, -sole + 2),
                ]
            ),
            color,
        )
    else:
        for k in range(5):
            x = back + 2 + (front - back - 14) * k / 4
            solid(c, rounded_path(x - 12, -14, x + 14, 0, 5), color, edge=4)
        solid(c, rounded_path(back - 9, -sole, front + 9, -9, 9), color)
        c.drawPath(rounded_path(back - 9, -sole, front + 9, -9, 9), paint(color))
        rect(c, back, -sole + 8, front, -sole + 13, stripe)


@variant(
    "boot",
    patterns=("plain", "plain", "plain", "halves", "checks", "dots", "bands", "fade"),
    badges=BADGED,
    sizes=("shaft", "wide", "foot", "rise"),
    height=("tall", "mid", "ankle"),
    toe=("pointed", "round", "cap"),
    heel=("block", "slim", "flat"),
    trim_on=("none", "fringe", "fur", "laces", "buckle", "zip", "stitch"),
    top=("straight", "curved", "band"),
)
def boot(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    if identity["height"] == "ankle":
        c.scale(1.14, 1.14)  # low, so wide instead
    heel = {"block": 26.0, "slim": 30.0, "flat": 10.0}[identity["heel"]] + identity.size("rise", -3, 3)
    high = -{"tall": 156.0, "mid": 132.0, "ankle": 108.0}[identity["height"]] - identity.size("shaft", -4, 6)
    w = identity.size("wide", 27, 35)
    x0, x1 = -28.0 - w, -28.0 + w  # the shaft's sides
    front = identity.size("foot", 70, 84)
    dip = 12 if identity["top"] == "curved" else 0
    if identity["heel"] == "slim":
        solid(c, polygon_path([(x0 + 2, -heel - 8), (x0 + 34, -heel - 4), (x0 + 20, 0), (x0 + 8, 0)]), identity.trim)
    else:
        solid(c, rounded_path(x0 - 2, -heel - 8, x0 + 36, 0, 3), identity.trim)
    tip: list[Point] = {
        "pointed": [(front * 0.62, -26.0), (front + 8, -9.0), (front + 8, -5.0), (front * 0.5, -4.0)],
        "round": [(front * 0.7, -42.0), (front, -28.0), (front, -8.0), (front * 0.6, -4.0)],
        "cap": [(front * 0.7, -42.0), (front, -28.0), (front, -8.0), (front * 0.6, -4.0)],
    }[identity["toe"]]
    shaft = smooth_path(
        [
            (x0, high),
            ((x0 + x1) / 2, high + dip),
            (x1, high),
            (x1 - 3, high * 0.65),
            (x1 + 3, -66),
            (x1 + 24, -50),
            *tip,
            (x1 - 6, -heel * 0.5),
            (x0 + 30, -heel),
            (x0 - 2, -heel - 6),
            (x0 - 5, -heel - 30),
            (x0 + 5, high * 0.55),
        ]
    )
    clothe(c, shaft, identity, 28)
    sole: list[Point] = [(x0 + 20, -heel - 1), (x1 - 2, -heel * 0.42), (front * 0.5, -3), (front + 4, -4)]
    line(c, sole, shade(identity.trim, 0.8), 8)
    c.save()
    c.clipPath(shaft, doAntiAlias=True)
    if identity["toe"] == "cap":
        ellipse(c, front, -18, 40, 32, identity.second)
    if identity["top"] == "band":
        rect(c, x0 - 10, high - 8, x1 + 10, high + 18, identity.second)
    c.restore()
    _trim(c, identity, pose, x0, x1, high)
    if identity["trim_on"] not in ("fringe", "laces"):
        badge(c, (x0 + x1) / 2, high * 0.68, 16, identity, pose.mirrored)


def _trim(c: skia.Canvas, identity: Identity, pose: Pose, x0: float, x1: float, high: float) -> None:
    color = identity.accent
    if identity["trim_on"] == "fringe":  # strips that hang from a slanting seam
        pale = shade(identity.main, 0.82)
        n = 6
        for k in range(n):
            x = x0 + 2 + (x1 - x0 - 4) * k / (n - 1)
            y = high * 0.66 + 34 * k / (n - 1)
            tube(c, [(x, y), (x - 3 + 5 * pose.swing, y + 46)], pale, 8, 2)
        line(c, [(x0 - 1, high * 0.66), (x1, high * 0.66 + 34)], color, 7)
    elif identity["trim_on"] == "fur":
        for k in range(5):
            x = x0 - 2 + (x1 - x0 + 4) * k / 4
            solid(c, ellipse_path(x, high + 2, 13, 13), color, edge=3, lit=0)
        for k in range(5):
            x = x0 - 2 + (x1 - x0 + 4) * k / 4
            ellipse(c, x, high + 2, 13, 13, color)
    elif identity["trim_on"] == "laces":
        for k in range(4):
            y = -60 + (high + 76) * k / 3
            tube(c, [(x1 - 26, y), (x1 + 2, y - 7)], color, 6, 2.5)
    elif identity["trim_on"] == "buckle":
        tube(c, [(x0 - 2, -62), (x1 + 2, -68)], color, 13, 3)
        solid(c, rounded_path(x1 - 26, -79, x1 - 4, -53, 4), GOLD, edge=3)
        rect(c, x1 - 20, -72, x1 - 10, -60, shade(color, 0.7))
    elif identity["trim_on"] == "zip":
        line(c, [((x0 + x1) / 2, high + 12), ((x0 + x1) / 2 + 2, -40)], shade(identity.main, 0.5), 9)
        line(c, [((x0 + x1) / 2, high + 12), ((x0 + x1) / 2 + 2, -40)], METAL, 4)
    elif identity["trim_on"] == "stitch":  # a star and a curl of thread, as cowboys like them
        middle = (x0 + x1) / 2
        line(c, [(x0 + 6, high + 18), (middle, high + 40), (x1 - 6, high + 18)], color, 6)
        c.drawPath(polygon_path(star_points(middle, -58, 15, 7)), paint(color))
        if luma(color) > 0.4:
            line(c, [(middle + 26, -34), (middle + 48, -24)], color, 6)
