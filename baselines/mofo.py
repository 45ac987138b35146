"""MoFO: all weights, one concept after the other; in each step only the entries with the largest momentum move.

Chen et al. 2024, "MoFO: Momentum-Filtered Optimizer for Mitigating Forgetting in LLM Fine-Tuning" (arXiv 2407.20999), as
a row of T2I-ConBench (arXiv 2505.16875). For each tensor of n entries, with Adam's moments m and v,

    theta_j <- theta_j - eta m_j / (sqrt(v_j) + eps)   for the ceil(alpha n) entries with the largest |m_j|;  the others stay

m and v (bias-corrected) are updated everywhere. What is learned is `dreambooth`'s: all weights of the denoiser and a frozen
identifier, with class pictures. From the benchmark: this, alpha = 0.5, 500 steps at 5e-6, class pictures weighted by 0.02.
Its code takes the entries at or above the kth smallest |m_j| with k = int((1 - alpha) n): one more, and all that are tied
with it, and it fails on a tensor of one entry; here ties are broken by index.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field

from cpbench.baselines import dreambooth
from cpbench.learning import weights_or_lora


class MofoOptions(dreambooth.WholeModelOptions):
    moving_share: float = Field(0.5, gt=0, le=1, description="alpha, share of each tensor's entries that a step moves")


class MomentumFiltered(dreambooth.DreamBooth):
    """The state is that of `dreambooth`."""

    version = 1
    Options = MofoOptions
    tested_against = "equation only"
    search = {"": {"learning_rate": {"log": (3e-5, 3e-4)}, "prior_weight": {"choices": (0.02, 0.1, 0.3)}}}
    name = "mofo"

    def check(self, backbone):
        weights_or_lora.refuse_full_training(self.name, backbone, "use a method that trains a LoRA")

    def train_only(self, task, theta, group):
        return group, {"moving": lambda name, m: largest(m, self.options.moving_share)}


def largest(m: torch.Tensor, alpha: float) -> torch.Tensor:
    """Whether each entry is among the ceil(alpha n) with the largest |m|; of equals those with the smallest index."""
    size = m.abs().flatten()
    k = math.ceil(alpha * len(size))
    smallest = size.kthvalue(len(size) - k + 1).values
    above, tied = size > smallest, size == smallest
    return (above | (tied & (tied.cumsum(0) <= k - above.sum()))).view_as(m)
