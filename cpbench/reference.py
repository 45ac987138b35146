"""`make reference`: the tables and grids of finished runs, without their states and pictures, to results/reference."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from cpbench import leaderboard

KEPT = ("run.json", "scores.csv", "measures.csv", "identification.csv", "matrix-*.csv", "report.html")
PICTURES = ("grid", "curves")


def keep(runs: Path, reference: Path) -> int:
    """Copy what is KEPT of every finished run below `runs`, and its PICTURES as WebP, a fifth of the PNG's bytes.

    A report, a page of some 2 MB with the run's pictures, is kept where `cpbench report` has made one: the leaderboard's
    page has a link to it.

    Returns how many there are: those that the leaderboard of `runs` counts; finished ones that it does not are named. Each
    takes the place of what was kept of its method, settings, seed and order over this version of its sequence, whatever the
    hash. The leaderboard in `reference` is of all that is there and of nothing
    else, so that `make leaderboard` makes it again; its grids, which are kept, are of the pictures in `runs`, in 256 colours.
    """
    read = leaderboard.read(runs)
    counted = {run.folder for run in read if not run.state}
    for run in read:
        if run.state and run.record.status == "finished":  # of the unfinished nobody expects it
            leaderboard.say(f"not kept {run.path}: {run.state}")
    found = [(path, record) for path, record in leaderboard.finished_runs(runs) if path in counted]
    names = {name(record) for _, record in found}
    for path, record in leaderboard.finished_runs(reference):
        if name(record) in names:
            shutil.rmtree(path)
    for path, _ in found:
        target = reference / path.relative_to(runs)
        target.mkdir(parents=True)
        for pattern in KEPT:
            for file in path.glob(pattern):
                shutil.copyfile(file, target / file.name)
        for picture in PICTURES:
            if (path / f"{picture}.png").is_file():
                with Image.open(path / f"{picture}.png") as drawn:
                    drawn.save(target / f"{picture}.webp", quality=90)
    if found:
        for grid in leaderboard.grids(leaderboard.groups(read), None, reference).values():
            with Image.open(reference / grid) as drawn:
                few = drawn.convert("RGB").quantize(256)  # a third of the bytes
            few.save(reference / grid, optimize=True)
        leaderboard.write(reference, reference)
    return len(found)


def name(record: dict[str, Any]) -> tuple[str, int, str, str, int, int]:
    """What a run is a run of: (sequence, its version, backbone, method with its settings, seed, order)."""
    sequence, config = record["sequence"], record["config"]
    method, backbone = leaderboard.name_of(record), Path(config["backbone"]).name
    return sequence["name"], sequence["version"], backbone, method, config["seed"], config["order"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m cpbench.reference")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="where finished runs are")
    parser.add_argument("--reference", type=Path, default=Path("results/reference"), help="where their tables go")
    asked = parser.parse_args()
    print(f"{keep(asked.runs, asked.reference)} runs kept in {asked.reference}")
