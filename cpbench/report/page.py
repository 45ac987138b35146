"""`cpbench report`: one page for one or several runs, a single file without scripts or network access.

Names and prompts may be from an untrusted source: the template escapes them all, and the page's content security policy
keeps a browser from loading or running anything.
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
from cpbench.metrics import equal_text
from cpbench.metrics.figures import FIGURES
from cpbench.metrics.matrices import reference_row
from cpbench.metrics.scores import MAIN, among, title_of
from cpbench.miniature import is_miniature
from cpbench.numbers import number
from cpbench.records.folder import REPORT, RunFolder
from cpbench.report import data, plots
from cpbench.report.data import RunView, figure, main_metric, metrics_of, one_line, prompt_count
from cpbench.report.pictures import (
    ThumbnailSize,
    by_concept,
    columns_of,
    encoded,
    existing_picture,
    fits,
    gallery,
    thumbnail_sizes,
    time_lapses,
)
from cpbench.report.tables import (
    COSTS,
    classifier_table,
    confusion,
    conventions,
    cost_cells,
    cost_rows,
    equal_text_rows,
    facts,
    figures_of,
    flat,
    heat_tables,
    lead,
    measure_rows,
    pair_rows,
    pair_scores,
    scales,
    score_caption,
    summary_cell,
    summary_rows,
    total_cost,
)
from cpbench.report.templates import templates

MOST_BYTES = 4_900_000  # per page
MOST_CELLS = 12_000  # of heat maps per page; 50 concepts have 4000
MOST_PANELS = 60  # concepts with a panel
MOST_TRAINING = 24  # training panels per run


def write(runs: Sequence[Path], output: Path | None = None, with_plots: bool = False) -> list[Path]:
    """Write the page of these runs and, with `with_plots`, a folder of its plots; returns their paths."""
    views = [data.read_run(run) for run in runs]
    views = list({os.path.realpath(view.folder): view for view in views}.values())  # each folder once
    notes = data.comparison_notes(views)
    data.label_runs(views)
    target = output or default_target(views)
    if target.is_dir():
        raise UserError(f"--output {target}: is a folder; pass a file, such as {target / REPORT}")
    prepare_folder(target.parent)
    write_atomically(target, page(views, notes).encode())
    if not with_plots:
        return [target]
    # a separate folder: a finished run vouches for every PNG next to its run.json
    folder = target.with_name(f"{target.stem}-plots")
    prepare_folder(folder)
    save_plots(views, folder)
    return [target, folder]


def default_target(runs: Sequence[RunView]) -> Path:
    if len(runs) == 1:
        return RunFolder(runs[0].folder).report
    return Path("results", REPORT) if Path("results").is_dir() else Path(REPORT)


# Plots


def curve_matrices(runs: Sequence[RunView], metric: str) -> list[tuple[str, np.ndarray]]:
    return [(run.label, run.matrices[metric].to_numpy(dtype=float)) for run in runs if metric in run.matrices]


def forgetting_plots(runs: Sequence[RunView]) -> list[tuple[str, plots.Draw]]:
    return [
        (metric, plots.forgetting(curve_matrices(runs, metric), score_caption(metric), len(runs) == 1))
        for metric in metrics_of(runs)
        if any(metric in run.matrices and run.last > 1 for run in runs)
    ]


def forgetting_numbers(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """The values of the plots: per metric, rows (number of later tasks, one cell per run)."""
    out = []
    for metric, _ in forgetting_plots(runs):
        lines = []
        for label, matrix in curve_matrices(runs, metric):
            changes = plots.changes(matrix)
            low, high = plots.interval(changes)
            lines.append((label, plots.mean(changes), low, high, (~np.isnan(changes)).sum(axis=0)))
        rows = []
        for k in range(max(len(line[1]) for line in lines)):
            cells = [
                "-" if k >= len(y) or not n[k] else number(y[k]) + ("" if math.isnan(low[k]) else f" [{number(low[k])}, {number(high[k])}]") + f", n = {n[k]}"
                for _, y, low, high, n in lines
            ]  # fmt: skip
            rows.append((k, cells))
        out.append({"title": title_of(metric), "labels": [line[0] for line in lines], "rows": rows})
    return out


def concept_plots(runs: Sequence[RunView]) -> list[tuple[str, plots.Draw]]:
    """One panel per concept by the main metric: each run's score after the concept's own task and every later one."""
    metric = main_metric(runs[0])
    scored_runs = [run for run in runs if metric in run.matrices and run.last]
    if not scored_runs:
        return []
    cells = {
        run.label: run.scores[(run.scores["kind"] == "cell") & (run.scores["metric"] == metric)] for run in scored_runs
    }
    low, high = scales(scored_runs)[metric]
    margin, out = 0.05 * (high - low), []
    for concept in runs[0].concepts[:MOST_PANELS]:
        lines = []
        for run in scored_runs:
            concept_cells = cells[run.label][cells[run.label]["concept"] == concept]
            j = run.concepts.index(concept) + 1
            table = concept_cells[concept_cells["row"] >= j].groupby(["prompt", "row"])["value"].mean().unstack("row")
            lines.append(plots.Line(run.label, table.columns.to_numpy(dtype=float), table.to_numpy(dtype=float), j))
        floor = float(scored_runs[0].matrices[metric].loc[0, concept])
        ceiling = reference_row(scored_runs[0].scores, "real", metric, [concept])[0]
        if any(line.values.size for line in lines):
            draw = plots.concept(concept, lines, floor, ceiling, low - margin, high + margin, runs[0].tasks)
            out.append((concept, draw))
    return out


def training_plots(run: RunView, points: int = plots.MOST_POINTS) -> list[tuple[str, plots.Draw]]:
    """One panel per logged value and phase, losses and norms first."""

    def rank(name: str) -> int:
        return next((i for i, end in enumerate(("loss", "norm")) if name == end or name.endswith(f"_{end}")), 2)

    panels = list(run.curves.groupby(["phase", "figure"], sort=False))
    panels.sort(key=lambda panel: rank(panel[0][1]))
    return [
        (name, plots.training(name, lines, points))
        for (phase, figure_name), lines in panels[:MOST_TRAINING]
        for name in [one_line(f"{phase}: {figure_name}" if phase else figure_name)]
    ]


def trade_off_plot(runs: Sequence[RunView]) -> list[tuple[str, plots.Draw]]:
    metric = main_metric(runs[0])
    points = []
    for run in runs:
        final = run.summary.get(metric, {}).get("final_average")
        cost = total_cost(run).get("learning_evaluations")
        if final is not None and cost is not None:
            points.append((run.label, cost, final))
    if len(points) < 2:
        return []
    x, y = "UNet evaluations for learning the sequence", f"{title_of(metric)}, {FIGURES['final_average'].heading()}"
    return [("final average against training cost", plots.trade_off(points, x, y))]


def equal_text_plot(runs: Sequence[RunView]) -> list[tuple[str, plots.Draw]]:
    """Each run's identity against its text score, through the strengths of what it learned."""
    lines = []
    for run in runs:
        if curves := equal_text.curves(run.scores, run.concepts):
            lines.append((run.label, equal_text.mean_curve(run.scores, curves)))
    if not lines:
        return []
    x = f"{title_of(equal_text.TEXT)}, share of the untouched model's"
    return [("identity at equal text", plots.equal_text(lines, x, title_of(MAIN)))]


