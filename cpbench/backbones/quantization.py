"""Linear layers in 8 or 4 bits, by torchao, with a LoRA beside them: QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

    int8  W = s q    q in -127..127, one scale s for each output
    nf4   W = s c[q] q in 0..15, one scale s for each 64 weights; c are quantiles of a normal distribution (their section 3)

Norms, embeddings and convolutions keep their precision. What a method learns is in float32 as always.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from cpbench.backbones.options import Quantization
from cpbench.errors import UserError

BLOCK, SCALERS = 64, 256  # weights that share a scale, and at most so many scales that share another, as in the paper


def quantize(network: nn.Module, quantization: Quantization) -> None:
    """Quantize the weights of the network's linear layers, in place. UserError without torchao.

    With nf4, layers whose weights do not fill blocks stay as they are.
    """
    if quantization == "none":
        return
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_, to_nf4
    except ImportError:
        raise UserError(
            f"quantization {quantization}: torchao is not installed; pip install 'cpbench[quantization]'"
        ) from None
    if quantization == "int8":
        quantize_(network, Int8WeightOnlyConfig())  # torchao's default are the linear layers
    else:
        for layer in (m for m in network.modules() if isinstance(m, nn.Linear)):
            blocks, remainder = divmod(layer.weight.numel(), BLOCK)
            if not remainder:
                values = to_nf4(layer.weight.data, BLOCK, math.gcd(blocks, SCALERS))
                layer.weight = nn.Parameter(values, requires_grad=False)
    network.requires_grad_(False)


def is_quantized(tensor: torch.Tensor) -> bool:
    """Whether a weight is held in other numbers than those that it stands for."""
    return hasattr(tensor, "__tensor_flatten__")


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """The weight as ordinary numbers: itself where it is not quantized."""
    if not is_quantized(tensor):
        return tensor
    with torch.no_grad():
        return tensor.get_original_weight() if hasattr(tensor, "get_original_weight") else tensor.dequantize()


def held(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensors that are in memory: itself, or what a quantized weight consists of."""
    if not is_quantized(tensor):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in held(getattr(tensor, name))]
