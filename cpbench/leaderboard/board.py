"""The leaderboard: of finished runs, one row a configuration, in a table for every set of runs that can be compared.

Written as Markdown, one HTML page, CSV and JSON. The same runs give the same bytes. Runs are read in `entries`,
averaged and ranked in `rows`, and shown by `columns`, `text` and `page`.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.text import Text

from cpbench.errors import UserError, did_you_mean
from cpbench.files import prepare_folder, write_atomically
from cpbench.leaderboard.columns import RANKS
from cpbench.leaderboard.entries import read
from cpbench.leaderboard.page import page
from cpbench.leaderboard.rows import Group, groups
from cpbench.leaderboard.text import as_json, in_terminal, markdown, table
from cpbench.output import LOG_WIDTH, console, say
from cpbench.records.folder import RunFolder
from cpbench.records.grid import method_grid
from cpbench.records.reading import skip


def grids(found: Sequence[Group], concept: str | None, output: Path) -> dict[str, str]:
    """For each group a picture of one concept, one row a method, in the table's order. Returns the files' names by group.

    It is the first concept where `concept` is not one of the sequence's. Only runs with their pictures (of the first
    seed, in the file's order) are shown. Where there are none, as among committed results, a picture of that name that
    is there already is kept; else nothing is written.
    """
    made: dict[str, str] = {}
    for group in found:
        if not group.concepts:
            continue
        which = concept if concept in group.concepts else group.concepts[0]
        parts = f"methods-{group.sequence}-{group.backbone}-{group.pictures}-{which}"
        name = re.sub(r"[^A-Za-z0-9_.]+", "-", parts) + ".png"
        if name in made.values():  # the same but for its judges, say
            name = name.replace(".png", f"-{group.id}.png")
        first = [(row, run) for row in group.rows for run in row.runs if run.record.config.order == 0]
        seed = min((run.record.config.seed for _, run in first), default=0)
        first = [(row, run) for row, run in first if run.record.config.seed == seed]
        shown = [(row.label, run) for row, run in first if RunFolder(run.folder).task(0).all_pictures.is_dir()]
        if not shown:
            if os.path.isfile(output / name):  # which, unlike pathlib's, is calm about a name too long to be a file's
                made[group.id] = name
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                order = shown[0][1].record.sequence.concepts
                method_grid([(method, run.folder) for method, run in shown], order, which, output / name)
        except (
            Exception
        ) as error:  # pictures from anybody, and decoders that answer broken ones with errors of any type
            skip(output / name, f"a picture of one of its runs cannot be read ({type(error).__name__}: {error})")
            continue
        made[group.id] = name
    return made


def write(folder: Path, output: Path, concept: str | None = None) -> None:
    """leaderboard.md, .html, .csv and .json and the grids in `output`. UserError if there is no finished run below `folder`."""
    if not folder.is_dir():
        raise UserError(f"results folder {folder}: there is none; `cpbench run` or `make bench` makes one")
    runs = read(folder)
    found, unfinished = groups(runs), sorted((run for run in runs if run.state), key=lambda run: run.path)
    if not found:
        why = f" (of {unfinished[0].path}: {unfinished[0].state})" if unfinished else ""
        raise UserError(
            f"results folder {folder}: no finished run in it{why}; `cpbench run` or `make bench` makes some"
        )
    every = {name for group in found for name in group.concepts}
    if concept is not None and concept not in every:
        raise did_you_mean(concept, sorted(every), "concept")
    prepare_folder(output)
    pictures = grids(found, concept, output)
    files = {
        "leaderboard.md": markdown(found, unfinished, pictures),
        "leaderboard.html": page(found, unfinished, pictures, output),
        "leaderboard.csv": table(found).to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        "leaderboard.json": json.dumps(as_json(found, unfinished, pictures), indent=1, allow_nan=False) + "\n",
    }
    for name, content in files.items():
        write_atomically(output / name, content.encode())
    shown = console()
    for made in in_terminal(found, unfinished, shown.width if shown else LOG_WIDTH):
        say(made)
    say(Text(f"{RANKS}\n"))
    say("wrote " + ", ".join(str(output / name) for name in (*files, *pictures.values())))
