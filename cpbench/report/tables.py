"""A report's tables: what ran, the figures, the retention matrices as heat maps, confusion, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cpbench.judges import identity
from cpbench.metrics import figures, retention
from cpbench.metrics.cosines import CLIPSCORE
from cpbench.metrics.figures import FIGURES, Figure
from cpbench.metrics.intervals import bootstrap, concept_means
from cpbench.metrics.matrices import reference_row
from cpbench.metrics.scores import among, title_of
from cpbench.records.record import sees_earlier_data
from cpbench.records.terminal import number
from cpbench.registry import built_in_methods, summary_of
from cpbench.report import plots
from cpbench.report.data import Shown, figure, judge_of, part, prompts_of, said, scores_of
from cpbench.report.plots import FEWEST

MEASURES = {
    "identified": "identified ↑",
    "copied": "copied ↓",
    "moved": "plain nouns moved ↓",
    "pres": "plain nouns like a concept ↓",
    "pres_before": "the same, untouched",
    "DIV-dino": "DIV-dino ↑",
    "DIV-lpips-alex": "DIV-lpips-alex ↑",
    "A_mmd": "A_mmd ↓",
    "F_mmd": "F_mmd ↓",
    "CMMD": "CMMD ↓",
    "KID": "KID × 1000 ↓",
    "KID-dino": "KID-dino × 1000 ↓",
}
SCALES = {"KID": 1000.0, "KID-dino": 1000.0}  # what is shown of a value that three decimals would make 0
CONVENTIONS = {
    "lrcp": FIGURES["forgetting_all_rows"].sentence(),
    "first-minus-last": "right after learning, less the end: minus the backward transfer",
}
COSTS = (
    ("learning_seconds", "learn, s", 1),
    ("drawing_seconds", "draw, s", 1),
    ("judging_seconds", "judge, s", 1),
    ("learning_unet_evaluations", "UNet evaluations to learn", 0),
    ("drawing_unet_evaluations", "UNet evaluations to draw", 0),
    ("pictures_drawn", "drawn", 0),
    ("pictures_reused", "reused", 0),
    ("trainable_parameters", "trained parameters", 0),
    ("carried_bytes", "carried, kB", 0),
    ("peak_memory_bytes", "peak memory, MB", 0),
)
UNITS = {"carried_bytes": 1e3, "peak_memory_bytes": 1e6}
LARGEST = ("trainable_parameters", "carried_bytes", "peak_memory_bytes")  # whose total is their largest


def scales(runs: Sequence[Shown]) -> dict[str, tuple[float, float]]:
    """By metric, the lowest and the highest score on the page: one scale of colours for all runs."""
    out = {}
    for metric in scores_of(runs):
        parts = [run.matrices[metric].to_numpy().ravel() for run in runs if metric in run.matrices]
        parts += [np.array(run.reference(kind, metric)) for run in runs for kind in ("real", "oracle")]
        values = np.concatenate([p[np.isfinite(p)] for p in parts])
        if len(values):
            low, high = float(values.min()), float(values.max())
            out[metric] = (low, high if high > low else low + 1e-6)
    return out


def shade(value: float, scale: tuple[float, float]) -> int:
    """Which of the heat map's shades: 0 the lowest."""
    low, high = scale
    return min(plots.LEVELS - 1, max(0, int((value - low) / (high - low) * plots.LEVELS)))


def heat_tables(run: Shown, scale: dict[str, tuple[float, float]], most: int) -> list[dict[str, Any]]:
    """The retention matrices: for each metric rows of cells (text, shade, kind), of which at most `most` in all."""
    out = []
    rows = thinned(run, most)
    for metric, table in run.matrices.items():
        made = heat_rows(table.loc[rows], run.drawn, scale[metric])
        for kind, head in (("oracle", "oracle"), ("real", "real")):
            values = run.reference(kind, metric)
            if not all(map(math.isnan, values)):
                cells = [heat_cell(v, 0, j, True, scale[metric]) for j, v in enumerate(values, 1)]
                made.append({"head": head, "cells": cells, "mean": figure(float(np.mean(values))), "kind": "reference"})
        out.append({"metric": metric, "title": told(metric), "rows": made, "thinned": len(rows) <= run.tasks})
    return out


