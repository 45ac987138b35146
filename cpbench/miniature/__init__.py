"""The embedded backbones: their drawn world, their pretraining and their weights."""

from __future__ import annotations

from typing import Any

NAME = "miniature"
FLOW = "miniature-flow"  # the same world, words, autoencoder and judges, with a transformer and flow matching
EMBEDDED = (NAME, FLOW)


def is_miniature(backbone: Any) -> bool:
    """Whether a backbone, given by name, is an embedded one: made for the drawn world, with its own judges."""
    return backbone in EMBEDDED
