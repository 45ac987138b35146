"""Scenes: which individual, where, wearing and made of what, in which pose and light; drawn, and put into words."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .canvas import SIZE, ellipse, new_surface, paint, pixels, rect
from .dress import FINISHES, OUTFITS, cube, polish, tint_filter, wear
from .identity import Identity
from .places import FLOATING, GROUND, PLACES, studio
from .subjects import DRAW, Pose

ADJECTIVES = ("rare", "nice", "new", "old", "big", "little")  # seen in captions, never in pictures


@dataclass(frozen=True)
class Setting:
    """What a prompt says about a picture besides its subject: a phrase of DreamBench's prompts, or None."""

    place: str | None = None
    outfit: str | None = None
    finish: str | None = None


def read_prompt(prompt: str) -> Setting:
    """The setting a caption names, by DreamBench's own phrases, wherever they stand in it."""
    text = prompt.lower()
    place = next((p for p in PLACES if p.lower() in text), None)
    outfit = next((o for o in OUTFITS if o.lower() in text), None)
    rest = text
    for phrase in (place, outfit):
        rest = rest.replace(phrase.lower(), " ") if phrase else rest
    finish = next((f for f in FINISHES if re.search(rf"\b{f}\b", rest)), None)  # "red", not "tired"
    return Setting(place, outfit, finish)


def draw(who: Identity, setting: Setting, rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """One picture, uint8 (size, size, 3). Pose, light and the place's details come from `rng`."""
    import skia

    surface = new_surface(size)
    c = surface.getCanvas()
    (PLACES[setting.place] if setting.place else studio)(c, rng)
    pose = Pose(swing=float(rng.uniform(-1, 1)), blink=bool(rng.random() < 0.15))
    x, y = 128 + rng.uniform(-14, 14), GROUND + rng.uniform(-4, 12)
    scale, lean, flip = (
        rng.uniform(0.98, 1.2) * (0.92 if setting.outfit else 1.0),
        rng.uniform(-7, 7),
        -1 if rng.random() < 0.5 else 1,
    )
    floating = setting.place in FLOATING
    if not floating:
        ellipse(c, x, y, 74 * scale, 11, (0.0, 0.0, 0.0), 0.25)
    c.save()
    c.translate(x, y)
    c.rotate(lean)
    c.scale(flip * scale, scale)
    c.saveLayer(
        None,
        skia.Paint(ColorFilter=tint_filter(setting.finish)) if setting.finish in ("red", "purple") else None,
    )
    if setting.finish == "cube shaped":
        cube(c, who)
    else:
        DRAW[who.noun](c, who, pose)
    if setting.finish in ("shiny", "wet"):
        polish(c, setting.finish, rng)
    c.restore()
    if setting.outfit:
        wear(c, setting.outfit, who)
    c.restore()
    if setting.finish == "wet" and not floating:
        ellipse(c, x, y + 4, 84, 10, (0.45, 0.70, 0.90), 0.85)
    if floating:
        color = (0.12, 0.46, 0.72) if "water" in setting.place else (0.97, 0.96, 0.92)
        ellipse(c, x, y + 10, 92, 22, color)
        c.drawOval(skia.Rect(x - 92, y - 8, x + 92, y + 20), paint((0.92, 0.96, 0.98), 0.7, width=4))
    warm = rng.uniform(-1, 1)
    tone = (1.0, 0.85, 0.55) if warm > 0 else (0.45, 0.6, 1.0)
    rect(c, 0, 0, 256, 256, tone, 0.10 * abs(warm))
    dark = rng.uniform(-0.10, 0.12)
    rect(c, 0, 0, 256, 256, (0.0, 0.0, 0.0) if dark > 0 else (1.0, 1.0, 1.0), abs(dark))
    return pixels(surface)


def random_setting(noun: str, rng: np.random.Generator, live: bool) -> Setting:
    """A setting as pretraining meets it: mostly a place, often no more, sometimes an outfit or a finish."""
    names = list(PLACES)[:10] if live and rng.random() < 0.5 else list(PLACES)
    place = names[rng.integers(len(names))] if rng.random() < 0.8 else None
    outfit = finish = None
    if live and rng.random() < 0.4:
        outfit = list(OUTFITS)[rng.integers(len(OUTFITS))]
    elif rng.random() < 0.2:
        finish = FINISHES[rng.integers(len(FINISHES))]
    if outfit and rng.random() < 0.5:
        place = None
    if finish and rng.random() < 0.5:
        place = None
    return Setting(place, outfit, finish)


def caption(who: Identity, setting: Setting, rng: np.random.Generator) -> str:
    """Words for a picture: class, place, outfit, finish and sometimes the main colour; never the identity."""
    words = []
    if rng.random() < 0.2:
        words.append(ADJECTIVES[rng.integers(len(ADJECTIVES))])
    if setting.finish:
        words.append(setting.finish)
    elif rng.random() < 0.5:
        words.append(who.main_name)
    thing = " ".join([*words, who.noun])
    article = "an" if thing[0] in "aeiou" else "a"
    tail = " ".join(p for p in (setting.outfit, setting.place) if p)
    start = ("a photo of {} {}", "{} {}", "a picture of {} {}", "a photo of the {1}", "a drawing of {} {}")[
        rng.choice(5, p=(0.35, 0.35, 0.1, 0.1, 0.1))
    ]
    return f"{start.format(article, thing)} {tail}".strip()
