"""The networks as they sample: plain layers of the merged weights, all in the pipeline's precision.

What methods learn is in float32 and stands apart from the weights. While pictures are generated nothing learns, so one
plain layer computes the same as a layer with an adapter, and faster. Merging is computed in float32:

    lora  W + B A          vera  W + diag(b) B diag(d) A          dora  m (W + B A) / || W + B A ||

and rounded once, to the precision of the pipeline's weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.quantization import is_quantized


@contextmanager
def merged(
    root: nn.Module,
    originals: Mapping[str, nn.Module],
    lora_parameters: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
) -> Iterator[None]:
    """A context with plain layers of merged weights (`merged_weights`) in place of the layers with an adapter.

    originals: the wrapped layers by name; they are not changed. dtype: of the merged weights. Layers whose weights are
    quantized keep their adapter beside them: merged, they would take as much memory as unquantized ones.
    """
    originals = {name: layer for name, layer in originals.items() if not is_quantized(layer.weight)}
    wrapped = {name: root.get_submodule(name) for name in originals}
    with torch.no_grad():
        for name, weight in merged_weights(root, originals, lora_parameters):
            plain = copy.copy(originals[name])
            plain._parameters = dict(originals[name]._parameters)  # a dict of the copy; the tensors are not copied
            plain.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
            adapters.put_at(root, name, plain)
    try:
        yield
    finally:
        for name, layer in wrapped.items():
            adapters.put_at(root, name, layer)


@contextmanager
def rounded(parameters: Iterable[tuple[nn.Module, str, torch.dtype]]) -> Iterator[None]:
    """A context in which the parameters (network, name, dtype) have their precision and need no gradient."""
    learned = [(root, name, root.get_parameter(name), dtype) for root, name, dtype in parameters]
    for root, name, parameter, dtype in learned:
        adapters.put_at(root, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    try:
        yield
    finally:
        for root, name, parameter, _ in learned:
            adapters.put_at(root, name, parameter)


def merged_weights(
    root: nn.Module, originals: Mapping[str, nn.Module], lora_parameters: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    """(layer, its weight with the adapter, float32 and in the shape of W), one layer at a time.

    root: the network with the adapter, of which VeRA's frozen projections are read.
    """
    by_layer: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in lora_parameters.items():
        layer, _, side = name.rpartition(".")
        if layer in originals:
            by_layer.setdefault(layer, {})[side] = parameter
    for layer, sides in by_layer.items():
        yield layer, _merged_weight(originals[layer].weight.float(), sides, root.get_submodule(layer))


def _merged_weight(W: torch.Tensor, sides: Mapping[str, torch.Tensor], wrapped: nn.Module) -> torch.Tensor:
    """One layer's weight from its W (out, in, ...) and its adapter's parameters by the last part of their names."""
    if "vera_lambda_b" in sides:
        A, B = wrapped.vera_A["default"][:, : W.shape[1]], wrapped.vera_B["default"][: len(W)]
        A, B = sides["vera_lambda_d"][:, None] * A, sides["vera_lambda_b"][:, None] * B
    else:
        A, B = sides["lora_A"], sides["lora_B"]
    V = W + (B.flatten(1) @ A.flatten(1)).view_as(W)
    if "lora_magnitude_vector" not in sides:
        return V
    scale = sides["lora_magnitude_vector"].flatten() / V.flatten(1).norm(dim=1)
    return scale.view(-1, *[1] * (V.ndim - 1)) * V
