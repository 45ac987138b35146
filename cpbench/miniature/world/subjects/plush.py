"""Stuffed animals: sitting with their soles to us, or lying; made of plush, with button eyes and a seam."""

from __future__ import annotations

import skia

from ..canvas import (
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
    polygon,
    polygon_path,
    rect,
    rounded,
    shade,
    shaggy_path,
    smooth_path,
    solid,
    tube,
)
from ..identity import COLORS, FUR, Identity, variant
from ..pose import Pose
from ..surfaces import badge, clothe

PLUSH = FUR | {name: mix(COLORS[name], (1, 1, 1), 0.2) for name in ("pink", "blue", "purple", "teal", "green")}
FACES = ("muzzle", "muzzle", "snout", "mask", "badger")
HEADWEAR = ("none", "bow", "cap", "flower")
NECKWEAR = ("none", "tie", "scarf", "ribbon")


def oval(x: float, y: float, rx: float, ry: float, coat: str) -> skia.Path:
    """An ellipse with the plush's edge."""
    k = 0.7071
    ring = [(1, 0), (k, k), (0, 1), (-k, k), (-1, 0), (-k, -k), (0, -1), (k, -k)]
    return shaggy_path([(x + rx * px, y + ry * py) for px, py in ring], coat, 6)


def _short(coat: str) -> str:
    """The coat of feet, which tufts would turn into stars."""
    return "short" if coat == "shaggy" else coat


