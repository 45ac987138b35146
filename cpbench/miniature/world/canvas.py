"""Small drawing helpers over skia. Units: the picture is 256 wide and high, y points down.

One pixel of a finished drawing is 4 units wide: what a person should see is 8 units or thicker.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence as Seq

import numpy as np
import skia

UNITS = 256
SIZE = 64
OVERSAMPLE = 2  # drawn at 128 pixels, reduced to 64 by averaging: smooth edges without skia's small-size artefacts
EDGE = 5.0  # how far a thing's dark edge reaches out of it

RGB = tuple[float, float, float]
Point = tuple[float, float]

COLORS: dict[str, RGB] = {
    "red": (0.86, 0.16, 0.18),
    "orange": (0.96, 0.53, 0.13),
    "yellow": (0.98, 0.82, 0.22),
    "green": (0.24, 0.64, 0.31),
    "blue": (0.17, 0.40, 0.84),
    "purple": (0.52, 0.26, 0.70),
    "pink": (0.97, 0.56, 0.70),
    "brown": (0.50, 0.31, 0.18),
    "white": (0.96, 0.95, 0.92),
    "gray": (0.57, 0.58, 0.61),
    "black": (0.16, 0.16, 0.19),
    "teal": (0.10, 0.62, 0.64),
}
INK: RGB = (0.10, 0.09, 0.11)
PAPER: RGB = (0.97, 0.97, 0.95)
GOLD: RGB = (0.97, 0.78, 0.24)
METAL: RGB = (0.74, 0.76, 0.80)


# Colours


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
    """Darker (factor < 1) or, towards white, lighter (factor > 1; 2 is white)."""
    if factor <= 1:
        return tuple(v * factor for v in color)  # type: ignore[return-value]
    return tuple(v + (1 - v) * (factor - 1) for v in color)  # type: ignore[return-value]


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with `share` of `b` in it."""
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def luma(color: RGB) -> float:
    """How light a colour looks, 0 to 1."""
    return 0.30 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def edge_of(color: RGB) -> RGB:
    """The colour of a thing's edge: darker than the thing, but lighter than something black, or parts would merge."""
    return mix(color, (0.55, 0.57, 0.62), 0.45) if luma(color) < 0.2 else mix(shade(color, 0.42), INK, 0.2)


def jitter(color: RGB, rng: np.random.Generator, amount: float = 0.05) -> RGB:
    """A neighbour of `color` in hue, saturation and value."""
    h, s, v = colorsys.rgb_to_hsv(*color)
    dh, ds, dv = rng.uniform(-1, 1, 3) * (0.4 * amount, amount, amount)
    return colorsys.hsv_to_rgb((h + dh) % 1, min(max(s + ds, 0), 1), min(max(v + dv, 0.05), 1))


# Paths


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


def open_path(points: Seq[Point]) -> skia.Path:
    """A curve through `points` from the first to the last."""
    path, n = skia.Path(), len(points)
    path.moveTo(*points[0])
    for i in range(n - 1):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (points[min(max(i + k, 0), n - 1)] for k in (-1, 0, 1, 2))
        path.cubicTo(x1 + (x2 - x0) / 6, y1 + (y2 - y0) / 6, x2 - (x3 - x1) / 6, y2 - (y3 - y1) / 6, x2, y2)
    return path


def mirrored(right: Seq[Point]) -> list[Point]:
    """The closed outline whose right half is `right`, from top to bottom; the left half mirrors it at x = 0."""
    return [*right, *((-x, y) for x, y in reversed(right))]


def shaggy_path(points: Seq[Point], coat: str, size: float = 7.0) -> skia.Path:
    """The closed curve through `points` with an edge of "short" (smooth), "shaggy" (tufts) or "curly" (scallops) fur.

    `size`, in units, is how far tufts stand out.
    """
    path = smooth_path(points)
    if coat == "short":
        return path
    # which way round the outline runs: positive is clockwise on the screen
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(points, [*points[1:], points[0]], strict=True))
    measure = skia.PathMeasure(path, True)
    n = max(8, round(measure.getLength() / (2.4 * size)))
    steps = [measure.getPosTan(measure.getLength() * k / n) for k in range(n)]
    if coat == "curly":
        way_round = skia.PathDirection.kCW if area > 0 else skia.PathDirection.kCCW  # else overlaps would be holes
        for at, _ in steps:
            path.addCircle(at.x(), at.y(), size, way_round)
        return path
    ring: list[Point] = []
    out = size if area > 0 else -size
    for at, way in steps:  # a tuft reaches out, along, and a little down: fur hangs
        ring.append((at.x() - 0.2 * out * way.y(), at.y() + 0.2 * out * way.x()))
        ring.append((at.x() + out * way.y() + 0.9 * size * way.x(), at.y() - out * way.x() + 0.9 * size * way.y() + 2))
    return polygon_path(ring)


