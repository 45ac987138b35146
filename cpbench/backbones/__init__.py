"""Pipelines that methods change and that are put back: `load`, `Backbone`, `Family`."""

from typing import Any

_DOOR = {
    "Backbone": "backbone",
    "Family": "families.family",
    "MINIATURE": "hub",
    "fingerprint": "backbone",
    "load": "loading",
}


def __getattr__(
    name: str,
) -> Any:  # what is public here, imported when it is asked for: its options are read without torch
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)
