"""HFT: all weights, one concept after the other; in each task a random half of every layer's tensors is frozen.

Hui et al. 2024, "HFT: Half Fine-Tuning for Large Language Models" (arXiv 2404.18466), as a row of T2I-ConBench (arXiv
2505.16875). Of the tensors theta_l of a layer l,

    floor(|theta_l| / 2) are frozen in task t, places by (seed, "hft", t); the others minimise the loss of `dreambooth`

with its frozen identifier and class pictures. From the benchmark: this, places anew for each task, 500 steps at 5e-6, class
pictures weighted by 0.02. A layer is here a block: what holds one or more leaf modules (a residual block, an attention, the
denoiser itself). In the benchmark's code a layer is what has the same first ".number." in its name, and tensors without
one are never frozen.
"""

from __future__ import annotations

import torch

from cpbench.baselines import dreambooth
from cpbench.learning import weights_or_lora


class HalfFineTuning(dreambooth.DreamBooth):
    """The state is that of `dreambooth`."""

    version = 1
    Options = dreambooth.WholeModelOptions
    tested_against = "equation only"
    search = {"": {"learning_rate": {"log": (3e-5, 3e-4)}, "prior_weight": {"choices": (0.02, 0.1, 0.3)}}}
    name = "hft"

    def check(self, backbone):
        weights_or_lora.refuse_full_training(self.name, backbone, "use a method that trains a LoRA")

    def train_only(self, task, theta, group):
        frozen = half(sorted(theta), task.shared_generator("hft", task.number))
        rate, _ = group
        return (rate, [weight for name, weight in theta.items() if name not in frozen]), {}


def half(names: list[str], generator: torch.Generator) -> set[str]:
    """Of the parameters' names, a random half, rounded down, of each block."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        leaf = name.rpartition(".")[0]
        blocks.setdefault(leaf.rpartition(".")[0], []).append(name)
    frozen = set()
    for block in blocks.values():
        places = torch.randperm(len(block), generator=generator)[: len(block) // 2]
        frozen |= {block[k] for k in places.tolist()}
    return frozen
