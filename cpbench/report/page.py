"""`cpbench report`: one page of a run, or of several side by side, in one file that needs no network and no script.

Names and prompts on it may come from anybody: the template escapes them all, and the page's own policy lets a browser
load nothing and run nothing.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from cpbench.errors import UserError
from cpbench.files import prepare_folder, write_atomically
from cpbench.judges import identity
from cpbench.metrics.figures import FIGURES
from cpbench.metrics.matrices import reference_row
from cpbench.metrics.scores import among, title_of
from cpbench.miniature import is_miniature
from cpbench.records.folder import REPORT, RunFolder
from cpbench.report import data, plots
from cpbench.report.data import Shown, figure, judge_of, part, prompts_of, said, scores_of
from cpbench.report.pictures import Level, by_concept, columns_of, encoded, fits, gallery, kept, lapses, levels
from cpbench.report.tables import (
    COSTS,
    classifier_table,
    confusion,
    conventions,
    cost_cells,
    cost_rows,
    facts,
    figures_of,
    flat,
    heat_tables,
    lead,
    made_on,
    measure_rows,
    pair_rows,
    pair_scores,
    scales,
    summary_cell,
    summary_rows,
    told,
    total_cost,
)
from cpbench.report.templates import templates

MOST_BYTES = 4_900_000  # of a page
MOST_CELLS = 12_000  # of heat maps on a page; 50 concepts have 4000
MOST_PANELS = 60  # of concepts
MOST_TRAINING = 24  # panels of a run's training


def write(runs: Sequence[Path], output: Path | None = None, with_plots: bool = False) -> list[Path]:
    """Write the page of these runs, and, if asked for, its plots beside it; returns the page and the plots' folder."""
    shown = [data.read(run) for run in runs]
    shown = list({os.path.realpath(s.folder): s for s in shown}.values())  # one named twice is one
    notes = data.comparable(shown)
    data.label(shown)
    target = output or default_target(shown)
    if target.is_dir():
        raise UserError(f"--output {target}: is a folder; name a file, such as {target / REPORT}")
    prepare_folder(target.parent)
    write_atomically(target, page(shown, notes).encode())
    if not with_plots:
        return [target]
    # a folder of their own: a PNG beside run.json would be one of the files that a finished run answers for
    folder = target.with_name(f"{target.stem}-plots")
    prepare_folder(folder)
    save_plots(shown, folder)
    return [target, folder]


def default_target(runs: Sequence[Shown]) -> Path:
    if len(runs) == 1:
        return RunFolder(runs[0].folder).report
    return Path("results", REPORT) if Path("results").is_dir() else Path(REPORT)


# Plots


def curve_matrices(runs: Sequence[Shown], metric: str) -> list[tuple[str, np.ndarray]]:
    return [(r.label, r.matrices[metric].to_numpy(dtype=float)) for r in runs if metric in r.matrices]


def forgetting_plots(runs: Sequence[Shown]) -> list[tuple[str, plots.Draw]]:
    return [
        (metric, plots.forgetting(curve_matrices(runs, metric), told(metric), len(runs) == 1))
        for metric in scores_of(runs)
        if any(metric in r.matrices and r.last > 1 for r in runs)
    ]


def forgetting_numbers(runs: Sequence[Shown]) -> list[dict[str, Any]]:
    """The numbers of the plots: for each metric rows (tasks since, one cell a run)."""
    out = []
    for metric, _ in forgetting_plots(runs):
        made = []
        for label, matrix in curve_matrices(runs, metric):
            lost = plots.changes(matrix)
            low, high = plots.interval(lost)
            made.append((label, plots.mean(lost), low, high, (~np.isnan(lost)).sum(axis=0)))
        rows = []
        for k in range(max(len(m[1]) for m in made)):
            cells = [
                "-" if k >= len(y) or not n[k] else f"{y[k]:.3f}" + ("" if math.isnan(low[k]) else f" [{low[k]:.3f}, {high[k]:.3f}]") + f", n = {n[k]}"
                for _, y, low, high, n in made
            ]  # fmt: skip
            rows.append((k, cells))
        out.append({"title": title_of(metric), "labels": [m[0] for m in made], "rows": rows})
    return out


