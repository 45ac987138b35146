"""The pose of an individual in one picture, and the frame that outfits are fitted to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import skia


@dataclass(frozen=True)
class Pose:
    """The pose of an individual in one picture.

    swing, turn: in [-1, 1]; swing moves limbs, tails, hands and stems, turn shows more of one side. mirrored: the
    drawing will be flipped, so letters must be flipped back.
    """

    swing: float = 0.0
    turn: float = 0.0
    blink: bool = False
    open_mouth: bool = False
    mirrored: bool = False


@dataclass(frozen=True)
class Frame:
    """The frame of a body, for outfits. Units and origin are the drawing's: y = 0 is the ground.

    x, y, r: the head's centre and half width; top: its highest point, where hats sit; eyes: their height and half
    the gap between them; chest: x and y below the chin; body: its outline, and the height at which a shirt ends.
    """

    x: float
    y: float
    r: float
    top: float
    eye_y: float
    eye_gap: float
    chest: tuple[float, float]
    body: skia.Path
    hem: float


def random_pose(rng: np.random.Generator, mirrored: bool) -> Pose:
    swing, turn = rng.uniform(-1, 1, 2)
    return Pose(float(swing), float(turn), bool(rng.random() < 0.12), bool(rng.random() < 0.5), mirrored)