def thinned(run: Shown, most: int) -> list[int]:
    """Rows of a matrix that are shown: all, or as many as have `most` cells together, the first two and the last among them."""
    every = max(1, math.ceil((run.tasks + 1) * run.tasks / most))
    return [t for t in range(run.tasks + 1) if t % every == 0 or t in (0, 1, run.tasks)]


def heat_rows(table: pd.DataFrame, drawn: Sequence[int], scale: tuple[float, float]) -> list[dict[str, Any]]:
    made = []
    for t, row in table.iterrows():
        values = row.to_numpy(dtype=float)
        cells = [heat_cell(v, t, j, t in drawn, scale) for j, v in enumerate(values, 1)]
        seen = values if t == 0 else values[:t]
        average = float(np.mean(seen)) if t in drawn else math.nan
        made.append({"head": "untouched" if t == 0 else f"task {t}", "cells": cells, "mean": figure(average)})
    return made


def classifier_table(run: Shown, most: int) -> dict[str, Any]:
    """The diffusion classifier's matrix, on a scale from 0 to 1, with each row's chance; empty without it."""
    if run.classifier is None or run.classifier.empty:
        return {}
    there = [t for t in thinned(run, most) if t in run.classifier.index]
    table = run.classifier.loc[there]
    rows = heat_rows(table, there, (0.0, 1.0))
    for made, candidates in zip(rows, table.notna().sum(axis=1), strict=True):
        made["chance"] = figure(1 / candidates if candidates else None)
    return {"title": "Diffusion classifier: real pictures taken for their own concept", "rows": rows, "chance": True}


def heat_cell(value: float, t: int, j: int, drawn: bool, scale: tuple[float, float]) -> dict[str, Any]:
    if not math.isnan(value):
        return {"text": figure(value), "shade": shade(value, scale), "learned": t == j, "kind": "value"}
    if 0 < t < j:
        return {"text": "", "kind": "early", "title": "not learned yet"}
    return {"text": "-", "kind": "none", "title": "not defined" if drawn else "not drawn"}


def told(metric: str) -> str:
    """A score's title, and what it says of a picture."""
    score = among([metric]).get(metric)
    return f"{score.title}: {score.says}" if score else metric


def figures_of(runs: Sequence[Shown]) -> list[Figure]:
    """The figures on the page: one of concepts not yet learned only where they were drawn."""
    there = {k for run in runs for found in run.summary.values() for k, v in found.items() if v is not None}
    return [figure for figure in figures.shown() if "upper" not in figure.needs or figure.name in there]


def summary_cell(run: Shown, metric: str, key: str) -> tuple[str, str]:
    """A figure and, where there is one, its interval."""
    interval = run.intervals.get(metric, {}).get(key)
    low_high = f"{number(interval[0])} to {number(interval[1])}" if interval else ""
    return figure(run.summary.get(metric, {}).get(key)), low_high


def summary_rows(run: Shown) -> list[dict[str, Any]]:
    return [
        {
            "name": figure.heading(),
            "says": figure.sentence(),
            "better": figure.higher_is_better,
            "values": [summary_cell(run, metric, figure.name) for metric in run.matrices],
        }
        for figure in figures_of([run])
    ]


def lead(run: Shown) -> str:
    """The run in two sentences."""
    metric = judge_of(run)
    found = run.summary.get(metric, {})
    learned, end = found.get("plasticity"), found.get("final_average")
    if learned is None or end is None:
        return ""
    first, seen = run.matrices[metric].loc[0].to_numpy()[: run.last], run.concepts[: run.last]
    ceiling = reference_row(run.scores, "real", metric, seen)
    many = f"{len(seen)} concepts" if len(seen) > 1 else "one concept"
    words = f"Right after its own task a concept scores {learned:.3f} by {title_of(metric)} (mean of {many}); "
    words += f"after task {run.last} it scores {end:.3f}."
    frame = [("the untouched model, asked for the bare class noun, scores", float(np.mean(first)))]
    frame += [("the real pictures among themselves", float(np.mean(ceiling)))]
    frame_words = [f"{what} {value:.3f}" for what, value in frame if not math.isnan(value)]
    joined = ", ".join(frame_words)
    return f"{words} {joined[:1].upper()}{joined[1:]}." if joined else words


