"""How large what is being trained has become: what shows that a method moves nothing, or everything."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from cpbench.backbones.backbone import Backbone


@torch.no_grad()
def of_lora(factors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """|| B A ||_F over all layers together, from (r, r) products alone: || B A ||_F^2 = tr(B^T B A A^T)."""
    squares = []
    for name, A in factors.items():
        if name.endswith("lora_A"):
            A, B = A.flatten(1), factors[name.removesuffix("A") + "B"].flatten(1)
            squares.append(((B.T @ B) * (A @ A.T).T).sum())
    return torch.stack(squares).sum().clamp(min=0).sqrt()


@torch.no_grad()
def of_trained(backbone: Backbone) -> dict[str, torch.Tensor]:
    """Of what asks for gradients now: `lora_norm`, the LoRA's change of the weights (VeRA has `vector_norm`, of its
    vectors); `weight_change`, the distance of replaced weights from those that were loaded; `token_norm`, the mean length
    of the new words' embedding rows.
    """
    found = {}
    factors = {k: v for k, v in backbone.factors.items() if v.requires_grad}
    if any(k.endswith("lora_A") for k in factors):
        found["lora_norm"] = of_lora(factors)
    elif factors:
        found["vector_norm"] = torch.stack([v.square().sum() for v in factors.values()]).sum().sqrt()
    if weights := {k: v for k, v in backbone.weights.items() if v.requires_grad}:
        squares = [(v - backbone.as_loaded(k).float()).square().sum() for k, v in weights.items()]
        found["weight_change"] = torch.stack(squares).sum().sqrt()
    if rows := [row for row in backbone.rows.values() if row.requires_grad]:
        found["token_norm"] = torch.stack([row.norm() for row in rows]).mean()
    return found
