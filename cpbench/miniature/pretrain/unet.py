"""The denoiser: epsilon prediction on cached latents, min-SNR weights, averaged weights, captions dropped one in ten."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch

from .loop import Recipe, train

CONFIG = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [48, 96, 160],
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 2,  # diffusers' name for the number of heads
    "norm_num_groups": 16,
}
# What a caption tells (class, colour, place) is decided where there is much noise. There the error of epsilon is small
# whatever is predicted, all the more on a picture of 16 x 16 latents: with Stable Diffusion's betas three quarters of the
# loss lie where the signal-to-noise ratio is above 0.75, and a word, or keys and values, trained by that loss learn next
# to nothing of an individual. With these betas it is half, and the ratio at the end is the same (0.004).
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.007,
    "beta_end": 0.004,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": True,  # few timesteps have little noise: steps evenly spaced in t would pass them by
}
STABLE_DIFFUSIONS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FIRST = Recipe("unet", steps=11_000, batch=48, lr=1.2e-3, warmup=200, ema=0.999, seed=3)
LAST = Recipe("unet-last", steps=6_000, batch=48, lr=8e-4, warmup=100, ema=0.999, seed=4)
MIN_SNR_GAMMA = 5.0
DROP_CAPTION = 0.1


def min_snr_weight(alphas_cumprod: torch.Tensor, gamma: float = MIN_SNR_GAMMA) -> torch.Tensor:
    """Weight of each timestep's epsilon error: min(SNR, gamma) / SNR (Hang et al. 2023, for epsilon prediction)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=gamma) / snr


@torch.no_grad()
def encode_captions(text_encoder, tokenizer, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """(hidden states of the distinct captions (m, 32, 128) with the empty one first, index of each caption (n,))."""
    distinct = ["", *sorted(set(captions))]
    place = {c: i for i, c in enumerate(distinct)}
    ids = tokenizer(distinct, padding="max_length", truncation=True, return_tensors="pt").input_ids
    states = torch.cat([text_encoder(part)[0] for part in ids.split(256)])
    return states, torch.tensor([place[c] for c in captions])


def train_unet(
    text_encoder, tokenizer, latents: tuple[np.ndarray, np.ndarray], scaling: float, captions: list[str],
    work: Path, device: str, report=print, recipes: tuple[Recipe, Recipe] = (FIRST, LAST),
) -> torch.nn.Module:  # fmt: skip
    """The UNet, trained on latents already encoded, with Stable Diffusion's noise and then with its own, `SCHEDULER`'s.

    `scaling` is the autoencoder's scaling_factor.
    """
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(recipes[0].seed)
    unet = UNet2DConditionModel(**CONFIG).to(device, memory_format=torch.channels_last)
    encoded = cache(lambda: encode_captions(text_encoder, tokenizer, captions))
    mean, std = latents

    for recipe, noise_of in zip(recipes, (STABLE_DIFFUSIONS, SCHEDULER), strict=True):
        scheduler = DDPMScheduler(**{k: noise_of[k] for k in ("beta_start", "beta_end", "beta_schedule")})
        weight = min_snr_weight(scheduler.alphas_cumprod).to(device)

        def step(i, rng, noise, recipe=recipe, scheduler=scheduler, weight=weight):
            states, place = encoded()
            indices = rng.integers(0, len(mean), recipe.batch)
            m, s = (torch.from_numpy(part[indices]).float() for part in (mean, std))
            z = ((m + s * torch.randn(m.shape, generator=noise)) * scaling).to(device)
            caption = torch.where(torch.from_numpy(rng.random(recipe.batch) < DROP_CAPTION), 0, place[indices])
            # one timestep from each of `batch` equal strata: less spread between steps than independent draws
            t = torch.from_numpy(
                ((rng.permutation(recipe.batch) + rng.random(recipe.batch)) / recipe.batch * 1000).astype(np.int64)
            ).to(device)
            epsilon = torch.randn(z.shape, generator=noise).to(device)
            guess = unet(scheduler.add_noise(z, epsilon, t), t, states[caption].to(device)).sample
            error = (guess - epsilon).square().mean(dim=(1, 2, 3))
            return (weight[t] * error).mean(), {"error": float(error.mean().detach())}

        unet.load_state_dict(train(unet, step, recipe, work, report=report))
    return unet
