"""Cats, sitting and looking at us: ears, eyes, coat, build, tail, fur pattern and collar make the individual."""

from __future__ import annotations

from collections.abc import Iterator

import skia

from ..canvas import (
    GOLD,
    INK,
    PAPER,
    RGB,
    Point,
    ellipse,
    ellipse_path,
    line,
    luma,
    mirrored,
    mix,
    paint,
    polygon_path,
    rounded_path,
    shade,
    shaggy_path,
    smooth_path,
    solid,
    tube,
)
from ..identity import FUR, Identity, variant
from ..pose import Frame, Pose

PINK: RGB = (0.92, 0.58, 0.60)
IRIS: dict[str, RGB] = {
    "green": (0.50, 0.78, 0.30),
    "yellow": (0.96, 0.80, 0.26),
    "blue": (0.38, 0.68, 0.95),
    "copper": (0.86, 0.48, 0.14),
}


@variant(
    "cat",
    live=True,
    palette=FUR,
    patterns=("plain", "tabby", "tuxedo", "calico", "points", "spots"),
    badges=("none",),
    sizes=("head", "girth", "ear", "eyes", "face", "spots"),
    ears=("tall", "wide", "folded", "tufted"),
    coat=("short", "short", "shaggy"),
    tail=("hook", "up", "wrapped", "brush"),
    neckwear=("none", "collar", "bell", "bow", "bandana"),
    iris=("green", "yellow", "blue", "copper"),
    nose=("pink", "dark"),
    bib=("none", "white", "white"),
)
def cat(c: skia.Canvas, identity: Identity, pose: Pose) -> Iterator[Frame]:
    shoulder, hip = identity.size("girth", 25, 36), identity.size("girth", 40, 60)
    r = identity.size("head", 37, 44)
    x, y = 5 * pose.turn, -64 - r * 1.05
    _tail(c, identity, pose, hip)
    half = [(0, -104), (shoulder * 0.7, -96), (shoulder, -70), (hip, -36), (hip + 4, -13), (hip * 0.6, -2), (0, -2)]
    body = shaggy_path(mirrored(half), identity["coat"], 6)
    _body(c, identity, body, shoulder, hip)
    yield Frame(x, y, r, y - r * 0.72, y - r * 0.04, r * 0.47, (x * 0.5, -76), body, -22)
    _neckwear(c, identity, shoulder)
    _ears(c, identity, x, y, r)
    _head(c, identity, pose, x, y, r)


def _light(identity: Identity) -> RGB:
    """The colour of chest, muzzle and toes."""
    if identity.pattern == "tuxedo":
        return identity.second if luma(identity.second) > luma(identity.main) else PAPER
    return PAPER if identity["bib"] == "white" else identity.main


def _marks(identity: Identity) -> RGB:
    """The colour of stripes and spots: the second colour, or a darker main one where it would hardly show."""
    return identity.second if abs(luma(identity.second) - luma(identity.main)) > 0.15 else shade(identity.main, 0.55)


def _tail(c: skia.Canvas, identity: Identity, pose: Pose, hip: float) -> None:
    wag = 10 * pose.swing
    wide = {"brush": 26.0, "up": 16.0}.get(identity["tail"], 15.0)
    ways: dict[str, list[Point]] = {
        "hook": [(hip - 12, -12), (hip + 24, -18), (hip + 30 + wag, -58), (hip + 10 + wag, -78)],
        "up": [(hip - 10, -14), (hip + 20, -34), (hip + 16 + wag, -80), (hip + 24 + wag, -104)],
        "wrapped": [(hip - 6, -26), (hip + 18, -20), (hip + 6, -7), (-10 + wag, -6)],
        "brush": [(hip - 10, -16), (hip + 22, -24), (hip + 30 + wag, -66)],
    }
    way = ways[identity["tail"]]
    color = (
        identity.second if identity.pattern in ("points", "tuxedo") and identity["tail"] != "wrapped" else identity.main
    )
    if identity.pattern == "tuxedo":
        color = identity.main
    tube(c, way, color, wide)
    if identity.pattern == "tabby":
        for (x0, y0), (x1, y1) in zip(way[1:-1], way[2:], strict=True):
            for share in (0.2, 0.75):
                ellipse(c, x0 + share * (x1 - x0), y0 + share * (y1 - y0), wide * 0.44, 4.5, _marks(identity))
    if identity.pattern in ("calico", "spots"):
        ellipse(c, *way[-1], wide * 0.5, wide * 0.5, identity.second)