@variant(
    "stuffed animal",
    "sitting",
    palette=PLUSH,
    patterns=("plain", "plain", "dots", "bands", "checks", "marbled"),
    badges=("none", "none", "heart", "star", "flower", "letter"),
    sizes=("head", "belly", "ear", "arms", "feet"),
    ears=("round", "long", "pointed", "droopy", "small", "none"),
    face=FACES,
    coat=("short", "curly", "shaggy"),
    headwear=HEADWEAR,
    neckwear=NECKWEAR,
    soles=("second", "light", "trim", "main"),
    tummy=("none", "patch"),
)
def sitting(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    coat, r = identity["coat"], identity.size("head", 38, 46)
    belly, reach = identity.size("belly", 34, 46), identity.size("arms", 0, 22)
    sole = {"second": identity.second, "light": PAPER, "trim": identity.trim, "main": shade(identity.main, 0.8)}[
        identity["soles"]
    ]
    x, y = 4 * pose.turn, -72 - r * 0.86
    clothe(c, oval(0, -46, belly, 46, coat), identity, 24)
    if identity["tummy"] == "patch":
        ellipse(c, 0, -44, belly * 0.6, 30, shade(identity.second, 1.1))
    badge(c, 0, -44, 15, identity, pose.mirrored)
    for side in (-1, 1):
        lift = 14 * pose.swing * side
        hand = (side * (belly + 16), -44 + reach * 0.8 - lift)
        tube(
            c,
            [(side * belly * 0.8, -76), (side * (belly + 14), -66 - lift * 0.3), hand],
            shade(identity.main, 0.94),
            24,
        )
        if reach > 11:  # long arms end in claws
            for k in (-1, 1):
                line(c, [(hand[0] + 6 * k, hand[1] + 10), (hand[0] + 7 * k, hand[1] + 18)], PAPER, 6)
        size = identity.size("feet", 19, 25)
        px = side * (belly + 4 + 3 * pose.swing)
        solid(c, oval(px, -size - 1, size, size, _short(coat)), identity.main)
        solid(c, ellipse_path(px + side * 1, -size, size * 0.62, size * 0.66), sole, edge=2, lit=0)
    _ears(c, identity, x, y, r)
    _head(c, identity, pose, x, y, r)
    _wear(c, identity, x, y, r)


@variant(
    "stuffed animal",
    "lying",
    scale=0.88,
    palette=PLUSH,
    patterns=("plain", "plain", "halves", "bands", "dots", "marbled"),
    badges=("none",),
    sizes=("head", "belly", "ear", "lift", "feet"),
    ears=("round", "pointed", "droopy", "small"),
    face=FACES,
    coat=("short", "curly", "shaggy"),
    headwear=HEADWEAR,
    neckwear=NECKWEAR,
    tail=("bushy", "round", "thin"),
)
def lying(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    coat, r = identity["coat"], identity.size("head", 36, 42)
    high = identity.size("belly", 62, 78)
    x, y = 36 + 4 * pose.turn, -34 - r * 0.95
    tip = (-84 - 8 * pose.swing, -92 - identity.size("lift", 0, 30))
    if identity["tail"] == "bushy":
        points: list[Point] = [
            (-50, -34),
            (-74, -48),
            (tip[0] - 8, tip[1] + 14),
            (tip[0] + 6, tip[1]),
            (-60, -74),
            (-42, -62),
        ]
        solid(c, shaggy_path(points, "shaggy" if coat == "shaggy" else "curly", 6), identity.main)
        ellipse(c, tip[0] + 1, tip[1] + 15, 10, 12, shade(identity.second, 1.1))
    elif identity["tail"] == "round":
        solid(c, oval(-78, -52, 17, 17, coat), identity.second)
    else:
        tube(c, [(-62, -40), (-82, -60), (tip[0] + 6, tip[1] + 14)], identity.main, 12)
    clothe(
        c,
        shaggy_path(
            [(-82, -22), (-70, -high + 14), (-30, -high), (20, -high + 4), (40, -20), (0, -6), (-60, -6)], coat, 6
        ),
        identity,
        26,
    )
    foot = identity.size("feet", 15, 20)
    for px in (-74, 4, 62):
        solid(c, oval(px + 4 * pose.swing, -foot + 1, foot * 1.35, foot, _short(coat)), shade(identity.second, 1.15))
    _ears(c, identity, x, y, r)
    _head(c, identity, pose, x, y, r)
    _wear(c, identity, x, y, r)


def _ears(c: skia.Canvas, identity: Identity, x: float, y: float, r: float) -> None:
    big, inner = identity.size("ear", 0.85, 1.25), mix(identity.second, (0.95, 0.70, 0.70), 0.4)
    for side in (-1, 1) if identity["ears"] != "none" else ():
        if identity["ears"] == "long":
            c.save()
            c.rotate(side * 12, x + side * r * 0.5, y - r)
            solid(c, ellipse_path(x + side * r * 0.5, y - r * 1.2, 13, 24 * big), identity.main)
            ellipse(c, x + side * r * 0.5, y - r * 1.18, 6.5, 15 * big, inner)
            c.restore()
        elif identity["ears"] == "pointed":
            ear = [
                (x + side * r * 0.22, y - r * 0.75),
                (x + side * r * 0.85, y - r * 1.3 * big),
                (x + side * r * 1.0, y - r * 0.2),
            ]
            solid(c, smooth_path(ear), identity.main)
            polygon(
                c, [(0.5 * px + 0.5 * (x + side * r * 0.7), 0.5 * py + 0.5 * (y - r * 0.7)) for px, py in ear], inner
            )
        elif identity["ears"] == "droopy":
            solid(
                c,
                leaf_path(x + side * r * 0.7, y - r * 0.75, side * r * 0.5 * big, r * 1.3 * big, 24 * big),
                shade(identity.main, 0.85),
            )
        else:
            size = (18 if identity["ears"] == "round" else 12) * big
            solid(c, oval(x + side * r * 0.78, y - r * 0.68, size, size, identity["coat"]), identity.main)
            ellipse(c, x + side * r * 0.78, y - r * 0.66, size * 0.55, size * 0.55, inner)


def _head(c: skia.Canvas, identity: Identity, pose: Pose, x: float, y: float, r: float) -> None:
    solid(c, oval(x, y, r * 1.06, r * 0.92, identity["coat"]), identity.main)
    ex, ey, gap = x + 4 * pose.turn, y - r * 0.12, r * 0.42
    mx, my = x + 6 * pose.turn, y + r * 0.34
    bright: RGB = identity.second
    if identity["face"] == "badger":  # a pale face with dark patches round the eyes, as sloths have
        pale = bright if luma(bright) > 0.5 else PAPER
        ellipse(c, ex, y + r * 0.06, r * 0.80, r * 0.70, pale)
        for side in (-1, 1):
            c.save()
            c.rotate(side * 28, ex + side * gap, ey)
            ellipse(c, ex + side * gap, ey + 3, r * 0.2, r * 0.34, shade(identity.main, 0.6))
            c.restore()
    elif identity["face"] == "mask":
        c.save()
        c.clipPath(oval(x, y, r * 1.06, r * 0.92, "short"), doAntiAlias=True)
        half = [(0, -0.1), (0.32, -0.55), (0.85, -0.4), (1.1, 0.3), (0.7, 1.2), (0, 1.3)]
        c.drawPath(smooth_path([(ex + r * px, y + r * py) for px, py in mirrored(half)]), paint(bright))
        c.restore()
    elif identity["face"] == "snout":
        solid(c, ellipse_path(mx, my, r * 0.46, r * 0.34), mix(bright, (0.96, 0.62, 0.62), 0.3), edge=3)
        for side in (-1, 1):
            ellipse(c, mx + side * r * 0.17, my, 4.5, 6, INK)
    else:
        ellipse(c, mx, my + 2, r * 0.52, r * 0.40, bright)
    for side in (-1, 1):  # buttons, which cannot blink
        ellipse(
            c,
            ex + side * gap,
            ey,
            7.5,
            8,
            INK if luma(identity.main) > 0.25 or identity["face"] in ("mask", "badger") else PAPER,
        )
        ellipse(
            c,
            ex + side * gap - 2.5,
            ey - 3,
            2.6,
            2.6,
            PAPER if luma(identity.main) > 0.25 or identity["face"] in ("mask", "badger") else INK,
        )
    if identity["face"] != "snout":
        ellipse(c, mx, my - r * 0.14, r * 0.19, r * 0.14, INK if luma(bright) > 0.25 else (0.9, 0.55, 0.55))
        ink = shade(bright, 0.3) if luma(bright) > 0.25 else PAPER
        line(c, [(mx - r * 0.26, my + r * 0.14), (mx, my + r * 0.24), (mx + r * 0.26, my + r * 0.14)], ink, 4)


def _wear(c: skia.Canvas, identity: Identity, x: float, y: float, r: float) -> None:
    chin, top = y + r * 0.96, y - r * 0.9
    if identity["headwear"] == "bow":
        for side in (-1, 1):
            solid(
                c,
                smooth_path([(x, top - 2), (x + side * 26, top - 22), (x + side * 28, top + 10)]),
                identity.accent,
                edge=3,
            )
        solid(c, ellipse_path(x, top - 2, 8, 9), shade(identity.accent, 0.85), edge=3)
    elif identity["headwear"] == "cap":
        solid(
            c,
            polygon_path([(x - r * 0.5, top + 7), (x + r * 0.5, top + 7), (x + 4, top - 30)]),
            identity.accent,
            edge=3,
        )
        solid(c, ellipse_path(x + 4, top - 29, 9, 9), identity.trim, edge=3)
    elif identity["headwear"] == "flower":
        for k in range(5):
            dx, dy = ((0, -11), (10, -3), (7, 9), (-7, 9), (-10, -3))[k]
            ellipse(c, x + r * 0.5 + dx, top + 8 + dy, 8, 8, identity.accent)
        ellipse(c, x + r * 0.5, top + 8, 6, 6, (0.98, 0.88, 0.35))
    if identity["neckwear"] == "tie":
        for side in (-1, 1):
            solid(
                c,
                polygon_path([(x, chin), (x + side * 25, chin - 13), (x + side * 25, chin + 13)]),
                identity.accent,
                edge=3,
            )
        ellipse(c, x, chin, 6, 7, shade(identity.accent, 0.7))
    elif identity["neckwear"] in ("scarf", "ribbon"):
        tube(
            c,
            [(x - r * 0.72, chin - 9), (x, chin - 1), (x + r * 0.72, chin - 9)],
            identity.accent,
            13 if identity["neckwear"] == "scarf" else 8,
            3,
        )
        if identity["neckwear"] == "scarf":
            rounded(c, x + 8, chin - 4, x + 26, chin + 34, 4, identity.accent)
            rect(c, x + 8, chin + 18, x + 26, chin + 26, identity.trim)
