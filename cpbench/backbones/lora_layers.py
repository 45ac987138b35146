"""Our own forward of layers with a plain LoRA: the function of peft's layers, without their casts and dispatch.

peft makes, wraps and names the layers (`adapters.add_lora`); here each gets another `forward`. With W (out, in) and the
factors A (r, in) and B (out, r), a layer has two ways to compute x (W + B A)^T:

    one product      y = x (W + B A)^T
    two products     y = x W^T + (x A^T) B^T

Both are exact. One product multiplies large matrices only, also on the way back, where the gradient of the dense weight
is projected on A and B; two move more values for few operations. `in_one_product` counts both. The choice depends on
sizes and precision only, so that it is the same on every machine. In half precision W + B A would lose the digits of
B A: there it is always two.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones.quantization import is_quantized

ADAPTER = "default"  # peft's name of the only adapter
OPERATIONS_PER_VALUE = 25  # what a processor core computes while it moves one float32: 65 GFLOP/s beside 10 GB/s


def give_own_forward(root: nn.Module, names: Iterable[str]) -> None:
    """Let the named layers, which peft wrapped with a plain LoRA, compute as this module does."""
    for name in names:
        layer = root.get_submodule(name)
        if is_quantized(layer.base_layer.weight):
            layer.forward = MethodType(quantized, layer)
        elif isinstance(layer.base_layer, nn.Linear):
            layer.forward = MethodType(linear, layer)
        elif layer.base_layer.dilation == (1, 1) and layer.base_layer.padding_mode == "zeros":
            layer.forward = MethodType(convolution, layer)


def in_one_product(positions: int, out: int, width: int, fan_in: int, rank: int) -> bool:
    """Whether y = x (W + B A)^T takes fewer operations than two products, forward and backward.

    positions: vectors in x and y; width: values of an input vector that are moved. fan_in: the columns of W, larger than
    width for a convolution. Only what differs is counted, with OPERATIONS_PER_VALUE for each value that is moved.
    """
    dense = 2 * positions * out * fan_in + 6 * out * fan_in * (rank + OPERATIONS_PER_VALUE)
    low_rank = 6 * positions * rank * (out + fan_in) + 4 * positions * (out + width) * OPERATIONS_PER_VALUE
    return dense < low_rank


def linear(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of a linear layer with a LoRA; x: (..., in)."""
    if not is_usual(self):
        return type(self).forward(self, x)
    x, A, B = inputs(self, x)
    rows = product(x.reshape(-1, x.shape[-1]), self.base_layer.weight, self.base_layer.bias, A, B)
    return rows.view(*x.shape[:-1], len(B))


def quantized(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of a linear layer whose W is quantized: always two products, the first of them the layer's own."""
    if not is_usual(self):
        return type(self).forward(self, x)
    x, A, B = inputs(self, x)
    return self.base_layer(x) + F.linear(F.linear(x, A), B)


def convolution(self: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of a convolution with a LoRA; x: (n, in, h, w).

    In channels_last the positions are the rows of a matrix, and a convolution with a kernel of 1 is a product.
    """
    if not is_usual(self):
        return type(self).forward(self, x)
    (x, A, B), base = inputs(self, x), self.base_layer
    W, bias, geometry = base.weight, base.bias, (base.stride, base.padding)
    has_rows = x.is_contiguous(memory_format=torch.channels_last)
    if has_rows and (base.kernel_size, *geometry) == ((1, 1), (1, 1), (0, 0)):
        return as_image(product(as_rows(x), W.flatten(1), bias, A.flatten(1), B.flatten(1)), x)
    positions = len(x) * x.shape[2] * x.shape[3] // (base.stride[0] * base.stride[1])
    if are_float32(x, W) and in_one_product(positions, len(W), x.shape[1], W[0].numel(), len(A)):
        return F.conv2d(x, W + (B.flatten(1) @ A.flatten(1)).view_as(W), bias, *geometry)
    y, z = F.conv2d(x, W, bias, *geometry), F.conv2d(x, A, None, *geometry)
    if y.is_contiguous(memory_format=torch.channels_last):
        return as_image(torch.addmm(as_rows(y), as_rows(z), B.flatten(1).T), y)
    return y + F.conv2d(z, B)


def product(
    rows: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None, A: torch.Tensor, B: torch.Tensor
) -> torch.Tensor:
    """x (W + B A)^T + bias of all rows x."""
    if are_float32(rows, W) and in_one_product(len(rows), *W.shape, W.shape[1], len(A)):
        return F.linear(rows, torch.addmm(W, B, A), bias)
    return TwoProducts.apply(rows, W.to(rows.dtype), None if bias is None else bias.to(rows.dtype), A, B)


class TwoProducts(torch.autograd.Function):
    """y = x W^T + (x A^T) B^T + bias, both products added up in one matrix, and so is the gradient of x."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, W: torch.Tensor, bias: torch.Tensor | None, A: torch.Tensor, B: torch.Tensor
    ) -> torch.Tensor:
        z = F.linear(x, A)
        ctx.save_for_backward(x, W, A, B, z)
        return F.linear(x, W, bias).addmm_(z, B.T)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, W, A, B, z = ctx.saved_tensors
        of_x, of_W, of_bias, of_A, of_B = ctx.needs_input_grad
        of_z = gradient @ B
        return (
            (gradient @ W).addmm_(of_z, A) if of_x else None,
            gradient.T @ x if of_W else None,
            gradient.sum(0) if of_bias else None,
            of_z.T @ x if of_A else None,
            gradient.T @ z if of_B else None,
        )


def as_rows(image: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) in channels_last as (n h w, c), without a copy."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def as_image(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(n h w, c) as (n, c, h, w) in channels_last, with the n, h and w of `like`."""
    n, _, h, w = like.shape
    return rows.view(n, h, w, -1).permute(0, 3, 1, 2)


def is_usual(layer: Any) -> bool:
    """Whether nobody has switched peft's adapter off, scaled or merged it, or hooked the layer in it; else peft computes."""
    base = layer.base_layer
    is_hooked = base._forward_hooks or base._forward_pre_hooks
    return not (layer.disable_adapters or layer.merged or is_hooked) and layer.scaling[ADAPTER] == 1


def inputs(layer: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x, A, B) in the precision that the layer computes in: autocast's, or else that of x."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    A, B = (step_view(side[ADAPTER].weight) for side in (layer.lora_A, layer.lora_B))
    return x.to(dtype), A.to(dtype), B.to(dtype)


def step_view(parameter: torch.Tensor) -> torch.Tensor:
    """The parameter, or in training its part of a vector that was cast to the layers' precision once for all layers."""
    return getattr(parameter, "step_view", parameter)


def are_float32(*tensors: torch.Tensor) -> bool:
    """Whether all are in float32, and no autocast computes with them in another precision."""
    return all(t.dtype == torch.float32 for t in tensors) and not torch.is_autocast_enabled(tensors[0].device.type)
