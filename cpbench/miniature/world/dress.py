"""What a subject wears and what it is made of: outfits (drawn over it) and finishes (done to its colours or form)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import skia

from .canvas import COLORS, RGB, arc, ellipse, line, paint, polygon, polygon_path, rect, shade
from .identity import Identity
from .subjects import INK, Pose, badge, clothe, eyes, head_top

Outfit = Callable[[skia.Canvas, float, float, float], None]
SKIN_TOP = 12.0  # hats sit this far down on the head


def hat(c: skia.Canvas, x: float, y: float, w: float, color: RGB, height: float = 34, brim: float = 1.25) -> None:
    rect(c, x - w * 0.75, y + SKIN_TOP - height, x + w * 0.75, y + SKIN_TOP, color)
    c.drawPath(
        polygon_path(
            [
                (x - w * brim, y + SKIN_TOP - 5),
                (x + w * brim, y + SKIN_TOP - 5),
                (x + w * brim, y + SKIN_TOP + 5),
                (x - w * brim, y + SKIN_TOP + 5),
            ]
        ),
        paint(shade(color, 0.8)),
    )


def red_hat(c: skia.Canvas, x: float, y: float, w: float) -> None:
    hat(c, x, y, w, COLORS["red"], 30)


def santa_hat(c: skia.Canvas, x: float, y: float, w: float) -> None:
    polygon(c, [(x - w, y + SKIN_TOP), (x + w, y + SKIN_TOP), (x + w * 0.9, y - 34)], COLORS["red"])
    ellipse(c, x + w * 0.95, y - 34, 11, 11, (0.98, 0.98, 0.98))
    rect(c, x - w * 1.08, y + SKIN_TOP - 6, x + w * 1.08, y + SKIN_TOP + 7, (0.98, 0.98, 0.98))


def rainbow_scarf(c: skia.Canvas, x: float, y: float, w: float) -> None:
    for i, name in enumerate(("red", "orange", "yellow", "green", "blue", "purple")):
        line(c, [(x - w * 0.9, y + 70 + 5 * i), (x + w * 0.9, y + 70 + 5 * i)], COLORS[name], 6)
        line(c, [(x + w * 0.35 + 5 * i, y + 98), (x + w * 0.35 + 5 * i, y + 136)], COLORS[name], 6)


def top_hat(c: skia.Canvas, x: float, y: float, w: float) -> None:
    hat(c, x, y, w * 0.9, INK, 52, 1.4)
    c.drawCircle(x + w * 0.42, y + 36, 13, paint((0.9, 0.75, 0.2), width=5))


def shirt(c: skia.Canvas, x: float, y: float, w: float, color: RGB) -> None:
    polygon(
        c,
        [(x - w * 1.2, y + 74), (x + w * 1.2, y + 74), (x + w * 1.25, y + 132), (x - w * 1.25, y + 132)],
        color,
    )


def chef(c: skia.Canvas, x: float, y: float, w: float) -> None:
    white = (0.98, 0.98, 0.97)
    shirt(c, x, y, w, white)
    for dx in (-0.6, 0, 0.6):
        ellipse(c, x + dx * w, y - 22, w * 0.55, 22, white)
    rect(c, x - w * 0.8, y - 20, x + w * 0.8, y + SKIN_TOP, (0.90, 0.90, 0.90))
    for k in range(2):
        ellipse(c, x, y + 92 + 22 * k, 5, 5, INK)


def firefighter(c: skia.Canvas, x: float, y: float, w: float) -> None:
    shirt(c, x, y, w, (0.24, 0.20, 0.18))
    rect(c, x - w * 1.22, y + 98, x + w * 1.22, y + 110, (0.95, 0.90, 0.25))
    hat(c, x, y, w, (0.90, 0.20, 0.10), 30, 1.35)
    ellipse(c, x, y - 4, 10, 11, (0.98, 0.85, 0.25))


def police(c: skia.Canvas, x: float, y: float, w: float) -> None:
    navy = (0.10, 0.16, 0.42)
    shirt(c, x, y, w, navy)
    polygon(
        c,
        [
            (x - w * 1.15, y - 24),
            (x + w * 1.15, y - 24),
            (x + w * 0.8, y + SKIN_TOP),
            (x - w * 0.8, y + SKIN_TOP),
        ],
        navy,
    )
    ellipse(c, x, y - 10, 9, 9, (0.98, 0.82, 0.25))
    ellipse(c, x + w * 0.5, y + 94, 8, 8, (0.98, 0.82, 0.25))


def pink_glasses(c: skia.Canvas, x: float, y: float, w: float) -> None:
    for side in (-1, 1):
        ellipse(c, x + side * w * 0.45, y + 34, w * 0.42, 15, (0.98, 0.36, 0.66))
        ellipse(c, x + side * w * 0.45, y + 34, w * 0.28, 9, (0.99, 0.78, 0.88))
    line(c, [(x - w * 0.9, y + 31), (x + w * 0.9, y + 31)], (0.98, 0.36, 0.66), 5)


def yellow_shirt(c: skia.Canvas, x: float, y: float, w: float) -> None:
    shirt(c, x, y, w, (0.98, 0.84, 0.16))


def wizard(c: skia.Canvas, x: float, y: float, w: float) -> None:
    robe = (0.46, 0.16, 0.64)
    shirt(c, x, y, w, robe)
    polygon(c, [(x - w * 1.05, y + SKIN_TOP), (x + w * 1.05, y + SKIN_TOP), (x - 4, y - 50)], robe)
    ellipse(c, x, y - 8, 8, 8, (0.98, 0.86, 0.3))
    ellipse(c, x - w * 0.4, y + 104, 7, 7, (0.98, 0.86, 0.3))


OUTFITS: dict[str, Outfit] = {
    "wearing a red hat": red_hat,
    "wearing a santa hat": santa_hat,
    "wearing a rainbow scarf": rainbow_scarf,
    "wearing a black top hat and a monocle": top_hat,
    "in a chef outfit": chef,
    "in a firefighter outfit": firefighter,
    "in a police outfit": police,
    "wearing pink glasses": pink_glasses,
    "wearing a yellow shirt": yellow_shirt,
    "in a purple wizard outfit": wizard,
}
FINISHES = ("red", "purple", "shiny", "wet", "cube shaped")


def wear(c: skia.Canvas, outfit: str, who: Identity) -> None:
    OUTFITS[outfit](c, *head_top(who))


def tint_filter(finish: str) -> skia.ColorFilter | None:
    """Colours for the layer a subject is drawn on: hue replaced, light and dark kept, for "red" and "purple"."""
    if finish not in ("red", "purple"):
        return None
    r, g, b = COLORS[finish]
    lift, luma = 0.16, (0.30, 0.59, 0.11)
    rows = [[*(luma_k * 0.95 * k for luma_k in luma), 0.0, lift * k] for k in (r + 0.15, g + 0.05, b + 0.15)]
    rows = [[0.35 * (i == j) + 0.65 * row[j] if j < 3 else row[j] for j in range(5)] for i, row in enumerate(rows)]
    return skia.ColorFilters.Matrix([v for row in rows for v in row] + [0.0, 0.0, 0.0, 1.0, 0.0])


def polish(c: skia.Canvas, finish: str, rng: np.random.Generator) -> None:
    """Highlights of a shiny or wet surface; drawn on the subject's layer, over its own pixels only."""
    over = skia.Paint(BlendMode=skia.BlendMode.kSrcATop)
    c.saveLayer(None, over)
    if finish == "shiny":
        x = rng.uniform(-20, 10)
        for dx, w in ((-34, 16), (0, 30), (46, 12)):
            polygon(
                c,
                [(x + dx, 4), (x + dx + w, 4), (x + dx + w + 60, -200), (x + dx + 60, -200)],
                (1.0, 1.0, 1.0),
                0.62,
            )
    if finish == "wet":
        rect(c, -128, -256, 128, 20, (0.10, 0.28, 0.52), 0.36)
        for _ in range(9):
            x, y = rng.uniform(-60, 60), rng.uniform(-160, -10)
            ellipse(c, x, y, 6, 10, (0.80, 0.93, 1.0))
    c.restore()


