"""Generating pictures: batches through the diffusers pipeline, with fixed noise per (seed, concept, prompt, index)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.memory_format import FASTER
from cpbench.errors import UserError
from cpbench.files import seed_of
from cpbench.moved import old_names


@dataclass(frozen=True)
class Sampler:
    """How pictures are generated. batch_size: pictures per pipeline call; with guidance the denoiser gets twice as many."""

    num_inference_steps: int = 10
    guidance_scale: float = 4.0
    batch_size: int = 16

    def evaluations(self, pictures: int) -> int:
        """Denoiser evaluations for so many pictures, without a loaded backbone: two per step with guidance, else one."""
        return pictures * self.num_inference_steps * (2 if self.guidance_scale > 1 else 1)


@dataclass(frozen=True)
class SampleRequest:
    """One picture to generate: its full prompt, and the key of its noise (the template, without the method's words)."""

    prompt: str
    seed: int
    concept: str
    template: str
    index: int


def evaluations(backbone: Backbone, sampler: Sampler, pictures: int) -> int:
    """Evaluations of the backbone's denoiser for so many pictures."""
    return pictures * sampler.num_inference_steps * backbone.family.evaluations_a_step(sampler.guidance_scale)


def noise(backbone: Backbone, request: SampleRequest) -> torch.Tensor:
    """Standard normal noise (c, h, w), sampled on the CPU in float32 from (seed, concept, prompt, index)."""
    seed = seed_of(request.seed, "noise", request.concept, request.template, request.index)
    return torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(seed))


def memory_format(backbone: Backbone) -> torch.memory_format:
    """The order of latents in memory, which all of a denoiser's activations take over; see `memory_format.FASTER`."""
    is_faster = (backbone.device.type, backbone.dtype) in FASTER
    return torch.channels_last if is_faster else torch.contiguous_format


@torch.no_grad()
def generate(backbone: Backbone, requests: list[SampleRequest], sampler: Sampler) -> np.ndarray:
    """The pictures, uint8 (n, h, w, 3), in the order of the requests. UserError if the model outputs NaN."""
    pipe = backbone.pipe
    original, process = pipe.scheduler, backbone.process
    batches = []
    try:
        with backbone.generating():
            # each call of the pipeline sets the solver's timesteps, by which it forgets the last call's
            pipe.scheduler = process.solver(sampler.num_inference_steps)
            for i in range(0, len(requests), sampler.batch_size):
                batch = requests[i : i + sampler.batch_size]
                latents = torch.stack([noise(backbone, request) for request in batch]).to(
                    backbone.device, backbone.dtype, memory_format=memory_format(backbone)
                )
                latents = backbone.sample_latents([request.prompt for request in batch], latents, sampler)
                pictures, is_finite = backbone.decode_latents(latents)
                batches.append(pictures.cpu().numpy())  # the only copy of a batch
                if not is_finite:
                    raise UserError(f"prompt {batch[0].prompt!r}: the model's picture is NaN; lower the learning rate")
    finally:
        pipe.scheduler = original
    return np.concatenate(batches)


__getattr__ = old_names(__name__)
