"""Sampling speed of the miniature on one core.

    taskset -c 0 .venv/bin/python benchmarks/sampling.py --eager        # or --compiled

A forward of 32 latents, which a batch of 16 pictures with guidance takes, by the denoiser as it samples in a run: a LoRA
of rank 8 on the layers of `seqlora`'s default, installed. Printed are its GFLOP/s, those of a product of two 512 x 512
float32 matrices in the same process, by turns, and their ratio. Floating point operations are counted by torch.

    taskset -c 0 .venv/bin/python benchmarks/sampling.py --pictures

Seconds and ratios of one pipeline call for a cell of 16 pictures against one call per picture, best of three.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch.utils.flop_counter import FlopCounterMode

from cpbench import config
from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.compiling import CompiledForward
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, memory_format

PRODUCT = 512  # rows and columns
PRODUCTS = 40  # per turn, about a fifth of a forward
EVALUATIONS = 32


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def backbone_as_in_a_run() -> Backbone:
    backbone = loading.load("miniature")
    targets = config.resolve({"method": "seqlora", "sequence": "quick3"})[2].target_modules
    backbone.add_lora(8, targets, torch.Generator().manual_seed(0))
    return backbone


@torch.no_grad()
def forward_speed(turns: int, is_compiled: bool) -> dict[str, float]:
    """GFLOP/s of a forward and of a matrix product, and the ratio: medians over the turns; and the seconds of compiling."""
    backbone = backbone_as_in_a_run()
    noisy = torch.randn(EVALUATIONS, *backbone.latent_shape).to(memory_format=memory_format(backbone))
    times, prompt_embeds = torch.tensor(500), backbone.encode_prompts(["a dog in the snow"] * EVALUATIONS)
    matrix = torch.randn(PRODUCT, PRODUCT)
    compiled = CompiledForward(backbone.denoiser, {EVALUATIONS}) if is_compiled else None
    with backbone.generating():

        def forward() -> None:
            backbone.denoiser(noisy, times, encoder_hidden_states=prompt_embeds, return_dict=False)

        def products() -> None:
            for _ in range(PRODUCTS):
                matrix @ matrix

        forward()
        with FlopCounterMode(display=False) as counter:
            forward()
        operations = counter.get_total_flops()
        with compiled.installed() if compiled else nullcontext():
            forward()  # which compiles it
            pairs = [(seconds(forward), seconds(products)) for _ in range(turns)]
    speeds = [(operations / f / 1e9, PRODUCTS * 2 * PRODUCT**3 / p / 1e9) for f, p in pairs]
    return {
        "forward_gflops": round(statistics.median(f for f, _ in speeds), 1),
        "product_gflops": round(statistics.median(p for _, p in speeds), 1),
        "ratio": round(statistics.median(f / p for f, p in speeds), 3),
        "compile_seconds": round(compiled.seconds, 1) if compiled else 0.0,
    }


def pictures() -> None:
    backbone = backbone_as_in_a_run()
    cell = [SampleRequest("a dog in the snow", 0, "dog", "a {} in the snow", k) for k in range(16)]
    best = {}
    for size in (16, 1):
        generate(backbone, cell, Sampler(batch_size=size))
        best[size] = min(
            seconds(lambda size=size: generate(backbone, cell, Sampler(batch_size=size))) for _ in range(3)
        )
    print(
        f"16 pictures, 10 steps: {best[16]:.2f} s in one call, {best[1]:.2f} s in 16 calls; {best[1] / best[16]:.2f} times faster"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampling speed of the miniature on one core.")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--eager", action="store_true", help="forward as it is")
    mode.add_argument("--compiled", action="store_true", help="compiled forward, from the cache if it is there")
    mode.add_argument("--pictures", action="store_true", help="batches of pictures against single ones")
    parser.add_argument("--turns", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.pictures:
        pictures()
    else:
        print(json.dumps(forward_speed(arguments.turns, arguments.compiled)))


if __name__ == "__main__":
    main()
