"""The diffusion classifier: the phrase that explains a noisy picture best is the one with the smallest denoising error.

Li et al. 2023 (Your Diffusion Model is Secretly a Zero-Shot Classifier). One picture, one noise and one timestep are
shared by all candidates i of a set S:

    e_i = || eps - eps_theta(z_t, t, c^i) ||^2,    P(i | z_t) = exp(-e_i / tau) / sum_{j in S} exp(-e_j / tau)

Errors are errors in epsilon, whatever the denoiser predicts, so that e_i has the same meaning on every diffusion. On a
flow they may be the velocity's instead, whose errors are of one size at all times: |e_eps|^2 = (1 - s)^2 |e_v|^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.errors import UserError
from cpbench.learning.encoded_prompts import encoding_once
from cpbench.learning.training import Batch, batches
from cpbench.method import Task
from cpbench.moved import renamed_keywords

Reduction = Literal["mean", "sum"]
ErrorOf = Literal["epsilon", "velocity"]
TEMPERATURE_SAMPLES = 64  # (picture, noise, time) by which a temperature is measured
TEMPERATURE_NOUNS = ("dog", "backpack", "vase", "sneaker", "cat")


@renamed_keywords(factors="lora_parameters")
def predicted_noise(
    backbone: Backbone,
    batch: Batch,
    phrases: Sequence[str],
    lora_parameters: Mapping[str, torch.Tensor] | None = None,
    error: ErrorOf = "epsilon",
) -> torch.Tensor:
    """eps_theta(z_t, t, c^i) for each of k phrases: (k, n, c, h, w), by one call of the denoiser on all k x n.

    lora_parameters: used in place of the installed LoRA, for a teacher. error: "velocity" returns a flow's v_theta.
    """
    k, n = len(phrases), len(batch.noisy)
    prompt_embeds = backbone.encode_prompts([batch.template.format(p) for p in phrases]).repeat_interleave(n, 0)
    noisy, timesteps = batch.noisy.repeat(k, 1, 1, 1), batch.timesteps.repeat(k)
    output = backbone.predict(noisy, timesteps, prompt_embeds, lora_parameters)
    converted = backbone.process.converted(output, noisy, timesteps, "v" if error == "velocity" else "epsilon")
    return converted.float().view(k, n, *batch.noisy.shape[1:])


def target(backbone: Backbone, batch: Batch, error: ErrorOf) -> torch.Tensor:
    """What `predicted_noise` predicts: the noise, or for "velocity" a flow's velocity, each (n, c, h, w)."""
    if error == "epsilon":
        return batch.noise
    return backbone.process.target(batch.latents, batch.noise, batch.timesteps)


def refuse_velocity(backbone: Backbone, error: ErrorOf) -> None:
    """UserError for errors of a velocity on a diffusion."""
    if error == "velocity" and backbone.family.density is None:
        raise UserError(
            "dc_error=velocity: the backbone is a diffusion, whose errors are those of its noise; use dc_error=epsilon"
        )


@torch.no_grad()
def measured_temperature(backbone: Backbone, task: Task, error: ErrorOf, reduction: Reduction = "mean") -> float:
    """tau: the median of max_i e_i - min_i e_i over 64 noised pictures of the task, on the model as it is loaded.

    The candidates are "photo of a {noun}" for the concept's noun and the first four others of `TEMPERATURE_NOUNS`. Takes
    64 x 5 evaluations of the denoiser.
    """
    nouns = [task.class_noun, *[noun for noun in TEMPERATURE_NOUNS if noun != task.class_noun][:4]]
    spreads = []
    with encoding_once(backbone):
        for batch in batches(backbone, task, TEMPERATURE_SAMPLES, 1, "temperature", ("photo of a {}",)):
            e = errors(predicted_noise(backbone, batch, nouns, error=error), target(backbone, batch, error), reduction)
            spreads.append(e.amax(1) - e.amin(1))
    return float(torch.cat(spreads).median()) or 1.0  # 0 where all predictions are equal, as on a counting backbone


def errors(predicted: torch.Tensor, noise: torch.Tensor, reduction: Reduction = "mean") -> torch.Tensor:
    """e (n, k), the squared errors of predictions (k, n, c, h, w) of the noise (n, c, h, w), reduced over c, h and w.

    noise: or whatever was predicted, see `target`.
    """
    squared = (predicted - noise.float()).square().flatten(2)
    return (squared.mean(2) if reduction == "mean" else squared.sum(2)).T


def log_scores(e: torch.Tensor, temperature: float) -> torch.Tensor:
    """log P (n, k): the log-softmax of -e / tau over the candidates."""
    return torch.log_softmax(-e / temperature, dim=1)


def cross_entropy(log_p_teacher: torch.Tensor, log_p: torch.Tensor) -> torch.Tensor:
    """H(P_teacher, P) = - sum_i P_teacher(i) log P(i), the mean over pictures."""
    return -(log_p_teacher.exp() * log_p).sum(1).mean()