def _body(c: skia.Canvas, identity: Identity, body: skia.Path, shoulder: float, hip: float) -> None:
    paws = identity.second if identity.pattern == "points" else _light(identity)
    for side in (-1, 1):
        solid(c, ellipse_path(side * (hip - 6), -8, 20, 9), paws, lit=0)
    solid(c, body, identity.main)
    c.save()
    c.clipPath(body, doAntiAlias=True)
    if identity.pattern == "tabby":
        for side in (-1, 1):
            for k in range(3):
                y = -70 + identity.size("spots", 17, 27) * k
                line(
                    c,
                    [(side * (hip + 6), y + 4), (side * (hip * 0.72 - 2 * k), y), (side * shoulder * 0.62, y + 8)],
                    _marks(identity),
                    8,
                )
    elif identity.pattern == "calico":
        for k, (u, v, _) in enumerate(identity.scatter(4)):
            ellipse(
                c,
                (2 * u - 1) * hip,
                -90 * v,
                22,
                18,
                identity.second if k % 2 else shade(identity.accent, 0.9) if luma(identity.accent) < 0.5 else INK,
            )
    elif identity.pattern == "spots":
        for u, v, _ in identity.scatter(12):
            ellipse(c, (2 * u - 1) * hip, -92 * v, 7, 7, _marks(identity))
    if identity.pattern == "tuxedo" or identity["bib"] == "white":
        chest = mirrored([(0, -108), (shoulder * 0.8, -88), (shoulder * 0.55, -50), (0, -30)])
        c.drawPath(smooth_path(chest), paint(_light(identity)))
    c.restore()
    for side in (-1, 1):
        x = side * shoulder * 0.48
        leg = identity.main if identity.pattern != "tuxedo" else _light(identity)
        solid(c, rounded_path(x - 10, -58, x + 10, -2, 10), leg, edge=4, lit=0.1)
        if identity.pattern == "tabby":
            for y in (-40, -24):
                line(c, [(x - 8, y), (x + 8, y)], _marks(identity), 6)
        solid(c, ellipse_path(x, -8, 14, 8.5), paws, edge=3, lit=0)


def _neckwear(c: skia.Canvas, identity: Identity, shoulder: float) -> None:
    w, y, color = shoulder * 0.92, -74.0, identity.accent
    if identity["neckwear"] in ("collar", "bell", "bow"):
        tube(c, [(-w, y - 6), (0, y + 4), (w, y - 6)], color, 11, 3)
    if identity["neckwear"] == "bell":
        solid(c, ellipse_path(0, y + 15, 11, 11), GOLD, edge=3)
        line(c, [(0, y + 16), (0, y + 22)], INK, 4)
    elif identity["neckwear"] == "bow":
        for side in (-1, 1):
            solid(c, smooth_path([(0, y + 8), (side * 24, y - 6), (side * 26, y + 22)]), color, edge=3)
        ellipse(c, 0, y + 8, 6, 7, shade(color, 0.7))
    elif identity["neckwear"] == "bandana":
        solid(c, polygon_path([(-w - 4, y - 10), (w + 4, y - 10), (0, y + 36)]), color, edge=4)


def _ears(c: skia.Canvas, identity: Identity, x: float, y: float, r: float) -> None:
    tip = identity.size("ear", 1.15, 1.5)
    color = identity.second if identity.pattern in ("points", "calico") else identity.main
    for side in (-1, 1):
        outer = {"tall": 0.80, "wide": 1.08, "tufted": 0.92, "folded": 0.8}[identity["ears"]]
        if identity["ears"] == "folded":
            flap = [
                (x + side * r * 0.25, y - r * 0.78),
                (x + side * r * 0.85, y - r * 0.95),
                (x + side * r * 0.95, y - r * 0.42),
            ]
            solid(c, smooth_path(flap), color)
            continue
        ear = [
            (x + side * r * 0.12, y - r * 0.72),
            (x + side * r * outer, y - r * tip),
            (x + side * r * 1.0, y - r * 0.1),
        ]
        solid(c, polygon_path(ear), color)
        middle = (x + side * r * 0.66, y - r * 0.62)
        pink = [(0.55 * px + 0.45 * middle[0], 0.55 * py + 0.45 * middle[1]) for px, py in ear]
        c.drawPath(polygon_path(pink), paint(mix(PINK, color, 0.2)))
        if identity["ears"] == "tufted":
            line(c, [ear[1], (ear[1][0] + side * 3, ear[1][1] - 7)], shade(color, 0.4), 9)


