"""What a run needs, loaded and checked before anything is spent."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpbench import own_modules
from cpbench.backbones import adapters, loading
from cpbench.backbones import backbone as backbones
from cpbench.backbones.sampling import Sampler, evaluations
from cpbench.concepts import images, prompt_length, sequences
from cpbench.config import RunConfig
from cpbench.errors import UserError, did_you_mean
from cpbench.files import read_json, short_hash
from cpbench.judges import added, identity, inception
from cpbench.judges import judge as judges
from cpbench.judges.embeddings import Embeddings
from cpbench.judges.select import load_judges
from cpbench.method import Method, Options, State
from cpbench.metrics.scores import of_judges
from cpbench.records import machine
from cpbench.records.folder import RunFolder, picture_cache, run_folder
from cpbench.records.record import Cost
from cpbench.records.upgrade import cost_today
from cpbench.registry import changed
from cpbench.running import cells, counting


@dataclass(kw_only=True)
class Run:
    """One run at work: what was asked for, and the things made for it once."""

    config: RunConfig
    method_class: type[Method]
    options: Options
    sequence: sequences.Sequence
    backbone: backbones.Backbone
    judges: dict[str, judges.Judge]
    images: dict[str, np.ndarray]
    sampler: Sampler
    pictures_per_prompt: int
    notes: list[str] = field(default_factory=list)  # what should be known before it begins
    facts: dict[str, Any] = field(default_factory=dict)  # all that moves its scores, see `identify`
    folder: Path = Path()

    @property
    def concepts(self) -> list[str]:
        return [c.name for c in self.sequence.concepts]

    @property
    def rows(self) -> list[int]:
        """The rows of the matrix that are drawn."""
        return rows_of(self.config, len(self.concepts))

    @property
    def cache(self) -> Path:
        return picture_cache(self.config.output)

    @property
    def at(self) -> RunFolder:
        """Where its files are."""
        return RunFolder(self.folder)

    def bound(self, t: int) -> dict[str, Any]:
        """What state t belongs to, see `State.save`; the state before must be there."""
        return {
            "run": short_hash(self.facts),
            "seed": self.config.seed,
            "order": self.config.order,
            "task": t,
            "before": self.state_checksum(t - 1),
        }

    def state_checksum(self, t: int) -> str | None:
        """Of state t, None of the untouched model. Raises as `State.load` does."""
        return State.checksum(self.at.task(t).path) if t else None

    def load_state(self, t: int) -> State:
        """State t, from 1 on, if it is of this run, seed and order and follows the one before. Raises as `State.load` does."""
        return State.load(self.at.task(t).path, self.bound(t))

    def _records(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(task, "learning" or "row", what is recorded of it), of those on disk, by task."""
        for t in range(len(self.concepts) + 1):
            for stage, file in (("learning", self.at.task(t).cost), ("row", self.at.task(t).row)):
                if isinstance(record := read_json(file), dict):
                    yield t, stage, record

    @property
    def costs(self) -> dict[int, Cost]:
        """What each task that is on disk cost, its learning and its row, by number; row 0 is that of the untouched model."""
        by_task: dict[int, dict[str, Any]] = {}
        for t, _, record in self._records():
            if isinstance(cost := record.get("cost"), dict):
                by_task.setdefault(t, {}).update(cost_today(cost))
        return {t: Cost.model_validate(cost) for t, cost in by_task.items()}

    @property
    def made_on(self) -> list[dict[str, Any]]:
        """On what each task was learned and each row made: the facts of `machine.facts`, with the numbers of those they hold for."""
        found: dict[str, dict[str, Any]] = {}
        for t, stage, record in self._records():
            if isinstance(facts := record.get("made_on"), dict):
                each = found.setdefault(json.dumps(facts, sort_keys=True), {**facts, "learning": [], "row": []})
                each[stage].append(t)
        return list(found.values())

    @functools.cached_property
    def counts(self) -> list[int] | None:
        """Evaluations of each task's learning, see `counting.counted`."""
        return counting.counted(self)

    def learning_work(self, t: int) -> int:
        """Progress that task t is worth: a training step's evaluation counts three times, for its way back."""
        return 3 * self.counts[t - 1] if self.counts else 0

    def cells_of(self, t: int) -> list[cells.Cell]:
        """What is drawn in row t."""
        return cells.of_row(
            self.sequence, t, self.pictures_per_prompt, bool(self.config.evaluation.forward_transfer_cells)
        )

    def drawing_work(self, t: int) -> int:
        """Evaluations of drawing row t."""
        return evaluations(self.backbone, self.sampler, sum(cell.pictures for cell in self.cells_of(t)))


def rows_of(config: RunConfig, last: int) -> list[int]:
    """The rows of the matrix that are drawn, of a sequence of `last` tasks: all, or those wanted and both ends."""
    return sorted({0, last, *(range(last + 1) if config.rows is None else config.rows)})


def pick_device(wanted: str) -> str:
    """The device asked for, or the best there is for "auto". UserError for one that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    kind, _, index = wanted.partition(":")
    if kind not in there:
        raise did_you_mean(wanted, there, "device")
    if index and not (kind == "cuda" and index.isdigit() and int(index) < torch.cuda.device_count()):
        raise UserError(f"device {wanted}: there is none of this number; leave out ':{index}'")
    if not there[kind]:
        raise UserError(f"device {wanted}: torch finds none on this machine; use --device cpu or leave it out")
    return wanted


def device_for(config: RunConfig) -> str:
    """The run's device, see `pick_device`, ready for the same bits at every call where that is asked for."""
    device = pick_device(config.device)
    if config.deterministic and device.startswith("cuda"):  # a CPU gives them anyway
        machine.set_deterministic()
    return device


