"""`make reference`: the tables and grids of finished runs, without their states and pictures, to results/reference."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from cpbench import leaderboard

KEPT = ("run.json", "scores.csv", "matrix-*.csv", "grid.png")


def keep(runs: Path, reference: Path) -> int:
    """Copy what is KEPT of every finished run below `runs`; other runs of its sequence go. Returns how many."""
    found = [path for path, _ in leaderboard.finished_runs(runs)]
    for sequence in {path.relative_to(runs).parts[0] for path in found}:
        shutil.rmtree(reference / sequence, ignore_errors=True)
    for path in found:
        target = reference / path.relative_to(runs)
        target.mkdir(parents=True)
        for pattern in KEPT:
            for file in path.glob(pattern):
                shutil.copyfile(file, target / file.name)
    if found:
        leaderboard.write(runs, reference)
    return len(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m cpbench.reference")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="where finished runs are")
    parser.add_argument("--reference", type=Path, default=Path("results/reference"), help="where their tables go")
    asked = parser.parse_args()
    print(f"{keep(asked.runs, asked.reference)} runs kept in {asked.reference}")
