"""`make reference`: the tables and grids of finished runs, without their states and pictures, to results/reference."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from cpbench import leaderboard

KEPT = ("run.json", "scores.csv", "matrix-*.csv", "grid.png", "curves.png")


def keep(runs: Path, reference: Path) -> int:
    """Copy what is KEPT of every finished run below `runs`, in place of what was there for its sequence and backbone.

    Returns how many there are. The leaderboard in `reference` is of all its runs and of nothing else, so that `make
    leaderboard` makes it again; its grids, which are kept, are of the pictures in `runs`.
    """
    found = [path for path, _ in leaderboard.finished_runs(runs)]
    for parts in {path.relative_to(runs).parts[:2] for path in found}:
        shutil.rmtree(reference.joinpath(*parts), ignore_errors=True)
    for path in found:
        target = reference / path.relative_to(runs)
        target.mkdir(parents=True)
        for pattern in KEPT:
            for file in path.glob(pattern):
                shutil.copyfile(file, target / file.name)
    if found:
        leaderboard.grids(leaderboard.groups(leaderboard.read(runs.parent)), None, reference)
        leaderboard.write(reference, reference)
    return len(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m cpbench.reference")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="where finished runs are")
    parser.add_argument("--reference", type=Path, default=Path("results/reference"), help="where their tables go")
    asked = parser.parse_args()
    print(f"{keep(asked.runs, asked.reference)} runs kept in {asked.reference}")
