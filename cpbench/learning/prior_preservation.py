"""Pictures that a model draws for its own training: what it knows of a class, or of an earlier concept, shown to it again.

DreamBooth's prior preservation (Ruiz et al. 2023, section 3.3), Custom Diffusion's regularisation set and generative
replay are all this: pictures x_pr of prompts c_pr, drawn before learning, and a second denoising term on them. They live
in memory while one task is learned and are gone with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from cpbench.backbones import sampling
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.files import seed_of
from cpbench.learning import training
from cpbench.method import POSITIVE, Options, Task
from cpbench.moved import old_names


class PriorOptions(Options):
    """Options of a method that learns with pictures of the class beside those of the concept."""

    prior_pictures: int = Field(1000, ge=0, description="pictures of the class that the model draws first; 0: none")
    prior_weight: float = Field(1.0, ge=0, description="of the denoising term on them; 0: none are drawn")
    prior_inference_steps: int = Field(50, ge=1, description="sampler steps of these pictures")
    prior_guidance_scale: float = Field(7.5, ge=0, description="guidance of these pictures")

    only: ClassVar = {
        "prior_weight": {"prior_pictures": POSITIVE},
        "prior_inference_steps": {"prior_pictures": POSITIVE, "prior_weight": POSITIVE},
        "prior_guidance_scale": {"prior_pictures": POSITIVE, "prior_weight": POSITIVE},
    }


def generate(
    backbone: Backbone, task: Task, prompts: Sequence[str], sampler: Sampler, purpose: str = "prior"
) -> np.ndarray:
    """What the model, as it stands, draws of these prompts: uint8 (n, h, w, 3). Other noise for each (task, purpose, place)."""
    seed = seed_of(task.seed, purpose, task.concept)
    requests = [SampleRequest(prompt, seed, task.concept, prompt, k) for k, prompt in enumerate(prompts)]
    return sampling.generate(backbone, requests, sampler)


def denoising_term(
    backbone: Backbone,
    task: Task,
    images: np.ndarray,
    prompts: Sequence[str],
    steps: int,
    batch_size: int,
    purpose: str = "prior",
) -> Callable[[], torch.Tensor]:
    """A function that returns, once for each step of training, the denoising error of the next batch of `images`.

    Each picture goes with its own prompt: prompts[k] is images[k]'s. Add it, weighted, to a loss's terms.
    """
    batches = training.batches(backbone, replace(task, images=images), steps, batch_size, purpose)

    def term() -> torch.Tensor:
        batch = next(batches)
        prompt_embeds = backbone.encode_prompts([prompts[k] for k in batch.picture_indices.tolist()])
        return training.error(backbone, batch, prompt_embeds)

    return term


def prior_preservation_term(
    backbone: Backbone, task: Task, prompt: str, o: PriorOptions, steps: int, batch_size: int
) -> training.MoreTerms:
    """A function that returns, once for each step of training, the weighted term on pictures drawn of `prompt` now."""
    if not _wanted(o):
        return dict
    prompts = [prompt] * o.prior_pictures
    images = generate(backbone, task, prompts, Sampler(o.prior_inference_steps, o.prior_guidance_scale))
    term = denoising_term(backbone, task, images, prompts, steps, batch_size)
    return lambda: {"prior": o.prior_weight * term()}


def _wanted(o: PriorOptions) -> bool:
    return o.prior_pictures > 0 and o.prior_weight > 0


__getattr__ = old_names(__name__)
