"""Rows of the retention matrix: generate every concept learned so far with a task's state, judge the pictures, write scores.

A row needs only a state file and the run's configuration. So a worker process can evaluate it, on another GPU or on spare
cores, while the next task is learned; the result is the same.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cpbench.backbones.sampling import SampleRequest, evaluations
from cpbench.concepts import images, prompt_length
from cpbench.errors import DamagedState, UserError, quoted
from cpbench.files import READ_ONLY, file_hash, read_json, write_atomically, write_json
from cpbench.judges.embeddings import RowEmbeddings
from cpbench.method import NotDefined, State
from cpbench.metrics.equal_text import SCALED
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.output import say
from cpbench.records import machine, tables
from cpbench.records.measures_table import recorded_pictures
from cpbench.records.pictures import CachedPicture, is_blank, place, png_bytes
from cpbench.running.cells import CELL_TYPES, picture_of
from cpbench.running.cost import Stopwatch
from cpbench.running.judging import cell_metrics, reference_rows, score_cell
from cpbench.running.picture_cache import generate_once
from cpbench.running.unrelated import UNRELATED
from cpbench.running.writing import Writer

PLURALS = {"prior": "plain nouns", UNRELATED: "sets of unrelated prompts"}

if TYPE_CHECKING:
    from pathlib import Path

    from cpbench.running.cells import Cell
    from cpbench.running.prepare import Run
    from cpbench.running.progress import Reporter


def evaluate_row(run: Run, t: int, state: State | None, reporter: Reporter, writer: Writer | None = None) -> bool:
    """Evaluate row t of the retention matrix: every concept learned so far; in row 0 all concepts, by the untouched model.

    writer: may still be writing the state. The row is recorded once everything is written, its state too. Returns False if
    the row existed already.
    """
    if writer is None:  # a process that only evaluates rows
        with Writer(run.backbone.device) as writer:
            return evaluate_row(run, t, state, reporter, writer)
    at = run.at.task(t)
    if is_complete(run, t):
        reporter.advance(run.generation_work(t))
        return False
    watch, rows = Stopwatch(), []
    judges = {name: RowEmbeddings(judge) for name, judge in run.judges.items()}
    placed: dict[str, Future[str]] = {}  # by file, the SHA-256 of what is being written there
    before, generated, reused = run.backbone.unet_evaluations, 0, 0
    installed = run.backbone.installations
    compiled = run.backbone.compiled
    compiling = (compiled.seconds, compiled.anew) if compiled else (0.0, 0)
    for group in generation_groups(run.cells_of(t)):
        group_name = group[0].name if group[0].concepts else f"{len(group)} {PLURALS[group[0].cell_type]}"
        reporter.at(f"task {t} of {len(run.concepts)}: generating {group_name}")
        try:
            with watch("generation"):
                batches, new = generate_cells(run, group, state, writer)
        except NotDefined as reason:
            for cell in group:
                say(f"task {t}, {cell.name}: not defined ({reason})")
                metrics = cell_metrics(cell.cell_type, run.judges)
                rows += [(t, cell.cell_type, cell.name, *w, m, float("nan")) for m in metrics for w in cell.samples]
            continue
        generated, reused = generated + new, reused + sum(cell.pictures for cell in group) - new
        for cell, pictures, files in batches:
            for (template, k), file in zip(cell.samples, files, strict=True):
                target = picture_of(at, cell, template, k)
                placed[target.relative_to(at.path).as_posix()] = writer.submit(place_cached, file, target)
            if failed := [w for w, p in zip(cell.samples, pictures, strict=True) if is_blank(p)]:
                prompt, index = failed[0]
                say(
                    f"task {t}, {cell.name}: {len(failed)} of {cell.pictures} pictures failed: they are of a single colour "
                    f"and not scored (the first: {prompt!r}, {index})"
                )
            with watch("judging"):
                rows += score_cell(t, cell, cell.cell_type, pictures, run.references, judges)
                if t == 0 and cell.cell_type == "cell":
                    drawn_world = images.is_rendered(cell.concepts[0], run.config.backbone)
                    seed = run.config.seed if drawn_world else None
                    rows += reference_rows(cell, run.references, judges, seed, run.images)
                    target, real = at.real(cell.name), run.images[cell.name][0]
                    placed[target.relative_to(at.path).as_posix()] = writer.submit(write_picture, target, real)
            reporter.advance(evaluations(run.backbone, run.sampler, cell.pictures))
    cost = {
        **watch.record(),
        "generation_evaluations": run.backbone.unet_evaluations - before,
        "pictures_generated": generated,
        "pictures_reused": reused,
        "installations": run.backbone.installations - installed,
    }
    for judge in judges.values():
        writer.submit(judge.save, run.at.embeddings, t)
    hashes = {name: future.result() for name, future in placed.items()}
    writer.wait()  # for the state as well
    if compiled:
        cost |= {
            "generation_compiled": True,
            "compile_seconds": round(compiled.seconds - compiling[0], 3),
            "compiled_anew": compiled.anew - compiling[1],
        }
    tables.write_scores(at.scores, pd.DataFrame(rows, columns=SCORE_COLUMNS))
    record = {
        "cost": cost,
        "made_on": machine.facts(run.backbone.device),
        "scores_sha256": file_hash(at.scores),
        "state": run.state_checksum(t),
        "pictures": hashes,
    }
    write_json(at.row, record)
    return True


def generation_groups(row: Sequence[Cell]) -> list[list[Cell]]:
    """Groups of cells in the order of generation: each cell is a group, except that all plain nouns form one, as do unrelated prompts.

    They have few pictures per prompt: together they take one pipeline call instead of fifteen.
    """
    together = [[cell for cell in row if cell.cell_type == cell_type] for cell_type in PLURALS]
    return [[cell] for cell in row if cell.cell_type not in PLURALS] + [group for group in together if group]


def place_cached(cached: Future[CachedPicture], target: Path) -> str:
    """Put a picture from the cache, as soon as it is written there, into the task's folder; returns its SHA-256."""
    picture = cached.result()
    place(picture, target)
    return picture.sha256


