"""The embedded backbones: the drawn world that they were made for, how they were trained, and their weights."""

from __future__ import annotations

from typing import Any

NAME = "miniature"


def is_miniature(backbone: Any) -> bool:
    """Whether a backbone, by its name, is an embedded one: made for the drawn world, with judges of its own."""
    return backbone == NAME
