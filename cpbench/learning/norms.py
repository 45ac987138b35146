"""Norms of the trained parameters. They show a method that changes nothing, or too much."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.moved import old_names


@torch.no_grad()
def lora_norm(lora_parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """|| B A ||_F over all layers together, computed from (r, r) products: || B A ||_F^2 = tr(B^T B A A^T)."""
    squares = []
    for name, A in lora_parameters.items():
        if name.endswith("lora_A"):
            A, B = A.flatten(1), lora_parameters[name.removesuffix("A") + "B"].flatten(1)
            squares.append(((B.T @ B) * (A @ A.T).T).sum())
    return torch.stack(squares).sum().clamp(min=0).sqrt()


@torch.no_grad()
def trained_norms(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Norms of the parameters that require gradients, by name.

    lora_norm: of the LoRA's change of the weights. vector_norm: of VeRA's vectors. weight_change: the distance of
    replaced weights from the loaded ones. token_norm: the mean norm of the new words' embeddings.
    """
    trained = {}
    lora_parameters = {k: v for k, v in backbone.lora_parameters.items() if v.requires_grad}
    if any(k.endswith("lora_A") for k in lora_parameters):
        trained["lora_norm"] = lora_norm(lora_parameters)
    elif lora_parameters:
        trained["vector_norm"] = torch.stack([v.square().sum() for v in lora_parameters.values()]).sum().sqrt()
    if weights := {k: v for k, v in backbone.weights.items() if v.requires_grad}:
        squares = [(v - backbone.as_loaded(k).float()).square().sum() for k, v in weights.items()]
        trained["weight_change"] = torch.stack(squares).sum().sqrt()
    if embeddings := [v for v in backbone.token_embeddings.values() if v.requires_grad]:
        trained["token_norm"] = torch.stack([v.norm() for v in embeddings]).mean()
    return trained


__getattr__ = old_names(__name__)
