"""One task: its state is read from disk, or learned and checked."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pandas as pd
import psutil
import torch
from safetensors import SafetensorError, safe_open

from cpbench.backbones.backbone import Backbone
from cpbench.concepts import held_out, images
from cpbench.errors import DamagedState, RulesError, UserError, quoted
from cpbench.files import write_atomically, write_json
from cpbench.method import TENSOR_TYPES, State
from cpbench.output import say
from cpbench.records import machine
from cpbench.running import audit, rows
from cpbench.running.cost import PeakMemory, Stopwatch
from cpbench.running.prepare import Run
from cpbench.running.progress import Reporter
from cpbench.running.writing import Writer

MOST_OF_MEMORY = 0.25  # that is free: a state's bytes beside the state itself

_latents: WeakKeyDictionary[Backbone, dict[str, torch.Tensor]] = (
    WeakKeyDictionary()
)  # of the training pictures, by concept


def drop_state(run: Run, t: int) -> None:
    """Delete the tensors of state t, once task t + 1 is learned and evaluated, unless they are to be kept."""
    at = run.at.task(t)
    if run.config.keep_states == "all" or not at.state.exists():
        return
    if run.config.keep_states == "last" or has_whole_weights(at.state):
        at.dropped.touch()  # before the tensors: a state without them counts as damaged unless this file exists
        at.state.unlink()


def has_whole_weights(file: Path) -> bool:
    """Whether a state's file holds whole weights, by the names in its header. DamagedState if it cannot be read."""
    try:
        with safe_open(file, framework="pt") as tensors:
            return any(name.startswith("weights/") for name in tensors.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise DamagedState(file, f"it cannot be read as safetensors ({error})") from None


def is_dropped(run: Run, t: int) -> bool:
    """Whether state t was dropped and is not needed: its row is complete and a later state exists."""
    has_row = t not in run.rows or rows.is_complete(run, t)
    if not run.at.task(t).dropped.exists() or not has_row:
        return False
    return t < len(run.concepts) and (run.at.task(t + 1).state.exists() or is_dropped(run, t + 1))


def learn_task(run: Run, t: int, state: State | None, reporter: Reporter, writer: Writer) -> State | None:
    """State t: read from disk if it is complete, else learned, saved and read back. None if it was dropped.

    `writer` may still be writing it; what is read back is the same bytes.
    """
    if is_dropped(run, t):
        reporter.advance(run.learning_work(t))
        return None
    if (saved := recover(run, t)) is not None:
        reporter.advance(run.learning_work(t))
        return saved
    learned = learn(run, t, state, reporter)
    check(run, t, learned.state)
    return keep(run, t, learned, writer)


def recover(run: Run, t: int) -> State | None:
    """State t if it is on disk, undamaged and of this run, else None; damaged files are set aside."""
    at = run.at.task(t)
    if at.dropped.exists():  # dropped, but needed
        for file in (at.state_record, at.dropped):
            file.unlink(missing_ok=True)
    try:
        return run.load_state(t)
    except FileNotFoundError:
        return None
    except DamagedState as error:
        aside = set_aside(at.state_record, at.state, at.scores)
        say(f"{error}; its files were renamed to {aside}, and task {t} is learned again")
        return None


@dataclass
class Learned:
    """The result of `learn`, not checked yet: the state, its cost, and the training log, one line per step."""

    state: Any
    cost: dict[str, Any]
    curve: list[dict[str, float | str]]


def learn(run: Run, t: int, state: State | None, reporter: Reporter) -> Learned:
    """Learn task t with a new method object on a pristine backbone; RulesError if it opens data that it may not see."""
    concept, backbone, watch = run.sequence.concepts[t - 1], run.backbone, Stopwatch()
    reporter.at(f"task {t} of {len(run.concepts)}: learning {concept.name}")
    curve: list[dict[str, float | str]] = []
    evaluations_reported = backbone.unet_evaluations

    def log(step: int, phase: str = "train", **figures: float) -> None:
        nonlocal evaluations_reported
        curve.append({"phase": phase, "step": step, **figures})
        reporter.advance(3 * (backbone.unet_evaluations - evaluations_reported))
        evaluations_reported = backbone.unet_evaluations

    task = replace(run.task(t), log=log)
    other_data = [
        path
        for c in run.sequence.concepts
        if c.name != concept.name
        for path in images.guarded(c, run.config.backbone, run.config.data)
    ]
    other_data += held_out.files(concept, run.config.backbone, run.config.evaluation.held_out, run.config.data)
    backbone.restore()
    before, backbone.trainable_parameters = backbone.unet_evaluations, 0
    method = run.method_class(run.options)
    guard = (
        contextlib.nullcontext()
        if method.sees_earlier_data
        else audit.learning_only(concept.name, other_data, run.config.output)
    )
    with PeakMemory(backbone.device) as memory, watch("learning"), guard:
        learned = method.learn(backbone, task, state)
    reporter.advance(3 * (backbone.unet_evaluations - evaluations_reported))
    backbone.restore()
    cost = {
        **watch.record(),
        "learning_evaluations": backbone.unet_evaluations - before,
        "trainable_parameters": backbone.trainable_parameters,
        "peak_memory_bytes": memory.peak,
    }
    return Learned(learned, cost, curve)


def check(run: Run, t: int, learned: Any) -> None:
    """UserError for a state that is not valid, RulesError for one that contains training data."""
    refuse_invalid_state(run.config.method, t, learned, run.concepts[:t])
    for name, tensor in learned.tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"task {t}, {run.concepts[t - 1]}: {name} is not finite (NaN or infinity); lower the learning rates"
            )
    if run.method_class.sees_earlier_data:
        return
    if pictures_carried := [name for name in learned.tensors if name.startswith("pictures/")]:
        raise RulesError(f"its state carries {pictures_carried[0]}, but the method does not declare sees_earlier_data")
    latents = _latents.setdefault(run.backbone, {})
    for name in run.concepts[:t]:
        if name not in latents:  # encoded once per run, not once per task
            latents[name] = run.backbone.encode_images(run.all_images[name])[0].cpu()
    audit.search_state(learned.tensors, {name: (run.all_images[name], latents[name]) for name in run.concepts[:t]})


