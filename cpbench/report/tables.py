"""The tables of a report: settings, figures, retention matrices as heat maps, confusion, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cpbench.metrics import equal_text, figures, retention
from cpbench.metrics.cosines import CLIPSCORE
from cpbench.metrics.figures import FIGURES, Figure
from cpbench.metrics.intervals import bootstrap, concept_means
from cpbench.metrics.matrices import reference_row
from cpbench.metrics.scores import among, title_of
from cpbench.numbers import number
from cpbench.records.record import Record, judge_names, sees_earlier_data
from cpbench.registry import built_in_methods, summary_of
from cpbench.report import plots
from cpbench.report.data import RunView, figure, main_metric, metrics_of, one_line, prompt_count
from cpbench.report.plots import FEWEST

MEASURES = {
    "identified": "identified ↑",
    "copied": "copied ↓",
    "moved": "language drift ↓",
    "unrelated_moved: own nouns": "drift, other prompts, own nouns ↓",
    "unrelated_moved: other nouns": "drift, other prompts, other nouns ↓",
    "unrelated_moved: peft": "drift, peft's prompts ↓",
    "unrelated_text: own nouns": "CLIP-T change, other prompts, own nouns ↑",
    "unrelated_text: other nouns": "CLIP-T change, other prompts, other nouns ↑",
    "unrelated_text: peft": "CLIP-T change, peft's prompts ↑",
    "pres": "plain nouns like a concept ↓",
    "pres_before": "the same, untouched model",
    "DIV-dino": "DIV-dino ↑",
    "DIV-lpips-alex": "DIV-lpips-alex ↑",
    "A_mmd": "A_mmd ↓",
    "F_mmd": "F_mmd ↓",
    "CMMD": "CMMD ↓",
    "KID": "KID × 1000 ↓",
    "KID-dino": "KID-dino × 1000 ↓",
}
SCALES = {"KID": 1000.0, "KID-dino": 1000.0}  # factors for values that would round to 0
CONVENTIONS = {
    "lrcp": FIGURES["forgetting_all_rows"].sentence(),
    "first-minus-last": "right after learning minus at the end, i.e. the negative backward transfer",
}
COSTS = (
    ("learning_seconds", "learning, s", 1),
    ("generation_seconds", "generation, s", 1),
    ("judging_seconds", "scoring, s", 1),
    ("learning_evaluations", "UNet evaluations, learning", 0),
    ("generation_evaluations", "UNet evaluations, generation", 0),
    ("pictures_generated", "pictures generated", 0),
    ("pictures_reused", "pictures reused", 0),
    ("installations", "installations of the state", 0),
    ("trainable_parameters", "trainable parameters", 0),
    ("state_bytes", "state size, kB", 0),
    ("peak_memory_bytes", "peak memory, MB", 0),
)
UNITS = {"state_bytes": 1e3, "peak_memory_bytes": 1e6}
LARGEST = ("trainable_parameters", "state_bytes", "peak_memory_bytes")  # their total is the maximum


def scales(runs: Sequence[RunView]) -> dict[str, tuple[float, float]]:
    """By metric, the lowest and the highest score on the page: one colour scale for all runs."""
    out = {}
    for metric in metrics_of(runs):
        parts = [run.matrices[metric].to_numpy().ravel() for run in runs if metric in run.matrices]
        parts += [np.array(run.reference(reference, metric)) for run in runs for reference in ("real", "oracle")]
        values = np.concatenate([p[np.isfinite(p)] for p in parts])
        if len(values):
            low, high = float(values.min()), float(values.max())
            out[metric] = (low, high if high > low else low + 1e-6)
    return out


def shade(value: float, scale: tuple[float, float]) -> int:
    """Index of the heat map's shade, 0 for the lowest value."""
    low, high = scale
    return min(plots.LEVELS - 1, max(0, int((value - low) / (high - low) * plots.LEVELS)))


def heat_tables(run: RunView, scale: dict[str, tuple[float, float]], max_cells: int) -> list[dict[str, Any]]:
    """The retention matrices: per metric, rows of cells (text, shade, type), at most about `max_cells` in total."""
    out = []
    rows = thinned_rows(run, max_cells)
    for metric, table in run.matrices.items():
        table_rows = heat_rows(table.loc[rows], run.whole_rows, scale[metric])
        for reference, head in (("oracle", "oracle"), ("real", "real")):
            values = run.reference(reference, metric)
            if not all(map(math.isnan, values)):
                cells = [heat_cell(v, 0, j, True, scale[metric]) for j, v in enumerate(values, 1)]
                table_rows.append(
                    {"head": head, "cells": cells, "mean": figure(float(np.mean(values))), "is_reference": True}
                )
        out.append(
            {"metric": metric, "title": score_caption(metric), "rows": table_rows, "is_thinned": len(rows) <= run.tasks}
        )
    return out


