"""Toys with a face of their own: ducks, knitted monsters, swirls and dinosaurs."""

from __future__ import annotations

import skia

from ..canvas import (
    GOLD,
    INK,
    PAPER,
    Point,
    ellipse,
    ellipse_path,
    line,
    luma,
    mirrored,
    paint,
    polygon,
    polygon_path,
    rect,
    rounded_path,
    shade,
    shaggy_path,
    smooth_path,
    solid,
    tube,
)
from ..identity import Identity, variant
from ..pose import Pose
from ..surfaces import badge, clothe


def eye(c: skia.Canvas, x: float, y: float, r: float, pose: Pose) -> None:
    """A toy's round eye, looking where the toy turns."""
    ellipse(c, x, y, r + 3, r + 3, INK)
    ellipse(c, x, y, r, r, PAPER)
    if pose.blink:
        ellipse(c, x, y, r, r * 0.25, INK)
    else:
        ellipse(c, x + r * 0.3 * pose.turn, y, r * 0.55, r * 0.6, INK)
        ellipse(c, x + r * 0.3 * pose.turn - r * 0.2, y - r * 0.25, r * 0.2, r * 0.2, PAPER)


def mouth(c: skia.Canvas, x: float, y: float, w: float, name: str) -> None:
    """A toy's mouth: "smile", "grin", "teeth" or "oh"."""
    if name == "smile":
        line(c, [(x - w, y), (x, y + w * 0.5), (x + w, y)], INK, 6)
    elif name == "oh":
        ellipse(c, x, y + 3, w * 0.45, w * 0.5, INK)
    else:
        c.drawPath(
            smooth_path(
                [(x - w, y - 3), (x, y - 1), (x + w, y - 3), (x + w * 0.6, y + w * 0.7), (x - w * 0.6, y + w * 0.7)]
            ),
            paint(INK),
        )
        if name == "teeth":
            for k in (-1, 1):
                polygon(
                    c, [(x + k * w * 0.45 - 5, y - 2), (x + k * w * 0.45 + 5, y - 2), (x + k * w * 0.45, y + 8)], PAPER
                )
        else:
            ellipse(c, x, y + w * 0.5, w * 0.4, w * 0.22, (0.95, 0.42, 0.45))


