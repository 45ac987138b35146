"""The drawn world: 64 x 64 vector pictures of DreamBench's class nouns, of stand-ins for its subjects, and of its prompts."""

from . import subjects
from .captions import Setting, caption, random_setting, read_prompt, unread, vocabulary
from .cast import SUBJECTS, subject, training_identity
from .identity import NEAR, VARIANTS, Identity, distance, sample_identity, seeded
from .scene import render

NOUNS = tuple(VARIANTS)
LIVE = tuple(noun for noun, variants in VARIANTS.items() if any(k.live for k in variants.values()))

__all__ = [
    "LIVE", "NEAR", "NOUNS", "SUBJECTS", "VARIANTS", "Identity", "Setting", "caption", "distance", "random_setting",
    "read_prompt", "render", "sample_identity", "seeded", "subject", "subjects", "training_identity",
    "unread", "vocabulary",
]  # fmt: skip
