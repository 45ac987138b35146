"""Toy machines: robots, cars and rockets."""

from __future__ import annotations

import skia

from ..canvas import (
    GOLD,
    INK,
    METAL,
    PAPER,
    RGB,
    Point,
    ellipse,
    ellipse_path,
    line,
    luma,
    mirrored,
    mix,
    polygon_path,
    rect,
    rounded_path,
    smooth_path,
    solid,
    tube,
)
from ..identity import Identity, variant
from ..pose import Pose
from ..surfaces import BADGED, badge, clothe
from .toy_creatures import eye

RUBBER: RGB = (0.15, 0.15, 0.17)


def wheel(c: skia.Canvas, x: float, y: float, r: float, hub: RGB) -> None:
    solid(c, ellipse_path(x, y, r, r), RUBBER, edge=3, lit=0)
    ellipse(c, x, y, r * 0.55, r * 0.55, hub)
    ellipse(c, x, y, r * 0.2, r * 0.2, RUBBER)


@variant(
    "toy",
    "robot",
    patterns=("plain", "plain", "halves", "bands", "checks", "hoop"),
    badges=BADGED,
    sizes=("wide", "tall", "skull", "jaw"),
    head=("helmet", "box", "dome"),
    look=("visor", "eyes", "one"),
    base=("wheels", "legs", "tracks"),
    hands=("claws", "balls"),
    top=("none", "antenna", "bulb", "ears"),
)
def robot(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h, r = identity.size("wide", 32, 44), identity.size("tall", 52, 64), identity.size("skull", 30, 38)
    hip = -30.0
    if identity["base"] == "wheels":
        for side in (-1, 1):
            solid(c, ellipse_path(side * (w * 0.72), -26, 22, 26), RUBBER, edge=3, lit=0)
            ellipse(c, side * (w * 0.72 + 2), -26, 12, 16, identity.second)
    elif identity["base"] == "tracks":
        solid(c, rounded_path(-w - 10, -30, w + 10, -1, 15), RUBBER, edge=3, lit=0)
        for k in (-1, 0, 1):
            ellipse(c, k * w * 0.75, -15, 9, 9, METAL)
    else:
        for side in (-1, 1):
            solid(c, rounded_path(side * w * 0.5 - 11, -36, side * w * 0.5 + 11, -6, 4), identity.second)
            solid(c, rounded_path(side * w * 0.5 - 16, -14, side * w * 0.5 + 16, -1, 6), identity.accent, edge=4)
    for side in (-1, 1):
        lift = 30 * pose.swing * side
        hand = (side * (w + 26), hip - h * 0.34 - lift)
        tube(c, [(side * w, hip - h * 0.82), (side * (w + 21), hip - h * 0.72 - lift * 0.3), hand], identity.main, 16)
        solid(c, ellipse_path(side * (w + 7), hip - h * 0.84, 14, 14), identity.second, edge=4)
        if identity["hands"] == "balls":
            solid(c, ellipse_path(*hand, 13, 13), identity.accent, edge=4)
        else:
            for k in (-1, 1):
                line(c, [hand, (hand[0] + 9 * k, hand[1] + 9), (hand[0] + 5 * k, hand[1] + 19)], RUBBER, 8)
    clothe(
        c,
        smooth_path(mirrored([(0, hip - h), (w * 0.9, hip - h), (w, hip - h * 0.7), (w * 0.75, hip), (0, hip + 4)])),
        identity,
        26,
    )
    badge(c, 3 * pose.turn, hip - h * 0.48, 17, identity, pose.mirrored)
    _robot_head(c, identity, pose, 4 * pose.turn, hip - h - r * 0.72, r)


def _robot_head(c: skia.Canvas, identity: Identity, pose: Pose, x: float, y: float, r: float) -> None:
    if identity["top"] == "antenna":
        line(c, [(x, y - r * 0.8), (x + 6 * pose.swing, y - r * 1.4)], INK, 7)
        solid(c, ellipse_path(x + 6 * pose.swing, y - r * 1.45, 8, 8), identity.accent, edge=3)
    elif identity["top"] == "bulb":
        solid(c, ellipse_path(x, y - r * 0.9, 12, 14), identity.accent, edge=4)
    elif identity["top"] == "ears":
        for side in (-1, 1):
            solid(
                c,
                rounded_path(x + side * r * 1.05 - 8, y - 13, x + side * r * 1.05 + 8, y + 13, 5),
                identity.accent,
                edge=4,
            )
    if identity["head"] == "box":
        head = rounded_path(x - r * 1.05, y - r * 0.85, x + r * 1.05, y + r * 0.8, 8)
    elif identity["head"] == "dome":
        head = smooth_path(
            [(x - r, y + r * 0.75), (x - r, y - r * 0.2), (x, y - r), (x + r, y - r * 0.2), (x + r, y + r * 0.75)]
        )
    else:
        head = ellipse_path(x, y, r * 1.08, r * 0.98)
    solid(c, head, mix(identity.main, PAPER, 0.15))
    fx = x + 4 * pose.turn
    if identity["look"] == "visor":
        solid(c, rounded_path(fx - r * 0.78, y - r * 0.38, fx + r * 0.78, y + r * 0.3, r * 0.3), RUBBER, edge=0, lit=0)
        if not pose.blink:
            for side in (-1, 1):
                ellipse(
                    c,
                    fx + side * r * 0.36,
                    y - r * 0.04,
                    r * 0.17,
                    r * 0.17,
                    identity.accent if luma(identity.accent) > 0.3 else GOLD,
                )
    elif identity["look"] == "eyes":
        for side in (-1, 1):
            eye(c, fx + side * r * 0.45, y - r * 0.12, r * 0.28, pose)
    else:
        eye(c, fx, y - r * 0.12, r * 0.42, pose)
    jaw = identity.size("jaw", 0.3, 0.6)
    rect(c, fx - r * jaw, y + r * 0.42, fx + r * jaw, y + r * 0.6, INK)


@variant(
    "toy",
    "car",
    scale=0.94,
    patterns=("plain", "plain", "upper", "halves", "bands", "checks", "fade", "zigzag"),
    badges=("none", "ring", "letter", "letter", "star", "bolt"),
    sizes=("long", "high", "wheels", "cabin"),
    body=("buggy", "beetle", "pickup", "van"),
    rider=("none", "helmet", "bear"),
    roof=("none", "antenna", "lights", "spoiler"),
    bumper=("accent", "trim", "metal"),
)
def car(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h, tyre = identity.size("long", 74, 84), identity.size("high", 46, 58), identity.size("wheels", 20, 27)
    floor = -tyre * 0.8
    deck = floor - h
    cabin = identity.size("cabin", -16, 8)
    window: RGB = (0.66, 0.86, 0.95)
    if identity["roof"] == "antenna":
        tube(c, [(-w * 0.55, deck), (-w * 0.6 + 6 * pose.swing, -158)], identity.second, 6, 3)
        solid(c, ellipse_path(-w * 0.6 + 6 * pose.swing, -160, 8, 8), identity.trim, edge=3)
    if identity["rider"] != "none" and identity["body"] in ("buggy", "pickup"):
        x, y = cabin, deck - 26
        solid(c, rounded_path(x - 18, deck - 20, x + 18, deck + 8, 8), identity.trim, edge=4)
        skin = (0.93, 0.70, 0.52) if identity["rider"] == "helmet" else (0.62, 0.42, 0.26)
        if identity["rider"] == "bear":
            for side in (-1, 1):
                solid(c, ellipse_path(x + side * 17, y - 22, 9, 9), skin, edge=3)
        solid(c, ellipse_path(x, y - 8, 22, 22), skin, edge=4)
        if identity["rider"] == "helmet":
            solid(c, smooth_path([(x - 24, y - 10), (x, y - 36), (x + 24, y - 10)]), METAL, edge=3)
        for side in (-1, 1):
            ellipse(c, x + side * 8 + 4, y - 4, 3.5, 4, INK)
    outlines: dict[str, list[Point]] = {
        "buggy": [(-w, floor), (-w, deck + 8), (-w * 0.7, deck - 12), (-w * 0.3, deck + 6), (w * 0.3, deck + 8), (w * 0.85, deck + 16), (w, floor - 6), (w * 0.9, floor)],
        "beetle": [(-w, floor), (-w * 0.92, deck + 16), (-w * 0.5, deck - 28), (0, deck - 42), (w * 0.42, deck - 18), (w * 0.62, deck + 10), (w, floor - 14), (w * 0.9, floor)],
        "pickup": [(-w, floor), (-w, deck + 8), (-w * 0.4, deck + 6), (w * 0.3, deck + 4), (w * 0.95, deck + 10), (w, floor)],
        "van": [(-w, floor), (-w, deck - 24), (-w * 0.8, deck - 40), (w * 0.3, deck - 42), (w * 0.66, deck - 4), (w, deck + 18), (w, floor)],
    }  # fmt: skip
    clothe(c, smooth_path(outlines[identity["body"]]), identity, 26)
    if identity["body"] == "beetle":
        solid(
            c,
            smooth_path([(-w * 0.44, deck + 2), (-w * 0.36, deck - 22), (w * 0.06, deck - 30), (w * 0.36, deck + 2)]),
            window,
            edge=3,
        )
        rect(c, -w * 0.06, deck - 34, -w * 0.06 + 8, deck + 4, identity.main)
    elif identity["body"] == "van":
        for x0, x1 in ((-w * 0.84, -w * 0.42), (-w * 0.3, w * 0.08)):
            solid(c, rounded_path(x0, deck - 28, x1, deck + 4, 6), window, edge=3)
        solid(
            c,
            polygon_path([(w * 0.2, deck - 26), (w * 0.36, deck - 26), (w * 0.58, deck + 4), (w * 0.2, deck + 4)]),
            window,
            edge=3,
        )
    elif identity["body"] == "pickup":
        solid(
            c,
            polygon_path(
                [(cabin + 22, deck + 8), (cabin + 28, deck - 34), (cabin + 38, deck - 34), (cabin + 44, deck + 8)]
            ),
            window,
            edge=3,
        )
    if identity["roof"] == "lights":
        solid(
            c,
            rounded_path(-14, deck - 58, 14, deck - 38, 7)
            if identity["body"] in ("van", "beetle")
            else rounded_path(-w * 0.92, deck - 14, -w * 0.62, deck + 4, 7),
            identity.accent,
            edge=3,
        )
    elif identity["roof"] == "spoiler":
        tube(c, [(-w * 0.86, deck), (-w * 0.86, deck - 20)], identity.second, 9, 3)
        solid(c, rounded_path(-w - 6, deck - 28, -w * 0.56, deck - 15, 5), identity.second, edge=4)
    bumper = {"accent": identity.accent, "trim": identity.trim, "metal": METAL}[identity["bumper"]]
    solid(c, rounded_path(-w - 2, floor - 9, w + 3, floor + 5, 7), bumper, edge=4)
    ellipse(c, w * 0.86, deck + 27, 9, 8, (1.0, 0.95, 0.62))
    badge(c, 0, floor - h * 0.46, 15, identity, pose.mirrored)
    for side in (-1, 1):
        wheel(c, side * w * 0.58, -tyre, tyre, METAL if identity["bumper"] != "metal" else identity.trim)


@variant(
    "toy",
    "rocket",
    scale=1.08,
    patterns=("plain", "plain", "bands", "halves", "checks", "hoop", "stripes", "zigzag"),
    badges=BADGED,
    sizes=("wide", "tall", "span", "tip"),
    nose=("cone", "round", "needle"),
    window=("round", "two", "star"),
    fins=("swept", "square", "curved"),
    flame=("none", "flame"),
)
def rocket(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 32, 42), identity.size("tall", 140, 156)
    out = identity.size("span", 24, 40)
    foot = -22.0
    if identity["flame"] == "flame":
        solid(c, smooth_path([(-18, foot), (18, foot), (6 * pose.swing, 2)]), (0.98, 0.60, 0.15), edge=3, lit=0)
        ellipse(c, 0, foot + 5, 8, 9, (1.0, 0.92, 0.45))
    for side in (-1, 1):
        fins: dict[str, list[Point]] = {
            "swept": [(side * w * 0.7, -74), (side * (w + out), -22), (side * (w + out), -2), (side * w * 0.6, -26)],
            "square": [(side * w * 0.7, -64), (side * (w + out * 0.8), -50), (side * (w + out * 0.8), -4), (side * w * 0.6, -18)],
            "curved": [(side * w * 0.7, -70), (side * (w + out), -40), (side * (w + out * 0.7), -2), (side * w * 0.6, -24)],
        }  # fmt: skip
        points = fins[identity["fins"]]
        solid(c, smooth_path(points) if identity["fins"] == "curved" else polygon_path(points), identity.accent)
    tip = {"cone": 0.0, "round": 8.0, "needle": -8.0}[identity["nose"]]
    hull = smooth_path(
        mirrored([(0, -h + tip), (w * 0.55, -h * 0.82), (w, -h * 0.5), (w * 0.92, -42), (w * 0.6, foot), (0, foot)])
    )
    clothe(c, hull, identity, 28)
    c.save()
    c.clipPath(hull, doAntiAlias=True)
    rect(c, -w, -h - 10, w, -h * identity.size("tip", 0.76, 0.84), identity.accent)
    c.restore()
    if identity["nose"] == "needle":
        line(c, [(0, -h), (0, -h - 14)], identity.trim, 7)
    glass: RGB = (0.60, 0.86, 0.96)
    x = 4 * pose.turn
    if identity["window"] == "two":
        for y in (-h * 0.60, -h * 0.38):
            solid(c, ellipse_path(x, y, 12, 12), glass, edge=6)
    else:
        solid(c, ellipse_path(x, -h * 0.56, 17, 17), glass, edge=7)
        if identity["window"] == "star":
            line(c, [(x - 9, -h * 0.56), (x + 9, -h * 0.56)], PAPER, 5)
            line(c, [(x, -h * 0.56 - 9), (x, -h * 0.56 + 9)], PAPER, 5)
        badge(c, x, -h * 0.3, 14, identity, pose.mirrored)
