"""The autoencoder: factor 4, eight latent channels, L1 + L2 on 32-pixel crops, a light KL term."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from . import data
from .loop import Recipe, save_array, train

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 8,
    "block_out_channels": [32, 64, 96],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "mid_block_add_attention": False,
    "sample_size": 64,
}
ENCODER = Recipe("vae", steps=5000, batch=24, lr=2e-3, ema=0.998)
DECODER = Recipe("vae-decoder", steps=3000, batch=32, lr=1e-3, ema=0.998, seed=1)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, h, w, 3) -> float (n, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def crops(pictures: data.Pictures, rng: np.random.Generator, n: int, size: int = 32) -> torch.Tensor:
    """Random crops whose corners lie on the latent grid."""
    corners = rng.integers(0, (64 - size) // 4 + 1, (n, 2)) * 4
    return to_tensor(
        np.stack(
            [
                pictures.images[i, y : y + size, x : x + size]
                for i, (y, x) in zip(rng.integers(0, len(pictures.images), n), corners, strict=True)
            ]
        )
    )


def train_vae(pictures: data.Pictures, work: Path, device: str, report=print) -> torch.nn.Module:
    """Both halves together; then `train_decoder` goes on with the encoder frozen."""
    from diffusers import AutoencoderKL

    torch.manual_seed(ENCODER.seed)
    vae = AutoencoderKL(**CONFIG).to(device, memory_format=torch.channels_last)

    def step(i, rng, noise):
        x = crops(pictures, rng, ENCODER.batch).to(device)
        posterior = vae.encode(x).latent_dist
        z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(device)
        y = vae.decode(z).sample
        mse, kl = (y - x).square().mean(), posterior.kl().mean() / posterior.mean[0].numel()
        return mse + 0.2 * (y - x).abs().mean() + 2e-4 * kl, {
            "psnr": float(10 * torch.log10(4 / mse.detach())),
            "kl": float(kl.detach()),
        }

    vae.load_state_dict(train(vae, step, ENCODER, work, report=report))
    return vae


def train_decoder(
    vae: torch.nn.Module, pictures: data.Pictures, work: Path, device: str, report=print
) -> torch.nn.Module:
    """The decoder alone, so that latents already computed stay valid."""
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)

    def step(i, rng, noise):
        x = crops(pictures, rng, DECODER.batch).to(device)
        with torch.no_grad():
            posterior = vae.encode(x).latent_dist
            z = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=noise).to(device)
        y = vae.decode(z).sample
        mse = (y - x).square().mean()
        return mse + 0.2 * (y - x).abs().mean(), {"psnr": float(10 * torch.log10(4 / mse.detach()))}

    vae.load_state_dict(train(vae, step, DECODER, work, report=report))
    return vae.requires_grad_(True)


@torch.no_grad()
def decode(vae: torch.nn.Module, means: np.ndarray, device: str) -> np.ndarray:
    """Pictures uint8 (n, 64, 64, 3) of latents (n, 8, 16, 16) before scaling."""
    parts = [
        vae.decode(torch.from_numpy(means[i : i + 64]).float().to(device)).sample.clamp(-1, 1)
        for i in range(0, len(means), 64)
    ]
    return ((torch.cat(parts) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def rebuild(vae: torch.nn.Module, images: np.ndarray, device: str) -> np.ndarray:
    """Pictures uint8 (n, 64, 64, 3) after the autoencoder: encoded, the mean taken, decoded."""
    parts = np.split(images, range(64, len(images), 64))
    means = [vae.encode(to_tensor(part).to(device)).latent_dist.mean.cpu().numpy() for part in parts]
    return decode(vae, np.concatenate(means), device)


@torch.no_grad()
def latents(
    vae: torch.nn.Module, pictures: data.Pictures, work: Path, device: str, report=print
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every picture's latent, float16 (n, 8, 16, 16), computed once."""
    files = [work / f"latents-{len(pictures.images)}-{part}.npy" for part in ("mean", "std")]
    if not all(f.exists() for f in files):
        parts: tuple[list, list] = ([], [])
        for i in range(0, len(pictures.images), 256):
            posterior = vae.encode(to_tensor(pictures.images[i : i + 256]).to(device)).latent_dist
            parts[0].append(posterior.mean.half().cpu().numpy())
            parts[1].append(posterior.std.half().cpu().numpy())
            if i % 8192 == 0:
                report(f"encoded {i} of {len(pictures.images)} pictures")
        for file, part in zip(files, parts, strict=True):
            save_array(np.concatenate(part), file)
    return tuple(np.load(f) for f in files)  # type: ignore[return-value]
