"""A learning step with a LoRA on all layers over the pristine network's forward and backward to its activations alone.

    taskset -c 0 .venv/bin/python benchmarks/learning_step.py --steps 40
    taskset -c 0 .venv/bin/python benchmarks/learning_step.py --steps 40 --without-word

The miniature, batch 4, rank 8, one thread, all in channels_last; turns of each in one process. Prints the milliseconds
of processor time of both, the least and the median, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.memory_format import channels_last
from cpbench.learning import denoising, train
from cpbench.method import Task

BATCH_SIZE, RANK, TURN = 4, 8, 10  # TURN: steps of each before the other's turn


def pristine_steps(backbone: Backbone, times: list[float]) -> None:
    """Forward and backward of the untouched denoiser, with gradients to its inputs and activations only."""
    shape = (BATCH_SIZE, *backbone.latent_shape)
    generator = torch.Generator().manual_seed(0)
    noisy, target = (torch.randn(shape, generator=generator) for _ in range(2))
    prompt_embeds = backbone.encode_prompts(["a photo of a dog"]).detach().expand(BATCH_SIZE, -1, -1)
    timesteps = torch.tensor([100, 300, 500, 700])
    with channels_last(backbone.denoiser):
        for _ in range(TURN):
            start = time.process_time()
            prediction = backbone.predict(noisy.requires_grad_(True), timesteps, prompt_embeds)
            (prediction - target).square().mean().backward()
            times.append(time.process_time() - start)


def learning_steps(backbone: Backbone, times: list[float], with_word: bool) -> None:
    """Steps of `learning.train` as a method takes them."""
    marks: list[float] = []
    images = np.random.default_rng(0).integers(0, 255, (4, backbone.picture_size, backbone.picture_size, 3), np.uint8)
    task = Task(1, "dog", "dog", images, 0)
    layers = [name for name, m in backbone.denoiser.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    groups = [(1e-3, backbone.add_lora(RANK, layers, task.generator("lora")))]
    word = backbone.add_token("<v1>", backbone.word_embedding("dog"))
    groups += [(1e-3, {"word": word})] if with_word else []
    loss = denoising(backbone, "<v1> dog")

    def marked(batch: object) -> object:
        marks.append(time.process_time())
        return loss(batch)

    train(backbone, task, marked, groups, TURN + 2, BATCH_SIZE)
    backbone.restore()
    times.extend(b - a for a, b in zip(marks[1:], marks[2:], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40, help="steps of each, in turns of 10")
    parser.add_argument("--without-word", action="store_true", help="train the LoRA only")
    parser.add_argument("--compiled", action="store_true", help="the denoiser by torch.compile, in both")
    o = parser.parse_args()
    torch.set_num_threads(1)
    backbone = loading.load("miniature")
    if o.compiled:
        backbone.denoiser.compile()
    pristine: list[float] = []
    learning: list[float] = []
    turns: list[Callable[[], None]] = [
        lambda: pristine_steps(backbone, pristine),
        lambda: learning_steps(backbone, learning, not o.without_word),
    ]
    for turn in turns:  # the first of each warms up
        turn()
    pristine.clear(), learning.clear()
    for _ in range(max(1, o.steps // TURN)):
        for turn in turns:
            turn()
    for name, times in (("pristine forward and backward", pristine), ("learning step", learning)):
        print(f"{name}: {min(times) * 1e3:.0f} ms at least, {statistics.median(times) * 1e3:.0f} ms in the middle")
    least, middle = min(learning) / min(pristine), statistics.median(learning) / statistics.median(pristine)
    print(f"ratio: {least:.2f} of the least, {middle:.2f} of the medians")


if __name__ == "__main__":
    main()