@variant(
    "toy",
    "duck",
    patterns=("plain", "plain", "plain", "dots", "bands", "halves", "fade"),
    badges=("none", "none", "star", "heart", "bolt", "letter", "flower"),
    sizes=("body", "head", "bill", "tail"),
    headwear=("none", "none", "cap", "tuft", "crown", "bow"),
    neckwear=("none", "none", "ribbon", "scarf"),
    wing=("main", "second", "none"),
    shades=("none", "none", "none", "glasses"),
)
def duck(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h, r = identity.size("body", 66, 78), identity.size("body", 70, 80), identity.size("head", 36, 43)
    tail = identity.size("tail", -h * 0.85, -h * 1.1)
    x, y = 24 + 3 * pose.turn, -h - r * 0.55
    if identity["headwear"] == "tuft":
        for k in (-1, 0, 1):
            tube(c, [(x, y - r * 0.8), (x - 12 + 9 * k, y - r * 1.25)], identity.main, 7, 3)
    body = smooth_path(
        [
            (-w, tail),
            (-w * 0.72, tail + 22),
            (-10, -h * 0.72),
            (w * 0.7, -h * 0.86),
            (w, -h * 0.4),
            (w * 0.5, -4),
            (-w * 0.45, -4),
            (-w * 0.98, -h * 0.4),
        ]
    )
    clothe(c, body, identity, 26)
    if identity["wing"] != "none":
        wing = smooth_path([(-w * 0.66, -h * 0.62), (w * 0.14, -h * 0.56), (w * 0.1, -h * 0.26), (-w * 0.3, -h * 0.24)])
        solid(c, wing, identity.second if identity["wing"] == "second" else shade(identity.main, 0.9), edge=4)
    badge(c, w * 0.45, -h * 0.36, 14, identity, pose.mirrored)
    solid(c, ellipse_path(x, y, r, r * 0.95), identity.main)
    bill = identity.size("bill", 0.5, 0.8) * r
    bx = x + r * 0.72
    solid(
        c,
        smooth_path(
            [(bx, y + 2), (bx + bill * 0.5, y - 2), (bx + bill, y + 9), (bx + bill * 0.45, y + 15), (bx - 2, y + 15)]
        ),
        identity.accent,
        edge=4,
    )
    if pose.open_mouth:
        line(c, [(bx + 2, y + 9), (bx + bill * 0.8, y + 9)], shade(identity.accent, 0.5), 4)
    if identity["shades"] == "glasses":
        rect(c, x - r * 0.9, y - r * 0.4, x + r * 0.7, y - r * 0.2, INK)
        c.drawPath(rounded_path(x - 2, y - r * 0.45, x + r * 0.8, y + r * 0.1, 8), paint(INK))
    elif pose.blink:
        line(c, [(x + r * 0.2, y - r * 0.2), (x + r * 0.55, y - r * 0.2)], INK, 5)
    else:
        ellipse(c, x + r * 0.36, y - r * 0.2, 8, 9, INK if luma(identity.main) > 0.2 else PAPER)
        ellipse(c, x + r * 0.42, y - r * 0.27, 3, 3, PAPER if luma(identity.main) > 0.2 else INK)
    if identity["neckwear"] != "none":
        wide = 12 if identity["neckwear"] == "scarf" else 8
        tube(c, [(x - r * 0.85, y + r * 0.72), (x, y + r * 1.02), (x + r * 0.75, y + r * 0.74)], identity.trim, wide, 3)
        if wide == 12:
            tube(c, [(x - r * 0.4, y + r * 0.95), (x - r * 0.6, y + r * 1.6)], identity.trim, wide, 3)
    if identity["headwear"] == "cap":
        solid(
            c,
            smooth_path([(x - r * 0.8, y - r * 0.55), (x - r * 0.1, y - r * 1.25), (x + r * 0.72, y - r * 0.55)]),
            identity.trim,
            edge=4,
        )
        line(c, [(x + r * 0.3, y - r * 0.55), (x + r * 1.1, y - r * 0.5)], identity.trim, 9)
    elif identity["headwear"] == "crown":
        solid(
            c,
            polygon_path(
                [
                    (x - 22, y - r * 0.75),
                    (x - 24, y - r * 1.3),
                    (x - 9, y - r),
                    (x, y - r * 1.4),
                    (x + 9, y - r),
                    (x + 24, y - r * 1.3),
                    (x + 22, y - r * 0.75),
                ]
            ),
            GOLD,
            edge=3,
        )
    elif identity["headwear"] == "bow":
        for side in (-1, 1):
            solid(
                c,
                smooth_path(
                    [(x - 6, y - r * 0.9), (x - 6 + side * 22, y - r * 1.25), (x - 6 + side * 22, y - r * 0.65)]
                ),
                identity.trim,
                edge=3,
            )


@variant(
    "toy",
    "monster",
    patterns=("plain", "plain", "bands", "dots", "stripes", "halves"),
    badges=("none",),
    sizes=("wide", "tall", "look", "thick"),
    eyes=("stalks", "one", "three", "pair"),
    mouth=("grin", "teeth", "oh", "smile"),
    coat=("short", "curly", "shaggy"),
    belly=("second", "accent", "none"),
    limbs=("ringed", "plain"),
    horns=("none", "none", "horns", "tuft"),
)
def monster(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 34, 46), identity.size("tall", 44, 56)
    y, r = -44 - h, identity.size("look", 13, 18)
    thick = identity.size("thick", 13, 18)
    for side in (-1, 1):
        up = 46 * pose.swing * side
        arm = [(side * w * 0.8, y + 4), (side * (w + 20), y + 12 - up * 0.3), (side * (w + 34), y + 34 - up)]
        leg = [(side * w * 0.5, -44), (side * (w * 0.62 + 12), -30), (side * (w * 0.75 + 6 + 5 * pose.swing), -8)]
        for limb in (arm, leg):
            tube(c, limb, identity.main, thick)
            if identity["limbs"] == "ringed":
                (x0, y0), (x1, y1) = limb[1], limb[2]
                for share in (0.1, 0.55):
                    ellipse(c, x0 + share * (x1 - x0), y0 + share * (y1 - y0), thick * 0.5, 4.5, identity.second)
            solid(
                c,
                ellipse_path(*limb[2], thick * 0.66, thick * 0.6),
                PAPER if luma(identity.main) < 0.7 else identity.accent,
                edge=3,
                lit=0,
            )
    top = y - h
    if identity["horns"] == "horns":
        for side in (-1, 1):
            solid(
                c,
                smooth_path([(side * w * 0.55, top + 10), (side * w * 1.15, top - 14), (side * w * 0.95, top + 22)]),
                identity.accent,
                edge=4,
            )
    elif identity["horns"] == "tuft":
        for k in (-1, 0, 1):
            tube(c, [(0, top + 6), (13 * k, top - 24)], identity.accent, 8, 3)
    body = shaggy_path(
        [
            (w * px, y + h * py)
            for px, py in mirrored([(0, -1), (0.8, -0.95), (1.0, -0.5), (1.0, 0.5), (0.8, 0.98), (0, 1.02)])
        ],
        identity["coat"],
        6,
    )
    clothe(c, body, identity, 24)
    if identity["belly"] != "none":
        solid(
            c,
            smooth_path(
                [
                    (px * w * 0.58, y + h * 0.52 + py * h * 0.42)
                    for px, py in mirrored([(0, -1), (0.9, -0.6), (0.9, 0.6), (0, 1)])
                ]
            ),
            identity.second if identity["belly"] == "second" else identity.accent,
            edge=0,
            lit=0.1,
        )
    low = y - h * 0.30
    if identity["eyes"] == "stalks":
        for side in (-1, 1):
            solid(c, ellipse_path(side * w * 0.48, top - r * 0.5, r + 7, r + 6), identity.main)
            eye(c, side * w * 0.48, top - r * 0.5, r * 0.85, pose)
        low = y - h * 0.55
    elif identity["eyes"] == "one":
        eye(c, 3 * pose.turn, y - h * 0.5, r * 1.15, pose)
    elif identity["eyes"] == "three":
        for k in (-1, 0, 1):
            eye(c, k * w * 0.56 + 2 * pose.turn, y - h * (0.5 if k else 0.72), r * 0.62, pose)
    else:
        for side in (-1, 1):
            eye(c, side * w * 0.42 + 2 * pose.turn, y - h * 0.52, r * 0.8, pose)
    mouth(c, 3 * pose.turn, low + h * 0.3, w * 0.42, identity["mouth"])


@variant(
    "toy",
    "swirl",
    patterns=("plain", "plain", "plain", "bands", "dots", "fade"),
    badges=("none",),
    sizes=("wide", "tall", "eyes", "tip"),
    tiers=("three", "four"),
    mouth=("grin", "smile", "teeth", "oh"),
    topper=("none", "none", "cherry", "bow", "leaf", "party"),
    cheeks=("none", "cheeks"),
    sprinkles=("none", "none", "sprinkles"),
)
def swirl(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    """Soft tiers, each smaller than the one below, and a curled tip."""
    w, h = identity.size("wide", 64, 78), identity.size("tall", 122, 142)
    n = 3 if identity["tiers"] == "three" else 4
    height = h / (n + 0.55)
    tip = 14 * (identity.size("tip") - 0.5) + 5 * pose.swing
    solid(
        c,
        smooth_path(
            [
                (-w * 0.26, -n * height + 6),
                (-w * 0.1, -h + 6),
                (tip + 4, -h - 12),
                (w * 0.16, -h + 12),
                (w * 0.3, -n * height + 6),
            ]
        ),
        identity.main,
    )
    for k in reversed(range(n)):  # from the top down, each resting on the next
        half = w * (1 - 0.74 * k / n)
        top, low = -(k + 1.25) * height, -k * height
        points = [
            (-half * 0.9, top + height * 0.25),
            (half * 0.75, top + height * 0.05),
            (half, low - height * 0.5),
            (half * 0.8, low),
            (-half * 0.85, low),
            (-half, low - height * 0.5),
        ]
        if identity.pattern == "bands":
            solid(c, smooth_path(points), identity.second if k % 2 else identity.main)
        else:
            clothe(c, smooth_path(points), identity, 24)
    if identity["sprinkles"] == "sprinkles":
        for k, (u, v, _) in enumerate(identity.scatter(12)):
            x, y = (2 * u - 1) * w * (0.85 - 0.6 * v), -8 - v * h * 0.85
            line(c, [(x - 4, y - 3), (x + 4, y + 3)], (identity.accent, identity.trim, PAPER)[k % 3], 6)
    r = identity.size("eyes", 11, 15)
    x, y = 5 * pose.turn, -height * 1.45
    for side in (-1, 1):
        eye(c, x + side * r * 1.5, y, r, pose)
        if identity["cheeks"] == "cheeks":
            ellipse(c, x + side * r * 2.5, y + r * 1.5, 8, 6, (0.96, 0.48, 0.52))
    mouth(c, x, y + r * 1.75, r * 1.25, identity["mouth"])
    top = (tip, -h - 4)
    if identity["topper"] == "cherry":
        solid(c, ellipse_path(top[0], top[1] - 8, 12, 12), (0.85, 0.12, 0.18), edge=4)
    elif identity["topper"] == "leaf":
        solid(
            c,
            smooth_path([(top[0] - 2, top[1] + 2), (top[0] + 14, top[1] - 20), (top[0] + 32, top[1] - 12)]),
            (0.30, 0.65, 0.28),
            edge=3,
        )
    elif identity["topper"] == "bow":
        for side in (-1, 1):
            solid(
                c,
                smooth_path([(top[0], top[1]), (top[0] + side * 24, top[1] - 14), (top[0] + side * 24, top[1] + 12)]),
                identity.accent,
                edge=3,
            )
    elif identity["topper"] == "party":
        solid(
            c,
            polygon_path([(top[0] - 19, top[1] + 10), (top[0] + 19, top[1] + 10), (top[0], top[1] - 28)]),
            identity.accent,
            edge=4,
        )


@variant(
    "toy",
    "dinosaur",
    scale=0.94,
    patterns=("plain", "plain", "dots", "bands", "stripes", "halves", "marbled"),
    badges=("none",),
    sizes=("girth", "reach", "head", "tail"),
    crest=("spikes", "plates", "none", "mane"),
    neck=("short", "long"),
    belly=("second", "trim", "none"),
    mouth=("closed", "open"),
    cheeks=("none", "cheeks"),
)
def dinosaur(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, r = identity.size("girth", 48, 58), identity.size("head", 28, 34)
    up = identity.size("reach", 100, 110) if identity["neck"] == "short" else identity.size("reach", 122, 136)
    x, y = 34 + 3 * pose.turn, -up
    tail = [(-30, -34), (-w - 14, -30), (-86, -52 - identity.size("tail", 0, 30) - 10 * pose.swing)]
    back: list[Point] = [
        (tail[2][0] + 8, tail[2][1] + 12),
        (-w - 2, -56),
        (-w * 0.62, -84),
        (-w * 0.1, -96),
        (16, y - r * 0.1),
        (28, y - r * 0.9),
    ]
    if identity["crest"] != "none":
        size = {"spikes": 13, "plates": 17, "mane": 12}[identity["crest"]]
        for px, py in back:
            if identity["crest"] == "mane":
                solid(c, ellipse_path(px - 5, py - 5, size, size), identity.accent, edge=4)
            else:
                solid(
                    c,
                    polygon_path(
                        [(px - size, py + size * 0.7), (px + size * 0.5, py - size * 0.6), (px - size * 0.8, py - size)]
                    ),
                    identity.accent,
                    edge=4,
                )
    tube(c, tail, identity.main, 24)
    for px in (-26, 30):
        solid(c, rounded_path(px - 15, -44, px + 15, -1, 11), shade(identity.main, 0.9))
    body = smooth_path(
        [
            (-w, -40),
            (-w * 0.6, -80),
            (0, -92),
            (x - r * 0.5, y + 6),
            (x + r * 0.6, y + 12),
            (w * 0.95, -56),
            (w * 0.86, -24),
            (0, -14),
            (-w * 0.7, -18),
        ]
    )
    clothe(c, body, identity, 25)
    if identity["belly"] != "none":
        color = identity.second if identity["belly"] == "second" else identity.trim
        c.save()
        c.clipPath(body, doAntiAlias=True)
        ellipse(c, w * 0.62, -44, 30, 36, color)
        c.restore()
    for px in (-10, 44):
        solid(c, rounded_path(px - 15, -34 + 3 * pose.swing, px + 15, -1, 11), identity.main)
    head = smooth_path(
        [
            (x - r, y),
            (x - r * 0.5, y - r * 0.85),
            (x + r * 0.5, y - r * 0.75),
            (x + r * 1.45, y - r * 0.2),
            (x + r * 1.4, y + r * 0.5),
            (x, y + r * 0.75),
        ]
    )
    solid(c, head, identity.main)
    line(
        c, [(x + r * 0.25, y + r * 0.34), (x + r * 1.25, y + r * 0.26)], INK if luma(identity.main) > 0.2 else PAPER, 5
    )
    if identity["mouth"] == "open":
        for k in range(3):
            px = x + r * (0.45 + 0.28 * k)
            polygon(c, [(px - 5, y + r * 0.3), (px + 5, y + r * 0.3), (px, y + r * 0.3 + 9)], PAPER)
    if identity["cheeks"] == "cheeks":
        ellipse(c, x + r * 0.1, y + r * 0.25, 8, 6, (0.96, 0.50, 0.55))
    eye(c, x + r * 0.3, y - r * 0.22, 9, pose)