def star_points(x: float, y: float, outer: float, inner: float, n: int = 5) -> list[Point]:
    angles = [(-math.pi / 2 + math.pi * i / n, outer if i % 2 == 0 else inner) for i in range(2 * n)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in angles]


def heart_path(x: float, y: float, r: float) -> skia.Path:
    path = skia.Path()
    path.moveTo(x, y + r * 0.9)
    path.cubicTo(x - r * 1.7, y - r * 0.2, x - r * 0.7, y - r * 1.3, x, y - r * 0.4)
    path.cubicTo(x + r * 0.7, y - r * 1.3, x + r * 1.7, y - r * 0.2, x, y + r * 0.9)
    path.close()
    return path


def leaf_path(x: float, y: float, dx: float, dy: float, wide: float) -> skia.Path:
    """A leaf or petal from its base (x, y) to the tip (x + dx, y + dy), `wide` units wide."""
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length * wide * 0.66, dx / length * wide * 0.66
    path = skia.Path()
    path.moveTo(x, y)
    path.cubicTo(x + 0.3 * dx + nx, y + 0.3 * dy + ny, x + 0.7 * dx + nx, y + 0.7 * dy + ny, x + dx, y + dy)
    path.cubicTo(x + 0.7 * dx - nx, y + 0.7 * dy - ny, x + 0.3 * dx - nx, y + 0.3 * dy - ny, x, y)
    path.close()
    return path


# Flat shapes


def ellipse(c: skia.Canvas, x: float, y: float, rx: float, ry: float, color: RGB, alpha: float = 1.0) -> None:
    c.drawOval(skia.Rect(x - rx, y - ry, x + rx, y + ry), paint(color, alpha))


def rect(c: skia.Canvas, x0: float, y0: float, x1: float, y1: float, color: RGB, alpha: float = 1.0) -> None:
    c.drawRect(skia.Rect(x0, y0, x1, y1), paint(color, alpha))


def rounded(c: skia.Canvas, x0: float, y0: float, x1: float, y1: float, radius: float, color: RGB) -> None:
    c.drawRoundRect(skia.Rect(x0, y0, x1, y1), radius, radius, paint(color))


def polygon(c: skia.Canvas, points: Seq[Point], color: RGB, alpha: float = 1.0) -> None:
    c.drawPath(polygon_path(points), paint(color, alpha))


def line(c: skia.Canvas, points: Seq[Point], color: RGB, width: float, alpha: float = 1.0) -> None:
    """A curve through `points`, straight if they are two."""
    c.drawPath(open_path(points), paint(color, alpha, width=width))


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
    p = gradient(0, y0, 0, y1, (top, bottom))
    c.drawRect(skia.Rect(-UNITS, y0, 2 * UNITS, y1), p)


def gradient(
    x0: float, y0: float, x1: float, y1: float, colors: Seq[RGB], alphas: Seq[float] | None = None
) -> skia.Paint:
    """Paint that goes through `colors` on the way from (x0, y0) to (x1, y1)."""
    stops = [skia.Color4f(*v, a).toColor() for v, a in zip(colors, alphas or [1.0] * len(colors), strict=True)]
    shader = skia.GradientShader.MakeLinear([skia.Point(x0, y0), skia.Point(x1, y1)], stops)
    return skia.Paint(AntiAlias=True, Shader=shader)


# Things with an edge and a lit side


def outline(c: skia.Canvas, path: skia.Path, color: RGB, edge: float = EDGE) -> None:
    """The edge of a thing of this colour: drawn before the thing, so that it shows outside of it only."""
    c.drawPath(path, paint(edge_of(color), width=2 * edge))


def light(c: skia.Canvas, path: skia.Path, strength: float = 0.22) -> None:
    """Light from the upper left, shadow at the lower right, over `path`."""
    b = path.getBounds()
    ends = (b.left() + b.width() * 0.2, b.top(), b.left() + b.width() * 0.75, b.bottom())
    c.drawPath(path, gradient(*ends, [(1, 1, 1), (1, 1, 1), (0, 0, 0.05)], [strength, 0.0, strength]))


def solid(c: skia.Canvas, path: skia.Path, color: RGB, edge: float = EDGE, lit: float = 0.2) -> None:
    """A thing of one colour, with its edge and its light."""
    if edge:
        outline(c, path, color, edge)
    c.drawPath(path, paint(color))
    if lit:
        light(c, path, lit)


def tube(c: skia.Canvas, points: Seq[Point], color: RGB, width: float, edge: float = EDGE) -> None:
    """A limb, tail or handle: a thick curve through `points` with its edge."""
    path = open_path(points)
    c.drawPath(path, paint(edge_of(color), width=width + 2 * edge))
    c.drawPath(path, paint(color, width=width))


# Surfaces


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
