"""The finishes of subjects: changes of colours, surface or shape."""

from __future__ import annotations

import numpy as np
import skia

from .canvas import COLORS, ellipse, line, paint, polygon, rect

# DreamBench's word: the phrases of captions, with {} for the noun: "a {} that is wet".
FINISHES: dict[str, tuple[str, ...]] = {
    "red": ("a red {}", "a {} painted red"),
    "purple": ("a purple {}", "a {} painted purple"),
    "shiny": ("a shiny {}", "a shiny and bright {}", "a {} with a shiny surface"),
    "wet": ("a wet {}", "a dripping wet {}", "a {} that is wet"),
    "cube shaped": ("a cube shaped {}", "a {} shaped like a cube"),
}


def tint(finish: str | None) -> skia.ColorFilter | None:
    """Colours for the layer a subject is drawn on: hue replaced, light and dark kept, for "red" and "purple"."""
    if finish not in ("red", "purple"):
        return None
    color, luma = COLORS[finish], (0.30, 0.59, 0.11)
    rows = []
    for k, channel in enumerate(color):  # dark stays dark, middle gray becomes the colour, white a pale tone of it
        steep, lift = 0.10 + 1.05 * channel, 0.44 * channel
        rows += [*(0.06 * (i == k) + 0.94 * steep * luma[i] for i in range(3)), 0.0, 0.94 * lift]
    return skia.ColorFilters.Matrix([*rows, 0.0, 0.0, 0.0, 1.0, 0.0])


def polish(c: skia.Canvas, finish: str, rng: np.random.Generator) -> None:
    """Highlights of a shiny or wet surface; drawn on the subject's layer, over its own pixels only."""
    c.saveLayer(None, skia.Paint(BlendMode=skia.BlendMode.kSrcATop))
    if finish == "shiny":
        x = rng.uniform(-14, 14)
        rect(c, -128, -256, 128, -96, (1, 1, 1), 0.12)
        rect(c, -128, -40, 128, 20, (0, 0, 0.1), 0.16)
        for dx, w, alpha in ((-58, 9, 0.7), (-40, 18, 0.6), (38, 9, 0.7)):
            polygon(
                c, [(x + dx, 6), (x + dx + w, 6), (x + dx + w + 56, -200), (x + dx + 56, -200)], (1.0, 1.0, 1.0), alpha
            )
    else:
        rect(c, -160, -260, 160, 30, (0.06, 0.22, 0.44), 0.24)
        for k in range(7):  # water runs down
            x, y, h = -72 + 24 * k + rng.uniform(-8, 8), rng.uniform(-150, -60), rng.uniform(20, 46)
            line(c, [(x, y), (x, y + h)], (0.80, 0.93, 1.0), 6, 0.85)
            ellipse(c, x, y + h + 3, 6.5, 8, (0.90, 0.98, 1.0))
    c.restore()


def sparkles(c: skia.Canvas, rng: np.random.Generator) -> None:
    """Stars of light round something shiny."""
    for x, y, r in ((-66, -128, 24), (62, -96, 20), (-50, -30, 16), (30, -158, 15)):
        x, y = x + rng.uniform(-8, 8), y + rng.uniform(-8, 8)
        k = r * 0.2
        points = [
            (x, y - r),
            (x + k, y - k),
            (x + r, y),
            (x + k, y + k),
            (x, y + r),
            (x - k, y + k),
            (x - r, y),
            (x - k, y - k),
        ]
        polygon(c, points, (1.0, 1.0, 0.94))


def puddle(c: skia.Canvas, x: float, y: float) -> None:
    """Water round the feet of something wet."""
    ellipse(c, x, y + 6, 98, 16, (0.30, 0.58, 0.84), 0.9)
    ellipse(c, x - 6, y + 4, 84, 11, (0.62, 0.84, 0.97))


def drops(c: skia.Canvas, x: float, y: float, rng: np.random.Generator) -> None:
    """Drops that fly off something wet."""
    for dx, dy in ((-84, -90), (-92, -38), (84, -104), (92, -52), (-58, -160), (60, -158)):
        px, py = x + dx + rng.uniform(-6, 6), y + dy + rng.uniform(-10, 10)
        path = skia.Path()
        path.moveTo(px, py - 14)
        path.cubicTo(px + 12, py + 2, px + 6, py + 10, px, py + 10)
        path.cubicTo(px - 6, py + 10, px - 12, py + 2, px, py - 14)
        c.drawPath(path, paint((0.16, 0.42, 0.72), width=4))
        c.drawPath(path, paint((0.55, 0.82, 0.98)))
