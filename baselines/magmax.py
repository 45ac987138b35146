"""MagMax: for each weight, the largest change of all tasks is kept.

Marczak et al. 2024, "MagMax: Leveraging Model Merging for Seamless Continual Learning" (ECCV), as magnitude-based
merging in Staniszewski et al. 2024, "Low-Rank Continual Personalization of Diffusion Models" (arXiv 2410.04891). A task
is learned as by `mergeinit`, on top of the merged weights. D_t is the change of the weights from the untouched model:

    W = W_init + D_{t-1} + A_t B_t,  A_t random, B_t = 0 at the start,  L = L_denoise
    D_t = A_t B_t where |A_t B_t| >= |D_{t-1}|, else D_{t-1}                            elementwise

All of this is as in the second paper's code: the last task's change is A_t B_t alone, without D_{t-1}, and the state
holds only the running maximum, not one model per task. So the kept model is not the trained one, D_{t-1} + A_t B_t, and
the new concept loses something too. Options and their sources are those of `mergeinit`.
"""

from __future__ import annotations

import torch

from cpbench.baselines.mergeinit import MergeInit


class MagMax(MergeInit):
    """The state holds D_t, a dense change of each adapted layer, and one token embedding per concept."""

    version = 1
    tested_against = "official code's behaviour"

    def merged(self, previous, last):
        return {layer: torch.where(x.abs() >= previous[layer].abs(), x, previous[layer]) for layer, x in last.items()}
