"""Tools of cpbench 0.1 that method files may import until 0.3. Other functions do their work now."""

from __future__ import annotations

from typing import Any

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.processes import process_of
from cpbench.backbones.sampling import Sampler
from cpbench.learning.prior_preservation import PriorOptions


def noise_scheduler(backbone: Backbone) -> Any:
    """The scheduler that methods train on. Use `backbone.process`."""
    process: Any = backbone.process
    return process.scheduler


def to_epsilon(scheduler: Any, output: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """The predicted noise of a denoiser's output (n, c, h, w). Use `backbone.process.converted`."""
    return process_of(scheduler).converted(output, noisy, timesteps, "epsilon")


def prior_evaluations(o: PriorOptions, steps: int, batch_size: int) -> int:
    """Evaluations of `prior_preservation_term`, for a method's `unet_evaluations`, which is no longer called."""
    if not o.prior_pictures or not o.prior_weight:
        return 0
    return Sampler(o.prior_inference_steps, o.prior_guidance_scale).evaluations(o.prior_pictures) + steps * batch_size
