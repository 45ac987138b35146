"""Sampling speed: one pipeline call for a cell of 16 pictures against one call per picture, and a LoRA merged into the weights
during sampling against peft's layers.

    taskset -c 0 .venv/bin/python benchmarks/sampling.py

Prints seconds and ratio of each pair on one thread, best of three.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch

from cpbench import config
from cpbench.backbones import loading
from cpbench.backbones.sampling import Sampler, SampleRequest, generate


def seconds(work: Callable[[], object], times: int = 3) -> float:
    work()
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return min(durations)


def main() -> None:
    torch.set_num_threads(1)
    backbone = loading.load("miniature")
    cell = [SampleRequest("a dog in the snow", 0, "dog", "a {} in the snow", k) for k in range(16)]
    batched = seconds(lambda: generate(backbone, cell, Sampler(batch_size=16)))
    singly = seconds(lambda: generate(backbone, cell, Sampler(batch_size=1)))
    print(
        f"16 pictures, 10 steps: {batched:.2f} s in one call, {singly:.2f} s in 16 calls; {singly / batched:.2f} times faster"
    )
    targets = config.resolve({"method": "seqlora", "sequence": "quick3"})[2].target_modules
    backbone.add_lora(8, targets, torch.Generator().manual_seed(0))
    merged = seconds(lambda: generate(backbone, cell, Sampler(batch_size=16)))
    backbone.generating = nullcontext  # merges nothing
    wrapped = seconds(lambda: generate(backbone, cell, Sampler(batch_size=16)))
    print(
        f"the same with a LoRA on {len(targets)} types of layers: {merged:.2f} s merged, {wrapped:.2f} s in peft's layers; "
        f"{wrapped / merged:.2f} times faster"
    )


if __name__ == "__main__":
    main()
