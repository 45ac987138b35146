"""Backpacks: day packs, packs with an animal's face, and rucksacks with a flap."""

from __future__ import annotations

import skia

from ..canvas import (
    GOLD,
    INK,
    METAL,
    PAPER,
    arc,
    ellipse,
    ellipse_path,
    leaf_path,
    line,
    luma,
    mirrored,
    paint,
    polygon_path,
    rect,
    rounded,
    rounded_path,
    shade,
    smooth_path,
    solid,
    tube,
)
from ..identity import BADGES, Identity, variant
from ..pose import Pose
from ..surfaces import BADGED, badge, clothe


def _straps(c: skia.Canvas, identity: Identity, pose: Pose, w: float, h: float, color) -> None:
    """The loop on top and the two straps that show at the sides."""
    tube(c, [(-16, -h + 6), (-14, -h - 16), (14, -h - 16), (16, -h + 6)], color, 9, 4)
    for side in (-1, 1):
        tube(
            c,
            [
                (side * (w - 6), -h * 0.74),
                (side * (w + 15 + 4 * pose.swing * side), -h * 0.5),
                (side * (w - 4), -h * 0.16),
            ],
            color,
            11,
            4,
        )


@variant(
    "backpack",
    "daypack",
    badges=BADGED,
    sizes=("wide", "tall", "round", "pocket_height"),
    pocket=("second", "accent", "main"),
    zip=("gold", "dark", "trim"),
    patch=("none", "one", "two"),
    base=("none", "second", "trim"),
    side=("none", "bottle", "none"),
)
def daypack(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 54, 66), identity.size("tall", 138, 152)
    zipper = {"gold": GOLD, "dark": INK, "trim": identity.trim}[identity["zip"]]
    if identity["side"] == "bottle":
        solid(c, rounded_path(w - 8, -82, w + 18, -14, 8), identity.trim)
        solid(c, rounded_path(w - 3, -94, w + 13, -80, 4), METAL, edge=4)
    _straps(c, identity, pose, w, h, identity.accent)
    bulge = identity.size("round", 0.55, 0.9)
    body = smooth_path(
        mirrored([(0, -h), (w * bulge, -h * 0.95), (w * 0.98, -h * 0.66), (w * 1.04, -h * 0.3), (w * 0.94, -3), (0, 0)])
    )
    clothe(c, body, identity, 30)
    c.save()
    c.clipPath(body, doAntiAlias=True)
    if identity["base"] != "none":
        rect(c, -w * 1.2, -26, w * 1.2, 4, identity.second if identity["base"] == "second" else identity.trim)
    c.restore()
    line(
        c,
        [(-w * 0.86, -h * 0.62), (-w * 0.62, -h * 0.82), (0, -h * 0.86), (w * 0.62, -h * 0.82), (w * 0.86, -h * 0.62)],
        zipper,
        6,
    )
    top = -h * identity.size("pocket_height", 0.38, 0.48)
    color = {"second": identity.second, "accent": identity.accent, "main": shade(identity.main, 0.9)}[
        identity["pocket"]
    ]
    pocket = smooth_path(mirrored([(0, top), (w * 0.74, top + 4), (w * 0.8, -36), (w * 0.72, -12), (0, -10)]))
    solid(c, pocket, color, edge=4)
    line(c, [(-w * 0.6, top + 16), (w * 0.6, top + 16)], zipper, 6)
    for k, (px, py) in enumerate(
        ((w * 0.4, -24), (w * 0.1, -28))[: {"none": 0, "one": 1, "two": 2}[identity["patch"]]]
    ):
        ellipse(c, px, py, 9, 9, (GOLD, PAPER)[k] if luma(color) < 0.75 else (identity.trim, INK)[k])
    badge(c, 4 * pose.turn, -h * 0.63, 18, identity, pose.mirrored)


