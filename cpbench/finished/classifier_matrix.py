"""`cpbench classify`: a retention matrix without a judge. Which concept does the model assign each real picture to?

The diffusion classifier (Li et al. 2023) over the concepts learned so far: a real picture x is noised and assigned to the
candidate i whose words, with the model prepared to generate i, predict that noise best:

    e_i(x) = mean over k of mean || eps_k - eps_theta_i(a x + s eps_k, t_k, "a photo of a <words of i>") ||^2
    R[t][j] = share of concept j's real pictures x for which e_j(x) is the smallest, of all i <= t after task t

The (t_k, eps_k) are the same for all candidates, pictures, rows and runs, the t_k evenly spaced as in the paper's code.
Row 0 is the untouched model with the bare class nouns of all concepts. Candidates with equal errors share a picture, so
two dogs in row 0 get half of it each. At chance level R is 1 / number of candidates, which changes with t.

A row takes draws x candidates x pictures denoiser evaluations. Errors are computed once per (weights, words, concept), so
`isolated` needs no more evaluations for all rows than for the last. Results are written to RUN/classifier after every
row, classifier.json last: a row is valid once that file lists it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from rich.table import Table

from cpbench.backbones import backbone as backbones
from cpbench.backbones.loading import dtype_of
from cpbench.concepts.sequences import Concept
from cpbench.config import RunConfig
from cpbench.errors import UserError
from cpbench.files import read_json, seed_of, short_hash, write_atomically, write_json
from cpbench.finished import load, scoring
from cpbench.finished.load import TrainedRun
from cpbench.fitted_table import compact
from cpbench.learning import diffusion_classifier
from cpbench.learning.training import TEMPLATES, Batch
from cpbench.method import Method, NotDefined
from cpbench.metrics.figures import FIGURES
from cpbench.numbers import number
from cpbench.output import say
from cpbench.records import machine, recorded_paths, terminal
from cpbench.records.folder import RunFolder
from cpbench.records.grid import MOST_COLUMNS
from cpbench.records.measures_table import CONFUSION
from cpbench.records.reading import find, read
from cpbench.records.record import Facts
from cpbench.records.tables import read_table
from cpbench.running.bookkeeping import remove_temporary
from cpbench.running.devices import few_threads, pick_device
from cpbench.running.progress import Reporter

NOISE = "classifier"  # key of its noise
SCHEMA = 1
SEED = 0  # not the run's: runs of all seeds use the same noise
TEMPLATE = TEMPLATES[0]
UNTOUCHED = "untouched"  # the state of row 0
FIGURE_NAMES = ("final_average", "plasticity", "forgetting", "backward_transfer")  # figures that need no ceiling


# Accuracy from errors


def votes(errors: ArrayLike) -> NDArray[np.float64]:
    """(n, k): each picture's vote for the candidate with the smallest error; 1/m each if m candidates are equal.

    errors (n, k): of n pictures under k candidates, k > 0. ValueError for an error that is not finite.
    """
    e = np.asarray(errors, dtype=np.float64)
    if not np.isfinite(e).all():
        raise ValueError("an error is not finite")
    smallest = e == e.min(axis=1, keepdims=True)
    return smallest / smallest.sum(axis=1, keepdims=True)


def confusion(errors: ArrayLike, labels: ArrayLike) -> NDArray[np.float64]:
    """counts (k, k): [j, i] is the number of pictures of candidate j that are assigned to candidate i; see `votes`.

    errors (n, k); labels (n,): the candidate that each picture shows.
    """
    picture_votes = votes(errors)
    counts = np.zeros((picture_votes.shape[1], picture_votes.shape[1]))
    np.add.at(counts, np.asarray(labels), picture_votes)
    return counts


def accuracy(counts: ArrayLike) -> NDArray[np.float64]:
    """(k,): for each candidate the share of its pictures assigned to it, from counts (k, k). NaN without pictures."""
    counts = np.asarray(counts, dtype=np.float64)
    whole = counts.sum(axis=1)
    return np.divide(np.diagonal(counts), whole, out=np.full(len(counts), np.nan), where=whole > 0)


# Prediction errors


def noised(backbone: backbones.Backbone, pictures: np.ndarray, draws: int) -> Batch:
    """Pictures uint8 (n, h, w, 3) as a batch of n x draws noised latents, grouped by picture.

    Latents are the means of the autoencoder's posterior; noise k is sampled on the CPU in float32 from (SEED, k).
    """
    process, n = backbone.process, len(pictures)
    latents = backbone.encode_images(pictures)[0].repeat_interleave(draws, 0)
    generators = [torch.Generator().manual_seed(seed_of(SEED, NOISE, k)) for k in range(draws)]
    noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators]).repeat(n, 1, 1, 1)
    noise = noise.to(latents)
    # The middles of equal parts, for any number of them; Li et al.'s code has these where the number divides that of all times,
    # and else steps by the rounded width of a part, which leaves out the last times.
    timesteps = process.evenly(draws).repeat(n).to(latents.device)
    noisy = process.noised(latents, noise, timesteps)
    return Batch(latents, noise, noisy, timesteps, TEMPLATE, torch.arange(n).repeat_interleave(draws))


@torch.no_grad()
def mean_errors(backbone: backbones.Backbone, phrase: str, batch: Batch, draws: int, most: int) -> NDArray[np.float64]:
    """e (n,): each picture's mean error in epsilon under a phrase, over its draws; at most `most` latents per denoiser call.

    UserError if a prediction is not finite.
    """
    errors = []
    for i in range(0, len(batch.noisy), most):
        cut = slice(i, i + most)
        part = Batch(
            batch.latents[cut],
            batch.noise[cut],
            batch.noisy[cut],
            batch.timesteps[cut],
            batch.template,
            batch.picture_indices[cut],
        )
        predicted = diffusion_classifier.predicted_noise(backbone, part, [phrase])
        errors.append(diffusion_classifier.errors(predicted, part.noise)[:, 0])
    e = torch.cat(errors).cpu().double().view(-1, draws).mean(1).numpy()  # MPS has no float64
    if not np.isfinite(e).all():
        raise UserError(
            f"phrase {phrase!r}: the model's predictions are not finite (NaN); lower the learning rate and run it again"
        )
    return e


@dataclass(frozen=True)
class Row:
    """A row of the matrix. counts (k, k): of the candidates, see `confusion`; state: the checksum of its state."""

    state: str
    candidates: tuple[str, ...]
    counts: NDArray[np.float64]
    unet_evaluations: int


@dataclass
class ClassifierRun:
    """A run that is classified. batches: by concept, see `noised`; errors: by (installed weights, phrase, concept)."""

    folder: Path
    config: RunConfig
    method: Method
    backbone: backbones.Backbone
    concepts: Sequence[Concept]
    batches: dict[str, Batch]
    draws: int
    errors: dict[tuple[str, str, str], NDArray[np.float64]] = field(default_factory=dict)

    def work(self, t: int) -> int:
        """Denoiser evaluations of row t, if no errors are known yet."""
        learned = learned_by(self.concepts, t)
        return len(learned) * sum(len(self.batches[c.name].noisy) for c in learned)


def learned_by(concepts: Sequence[Concept], t: int) -> Sequence[Concept]:
    """The concepts of row t, which are also its candidates: those learned, in row 0 all."""
    return concepts[:t] if t else concepts


def classify_row(run: ClassifierRun, t: int, reporter: Reporter) -> Row:
    """Row t, with the state on disk. A candidate that the method cannot install is left out, with its pictures."""
    learned, before = learned_by(run.concepts, t), run.backbone.unet_evaluations
    nouns = {c.name: c.class_noun for c in learned}
    trained_run = None
    if t:
        state = load.state_after(run.folder, t, nouns)
        trained_run = TrainedRun(run.folder, run.config, run.method, state, run.backbone, nouns)
    columns: dict[str, dict[str, NDArray[np.float64]]] = {}
    for concept in learned:
        reporter.at("untouched model" if t == 0 else f"task {t} of {len(run.concepts)}: as {concept.name}")
        try:
            phrase = trained_run.phrase(concept.name) if trained_run else concept.class_noun
            prompts = (TEMPLATE.format(phrase),)
            with load.installed(trained_run, (concept.name,), prompts) if trained_run else nullcontext():
                columns[concept.name] = column(run, phrase, nouns)
        except NotDefined as reason:
            say(f"task {t}, {concept.name}: not defined ({reason})")
        reporter.advance(run.work(t) / len(learned))
    names = tuple(columns)
    errors = [np.stack([columns[i][j] for i in names], axis=1) for j in names]
    labels = np.repeat(np.arange(len(names)), [len(e) for e in errors])
    # rounded as in the file: a row that is read must equal one that is computed
    counts = confusion(np.concatenate(errors), labels).round(6) if names else np.zeros((0, 0))
    return Row(state_of(run.folder, t) or "", names, counts, run.backbone.unet_evaluations - before)


def column(run: ClassifierRun, phrase: str, concepts: Collection[str]) -> dict[str, NDArray[np.float64]]:
    """By concept the errors (n,) of its pictures under a phrase, with the current installation."""
    installed = run.backbone.installed_hash()
    most = 2 * run.config.evaluation.batch_size  # guidance doubles the batch in generation, so this many fit
    for name in concepts:
        if (key := (installed, phrase, name)) not in run.errors:
            run.errors[key] = mean_errors(run.backbone, phrase, run.batches[name], run.draws, most)
    return {name: run.errors[installed, phrase, name] for name in concepts}


# A run folder


@dataclass(frozen=True)
class ClassifierResult:
    """folder: of the results; matrix: the existing rows, one column per concept; spent: denoiser evaluations, (of this call,
    of all rows); left_out: requested rows that have no state.
    """

    folder: Path
    matrix: pd.DataFrame
    spent: tuple[int, int]
    left_out: list[int]


def classify(
    run: Path,
    rows: Sequence[int] | None = None,
    draws: int = 4,
    data: str | None = None,
    device: str = "auto",
    allow_pickle: bool | None = None,
    trust_remote_code: bool | None = None,
) -> ClassifierResult:
    """Compute the missing rows of a run's matrix; rows None: all whose states are on disk.

    UserError if the run, its sequence or its concepts' pictures have changed, or no row can be computed.
    """
    folder = find(run)
    record = read(folder)
    config, _, weights = load.recorded_config(record, folder)
    config = load.trusted_config(config, folder, pick_device(device), allow_pickle, trust_remote_code)
    recorded_paths.refuse_missing(record, folder, ("method", "backbone", "vae", "sequence"))
    facts = scoring.facts_of(record, folder)
    sequence = scoring.sequence_of(config, facts, folder)
    concepts = sequence.concepts
    if rows and max(rows) > len(concepts):
        raise UserError(f"--rows: there is no row {max(rows)}; the sequence has {len(concepts)} tasks")
    at, selected = RunFolder(folder), sorted(set(range(len(concepts) + 1) if rows is None else rows))
    settings = settings_of(config, facts, draws)
    rows_by_task = saved_rows(at, settings, [c.name for c in concepts])
    tasks_with_state = [t for t in range(len(concepts) + 1) if t == 0 or RunFolder(folder).task(t).state.is_file()]
    left_out = [t for t in selected if t not in tasks_with_state and t not in rows_by_task]
    if left_out == selected:
        raise UserError(
            f"run {folder}: {states_of_rows(left_out)} not on disk (not kept, see --keep-states, or not learned yet); "
            f"name others with --rows: {', '.join(map(str, sorted({*tasks_with_state, *rows_by_task})))}"
        )
    real, _ = scoring.real_pictures(config, facts, sequence, folder, data)
    todo, spent = [t for t in selected if t in tasks_with_state and t not in rows_by_task], 0
    if todo:
        method, backbone = load.load_backbone(config, folder, weights)
        at.classifier.mkdir(exist_ok=True)  # before anything is computed
        remove_temporary(at.classifier)
        batches = {name: noised(backbone, pictures, draws) for name, pictures in real.items()}
        classifier_run = ClassifierRun(folder, config, method, backbone, concepts, batches, draws)
        timesteps = backbone.process.evenly(draws).tolist()
        if not rows_by_task:  # rows of other settings must not be mixed with these; the file that lists them goes first
            for file in (at.classifier_record, at.classifier_counts, at.classifier_matrix):
                file.unlink(missing_ok=True)
        title = f"classifying with {config.method} on {sequence.name}"
        with few_threads(backbone), Reporter(title, sum(map(classifier_run.work, todo))) as reporter:
            for t in todo:
                rows_by_task[t] = classify_row(classifier_run, t, reporter)
                spent += rows_by_task[t].unet_evaluations
                write_tables(at, rows_by_task, [c.name for c in concepts])
                write_json(at.classifier_record, record_of(rows_by_task, settings, timesteps))
    matrix = write_tables(at, rows_by_task, [c.name for c in concepts])
    return ClassifierResult(
        at.classifier, matrix, (spent, sum(r.unet_evaluations for r in rows_by_task.values())), left_out
    )


def states_of_rows(rows: Sequence[int]) -> str:
    """ "the state of row 3 is", "the states of rows 3, 4 are"."""
    several = len(rows) > 1
    return f"the state{'s' * several} of row{'s' * several} {', '.join(map(str, rows))} {'are' if several else 'is'}"


def settings_of(config: RunConfig, facts: Facts, draws: int) -> dict[str, Any]:
    """The settings that all rows of a matrix must share."""
    return {
        "schema": SCHEMA,
        "run": short_hash(facts.as_json()),
        "draws": draws,
        "seed": SEED,
        "template": TEMPLATE,
        "device": config.device.partition(":")[0],
        "dtype": str(dtype_of(config.backbone, config.device, config.loading)),
    }


def state_of(folder: Path, t: int) -> str | None:
    """The checksum of state t, which is kept when its tensors are dropped; UNTOUCHED for row 0; None if there is none."""
    if t == 0:
        return UNTOUCHED
    record = read_json(RunFolder(folder).task(t).state_record)
    digest = record.get("sha256") if isinstance(record, dict) else None
    return digest if isinstance(digest, str) else None


def record_of(rows_by_task: dict[int, Row], settings: dict[str, Any], timesteps: list[int]) -> dict[str, Any]:
    rows = {
        str(t): {"state": r.state, "candidates": r.candidates, "unet_evaluations": r.unet_evaluations}
        for t, r in rows_by_task.items()
    }
    return {
        "settings": settings,
        "timesteps": timesteps,
        "rows": rows,
        "unet_evaluations": sum(r.unet_evaluations for r in rows_by_task.values()),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def write_tables(at: RunFolder, rows_by_task: dict[int, Row], concepts: list[str]) -> pd.DataFrame:
    """confusion.csv and matrix.csv; returns the matrix."""
    lines = [
        (t, concept, other, f"{r.counts[j, i]:.6f}".rstrip("0").rstrip("."))
        for t, r in sorted(rows_by_task.items())
        for j, concept in enumerate(r.candidates)
        for i, other in enumerate(r.candidates)
    ]
    table = pd.DataFrame(lines, columns=CONFUSION)
    write_atomically(at.classifier_counts, table.to_csv(index=False).encode())
    shares = {t: dict(zip(r.candidates, accuracy(r.counts), strict=True)) for t, r in sorted(rows_by_task.items())}
    matrix = pd.DataFrame(
        [[share.get(c, np.nan) for c in concepts] for share in shares.values()], list(shares), concepts
    )
    matrix.index.name = "row"
    write_atomically(at.classifier_matrix, matrix.to_csv(float_format="%.6f").encode())
    return matrix


def saved_rows(at: RunFolder, settings: dict[str, Any], concepts: list[str]) -> dict[int, Row]:
    """The complete rows on disk that have these settings and belong to the current states."""
    record, rows_by_task = read_json(at.classifier_record), {}
    dtypes = {"row": int, "concept": str, "nearest": str, "count": float}
    table = read_table(at.classifier_counts, dtypes, CONFUSION[:-1])
    if table is None or not isinstance(record, dict) or record.get("settings") != settings:
        return {}
    listed = record.get("rows")
    for key, entry in listed.items() if isinstance(listed, dict) else ():
        try:
            t, names, spent = int(key), tuple(entry["candidates"]), int(entry["unet_evaluations"])
            has_known_concepts = 0 <= t <= len(concepts) and set(names) <= set(concepts[:t] if t else concepts)
            has_current_state = entry["state"] == state_of(at.path, t)
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        entries = table[table["row"] == t]
        is_complete = list(zip(entries["concept"], entries["nearest"], strict=True)) == [
            (j, i) for j in names for i in names
        ]
        if has_known_concepts and has_current_state and is_complete and np.isfinite(entries["count"]).all():
            counts = entries["count"].to_numpy().reshape(len(names), len(names))
            rows_by_task[t] = Row(entry["state"], names, counts, spent)
    return rows_by_task


def tables(matrix: pd.DataFrame) -> list[Table]:
    """Rich tables: the matrix if it fits a terminal, and the figures after its last row."""
    out = []
    if len(matrix.columns) <= MOST_COLUMNS:
        out.append(terminal.matrix_table("share of real pictures that the model assigns to their own concept", matrix))
    if values := classifier_figures(matrix):
        table = compact(f"summary after task {matrix.index.max()}")
        table.add_column("", no_wrap=True)
        table.add_column("accuracy", justify="right")
        for name, value in values.items():
            table.add_row(FIGURES[name].heading(), number(value))
        out.append(table)
    return out


def classifier_figures(matrix: pd.DataFrame) -> dict[str, float]:
    """The figures of `metrics` that need no ceiling, by name, after the last existing row; NaN if a row is missing."""
    last = int(matrix.index.max())
    R = matrix.reindex(range(last + 1)).to_numpy()[:, :last]
    return {name: FIGURES[name].value(R) for name in FIGURE_NAMES} if last else {}
