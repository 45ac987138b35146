"""One task: its state recovered, or learned and checked."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd
import torch

from cpbench.concepts import images
from cpbench.errors import DamagedState, RulesError, UserError, quoted
from cpbench.files import write_atomically, write_json
from cpbench.method import KINDS, State, Task
from cpbench.records import machine
from cpbench.running import audit, rows
from cpbench.running.cost import PeakMemory, Stopwatch
from cpbench.running.prepare import LEARNING_COST, Run
from cpbench.running.progress import Reporter

DROPPED = "dropped"  # in a task's folder: its state's tensors were taken off the disk on purpose


def drop_state(run: Run, t: int) -> None:
    """Take the tensors of state t off the disk, once task t + 1 is learned and drawn, where they are not to be kept."""
    folder = run.task_folder(t)
    if run.config.keep_states == "all" or not (folder / "state.safetensors").exists():
        return
    if run.config.keep_states == "last" or "weights" in State.load(folder).bytes_by_kind():
        (folder / DROPPED).touch()  # first: a state without tensors is damaged unless this says why
        (folder / "state.safetensors").unlink()


def is_dropped(run: Run, t: int) -> bool:
    """Whether state t was taken off the disk, and a later one, and its row, make up for it."""
    drawn = t not in run.rows or rows.is_complete(run, t)
    if not (run.task_folder(t) / DROPPED).exists() or not drawn:
        return False
    return t < len(run.concepts) and ((run.task_folder(t + 1) / "state.safetensors").exists() or is_dropped(run, t + 1))


def learn_task(run: Run, t: int, state: State | None, reporter: Reporter) -> State | None:
    """State t: read back if it is there and whole, else learned, saved, and read back. None if it was dropped."""
    folder, concept = run.task_folder(t), run.sequence.concepts[t - 1]
    if is_dropped(run, t):
        reporter.advance(run.learning_work(t))
        return None
    if (folder / DROPPED).exists():  # and nothing makes up for it
        for name in ("state.json", DROPPED):
            (folder / name).unlink(missing_ok=True)
    try:
        saved = run.load_state(t)
        reporter.advance(run.learning_work(t))
        return saved
    except FileNotFoundError:
        pass
    except DamagedState as error:
        aside = set_aside(folder, ("state.json", "state.safetensors", "scores.csv"))
        reporter.say(f"{error}; set aside as {aside}, task {t} is done again")
    reporter.at(f"task {t} of {len(run.concepts)}: learning {concept.name}")
    curve: list[dict[str, float | str]] = []
    shown = run.backbone.unet_evaluations

    def log(step: int, phase: str = "train", **figures: float) -> None:
        nonlocal shown
        curve.append({"phase": phase, "step": step, **figures})
        reporter.advance(3 * (run.backbone.unet_evaluations - shown))
        shown = run.backbone.unet_evaluations

    task = Task(t, concept.name, concept.class_noun, run.images[concept.name], run.config.seed, log)
    others = [
        path
        for c in run.sequence.concepts
        if c.name != concept.name
        for path in images.guarded(c, run.config.backbone, run.config.data)
    ]
    backbone, watch = run.backbone, Stopwatch()
    backbone.restore()
    before, backbone.trainable_parameters = backbone.unet_evaluations, 0
    method = run.method_class(run.options)
    guard = (
        contextlib.nullcontext()
        if method.sees_earlier_data
        else audit.learning_only(concept.name, others, run.config.output)
    )
    with PeakMemory(backbone.device.type) as memory, watch("learning"), guard:
        learned = method.learn(backbone, task, state)
    reporter.advance(3 * (backbone.unet_evaluations - shown))
    backbone.restore()
    refuse_odd_state(run.config.method, t, learned, run.concepts[:t])
    for name, tensor in learned.tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"task {t}, {concept.name}: {name} came out as no number (NaN or infinity); lower the rates"
            )
    if not method.sees_earlier_data:
        if kept := [name for name in learned.tensors if name.startswith("pictures/")]:
            raise RulesError(f"it carries {kept[0]}, and does not say that it sees earlier data")
        audit.search_state(
            learned.tensors,
            {name: (run.images[name], backbone.encode_images(run.images[name])[0]) for name in run.concepts[:t]},
        )
    if curve:
        write_atomically(folder / "curve.csv", pd.DataFrame(curve).to_csv(index=False, float_format="%.6g").encode())
    cost = {
        **watch.record(),
        "learning_unet_evaluations": backbone.unet_evaluations - before,
        "trainable_parameters": backbone.trainable_parameters,
        "carried_parameters": sum(v.numel() for v in learned.tensors.values()),
        "carried_bytes": learned.bytes_by_kind(),
        "peak_memory_bytes": memory.peak,
    }
    write_json(folder / LEARNING_COST, {"cost": cost, "made_on": machine.facts(backbone.device)})
    learned.save(folder, run.bound(t))
    return run.load_state(t)


def refuse_odd_state(method: str, t: int, learned: object, concepts: list[str]) -> None:
    """UserError for what `learn` may not return, said before it is saved."""
    where = f"method {method}: task {t}: learn"
    if not isinstance(learned, State):
        raise UserError(f"{where} must return a cpbench.method.State, and returned {quoted(learned)}")
    if learned.concepts != concepts:
        raise UserError(
            f"{where} returned a state whose facts['concepts'] is {quoted(learned.concepts)}; make it {concepts}"
        )
    if odd := [name for name in learned.tensors if "/" not in name or name.partition("/")[0] not in KINDS]:
        raise UserError(
            f"{where} returned a tensor called {quoted(odd[0])}; begin it with one of {', '.join(KINDS)} and /"
        )


def set_aside(folder: Path, files: tuple[str, ...]) -> str:
    """Rename, never delete: the files stay beside the new ones under the ending that is returned."""
    n = 1
    while any((folder / f"{name}.damaged-{n}").exists() for name in files):
        n += 1
    for name in files:
        if (folder / name).exists():
            (folder / name).rename(folder / f"{name}.damaged-{n}")
    return f"*.damaged-{n}"
