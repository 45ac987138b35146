"""The drawn world: DreamBench's nouns, stand-ins for its subjects and its prompts, as 64 x 64 vector drawings."""

from . import subjects
from .captions import Setting, caption, random_setting, read_prompt, vocabulary
from .cast import SUBJECTS, subject, training_identity
from .identity import KINDS, NEAR, Identity, distance, sample_identity, seeded
from .scene import draw

NOUNS = tuple(KINDS)
LIVE = tuple(noun for noun, kinds in KINDS.items() if any(k.live for k in kinds.values()))

__all__ = [
    "KINDS", "LIVE", "NEAR", "NOUNS", "SUBJECTS", "Identity", "Setting", "caption", "distance", "draw", "random_setting",
    "read_prompt", "sample_identity", "seeded", "subject", "subjects", "training_identity", "vocabulary",
]  # fmt: skip
