"""Rows of the retention matrix: draw every concept learned so far with a task's state, judge the pictures, write scores.

A row needs a state file and the run's configuration, nothing that is in memory: so it may as well be made by a second
process, on another GPU or on spare cores, while the next task is learned. What comes out is the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from cpbench import composition, images, metrics, results, sequences
from cpbench.cost import Stopwatch
from cpbench.errors import UserError, quoted
from cpbench.method import NotDefined, State
from cpbench.progress import QuietReporter
from cpbench.sampling import Wanted, draw_once, place, png_bytes

if TYPE_CHECKING:
    from cpbench.config import RunConfig
    from cpbench.judges import Judge
    from cpbench.progress import Reporter
    from cpbench.runner import Run

ROW = "row.json"  # a row's cost and the checksum of its scores; written last
WORTH_A_PROCESS = 2000  # UNet evaluations of drawing: for fewer, starting a second process takes longer than it saves


def evaluate(run: Run, t: int, state: State | None, reporter: Reporter) -> bool:
    """Row t of the retention matrix, every concept learned so far; row 0 is the untouched model on all of them.

    Returns False if the row was there already.
    """
    folder = run.task_folder(t)
    if is_complete(run, t):
        reporter.advance(run.sampler.evaluations(run.pictures(t)))
        return False
    watch, rows = Stopwatch(), []
    before, drawn, reused = run.backbone.unet_evaluations, 0, 0
    for subjects in run.subjects(t):
        name, alone = "+".join(c.name for c in subjects), len(subjects) == 1
        reporter.at(f"task {t} of {len(run.concepts)}: drawing {name}")
        method = run.method_class(run.options)
        words = [method.phrase(c.name, c.class_noun, state) if state else c.class_noun for c in subjects]
        templates = run.templates(subjects)
        wanted = [
            Wanted(template.format(*words), run.config.seed, name, template, k)
            for template in templates
            for k in range(run.pictures_per_prompt)
        ]
        which = [(w.template, w.index) for w in wanted]
        try:
            with watch("drawing"), run.backbone.installed(method, state, tuple(c.name for c in subjects)):
                refuse_unknown_words(run, words)
                pictures, files, fresh = draw_once(run.backbone, wanted, run.sampler, run.cache)
        except NotDefined as reason:
            reporter.say(f"task {t}, {name}: not defined ({reason})")
            kind, figures = ("cell", results.METRICS) if alone else ("pair", composition.METRICS)
            rows += [(t, kind, name, *w, metric, float("nan")) for metric in figures for w in which]
            continue
        drawn, reused = drawn + fresh, reused + len(wanted) - fresh
        for want, file in zip(wanted, files, strict=True):
            place(
                file,
                folder / "pictures" / name / f"{templates.index(want.template):02d}-{want.index}.png",
            )
        if failed := [w for w, p in zip(which, pictures, strict=True) if is_blank(p)]:
            prompt, index = failed[0]
            reporter.say(
                f"task {t}, {name}: {len(failed)} of {len(which)} pictures failed, of one colour all over and not "
                f"scored (the first: {prompt!r}, {index})"
            )
        with watch("judging"):
            rows += score(run, t, "cell" if alone else "pair", subjects, which, pictures)
            if t == 0 and alone:
                (concept,) = subjects
                rows += reference_rows(run, concept, wanted)
                first = folder / "pictures" / concept.name / "real.png"
                results.write_atomically(first, png_bytes(run.images[concept.name][0]))
        reporter.advance(run.sampler.evaluations(len(wanted)))
    cost = {
        **watch.record(),
        "drawing_unet_evaluations": run.backbone.unet_evaluations - before,
        "pictures_drawn": drawn,
        "pictures_reused": reused,
    }
    results.write_scores(folder / "scores.csv", pd.DataFrame(rows, columns=results.SCORE_COLUMNS))
    results.write_json(folder / ROW, {"cost": cost, "scores_sha256": results.file_hash(folder / "scores.csv")})
    return True


def refuse_unknown_words(run: Run, phrases: list[str]) -> None:
    """UserError where a phrase is none, or has a made-up word that `install` did not put into the vocabulary."""
    there = {f"<{word}>" for word in run.backbone.rows}
    for phrase in phrases:
        if not isinstance(phrase, str) or not phrase.strip():
            raise UserError(f"method {run.config.method}: phrase returned {quoted(phrase)}; make it words")
        if unknown := [word for word in re.findall(r"<[^<>\s]+>", phrase) if word not in there]:
            raise UserError(
                f"method {run.config.method}: its phrase {quoted(phrase)} has the word {unknown[0]}, which install does "
                "not add; add it there with backbone.add_token"
            )


def score(
    run: Run,
    t: int,
    kind: str,
    subjects: tuple[sequences.Concept, ...],
    which: list[tuple[str, int]],
    pictures: np.ndarray,
) -> list[tuple]:
    """CLIP-I, CLIP-T and DINO of each picture: mean cosine with every real picture; cosine with the prompt's words.

    Of a picture of two concepts what `composition.scores` tells. No number for a picture of one colour all over: that is a model that broke, or a filter, not a bad likeness.
    """
    templates = [template for template, _ in which]
    if len(subjects) == 2:
        values = composition.scores(subjects, templates, pictures, run.images, run.judges)
    else:
        values = of_one(subjects[0], templates, pictures, run.images[subjects[0].name], run.judges)
    name, blank = "+".join(c.name for c in subjects), [is_blank(p) for p in pictures]
    return [
        (t, kind, name, template, index, metric, float("nan") if blank[i] else float(vector[i]))
        for metric, vector in values.items()
        for i, (template, index) in enumerate(which)
    ]


def of_one(
    concept: sequences.Concept,
    templates: list[str],
    pictures: np.ndarray,
    real: np.ndarray,
    judges: dict[str, Judge],
) -> dict[str, np.ndarray]:
    """By metric, a value for every picture (n, h, w, 3) of one concept."""
    clip, dino = judges["clip"], judges["dino"]
    by_clip = clip.images(pictures)
    return {
        "clip_i": (by_clip @ clip.images(real).T).mean(1),
        "clip_t": metrics.paired_cosine(by_clip, clip.texts([t.format(concept.class_noun) for t in templates])),
        "dino": (dino.images(pictures) @ dino.images(real).T).mean(1),
    }


def is_blank(picture: np.ndarray) -> bool:
    """Whether a picture (h, w, 3) is of one colour all over."""
    return bool((picture == picture[:1, :1]).all())


def reference_rows(run: Run, concept: sequences.Concept, wanted: list[Wanted]) -> list[tuple]:
    """Ceiling 1, the real pictures against each other without self-pairs; on the miniature also the `oracle` row."""
    real = run.images[concept.name]
    rows: list[tuple] = [
        (0, "real", concept.name, "", 0, metric, metrics.cosine_self_pairs(run.judges[judge].images(real)))
        for metric, judge in (("clip_i", "clip"), ("dino", "dino"))
    ]
    if images.is_drawn(concept, run.config.backbone):
        drawings = np.stack([images.oracle(w.concept, w.template, w.seed, w.index) for w in wanted])
        rows += score(run, 0, "oracle", (concept,), [(w.template, w.index) for w in wanted], drawings)
    return rows


def is_complete(run: Run, t: int) -> bool:
    """Whether row t is there, whole, and has the concepts and prompts that it should."""
    folder = run.task_folder(t)
    record, scores = results.read_json(folder / ROW), results.read_scores(folder / "scores.csv")
    if not isinstance(record, dict) or scores is None:
        return False
    if record.get("scores_sha256") != results.file_hash(folder / "scores.csv"):
        return False
    counts = {
        ("+".join(c.name for c in subjects), "cell" if len(subjects) == 1 else "pair"): len(run.templates(subjects))
        * run.pictures_per_prompt
        * len(results.METRICS if len(subjects) == 1 else composition.METRICS)
        for subjects in run.subjects(t)
    }
    drawn = scores[scores["kind"].isin(("cell", "pair"))]
    return drawn.groupby(["concept", "kind"]).size().to_dict() == counts


# In a second process

_run: Run | None = None  # the second process's own


def spare_device(run: Run) -> str | None:
    """Where rows are made while the next task is learned; None where it is this process that makes them.

    Unless told: a second GPU, or as many spare cores as this process has threads, if there is much to draw.
    """
    overlap, device = run.config.overlap, str(run.backbone.device)
    much = run.sampler.evaluations(sum(run.pictures(t) for t in run.rows)) >= WORTH_A_PROCESS
    if not (much if overlap is None else overlap):
        return None
    if device.startswith("cuda"):
        others = [f"cuda:{n}" for n in range(torch.cuda.device_count()) if n != (torch.device(device).index or 0)]
        return others[0] if others else (device if overlap else None)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    spare = device == "cpu" and cores >= 2 * torch.get_num_threads()
    return device if spare or overlap else None


@contextmanager
def second_process(run: Run) -> Iterator[Executor | None]:
    """A process with a backbone and judges of its own, that does `elsewhere` for whoever submits it; or None."""
    where = spare_device(run)
    if where is None:
        yield None
        return
    theirs = run.config.model_copy(update={"device": where})
    context = torch.multiprocessing.get_context("spawn")
    begin = (theirs, torch.get_num_threads(), os.getpid())
    pool = ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(config: RunConfig, threads: int, parent: int) -> None:
    from cpbench import runner
    from cpbench.config import load_method
    from cpbench.orphans import leave_with

    leave_with(parent)
    torch.set_num_threads(threads)
    global _run
    kind = load_method(config.method)
    _run = runner.prepare(config, kind, kind.Options(**config.options))


def elsewhere(t: int) -> tuple[bool, list[str]]:
    """`evaluate` with the state of task t read from disk: (whether it had to be done, what it had to say)."""
    assert _run is not None
    if is_complete(_run, t):
        return False, []
    said = QuietReporter()
    evaluate(_run, t, State.load(_run.task_folder(t)) if t else None, said)
    return True, said.lines