@variant(
    "backpack",
    "face",
    patterns=("plain", "plain", "dots", "halves", "stripes"),
    badges=("none",),
    sizes=("wide", "tall", "eyes", "nose"),
    ears=("folded", "round", "long", "pointed", "horns"),
    muzzle=("second", "accent", "light"),
    mouth=("smile", "tongue", "teeth"),
    cheeks=("none", "cheeks"),
    eye=("dots", "rings", "patch"),
)
def face(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 58, 68), identity.size("tall", 126, 140)
    _straps(c, identity, pose, w, h, identity.accent)
    for side in (-1, 1):
        x, y, color = side * w * 0.66, -h + 10, shade(identity.second, 0.9)
        if identity["ears"] == "round":
            solid(c, ellipse_path(x, y, 19, 19), color)
            ellipse(c, x, y, 10, 10, identity.accent)
        elif identity["ears"] == "long":
            solid(c, ellipse_path(side * w * 0.42, -h - 14, 13, 28), identity.main)
            ellipse(c, side * w * 0.42, -h - 14, 6, 18, identity.accent)
        elif identity["ears"] == "pointed":
            solid(c, polygon_path([(side * w * 0.28, -h + 8), (side * w * 0.9, -h - 26), (side * w, -h + 34)]), color)
        elif identity["ears"] == "horns":
            solid(
                c,
                smooth_path([(side * w * 0.5, -h + 12), (side * w * 0.98, -h - 22), (side * w * 0.85, -h + 22)]),
                identity.trim,
            )
    body = smooth_path(
        mirrored([(0, -h), (w * 0.62, -h * 0.96), (w * 0.96, -h * 0.7), (w * 1.05, -h * 0.3), (w * 0.95, -3), (0, 0)])
    )
    clothe(c, body, identity, 30)
    muzzle = {"second": identity.second, "accent": identity.accent, "light": PAPER}[identity["muzzle"]]
    x = 4 * pose.turn
    pocket = smooth_path(
        mirrored([(0, -h * 0.56), (w * 0.6, -h * 0.48), (w * 0.88, -h * 0.22), (w * 0.8, -6), (0, -5)])
    )
    solid(c, pocket, muzzle, edge=5)
    line(
        c,
        [(-w * 0.86, -h * 0.2), (-w * 0.6, -h * 0.47), (0, -h * 0.55), (w * 0.6, -h * 0.47), (w * 0.86, -h * 0.2)],
        identity.trim,
        6,
    )
    if identity["ears"] == "folded":
        for side in (-1, 1):
            solid(
                c,
                leaf_path(side * w * 0.42, -h * 0.94, side * w * 0.56, h * 0.26, 34),
                shade(identity.second, 0.6),
                edge=4,
            )
    size = identity.size("eyes", 7, 10)
    for side in (-1, 1):
        px, py = x + side * w * 0.38, -h * 0.69
        if identity["eye"] == "patch" and side > 0:
            ellipse(c, px, py, size * 2.1, size * 2.2, identity.trim)
        if identity["eye"] == "rings" or luma(identity.main) < 0.3:
            ellipse(c, px, py, size * 1.6, size * 1.6, PAPER)
        ellipse(c, px, py, size, size, INK)
        ellipse(c, px - size * 0.3, py - size * 0.3, size * 0.3, size * 0.3, PAPER)
        if identity["cheeks"] == "cheeks":
            ellipse(c, x + side * w * 0.6, -h * 0.24, 9, 7, (0.96, 0.55, 0.58))
    n = identity.size("nose", 13, 18)
    c.drawPath(
        smooth_path([(x - n, -h * 0.5), (x + n, -h * 0.5), (x, -h * 0.36)]),
        paint((0.32, 0.20, 0.15) if luma(muzzle) > 0.3 else (0.9, 0.6, 0.6)),
    )
    ink = shade(muzzle, 0.35) if luma(muzzle) > 0.25 else PAPER
    line(c, [(x - w * 0.48, -h * 0.24), (x, -h * 0.13), (x + w * 0.48, -h * 0.24)], ink, 5.5)
    line(c, [(x, -h * 0.38), (x, -h * 0.14)], ink, 4)
    if identity["mouth"] == "tongue":
        solid(c, rounded_path(x + w * 0.16, -h * 0.18, x + w * 0.42, -h * 0.05, 7), (0.94, 0.40, 0.45), edge=2)
    elif identity["mouth"] == "teeth":
        for k in (-1, 1):
            c.drawPath(
                polygon_path([(x + k * 12 - 7, -h * 0.16), (x + k * 12 + 7, -h * 0.16), (x + k * 12, -h * 0.06)]),
                paint(PAPER if luma(muzzle) < 0.8 else METAL),
            )


