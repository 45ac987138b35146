"""What a run shows: the retention matrices as tables, the summary figures, and the picture of what was forgotten."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from rich import box
from rich.table import Table

from cpbench import composition, metrics, results
from cpbench.figure_intervals import figure_intervals

MOST_COLUMNS = 15
NOISE_DRAWS = 4000
TITLES = {"clip_i": "CLIP-I", "clip_t": "CLIP-T", "dino": "DINO"}
FIGURES = (
    "final_average",
    "plasticity",
    "forgetting",
    "forgetting_from_noise",
    "backward_transfer",
    "forward_transfer",
    "normalised_retention",
    "gap_closed",
    "share_lost",
)
NARROW = {"forgetting_from_noise": "forgetting by noise", "normalised_retention": "retention"}  # in a terminal


def number(value: float) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def short(value: float | None) -> str:
    """`number` as wide below 0 as above: -.112."""
    return number(math.nan if value is None else value).replace("-0.", "-.")


def summaries(scores: pd.DataFrame, concepts: list[str], t: int) -> dict[str, dict[str, float | None]]:
    """By metric, the figures of `metrics.summary` after task t, and forgetting's share of noise and forward transfer.

    None where a figure is not defined.
    """
    learned, out = concepts[:t], {}
    wider = results.matrices(scores, learned, ("cell", "unlearned"))
    for metric, table in results.matrices(scores, learned).items():
        ceiling = results.reference_row(scores, "real", metric, learned)
        whole = table.reindex(range(t + 1))  # a row that was not drawn defines nothing
        values = metrics.summary(whole.to_numpy(), ceiling)
        values["forgetting_from_noise"] = noise_in_forgetting(scores, metric, learned)
        values["forward_transfer"] = metrics.forward_transfer(wider[metric].reindex(range(t + 1)).to_numpy())
        out[metric] = {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()}
    return out


def noise_in_forgetting(scores: pd.DataFrame, metric: str, concepts: list[str]) -> float:
    """`metrics.forgetting_from_noise` of a run; NaN where a row that Chaudhry's maximum needs was not drawn."""
    T = len(concepts)
    errors = np.full((T + 1, T), np.nan)
    own = scores[(scores["kind"] == "cell") & (scores["metric"] == metric)]
    for j, concept in enumerate(concepts[:-1], 1):
        mine = own[(own["concept"] == concept) & own["row"].between(j, T)]
        pictures = mine.pivot_table(index="row", columns=["prompt", "index"], values="value", dropna=False)
        if len(pictures) == T + 1 - j:
            errors[j:T, j - 1] = metrics.standard_error(pictures.to_numpy())
    return metrics.forgetting_from_noise(errors, NOISE_DRAWS)


def intervals(scores: pd.DataFrame, concepts: list[str], t: int) -> dict[str, dict[str, list[float] | None]]:
    """By metric and figure the 95 % interval [low, high] after task t; None where it is not defined."""
    learned, out = concepts[:t], {}
    for metric in results.matrices(scores, learned):
        ceiling = results.reference_row(scores, "real", metric, learned)
        found = figure_intervals(scores, metric, learned, ceiling)
        out[metric] = {
            k: None if math.isnan(low) else [round(low, 6), round(high, 6)] for k, (low, high) in found.items()
        }
    return out


