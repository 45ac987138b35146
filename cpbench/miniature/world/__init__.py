"""The drawn world: DreamBench's nouns, stand-ins for its subjects and its prompts, as 64 x 64 vector drawings."""

from .identity import LIVE, NOUNS, SUBJECTS, Identity, sample_identity, seeded, subject, training_identity
from .scene import Setting, caption, draw, random_setting, read_prompt

__all__ = [
    "LIVE", "NOUNS", "SUBJECTS", "Identity", "Setting", "caption", "draw", "random_setting",
    "read_prompt", "sample_identity", "seeded", "subject", "training_identity",
]  # fmt: skip
