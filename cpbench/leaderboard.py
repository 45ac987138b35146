"""The leaderboard: of finished runs, one row a configuration, in a table for every set of runs that can be compared.

Written as Markdown, one HTML page, CSV and JSON. The same runs give the same bytes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cpbench import config, report, results
from cpbench.comparison import Key, compare
from cpbench.errors import UserError, near
from cpbench.leaderboard_runs import (  # some for cpbench.report_data, cpbench.sweep and cpbench.reference
    MOST_CONCEPTS,
    Run,
    comparable,
    finished_runs,
    is_own,
    judges_of,
    name_of,
    read,
    sequence_of,
    skip,
    text,
    whole,
)
from cpbench.report import FIGURES
from cpbench.results import plain

__all__ = ["MOST_CONCEPTS", "finished_runs", "grids", "groups", "name_of", "read", "text", "whole", "write"]

SCHEMA = 1  # of leaderboard.json
SOURCES = {"drawn": "drawn stand-ins", "photographs": "photographs"}


@dataclass
class Row:
    """A method's configuration: its runs, and the mean and standard deviation of each number over them."""

    method: str
    hash: str
    replay_free: str  # yes, generated, no
    verified: str
    runs: list[Run]
    mean: dict[str, float]
    std: dict[str, float]  # NaN of one run
    rank: int | None = None
    compared: int = 0  # with how many other rows

    @property
    def finals(self) -> dict[tuple[int, int], dict[Key, float]]:
        """By (seed, order), DINO of the last row picture by picture."""
        return {run.draw: run.finals for run in self.runs}


@dataclass
class Group:
    """Rows that can be compared, the best first, and the facts that their runs share."""

    id: str
    facts: dict[str, Any]
    sequence: str
    backbone: str
    pictures: str
    judges: str
    rows: list[Row]
    apart: list[str] = field(default_factory=list)  # facts in which it differs from another group of its title

    @property
    def title(self) -> str:
        return f"{self.sequence} on {self.backbone} ({SOURCES[self.pictures]})"

    def rank(self, row: Row) -> str:
        if row.rank is None:
            return "-"
        return str(row.rank) + ("~" if row.compared < len(self.rows) - 1 else "")

    @property
    def concepts(self) -> list[str]:
        """In the sequence's order, if one of the runs has it."""
        every = [run for row in self.rows for run in row.runs]
        return min(every, key=lambda run: run.record.config.order).record.sequence.concepts


# Columns


def score(value: float) -> str:
    return "-" if math.isnan(value) else f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1e6 else f"{value:.3g}"


def amount(value: float) -> str:
    """Three digits that count, but never fewer than a whole number has."""
    return "-" if math.isnan(value) else f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


@dataclass(frozen=True)
class Column:
    key: str  # of Row.mean
    head: str
    says: str
    form: Callable[[float], str] = score
    scale: float = 1.0
    high: bool = True  # whether more is better

    def shown(self, row: Row) -> tuple[str, str]:
        """The mean, and, of a score over several runs, its standard deviation."""
        mean, std = (it[self.key] * self.scale for it in (row.mean, row.std))
        return self.form(mean), "" if self.form is amount or math.isnan(std) else self.form(std)

    def cell(self, row: Row) -> str:
        return " ± ".join(filter(None, self.shown(row)))