def cube(c: skia.Canvas, who: Identity) -> None:
    """The subject as a cube: its colours, pattern, badge and face on three sides."""
    w, h, d = 58.0, 104.0, 34.0
    polygon(c, [(-w, -h), (-w + d, -h - d), (w + d, -h - d), (w, -h)], shade(who.second, 1.15))
    polygon(c, [(w, -h), (w + d, -h - d), (w + d, -d), (w, 0)], shade(who.main, 0.62))
    clothe(c, polygon_path([(-w, -h), (w, -h), (w, 0), (-w, 0)]), who, 1.1)
    if who.noun in ("dog", "cat", "toy", "stuffed animal"):
        eyes(c, 0, -h * 0.68, 24, 9, Pose())
        ellipse(c, 0, -h * 0.46, 8, 6, INK)
    if who.noun in ("dog", "cat", "stuffed animal"):
        for x in (-w + 16, w - 4):
            polygon(
                c,
                [(x - 12, -h - 8), (x + 14, -h - 8), (x, -h - 38)],
                who.second if who.parts[2] else who.main,
            )
    if who.noun in ("teapot", "backpack", "vase"):
        arc(c, 10, -h - d, 26, 22, 180, 180, who.accent, 9)
    if who.noun == "sneaker":
        line(c, [(-24, -h + 22), (24, -h + 34)], who.accent, 8)
        line(c, [(-24, -h + 40), (24, -h + 52)], who.accent, 8)
    line(c, [(-w, -8), (w, -8)], who.accent, 10)
    badge(c, 0, -h * 0.26, 16, who)
