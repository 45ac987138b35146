"""The denoiser: epsilon prediction on cached latents, min-SNR weights, averaged weights, captions dropped one in ten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from . import data
from .loop import Recipe, train

CONFIG = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [48, 96, 160],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
RECIPE = Recipe("unet", steps=4600, batch=48, lr=1.2e-3, warmup=200, ema=0.999, seed=3)
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
    text_encoder, tokenizer, latents: tuple[np.ndarray, np.ndarray], scaling: float, pictures: data.Pictures,
    work: Path, device: str, report=print, recipe: Recipe = RECIPE,
) -> torch.nn.Module:  # fmt: skip
    """Train the UNet on latents already encoded; `scaling` is the autoencoder's scaling_factor."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(recipe.seed)
    unet = UNet2DConditionModel(**CONFIG).to(device, memory_format=torch.channels_last)
    scheduler = DDPMScheduler(**{k: v for k, v in SCHEDULER.items() if k not in ("set_alpha_to_one",)})
    weight = min_snr_weight(scheduler.alphas_cumprod).to(device)
    states, which_caption = encode_captions(text_encoder, tokenizer, pictures.captions)
    states = states.to(device)
    mean, std = latents

    def step(i, rng, noise):
        which = rng.integers(0, len(mean), recipe.batch)
        m, s = (torch.from_numpy(part[which]).float() for part in (mean, std))
        z = ((m + s * torch.randn(m.shape, generator=noise)) * scaling).to(device)
        caption = torch.where(torch.from_numpy(rng.random(recipe.batch) < DROP_CAPTION), 0, which_caption[which])
        # one timestep from each of `batch` equal strata: less spread between steps than independent draws
        t = torch.from_numpy(
            ((rng.permutation(recipe.batch) + rng.random(recipe.batch)) / recipe.batch * 1000).astype(np.int64)
        ).to(device)
        epsilon = torch.randn(z.shape, generator=noise).to(device)
        noisy = scheduler.add_noise(z, epsilon, t)
        guess = unet(noisy, t, states[caption.to(device)]).sample
        error = (guess - epsilon).square().mean(dim=(1, 2, 3))
        return (weight[t] * error).mean(), {"error": float(error.mean().detach())}

    unet.load_state_dict(train(unet, step, recipe, work, report=report))
    return unet
