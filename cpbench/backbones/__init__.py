"""Diffusers pipelines that are restored after each use: `load`, `Backbone`, `BackboneConfig`, `Family`."""

from typing import Any

_DOOR = {
    "Backbone": "backbone",
    "BackboneConfig": "options",
    "Family": "families.family",
    "MINIATURE": "hub",
    "fingerprint": "backbone",
    "load": "loading",
}


def __getattr__(name: str) -> Any:  # imported on first use, so that the options can be read without torch
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)
