"""Dogs, sitting and looking at us: build, ears, coat, muzzle, tail, fur pattern and collar make the individual."""

from __future__ import annotations

from collections.abc import Iterator

import skia

from ..canvas import (
    GOLD,
    INK,
    PAPER,
    RGB,
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
    shaggy_path,
    smooth_path,
    solid,
    tube,
)
from ..identity import FUR, Identity, variant
from ..pose import Frame, Pose

TONGUE: RGB = (0.95, 0.45, 0.52)
EYES: dict[str, RGB] = {"dark": (0.20, 0.12, 0.08), "amber": (0.80, 0.50, 0.12), "blue": (0.45, 0.70, 0.92)}
NOSES: dict[str, RGB] = {"black": INK, "brown": (0.45, 0.24, 0.18), "pink": (0.86, 0.50, 0.50)}


@variant(
    "dog",
    live=True,
    palette=FUR,
    patterns=("plain", "bib", "patch", "saddle", "merle", "mask", "points"),
    badges=("none",),
    sizes=("head", "girth", "ear", "muzzle", "eyes", "spots"),
    ears=("pointed", "bat", "button", "hanging", "long", "round"),
    coat=("short", "shaggy", "curly"),
    ruff=("none", "none", "mane"),
    tail=("thin", "plume", "curled", "stub"),
    neckwear=("none", "collar", "bandana", "bow", "tag"),
    iris=("dark", "amber", "blue"),
    nose=("black", "brown", "pink"),
)
def dog(c: skia.Canvas, identity: Identity, pose: Pose) -> Iterator[Frame]:
    shoulder, hip = identity.size("girth", 27, 36), identity.size("girth", 44, 58)
    r = identity.size("head", 37, 46)
    x, y = 5 * pose.turn, -66 - r * 1.12
    _tail(c, identity, pose, hip)
    outline = [(0, -98), (shoulder * 0.75, -92), (shoulder, -68), (hip, -36), (hip + 5, -13), (hip * 0.6, -2), (0, -2)]
    body = shaggy_path(mirrored(outline), identity["coat"], 6.5)
    _body(c, identity, body, shoulder, hip)
    yield Frame(x, y, r, y - r * 0.84, y - r * 0.16, r * 0.42, (x * 0.5, -78), body, -22)
    _neckwear(c, identity, shoulder)
    if identity["ruff"] == "mane":
        color = identity.main if identity.pattern in ("plain", "mask", "patch") else shade(identity.second, 1.0)
        ring = [
            (0, -1.1),
            (0.95, -0.85),
            (1.38, 0.0),
            (1.1, 0.85),
            (0, 1.3),
            (-1.1, 0.85),
            (-1.38, 0.0),
            (-0.95, -0.85),
        ]
        solid(c, shaggy_path([(x + r * px, y + r * py + 4) for px, py in ring], "shaggy", 7), shade(color, 0.9))
    behind = identity["ears"] in ("pointed", "bat", "round")
    if behind:
        _ears(c, identity, pose, x, y, r)
    _head(c, identity, pose, x, y, r)
    if not behind:
        _ears(c, identity, pose, x, y, r)


def _tail(c: skia.Canvas, identity: Identity, pose: Pose, hip: float) -> None:
    color = identity.second if identity.pattern in ("points", "saddle") else identity.main
    wag = 12 * pose.swing
    if identity["tail"] == "thin":
        tube(c, [(hip - 8, -14), (hip + 18, -22), (hip + 30 + wag * 0.4, -58 - wag)], color, 12)
    elif identity["tail"] == "plume":
        tip = (hip + 30 + wag, -82)
        points = [(hip - 12, -10), (hip + 16, -18), (hip + 38 + wag * 0.5, -50), tip, (hip + 8 + wag * 0.5, -54)]
        solid(c, shaggy_path(points, "shaggy", 6), color)
        ellipse(
            c, tip[0] - 3, tip[1] + 12, 8, 11, identity.second if identity.pattern != "plain" else shade(color, 1.25)
        )
    elif identity["tail"] == "curled":
        points = [(hip - 6, -22), (hip + 22, -34), (hip + 24 + wag * 0.4, -62), (hip + 2, -66), (hip + 2, -48)]
        tube(c, points, color, 15)
    else:
        tube(c, [(hip - 6, -20), (hip + 12, -28 - wag * 0.4)], color, 17)


