"""Pure functions on embeddings, scores and matrices; a `Score` and a `Figure` are an object each."""

from typing import Any

_DOOR = {"Figure": "figures", "Score": "scores"}


def __getattr__(name: str) -> Any:  # what is public here, imported when it is asked for
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)
