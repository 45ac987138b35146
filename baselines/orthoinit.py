"""Merge & Orthogonal Init: each task's LoRA starts orthogonal to the last one's A, and is added to it.

Staniszewski, Zaleska, Deja 2024, "Low-Rank Continual Personalization of Diffusion Models" (arXiv 2410.04891). One
LoRA A (r, in), B (out, r) is passed from task to task; from task 2 on it is merged and a new one trained on top:

    W = W_init + B_{t-1} A_{t-1} + B A,    A_t = A_{t-1} + A,    B_t = B_{t-1} + B
    at the start B = 0, and column i of A is a unit vector orthogonal to column i of A_{t-1}

From the paper's code: these equations, rank and learning rates as in `mergeinit`, and the choice among the orthogonal
vectors (the last right singular vector of the column as a matrix of one row). This has two consequences. The kept
model, B_t A_t, is not the trained one: B_{t-1} A + B A_{t-1} are added to it. And since that vector is nearly (0, ...,
0, 1) for a random column, the new A starts nearly as one row of ones: at rank 64 this row's mean is 0.99, the mean
absolute value of the others 0.01. `sum_factors=false` merges exactly, but the state then holds a dense D_{t-1} =
D_{t-2} + B_{t-1} A_{t-1}, and A_t, B_t are those of the last task. Our assumptions: words and the first task's start,
as in `mergeinit`.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.mergeinit import MergeInitOptions
from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import add_to_weights, add_tokens, learn_lora, products
from cpbench.method import State


class OrthoInitOptions(MergeInitOptions):
    rank: int = Field(64, ge=2, description="rank of the LoRA; alpha is the same")
    sum_factors: bool = Field(
        True, description="add the factors, A_{t-1} + A and B_{t-1} + B, as published; false: add the products"
    )


def orthogonal(columns: torch.Tensor) -> torch.Tensor:
    """For each column of (r, m), the last right singular vector of that column as a row: orthogonal to it, with norm 1.

    In closed form: the last row of the Householder reflection I - 2 u u^T / u^T u that takes v to a multiple of e_1,
    with u = v + sign(v_1) |v| e_1. LAPACK computes the same, so that the signs agree too.
    """
    v, v_1 = columns, columns[0]
    norm = v.norm(dim=0)
    u = v.clone()
    u[0] += torch.where(v_1 < 0, -norm, norm)
    e_r = torch.zeros_like(v)
    e_r[-1] = 1
    return e_r - v[-1] * u / (norm * (norm + v_1.abs())).clamp(min=1e-30)  # u^T u = 2 |v| (|v| + |v_1|)


class OrthoInit(SequentialLora):
    """The state holds A_t, B_t, one token embedding per concept, and D_{t-1} where the products are added."""

    version = 1
    Options = OrthoInitOptions
    tested_against = "official code's behaviour"

    def learn(self, backbone, task, state):
        past, D = state.tensors_of("adapter", backbone.device), weight_delta(state, backbone.device)
        start = {
            k: orthogonal(v.flatten(1)).view_as(v) if k.endswith("lora_A") else torch.zeros_like(v)
            for k, v in past.items()
        }
        after, lora_parameters = learn_lora(self, backbone, task, state, weight_deltas=D, init=start or None)
        if self.options.sum_factors:
            lora_parameters = {k: v + past[k] if past else v for k, v in lora_parameters.items()}
        else:
            after.tensors |= {f"weights/{layer}": v for layer, v in D.items()}
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in lora_parameters.items()}
        return after

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, weight_delta(state, backbone.device))
        add_tokens(backbone, state)

    def lora(self, state, concepts):
        return state.tensors_of("adapter") if self.options.sum_factors else None


def weight_delta(state: State, device: torch.device) -> dict[str, torch.Tensor]:
    """The change of the weights: B_t A_t, plus D_{t-1} where the state has it."""
    D = state.tensors_of("weights", device)
    return {
        layer: product + D.get(layer, 0) for layer, product in products(state.tensors_of("adapter", device)).items()
    }
