"""A report's pictures: the time-lapse grids, concept by concept, the gallery, and how small they must be to fit."""

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
from cpbench.report.data import Shown, figure, judge_of, said

MARKUP = 230  # bytes around a picture: its tags, its words
MOST_PICTURE = 2**26  # bytes of a picture's file that is read


@dataclass(frozen=True)
class Level:
    """How much of the pictures is shown: side in pixels, quality, how many prompts, and every how manyth task."""

    side: int
    quality: int
    prompts: int
    every: int = 1


def levels(prompts: int, tasks: int) -> list[Level]:
    """From all of it to what fits in any case."""
    fewer = [k for k in (12, 8, 6, 4, 3, 2) if k < prompts]
    out = [Level(128, 85, prompts), Level(96, 80, prompts), Level(80, 75, prompts), Level(64, 72, prompts)]
    out += [Level(64, 72, k) for k in (*fewer, 1)]
    return out + [Level(side, 60, 1, every) for side, every in ((64, 1), (48, 1), (48, max(1, tasks // 12)))]


def encoded(file: Path, side: int, quality: int) -> bytes | None:
    """A picture's thumbnail as WebP; None where it cannot be read. It may come from anybody."""
    try:
        there = file.stat()
    except OSError:
        return None
    return _encoded(file, side, quality, (there.st_size, there.st_mtime_ns, there.st_ino))


@functools.lru_cache(maxsize=50_000)
def _encoded(file: Path, side: int, quality: int, written: tuple[int, ...]) -> bytes | None:
    """written: by which a file is known to be the one that was read; a run may be made anew in the same process."""
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
        except Exception:  # decoders answer broken pictures with errors of any type
            return None


def data_uri(file: Path | None, side: int, quality: int) -> str | None:
    found = encoded(file, side, quality) if file else None
    return f"data:image/webp;base64,{base64.b64encode(found).decode()}" if found else None


def columns_of(run: Shown, every: int) -> list[int]:
    """The tasks that are shown as columns: those whose rows are drawn, thinned, but always the last."""
    drawn = [t for t in run.drawn if t]
    kept = [t for k, t in enumerate(drawn) if (len(drawn) - 1 - k) % every == 0]
    return [0, *kept]


def files_of(run: Shown, level: Level, single: bool) -> list[Path]:
    """Every picture of the page, as often as it is on it."""
    out: list[Path | None] = [run.real(c) for c in run.concepts] * level.prompts
    for k in range(level.prompts):
        for j, c in enumerate(run.concepts, 1):
            tasks = [t for t in columns_of(run, level.every) if t == 0 or t >= j]
            again = {0, j, run.last} if single else ({0, *tasks} if k == 0 else set())  # the gallery, or concepts
            out += [run.picture(t, c, k) for t in (*tasks, *again)]
    return [f for f in out if f]


def fits(runs: Sequence[Shown], level: Level, room: int) -> bool:
    """Whether the pictures will come to no more than `room` bytes, by the sizes of some of them."""
    files = [f for run in runs for f in files_of(run, level, len(runs) == 1)]
    some = files[:: max(1, len(files) // 60)]
    sizes = [len(encoded(f, level.side, level.quality) or b"") for f in some]
    each = 4 / 3 * sum(sizes) / max(1, len(sizes)) + MARKUP
    return len(files) * each <= room


def prompt_words(runs: Sequence[Shown], k: int) -> str:
    """Prompt k of all concepts, a gap for the words of each; kinds of concepts may have prompts of their own."""
    texts = {p[k].replace("{}", "…") for run in runs for p in run.prompts.values() if k < len(p)}
    known = [p[k].replace("{}", "…") for run in runs for p in run.prompts.values() if k < len(p)]
    return said(" / ".join(sorted(texts, key=known.index))) if texts else f"prompt {k + 1}"


def picture_cell(run: Shown, t: int, concept: str, k: int, level: Level, scores: dict) -> dict[str, Any]:
    """One cell of a grid: a picture with its score, or the reason why there is none."""
    templates = run.prompts.get(concept, [])
    template = templates[k] if k < len(templates) else None
    words = said(template.replace("{}", run.noun(concept))) if template else f"prompt {k + 1}"
    score = scores.get((t, concept, template, 0)) if template else None
    uri = data_uri(run.picture(t, concept, k), level.side, level.quality)
    when = "the untouched model" if t == 0 else f"after task {t}"
    reason = "" if uri else ("not defined" if score is not None and math.isnan(score) else "no picture")
    return {
        "uri": uri,
        "alt": f"{concept}, {when}: {words}",
        "score": "" if score is None or reason else ("blank" if math.isnan(score) else number(score, 2)),
        "learned": t == run.concepts.index(concept) + 1,
        "reason": reason,
    }


def concept_row(run: Shown, concept: str, k: int, level: Level, scores: dict) -> dict[str, Any]:
    """A row of the time-lapse: untouched, a gap until the concept is learned, then every task that is shown."""
    j = run.concepts.index(concept) + 1
    tasks = columns_of(run, level.every)
    return {
        "concept": concept,
        "real": data_uri(run.real(concept), level.side, level.quality),
        "untouched": picture_cell(run, 0, concept, k, level, scores),
        "gap": sum(0 < t < j for t in tasks),
        "cells": [picture_cell(run, t, concept, k, level, scores) for t in tasks if t >= j],
    }


def heads_of(run: Shown, every: int) -> list[dict[str, str]]:
    return [{"task": f"task {t}", "learned": run.concepts[t - 1]} for t in columns_of(run, every) if t]


def lapses(runs: Sequence[Shown], level: Level) -> list[dict[str, Any]]:
    """The time-lapse grids, for each prompt one of every run."""
    by_run = [run.picture_scores(judge_of(run)) for run in runs]
    out = []
    for k in range(level.prompts):
        grids = [
            {
                "label": run.label,
                "heads": heads_of(run, level.every),
                "rows": [concept_row(run, c, k, level, scores) for c in run.concepts],
            }
            for run, scores in zip(runs, by_run, strict=True)
        ]
        out.append({"words": prompt_words(runs, k), "grids": grids})
    return out


def by_concept(runs: Sequence[Shown], level: Level) -> list[dict[str, Any]]:
    """For each concept one row a run, the first prompt."""
    by_run = [run.picture_scores(judge_of(run)) for run in runs]
    tasks = sorted({t for run in runs for t in columns_of(run, level.every) if t})
    out = []
    for concept in runs[0].concepts:
        rows = []
        for run, scores in zip(runs, by_run, strict=True):
            there = set(columns_of(run, level.every))
            j = run.concepts.index(concept) + 1
            cells = [picture_cell(run, t, concept, 0, level, scores) if t in there and t >= j else None for t in tasks]
            rows.append(
                {"label": run.label, "untouched": picture_cell(run, 0, concept, 0, level, scores), "cells": cells}
            )
        real = data_uri(runs[0].real(concept), level.side, level.quality)
        # a learned-at column that no run shows is no reason to leave a column out
        first = min(run.concepts.index(concept) + 1 for run in runs)
        keep = [i for i, t in enumerate(tasks) if t >= first]
        rows = [row | {"cells": [row["cells"][i] for i in keep]} for row in rows]
        heads = [f"task {tasks[i]}" for i in keep]
        out.append({"concept": concept, "noun": runs[0].noun(concept), "real": real, "heads": heads, "rows": rows})
    return out


def gallery(run: Shown, level: Level) -> list[dict[str, Any]]:
    """For each concept all its prompts: untouched, right after its task, and at the end."""
    metric = judge_of(run)
    scores, out = run.picture_scores(metric), []
    table = run.matrices.get(metric)
    for j, concept in enumerate(run.concepts[: max(run.last, 1)], 1):
        rows = {0: "untouched", j: f"task {j}, just learned", run.last: f"task {run.last}, the last"}
        rows = {t: words for t, words in rows.items() if t in run.drawn}
        if len(rows) > 1 and j == run.last:
            rows[j] = f"task {j}, just learned, the last"
        templates = run.prompts.get(concept, [])
        heads = [
            said(templates[k].replace("{}", run.noun(concept))) if k < len(templates) else f"prompt {k + 1}"
            for k in range(level.prompts)
        ]
        made = [
            {"label": words, "cells": [picture_cell(run, t, concept, k, level, scores) for k in range(level.prompts)]}
            for t, words in rows.items()
        ]
        if not any(cell["uri"] for row in made for cell in row["cells"]):
            continue
        at = {t: figure(table.loc[t, concept]) for t in rows} if table is not None else {}
        change = f"{at[0]} untouched, {at[j]} just learned, {at[run.last]} at the end" if {0, j} <= set(at) else ""
        real = data_uri(run.real(concept), level.side, level.quality)
        out.append({"concept": concept, "real": real, "heads": heads, "rows": made, "change": change})
    return out


def kept(*files: Path) -> str | None:
    """The first of these files of a folder that is there: its grid or curves, where it was kept without the rest."""
    return next((data_uri(file, 1400, 75) for file in files if os.path.isfile(file)), None)