def thinned_rows(run: RunView, max_cells: int) -> list[int]:
    """The shown rows of a matrix: all, or as many as fit `max_cells` cells, always with the first two and the last."""
    stride = max(1, math.ceil((run.tasks + 1) * run.tasks / max_cells))
    return [t for t in range(run.tasks + 1) if t % stride == 0 or t in (0, 1, run.tasks)]


def heat_rows(table: pd.DataFrame, scored: Sequence[int], scale: tuple[float, float]) -> list[dict[str, Any]]:
    """Rows of cells; scored: those that have all that was learned so far, of which alone there is a mean."""
    rows = []
    for t, row in table.iterrows():
        values = row.to_numpy(dtype=float)
        cells = [heat_cell(v, t, j, t in scored, scale) for j, v in enumerate(values, 1)]
        learned = values if t == 0 else values[:t]
        average = float(np.mean(learned)) if t in scored else math.nan
        rows.append({"head": "untouched" if t == 0 else f"task {t}", "cells": cells, "mean": figure(average)})
    return rows


def classifier_table(run: RunView, max_cells: int) -> dict[str, Any]:
    """The diffusion classifier's matrix, on a scale from 0 to 1, with the chance level of each row; empty without it."""
    if run.classifier is None or run.classifier.empty:
        return {}
    tasks = [t for t in thinned_rows(run, max_cells) if t in run.classifier.index]
    table = run.classifier.loc[tasks]
    rows = heat_rows(table, tasks, (0.0, 1.0))
    for row, candidates in zip(rows, table.notna().sum(axis=1), strict=True):
        row["chance"] = figure(1 / candidates if candidates else None)
    return {"title": "Share of real pictures assigned to their own concept", "rows": rows, "chance": True}


def heat_cell(value: float, t: int, j: int, scored: bool, scale: tuple[float, float]) -> dict[str, Any]:
    if not math.isnan(value):
        return {"text": figure(value), "shade": shade(value, scale), "learned": t == j, "cell_type": "value"}
    if 0 < t < j:
        return {"text": "", "cell_type": "early", "title": "not learned yet"}
    return {"text": "-", "cell_type": "none", "title": "undefined" if scored else "not evaluated"}


def score_caption(metric: str) -> str:
    """A score's title and what it measures."""
    score = among([metric]).get(metric)
    return f"{score.title}: {score.says}" if score else metric


def figures_of(runs: Sequence[RunView]) -> list[Figure]:
    """The figures on the page; those about concepts not yet learned only if these were evaluated."""
    names = {
        name for run in runs for summary in run.summary.values() for name, value in summary.items() if value is not None
    }
    return [figure for figure in figures.table_figures() if "upper" not in figure.needs or figure.name in names]


def summary_cell(run: RunView, metric: str, key: str) -> tuple[str, str]:
    """A figure and its interval, "" without one."""
    interval = run.intervals.get(metric, {}).get(key)
    low_high = f"{number(interval[0])} to {number(interval[1])}" if interval else ""
    return figure(run.summary.get(metric, {}).get(key)), low_high


def summary_rows(run: RunView) -> list[dict[str, Any]]:
    return [
        {
            "name": figure.heading(),
            "meaning": figure.sentence(),
            "higher_is_better": figure.higher_is_better,
            "values": [summary_cell(run, metric, figure.name) for metric in run.matrices],
        }
        for figure in figures_of([run])
    ]


def lead(run: RunView) -> str:
    """A summary of the run in two or three sentences."""
    metric = main_metric(run)
    summary = run.summary.get(metric, {})
    learned, end = summary.get("plasticity"), summary.get("final_average")
    if learned is None or end is None:
        return ""
    floor, concepts = run.matrices[metric].loc[0].to_numpy()[: run.last], run.concepts[: run.last]
    ceiling = reference_row(run.scores, "real", metric, concepts)
    count = f"{len(concepts)} concepts" if len(concepts) > 1 else "one concept"
    text = f"Right after its own task a concept scores {number(learned)} by {title_of(metric)} (mean of {count}); "
    text += f"after task {run.last} it scores {number(end)}."
    references = [("the untouched model, prompted with the bare class noun, scores", float(np.mean(floor)))]
    real = "real pictures against each other" if run.record.references == "training" else "training pictures"
    references += [(f"{real} score", float(np.mean(ceiling)))]
    phrases = [f"{subject} {number(value)}" for subject, value in references if not math.isnan(value)]
    joined = "; ".join(phrases)
    return f"{text} {joined[:1].upper()}{joined[1:]}." if joined else text