COLUMNS = (
    Column("dino_final_average", "DINO final", "mean DINO score of all concepts at the end"),
    Column("dino_backward_transfer", "backward transfer", "what later tasks did to concepts, by DINO; negative: lost"),
    Column("dino_normalised_retention", "retention", "gained over the untouched model and kept to the end, as a share of the gap to the real pictures (DINO)"),
    Column("dino_forgetting", "forgetting", "Chaudhry's, by DINO; lower is better", high=False),
    Column("dino_plasticity", "plasticity", "mean DINO score of each concept right after its own task"),
    Column("clip_i_final_average", "CLIP-I final", "mean CLIP-I score of all concepts at the end"),
    Column("clip_t_final_average", "CLIP-T final", "plain cosine of picture and prompt at the end"),
    Column("identified", "identified", "share of pictures at the end that are nearest to their own concept, of all the sequence's"),
    Column("prior_drift", "prior drift", "mean 1 - cosine of pictures of plain class nouns at the end to the untouched model's; lower is better", high=False),
    Column("carried_MB", "carried MB", "megabytes of the state after the last task", amount, high=False),
    Column("carried_parameters", "carried M par.", "millions of numbers in that state", amount, 1e-6, high=False),
    Column("learning_minutes", "learning min", "minutes to learn the sequence; they depend on the machine", amount, high=False),
    Column("learning_unet_evaluations", "UNet evaluations", "pictures that went through the UNet to learn the sequence, a step's way back not counted; they do not depend on the machine", amount, high=False),
)  # fmt: skip
IN_TERMINAL = (
    "dino_final_average", "dino_backward_transfer", "dino_normalised_retention", "clip_t_final_average", "carried_MB",
    "learning_unet_evaluations",
)  # fmt: skip
RANKS = (
    "Rank: 1 + the number of rows above it, whose paired difference in final DINO (same concept, prompt and noise, in the "
    "seeds and orders of both) has a 95 % interval wholly above 0. “~”: not compared with every row; “-”: with none."
)
MORE = (
    "Rows are ordered by rank, then by final DINO. Numbers are means ± standard deviation over runs (seeds, orders) with equal settings.",
    "Methods with * see earlier data: they are not replay-free; “generated” replays pictures that the method drew itself. "
    "Verified: against what the method's code was tested; see docs/methods.md.",
)


def numbers(run: Run) -> dict[str, float]:
    """All that is averaged; NaN is not defined, or not measured."""
    record, out = run.record, {}
    for metric in results.METRICS:
        figures = getattr(record.summary, metric)
        out |= {f"{metric}_{k}": getattr(figures, k) for k in FIGURES}
    out |= {"identified": record.measures.identified, "prior_drift": record.measures.moved}
    every = [cost for _, cost in sorted(record.costs.items())]
    seconds = sum(cost.learning_seconds for cost in every)
    carried = float(sum(every[-1].carried_bytes.values())) if every else 0.0
    out |= {
        "carried_MB": carried / 1e6,
        "carried_kB": carried / 1e3,
        "carried_parameters": every[-1].carried_parameters if every else 0.0,
        "trainable_parameters": max((cost.trainable_parameters for cost in every), default=0.0),
        "learning_unet_evaluations": sum(cost.learning_unet_evaluations for cost in every),
        "learning_seconds": seconds,
        "learning_minutes": seconds / 60,
    }
    return {k: math.nan if v is None else float(v) for k, v in out.items()}


@functools.cache
def known() -> dict[str, Any]:
    """What cpbench says of its own methods: presets/verified.yaml."""
    file = config.baselines_folder() / "presets" / "verified.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def verified(run: Run) -> str:
    return "-" if is_own(run.record) else known()["verified"].get(run.record.facts.method, "-")


def replay_free(run: Run) -> str:
    if run.record.sees_earlier_data:
        return "no"
    return "generated" if run.record.facts.method in known()["generates"] and not is_own(run.record) else "yes"


# Rows, groups, ranks