def concept_plots(runs: Sequence[Shown]) -> list[tuple[str, plots.Draw]]:
    """A panel a concept, by the first judge there is: each run's score after every task from the concept's own on."""
    metric = judge_of(runs[0])
    there = [r for r in runs if metric in r.matrices and r.last]
    if not there:
        return []
    cells = {r.label: r.scores[(r.scores["kind"] == "cell") & (r.scores["metric"] == metric)] for r in there}
    low, high = scales(there)[metric]
    margin, out = 0.05 * (high - low), []
    for concept in runs[0].concepts[:MOST_PANELS]:
        lines = []
        for r in there:
            own = cells[r.label][cells[r.label]["concept"] == concept]
            j = r.concepts.index(concept) + 1
            table = own[own["row"] >= j].groupby(["prompt", "row"])["value"].mean().unstack("row")
            lines.append(plots.Line(r.label, table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float), j))
        floor = float(there[0].matrices[metric].loc[0, concept])
        ceiling = reference_row(there[0].scores, "real", metric, [concept])[0]
        if any(line.values.size for line in lines):
            draw = plots.concept(concept, lines, floor, ceiling, low - margin, high + margin, runs[0].tasks)
            out.append((concept, draw))
    return out


def training_plots(run: Shown, points: int = plots.MOST_POINTS) -> list[tuple[str, plots.Draw]]:
    """A panel for every figure of every phase that was logged: losses and norms first."""

    def rank(name: str) -> int:
        return next((i for i, end in enumerate(("loss", "norm")) if name == end or name.endswith(f"_{end}")), 2)

    panels = list(run.curves.groupby(["phase", "figure"], sort=False))
    panels.sort(key=lambda it: rank(it[0][1]))
    return [
        (name, plots.training(name, lines, points))
        for (phase, what), lines in panels[:MOST_TRAINING]
        for name in [said(f"{phase}: {what}" if phase else what)]
    ]


def trade_off_plot(runs: Sequence[Shown]) -> list[tuple[str, plots.Draw]]:
    metric = judge_of(runs[0])
    points = []
    for run in runs:
        kept = run.summary.get(metric, {}).get("final_average")
        cost = total_cost(run).get("learning_unet_evaluations")
        if kept is not None and cost is not None:
            points.append((run.label, cost, kept))
    if len(points) < 2:
        return []
    x, y = "UNet evaluations to learn the sequence", f"{title_of(metric)}, {FIGURES['final_average'].heading()}"
    return [("what was kept, over what it cost to learn", plots.trade_off(points, x, y))]


SIZES = {"forgetting": (3.9, 2.7), "concept": (2.7, 1.9), "training": (2.7, 1.8), "cost": (5.2, 3.0)}  # inches


def inlined(kind: str, made: Iterable[tuple[str, plots.Draw]], tasks: int, key: str) -> list[Markup]:
    return [
        Markup(plots.inline(draw, SIZES[kind], tasks, f"{key}-{i}", f"Plot: {title_of(name)}"))
        for i, (name, draw) in enumerate(made)
    ]


def save_plots(runs: Sequence[Shown], folder: Path) -> None:
    """The page's plots as PNG and SVG."""
    tasks = max(r.tasks for r in runs)
    scale = scales(runs)

    def save(kind: str, name: str, made: Sequence[tuple[str, plots.Draw]], columns: int) -> None:
        if made:
            plots.save([draw for _, draw in made], SIZES[kind], tasks, folder / name, columns)

    save("forgetting", "forgetting", forgetting_plots(runs), 3)
    save("concept", "concepts", concept_plots(runs), 4)
    if len(runs) > 1:
        save("cost", "cost", trade_off_plot(runs), 1)
    for i, run in enumerate(runs):
        end = f"-{i + 1}" if len(runs) > 1 else ""
        save("training", f"training{end}", training_plots(run), 4)
        matrices = {metric: (title_of(metric), with_references(run, metric), scale[metric]) for metric in run.matrices}
        if run.classifier is not None and not run.classifier.empty:
            matrices["classifier"] = ("diffusion classifier", with_heads(run.classifier), (0.0, 1.0))
        for name, (title, table, (low, high)) in matrices.items():
            size = (1.6 + 0.5 * run.tasks, 1.2 + 0.26 * len(table))
            plots.save(
                [plots.heat(f"{title}: {run.label}", table, low, high)], size, tasks, folder / f"matrix-{name}{end}"
            )
        if grid := lapse_pictures(run):
            heads = ["real", "untouched", *(f"task {t}" for t in columns_of(run, 1) if t)]
            size = (1.2 + 0.62 * len(heads), 0.5 + 0.62 * len(grid))
            plots.save([plots.lapse(heads, grid)], size, tasks, folder / f"time-lapse{end}")


