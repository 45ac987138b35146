"""Norms of the trained parameters. They show a method that changes nothing, or too much."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.quantization import dense
from cpbench.learning.flat import joined, stacks
from cpbench.moved import old_names


@torch.no_grad()
def lora_norm(lora_parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """|| B A ||_F over all layers together, computed from (r, r) products: || B A ||_F^2 = tr(B^T B A A^T)."""
    squares: dict[str, torch.Tensor] = {}  # A A^T and B^T B of each layer
    for side, is_left in (("lora_A", True), ("lora_B", False)):
        for names, stacked in stacks({k: v for k, v in lora_parameters.items() if k.endswith(side)}):
            X = stacked.flatten(2)
            products = X @ X.mT if is_left else X.mT @ X
            squares |= dict(zip(names, products.unbind(), strict=True))
    names = [name for name in lora_parameters if name.endswith("lora_A")]
    of_A, of_B = (joined([squares[name[:-1] + side] for name in names]) for side in "AB")  # symmetric matrices
    return (of_B * of_A).sum().clamp(min=0).sqrt()


@torch.no_grad()
def trained_norms(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Norms of the parameters that require gradients, by name.

    lora_norm: of the LoRA's change of the weights. vector_norm: of VeRA's vectors. weight_change: the distance of
    replaced weights from the loaded ones. token_norm: the mean norm of the new words' embeddings.
    """
    trained = {}
    lora_parameters = backbone.lora_parameters  # A alone may be fixed
    if any(v.requires_grad for v in lora_parameters.values()):
        if any(k.endswith("lora_A") for k in lora_parameters):
            trained["lora_norm"] = lora_norm(lora_parameters)
        else:
            trained["vector_norm"] = torch.stack([v.square().sum() for v in lora_parameters.values()]).sum().sqrt()
    if weights := {k: v for k, v in backbone.weights.items() if v.requires_grad}:
        squares = [(v - dense(backbone.as_loaded(k)).float()).square().sum() for k, v in weights.items()]
        trained["weight_change"] = torch.stack(squares).sum().sqrt()
    if embeddings := [v for v in backbone.token_embeddings.values() if v.requires_grad]:
        trained["token_norm"] = torch.stack([v.norm() for v in embeddings]).mean()
    return trained


__getattr__ = old_names(__name__)
