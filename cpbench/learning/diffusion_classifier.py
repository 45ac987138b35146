"""The diffusion classifier: the phrase that explains a noisy picture best is the one with the smallest denoising error.

Li et al. 2023 (Your Diffusion Model is Secretly a Zero-Shot Classifier). One picture, one noise and one timestep are
shared by all candidates i of a set S:

    e_i = || eps - eps_theta(z_t, t, c^i) ||^2,    P(i | z_t) = exp(-e_i / tau) / sum_{j in S} exp(-e_j / tau)

Errors are errors in epsilon, whatever the denoiser predicts, so that e_i has the same meaning on every backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.learning.training import Batch
from cpbench.moved import renamed_keywords

Reduction = Literal["mean", "sum"]


@renamed_keywords(factors="lora_parameters")
def predicted_noise(
    backbone: Backbone, batch: Batch, phrases: Sequence[str], lora_parameters: Mapping[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """eps_theta(z_t, t, c^i) for each of k phrases: (k, n, c, h, w), by one call of the denoiser on all k x n.

    lora_parameters: used in place of the installed LoRA, for a teacher.
    """
    k, n = len(phrases), len(batch.noisy)
    prompt_embeds = backbone.encode_prompts([batch.template.format(p) for p in phrases]).repeat_interleave(n, 0)
    noisy, timesteps = batch.noisy.repeat(k, 1, 1, 1), batch.timesteps.repeat(k)
    output = backbone.predict(noisy, timesteps, prompt_embeds, lora_parameters)
    eps = backbone.process.converted(output, noisy, timesteps, "epsilon")
    return eps.float().view(k, n, *batch.noisy.shape[1:])


def errors(predicted: torch.Tensor, noise: torch.Tensor, reduction: Reduction = "mean") -> torch.Tensor:
    """e (n, k), the squared errors of predictions (k, n, c, h, w) of the noise (n, c, h, w), reduced over c, h and w."""
    squared = (predicted - noise.float()).square().flatten(2)
    return (squared.mean(2) if reduction == "mean" else squared.sum(2)).T


def log_scores(e: torch.Tensor, temperature: float) -> torch.Tensor:
    """log P (n, k): the log-softmax of -e / tau over the candidates."""
    return torch.log_softmax(-e / temperature, dim=1)


def cross_entropy(log_p_teacher: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """H(P_teacher, P) = - sum_i P_teacher(i) log P(i), the mean over pictures."""
    return -(log_p_teacher.exp() * log_p).sum(1).mean()
