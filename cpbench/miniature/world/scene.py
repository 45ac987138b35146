"""Scenes: an individual in a place, with an outfit or a finish, in a pose and a light."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import skia

from .canvas import SIZE, UNITS, ellipse, ellipse_path, new_surface, pixels, rect
from .captions import Setting
from .cubes import cube
from .finishes import drops, polish, puddle, sparkles, tint
from .identity import VARIANTS, Identity
from .outfits import OUTFITS
from .places import GROUND, PLACES, studio
from .pose import Frame, Pose, random_pose

SINK = 4.0  # how much lower something floats than it stands
SMALLER = 0.9  # something with a hat on, so that the hat stays in the picture


def render(identity: Identity, setting: Setting, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """One picture, uint8 (size, size, 3). Pose, light and details of the place are sampled from `rng`."""
    surface = new_surface(size)
    c = surface.getCanvas()
    place = PLACES[setting.place] if setting.place else None
    painting = (place.paint if place else studio)(c, rng)
    if painting:
        next(painting)
    flip = -1 if rng.random() < 0.5 else 1
    pose = random_pose(rng, flip < 0)
    x = UNITS / 2 + rng.uniform(-14, 14)
    y = (place.ground if place else GROUND) + rng.uniform(-6, 7)
    scale, lean = rng.uniform(0.94, 1.09) * (SMALLER if setting.outfit else 1.0), rng.uniform(-6, 6)
    floats = bool(place and place.sunk)
    y += SINK * floats
    thing = record(identity, setting, pose, rng)

    def put(up: float = 1.0, opacity: float = 1.0) -> None:
        """The recorded thing on its place; upside down for `up` = -1."""
        c.save()
        c.translate(x, y)
        c.rotate(lean * up)
        c.scale(flip * scale, up * scale)
        if opacity < 1:
            c.saveLayerAlpha(None, int(255 * opacity))
        c.drawPicture(thing)
        if opacity < 1:
            c.restore()
        c.restore()

    if place and place.mirror:
        c.save()
        c.clipPath(ellipse_path(UNITS / 2, place.ground + 2, 110, 34), doAntiAlias=True)
        put(-1, 0.6)
        c.restore()
    elif setting.finish == "wet" and not floats:
        puddle(c, x, y)
    elif not floats:
        ellipse(c, x, y - 1, 72 * scale, 12, (0.0, 0.0, 0.05), 0.14)
        ellipse(c, x, y - 1, 56 * scale, 9, (0.0, 0.0, 0.05), 0.18)
    put()
    if setting.finish in ("shiny", "wet"):
        c.save()
        c.translate(x, y)
        c.scale(scale, scale)
        if setting.finish == "shiny":
            sparkles(c, rng)
        else:
            drops(c, 0, 0, rng)
        c.restore()
    if painting:
        next(painting, None)
    _light(c, rng)
    return pixels(surface)


def record(identity: Identity, setting: Setting, pose: Pose, rng: np.random.Generator) -> skia.Picture:
    """The individual with its outfit and finish, standing at (0, 0), to be played as often as it is seen."""
    recorder = skia.PictureRecorder()
    c = recorder.beginRecording(skia.Rect(-UNITS, -UNITS, UNITS, UNITS))
    layered = setting.finish not in (None, "cube shaped")
    if layered:
        c.saveLayer(None, skia.Paint(ColorFilter=tint(setting.finish)))
    if setting.finish == "cube shaped":
        cube(c, identity, pose)
        if setting.outfit:
            _wear(c, setting.outfit, CUBE)
    else:
        c.save()
        _dressed(c, identity, pose, setting.outfit)
        c.restore()
    if setting.finish in ("shiny", "wet"):
        polish(c, setting.finish, rng)
    if layered:
        c.restore()
    return recorder.finishRecordingAsPicture()


# Where an outfit goes on something that has no head: on top, and round its middle.
THING = Frame(0, -112, 38, -140, -112, 17, (0, -66), ellipse_path(0, -50, 58, 52), -16)
CUBE = Frame(0, -110, 46, -138, -76, 26, (0, -44), ellipse_path(0, -50, 64, 56), -10)


def _dressed(c: skia.Canvas, identity: Identity, pose: Pose, outfit: str | None) -> None:
    """The individual, and its outfit: what lies on the body goes under the head."""
    variant = VARIANTS[identity.noun][identity.variant]
    c.scale(variant.scale, variant.scale)
    drawing = variant.render(c, identity, pose)
    if not isinstance(drawing, Iterator):
        if outfit:
            _wear(c, outfit, THING)
        return
    frame = next(drawing)
    dressing = OUTFITS[outfit].dress(c, frame) if outfit else None
    if dressing:
        next(dressing)
    next(drawing, None)
    if dressing:
        next(dressing, None)


def _wear(c: skia.Canvas, outfit: str, frame: Frame) -> None:
    for _ in OUTFITS[outfit].dress(c, frame):
        pass


def _light(c: skia.Canvas, rng: np.random.Generator) -> None:
    """The light of one picture: warmer or colder, brighter or darker."""
    warm = rng.uniform(-1, 1)
    rect(c, 0, 0, UNITS, UNITS, (1.0, 0.85, 0.55) if warm > 0 else (0.45, 0.6, 1.0), 0.10 * abs(warm))
    dark = rng.uniform(-0.10, 0.09)
    rect(c, 0, 0, UNITS, UNITS, (0.0, 0.0, 0.0) if dark > 0 else (1.0, 1.0, 1.0), abs(dark))
