"""What pictures are judged by: `Judge`, and the `Preprocessing` of one."""

from typing import Any

_DOOR = {"Judge": "judge", "Preprocessing": "judge"}


def __getattr__(
    name: str,
) -> Any:  # what is public here, imported when it is asked for: what identifies one is read without torch
    if name not in _DOOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_DOOR[name]}"), name)