def with_heads(matrix: pd.DataFrame) -> pd.DataFrame:
    """A matrix with its rows called by what they are."""
    return matrix.set_axis(["untouched" if t == 0 else f"task {t}" for t in matrix.index])


def with_references(run: Shown, metric: str) -> pd.DataFrame:
    """A metric's matrix, and below it what the world's own drawings and the real pictures score."""
    named = with_heads(run.matrices[metric])
    for kind in ("oracle", "real"):
        if not all(map(math.isnan, run.reference(kind, metric))):
            named.loc[kind] = run.reference(kind, metric)
    return named


def lapse_pictures(run: Shown) -> list[tuple[str, list[Image.Image | None], int]]:
    """The time-lapse of the first prompt: (concept, real picture and each column's, where it was learned)."""

    def opened(file: Path | None) -> Image.Image | None:
        found = encoded(file, 128, 90) if file else None
        return Image.open(io.BytesIO(found)) if found else None

    tasks, out = columns_of(run, 1), []
    for j, c in enumerate(run.concepts, 1):
        cells = [opened(run.picture(t, c, 0)) if t == 0 or t >= j else None for t in tasks]
        out.append((c, [opened(run.real(c)), *cells], 1 + tasks.index(j) if j in tasks else -1))
    return out if any(p is not None for _, pictures, _ in out for p in pictures) else []


# The page


def page(runs: Sequence[Shown], notes: Sequence[str] = ()) -> str:
    """The whole page. Pictures become smaller, then prompts fewer, until it is small enough, and it says so."""
    render = template()
    words = context(runs, notes)
    bare = len(render(words | pictures(runs, Level(1, 1, 0))).encode())
    prompts = prompts_of(runs)
    steps = levels(prompts, max(r.tasks for r in runs)) if prompts else [Level(1, 1, 0)]
    text = ""
    for level in steps:
        if level is steps[-1] or fits(runs, level, MOST_BYTES - bare):
            text = render(words | pictures(runs, level))
            if len(text.encode()) <= MOST_BYTES:
                break
    return text


def pictures(runs: Sequence[Shown], level: Level) -> dict[str, Any]:
    """What of the page is pictures."""
    there, each = prompts_of(runs), part(runs[0].record, "facts").get("pictures_per_prompt")
    left_out = []
    if level.prompts and level.prompts < there:
        left_out.append(f"{level.prompts} of {there} prompts are shown")
    if level.every > 1:
        left_out.append("not every task is shown")
    words = " and ".join(left_out)
    words = f"{words[:1].upper()}{words[1:]}, so that the page stays below 5 MB. " if words else ""
    if each not in (None, 1):
        words += f"The first of {said(each)} pictures of each prompt is shown. "
    size = part(runs[0].record, "facts").get("picture_size")
    if isinstance(size, int) and level.side < size:
        words += f"Pictures are shown at {level.side} of their {size} pixels a side."
    return {
        "lapses": lapses(runs, level),
        "gallery": gallery(runs[0], level) if len(runs) == 1 and level.prompts else [],
        "by_concept": by_concept(runs, level) if len(runs) > 1 and level.prompts else [],
        "kept_grids": [
            (r.label, uri)
            for r in runs
            if not prompts_of([r]) and (uri := kept(RunFolder(r.folder).grid, RunFolder(r.folder).thumbnail))
        ],
        "left_out": words.strip(),
        "undrawn": any(set(range(r.last + 1)) - set(r.drawn) for r in runs),
    }