def cost_rows(run: RunView) -> list[list[str]]:
    """Task, then COSTS; the last row is the total (the maximum for LARGEST)."""
    rows = [[str(t), *cost_cells(run.costs[t])] for t in sorted(run.costs)]
    return [*rows, ["all", *cost_cells(total_cost(run))]] if rows else []


def total_cost(run: RunView) -> dict[str, float]:
    keys = {k for c in run.costs.values() for k in c}
    return {k: (max if k in LARGEST else sum)([c[k] for c in run.costs.values() if k in c]) for k in keys}


def cost_cells(cost: dict[str, float]) -> list[str]:
    return [f"{cost[key] / UNITS.get(key, 1):,.{places}f}" if key in cost else "-" for key, _, places in COSTS]


def measure_rows(run: RunView) -> dict[str, Any]:
    """The MEASURES in measures.csv, one line per whole row: means over concepts or nouns, each with its interval.

    Empty without the file.
    """
    if run.measures is None or run.measures["value"].isna().all():
        return {}
    table = run.measures[run.measures["row"].isin(run.whole_rows)].dropna(subset="value")
    table = table.assign(value=table["value"] * table["measure"].map(SCALES).fillna(1.0))
    # "own nouns: a dog in the jungle" is a prompt of a part
    of_part = table["measure"].str.startswith("unrelated_")
    table.loc[of_part, "measure"] += ": " + table.loc[of_part, "concept"].str.split(":").str[0]
    heads = [(name, head) for name, head in MEASURES.items() if name in set(table["measure"])]
    parts = {key: group for key, group in table.groupby(["row", "measure"])}
    rows = [
        ("untouched" if t == 0 else f"task {t}", [measure_cell(parts.get((t, name))) for name, _ in heads])
        for t in sorted(table["row"].unique())
    ]
    return {"heads": [head for _, head in heads], "rows": rows}


def measure_cell(values: pd.DataFrame | None) -> tuple[str, str]:
    """The mean of a measure in a row and its interval, "" for fewer than three concepts, nouns or pairs."""
    if values is None:
        return "-", ""
    low_high = ""
    if len(values) >= FEWEST:
        bounds = bootstrap(values["value"], list(values["concept"]))
        low_high = f"{number(bounds.low)} to {number(bounds.high)}"
    return figure(float(values["value"].mean())), low_high


def conventions(run: RunView) -> list[tuple[str, str, str]]:
    """(figure, convention, value) for conventions of other papers and implementations."""
    out = []
    scores = among(run.matrices)
    for metric, score in ((m, scores[m]) for m in run.matrices if scores[m].against == "pictures"):
        R = run.matrices[metric].to_numpy(dtype=float)
        for name, convention in CONVENTIONS.items():
            out.append((f"forgetting, {score.title}", convention, figure(retention.forgetting(R, name))))
    final_scores = {k: v for k, v in run.picture_scores("clip_t").items() if k[0] == run.last and not math.isnan(v)}
    if final_scores:
        values = [CLIPSCORE * max(v, 0.0) for v in final_scores.values()]
        _, means = concept_means(values, [k[1] for k in final_scores], [k[2] for k in final_scores])
        out.append(
            ("CLIP-T × 2.5, final average", "CLIPScore, as in Custom Diffusion and CIDM", figure(float(means.mean())))
        )
    return out


def equal_text_rows(run: RunView) -> dict[str, Any]:
    """Identity at other strengths of what was learned: means over concepts by strength, and `equal_text.FIGURES`.

    Empty without such cells. A line: strength, text score as a share of the untouched model's, identity.
    """
    curves = equal_text.curves(run.scores, run.concepts)
    if not curves:
        return {}
    by_strength = equal_text.mean_curve(run.scores, curves)
    figures = {}
    for name, values in equal_text.by_concept(run.scores, run.concepts).items():
        frame = pd.DataFrame({"concept": list(values), "value": list(values.values())}).dropna()
        figures[name] = (*measure_cell(frame if len(frame) else None), len(frame))
    return {
        "rows": [
            (f"{strength:g}", f"{100 * share:.0f} %", figure(identity)) for strength, share, identity in by_strength
        ],
        "figures": figures,
        "concepts": len(run.concepts),
    }


