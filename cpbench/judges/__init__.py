"""Judges of pictures: `Judge` and its `Preprocessing`."""

from typing import Any

_DOOR = {"Judge": "judge", "Preprocessing": "judge"}


def __getattr__(name: str) -> Any:  # public names, imported on first use: a judge's identity is read without torch
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)