def groups(runs: Sequence[Run]) -> list[Group]:
    """The finished runs as rows, in groups that can be compared, by title."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        if not run.state:
            together.setdefault(results.hash8(comparable(run.record)), []).append(run)
    found = []
    for key, members in together.items():
        members.sort(key=lambda run: (run.draw, run.path))
        rows: dict[tuple[str, str], dict[tuple[int, int], Run]] = {}
        for run in members:  # a seed and order counts once, even where a copy has another backbone's name
            rows.setdefault((run.method, run.record.hash), {})[run.draw] = run
        first = min(members, key=lambda run: run.key)  # equal weights may be called by two names
        named = (sequence_of(first.record), first.key[1], first.record.pictures, judges_of(first.record))
        made = ranked([row_of(*of, list(own.values())) for of, own in sorted(rows.items())])
        found.append(Group(key, comparable(first.record), *named, made))
    for group in found:
        others = [other.facts for other in found if other is not group and other.title == group.title]
        group.apart = [k for k in group.facts if any(other[k] != group.facts[k] for other in others)]
    return sorted(found, key=lambda group: (group.title, group.judges, group.id))


def row_of(method: str, hash8: str, runs: list[Run]) -> Row:
    table = pd.DataFrame([numbers(run) for run in runs])
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of infinities, which a record may have
        mean, std = table.mean().to_dict(), table.std().to_dict()
    return Row(method, hash8, replay_free(runs[0]), verified(runs[0]), runs, mean, std)


def ranked(rows: list[Row]) -> list[Row]:
    """The rows with their ranks, the best first. Every pair is compared once."""
    for row in rows:
        row.rank = 1 if any(row.finals.values()) else None
    for i, a in enumerate(rows):
        for b in rows[:i]:
            sides = common(a, b)
            if not sides[0]:
                continue
            found = compare(*sides)
            a.compared, b.compared = a.compared + 1, b.compared + 1
            if found.low > 0:
                b.rank = (b.rank or 1) + 1
            elif found.high < 0:
                a.rank = (a.rank or 1) + 1
    for row in rows:
        if not row.compared and len(rows) > 1:
            row.rank = None

    def place(row: Row) -> tuple:
        final = row.mean["dino_final_average"]
        return row.rank or math.inf, math.inf if math.isnan(final) else -final, row.method, row.hash

    return sorted(rows, key=place)


def common(a: Row, b: Row) -> tuple[dict[Key, float], dict[Key, float]]:
    """The last row's scores of both, by picture, each the mean over the seeds and orders in which both have that picture."""
    mine, theirs = a.finals, b.finals
    pairs: dict[Key, list[tuple[float, float]]] = {}
    for draw in mine.keys() & theirs.keys():
        for key in mine[draw].keys() & theirs[draw].keys():
            pairs.setdefault(key, []).append((mine[draw][key], theirs[draw][key]))
    means = {key: np.mean(sorted(pairs[key]), axis=0) for key in sorted(pairs)}  # sorted: sums of equal bytes
    return {k: float(v[0]) for k, v in means.items()}, {k: float(v[1]) for k, v in means.items()}


# Pictures


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
        shown = [(row.method, run) for row, run in first if (run.folder / "task-00" / "pictures").is_dir()]
        if not shown:
            if os.path.isfile(output / name):  # which, unlike pathlib's, is calm about a name too long to be a file's
                made[group.id] = name
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                order = shown[0][1].record.sequence.concepts
                report.method_grid([(method, run.folder) for method, run in shown], order, which, output / name)
        except (
            Exception
        ) as error:  # pictures from anybody, and decoders that answer broken ones with errors of any type
            skip(output / name, f"a picture of one of its runs cannot be read ({type(error).__name__}: {error})")
            continue
        made[group.id] = name
    return made


# As text and tables


