"""Pure functions on embeddings, scores and matrices; each `Score` and each `Figure` is one object."""

from typing import Any

_DOOR = {"Figure": "figures", "Score": "scores"}


def __getattr__(name: str) -> Any:  # public names, imported on first use
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)