def cost_rows(run: Shown) -> list[list[str]]:
    """task, then COSTS; the last row is the total, or the largest of what does not add up."""
    rows = [[str(t), *cost_cells(run.costs[t])] for t in sorted(run.costs)]
    return [*rows, ["all", *cost_cells(total_cost(run))]] if rows else []


def total_cost(run: Shown) -> dict[str, float]:
    keys = {k for c in run.costs.values() for k in c}
    return {k: (max if k in LARGEST else sum)([c[k] for c in run.costs.values() if k in c]) for k in keys}


def cost_cells(cost: dict[str, float]) -> list[str]:
    return [f"{cost[key] / UNITS.get(key, 1):,.{places}f}" if key in cost else "-" for key, _, places in COSTS]


def measure_rows(run: Shown) -> dict[str, Any]:
    """Of measures.csv a line a row: means over concepts or nouns of MEASURES, those that have one, each with its interval.

    Empty without it.
    """
    if run.measures is None or run.measures["value"].isna().all():
        return {}
    table = run.measures.dropna(subset="value")
    table = table.assign(value=table["value"] * table["measure"].map(SCALES).fillna(1.0))
    heads = [(name, head) for name, head in MEASURES.items() if name in set(table["measure"])]
    parts = {key: own for key, own in table.groupby(["row", "measure"])}
    rows = [
        ("untouched" if t == 0 else f"task {t}", [measure_cell(parts.get((t, name))) for name, _ in heads])
        for t in sorted(table["row"].unique())
    ]
    return {"heads": [head for _, head in heads], "rows": rows}


def measure_cell(own: pd.DataFrame | None) -> tuple[str, str]:
    """The mean of a measure in a row and, from three concepts, nouns or pairs on, its interval."""
    if own is None:
        return "-", ""
    low_high = ""
    if len(own) >= FEWEST:
        found = bootstrap(own["value"], list(own["concept"]))
        low_high = f"{number(found.low)} to {number(found.high)}"
    return figure(float(own["value"].mean())), low_high


def conventions(run: Shown) -> list[tuple[str, str, str]]:
    """(what, whose convention, value) of figures that other papers and codes call by the same names."""
    out = []
    known = among(run.matrices)
    for metric, score in ((m, known[m]) for m in run.matrices if known[m].against == "pictures"):
        R = run.matrices[metric].to_numpy(dtype=float)
        for name, whose in CONVENTIONS.items():
            out.append((f"forgetting, {score.title}", whose, figure(retention.forgetting(R, name))))
    last = {k: v for k, v in run.picture_scores("clip_t").items() if k[0] == run.last and not math.isnan(v)}
    if last:
        values = [CLIPSCORE * max(v, 0.0) for v in last.values()]
        _, means = concept_means(values, [k[1] for k in last], [k[2] for k in last])
        out.append(("CLIP-T × 2.5, final average", "CLIPScore: Custom Diffusion, CIDM", figure(float(means.mean()))))
    return out


