"""Merge & Orthogonal Init: each task's LoRA starts off the columns of the last one's A, and is added to it.

Staniszewski, Zaleska, Deja 2024, "Low-Rank Continual Personalization of Diffusion Models" (arXiv 2410.04891). One
LoRA A (r, in), B (out, r) goes from task to task; from task 2 on it is merged and a new one trained on top:

    W = W_init + B_{t-1} A_{t-1} + B A,    A_t = A_{t-1} + A,    B_t = B_{t-1} + B
    at the start B = 0, and column i of A is a unit vector orthogonal to column i of A_{t-1}

From the paper's code: this, rank and rates as in `mergeinit`, and which of the orthogonal vectors it is (the last
right singular vector of the column as a matrix of one row). Two things follow from it. The model that is kept, B_t
A_t, is not the one that was trained: B_{t-1} A + B A_{t-1} come on top. And of a random column that vector is nearly
(0, ..., 0, 1), so the new A starts nearly as one row of ones: at rank 64 that row's mean is 0.99, that of the others'
absolutes 0.01. `sum_factors=false` does the merge right, at the price of a dense D_{t-1} = D_{t-2} + B_{t-1} A_{t-1}
in the state: then A_t, B_t are the last task's own. Our reading: words and the first task's start, as in `mergeinit`.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.mergeinit import MergeInitOptions
from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import add_to_weights, add_tokens, learn_lora, products
from cpbench.method import State


class OrthoInitOptions(MergeInitOptions):
    rank: int = Field(64, ge=2, description="rank of A and B; alpha is the same")
    sum_factors: bool = Field(
        True, description="carry A_{t-1} + A and B_{t-1} + B, as published; else add the products"
    )


def orthogonal(columns: torch.Tensor) -> torch.Tensor:
    """For each column of (r, m) the last right singular vector of that column as a row: orthogonal to it, of norm 1.

    In closed form: the last row of the Householder reflection I - 2 u u^T / u^T u that takes v to a multiple of e_1,
    with u = v + sign(v_1) |v| e_1. LAPACK does the same, so that signs agree too.
    """
    v, v_1 = columns, columns[0]
    norm = v.norm(dim=0)
    u = v.clone()
    u[0] += torch.where(v_1 < 0, -norm, norm)
    e_r = torch.zeros_like(v)
    e_r[-1] = 1
    return e_r - v[-1] * u / (norm * (norm + v_1.abs())).clamp(min=1e-30)  # u^T u = 2 |v| (|v| + |v_1|)


class OrthoInit(SequentialLora):
    """Carries A_t, B_t, a token row a concept, and D_{t-1} where the products are added."""

    version = 1
    Options = OrthoInitOptions
    tested_against = "official code's behaviour"

    def learn(self, backbone, task, state):
        past, D = state.tensors_of("adapter", backbone.device), change(state, backbone.device)
        start = {
            k: orthogonal(v.flatten(1)).view_as(v) if k.endswith("lora_A") else torch.zeros_like(v)
            for k, v in past.items()
        }
        after, factors = learn_lora(self, backbone, task, state, weight_deltas=D, init=start or None)
        if self.options.sum_factors:
            factors = {k: v + past[k] if past else v for k, v in factors.items()}
        else:
            after.tensors |= {f"weights/{layer}": v for layer, v in D.items()}
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in factors.items()}
        return after

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, change(state, backbone.device))
        add_tokens(backbone, state)

    def lora(self, state, concepts):
        return state.tensors_of("adapter") if self.options.sum_factors else None


def change(state: State, device: torch.device) -> dict[str, torch.Tensor]:
    """What is added to the weights: B_t A_t, and D_{t-1} where it is carried."""
    D = state.tensors_of("weights", device)
    return {
        layer: product + D.get(layer, 0) for layer, product in products(state.tensors_of("adapter", device)).items()
    }
