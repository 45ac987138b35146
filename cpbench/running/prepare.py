"""Preparation of a run: everything it needs is loaded and checked before the first computation."""

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
from cpbench.backbones import adapters, distilled, loading
from cpbench.backbones import backbone as backbones
from cpbench.backbones.sampling import Sampler, evaluations
from cpbench.concepts import held_out, images, prompt_length, sequences
from cpbench.config import RunConfig
from cpbench.errors import UserError, quoted
from cpbench.files import read_json, short_hash
from cpbench.judges import added, identity, inception
from cpbench.judges import judge as judges
from cpbench.judges.embeddings import Embeddings
from cpbench.judges.select import load_judges
from cpbench.method import Method, Options, State, Task, recipe_of
from cpbench.metrics.scores import of_judges
from cpbench.records import machine
from cpbench.records.folder import RunFolder, picture_cache, run_folder
from cpbench.records.record import Cost
from cpbench.records.upgrade import cost_today
from cpbench.registry import changed
from cpbench.running import cells, counting, memory
from cpbench.running.devices import pick_device


@dataclass(kw_only=True)
class Run:
    """A prepared run: its configuration, and what is loaded for it once."""

    config: RunConfig
    method_class: type[Method]
    options: Options
    sequence: sequences.Sequence
    backbone: backbones.Backbone
    judges: dict[str, judges.Judge]
    images: dict[str, np.ndarray]  # of each concept, to learn from
    references: dict[str, np.ndarray]  # of each concept, to score identity against
    sampler: Sampler
    pictures_per_prompt: int
    notes: list[str] = field(default_factory=list)  # for the user, printed before the run starts
    facts: dict[str, Any] = field(default_factory=dict)  # everything its scores depend on, see `identify`
    folder: Path = Path()

    @property
    def concepts(self) -> list[str]:
        return [c.name for c in self.sequence.concepts]

    @property
    def all_images(self) -> dict[str, np.ndarray]:
        """The pictures of each concept, to learn from and then, where they are others, to score against."""
        return {
            name: training if self.references[name] is training else np.concatenate([training, self.references[name]])
            for name, training in self.images.items()
        }

    @property
    def rows(self) -> list[int]:
        """The rows of the matrix that are generated, whole or in part."""
        return cells.rows_of(self.config, len(self.concepts))

    @property
    def whole_rows(self) -> list[int]:
        """Those of them in which all that was learned so far is generated."""
        return cells.whole_rows(self.config, len(self.concepts))

    @property
    def cache(self) -> Path:
        return picture_cache(self.config.output)

    @property
    def at(self) -> RunFolder:
        """The paths of its files."""
        return RunFolder(self.folder)

    def task(self, t: int) -> Task:
        """What the method is given of task t >= 1."""
        concept = self.sequence.concepts[t - 1]
        return Task(
            t,
            concept.name,
            concept.class_noun,
            self.images[concept.name],
            self.config.seed,
            recipe=recipe_of(self.options),
            used_words=cells.words_of(self.sequence),
        )

    def state_binding(self, t: int) -> dict[str, Any]:
        """The facts that bind state t to this run, see `State.save`; the state before it must exist."""
        return {
            "run": short_hash(self.facts),
            "seed": self.config.seed,
            "order": self.config.order,
            "task": t,
            "before": self.state_checksum(t - 1),
        }

    def state_checksum(self, t: int) -> str | None:
        """The checksum of state t; None for t = 0. Raises as `State.load` does."""
        return State.checksum(self.at.task(t).path) if t else None

    def load_state(self, t: int) -> State:
        """State t >= 1, checked to be of this run, seed and order and to follow state t - 1. Raises as `State.load` does."""
        return State.load(self.at.task(t).path, self.state_binding(t))

    def _records(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """(task, "learning" or "row", the record on disk), in order of tasks."""
        for t in range(len(self.concepts) + 1):
            for stage, file in (("learning", self.at.task(t).cost), ("row", self.at.task(t).row)):
                if isinstance(record := read_json(file), dict):
                    yield t, stage, record

    @property
    def costs(self) -> dict[int, Cost]:
        """The cost of each task on disk, learning and row together, by number; 0 is the untouched model's row."""
        by_task: dict[int, dict[str, Any]] = {}
        for t, _, record in self._records():
            if isinstance(cost := record.get("cost"), dict):
                by_task.setdefault(t, {}).update(cost_today(cost))
        return {t: Cost.model_validate(cost) for t, cost in by_task.items()}

    @property
    def made_on(self) -> list[dict[str, Any]]:
        """The distinct `machine.facts` of all tasks and rows, each with the numbers of the tasks and rows it applies to."""
        conditions: dict[str, dict[str, Any]] = {}
        for t, stage, record in self._records():
            if isinstance(facts := record.get("made_on"), dict):
                entry = conditions.setdefault(json.dumps(facts, sort_keys=True), {**facts, "learning": [], "row": []})
                entry[stage].append(t)
        return list(conditions.values())

    @functools.cached_property
    def counts(self) -> list[int] | None:
        """Evaluations of each task's learning, see `counting.learning_counts`."""
        return counting.learning_counts(self)

    def learning_work(self, t: int) -> int:
        """Progress units of task t: an evaluation in training counts three times, because of its backward pass."""
        return 3 * self.counts[t - 1] if self.counts else 0

    def cells_of(self, t: int) -> list[cells.Cell]:
        """The cells of row t."""
        return cells.cells_of(self.config, self.sequence, t, self.pictures_per_prompt)

    def generation_work(self, t: int) -> int:
        """Denoiser evaluations that generating row t takes."""
        return evaluations(self.backbone, self.sampler, sum(cell.pictures for cell in self.cells_of(t)))


def device_for(config: RunConfig) -> str:
    """The run's device, see `pick_device`; switches on deterministic algorithms if the configuration asks for them."""
    device = pick_device(config.device)
    if config.deterministic and device.startswith("cuda"):  # a CPU is deterministic anyway
        machine.set_deterministic()
    return device


def generation_settings(config: RunConfig, sequence: sequences.Sequence) -> tuple[Sampler, int]:
    """(sampler, pictures per prompt) of a run: its own settings override the sequence's."""
    evaluation = config.evaluation
    test = sequence.evaluation.sampling(images.are_rendered(sequence.concepts, config.backbone))
    sampler = Sampler(
        evaluation.num_inference_steps or test.num_inference_steps,
        test.guidance_scale if evaluation.guidance_scale is None else evaluation.guidance_scale,
        evaluation.batch_size,
    )
    return sampler, evaluation.pictures_per_prompt or test.pictures_per_prompt


def prepare(config: RunConfig, method_class: type[Method], options: Options) -> Run:
    """Load, check and identify a run, before anything is computed. UserError for bad input."""
    run = load_run(config, method_class, options)
    check(run)
    identify(run)
    return run


def load_run(config: RunConfig, method_class: type[Method], options: Options) -> Run:
    """Load the sequence, backbone, pictures and judges of a run."""
    of_judges(config.judges)  # refuses an unknown or broken judge before anything is loaded
    sequence = sequences.ordered(sequences.load(config.sequence), config.order)
    cells.whole_rows(config, len(sequence.concepts))  # refuses a row that there is not, before anything is loaded
    device = device_for(config)
    backbone = loading.load(config.backbone, device, config.loading)
    method_class(options).check(backbone)
    training, references = held_out.load(
        sequence.concepts,
        config.backbone,
        backbone.picture_size,
        config.evaluation.held_out,
        config.data,
        config.fit,
    )
    run_judges = load_judges(
        config.backbone,
        config.clip,
        config.dino,
        device,
        config.clip_preprocessing,
        config.dino_preprocessing,
        config.clip_activation,
    ) | added_judges(config.judges, device)
    sampler, pictures_per_prompt = generation_settings(config, sequence)
    return Run(
        config=config,
        method_class=method_class,
        options=options,
        sequence=sequence,
        backbone=backbone,
        judges=run_judges,
        images=training,
        references=references,
        sampler=sampler,
        pictures_per_prompt=pictures_per_prompt,
    )


def added_judges(names: Iterable[str], device: str) -> dict[str, judges.Judge]:
    """The judges of installed packages, by name. UserError for one that is unknown, broken, or lacks what its scores need."""
    judges_by_name = {name: added.load(name, device) for name in dict.fromkeys(names)}
    for score in of_judges(judges_by_name):
        if (
            score.judge in judges_by_name
            and score.against == "words"
            and not callable(getattr(judges_by_name[score.judge], "texts", None))
        ):
            raise UserError(
                f"judge {score.judge}: its score {score.name} is against words, so it needs a method `texts`"
            )
    return judges_by_name


def check(run: Run) -> None:
    """UserError for parts that do not work together; warnings go into `run.notes`."""
    config = run.config
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
    if (adapter_type := config.options.get("adapter")) in ("vera", "dora"):
        adapters.refuse_quantized(run.backbone.denoiser, adapter_type)
    if config.options.get("word") == "none":
        refuse_nouns_that_come_twice(run)
    if config.method != "base" and not config.loading.allow_distilled:
        distilled.refuse(run.backbone)
    run.backbone.check(run.sampler.num_inference_steps)
    memory.refuse_oversized(run)
    row_cells = run.cells_of(0)
    unused, changed_options = run.options.without_effect(), changed(config.method, config.backbone, run.options)
    run.notes = [
        f"{name} has no effect with {reason}; leave it out"
        for name, reason in unused.items()
        if name in changed_options
    ]
    if config.evaluation.diagonal and run.whole_rows == run.rows:
        run.notes.append("evaluation.diagonal has no effect, since all rows are generated; leave it out")
    run.notes += images.notes(run.sequence.concepts, config.backbone, run.all_images, config.data)
    run.notes += images.unread_prompts(run.sequence, config.backbone)
    readers = prompt_length.readers_of(run.backbone, run.judges["clip"].tokenizer, added=1)
    run.notes += prompt_length.check(readers, row_cells)


def refuse_nouns_that_come_twice(run: Run) -> None:
    """UserError if two concepts of the sequence have one class noun: without a word they are one."""
    nouns: dict[str, str] = {}
    for concept in run.sequence.concepts:
        if (first := nouns.setdefault(concept.class_noun, concept.name)) != concept.name:
            raise UserError(
                f"word=none: in sequence {run.config.sequence} {first} and {concept.name} are both called "
                f"{quoted(concept.class_noun)}, and nothing tells them apart; use word=rare or word=learned"
            )


def identify(run: Run) -> None:
    """Set `run.facts`, everything that the scores depend on, and the folder, which is named after their hash."""
    config, backbone = run.config, run.backbone
    run.facts = {
        "method": Path(config.method).stem,
        **own_modules.identity(run.method_class),
        "options": run.method_class.Options.identifying(config.options),
        # order and seed are in the folder's name: a sequence has the same hash in all orders
        "sequence": sequences.content_hash(sequences.load(config.sequence)),
        "images": {name: images.content_hash(p) for name, p in run.images.items()},
        "backbone": backbone.weights_hash,
        "judges": {name: identity.counted(j.identity) for name, j in run.judges.items()},
        "sampler": asdict(run.sampler),
        "pictures_per_prompt": run.pictures_per_prompt,
        "dtype": str(backbone.dtype),
        "picture_size": backbone.picture_size,
    }
    if any(run.references[name] is not run.images[name] for name in run.images):
        run.facts["references"] = {name: images.content_hash(p) for name, p in run.references.items()}
    if config.rows is not None:
        run.facts["rows"] = sorted(config.rows)
    if config.evaluation.forward_transfer_cells:
        run.facts["upper_triangle"] = True
    if config.evaluation.diagonal:
        run.facts["diagonal"] = True
    if config.evaluation.adapter_scales:
        run.facts["adapter_scales"] = list(config.evaluation.adapter_scales)
    run.folder = run_folder(
        output=config.output,
        sequence=run.sequence.name,
        backbone=Path(config.backbone).name,
        method=run.facts["method"],
        run_hash=short_hash(run.facts),
        order=config.order,
        seed=config.seed,
    )


def judges_for_measures(
    folder: Path, run_judges: Mapping[str, judges.Judge], device: torch.device | str
) -> dict[str, Embeddings]:
    """The judges that `measures` uses, with cached embeddings: the run's, and Inception if its weights are available.

    device: Inception's, the same as the run's.
    """
    file = inception.weights()
    all_judges = run_judges if file is None else {**run_judges, "inception": inception.Inception(file, device)}
    return {name: Embeddings(RunFolder(folder).embeddings, judge) for name, judge in all_judges.items()}
