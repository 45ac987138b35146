"""What a run would cost on this machine, before it is spent: counted exactly, timed by a rehearsal of single steps."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cpbench.backbones.sampling import Sampler, Wanted, draw, evaluations
from cpbench.method import Options, State, Task
from cpbench.records.pictures import png_bytes
from cpbench.running.cost import PeakMemory
from cpbench.running.prepare import Run
from cpbench.running.progress import span

REPEATED = ("steps", "draws", "pictures")  # options that end so count repetitions: the rehearsal does each once
SAMPLED_STEPS = 2
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
    drawing_evaluations: int
    pictures: int
    state_bytes: int
    picture_bytes: int
    peak_memory_bytes: int
    learning_seconds: float
    drawing_seconds: float


def once(options: Options) -> Options:
    """The options with every repetition done once."""
    fields = type(options).model_fields
    counts = [name for name in fields if name.rpartition("_")[2] in REPEATED and getattr(options, name)]
    return options.model_copy(update=dict.fromkeys(counts, 1))


def plan(run: Run) -> Plan:
    """Count the run, and rehearse on its backbone two tasks of single steps and one batch of two sampler steps."""
    concepts, backbone = run.sequence.concepts, run.backbone
    numbers = range(1, len(concepts) + 1)
    learning = sum(run.method_class(run.options).unet_evaluations(t) for t in numbers)
    pictures = sum(cell.pictures for t in run.rows for cell in run.cells_of(t))
    drawing = evaluations(backbone, run.sampler, pictures)

    short, state, sizes, rehearsed = once(run.options), State(), [0], backbone.unet_evaluations
    with PeakMemory(backbone.device.type) as memory:
        began = time.perf_counter()
        for t, concept in list(zip(numbers, concepts, strict=True))[:2]:
            task = Task(t, concept.name, concept.class_noun, run.images[concept.name], run.config.seed)
            state = run.method_class(short).learn(backbone, task, state)
            backbone.restore()
            sizes.append(sum(state.bytes_by_kind().values()))
        learning_seconds, rehearsed = time.perf_counter() - began, backbone.unet_evaluations - rehearsed
        n = run.sampler.batch_size
        short_sampler = Sampler(SAMPLED_STEPS, run.sampler.guidance_scale, n)
        wanted = [Wanted(f"a {concepts[0].class_noun}", run.config.seed, "plan", "a {}", k) for k in range(n)]
        began = time.perf_counter()
        sample = draw(backbone, wanted, short_sampler)
        drawing_seconds = time.perf_counter() - began
    per_learning = learning_seconds / rehearsed if rehearsed else 0.0
    per_drawing = drawing_seconds / evaluations(backbone, short_sampler, n)
    growth = sizes[-1] - sizes[-2]
    return Plan(
        tasks=len(concepts),
        learning_evaluations=learning,
        drawing_evaluations=drawing,
        pictures=pictures,
        state_bytes=sum(sizes[1] + (t - 1) * (growth if len(sizes) > 2 else 0) for t in numbers),
        picture_bytes=COPIES * pictures * len(png_bytes(sample[0])),
        peak_memory_bytes=memory.peak,
        learning_seconds=learning * per_learning,
        drawing_seconds=drawing * per_drawing,
    )


def lines(it: Plan) -> list[tuple[str, str]]:
    """(what, how much) as a person reads it."""

    def size(n: int) -> str:
        return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"

    return [
        ("tasks", str(it.tasks)),
        ("learning", f"{it.learning_evaluations:,} UNet evaluations, about {span(it.learning_seconds)}"),
        (
            "drawing",
            f"{it.pictures:,} pictures, {it.drawing_evaluations:,} UNet evaluations, about {span(it.drawing_seconds)} at most",
        ),
        (
            "disk",
            f"{size(it.state_bytes)} of states, {size(it.picture_bytes)} of pictures (in the run and in the cache) at most",
        ),
        ("memory", f"{size(it.peak_memory_bytes)} at the peak of a rehearsal"),
        ("time", f"about {span(it.learning_seconds + it.drawing_seconds)} at most, judging apart"),
    ]
