"""The pictures of a report: time-lapse grids, comparison by concept, gallery, and the thumbnail size that fits the page."""

from __future__ import annotations

import base64
import functools
import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cpbench.numbers import number
from cpbench.report.data import RunView, figure, main_metric, one_line

MARKUP = 230  # bytes around a picture: tags and captions
MOST_PICTURE = 2**26  # bytes; larger picture files are not read


@dataclass(frozen=True)
class ThumbnailSize:
    """How pictures are shown: side in pixels, WebP quality, number of prompts, and stride between tasks."""

    side: int
    quality: int
    prompts: int
    stride: int = 1


def thumbnail_sizes(prompts: int, tasks: int) -> list[ThumbnailSize]:
    """Thumbnail sizes from the most complete to one that fits in any case."""
    fewer = [k for k in (12, 8, 6, 4, 3, 2) if k < prompts]
    sizes = [
        ThumbnailSize(128, 85, prompts),
        ThumbnailSize(96, 80, prompts),
        ThumbnailSize(80, 75, prompts),
        ThumbnailSize(64, 72, prompts),
    ]
    sizes += [ThumbnailSize(64, 72, k) for k in (*fewer, 1)]
    return sizes + [
        ThumbnailSize(side, 60, 1, stride) for side, stride in ((64, 1), (48, 1), (48, max(1, tasks // 12)))
    ]


def encoded(file: Path, side: int, quality: int) -> bytes | None:
    """A picture's thumbnail as WebP; None if the file cannot be read. The file may be from an untrusted source."""
    try:
        status = file.stat()
    except OSError:
        return None
    return _encoded(file, side, quality, (status.st_size, status.st_mtime_ns, status.st_ino))


@functools.lru_cache(maxsize=50_000)
def _encoded(file: Path, side: int, quality: int, version: tuple[int, ...]) -> bytes | None:
    """version: size, time and inode of the file, so that a run repeated in the same process is read again."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            if file.stat().st_size > MOST_PICTURE:
                return None
            with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as opened:
                picture = opened.convert("RGB")
            picture.thumbnail((side, side), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, format="WEBP", quality=quality, method=4)
            return buffer.getvalue()
        except Exception:  # decoders raise errors of any type for broken pictures
            return None


def data_uri(file: Path | None, side: int, quality: int) -> str | None:
    thumbnail = encoded(file, side, quality) if file else None
    return f"data:image/webp;base64,{base64.b64encode(thumbnail).decode()}" if thumbnail else None


def columns_of(run: RunView, stride: int) -> list[int]:
    """The tasks shown as columns: those with scores, every stride-th one, always with the last."""
    scored = [t for t in run.scored_rows if t]
    thinned = [t for k, t in enumerate(scored) if (len(scored) - 1 - k) % stride == 0]
    return [0, *thinned]


def files_of(run: RunView, size: ThumbnailSize, single: bool) -> list[Path]:
    """Every picture of the page, repeated as often as it is shown."""
    files: list[Path | None] = [run.real(concept) for concept in run.concepts] * size.prompts
    for k in range(size.prompts):
        for j, concept in enumerate(run.concepts, 1):
            tasks = [t for t in columns_of(run, size.stride) if t == 0 or t >= j]
            repeats = {0, j, run.last} if single else ({0, *tasks} if k == 0 else set())  # the gallery, or concepts
            files += [run.picture(t, concept, k) for t in (*tasks, *repeats)]
    return [f for f in files if f]


def fits(runs: Sequence[RunView], size: ThumbnailSize, limit: int) -> bool:
    """Whether the pictures need at most `limit` bytes, estimated from a sample of them."""
    files = [f for run in runs for f in files_of(run, size, len(runs) == 1)]
    sample = files[:: max(1, len(files) // 60)]
    sizes = [len(encoded(f, size.side, size.quality) or b"") for f in sample]
    estimate = 4 / 3 * sum(sizes) / max(1, len(sizes)) + MARKUP
    return len(files) * estimate <= limit


def prompt_text(runs: Sequence[RunView], k: int) -> str:
    """Prompt k of all concepts, with a gap for their phrases; live subjects and objects may have different prompts."""
    texts = {p[k].replace("{}", "…") for run in runs for p in run.prompts.values() if k < len(p)}
    in_order = [p[k].replace("{}", "…") for run in runs for p in run.prompts.values() if k < len(p)]
    return one_line(" / ".join(sorted(texts, key=in_order.index))) if texts else f"prompt {k + 1}"


def picture_cell(run: RunView, t: int, concept: str, k: int, size: ThumbnailSize, scores: dict) -> dict[str, Any]:
    """One cell of a grid: a picture with its score, or the reason why there is no picture."""
    templates = run.prompts.get(concept, [])
    template = templates[k] if k < len(templates) else None
    prompt = one_line(template.replace("{}", run.noun(concept))) if template else f"prompt {k + 1}"
    score = scores.get((t, concept, template, 0)) if template else None
    uri = data_uri(run.picture(t, concept, k), size.side, size.quality)
    model = "the untouched model" if t == 0 else f"after task {t}"
    reason = "" if uri else ("undefined" if score is not None and math.isnan(score) else "no picture")
    return {
        "uri": uri,
        "alt": f"{concept}, {model}: {prompt}",
        "score": "" if score is None or reason else ("blank" if math.isnan(score) else f"{number(score, 2)}"),
        "learned": t == run.concepts.index(concept) + 1,
        "reason": reason,
    }


def concept_row(run: RunView, concept: str, k: int, size: ThumbnailSize, scores: dict) -> dict[str, Any]:
    """A row of the time-lapse: the untouched model, a gap until the concept is learned, then every shown task."""
    j = run.concepts.index(concept) + 1
    tasks = columns_of(run, size.stride)
    return {
        "concept": concept,
        "real": data_uri(run.real(concept), size.side, size.quality),
        "untouched": picture_cell(run, 0, concept, k, size, scores),
        "gap": sum(0 < t < j for t in tasks),
        "cells": [picture_cell(run, t, concept, k, size, scores) for t in tasks if t >= j],
    }


def heads_of(run: RunView, stride: int) -> list[dict[str, str]]:
    return [{"task": f"task {t}", "learned": run.concepts[t - 1]} for t in columns_of(run, stride) if t]


def time_lapses(runs: Sequence[RunView], size: ThumbnailSize) -> list[dict[str, Any]]:
    """The time-lapse grids: per prompt, one grid per run."""
    by_run = [run.picture_scores(main_metric(run)) for run in runs]
    lapses = []
    for k in range(size.prompts):
        grids = [
            {
                "label": run.label,
                "heads": heads_of(run, size.stride),
                "rows": [concept_row(run, concept, k, size, scores) for concept in run.concepts],
            }
            for run, scores in zip(runs, by_run, strict=True)
        ]
        lapses.append({"prompt": prompt_text(runs, k), "grids": grids})
    return lapses


def by_concept(runs: Sequence[RunView], size: ThumbnailSize) -> list[dict[str, Any]]:
    """Per concept, one row per run with the first prompt."""
    by_run = [run.picture_scores(main_metric(run)) for run in runs]
    tasks = sorted({t for run in runs for t in columns_of(run, size.stride) if t})
    concepts = []
    for concept in runs[0].concepts:
        rows = []
        for run, scores in zip(runs, by_run, strict=True):
            shown_tasks = set(columns_of(run, size.stride))
            j = run.concepts.index(concept) + 1
            cells = [
                picture_cell(run, t, concept, 0, size, scores) if t in shown_tasks and t >= j else None for t in tasks
            ]
            rows.append(
                {"label": run.label, "untouched": picture_cell(run, 0, concept, 0, size, scores), "cells": cells}
            )
        real = data_uri(runs[0].real(concept), size.side, size.quality)
        # columns before the first run learns the concept are empty
        first = min(run.concepts.index(concept) + 1 for run in runs)
        indices = [i for i, t in enumerate(tasks) if t >= first]
        rows = [row | {"cells": [row["cells"][i] for i in indices]} for row in rows]
        heads = [f"task {tasks[i]}" for i in indices]
        concepts.append({"concept": concept, "noun": runs[0].noun(concept), "real": real, "heads": heads, "rows": rows})
    return concepts


def gallery(run: RunView, size: ThumbnailSize) -> list[dict[str, Any]]:
    """Per concept, all its prompts by the untouched model, right after its task, and at the end."""
    metric = main_metric(run)
    scores, concepts = run.picture_scores(metric), []
    table = run.matrices.get(metric)
    for j, concept in enumerate(run.concepts[: max(run.last, 1)], 1):
        rows = {0: "untouched", j: f"task {j}, just learned", run.last: f"task {run.last}, the last"}
        rows = {t: label for t, label in rows.items() if t in run.scored_rows}
        if len(rows) > 1 and j == run.last:
            rows[j] = f"task {j}, just learned, the last"
        templates = run.prompts.get(concept, [])
        heads = [
            one_line(templates[k].replace("{}", run.noun(concept))) if k < len(templates) else f"prompt {k + 1}"
            for k in range(size.prompts)
        ]
        table_rows = [
            {"label": label, "cells": [picture_cell(run, t, concept, k, size, scores) for k in range(size.prompts)]}
            for t, label in rows.items()
        ]
        if not any(cell["uri"] for row in table_rows for cell in row["cells"]):
            continue
        means = {t: figure(table.loc[t, concept]) for t in rows} if table is not None else {}
        change = (
            f"{means[0]} untouched, {means[j]} just learned, {means[run.last]} at the end"
            if {0, j} <= set(means)
            else ""
        )
        real = data_uri(run.real(concept), size.side, size.quality)
        concepts.append({"concept": concept, "real": real, "heads": heads, "rows": table_rows, "change": change})
    return concepts


def existing_picture(*files: Path) -> str | None:
    """The first of these files that exists, as a data URI: the saved grid or curves of a folder without its pictures."""
    return next((data_uri(file, 1400, 75) for file in files if os.path.isfile(file)), None)
