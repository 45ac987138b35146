"""How large what is being trained has become: what shows that a method moves nothing, or everything."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.moved import old_names


@torch.no_grad()
def lora_norm(lora_parameters: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """|| B A ||_F over all layers together, from (r, r) products alone: || B A ||_F^2 = tr(B^T B A A^T)."""
    squares = []
    for name, A in lora_parameters.items():
        if name.endswith("lora_A"):
            A, B = A.flatten(1), lora_parameters[name.removesuffix("A") + "B"].flatten(1)
            squares.append(((B.T @ B) * (A @ A.T).T).sum())
    return torch.stack(squares).sum().clamp(min=0).sqrt()


@torch.no_grad()
def trained_norms(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Of what asks for gradients now: `lora_norm`, the LoRA's change of the weights (VeRA has `vector_norm`, of its
    vectors); `weight_change`, the distance of replaced weights from those that were loaded; `token_norm`, the mean length
    of the new words' embedding rows.
    """
    found = {}
    lora_parameters = {k: v for k, v in backbone.lora_parameters.items() if v.requires_grad}
    if any(k.endswith("lora_A") for k in lora_parameters):
        found["lora_norm"] = lora_norm(lora_parameters)
    elif lora_parameters:
        found["vector_norm"] = torch.stack([v.square().sum() for v in lora_parameters.values()]).sum().sqrt()
    if weights := {k: v for k, v in backbone.weights.items() if v.requires_grad}:
        squares = [(v - backbone.as_loaded(k).float()).square().sum() for k, v in weights.items()]
        found["weight_change"] = torch.stack(squares).sum().sqrt()
    if rows := [row for row in backbone.token_embeddings.values() if row.requires_grad]:
        found["token_norm"] = torch.stack([row.norm() for row in rows]).mean()
    return found


__getattr__ = old_names(__name__)