@variant(
    "backpack",
    "rucksack",
    badges=("none", "none", *BADGES),
    sizes=("wide", "tall", "flap_length", "sides"),
    flap=("second", "accent", "main"),
    closing=("buckles", "strap", "toggle"),
    roll=("none", "roll", "none"),
    pockets=("none", "pockets"),
    front=("none", "none", "pouch"),
)
def rucksack(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 54, 64), identity.size("tall", 128, 142)
    if identity["roll"] == "roll":
        solid(c, rounded_path(-w * 0.98, -h - 24, w * 0.98, -h + 8, 16), identity.trim)
        for side in (-1, 1):
            arc(c, side * w * 0.72, -h - 8, 8, 13, 90, 180, shade(identity.trim, 0.6), 5)
    else:
        tube(c, [(-16, -h + 6), (-14, -h - 16), (14, -h - 16), (16, -h + 6)], identity.accent, 9, 4)
    if identity["pockets"] == "pockets":
        out = identity.size("sides", 14, 22)
        for side in (-1, 1):
            solid(c, rounded_path(side * w - out, -70, side * w + out, -8, 10), identity.second)
    else:
        for side in (-1, 1):
            tube(
                c,
                [
                    (side * (w - 6), -h * 0.7),
                    (side * (w + 15 + 4 * pose.swing * side), -h * 0.45),
                    (side * (w - 4), -h * 0.14),
                ],
                identity.accent,
                11,
                4,
            )
    clothe(
        c,
        smooth_path(
            mirrored([(0, -h), (w * 0.85, -h * 0.97), (w, -h * 0.7), (w * 1.02, -h * 0.25), (w * 0.9, -2), (0, 0)])
        ),
        identity,
        28,
    )
    if identity["front"] == "pouch":
        solid(
            c,
            rounded_path(-w * 0.55, -h * 0.34, w * 0.55, -10, 8),
            identity.second if identity["flap"] != "second" else identity.trim,
            edge=4,
        )
    low = -h * identity.size("flap_length", 0.42, 0.56)
    color = {"second": identity.second, "accent": identity.accent, "main": shade(identity.main, 0.86)}[identity["flap"]]
    solid(
        c,
        smooth_path(
            mirrored(
                [
                    (0, -h - 3),
                    (w * 0.9, -h * 0.96),
                    (w * 1.02, -h * 0.74),
                    (w * 0.96, low - 12),
                    (w * 0.6, low),
                    (0, low + 6),
                ]
            )
        ),
        color,
    )
    strap = identity.trim if identity["roll"] == "none" else identity.accent
    for x in (-0.5, 0.5) if identity["closing"] == "buckles" else (0.0,):
        if identity["closing"] == "toggle":
            line(c, [(0, low - 10), (0, low + 14)], strap, 6)
            solid(c, rounded_path(-14, low + 8, 14, low + 20, 6), GOLD, edge=3)
        else:
            rounded(c, w * x - 7, low - 22, w * x + 7, low + 30, 3, strap)
            solid(c, rounded_path(w * x - 11, low + 2, w * x + 11, low + 18, 3), GOLD, edge=3)
    badge(c, 4 * pose.turn, (-h + low) / 2 - 2, 17, identity, pose.mirrored)