SIZES = {"forgetting": (3.9, 2.7), "concept": (2.7, 1.9), "training": (2.7, 1.8), "cost": (5.2, 3.0)}  # inches


def inline_plots(size: str, named_plots: Iterable[tuple[str, plots.Draw]], tasks: int, key: str) -> list[Markup]:
    return [
        Markup(plots.inline(draw, SIZES[size], tasks, f"{key}-{i}", f"Plot: {title_of(name)}"))
        for i, (name, draw) in enumerate(named_plots)
    ]


def save_plots(runs: Sequence[RunView], folder: Path) -> None:
    """The page's plots as PNG and SVG."""
    tasks = max(r.tasks for r in runs)
    scale = scales(runs)

    def save(size: str, name: str, named_plots: Sequence[tuple[str, plots.Draw]], columns: int) -> None:
        if named_plots:
            plots.save([draw for _, draw in named_plots], SIZES[size], tasks, folder / name, columns)

    save("forgetting", "forgetting", forgetting_plots(runs), 3)
    save("concept", "concepts", concept_plots(runs), 4)
    if len(runs) > 1:
        save("cost", "cost", trade_off_plot(runs), 1)
    save("cost", "equal-text", equal_text_plot(runs), 1)
    for i, run in enumerate(runs):
        end = f"-{i + 1}" if len(runs) > 1 else ""
        save("training", f"training{end}", training_plots(run), 4)
        matrices = {metric: (title_of(metric), with_references(run, metric), scale[metric]) for metric in run.matrices}
        if run.classifier is not None and not run.classifier.empty:
            matrices["classifier"] = ("diffusion classifier", with_row_names(run.classifier), (0.0, 1.0))
        for name, (title, table, (low, high)) in matrices.items():
            size = (1.6 + 0.5 * run.tasks, 1.2 + 0.26 * len(table))
            plots.save(
                [plots.heat(f"{title}: {run.label}", table, low, high)], size, tasks, folder / f"matrix-{name}{end}"
            )
        if grid := time_lapse_pictures(run):
            heads = ["real", "untouched", *(f"task {t}" for t in columns_of(run, 1) if t)]
            size = (1.2 + 0.62 * len(heads), 0.5 + 0.62 * len(grid))
            plots.save([plots.time_lapse(heads, grid)], size, tasks, folder / f"time-lapse{end}")


