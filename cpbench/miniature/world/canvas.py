"""Small drawing helpers over skia. Units: the picture is 256 wide and high, y points down."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence as Seq

import numpy as np
import skia

UNITS = 256
SIZE = 64
OVERSAMPLE = 2  # drawn at 128 pixels, reduced to 64 by averaging: smooth edges without skia's small-size artefacts

RGB = tuple[float, float, float]
Point = tuple[float, float]

COLORS: dict[str, RGB] = {
    "red": (0.86, 0.14, 0.16),
    "orange": (0.95, 0.52, 0.12),
    "yellow": (0.97, 0.83, 0.20),
    "green": (0.20, 0.62, 0.28),
    "blue": (0.16, 0.38, 0.82),
    "purple": (0.54, 0.22, 0.70),
    "pink": (0.96, 0.52, 0.68),
    "brown": (0.50, 0.31, 0.17),
    "white": (0.96, 0.95, 0.92),
    "gray": (0.55, 0.56, 0.58),
    "black": (0.13, 0.13, 0.15),
    "teal": (0.10, 0.62, 0.64),
}


def paint(color: RGB, alpha: float = 1.0, width: float | None = None) -> skia.Paint:
    """Fill (or, with a `width` in units, stroke) paint of one colour."""
    r, g, b = (min(max(v, 0.0), 1.0) for v in color)
    p = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(r, g, b, alpha))
    if width is not None:
        p.setStyle(skia.Paint.kStroke_Style)
        p.setStrokeWidth(width)
        p.setStrokeCap(skia.Paint.kRound_Cap)
        p.setStrokeJoin(skia.Paint.kRound_Join)
    return p


def shade(color: RGB, factor: float) -> RGB:
    """Darker (factor < 1) or, towards white, lighter (factor > 1)."""
    if factor <= 1:
        return tuple(v * factor for v in color)  # type: ignore[return-value]
    return tuple(v + (1 - v) * (factor - 1) for v in color)  # type: ignore[return-value]


def jitter(color: RGB, rng: np.random.Generator, amount: float = 0.05) -> RGB:
    """A neighbour of `color` in hue, saturation and value."""
    h, s, v = colorsys.rgb_to_hsv(*color)
    dh, ds, dv = rng.uniform(-1, 1, 3) * (0.4 * amount, amount, amount)
    return colorsys.hsv_to_rgb((h + dh) % 1, min(max(s + ds, 0), 1), min(max(v + dv, 0.05), 1))


def ellipse_path(x: float, y: float, rx: float, ry: float) -> skia.Path:
    path = skia.Path()
    path.addOval(skia.Rect(x - rx, y - ry, x + rx, y + ry))
    return path


def rounded_path(x0: float, y0: float, x1: float, y1: float, radius: float) -> skia.Path:
    path = skia.Path()
    path.addRoundRect(skia.Rect(x0, y0, x1, y1), radius, radius)
    return path


def polygon_path(points: Seq[Point]) -> skia.Path:
    path = skia.Path()
    path.addPoly([skia.Point(x, y) for x, y in points], True)
    return path


def smooth_path(points: Seq[Point]) -> skia.Path:
    """A closed curve through `points` (Catmull-Rom as cubic Beziers)."""
    path, n = skia.Path(), len(points)
    path.moveTo(*points[0])
    for i in range(n):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (points[(i + k) % n] for k in (-1, 0, 1, 2))
        path.cubicTo(x1 + (x2 - x0) / 6, y1 + (y2 - y0) / 6, x2 - (x3 - x1) / 6, y2 - (y3 - y1) / 6, x2, y2)
    path.close()
    return path


def ellipse(c: skia.Canvas, x: float, y: float, rx: float, ry: float, color: RGB, alpha: float = 1.0) -> None:
    c.drawOval(skia.Rect(x - rx, y - ry, x + rx, y + ry), paint(color, alpha))


def rect(c: skia.Canvas, x0: float, y0: float, x1: float, y1: float, color: RGB, alpha: float = 1.0) -> None:
    c.drawRect(skia.Rect(x0, y0, x1, y1), paint(color, alpha))


def rounded(c: skia.Canvas, x0: float, y0: float, x1: float, y1: float, radius: float, color: RGB) -> None:
    c.drawRoundRect(skia.Rect(x0, y0, x1, y1), radius, radius, paint(color))


def polygon(c: skia.Canvas, points: Seq[Point], color: RGB, alpha: float = 1.0) -> None:
    c.drawPath(polygon_path(points), paint(color, alpha))


def line(c: skia.Canvas, points: Seq[Point], color: RGB, width: float) -> None:
    path = skia.Path()
    path.moveTo(*points[0])
    for p in points[1:]:
        path.lineTo(*p)
    c.drawPath(path, paint(color, width=width))


def arc(
    c: skia.Canvas,
    x: float,
    y: float,
    rx: float,
    ry: float,
    start: float,
    sweep: float,
    color: RGB,
    width: float,
) -> None:
    """Part of an ellipse's outline; angles in degrees, clockwise from the right."""
    c.drawArc(skia.Rect(x - rx, y - ry, x + rx, y + ry), start, sweep, False, paint(color, width=width))


def vertical_gradient(c: skia.Canvas, y0: float, y1: float, top: RGB, bottom: RGB) -> None:
    """A band of the whole width from `top` to `bottom` colour."""
    colors = [skia.Color4f(*v, 1).toColor() for v in (top, bottom)]
    p = skia.Paint(Shader=skia.GradientShader.MakeLinear([skia.Point(0, y0), skia.Point(0, y1)], colors))
    c.drawRect(skia.Rect(-UNITS, y0, 2 * UNITS, y1), p)


def star_points(x: float, y: float, outer: float, inner: float, n: int = 5) -> list[Point]:
    angles = [(-math.pi / 2 + math.pi * i / n, outer if i % 2 == 0 else inner) for i in range(2 * n)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in angles]


def new_surface(size: int = SIZE) -> skia.Surface:
    """A surface of `OVERSAMPLE` times `size` pixels whose canvas is measured in `UNITS`."""
    surface = skia.Surface(size * OVERSAMPLE, size * OVERSAMPLE)
    scale = size * OVERSAMPLE / UNITS
    surface.getCanvas().scale(scale, scale)
    return surface


def pixels(surface: skia.Surface) -> np.ndarray:
    """The surface reduced by averaging: uint8 array (size, size, 3)."""
    rgba = surface.makeImageSnapshot().toarray(colorType=skia.kRGBA_8888_ColorType)
    n = rgba.shape[0] // OVERSAMPLE
    blocks = rgba[..., :3].astype(np.float32).reshape(n, OVERSAMPLE, n, OVERSAMPLE, 3)
    return np.clip(np.rint(blocks.mean(axis=(1, 3))), 0, 255).astype(np.uint8)