def context(runs: Sequence[Shown], notes: Sequence[str]) -> dict[str, Any]:
    """What of the page is words, tables and plots."""
    single, first = len(runs) == 1, runs[0]
    tasks, scale = max(r.tasks for r in runs), scales(runs)
    scores = among(scale)
    points = max(20, min(plots.MOST_POINTS, 1500 // tasks) // min(len(runs), 3))
    every_note = [*notes, *(note if single else f"{r.label}: {note}" for r in runs for note in r.notes)]
    title = f"{first.method} on {first.sequence}" if single else f"{len(runs)} runs on {first.sequence}"
    made = []
    for i, run in enumerate(runs):
        training = training_plots(run, points)
        made.append(
            {
                "label": run.label,
                "dash": plots.dash(i)[1],
                "concepts": run.concepts,
                "nouns": [run.noun(c) for c in run.concepts],
                "metrics": [title_of(m) for m in run.matrices],
                "facts": facts(run),
                "lead": lead(run),
                "summary": summary_rows(run),
                "summary_cell": functools.partial(summary_cell, run),
                "heats": heat_tables(run, scale, MOST_CELLS // (3 * len(runs))),
                "confusion": confusion(run),
                "measures": measure_rows(run),
                "pairs": pair_rows(run),
                "pair_heads": list(pair_scores(run).values()),
                "conventions": conventions(run),
                "classifier": classifier_table(run, MOST_CELLS // (3 * len(runs))),
                "training": inlined("training", training, tasks, f"training-{i}"),
                "kept_curves": kept(RunFolder(run.folder).curves) if run.curves.empty else None,
                "more_training": max(0, run.curves.groupby(["phase", "figure"]).ngroups - MOST_TRAINING),
                "costs": cost_rows(run),
                "total": cost_cells(total_cost(run)),
                "command": data.command(run),
                "config": data.config_file(run),
                "judges": [(k, sorted(it.items())) for k, it in run.judges.items()],
                "record": flat({k: part(run.record, k) for k in ("facts", "backbone", "versions")})
                + flat({"made on": made_on(run.record)})
                + [("commit", said(run.record.get("commit"))), ("hash", said(run.record.get("hash")))],
            }
        )
    metric = judge_of(first)
    return {
        "title": title,
        "single": single,
        "runs": made,
        "run": made[0],
        "notes": every_note,
        "judge": title_of(metric),
        "measured": " ".join(head for it in made for head in it["measures"].get("heads", [])),
        "own_judges": own_judges(first),
        "caveat": identity.caveat(first.judges.values()),
        "metrics": [(m, scores[m].title, scores[m].says) for m in scale],
        "scales": {m: (f"{low:.2f}", f"{high:.2f}") for m, (low, high) in scale.items()},
        "figure_names": [(it.name, it.heading(), it.higher_is_better) for it in figures_of(runs)],
        "cost_heads": [head for _, head, _ in COSTS],
        "forgetting": inlined("forgetting", forgetting_plots(runs), tasks, "forgetting"),
        "forgetting_numbers": forgetting_numbers(runs),
        "concept_curves": inlined("concept", concept_plots(runs), tasks, "concept"),
        "concepts_left_out": max(0, first.tasks - MOST_PANELS),
        "trade_off": inlined("cost", trade_off_plot(runs), tasks, "cost") if not single else [],
        "shared_judges": [(k, sorted(it.items())) for k, it in first.judges.items()],
        "colours": colours(tasks),
        "figure": figure,
    }


def own_judges(run: Shown) -> bool:
    """Whether the CLIP judge is the miniature's."""
    config = part(run.record, "config")
    return is_miniature(config.get("backbone")) and not config.get("clip")


def colours(tasks: int) -> dict[str, Any]:
    """The page's colours, light and dark: heat maps' shades with their ink, tasks, runs."""

    def heat(anchors: Sequence[str]) -> list[tuple[str, str]]:
        return [(c, plots.ink_on(c)) for c in plots.shades(anchors, plots.LEVELS)]

    return {
        "heat": heat(plots.HEAT),
        "heat_dark": heat(plots.HEAT_DARK),
        "tasks": plots.shades(plots.TASKS, tasks),
        "tasks_dark": plots.shades(plots.TASKS_DARK, tasks),
        "series": plots.SERIES,
        "series_dark": plots.SERIES_DARK,
    }


def breakable(text: str) -> Markup:
    """A name that may go on in the next line after each _."""
    return escape(text).replace("_", Markup("_<wbr>"))


@functools.cache
def template() -> Callable[[dict[str, Any]], str]:
    return templates(breakable=breakable).get_template("report.html.j2").render