def shared(group: Group) -> dict[str, tuple[str, str]]:
    """What the rows of a group have in common: by the name in `comparable`, what it is called and is."""

    def said(value: Any) -> str:
        return "not recorded" if value is None else f"{value:g}" if isinstance(value, float) else str(value)

    facts = group.facts
    rows, sampler = facts["rows"], facts["sampler"]
    judges = [[*judge.values()] for judge in facts["judges"].values()]
    return {
        "sequence": ("sequence", f"{group.sequence}, content {facts['sequence'][:12]}"),
        "images": ("images", f"{SOURCES[group.pictures]}, content {said(facts['images'])}"),
        "backbone": ("backbone", f"{group.backbone}, weights {facts['backbone'][:12]}"),
        "judges": ("judges", "; ".join(", ".join([f"{m} [{h[:12]}]", *filter(None, more)]) for m, h, *more in judges)),
        "sampler": (
            "sampler",
            ", ".join(f"{k} {said(v)}" for k, v in sorted(sampler.items())) if sampler else "not recorded",
        ),
        "pictures_per_prompt": ("pictures a prompt", said(facts["pictures_per_prompt"])),
        "picture_size": ("pixels a side", said(facts["picture_size"])),
        "dtype": ("precision", said(facts["dtype"]).removeprefix("torch.")),
        "rows": ("rows drawn", rows if isinstance(rows, str) else ", ".join(map(str, rows))),
    }


def apart(group: Group) -> str:
    """Why there is another table of this name: that in which this one differs."""
    named = shared(group)
    differs = [f"{named[k][0]} ({named[k][1]})" for k in group.apart]
    return f"Not comparable with the other tables of this name, by its {', '.join(differs)}." if differs else ""


def markdown(found: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str]) -> str:
    """One table for each group, and below it the picture of that name, if there is one; then what does not count."""
    heads = ["rank", "method", "runs", *(c.head for c in COLUMNS), "replay-free", "verified", "settings"]
    lines = ["# Leaderboard", ""]
    for group in found:
        lines += [f"## {plain(group.title)}", ""]
        facts = [f"{name}: {value}" for name, value in shared(group).values() if name != "judges"]
        lines += [
            f"Judges: {plain(group.judges)}.",
            f"What all rows share: {plain('; '.join(facts))}.",
            plain(apart(group)),
        ]
        lines += ["", table_row(heads), "|--:|---|" + "--:|" * (1 + len(COLUMNS)) + "---|---|---|"]
        for row in group.rows:
            words = [row.replay_free, row.verified, row.hash]
            lines.append(
                table_row([group.rank(row), row.method, len(row.runs), *(c.cell(row) for c in COLUMNS), *words])
            )
        lines.append("")
        if group.id in pictures:
            lines += [f"![one concept after each task, one row a method]({pictures[group.id]})", ""]
    if unfinished:
        lines += ["## Not finished", "", "These runs are in no table.", ""]
        lines += [table_row(UNFINISHED), "|---|---|---|--:|--:|---|---|"]
        lines += [*(table_row(cells) for cells in map(unfinished_cells, unfinished)), ""]
    lines += [RANKS, *MORE, "", *(f"- {c.head}: {c.says}." for c in COLUMNS)]
    return re.sub("\n\n\n+", "\n\n", "\n".join(lines)) + "\n"


def table_row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(plain, cells))} |"


UNFINISHED = ("method", "sequence", "backbone", "seed", "order", "settings", "state")


def unfinished_cells(run: Run) -> list[str]:
    seed, order = run.draw
    return [run.method, run.key[0], run.key[1], str(seed), str(order), run.record.hash, run.state]


def table(found: Sequence[Group]) -> pd.DataFrame:
    """Every row of every group, for the CSV file; deviations have names ending in _std."""
    lines = []
    for group in found:
        for row in group.rows:
            line: dict[str, Any] = {
                "sequence": group.sequence,
                "backbone": group.backbone,
                "pictures": group.pictures,
                "judges": group.judges,
                "group": group.id,
                "rank": row.rank,
                "compared": row.compared,
                "method": row.method,
                "hash": row.hash,
                "runs": len(row.runs),
                "replay_free": row.replay_free,
                "verified": row.verified,
            }
            lines.append(line | row.mean | {f"{k}_std": v for k, v in row.std.items()})
    return pd.DataFrame(lines).astype({"rank": "Int64"})


