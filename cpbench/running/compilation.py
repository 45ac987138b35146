"""Whether a run's denoiser is compiled: by the planned work and the machine's tools alone, so that the same command gives
the same bits. What a clock or a cache says decides nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cpbench.backbones.compiling import CompiledForward, obstacle
from cpbench.running.devices import weights_of
from cpbench.running.rows import generation_groups

if TYPE_CHECKING:
    from cpbench.records.record import Cost
    from cpbench.running.prepare import Run

# Seconds of one evaluation per weight and position of the latent. On one core measured with the miniature (7.3 million
# weights, 16 x 16: 18 ms); on a GPU computed for SD 1.5 in bfloat16 at a quarter of an H200's peak, not measured.
SECONDS = {"cpu": 1e-11, "cuda": 1e-15}
SHARE_SAVED = 0.15  # of those seconds, measured on the CPU
SECONDS_COMPILING = 110.0  # of one size of batch, the first time; from the cache it takes a tenth of it
MOST_SIZES = 4  # of batches; torch gives up compiling after eight variants of a function


def compiled_forward(run: Run) -> CompiledForward | None:
    """The denoiser's compiled forward for the sizes of batches that repay it; None if it is not to be compiled.

    With `compile` "on" at least the size with most work is compiled. Why it cannot be goes into `run.notes`.
    """
    choice, backbone = run.config.compile, run.backbone
    if choice == "off":
        return None
    sizes = sizes_to_compile(planned_seconds(run), choice == "on")
    if not sizes:
        return None
    reason = "it does not go with --offload" if backbone.offload else obstacle(backbone.device)
    if reason:
        run.notes.append(f"the denoiser is not compiled: {reason}")
        return None
    return CompiledForward(backbone.denoiser, sizes)


def sizes_to_compile(seconds: Mapping[int, float], is_asked: bool) -> list[int]:
    """Of {size of batch: seconds of sampling}, the sizes worth compiling, those with most work first."""
    by_work = sorted(seconds, key=lambda size: (-seconds[size], size))
    worthwhile = [size for size in by_work if SHARE_SAVED * seconds[size] >= SECONDS_COMPILING]
    return (worthwhile or (by_work[:1] if is_asked else []))[:MOST_SIZES]


def planned_seconds(run: Run) -> dict[int, float]:
    """About how long one core (or a GPU) computes batches of each size, as they are passed to the denoiser."""
    evaluation = (
        SECONDS.get(run.backbone.device.type, 0.0) * weights_of(run.backbone) * math.prod(run.backbone.latent_shape[1:])
    )
    batches = sum((planned_batches(run, t) for t in run.rows), Counter())
    return {size: number * size * run.sampler.num_inference_steps * evaluation for size, number in batches.items()}


def planned_batches(run: Run, t: int) -> Counter[int]:
    """How many batches of each size row t passes through all sampler steps: with guidance, of twice the pictures."""
    a_step = run.backbone.family.evaluations_a_step(run.sampler.guidance_scale)
    per_prompt, batches = t > 0 and run.method_class(run.options).per_prompt, Counter[int]()
    for group in generation_groups(run.cells_of(t)):
        if per_prompt:  # one installation per prompt
            counts = [cell.pictures // len(cell.templates) for cell in group for _ in cell.templates]
        else:
            counts = [sum(cell.pictures for cell in group)]
        for count in counts:
            whole, left_over = divmod(count, run.sampler.batch_size)
            batches[a_step * run.sampler.batch_size] += whole
            batches[a_step * left_over] += left_over > 0
    return +batches  # without sizes that do not occur


def cost_line(costs: Mapping[int, Cost]) -> str:
    """What compiling took in the rows of these costs, in words; "" if nothing was compiled."""
    seconds, anew = (
        sum(cost.compile_seconds for cost in costs.values()),
        sum(cost.compiled_anew for cost in costs.values()),
    )
    if not seconds:
        return ""
    source = "new: later runs take it from the cache" if anew else "from the cache"
    return f"compiling the denoiser took {seconds:.0f} s of generation ({source})"