def with_row_names(matrix: pd.DataFrame) -> pd.DataFrame:
    """A matrix with the names of its rows as index."""
    return matrix.set_axis(["untouched" if t == 0 else f"task {t}" for t in matrix.index])


def with_references(run: RunView, metric: str) -> pd.DataFrame:
    """A metric's matrix with its reference rows, oracle and real, below."""
    table = with_row_names(run.matrices[metric])
    for reference in ("oracle", "real"):
        if not all(map(math.isnan, run.reference(reference, metric))):
            table.loc[reference] = run.reference(reference, metric)
    return table


def time_lapse_pictures(run: RunView) -> list[tuple[str, list[Image.Image | None], int]]:
    """The time-lapse of the first prompt: (concept, its real picture and generated ones, column in which it was learned)."""

    def opened(file: Path | None) -> Image.Image | None:
        thumbnail = encoded(file, 128, 90) if file else None
        return Image.open(io.BytesIO(thumbnail)) if thumbnail else None

    tasks, out = columns_of(run, 1), []
    for j, concept in enumerate(run.concepts, 1):
        cells = [opened(run.picture(t, concept, 0)) if t == 0 or t >= j else None for t in tasks]
        out.append((concept, [opened(run.real(concept)), *cells], 1 + tasks.index(j) if j in tasks else -1))
    return out if any(picture is not None for _, pictures, _ in out for picture in pictures) else []


# The page


def page(runs: Sequence[RunView], notes: Sequence[str] = ()) -> str:
    """The whole page. It shrinks pictures, then drops prompts, until it is small enough, and says so."""
    render = template()
    values = context(runs, notes)
    bytes_without_pictures = len(render(values | pictures(runs, ThumbnailSize(1, 1, 0))).encode())
    prompts = prompt_count(runs)
    steps = thumbnail_sizes(prompts, max(run.tasks for run in runs)) if prompts else [ThumbnailSize(1, 1, 0)]
    html = ""
    for thumbnails in steps:
        if thumbnails is steps[-1] or fits(runs, thumbnails, MOST_BYTES - bytes_without_pictures):
            html = render(values | pictures(runs, thumbnails))
            if len(html.encode()) <= MOST_BYTES:
                break
    return html


def pictures(runs: Sequence[RunView], thumbnails: ThumbnailSize) -> dict[str, Any]:
    """The part of the template's context with pictures."""
    prompts, per_prompt = prompt_count(runs), runs[0].record.facts.pictures_per_prompt
    omissions = []
    if thumbnails.prompts and thumbnails.prompts < prompts:
        omissions.append(f"{thumbnails.prompts} of {prompts} prompts are shown")
    if thumbnails.stride > 1:
        omissions.append("some tasks are omitted")
    sentence = " and ".join(omissions)
    sentence = f"{sentence[:1].upper()}{sentence[1:]} to keep the page below 5 MB. " if sentence else ""
    if per_prompt not in (None, 1):
        sentence += f"Of the {one_line(per_prompt)} pictures per prompt, the first is shown. "
    size = runs[0].record.facts.picture_size
    if isinstance(size, int) and thumbnails.side < size:
        sentence += f"Pictures are reduced from {size} to {thumbnails.side} pixels per side."
    return {
        "time_lapses": time_lapses(runs, thumbnails),
        "gallery": gallery(runs[0], thumbnails) if len(runs) == 1 and thumbnails.prompts else [],
        "by_concept": by_concept(runs, thumbnails) if len(runs) > 1 and thumbnails.prompts else [],
        "saved_grids": [
            (run.label, uri)
            for run in runs
            if not prompt_count([run])
            and (uri := existing_picture(RunFolder(run.folder).grid, RunFolder(run.folder).thumbnail))
        ],
        "omissions": sentence.strip(),
        "has_skipped_rows": any(set(range(run.last + 1)) - set(run.scored_rows) for run in runs),
    }