def drawing_of(config: RunConfig, sequence: sequences.Sequence) -> tuple[Sampler, int]:
    """How a run's pictures are drawn, and how many of a prompt: its own choices over the sequence's."""
    chosen = config.evaluation
    test = sequence.evaluation.sampling(images.are_rendered(sequence.concepts, config.backbone))
    sampler = Sampler(
        chosen.num_inference_steps or test.num_inference_steps,
        test.guidance_scale if chosen.guidance_scale is None else chosen.guidance_scale,
        chosen.batch_size,
    )
    return sampler, chosen.pictures_per_prompt or test.pictures_per_prompt


def prepare(config: RunConfig, method_class: type[Method], options: Options) -> Run:
    """Load, check and identify a run, before anything is spent. UserError for bad input."""
    run = load(config, method_class, options)
    check(run)
    identify(run)
    return run


def load(config: RunConfig, method_class: type[Method], options: Options) -> Run:
    """The sequence, backbone, pictures and judges that a run asks for."""
    of_judges(config.judges)  # one that is unknown or broken is told before anything is loaded
    sequence = sequences.ordered(sequences.load(config.sequence), config.order)
    device = device_for(config)
    backbone = loading.load(config.backbone, device, config.loading)
    method_class(options).check(backbone)
    pictures = {
        c.name: images.load(c, config.backbone, backbone.picture_size, config.data, config.fit)
        for c in sequence.concepts
    }
    theirs = load_judges(
        config.backbone,
        config.clip,
        config.dino,
        device,
        config.clip_preprocessing,
        config.dino_preprocessing,
        config.clip_activation,
    ) | added_judges(config.judges, device)
    sampler, pictures_per_prompt = drawing_of(config, sequence)
    return Run(
        config=config,
        method_class=method_class,
        options=options,
        sequence=sequence,
        backbone=backbone,
        judges=theirs,
        images=pictures,
        sampler=sampler,
        pictures_per_prompt=pictures_per_prompt,
    )


def added_judges(names: Iterable[str], device: str) -> dict[str, judges.Judge]:
    """By name judges that packages add. UserError for one that is unknown, broken, or lacks what its scores ask."""
    found = {name: added.load(name, device) for name in dict.fromkeys(names)}
    for score in of_judges(found):
        if (
            score.judge in found
            and score.against == "words"
            and not callable(getattr(found[score.judge], "texts", None))
        ):
            raise UserError(f"judge {score.judge}: has no texts, and its score {score.name} is against words")
    return found


def check(run: Run) -> None:
    """UserError for parts that do not work together; what is worth knowing, and stops nothing, goes into `run.notes`."""
    config, last = run.config, len(run.concepts)
    if (targets := config.options.get("target_modules")) is not None:
        try:
            if not targets:
                raise ValueError("target_modules is empty")
            adapters.matching_modules(run.backbone.denoiser, targets)
        except ValueError as error:
            raise UserError(
                f"method {config.method}: {error}; name a role (attention, text_attention, text_keys_values, feed_forward) "
                "or layers, e.g. to_q"
            ) from None
    run.backbone.check(run.sampler.num_inference_steps)
    if config.rows and max(config.rows) > last:
        raise UserError(f"rows: there is no row {max(config.rows)}; the sequence has {last} tasks")
    drawn = cells.of_row(run.sequence, 0, run.pictures_per_prompt)
    idle, chosen = run.options.without_effect(), changed(config.method, config.backbone, run.options)
    run.notes = [f"{name} has no effect with {why}; leave it out" for name, why in idle.items() if name in chosen]
    readers = prompt_length.readers_of(run.backbone, run.judges["clip"].tokenizer, added=1)
    run.notes += prompt_length.check(readers, drawn)


def identify(run: Run) -> None:
    """The facts of a run, all that moves its scores, and the folder that their hash names."""
    config, backbone = run.config, run.backbone
    run.facts = {
        "method": Path(config.method).stem,
        **own_modules.identity(run.method_class),
        "options": config.options,
        # order and seed have a folder level of their own: a sequence has one hash in all its orders
        "sequence": sequences.content_hash(sequences.load(config.sequence)),
        "images": {name: images.content_hash(p) for name, p in run.images.items()},
        "backbone": backbone.weights_hash,
        "judges": {name: identity.counted(j.identity) for name, j in run.judges.items()},
        "sampler": asdict(run.sampler),
        "pictures_per_prompt": run.pictures_per_prompt,
        "dtype": str(backbone.dtype),
        "picture_size": backbone.picture_size,
    }
    if config.rows is not None:
        run.facts["rows"] = sorted(config.rows)
    if config.evaluation.forward_transfer_cells:
        run.facts["upper_triangle"] = True
    run.folder = run_folder(
        output=config.output,
        sequence=run.sequence.name,
        backbone=Path(config.backbone).name,
        method=run.facts["method"],
        run_hash=short_hash(run.facts),
        order=config.order,
        seed=config.seed,
    )


def measuring(folder: Path, theirs: Mapping[str, judges.Judge]) -> dict[str, Embeddings]:
    """The judges that `measures` asks, with what they said before: the run's, and Inception where it is at hand."""
    file = inception.weights()
    every = theirs if file is None else {**theirs, "inception": inception.Inception(file)}
    return {kind: Embeddings(RunFolder(folder).embeddings, judge) for kind, judge in every.items()}
