"""`make reference`: copy the record, tables and a thumbnail of finished runs to results/reference, small enough for git."""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image

from cpbench.files import write_atomically
from cpbench.leaderboard import board, entries
from cpbench.leaderboard.groups import group_runs
from cpbench.output import opened, say
from cpbench.records import tables
from cpbench.records.folder import TABLES, RunFolder
from cpbench.records.reading import finished_runs
from cpbench.records.record import Record, method_name

MOST_THUMBNAIL = 25_000  # bytes of a run's grid


def keep(runs: Path, reference: Path) -> int:
    """Keep run.json, the compressed TABLES and a thumbnail of the grid of every finished run below `runs`.

    Returns the number of runs kept: those in the leaderboard of `runs`; other finished runs are reported. Each replaces the
    kept run of the same method, settings, seed, order and sequence version, whatever its hash. The leaderboard in
    `reference` covers exactly the runs kept there, so that `make leaderboard` can rebuild it; its grids are made from the
    pictures in `runs`, at half size.
    """
    all_runs = entries.read_runs(runs)
    counted_folders = {run.folder for run in all_runs if not run.state}
    for run in all_runs:
        if run.state and run.record.is_finished:  # unfinished runs are never kept
            say(f"not kept {run.path}: {run.state}")
    counted_runs = [(path, record) for path, record in finished_runs(runs) if path in counted_folders]
    names = {name(record) for _, record in counted_runs}
    for path, record in finished_runs(reference):
        if name(record) in names:
            shutil.rmtree(path)
    for path, _ in counted_runs:
        target = reference / path.relative_to(runs)
        target.mkdir(parents=True)
        source, target_folder = RunFolder(path), RunFolder(target)
        shutil.copyfile(source.record, target_folder.record)
        for table in TABLES:
            if (path / table).is_file():
                tables.keep_table(path / table, target)
        if source.grid.is_file():
            with Image.open(source.grid) as picture:
                write_atomically(target_folder.thumbnail, thumbnail(picture))
    if counted_runs:
        for grid in board.grids(group_runs(all_runs), None, reference).values():
            with Image.open(reference / grid) as picture:
                half_size = picture.convert("RGB").resize(
                    (picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS
                )
            half_size.quantize(256).save(reference / grid, optimize=True)
        board.write(reference, reference)
    return len(counted_runs)


def thumbnail(image: Image.Image) -> bytes:
    """The largest version of a picture that fits MOST_THUMBNAIL bytes as WebP."""
    picture, scale = image.convert("RGB"), 1.0
    while True:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "WEBP", quality=70, method=6)
        if buffer.tell() <= MOST_THUMBNAIL or max(size) == 1:
            return buffer.getvalue()
        scale *= 0.9


def name(record: Record) -> tuple[str, int, str, str, int, int]:
    """(sequence, its version, backbone, method with its settings, seed, order) of a run."""
    sequence, config = record.sequence, record.config
    backbone = Path(config.backbone).name
    return sequence.name, sequence.version, backbone, method_name(record), config.seed, config.order


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m cpbench.leaderboard.reference")
    parser.add_argument("--runs", type=Path, default=Path("results/runs"), help="folder of finished runs")
    parser.add_argument("--reference", type=Path, default=Path("results/reference"), help="folder for their tables")
    arguments = parser.parse_args()
    with opened():
        say(f"{keep(arguments.runs, arguments.reference)} runs kept in {arguments.reference}")