def _head(c: skia.Canvas, identity: Identity, pose: Pose, x: float, y: float, r: float) -> None:
    wide = identity.size("face", 0.98, 1.14)
    half = [(0, -0.82), (0.62, -0.74), (1.0, -0.15), (0.92, 0.36), (0.5, 0.76), (0, 0.86)]
    head = shaggy_path([(x + r * wide * px, y + r * py) for px, py in mirrored(half)], identity["coat"], 6)
    solid(c, head, identity.main)
    mx, my = x + 7 * pose.turn, y + r * 0.36
    ex, ey, gap = x + 5 * pose.turn, y - r * 0.04, r * 0.47
    side = -1 if identity.size("spots") < 0.5 else 1
    c.save()
    c.clipPath(head, doAntiAlias=True)
    if identity.pattern == "tabby":
        for dx, low in ((-0.26, -0.42), (0.0, -0.34), (0.26, -0.42)):
            line(c, [(ex + dx * r * 1.2, y - r), (ex + dx * r, y + low * r)], _marks(identity), 8)
        for s in (-1, 1):
            for dy in (0.16, 0.42):
                line(c, [(x + s * r * 1.2, y + (dy - 0.1) * r), (x + s * r * 0.74, y + dy * r)], _marks(identity), 7)
    elif identity.pattern == "tuxedo":
        c.drawPath(
            smooth_path([(mx - 4, y - r * 0.6), (mx + 4, y - r * 0.6), (mx + r * 0.62, y + r), (mx - r * 0.62, y + r)]),
            paint(_light(identity)),
        )
    elif identity.pattern == "calico":
        ellipse(c, ex + side * r * 0.7, y - r * 0.45, r * 0.55, r * 0.55, identity.second)
        ellipse(c, ex - side * r * 0.7, y - r * 0.75, r * 0.42, r * 0.40, INK)
    elif identity.pattern == "points":
        ellipse(c, mx, my - 4, r * 0.62, r * 0.62, identity.second)
    elif identity.pattern == "spots":
        for dx, dy in ((-0.3, -0.6), (0.3, -0.6), (0.0, -0.45), (-0.85, 0.1), (0.85, 0.1)):
            ellipse(c, ex + dx * r, y + dy * r, 5.5, 5.5, _marks(identity))
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
    size = identity.size("eyes", 9.5, 12.5)
    for side in (-1, 1):
        px = ex + side * gap
        dark = shade(identity.main, 0.45) if luma(identity.main) > 0.3 else (0.04, 0.04, 0.05)
        if pose.blink:
            line(c, [(px - size, ey), (px, ey + 5), (px + size, ey)], INK if luma(identity.main) > 0.3 else PAPER, 5)
            continue
        c.save()
        c.rotate(side * -12, px, ey)
        ellipse(c, px, ey, size + 3, size * 0.92 + 2.5, dark)
        ellipse(c, px, ey, size, size * 0.92, IRIS[identity["iris"]])
        ellipse(c, px + 2 * pose.turn, ey, size * 0.36, size * 0.8, INK)
        ellipse(c, px - size * 0.3, ey - size * 0.35, size * 0.25, size * 0.25, (1, 1, 1))
        c.restore()
    color = (
        _light(identity) if identity.pattern == "tuxedo" or identity["bib"] == "white" else shade(identity.main, 1.25)
    )
    if identity.pattern == "points":
        color = shade(identity.second, 1.15)
    whisker = PAPER if luma(identity.main) < 0.45 else shade(identity.main, 0.5)
    for side in (-1, 1):
        for dy in (-2, 7):
            line(c, [(mx + side * r * 0.4, my + dy), (mx + side * r * 1.15, my + dy * 2 - 3)], whisker, 2.5)
        ellipse(c, mx + side * r * 0.2, my + 3, r * 0.26, r * 0.23, color)
    if pose.open_mouth:
        ellipse(c, mx, my + r * 0.27, r * 0.13, r * 0.13, (0.75, 0.25, 0.30))
    nose = PINK if identity["nose"] == "pink" else (0.25, 0.18, 0.20)
    c.drawPath(
        smooth_path([(mx - r * 0.15, my - r * 0.16), (mx + r * 0.15, my - r * 0.16), (mx, my + r * 0.04)]), paint(nose)
    )
    mouth = shade(color, 0.35) if luma(color) > 0.25 else PAPER
    for side in (-1, 1):  # a cat's smile is a w
        line(
            c,
            [(mx, my + r * 0.06), (mx + side * r * 0.12, my + r * 0.18), (mx + side * r * 0.28, my + r * 0.12)],
            mouth,
            3.5,
        )