def as_json(found: Sequence[Group], unfinished: Sequence[Run], pictures: dict[str, str]) -> dict[str, Any]:
    """Everything, with numbers to six places; null is not defined."""

    def finite(values: dict[str, float]) -> dict[str, float | None]:
        return {k: round(v, 6) + 0.0 if math.isfinite(v) else None for k, v in values.items()}

    def sound(value: Any) -> Any:  # JSON has no NaN, which a foreign record may
        if isinstance(value, dict):
            return {k: sound(v) for k, v in value.items()}
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    def of_run(run: Run) -> dict[str, Any]:
        return {"path": run.path, "seed": run.draw[0], "order": run.draw[1]}

    def of_row(row: Row) -> dict[str, Any]:
        own = {k: getattr(row, k) for k in ("rank", "compared", "method", "hash", "replay_free", "verified")}
        return own | {"runs": list(map(of_run, row.runs)), "mean": finite(row.mean), "std": finite(row.std)}

    return {
        "schema": SCHEMA,
        "groups": [
            {k: getattr(g, k) for k in ("id", "sequence", "backbone", "pictures", "judges")}
            | {"comparable": sound(g.facts), "grid": pictures.get(g.id), "rows": list(map(of_row, g.rows))}
            for g in found
        ],
        "unfinished": [
            of_run(r) | {"method": r.method, "hash": r.record.hash, "sequence": r.key[0], "backbone": r.key[1], "state": r.state}
            for r in unfinished
        ],
    }  # fmt: skip


def in_terminal(found: Sequence[Group], unfinished: Sequence[Run]) -> list[Table]:
    """The means that fit 120 characters. Names are not markup."""
    out = []
    columns = [c for c in COLUMNS if c.key in IN_TERMINAL]
    for group in found:
        made = report.compact("")
        made.title = Text("\n".join(filter(None, [group.title, apart(group)])))
        made.add_column("rank", justify="right", no_wrap=True)
        made.add_column("method", overflow="fold")
        for head in ("runs", *(c.head for c in columns), "replay-free"):
            made.add_column(head.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in group.rows:
            cells = [str(len(row.runs)), *(c.shown(row)[0] for c in columns), row.replay_free]
            made.add_row(group.rank(row), Text(row.method), *cells)
        out.append(made)
    if unfinished:
        made = report.compact("Not finished, and in no table")
        for head in UNFINISHED:
            made.add_column(head, overflow="fold")
        for run in unfinished:
            made.add_row(*map(Text, unfinished_cells(run)))
        out.append(made)
    return out


def write(folder: Path, output: Path, concept: str | None = None) -> None:
    """leaderboard.md, .html, .csv and .json and the grids in `output`. UserError if there is no finished run below `folder`."""
    from cpbench.leaderboard_page import page

    if not folder.is_dir():
        raise UserError(f"results folder {folder}: there is none; `cpbench run` or `make bench` makes one")
    runs = read(folder)
    found, unfinished = groups(runs), sorted((run for run in runs if run.state), key=lambda run: run.path)
    if not found:
        raise UserError(f"results folder {folder}: no finished run in it; `cpbench run` or `make bench` makes some")
    every = {name for group in found for name in group.concepts}
    if concept is not None and concept not in every:
        raise near(concept, sorted(every), "concept")
    results.prepare_folder(output)
    pictures = grids(found, concept, output)
    files = {
        "leaderboard.md": markdown(found, unfinished, pictures),
        "leaderboard.html": page(found, unfinished, pictures, output),
        "leaderboard.csv": table(found).to_csv(index=False, float_format="%.6f", lineterminator="\n"),
        "leaderboard.json": json.dumps(as_json(found, unfinished, pictures), indent=1, allow_nan=False) + "\n",
    }
    for name, content in files.items():
        results.write_atomically(output / name, content.encode())
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for made in in_terminal(found, unfinished):
        console.print(made)
    console.print(Text(f"{RANKS}\n"))
    print("wrote " + ", ".join(str(output / name) for name in (*files, *pictures.values())))
