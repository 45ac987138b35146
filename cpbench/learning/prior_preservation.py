"""Prior preservation: pictures that the model generates for its own training, of a class or of earlier concepts.

DreamBooth's prior preservation (Ruiz et al. 2023, section 3.3), Custom Diffusion's regularisation set and generative
replay all work like this: pictures x_pr of prompts c_pr, generated before learning, and a second denoising term on
them. The pictures are in memory during one task and are deleted after it.
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
    """Options of a method that also learns from generated pictures of the class."""

    prior_pictures: int = Field(1000, ge=0, description="class pictures, generated before learning; 0: none")
    prior_weight: float = Field(
        1.0, ge=0, description="weight of the denoising term on class pictures; 0: none are generated"
    )
    prior_inference_steps: int = Field(50, ge=1, description="sampler steps for class pictures")
    prior_guidance_scale: float = Field(7.5, ge=0, description="guidance scale for class pictures")

    only: ClassVar = {
        "prior_weight": {"prior_pictures": POSITIVE},
        "prior_inference_steps": {"prior_pictures": POSITIVE, "prior_weight": POSITIVE},
        "prior_guidance_scale": {"prior_pictures": POSITIVE, "prior_weight": POSITIVE},
    }


def generate(
    backbone: Backbone, task: Task, prompts: Sequence[str], sampler: Sampler, purpose: str = "prior"
) -> np.ndarray:
    """Pictures of these prompts by the model in its present state: uint8 (n, h, w, 3).

    purpose: with the task and the prompt's place, it determines the noise.
    """
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
    """A function to be called once per step: it returns the denoising error on the next batch of `images`, a scalar.

    prompts: prompts[k] is the prompt of images[k]. steps, batch_size, purpose: as `training.batches` takes them.
    """
    term = error_term(backbone, task, images, prompts, steps, batch_size, purpose, "error", 1.0)
    return lambda: term()["error"]


def error_term(
    backbone: Backbone,
    task: Task,
    images: np.ndarray,
    prompts: Sequence[str],
    steps: int,
    batch_size: int,
    purpose: str,
    name: str,
    weight: float,
) -> training.ErrorTerm:
    """The same as a term {name: weight * error}, which `training.denoising` computes in one call with the concept's own."""
    batches = training.batches(backbone, replace(task, images=images), steps, batch_size, purpose)
    return training.ErrorTerm(backbone, name, weight, batches, prompts)


def prior_preservation_term(
    backbone: Backbone, task: Task, prompt: str, o: PriorOptions, steps: int, batch_size: int
) -> training.MoreTerms:
    """A term for `training.denoising`: {"prior": the weighted denoising error on pictures of `prompt`}.

    The pictures are generated at once, by the model in its present state. Without pictures or weight the dict is empty.
    """
    if not (o.prior_pictures and o.prior_weight):
        return dict
    prompts = [prompt] * o.prior_pictures
    images = generate(backbone, task, prompts, Sampler(o.prior_inference_steps, o.prior_guidance_scale))
    return error_term(backbone, task, images, prompts, steps, batch_size, "prior", "prior", o.prior_weight)


__getattr__ = old_names(__name__)
