"""MagMax: of all that tasks changed of a weight, the largest change stays.

Marczak et al. 2024, "MagMax: Leveraging Model Merging for Seamless Continual Learning" (ECCV), as magnitude-based
merging in Staniszewski et al. 2024, "Low-Rank Continual Personalization of Diffusion Models" (arXiv 2410.04891). A
task is learned as by `mergeinit`, on top of the merged weights. With D_t the change of the weights against the
untouched model,

    W = W_init + D_{t-1} + A_t B_t,  A_t random, B_t = 0 at the start,  L = L_denoise
    D_t = A_t B_t where |A_t B_t| >= |D_{t-1}|, else D_{t-1}                            entry by entry

All of it is as in the second paper's code: the last task's vector is what its LoRA added, not what it reached, and
only the running maximum is carried, not a model for every task. So the model that was trained, D_{t-1} + A_t B_t, is
not the one that is kept: the new concept loses something as well. Options and their sources are those of `mergeinit`.
"""

from __future__ import annotations

import torch

from cpbench.baselines.mergeinit import MergeInit


class MagMax(MergeInit):
    """Carries D_t, a dense change of every adapted layer, and a token row a concept."""

    version = 1
    tested_against = "official code's behaviour"

    def merged(self, previous, last):
        return {layer: torch.where(x.abs() >= previous[layer].abs(), x, previous[layer]) for layer, x in last.items()}