def _body(c: skia.Canvas, identity: Identity, body: skia.Path, shoulder: float, hip: float) -> None:
    bright = PAPER if identity.pattern == "merle" else identity.second
    for side in (-1, 1):  # hind feet
        solid(
            c,
            ellipse_path(side * (hip - 6), -8, 20, 9),
            bright if identity.pattern in ("bib", "points") else identity.main,
            lit=0,
        )
    solid(c, body, identity.main)
    c.save()
    c.clipPath(body, doAntiAlias=True)
    if identity.pattern == "saddle":
        for side in (-1, 1):
            c.drawPath(leaf_path(side * hip * 1.1, 4, -side * hip * 0.5, -104, 52), paint(identity.second))
    elif identity.pattern == "merle":
        for u, v, w in identity.scatter(9):
            ellipse(c, (2 * u - 1) * hip, -90 * v - 5, 7 + 9 * w, 13 - 5 * w, identity.second)
    elif identity.pattern == "patch":
        side = -1 if identity.size("spots") < 0.5 else 1
        ellipse(c, side * hip * 0.9, -42, 26, 30, identity.second)
    if identity.pattern in ("bib", "merle", "saddle"):
        chest = identity.main if identity.pattern == "saddle" else bright
        c.drawPath(
            shaggy_path(mirrored([(0, -104), (shoulder * 0.85, -84), (shoulder * 0.6, -42), (0, -26)]), "shaggy", 5),
            paint(chest),
        )
    c.restore()
    legs = bright if identity.pattern in ("bib", "merle", "points") else identity.main
    for side in (-1, 1):
        lx, wide = side * shoulder * 0.52, 9.5 if identity["coat"] == "short" else 11
        top = -56 if identity.pattern != "points" else -34
        leg = smooth_path(
            [
                (lx - wide, top),
                (lx + wide, top),
                (lx + wide, -10),
                (lx + wide + 3, -2),
                (lx - wide - 3, -2),
                (lx - wide, -10),
            ]
        )
        solid(
            c,
            shaggy_path([(lx - wide, top), (lx + wide, top), (lx + wide, -8), (lx - wide, -8)], "curly", 4)
            if identity["coat"] == "curly"
            else leg,
            legs,
            edge=4,
            lit=0.1,
        )
        solid(c, ellipse_path(lx, -7, wide + 4, 8), legs, edge=3, lit=0)


def _neckwear(c: skia.Canvas, identity: Identity, shoulder: float) -> None:
    w, y, color = shoulder * 0.9, -76.0, identity.accent
    if identity["neckwear"] in ("collar", "tag", "bow"):
        tube(c, [(-w, y - 6), (0, y + 3), (w, y - 6)], color, 11, 3)
    if identity["neckwear"] == "tag":
        solid(c, ellipse_path(0, y + 16, 11, 11), GOLD, edge=3)
    elif identity["neckwear"] == "bow":
        for side in (-1, 1):
            solid(c, smooth_path([(0, y + 8), (side * 24, y - 6), (side * 26, y + 22)]), color, edge=3)
        ellipse(c, 0, y + 8, 6, 7, shade(color, 0.7))
    elif identity["neckwear"] == "bandana":
        solid(c, polygon_path([(-w - 4, y - 10), (w + 4, y - 10), (0, y + 40)]), color, edge=4)
        for px, py in ((-14, 0), (12, 0), (0, 18)):
            ellipse(c, px, y + py, 4.5, 4.5, PAPER if luma(color) < 0.7 else INK)


def _ears(c: skia.Canvas, identity: Identity, pose: Pose, x: float, y: float, r: float) -> None:
    big = identity.size("ear", 0.85, 1.25)
    color = identity.second if identity.pattern in ("points", "saddle", "merle") else shade(identity.main, 0.88)
    inner = mix(color, (0.95, 0.68, 0.66), 0.6)
    if identity.pattern == "patch":
        color = identity.second
    flop = 4 * pose.swing
    for side in (-1, 1):

        def at(px: float, py: float, side=side) -> tuple[float, float]:
            return x + side * r * px, y + r * py

        if identity["ears"] == "pointed":
            ear = [at(0.28, -0.72), at(0.82 + 0.1 * big, -1.25 * big), at(1.0, -0.2)]
            solid(c, polygon_path(ear), color)
            c.drawPath(polygon_path([at(0.5, -0.7), at(0.8 + 0.08 * big, -1.05 * big), at(0.88, -0.4)]), paint(inner))
        elif identity["ears"] == "bat":
            px, py = at(1.02, -0.86 * big)
            c.save()
            c.rotate(side * 34, px, py)
            solid(c, ellipse_path(px, py, 19 * big, 31 * big), color)
            ellipse(c, px, py + 3, 11 * big, 21 * big, inner)
            c.restore()
        elif identity["ears"] == "round":
            solid(c, ellipse_path(*at(0.72, -0.78), 15 * big, 15 * big), color)
            ellipse(c, *at(0.70, -0.72), 8 * big, 8 * big, shade(color, 0.7))
        elif identity["ears"] == "button":  # a triangle folded over its root
            ear = [at(0.25, -0.86), at(0.95, -0.80), at(1.18 * big, -0.1), at(0.72, -0.28)]
            solid(c, smooth_path(ear), color)
        elif identity["ears"] == "hanging":
            ear = [at(0.5, -0.82), at(1.05, -0.66), at(1.32 * big, 0.05), at(1.08, 0.5 * big), at(0.80, 0.05)]
            px, py = ear[3]
            ear[3] = (px, py + flop)
            solid(c, shaggy_path(ear, identity["coat"], 6), color)
        else:  # long
            ear = [
                at(0.45, -0.82),
                at(1.0, -0.7),
                at(1.3, 0.1),
                at(1.26 + 0.1 * big, 1.0 * big),
                at(0.82, 0.85 * big),
                at(0.76, 0.0),
            ]
            ear[3] = (ear[3][0], ear[3][1] + flop)
            solid(c, shaggy_path(ear, identity["coat"], 6), color)