def context(runs: Sequence[RunView], notes: Sequence[str]) -> dict[str, Any]:
    """The part of the template's context with text, tables and plots."""
    single, first = len(runs) == 1, runs[0]
    tasks, scale = max(r.tasks for r in runs), scales(runs)
    scores = among(scale)
    points = max(20, min(plots.MOST_POINTS, 1500 // tasks) // min(len(runs), 3))
    every_note = [*notes, *(note if single else f"{r.label}: {note}" for r in runs for note in r.notes)]
    title = f"{first.method} on {first.sequence}" if single else f"{len(runs)} runs on {first.sequence}"
    run_contexts = []
    for i, run in enumerate(runs):
        training = training_plots(run, points)
        run_contexts.append(
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
                "equal_text": equal_text_rows(run),
                "classifier": classifier_table(run, MOST_CELLS // (3 * len(runs))),
                "training": inline_plots("training", training, tasks, f"training-{i}"),
                "saved_curves": existing_picture(RunFolder(run.folder).curves) if run.curves.empty else None,
                "more_training": max(0, run.curves.groupby(["phase", "figure"]).ngroups - MOST_TRAINING),
                "costs": cost_rows(run),
                "total": cost_cells(total_cost(run)),
                "command": data.command(run),
                "config": data.config_file(run),
                "judges": [(name, sorted(judge.items())) for name, judge in run.judges.items()],
                "record": flat(
                    {
                        "facts": run.record.facts.as_json(),
                        "backbone": run.record.backbone,
                        "versions": run.record.versions,
                    }
                )
                + flat(
                    {"made on": {str(n): conditions.as_json() for n, conditions in enumerate(run.record.made_on, 1)}}
                )
                + [("commit", one_line(run.record.commit)), ("hash", run.record.hash)],
            }
        )
    metric = main_metric(first)
    return {
        "title": title,
        "single": single,
        "runs": run_contexts,
        "run": run_contexts[0],
        "notes": every_note,
        "judge": title_of(metric),
        "ceiling": CEILINGS[first.record.references],
        "references": f"{first.record.references} pictures",
        "measures": " ".join(head for values in run_contexts for head in values["measures"].get("heads", [])),
        "has_miniature_judges": has_miniature_judges(first),
        "caveat": identity.caveat(first.judges.values()),
        "metrics": [(m, scores[m].title, scores[m].says) for m in scale],
        "scales": {m: (number(low, 2), number(high, 2)) for m, (low, high) in scale.items()},
        "figure_names": [(item.name, item.heading(), item.higher_is_better) for item in figures_of(runs)],
        "cost_heads": [head for _, head, _ in COSTS],
        "forgetting": inline_plots("forgetting", forgetting_plots(runs), tasks, "forgetting"),
        "forgetting_numbers": forgetting_numbers(runs),
        "concept_curves": inline_plots("concept", concept_plots(runs), tasks, "concept"),
        "omitted_concepts": max(0, first.tasks - MOST_PANELS),
        "equal_text": inline_plots("cost", equal_text_plot(runs), tasks, "equal-text"),
        "trade_off": inline_plots("cost", trade_off_plot(runs), tasks, "cost") if not single else [],
        "shared_judges": [(name, sorted(judge.items())) for name, judge in first.judges.items()],
        "colours": colours(tasks),
        "figure": figure,
    }


CEILINGS = {
    "training": "real pictures of a concept against its other real pictures",
    "partly held-out": "a concept's training pictures against the pictures that generated ones are scored against",
    "held-out": "a concept's training pictures against the held-out pictures that generated ones are scored against",
}


def has_miniature_judges(run: RunView) -> bool:
    """Whether the CLIP judge is the miniature's."""
    config = run.record.config.as_json()
    return is_miniature(config["backbone"]) and not config.get("clip")


def colours(tasks: int) -> dict[str, Any]:
    """The page's colours, light and dark: shades of heat maps with their text colour, tasks, runs."""

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
    """A name with a possible line break after each _."""
    return escape(text).replace("_", Markup("_<wbr>"))


@functools.cache
def template() -> Callable[[dict[str, Any]], str]:
    return templates(breakable=breakable).get_template("report.html.j2").render