def compact(title: str) -> Table:
    """A table without frame: eleven columns of figures fit a terminal of 80."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def run_tables(folder: Path, concepts: list[str], t: int) -> list[Table]:
    """Rich tables after task t: one retention matrix a metric if it fits a terminal, then the summary."""
    scores = results.read_scores(folder / "scores.csv")
    out = []
    shown = results.matrices(scores, concepts) if len(concepts) <= MOST_COLUMNS else {}
    for metric, matrix in shown.items():
        table = matrix_table(f"{TITLES[metric]} after task {t}", matrix)
        for kind, name in (("real", "real"), ("oracle", "oracle")):
            values = results.reference_row(scores, kind, metric, concepts)
            if not all(math.isnan(v) for v in values):
                table.add_row(name, *map(short, values), style="dim")
        out.append(table)
    out.append(summary_table(scores, concepts, t))
    pairs = composition.summary(scores)
    return [*out, composition_table(pairs)] if t == len(concepts) and pairs else out


def matrix_table(title: str, matrix: pd.DataFrame) -> Table:
    """A retention matrix, a line a row; bold: each concept right after its own task."""
    table = compact(title)
    table.add_column("model", no_wrap=True)
    for concept in matrix.columns:
        table.add_column(concept, justify="right", overflow="fold", min_width=5)
    for row, values in matrix.iterrows():
        name = "untouched" if row == 0 else f"task {row}"
        own = [f"[bold]{short(v)}[/bold]" if row == j + 1 else short(v) for j, v in enumerate(values)]
        table.add_row(name, *own)
    return table


def composition_table(rows: dict[str, dict[str, float]]) -> Table:
    """Pictures of two concepts, from `composition.summary`: likeness to either, to the prompt, and how often both are there."""
    table = compact("two concepts in one picture")
    table.add_column("model", no_wrap=True)
    for title in ("CLIP-I", "CLIP-T", "DINO", "both"):
        table.add_column(title, justify="right")
    for row, figures in rows.items():
        name = "untouched" if row == "0" else f"task {row}"
        table.add_row(name, *(number(figures[k]) for k in ("clip_i", "clip_t", "dino", "both")))
    return table


def summary_table(scores: pd.DataFrame, concepts: list[str], t: int) -> Table:
    """The figures; after the last task each with its 95 % interval of concepts, prompts and pictures drawn again."""
    figures, ended = summaries(scores, concepts, t), t == len(concepts)
    bounds = intervals(scores, concepts, t) if ended else {}
    table = compact(f"summary after task {t}" + (", with 95 % intervals" if ended else ""))
    table.add_column("", no_wrap=True)
    for metric in figures:
        table.add_column(TITLES[metric], justify="left" if ended else "right", no_wrap=True)
    for name in FIGURES:
        shown = [short(figures[m][name]) + between(bounds.get(m, {}).get(name)) for m in figures]
        table.add_row(NARROW.get(name, name.replace("_", " ")), *shown)
    return table


def between(bounds: list[float] | None) -> str:
    """In square brackets, for rich, the bounds with two decimals and no 0 before them; "" where there are none.

    Three of them stand side by side in a terminal of 80.
    """
    if bounds is None:
        return ""
    low, high = (re.sub(r"^(-?)0", r"\1", f"{round(v, 2) + 0.0:.2f}") for v in bounds)
    return rf" \[{low}, {high}]"


def cost_table(costs: dict[int, dict]) -> Table:
    """What each task cost; row 0 is drawing and judging the untouched model."""
    table = compact("cost by task")
    heads = (
        "task",
        "learn s",
        "draw s",
        "judge s",
        "UNet evaluations",
        "drawn",
        "reused",
        "trained",
        "carried kB",
        "peak MB",
    )
    for head in heads:
        table.add_column(head, justify="right")
    for t, c in sorted(costs.items()):
        evaluations = c.get("learning_unet_evaluations", 0) + c.get("drawing_unet_evaluations", 0)
        seconds = [f"{c.get(f'{stage}_seconds', 0):.1f}" for stage in ("learning", "drawing", "judging")]
        carried = sum(c.get("carried_bytes", {}).values()) / 1000
        rest = [c.get("pictures_drawn", 0), c.get("pictures_reused", 0), c.get("trainable_parameters", 0)]
        table.add_row(
            str(t),
            *seconds,
            str(evaluations),
            *map(str, rest),
            f"{carried:.0f}",
            f"{c.get('peak_memory_bytes', 0) / 1e6:.0f}",
        )
    return table


def retention_grid(folder: Path, concepts: list[str], target: Path, prompt: int = 0) -> None:
    """A picture: one row a concept, one column a task, each cell the same prompt and noise; the real one on the left.

    A frame marks the column in which the concept was learned; what is right of it shows what was kept. Rows of the
    matrix that were left out (--rows) have no column.
    """
    rows = [(c, cells(folder, concepts, c, prompt), j + 2) for j, c in enumerate(concepts)]
    write_sheet(["real", *columns(len(concepts))], rows, target)


def method_grid(runs: list[tuple[str, Path]], concepts: list[str], concept: str, target: Path, prompt: int = 0) -> None:
    """The same for one concept: one row a run, (its name, its folder), from the task in which it was learned on."""
    t = concepts.index(concept) + 1
    keep = [0, 1, *range(t + 1, len(concepts) + 2)]
    heads = ["real", *columns(len(concepts))]
    rows = []
    for name, folder in runs:
        found = cells(folder, concepts, concept, prompt)
        rows.append((name, [found[k] for k in keep], 2))
    write_sheet([heads[k] for k in keep], rows, target)


def columns(tasks: int) -> list[str]:
    return ["untouched", *(f"task {t}" for t in range(1, tasks + 1))]


def cells(folder: Path, concepts: list[str], concept: str, prompt: int) -> list[Path | None]:
    """Files of a concept's row: the real picture, the untouched model's, then each task's from its own on."""
    learned = concepts.index(concept) + 1
    rows = [0, *range(learned, len(concepts) + 1)]
    drawn = {t: folder / f"task-{t:02d}" / "pictures" / concept / f"{prompt:02d}-0.png" for t in rows}
    real = folder / "task-00" / "pictures" / concept / "real.png"
    return [real, *(drawn.get(t) for t in range(len(concepts) + 1))]


def write_sheet(heads: list[str], rows: list[tuple[str, list[Path | None], int]], target: Path) -> None:
    """Rows of (name, files, framed column) as one PNG; a cell without a file stays empty.

    A column that is empty while one to the right is not was left out on purpose, and is left out here.
    """
    filled = [k for k in range(len(heads)) if any(files[k] and files[k].exists() for _, files, _ in rows)]
    kept = [k for k in range(len(heads)) if k in filled or k > max(filled, default=0)]
    heads = [heads[k] for k in kept]
    rows = [(n, [files[k] for k in kept], kept.index(f) if f in kept else -1) for n, files, f in rows]
    size, gap, top, font = 96, 4, 34, ImageFont.load_default(13)
    label = max(118, *(int(font.getlength(name)) + 12 for name, _, _ in rows))
    sheet = Image.new("RGB", (label + len(heads) * (size + gap), top + len(rows) * (size + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for k, head in enumerate(heads):
        pen.text((label + k * (size + gap) + size / 2, top / 2), head, fill="black", font=font, anchor="mm")
    for j, (name, files, framed) in enumerate(rows):
        y = top + j * (size + gap)
        pen.text((4, y + size / 2), name, fill="black", font=font, anchor="lm")
        for k, file in enumerate(files):
            if file is None or not file.exists():
                continue
            x, picture = label + k * (size + gap), Image.open(file)
            whole = Image.Resampling.NEAREST if size % picture.width == 0 else Image.Resampling.LANCZOS
            sheet.paste(picture.resize((size, size), whole), (x, y))
            if k == framed:
                pen.rectangle((x - 2, y - 2, x + size + 1, y + size + 1), outline=(210, 40, 40), width=3)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    results.write_atomically(target, buffer.getvalue())