def keep(run: Run, t: int, learned: Learned, writer: Writer) -> State:
    """Write the training log, the cost, and last the state, which completes the task. Returns the state, read back.

    The state is read back from the bytes that `writer` is writing, where memory has room for them beside the state for as
    long as that takes; else from the disk.
    """
    at, state = run.at.task(t), learned.state
    if learned.curve:
        text = pd.DataFrame(learned.curve).to_csv(index=False, float_format="%.6g")
        write_atomically(at.curve, text.encode())
    state_size = {
        "state_parameters": sum(v.numel() for v in state.tensors.values()),
        "state_bytes": state.bytes_by_type(),
    }
    made_on = machine.facts(run.backbone.device)
    write_json(at.cost, {"cost": learned.cost | state_size, "made_on": made_on})
    binding = run.state_binding(t)
    has_room = sum(state_size["state_bytes"].values()) <= psutil.virtual_memory().available * MOST_OF_MEMORY
    if at.row.exists() or not has_room:  # a row on disk may be this state's, which is known once it is written
        state.save(at.path, binding)
        return run.load_state(t)
    serialized = state.serialized(binding)
    writer.submit(serialized.write, at.path)
    return serialized.state(at.path)


def refuse_invalid_state(method: str, t: int, learned: object, concepts: list[str]) -> None:
    """UserError for a return value of `learn` that is not a valid state."""
    context = f"method {method}: task {t}: learn"
    if not isinstance(learned, State):
        raise UserError(f"{context} must return a cpbench.method.State, but returned {quoted(learned)}")
    if learned.concepts != concepts:
        raise UserError(
            f"{context} returned a state whose facts['concepts'] is {quoted(learned.concepts)}; make it {concepts}"
        )
    if untyped := [name for name in learned.tensors if "/" not in name or name.partition("/")[0] not in TENSOR_TYPES]:
        raise UserError(
            f"{context} returned a tensor called {quoted(untyped[0])}; begin it with one of {', '.join(TENSOR_TYPES)} and /"
        )


def set_aside(*files: Path) -> str:
    """Rename files, so that they stay next to the new ones. Returns the pattern of the new names."""
    n = 1
    while any(file.with_name(f"{file.name}.damaged-{n}").exists() for file in files):
        n += 1
    for file in files:
        if file.exists():
            file.rename(file.with_name(f"{file.name}.damaged-{n}"))
    return f"*.damaged-{n}"
