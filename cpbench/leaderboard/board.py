"""The leaderboard of finished runs: one row per configuration, one table per set of comparable runs.

It is written as Markdown, HTML, CSV and JSON. The same runs give the same bytes. `entries` reads the runs, `rows` averages
and ranks them, `columns`, `text` and `page` format them.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from rich.text import Text

from cpbench.errors import UserError, did_you_mean
from cpbench.files import prepare_folder, write_atomically
from cpbench.leaderboard.columns import ranks
from cpbench.leaderboard.entries import Run, read_runs
from cpbench.leaderboard.groups import Group, group_runs
from cpbench.leaderboard.page import page
from cpbench.leaderboard.pairs import PRIMARY, RankingScore
from cpbench.leaderboard.text import as_json, markdown, score_table, terminal_tables
from cpbench.output import LOG_WIDTH, console, say
from cpbench.records.folder import RunFolder
from cpbench.records.grid import method_grid
from cpbench.records.reading import skip


def grids(groups: Sequence[Group], concept: str | None, output: Path) -> dict[str, str]:
    """Write a picture of one concept per group, with one row per method in the table's order; returns file names by group.

    The concept is the first of the sequence if `concept` is not part of it. The rows are runs with pictures, of the
    lowest seed, in the sequence's own order. If no run has its pictures, as in committed results, an existing file of
    that name is kept, and otherwise none is written.
    """
    files: dict[str, str] = {}
    for group in groups:
        if not group.concepts:
            continue
        grid_concept = concept if concept in group.concepts else group.concepts[0]
        name = distinct(file_name(group, "methods", grid_concept), files.values(), group)
        candidates = [(row, run) for row in group.rows for run in row.runs if run.record.config.order == 0]
        seed = min((run.record.config.seed for _, run in candidates), default=0)
        candidates = [(row, run) for row, run in candidates if run.record.config.seed == seed]
        with_pictures = [
            (row.label, run) for row, run in candidates if RunFolder(run.folder).task(0).all_pictures.is_dir()
        ]
        if not with_pictures:
            if os.path.isfile(output / name):  # unlike pathlib's, it accepts names that are too long
                files[group.id] = name
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                order = with_pictures[0][1].record.sequence.concepts
                method_grid([(method, run.folder) for method, run in with_pictures], order, grid_concept, output / name)
        except Exception as error:  # untrusted pictures: decoders raise errors of any type
            skip(output / name, f"a picture of one of its runs cannot be read ({type(error).__name__}: {error})")
            continue
        files[group.id] = name
    return files


def refuse_unknown_methods(methods: Sequence[str], runs: Sequence[Run]) -> None:
    """UserError for a method that no finished run is of."""
    names = sorted({run.method.replace("*", "") for run in runs if not run.state})
    for method in methods:
        if method not in names:
            raise did_you_mean(method, names, "finished method")


def file_name(group: Group, kind: str, *parts: str) -> str:
    """A picture's name: letters, digits, dots and hyphens of what the group is called."""
    words = "-".join((kind, group.sequence, group.backbone, group.pictures, *parts))
    return re.sub(r"[^A-Za-z0-9_.]+", "-", words) + ".png"


def draw_charts(groups: Sequence[Group], output: Path) -> list[str]:
    """The names of the groups' charts, written to `output`; a table with nothing to show has none."""
    from cpbench.leaderboard.chart import draw

    names: list[str] = []
    for group in groups:
        name = distinct(file_name(group, "chart"), names, group)
        if draw(group, output / name):
            names.append(name)
    return names


def distinct(name: str, names: Collection[str], group: Group) -> str:
    """The name, with the group's id if another group has it, such as one that differs only in its judges or references."""
    return name.replace(".png", f"-{group.id}.png") if name in names else name


def write(
    folder: Path,
    output: Path,
    concept: str | None = None,
    show: bool = True,
    rank_by: RankingScore = PRIMARY,
    methods: Sequence[str] = (),
    with_chart: bool = False,
) -> dict[str, Any]:
    """Write leaderboard.md, .html, .csv, .json and the grids to `output`. Returns the content of leaderboard.json.

    show: whether the tables are printed. methods: the only rows to show, all if it is empty. with_chart: also a chart of
    each table. UserError if `folder` has no finished run, or none of a named method.
    """
    if not folder.is_dir():
        raise UserError(f"results folder {folder}: it does not exist; create it with `cpbench run` or `make bench`")
    runs = read_runs(folder)
    refuse_unknown_methods(methods, runs)
    groups, unfinished = (
        group_runs(runs, rank_by, methods),
        sorted((run for run in runs if run.state), key=lambda run: run.path),
    )
    if not groups:
        example = f" (for example {unfinished[0].path}: {unfinished[0].state})" if unfinished else ""
        raise UserError(
            f"results folder {folder}: no finished run in it{example}; finish one with `cpbench run` or `make bench`"
        )
    concepts = {name for group in groups for name in group.concepts}
    if concept is not None and concept not in concepts:
        raise did_you_mean(concept, sorted(concepts), "concept")
    prepare_folder(output)
    pictures = grids(groups, concept, output)
    charts = draw_charts(groups, output) if with_chart else []
    board = as_json(groups, unfinished, pictures)
    files = {
        "leaderboard.md": markdown(groups, unfinished, pictures),
        "leaderboard.html": page(groups, unfinished, pictures, output),
        "leaderboard.csv": score_table(groups).to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        "leaderboard.json": json.dumps(board, indent=1, allow_nan=False) + "\n",
    }
    for name, content in files.items():
        write_atomically(output / name, content.encode())
    terminal = console()
    for table in terminal_tables(groups, unfinished, terminal.width if terminal else LOG_WIDTH) if show else ():
        say(table)
    if show:
        say(Text(f"{ranks(rank_by)}\n"))
    say("wrote " + ", ".join(str(output / name) for name in (*files, *pictures.values(), *charts)))
    return board
