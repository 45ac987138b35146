"""Layers with the weights W + delta, where the delta is a function of the trained parameters and W itself stays.

The delta of a LoRA is A B, which peft computes. A method with another delta, such as A B under a mask, computes it in
its loss; within `adding` the layers use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones import adapters
from cpbench.moved import renamed_keywords


def low_rank(
    root: nn.Module, target_modules: Iterable[str], rank: int, generator: torch.Generator
) -> dict[str, nn.Parameter]:
    """New LoRA parameters of the target layers that are not added to the layers.

    "layer.lora_A" (rank, in, ...) is uniform within 1 / sqrt(fan in), "layer.lora_B" (out, rank) is zero; both are
    float32.
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
    """A context in which linear and convolution layers compute with W + weight_deltas[layer].

    `weight_deltas` is read at each call and receives gradients; a layer without an entry is unchanged. The backward
    pass belongs inside the context too, since gradient checkpointing calls the layers again.
    """

    def hook(name: str, layer: nn.Linear | nn.Conv2d) -> Callable[..., torch.Tensor | None]:
        def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
            if name not in weight_deltas:
                return None
            delta = weight_deltas[name].to(output.dtype)
            if isinstance(layer, nn.Linear):
                return output + F.linear(args[0], delta)
            geometry = (layer.stride, layer.padding, layer.dilation, layer.groups)
            return output + F.conv2d(args[0], delta, None, *geometry)

        return add

    layers = [(n, m) for n, m in root.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(hook(name, layer)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
