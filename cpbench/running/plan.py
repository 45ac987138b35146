"""Estimates a run's cost on this machine: evaluations counted by the method itself, time from two short rehearsals."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from cpbench.backbones.sampling import Sampler, SampleRequest, evaluations, generate
from cpbench.errors import UserError
from cpbench.method import Options, State, Task
from cpbench.records.pictures import png_bytes
from cpbench.running.cost import PeakMemory
from cpbench.running.devices import few_threads
from cpbench.running.prepare import Run
from cpbench.running.progress import span

REPEATED = (
    "steps",
    "samples",
    "draws",
    "pictures",
)  # options with these endings are repetitions: a rehearsal does fewer
LENGTHS = SHORT, LONG = 3, 12  # of a rehearsal: the largest number of repetitions
SAMPLED_STEPS = (2, 6)
COPIES = 2  # of each picture: in the run's folder and in the cache


@dataclass(frozen=True)
class Plan:
    """Counts, bytes and seconds of a whole run from its beginning; those of generation are upper bounds.

    picture_bytes: of both copies, the run's and the cache's; some filesystems store them once.

    Identical pictures are generated once, so methods that do not change learned concepts generate fewer than `pictures`.
    """

    tasks: int
    learning_evaluations: int
    generation_evaluations: int
    pictures: int
    state_bytes: int
    picture_bytes: int
    peak_memory_bytes: int
    learning_seconds: float
    generation_seconds: float


def shortened(options: Options, most: int) -> Options:
    """The options with all numbers of repetitions reduced by the same factor, the largest to `most`."""
    fields = type(options).model_fields
    repeated = {n: v for n in fields if n.rpartition("_")[2] in REPEATED and (v := getattr(options, n))}
    share = min(1.0, most / max(repeated.values(), default=1))
    return options.model_copy(update={name: max(1, round(value * share)) for name, value in repeated.items()})


def plan(run: Run) -> Plan:
    """Count the run, and rehearse two tasks and one batch of pictures on its backbone, each at two lengths.

    The two lengths separate fixed costs (loading, encoding, inserting a LoRA) from the time per evaluation:
    seconds = fixed + evaluations x slope, for the first task and for the second, which stands for all later ones.
    """
    concepts, backbone = run.sequence.concepts, run.backbone
    pictures = sum(cell.pictures for t in run.rows for cell in run.cells_of(t))
    state, sizes, of_task = State(), [0], []
    with few_threads(backbone), PeakMemory(backbone.device) as memory:
        for t in range(1, len(concepts) + 1)[:2]:
            # the first rehearsal is extra: it loads what is loaded on first use
            lengths = [SHORT, *LENGTHS] if t == 1 else LENGTHS
            rehearsals = [timed_learning(run, run.task(t), state, most) for most in lengths]
            of_task.append(line_of(*((evaluations, seconds) for evaluations, seconds, _ in rehearsals[-2:])))
            state = rehearsals[0][2]
            sizes.append(sum(state.bytes_by_type().values()))
        batches = [timed_generation(run, steps) for steps in (SAMPLED_STEPS[0], *SAMPLED_STEPS)]
    counts = run.counts
    if counts is None:
        raise UserError(
            f"method {run.config.method}: its evaluations cannot be counted, since it fails on the counting backbone; run it instead"
        )
    growth = sizes[-1] - sizes[-2]
    generation = evaluations(backbone, run.sampler, pictures)
    fixed, slope = line_of(*((work, seconds) for work, seconds, _ in batches[-2:]))
    return Plan(
        tasks=len(concepts),
        learning_evaluations=sum(counts),
        generation_evaluations=generation,
        pictures=pictures,
        state_bytes=sum(sizes[1] + k * (growth if len(sizes) > 2 else 0) for k in range(len(concepts))),
        picture_bytes=COPIES * pictures * len(png_bytes(batches[0][2])),
        peak_memory_bytes=memory.peak,
        learning_seconds=sum(
            a + b * n for n, (a, b) in zip(counts, [of_task[0], *of_task[-1:] * len(counts)], strict=False)
        ),
        generation_seconds=pictures / run.sampler.batch_size * fixed + generation * slope,
    )


def rehearsed_peak(run: Run) -> int:
    """Bytes at the peak of a short rehearsal: two tasks, and one batch of pictures, at the run's own batch sizes."""
    state = State()
    with few_threads(run.backbone), PeakMemory(run.backbone.device) as memory:
        for t in range(1, len(run.concepts) + 1)[:2]:
            _, _, state = timed_learning(run, run.task(t), state, SHORT)
        timed_generation(run, SAMPLED_STEPS[0])
    return memory.peak


def timed_learning(run: Run, task: Task, state: State, most: int) -> tuple[int, float, State]:
    """(evaluations, seconds, resulting state) of a task whose repetitions are limited to `most`."""
    before, began = run.backbone.unet_evaluations, time.perf_counter()
    after = run.method_class(shortened(run.options, most)).learn(run.backbone, task, state)
    run.backbone.restore()
    if run.backbone.device.type == "cuda":
        torch.cuda.synchronize(run.backbone.device)
    return run.backbone.unet_evaluations - before, time.perf_counter() - began, after


def timed_generation(run: Run, steps: int) -> tuple[int, float, np.ndarray]:
    """(evaluations, seconds, one picture) of a batch with this number of sampler steps."""
    n, noun = run.sampler.batch_size, run.sequence.concepts[0].class_noun
    sampler = Sampler(steps, run.sampler.guidance_scale, n)
    requests = [SampleRequest(f"a {noun}", run.config.seed, "plan", "a {}", k) for k in range(n)]
    began = time.perf_counter()
    pictures = generate(run.backbone, requests, sampler)
    return evaluations(run.backbone, sampler, n), time.perf_counter() - began, pictures[0]


def line_of(short: tuple[int, float], long: tuple[int, float]) -> tuple[float, float]:
    """(fixed seconds, seconds per evaluation) from (evaluations, seconds) at two lengths; neither is negative."""
    (e, s), (e_long, s_long) = short, long
    slope = max(0.0, (s_long - s) / (e_long - e)) if e_long > e else 0.0
    return max(0.0, s - slope * e), slope


def plan_lines(estimate: Plan) -> list[tuple[str, str]]:
    """(label, text) of each line of `cpbench plan`."""

    def size(n: int) -> str:
        return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"

    return [
        ("tasks", str(estimate.tasks)),
        ("learning", f"{estimate.learning_evaluations:,} UNet evaluations, about {span(estimate.learning_seconds)}"),
        (
            "pictures",
            f"{estimate.pictures:,} pictures, {estimate.generation_evaluations:,} UNet evaluations, about {span(estimate.generation_seconds)} at most",
        ),
        (
            "disk",
            f"{size(estimate.state_bytes)} of states, {size(estimate.picture_bytes)} of pictures (in the run and in the cache) at most",
        ),
        ("memory", f"{size(estimate.peak_memory_bytes)} at the peak of a rehearsal"),
        ("time", f"about {span(estimate.learning_seconds + estimate.generation_seconds)} at most, judging apart"),
    ]
