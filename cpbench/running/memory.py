"""Memory that is not enough: refused before anything is allocated where that can be known, else told in one line."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from cpbench.errors import UserError

if TYPE_CHECKING:
    from cpbench.running.prepare import Run

COPIES_TRAINED = 4  # of a trained tensor: itself, its gradient and the two moments of AdamW
COPIES_OF_BATCH = 3  # at least: the latents, their noise and the noised latents
FLOAT = 4  # bytes
SHORTAGES = re.compile(
    "out of memory|can't allocate memory|not enough memory|Storage size calculation overflowed|failed to allocate|"
    "CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
ADVICE = (
    "lower the method's batch_size (--set batch_size=1) or evaluation.batch_size, pass --gradient-checkpointing, "
    "--attention-slicing or, on a GPU, --offload, which change no score, or choose a smaller --resolution or rank"
)


def shortage_line(error: BaseException) -> str:
    """The one line for an error that says that memory is not enough, of CUDA, MPS, the CPU or numpy; else ""."""
    if not isinstance(error, MemoryError | RuntimeError):
        return ""
    text = " ".join(str(error).split())
    is_cuda = any(c.__name__ == "OutOfMemoryError" for c in type(error).__mro__)
    if not (is_cuda or isinstance(error, MemoryError) or SHORTAGES.search(text)):
        return ""
    device = "the GPU" if is_cuda or "CUDA" in text or "MPS" in text else "this machine"
    amount = re.search(r"allocate:? ?(?:memory: you tried to allocate )?([\d.]+ ?(?:[KMGTP]i?B|bytes))", text)
    asked_for = f", {_readable(amount[1])} more were needed" if amount else ""
    return f"out of memory on {device}{asked_for}; {ADVICE}"


def _readable(amount: str) -> str:
    """ "20.0 GB" for "20000000000 bytes"; other amounts as they are."""
    count, _, unit = amount.partition(" ")
    return size_of(int(count)) if unit == "bytes" and count.isdigit() else amount


def size_of(count: int) -> str:
    """A number of bytes, as text: "20.0 GB"."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count:,} bytes"


def refuse_oversized(run: Run) -> None:
    """UserError for a rank or a batch that cannot fit into the device's memory, whatever else needs some."""
    from cpbench.learning.weights_or_lora import device_memory

    options, backbone = run.config.options, run.backbone
    memory = device_memory(backbone.device)
    limit = f"{'the GPU' if backbone.device.type == 'cuda' else 'this machine'} has {size_of(memory)}"
    rank = options.get("rank")
    if isinstance(rank, int) and options.get("adapter", "lora") in ("lora", "dora"):
        needed = COPIES_TRAINED * FLOAT * rank * sides(run)
        if needed > memory:
            raise UserError(
                f"method {run.config.method}: rank {rank:,} needs at least {size_of(needed)} for A and B with gradients and "
                f"AdamW's moments, and {limit}; lower rank"
            )
    latent_bytes = COPIES_OF_BATCH * FLOAT * math.prod(backbone.latent_shape)
    pictures = max((cell.pictures for t in run.rows for cell in run.cells_of(t)), default=0)
    batches = {
        "batch_size": (options.get("batch_size"), latent_bytes),
        "evaluation.batch_size": (min(run.sampler.batch_size, pictures), 3 * FLOAT * backbone.picture_size**2),
    }
    for name, (count, picture_bytes) in batches.items():
        if isinstance(count, int) and count * picture_bytes > memory:
            needed = size_of(count * picture_bytes)
            raise UserError(f"{name} {count:,}: a batch needs at least {needed}, and {limit}; lower {name}")


def sides(run: Run) -> int:
    """The sum of inputs and outputs of all layers that the method's target_modules name; 0 if it has none."""
    from cpbench.backbones import adapters

    targets = run.config.options.get("target_modules")
    if not targets:
        return 0
    layers = (
        run.backbone.denoiser.get_submodule(name) for name in adapters.matching_modules(run.backbone.denoiser, targets)
    )
    return sum(sum(layer.weight.shape[:2]) for layer in layers if getattr(layer, "weight", None) is not None)
