"""Things on a shelf: clocks, candles and glasses."""

from __future__ import annotations

import math

import skia

from ..canvas import (
    GOLD,
    INK,
    METAL,
    PAPER,
    RGB,
    Point,
    arc,
    ellipse,
    ellipse_path,
    gradient,
    heart_path,
    line,
    luma,
    mix,
    outline,
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
from ..surfaces import BADGED, LETTERS, badge, clothe, letter

WOOD: RGB = (0.70, 0.45, 0.24)


def _dial(c: skia.Canvas, identity: Identity, pose: Pose, x: float, y: float, r: float) -> None:
    """A clock's face: its marks, one big figure perhaps, and two hands at any time of the day."""
    color = {"white": PAPER, "second": identity.second, "dark": (0.16, 0.17, 0.22)}[identity["dial"]]
    ink = INK if luma(color) > 0.45 else PAPER
    c.drawCircle(x, y, r, paint(color))
    if identity["marks"] in ("four", "twelve", "dots"):
        n = 12 if identity["marks"] == "twelve" else 4 if identity["marks"] == "four" else 8
        for k in range(n):
            a = 2 * math.pi * k / n
            px, py = x + 0.8 * r * math.sin(a), y - 0.8 * r * math.cos(a)
            if identity["marks"] == "four":
                line(c, [(px, py), (x + 0.64 * r * math.sin(a), y - 0.64 * r * math.cos(a))], ink, 6)
            else:
                ellipse(c, px, py, 3.4 if n == 12 else 5, 3.4 if n == 12 else 5, ink)
    elif identity["marks"] == "figure":
        for k in (0, 2, 3):
            a = math.pi * k / 2
            ellipse(c, x + 0.8 * r * math.sin(a), y - 0.8 * r * math.cos(a), 4, 4, ink)
        letter(
            c,
            x + (-1 if pose.mirrored else 1) * r * 0.5,
            y,
            r * 0.3,
            int(identity.size("figure") * len(LETTERS)),
            identity.accent,
            pose.mirrored,
        )
    hand = ink if identity["hands"] == "dark" else identity.trim
    a = math.pi * (0.15 + 0.9 * pose.swing)
    b = math.pi * pose.turn
    line(c, [(x, y), (x + 0.42 * r * math.sin(a), y - 0.42 * r * math.cos(a))], hand, 8)
    line(c, [(x, y), (x + 0.68 * r * math.sin(b), y - 0.68 * r * math.cos(b))], hand, 6)
    ellipse(c, x, y, 6, 6, hand)


CLOCK_PARTS = {
    "dial": ("white", "white", "second", "dark"),
    "marks": ("four", "twelve", "dots", "figure"),
    "hands": ("dark", "trim"),
}


@variant(
    "clock",
    "alarm",
    scale=1.05,
    patterns=("plain", "plain", "halves", "dots", "stripes", "fade", "checks"),
    badges=("none",),
    sizes=("round", "rim", "bells_size", "figure"),
    bells=("two", "one", "none"),
    bell_color=("main", "accent", "metal"),
    feet=("pegs", "balls", "base"),
    handle=("arch", "none"),
    **CLOCK_PARTS,
)
def alarm(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    r = identity.size("round", 54, 62)
    y, metal = -r - 16, {"main": identity.main, "accent": identity.accent, "metal": METAL}[identity["bell_color"]]
    if identity["handle"] == "arch":
        tube(
            c,
            [(-r * 0.55, y - r * 0.75), (-r * 0.4, y - r * 1.38), (r * 0.4, y - r * 1.38), (r * 0.55, y - r * 0.75)],
            METAL,
            7,
            3,
        )
    size = identity.size("bells_size", 18, 25)
    if identity["bells"] == "two":
        for side in (-1, 1):
            c.save()
            c.translate(side * r * 0.62, y - r * 0.92)
            c.rotate(side * 32)
            solid(
                c,
                smooth_path(
                    [(-size, 8), (-size * 0.7, -size * 0.6), (0, -size * 0.85), (size * 0.7, -size * 0.6), (size, 8)]
                ),
                metal,
            )
            c.restore()
        tube(c, [(0, y - r * 0.8), (5 * pose.swing, y - r * 1.14)], METAL, 8, 3)
    elif identity["bells"] == "one":
        solid(
            c,
            smooth_path(
                [
                    (-size * 1.1, y - r * 0.92),
                    (-size * 0.8, y - r * 1.2),
                    (size * 0.8, y - r * 1.2),
                    (size * 1.1, y - r * 0.92),
                ]
            ),
            metal,
        )
    if identity["feet"] == "base":
        solid(c, rounded_path(-r * 0.8, -18, r * 0.8, 0, 6), identity.second)
    else:
        for side in (-1, 1):
            if identity["feet"] == "pegs":
                tube(c, [(side * r * 0.5, -24), (side * r * 0.78, -5)], metal, 10)
            else:
                solid(c, ellipse_path(side * r * 0.58, -12, 12, 12), metal)
    clothe(c, ellipse_path(0, y, r, r), identity, 26)
    dial = r * identity.size("rim", 0.70, 0.82)
    outline(c, ellipse_path(0, y, dial, dial), identity.main, 3)
    _dial(c, identity, pose, 0, y, dial)


@variant(
    "clock",
    "mantel",
    scale=1.1,
    badges=("none",),
    sizes=("wide", "tall", "dial_size", "figure"),
    case=("house", "arch", "box", "cat"),
    feet=("pegs", "balls", "base"),
    below=("none", "pendulum", "drawer"),
    **CLOCK_PARTS,
)
def mantel(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 50, 62), identity.size("tall", 122, 140)
    foot = -10.0
    for side in (-1, 1):
        if identity["feet"] == "base":
            solid(c, rounded_path(-w - 8, -16, w + 8, 0, 5), identity.second)
            break
        if identity["feet"] == "pegs":
            tube(c, [(side * w * 0.66, -16), (side * w * 0.8, -4)], identity.accent, 9)
        else:
            solid(c, ellipse_path(side * w * 0.7, -9, 10, 10), identity.accent)
    y = -h * 0.60
    cases = {
        "house": polygon_path([(-w, foot), (-w, -h * 0.74), (0, -h - 10), (w, -h * 0.74), (w, foot)]),
        "arch": smooth_path([(-w, foot), (-w * 1.02, -h * 0.62), (-w * 0.6, -h * 0.95), (0, -h - 2), (w * 0.6, -h * 0.95), (w * 1.02, -h * 0.62), (w, foot)]),
        "box": rounded_path(-w, -h, w, foot, 10),
        "cat": polygon_path([(-w, foot), (-w, -h - 12), (-w * 0.42, -h * 0.86), (w * 0.42, -h * 0.86), (w, -h - 12), (w, foot)]),
    }  # fmt: skip
    clothe(c, cases[identity["case"]], identity, 28)
    if identity["case"] == "house":
        tube(c, [(-w - 6, -h * 0.72), (0, -h - 12), (w + 6, -h * 0.72)], identity.accent, 10, 4)
    r = min(w * 0.8, h * 0.34) * identity.size("dial_size", 0.9, 1.05)
    outline(c, ellipse_path(0, y, r, r), identity.accent, 6)
    _dial(c, identity, pose, 0, y, r)
    low = (y + r + foot) / 2 + 3
    if identity["below"] == "pendulum":
        swing = 12 * pose.swing
        line(c, [(0, y + r + 4), (swing, low + 4)], GOLD, 5)
        solid(c, ellipse_path(swing, low + 6, 10, 10), GOLD, edge=3)
    elif identity["below"] == "drawer":
        solid(c, rounded_path(-w * 0.6, low - 7, w * 0.6, low + 9, 3), identity.second, edge=3)
        ellipse(c, 0, low + 1, 4, 4, GOLD)


def _flame(c: skia.Canvas, pose: Pose, x: float, y: float, r: float) -> None:
    """A wick and its flame, `r` units in radius, above (x, y)."""
    line(c, [(x, y), (x, y - r * 0.5)], INK, 5)
    lean = r * 0.3 * pose.swing
    ellipse(c, x, y - r * 1.1, r * 1.8, r * 1.9, (1.0, 0.85, 0.4), 0.28)
    drop: list[Point] = [
        (x + lean, y - r * 2.5),
        (x + r * 0.62, y - r * 1.1),
        (x + r * 0.4, y - r * 0.35),
        (x - r * 0.4, y - r * 0.35),
        (x - r * 0.62, y - r * 1.1),
    ]
    solid(c, smooth_path(drop), (0.98, 0.60, 0.14), edge=2.5, lit=0)
    ellipse(c, x + lean * 0.2, y - r * 0.95, r * 0.32, r * 0.55, (1.0, 0.95, 0.60))


@variant(
    "candle",
    "jar",
    badges=BADGED,
    sizes=("wide", "tall", "wax", "lid"),
    top=("wood", "metal", "flame", "flame"),
    glass=("clear", "frosted", "dark"),
    knob=("none", "knob", "none"),
    label=("none", "paper", "wide"),
)
def jar(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 56, 68), identity.size("tall", 84, 108)
    lidded = identity["top"] in ("wood", "metal")
    body = rounded_path(-w, -h, w, 0, 16)
    glass = {"clear": (0.82, 0.90, 0.92), "frosted": (0.92, 0.93, 0.92), "dark": (0.42, 0.30, 0.24)}[identity["glass"]]
    if not lidded:
        _flame(c, pose, 0, -h + 8, 20)
    solid(c, body, glass, lit=0.1)
    c.save()
    c.clipPath(body, doAntiAlias=True)
    clothe(c, rounded_path(-w + 4, -h * identity.size("wax", 0.72, 0.92), w - 4, 12, 6), identity, 26, edge=0)
    x = 7 * pose.turn
    if identity["label"] != "none":
        half = w * (0.62 if identity["label"] == "paper" else 1.2)
        rect(c, x - half, -h * 0.66, x + half, -h * 0.2, PAPER if identity["label"] == "paper" else identity.second)
    rect(c, x - w * 0.80, -h + 6, x - w * 0.62, -8, (1, 1, 1), 0.5)
    c.restore()
    badge(c, x, -h * 0.43, 18, identity, pose.mirrored)
    if lidded:
        lid, thick = (WOOD if identity["top"] == "wood" else METAL), identity.size("lid", 20, 30)
        solid(c, rounded_path(-w - 2, -h - thick + 6, w + 2, -h + 8, 6), shade(lid, 0.88))
        solid(c, ellipse_path(0, -h - thick + 6, w + 2, 13), lid, edge=3)
        if identity["knob"] == "knob":
            solid(c, ellipse_path(0, -h - thick, 13, 8), identity.accent, edge=3)
    else:
        line(c, [(-w + 6, -h + 1), (w - 6, -h + 1)], shade(glass, 1.5), 5)


@variant(
    "candle",
    "pillar",
    badges=BADGED,
    sizes=("wide", "tall", "drip", "flame"),
    drips=("none", "drips", "drips"),
    under=("none", "saucer", "holder"),
    twist=("none", "none", "twist"),
    wicks=("one", "one", "three"),
)
def pillar(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    w, h = identity.size("wide", 40, 54), identity.size("tall", 88, 108)
    foot, r = 0.0, identity.size("flame", 16, 20)
    if identity["under"] == "saucer":
        solid(c, ellipse_path(0, -8, w + 30, 12), identity.accent)
        foot = -12.0
    elif identity["under"] == "holder":
        tube(c, [(w + 2, -30), (w + 30, -34), (w + 26, -10), (w, -10)], identity.accent, 8, 4)
        solid(c, smooth_path([(-w - 8, -30), (w + 8, -30), (w + 14, -4), (0, 0), (-w - 14, -4)]), identity.accent)
        foot = -24.0
    for x in (0,) if identity["wicks"] == "one" else (-w * 0.58, 0, w * 0.58):
        _flame(c, pose, x, foot - h - (4 if x else 0), r if identity["wicks"] == "one" else r * 0.72)
    body = rounded_path(-w, foot - h, w, foot + 2, 6)
    clothe(c, body, identity, 28)
    if identity["twist"] == "twist":
        c.save()
        c.clipPath(body, doAntiAlias=True)
        for k in range(4):
            y = foot - h + 24 + 26 * k
            line(c, [(-w - 6, y + 14), (w + 6, y - 14)], shade(identity.main, 0.7), 6)
        c.restore()
    wax = shade(identity.main, 1.25)
    solid(c, ellipse_path(0, foot - h, w, 8), wax, edge=3, lit=0)
    if identity["drips"] == "drips":
        long = identity.size("drip", 26, 48)
        for x, share in ((-w + 7, 0.7), (-w * 0.2, 0.4), (w - 9, 1.0)):
            line(c, [(x, foot - h + 2), (x, foot - h + long * share)], wax, 13)
    badge(c, 5 * pose.turn, foot - h * 0.4, 17, identity, pose.mirrored)


LENSES: dict[str, list[Point]] = {  # one lens round (0, 0), its outer side to the right; 1 is half its width
    "round": [(0, -1.0), (0.71, -0.71), (1.0, 0), (0.71, 0.71), (0, 1.0), (-0.71, 0.71), (-1.0, 0), (-0.71, -0.71)],
    "cateye": [(-0.3, -0.72), (0.6, -0.86), (1.12, -0.98), (1.0, -0.05), (0.55, 0.70), (-0.4, 0.76), (-0.92, 0.2), (-0.9, -0.5)],
    "square": [(-0.85, -0.72), (0, -0.76), (0.88, -0.76), (1.0, 0.0), (0.84, 0.72), (0, 0.78), (-0.80, 0.72), (-0.96, 0.0)],
    "drop": [(-0.78, -0.66), (0.1, -0.78), (0.94, -0.66), (1.0, 0.0), (0.66, 0.84), (0.0, 0.94), (-0.7, 0.5), (-0.92, -0.1)],
    "butterfly": [(-0.86, -0.5), (0.0, -0.7), (1.02, -0.92), (1.08, -0.1), (0.76, 0.80), (-0.1, 0.80), (-0.78, 0.5), (-0.96, 0.0)],
    "flat": [(-0.9, -0.45), (0, -0.52), (0.95, -0.5), (1.0, 0.05), (0.6, 0.52), (-0.5, 0.52), (-0.94, 0.1), (-0.98, -0.2)],
}  # fmt: skip


@variant(
    "glasses",
    scale=0.86,
    patterns=("plain",),
    badges=("none", "none", "star", "heart", "ring"),
    sizes=("wide", "tall", "rim", "gap"),
    lens=(*LENSES, "heart", "star"),
    tint=("clear", "second", "dusk", "dark", "mirror"),
    frame=("thin", "thick", "half"),
    bridge=("arch", "bar", "double"),
    temples=("main", "accent"),
)
def glasses(c: skia.Canvas, identity: Identity, pose: Pose) -> None:
    """Standing on their folded temples, looking at us."""
    r = identity.size("wide", 38, 43)
    high = r * identity.size("tall", 0.90, 1.12)
    gap, y = r + identity.size("gap", 7, 13), -high - 8
    rim = {"thin": 6.0, "thick": 14.0, "half": 9.0}[identity["frame"]] + identity.size("rim", -1, 2)
    temple = identity.main if identity["temples"] == "main" else identity.accent
    for side in (-1, 1):  # the temples go back and fold behind the lenses
        tube(
            c,
            [
                (side * (gap + r * 0.9), y - high * 0.5),
                (side * (gap + r * 0.7), y - high * 1.05),
                (side * gap * 0.2, y - high * (1.2 + 0.1 * pose.swing * side)),
            ],
            temple,
            8,
            3,
        )
    lenses = {
        "clear": ((0.86, 0.94, 0.97), (0.72, 0.86, 0.92)),
        "second": (identity.second, shade(identity.second, 1.35)),
        "dusk": (mix(identity.second, INK, 0.45), mix(identity.second, identity.trim, 0.55)),
        "dark": ((0.13, 0.13, 0.17), (0.34, 0.35, 0.40)),
        "mirror": (identity.accent, (0.95, 0.97, 1.0)),
    }[identity["tint"]]
    for side in (-1, 1):
        x = side * gap
        if identity["lens"] == "heart":
            lens = heart_path(x, y, r * 0.88)
        elif identity["lens"] == "star":
            lens = polygon_path(star_points(x, y + 3, r * 1.1, r * 0.62))
        else:
            lens = smooth_path([(x + side * r * px, y + high * py) for px, py in LENSES[identity["lens"]]])
        c.drawPath(lens, paint(shade(identity.main, 0.4), width=rim + 7))
        c.drawPath(lens, gradient(x, y - high, x, y + high, lenses))
        c.save()
        c.clipPath(lens, doAntiAlias=True)
        line(c, [(x - r * 0.65, y + high * 0.5), (x + r * 0.2 + 8 * pose.turn, y - high * 0.8)], (1, 1, 1), 9, 0.5)
        c.restore()
        stroke = paint(identity.main, width=rim)
        if identity["frame"] == "half":
            c.save()
            c.clipRect(skia.Rect(x - 2 * r, y - 2 * high, x + 2 * r, y))
            c.drawPath(lens, stroke)
            c.restore()
        else:
            c.drawPath(lens, stroke)
        badge(c, x + side * r * 0.92, y - high * 0.62, 11, identity)
    width = max(rim, 7)
    if identity["bridge"] == "bar":
        tube(c, [(-gap + r * 0.8, y - high * 0.55), (gap - r * 0.8, y - high * 0.55)], identity.main, width, 3)
    else:
        arc(c, 0, y + 2, gap - r * 0.82, high * 0.34, 180, 180, shade(identity.main, 0.4), width + 5)
        arc(c, 0, y + 2, gap - r * 0.82, high * 0.34, 180, 180, identity.main, width)
        if identity["bridge"] == "double":
            tube(c, [(-gap + r * 0.5, y - high * 0.72), (gap - r * 0.5, y - high * 0.72)], identity.main, 6, 3)
