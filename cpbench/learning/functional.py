"""Weights that are functions of what is trained: W + change, the change computed anew in every step, W as it is.

A LoRA's change is A B, and peft computes it. Where it is something else (A B under a mask, say), a method computes it in
its loss, and inside of `adding` the layers answer with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones import adapters
from cpbench.moved import renamed_keywords


def low_rank(
    root: nn.Module, target_modules: Iterable[str], rank: int, generator: torch.Generator
) -> dict[str, nn.Parameter]:
    """Factors of the layers whose names end with `target_modules`, in no layer yet: named, shaped and started as a new LoRA's.

    "layer.lora_A" (rank, in, ...) is uniform within 1 / sqrt(fan in), "layer.lora_B" (out, rank) zero, both float32.
    """
    lora_parameters: dict[str, nn.Parameter] = {}
    for name in adapters.matching_modules(root, target_modules):
        weight = root.get_parameter(f"{name}.weight")
        out, *width = weight.shape
        A = (torch.rand(rank, *width, generator=generator) * 2 - 1) / weight[0].numel() ** 0.5
        for side, value in (("lora_A", A), ("lora_B", torch.zeros(out, rank))):
            lora_parameters[f"{name}.{side}"] = nn.Parameter(value.to(weight.device))
    return lora_parameters


@renamed_keywords(changes="weight_deltas")
@contextmanager
def adding(root: nn.Module, weight_deltas: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While inside, linear and convolution layers answer as if their weights W were W + changes[layer].

    `changes` is read at every call, layers without one answer as they do; gradients flow to it. A step goes backward
    inside as well: checkpointing calls the layers again.
    """

    def hook(name: str, layer: nn.Linear | nn.Conv2d):
        def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
            if name not in weight_deltas:
                return None
            if isinstance(layer, nn.Linear):
                return output + F.linear(args[0], weight_deltas[name])
            how = (layer.stride, layer.padding, layer.dilation, layer.groups)
            return output + F.conv2d(args[0], weight_deltas[name], None, *how)

        return add

    layers = [(n, m) for n, m in root.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(hook(name, layer)) for name, layer in layers]
    try:
        yield
    finally:
        for added in hooks:
            added.remove()