def pair_rows(run: Shown) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pictures of two concepts, a line a row that has them: `pair_scores`, each with its interval over pairs; empty without any."""
    drawn = run.scores[run.scores["kind"] == "pair"].dropna(subset="value")
    both = drawn["metric"].str.replace("_(?:first|second)$", "", regex=True)  # of either concept: one name
    drawn = drawn.assign(metric=both)
    parts, names = {key: own for key, own in drawn.groupby(["row", "metric"])}, pair_scores(run)
    return [
        ("untouched" if t == 0 else f"task {t}", [measure_cell(parts.get((t, name))) for name in names])
        for t in sorted(drawn["row"].unique())
    ]


def pair_scores(run: Shown) -> dict[str, str]:
    """By name how the table of `pair_rows` heads each score."""
    return {metric: f"{title_of(metric)} ↑" for metric in run.matrices} | {"both": "both there ↑"}


def confusion(run: Shown) -> list[dict[str, Any]]:
    """A table for each row of the matrix in identification.csv, the last first: whose real pictures are nearest."""
    if run.identification is None:
        return []
    out = []
    for t in sorted(run.identification["row"].unique(), reverse=True):
        own = run.identification[run.identification["row"] == t]
        counts = own.groupby(["concept", "nearest"])["count"].sum().unstack("nearest", fill_value=0)
        concepts = [c for c in run.concepts if c in counts.index]
        nearest = [c for c in run.concepts if c in counts.columns]
        nearest += [c for c in counts.columns if c not in run.concepts]
        rows = []
        for c in concepts:
            whole = counts.loc[c].sum()
            cells = [
                {"text": f"{v:g}", "shade": shade(v / whole if whole else 0.0, (0.0, 1.0)), "own": n == c}
                for n, v in counts.loc[c, nearest].items()
            ]
            right = counts.loc[c, c] / whole if c in nearest and whole else (0.0 if whole else math.nan)
            rows.append({"concept": c, "cells": cells, "right": "-" if math.isnan(right) else f"{100 * right:.0f} %"})
        after = "the untouched model" if t == 0 else f"after task {t}"
        out.append({"after": after, "nearest": [said(n) for n in nearest], "rows": rows})
    return out


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """(dotted name, value) of nested mappings; lists stay together."""
    if not isinstance(value, dict):
        return [(name, said(value))]
    return [
        pair
        for k, v in sorted(value.items(), key=lambda it: str(it[0]))
        for pair in flat(v, f"{name}.{k}" if name else said(k))
    ]


def counted(n: object, noun: str) -> str:
    return f"{said(n)} {noun}" + ("" if n == 1 else "s")


def method_words(run: Shown) -> str:
    """The first line of a built-in method's docstring."""
    name = part(run.record, "config").get("method")
    return summary_of(name).rstrip(".") if name in built_in_methods() else ""


def made_on(record: dict[str, Any]) -> dict[str, Any]:
    """On what its tasks were computed, by a number; older records say one device of all."""
    every, older = record.get("made_on"), part(record, "device")
    kinds = every if isinstance(every, list) else [{"device": older.get("kind"), "threads": older.get("threads")}]
    return {str(n): it for n, it in enumerate(kinds, 1) if isinstance(it, dict)}


def devices(record: dict[str, Any]) -> str:
    """The same in a line, each kind once."""
    kinds = made_on(record).values()
    return "; ".join(dict.fromkeys(f"{said(it.get('device'))}, {counted(it.get('threads'), 'thread')}" for it in kinds))


def facts(run: Shown) -> list[tuple[str, str]]:
    """What ran, and on what."""
    record, settings = run.record, part(run.record, "config")
    made, sampler = part(record, "facts"), part(part(record, "facts"), "sampler")
    drawn = "drawn stand-ins of the miniature's world" if run.pictures == "drawn" else "photographs"
    backbone = said(settings.get("backbone"))
    size = f", {said(made['picture_size'])} pixels" if "picture_size" in made else ""
    prompts = prompts_of([run]) or max((len(p) for p in run.prompts.values()), default=0)
    versions = part(record, "versions")
    out = [
        ("method", run.method + (f": {words}" if (words := method_words(run)) else "")),
        ("sequence", f"{run.sequence}, {run.tasks} concepts, {drawn}"),
        ("backbone", f"{backbone}{size}, {said(made.get('dtype')).removeprefix('torch.')}"),
        ("drawing", f"{prompts or '?'} prompts a concept, {counted(made.get('pictures_per_prompt'), 'picture')} each, "
                    f"{said(sampler.get('num_inference_steps'))} steps, guidance {said(sampler.get('guidance_scale'))}"),
        ("judges", ", ".join(f"{identity.title(it)} [{it.get('weights_sha256', '')[:8]}]" for it in run.judges.values())),
        ("seed, order", f"{said(settings.get('seed'))}, {said(settings.get('order'))}"),
        ("device", devices(record)),
        ("code", f"cpbench {said(versions.get('cpbench'))}, commit {said(record.get('commit'))[:12]}, settings {said(record.get('hash'))}"),
        ("status", said(record.get("status"))),
    ]  # fmt: skip
    if sees_earlier_data(record):
        out.append(("*", "this method sees earlier concepts' data: it is not replay-free"))
    return out