def _head(c: skia.Canvas, identity: Identity, pose: Pose, x: float, y: float, r: float) -> None:
    half = [(0, -0.9), (0.6, -0.8), (0.98, -0.3), (0.86, 0.28), (0.52, 0.72), (0, 0.86)]
    head = shaggy_path([(x + r * px, y + r * py) for px, py in mirrored(half)], identity["coat"], 6)
    solid(c, head, identity.main)
    bright = PAPER if identity.pattern == "merle" else identity.second
    mx, my = x + 7 * pose.turn, y + r * 0.45
    ex, ey, gap = x + 4 * pose.turn, y - r * 0.16, r * 0.42
    c.save()
    c.clipPath(head, doAntiAlias=True)
    side = -1 if identity.size("spots") < 0.5 else 1
    if identity.pattern in ("bib", "merle"):
        c.drawPath(
            smooth_path(
                [
                    (ex - 5, y - r),
                    (ex + 5, y - r),
                    (mx + r * 0.42, my),
                    (mx + r * 0.3, y + r),
                    (mx - r * 0.3, y + r),
                    (mx - r * 0.42, my),
                ]
            ),
            paint(bright),
        )
    if identity.pattern in ("patch", "merle"):
        ellipse(c, ex + side * gap, ey - 1, r * 0.36, r * 0.42, identity.second)
    elif identity.pattern == "saddle":
        c.drawPath(
            smooth_path(
                [
                    (x - r * 1.1, y - r),
                    (x + r * 1.1, y - r),
                    (x + r * 0.85, y - r * 0.1),
                    (x, y - r * 0.34),
                    (x - r * 0.85, y - r * 0.1),
                ]
            ),
            paint(identity.second),
        )
    elif identity.pattern == "mask":
        ellipse(c, mx, my + 2, r * 0.68, r * 0.6, identity.second)
    c.restore()
    _face(c, identity, pose, r, (mx, my), (ex, ey, gap))


def _face(
    c: skia.Canvas,
    identity: Identity,
    pose: Pose,
    r: float,
    muzzle: tuple[float, float],
    eyes: tuple[float, float, float],
) -> None:
    (mx, my), (ex, ey, gap) = muzzle, eyes
    wide, high = r * identity.size("muzzle", 0.46, 0.60), r * identity.size("muzzle", 0.40, 0.50)
    color = {"bib": identity.second, "merle": PAPER, "mask": identity.second}.get(
        identity.pattern, shade(identity.main, 1.22)
    )
    if pose.open_mouth:
        solid(
            c,
            smooth_path(
                [(mx - wide * 0.55, my + high * 0.5), (mx + wide * 0.55, my + high * 0.5), (mx, my + high * 1.65)]
            ),
            INK,
            edge=0,
            lit=0,
        )
        solid(c, ellipse_path(mx, my + high * 1.25, wide * 0.36, high * 0.75), TONGUE, edge=3, lit=0)
    solid(c, ellipse_path(mx, my, wide, high), color, edge=2.5 if luma(color) > 0.3 else 0, lit=0.12)
    nose = NOSES[identity["nose"]] if luma(color) > 0.25 or identity["nose"] != "black" else (0.02, 0.02, 0.03)
    c.drawPath(
        smooth_path([(mx - r * 0.25, my - high * 0.80), (mx + r * 0.25, my - high * 0.80), (mx, my - high * 0.04)]),
        paint(nose),
    )
    ellipse(c, mx - 3, my - high * 0.68, 3, 2, PAPER, 0.7)
    line(c, [(mx, my), (mx, my + high * 0.4)], INK, 4)
    line(c, [(mx - wide * 0.5, my + high * 0.38), (mx, my + high * 0.55), (mx + wide * 0.5, my + high * 0.38)], INK, 4)
    size = identity.size("eyes", 6.5, 9.0)
    for side in (-1, 1):
        px = ex + side * gap
        if pose.blink:
            line(c, [(px - size, ey), (px, ey + 4), (px + size, ey)], INK if luma(identity.main) > 0.3 else PAPER, 5)
            continue
        ellipse(
            c,
            px,
            ey,
            size * 1.25,
            size * 1.3,
            PAPER if identity["iris"] != "dark" or luma(identity.main) < 0.35 else shade(identity.main, 0.6),
        )
        ellipse(c, px + 1.5 * pose.turn, ey, size, size * 1.1, EYES[identity["iris"]])
        ellipse(c, px + 2 * pose.turn, ey + 0.5, size * 0.62, size * 0.72, INK)
        ellipse(c, px - size * 0.3, ey - size * 0.4, size * 0.36, size * 0.36, (1, 1, 1))
