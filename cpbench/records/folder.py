"""Where a run's files are."""

from __future__ import annotations

from pathlib import Path


def run_folder(output: Path, sequence: str, backbone: str, method: str, hash8: str, order: int, seed: int) -> Path:
    return output / sequence / backbone / method / hash8 / f"order{order}-seed{seed}"
