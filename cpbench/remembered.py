"""Small results that are dear to compute, remembered between processes in the user's own cache folder.

CPBENCH_CACHE names the folder; empty, nothing is remembered. Without it, cpbench below XDG_CACHE_HOME or ~/.cache. What
cannot be read or written is computed again: nothing depends on this folder, and it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cpbench.files import read_json, write_json


def folder() -> Path | None:
    """Where things are remembered; None where nothing is to be."""
    named = os.environ.get("CPBENCH_CACHE")
    if named is not None:
        return Path(os.path.expanduser(named)) if named else None
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(os.path.expanduser(base)) / "cpbench"


def recall(topic: str, key: Any) -> Any | None:
    """What `remember` was given for this key (any JSON); None where nothing is remembered."""
    file = _file(topic, key)
    held = read_json(file) if file else None
    # the whole key stands in the file: equal names of two keys would be one entry else
    if isinstance(held, dict) and held.get("key") == json.loads(json.dumps(key)):
        return held.get("value")
    return None


def remember(topic: str, key: Any, value: Any) -> None:
    """Keep `value` (any JSON) for `key`, which must hold all that `value` depends on."""
    if file := _file(topic, key):
        with contextlib.suppress(OSError):
            write_json(file, {"key": key, "value": value})


def _file(topic: str, key: Any) -> Path | None:
    base = folder()
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return base / topic / name[:2] / f"{name}.json" if base else None