def pair_rows(run: RunView) -> list[tuple[str, list[tuple[str, str]]]]:
    """Scores of pictures of two concepts, one line per row: `pair_scores`, each with its interval over pairs."""
    table = run.scores[run.scores["kind"] == "pair"].dropna(subset="value")
    metric = table["metric"].str.replace("_(?:first|second)$", "", regex=True)  # one name for both concepts
    table = table.assign(metric=metric)
    parts, names = {key: group for key, group in table.groupby(["row", "metric"])}, pair_scores(run)
    return [
        ("untouched" if t == 0 else f"task {t}", [measure_cell(parts.get((t, name))) for name in names])
        for t in sorted(table["row"].unique())
    ]


def pair_scores(run: RunView) -> dict[str, str]:
    """Column headings of the table of `pair_rows`, by score."""
    return {metric: f"{title_of(metric)} ↑" for metric in run.matrices} | {"both": "both present ↑"}


def confusion(run: RunView) -> list[dict[str, Any]]:
    """One confusion table per row in identification.csv, the last first: counts of the nearest concept."""
    if run.identification is None:
        return []
    out = []
    for t in sorted(run.identification["row"].unique(), reverse=True):
        table = run.identification[run.identification["row"] == t]
        counts = table.groupby(["concept", "nearest"])["count"].sum().unstack("nearest", fill_value=0)
        concepts = [c for c in run.concepts if c in counts.index]
        nearest = [c for c in run.concepts if c in counts.columns]
        nearest += [c for c in counts.columns if c not in run.concepts]
        rows = []
        for c in concepts:
            total = counts.loc[c].sum()
            cells = [
                {"text": f"{v:g}", "shade": shade(v / total if total else 0.0, (0.0, 1.0)), "is_correct": n == c}
                for n, v in counts.loc[c, nearest].items()
            ]
            accuracy = counts.loc[c, c] / total if c in nearest and total else (0.0 if total else math.nan)
            rows.append(
                {"concept": c, "cells": cells, "correct": "-" if math.isnan(accuracy) else f"{100 * accuracy:.0f} %"}
            )
        model = "untouched model" if t == 0 else f"after task {t}"
        out.append({"model": model, "nearest": [one_line(n) for n in nearest], "rows": rows})
    return out


def flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """(dotted name, value) pairs of nested mappings; lists are not split."""
    if not isinstance(value, dict):
        return [(name, one_line(value))]
    return [
        pair
        for k, v in sorted(value.items(), key=lambda item: str(item[0]))
        for pair in flat(v, f"{name}.{k}" if name else one_line(k))
    ]


def with_unit(n: object, noun: str) -> str:
    return f"{one_line(n)} {noun}" + ("" if n == 1 else "s")


def method_summary(run: RunView) -> str:
    """The first line of a built-in method's docstring."""
    name = run.record.config.method
    return summary_of(name).rstrip(".") if name in built_in_methods() else ""


def devices(record: Record) -> str:
    """The devices of its tasks, each once."""
    descriptions = (
        f"{one_line(conditions.device)}, {with_unit(conditions.threads, 'thread')}" for conditions in record.made_on
    )
    return "; ".join(dict.fromkeys(descriptions))


def facts(run: RunView) -> list[tuple[str, str]]:
    """Settings and hardware of a run."""
    record, config, recorded = run.record, run.record.config, run.record.facts
    pictures = "drawn stand-ins of the miniature's world" if run.pictures == "drawn" else "photographs"
    size = f", {recorded.picture_size} pixels" if recorded.picture_size is not None else ""
    prompts = prompt_count([run]) or max((len(p) for p in run.prompts.values()), default=0)
    sampler = recorded.sampler or {}
    out = [
        ("method", run.method + (f": {summary}" if (summary := method_summary(run)) else "")),
        ("sequence", f"{run.sequence}, {run.tasks} concepts, {pictures}"),
        ("backbone", f"{config.backbone}{size}, {one_line(recorded.dtype).removeprefix('torch.')}"),
        ("generation", f"{prompts or '?'} prompts per concept, {with_unit(recorded.pictures_per_prompt, 'picture')} each, "
                    f"{one_line(sampler.get('num_inference_steps'))} steps, guidance {one_line(sampler.get('guidance_scale'))}"),
        ("judges", judge_names(record)),
        ("identity against", f"{record.references} pictures"),
        ("seed, order", f"{config.seed}, {config.order}"),
        ("device", devices(record)),
        ("code", f"cpbench {one_line(record.versions.get('cpbench'))}, commit {one_line(record.commit)[:12]}, settings hash {record.hash}"),
        ("status", record.status),
    ]  # fmt: skip
    if sees_earlier_data(record):
        out.append(("*", "not replay-free: this method sees earlier concepts' data"))
    return out
