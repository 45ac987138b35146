"""What a run would cost on this machine, before it is spent: counted by the method itself, timed by two short rehearsals."""

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
from cpbench.running.prepare import Run
from cpbench.running.progress import span

REPEATED = (
    "steps",
    "samples",
    "draws",
    "pictures",
)  # options that end so count repetitions: a rehearsal does fewer of each
LENGTHS = SHORT, LONG = 3, 12  # of a rehearsal: how often the most frequent repetition is done
SAMPLED_STEPS = (2, 6)
COPIES = 2  # of a picture: in the run's folder and in the cache


@dataclass(frozen=True)
class Plan:
    """Counts, bytes and seconds of a whole run from its beginning; drawing is an upper bound.

    picture_bytes: of both copies, the run's own and the cache's, which share their blocks on some filesystems.

    Pictures that would come out as they were drawn before are not drawn again, so methods that leave learned concepts
    alone cost less than `pictures` says.
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
    """The options with every repetition done in the same proportion less often, the most frequent one `most` times."""
    fields = type(options).model_fields
    repeated = {n: v for n in fields if n.rpartition("_")[2] in REPEATED and (v := getattr(options, n))}
    share = min(1.0, most / max(repeated.values(), default=1))
    return options.model_copy(update={name: max(1, round(value * share)) for name, value in repeated.items()})


def plan(run: Run) -> Plan:
    """Count the run, and rehearse on its backbone two tasks and a batch of pictures, each at two lengths.

    What does not depend on the length (loading, encoding, a LoRA put in) is so told apart from what an evaluation takes:
    seconds = fixed + evaluations x slope, of the first task and of the second, whose slope stands for all later ones.
    """
    concepts, backbone = run.sequence.concepts, run.backbone
    pictures = sum(cell.pictures for t in run.rows for cell in run.cells_of(t))
    state, sizes, of_task = State(), [0], []
    with PeakMemory(backbone.device.type) as memory:
        for t, concept in list(enumerate(concepts, 1))[:2]:
            task = Task(t, concept.name, concept.class_noun, run.images[concept.name], run.config.seed)
            lengths = [SHORT, *LENGTHS] if t == 1 else LENGTHS  # once more at first: what is loaded when it is used
            rehearsals = [timed_learning(run, task, state, most) for most in lengths]
            of_task.append(line_of(*((evaluations, seconds) for evaluations, seconds, _ in rehearsals[-2:])))
            state = rehearsals[0][2]
            sizes.append(sum(state.bytes_by_type().values()))
        batches = [timed_generation(run, steps) for steps in (SAMPLED_STEPS[0], *SAMPLED_STEPS)]
    counts = run.counts
    if counts is None:
        raise UserError(f"method {run.config.method}: its evaluations cannot be counted before it runs; run it")
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


def timed_learning(run: Run, task: Task, state: State, most: int) -> tuple[int, float, State]:
    """(evaluations, seconds, state after it) of a task with no repetition done more than `most` times."""
    before, began = run.backbone.unet_evaluations, time.perf_counter()
    after = run.method_class(shortened(run.options, most)).learn(run.backbone, task, state)
    run.backbone.restore()
    if run.backbone.device.type == "cuda":
        torch.cuda.synchronize()
    return run.backbone.unet_evaluations - before, time.perf_counter() - began, after


def timed_generation(run: Run, steps: int) -> tuple[int, float, np.ndarray]:
    """(evaluations, seconds, a picture) of one batch with so many sampler steps."""
    n, noun = run.sampler.batch_size, run.sequence.concepts[0].class_noun
    sampler = Sampler(steps, run.sampler.guidance_scale, n)
    requests = [SampleRequest(f"a {noun}", run.config.seed, "plan", "a {}", k) for k in range(n)]
    began = time.perf_counter()
    pictures = generate(run.backbone, requests, sampler)
    return evaluations(run.backbone, sampler, n), time.perf_counter() - began, pictures[0]


def line_of(short: tuple[int, float], long: tuple[int, float]) -> tuple[float, float]:
    """(fixed seconds, seconds an evaluation) from (evaluations, seconds) at two lengths; neither is below zero."""
    (e, s), (e_long, s_long) = short, long
    slope = max(0.0, (s_long - s) / (e_long - e)) if e_long > e else 0.0
    return max(0.0, s - slope * e), slope


def plan_lines(estimate: Plan) -> list[tuple[str, str]]:
    """(what, how much) as a person reads it."""

    def size(n: int) -> str:
        return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"

    return [
        ("tasks", str(estimate.tasks)),
        ("learning", f"{estimate.learning_evaluations:,} UNet evaluations, about {span(estimate.learning_seconds)}"),
        (
            "drawing",
            f"{estimate.pictures:,} pictures, {estimate.generation_evaluations:,} UNet evaluations, about {span(estimate.generation_seconds)} at most",
        ),
        (
            "disk",
            f"{size(estimate.state_bytes)} of states, {size(estimate.picture_bytes)} of pictures (in the run and in the cache) at most",
        ),
        ("memory", f"{size(estimate.peak_memory_bytes)} at the peak of a rehearsal"),
        ("time", f"about {span(estimate.learning_seconds + estimate.generation_seconds)} at most, judging apart"),
    ]