def write_picture(target: Path, picture: np.ndarray) -> str:
    """Write a picture, read-only; returns its SHA-256."""
    data = png_bytes(picture)
    write_atomically(target, data, READ_ONLY)
    return hashlib.sha256(data).hexdigest()


def generate_cells(
    run: Run, group: list[Cell], state: State | None, writer: Writer
) -> tuple[list[tuple[Cell, np.ndarray, list[Future[CachedPicture]]]], int]:
    """(pictures and their files by cell, number generated), see `generate_once`; by the untouched model if there is no
    state. All cells of a group have the same concepts installed. Raises NotDefined as `install` does.
    """
    method, requests, phrases = run.method_class(run.options), [], []
    learned, prompt_texts = group[0].learned, []
    for cell in group:
        words = cell.nouns
        if state and learned:
            words = tuple(method.phrase(c.name, c.class_noun, state) for c in learned)
        phrases += words
        prompt_texts += [(template, words) for template in cell.templates]
        requests += [
            SampleRequest(template.format(*words), run.config.seed, noise_name(cell), template, k)
            for template, k in cell.samples
        ]
    pictures, files, generated = [], [], 0
    for prompts, part in by_installation(method.per_prompt and state is not None, requests):
        with run.backbone.installed(method, state, tuple(c.name for c in learned), prompts):
            if group[0].strength != 1 and not run.backbone.scale_changes(group[0].strength):
                raise NotDefined("the method changes no weight of the denoiser, so that it has one strength only")
            refuse_unknown_words(run, phrases)
            readers = prompt_length.readers_of(run.backbone)
            for template, words in prompt_texts:
                prompt_length.refuse_cut(readers, *prompt_length.filled(template, words))
            part_pictures, part_files, new = generate_once(run.backbone, part, run.sampler, run.cache, writer)
        pictures, files, generated = [*pictures, *part_pictures], [*files, *part_files], generated + new
    pictures = np.stack(pictures)
    ends = np.cumsum([cell.pictures for cell in group])
    parts = zip(group, ends - [cell.pictures for cell in group], ends, strict=True)
    return [(cell, pictures[i:j], files[i:j]) for cell, i, j in parts], generated


def noise_name(cell: Cell) -> str:
    """What a cell's noise is named by: at every strength a concept has the same."""
    return cell.concepts[0].name if cell.cell_type == SCALED else cell.name


def by_installation(
    per_prompt: bool, requests: list[SampleRequest]
) -> Iterator[tuple[tuple[str, ...], list[SampleRequest]]]:
    """(prompts for `install`, the requests generated with it): one installation for all, or one per prompt."""
    if not per_prompt:
        yield (), requests
        return
    for prompt, pictures in itertools.groupby(requests, key=lambda request: request.prompt):
        yield (prompt,), list(pictures)


def refuse_unknown_words(run: Run, phrases: Sequence[str]) -> None:
    """UserError for a phrase that is not text, or has a placeholder that `install` did not add to the vocabulary."""
    vocabulary = {f"<{word}>" for word in run.backbone.token_embeddings}
    for phrase in phrases:
        if not isinstance(phrase, str) or not phrase.strip():
            raise UserError(f"method {run.config.method}: phrase returned {quoted(phrase)}; it must return text")
        if missing_words := [word for word in re.findall(r"<[^<>\s]+>", phrase) if word not in vocabulary]:
            raise UserError(
                f"method {run.config.method}: its phrase {quoted(phrase)} has the word {missing_words[0]}, which install does "
                "not add; add it there with backbone.add_token"
            )


def is_complete(run: Run, t: int) -> bool:
    """Whether row t exists, belongs to the state on disk, and has all its concepts, prompts and pictures."""
    at = run.at.task(t)
    record, scores = read_json(at.row), tables.read_scores(at.scores)
    if not isinstance(record, dict) or scores is None:
        return False
    if record.get("scores_sha256") != file_hash(at.scores):
        return False
    try:
        same_state = "state" in record and record["state"] == run.state_checksum(t)
    except (FileNotFoundError, DamagedState):
        return False
    if not same_state or not pictures_are_there(at.path):
        return False
    counts = {(c.name, c.cell_type): c.pictures * len(cell_metrics(c.cell_type, run.judges)) for c in run.cells_of(t)}
    generated = scores[scores["kind"].isin(CELL_TYPES)]
    return generated.groupby(["concept", "kind"]).size().to_dict() == counts


def pictures_are_there(folder: Path) -> bool:
    """Whether every picture that the row in a task's folder recorded exists unchanged."""
    recorded = recorded_pictures(folder)
    try:
        return bool(recorded) and all(file_hash(folder / name) == digest for name, digest in recorded.items())
    except OSError:
        return False
