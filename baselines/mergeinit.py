"""Merge & Init: each task's LoRA is merged into the weights, and the next task starts a new one on top of them.

Staniszewski, Zaleska, Deja 2024, "Low-Rank Continual Personalization of Diffusion Models" (arXiv 2410.04891). The model
is passed from task to task, without a LoRA. D_t is what tasks 1..t changed of the weights:

    W = W_init + D_{t-1} + A_t B_t,  A_t random, B_t = 0 at the start,  L = L_denoise
    D_t = D_{t-1} + A_t B_t

From the paper and its code: these equations, and rank 64 on all attention projections of SDXL's UNet, 850 steps of one
picture at 1e-5. Our assumptions: A_t starts as all LoRAs of this harness do (uniform, not Gaussian with deviation 1/r),
and a concept gets a new trained word that starts as its noun; the paper has fixed rare words (sks, zwz, ...). The state
holds D_t of the adapted layers, not the whole model, since the other weights do not change.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, add_to_weights, add_tokens, learn_lora, products

WeightDeltas = dict[str, torch.Tensor]


class MergeInitOptions(LoraOptions):
    rank: int = Field(64, ge=1, description="rank of each LoRA; alpha is the same")
    steps: int = Field(850, ge=1, description="optimiser steps per task")
    learning_rate: float = Field(1e-5, gt=0, description="learning rate of the LoRA factors")


class MergeInit(SequentialLora):
    """The state holds D_t, a dense change of each adapted layer, and one token embedding per concept."""

    version = 1
    Options = MergeInitOptions
    tested_against = "official code's behaviour"

    def learn(self, backbone, task, state):
        D = state.tensors_of("weights", backbone.device)
        after, lora_parameters = learn_lora(self, backbone, task, state, weight_deltas=D)
        last = {layer: product.detach() for layer, product in products(lora_parameters).items()}
        after.tensors |= {f"weights/{layer}": v for layer, v in (self.merged(D, last) if D else last).items()}
        return after

    def merged(self, previous: WeightDeltas, last: WeightDeltas) -> WeightDeltas:
        """D_t from D_{t-1} and A_t B_t, by layer."""
        return {layer: previous[layer] + product for layer, product in last.items()}

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, state.tensors_of("weights", backbone.device))
        add_tokens(backbone, state)

    def lora(self, state, concepts):
        return None
