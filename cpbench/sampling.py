"""Drawing: batches through the diffusers pipeline, with noise fixed per (seed, concept, prompt, index), each once."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cpbench.backbones import Backbone
from cpbench.errors import UserError
from cpbench.method import seed_of
from cpbench.results import write_atomically


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn. `batch_size` counts pictures a pipeline call (guidance doubles what the UNet sees)."""

    num_inference_steps: int = 10
    guidance_scale: float = 4.0
    batch_size: int = 16

    def evaluations(self, pictures: int) -> int:
        """UNet evaluations that drawing so many pictures takes: with guidance, two a step."""
        return pictures * self.num_inference_steps * (2 if self.guidance_scale > 1 else 1)


@dataclass(frozen=True)
class Wanted:
    """One picture: its full prompt, and what its noise is keyed by (the template, not the method's words)."""

    prompt: str
    seed: int
    concept: str
    template: str
    index: int


def noise(backbone: Backbone, want: Wanted) -> torch.Tensor:
    """Standard normal (c, h, w), drawn on the CPU in float32 from (seed, concept, prompt, index)."""
    seed = seed_of(want.seed, "noise", want.concept, want.template, want.index)
    return torch.randn(backbone.latent_shape, generator=torch.Generator().manual_seed(seed))


def picture_key(installed: str, want: Wanted, sampler: Sampler, backbone: Backbone) -> str:
    """SHA-256 of (installed weights and token rows, prompt, noise key, sampler): equal keys, equal pictures."""
    facts = [installed, want.prompt, want.seed, want.concept, want.template, want.index]
    how = [
        sampler.num_inference_steps,
        sampler.guidance_scale,
        sampler.batch_size,
        backbone.device.type,
        str(backbone.dtype),
        backbone.picture_size,
    ]
    return hashlib.sha256(json.dumps([facts, how]).encode()).hexdigest()


@torch.no_grad()
def draw(backbone: Backbone, wanted: list[Wanted], sampler: Sampler) -> np.ndarray:
    """The pictures, uint8 (n, h, w, 3), in batches cut from `wanted` in order."""
    from diffusers import DPMSolverMultistepScheduler

    pipe = backbone.pipe
    original = pipe.scheduler
    out = []
    try:
        with backbone.drawing():
            for i in range(0, len(wanted), sampler.batch_size):
                part = wanted[i : i + sampler.batch_size]
                # a fresh scheduler a call: a multistep solver remembers its last steps
                pipe.scheduler = DPMSolverMultistepScheduler.from_config(original.config)
                latents = torch.stack([noise(backbone, w) for w in part]).to(backbone.device, backbone.dtype)
                with backbone.precision():
                    drawn = pipe(
                        prompt=[w.prompt for w in part],
                        height=backbone.picture_size,
                        width=backbone.picture_size,
                        latents=latents,
                        num_inference_steps=sampler.num_inference_steps,
                        guidance_scale=sampler.guidance_scale,
                        output_type="latent",  # decoded outside of mixed precision
                    ).images
                pictures = backbone.decode_latents(drawn)
                if not np.isfinite(pictures).all():
                    raise UserError(
                        f"prompt {part[0].prompt!r}: the model drew no numbers (NaN); lower the learning rate"
                    )
                out.append(np.rint(pictures * 255).astype(np.uint8))
    finally:
        pipe.scheduler = original
    return np.concatenate(out)


def read_picture(path: Path) -> np.ndarray | None:
    """uint8 (h, w, 3), or None where there is no whole picture."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def is_blank(picture: np.ndarray) -> bool:
    """Whether a picture (h, w, 3) is of one colour all over."""
    return bool((picture == picture[:1, :1]).all())


def png_bytes(picture: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def draw_once(
    backbone: Backbone, wanted: list[Wanted], sampler: Sampler, cache: Path
) -> tuple[np.ndarray, list[Path], int]:
    """The pictures, from `cache` if every one of them is there, else drawn (all of them: batches must not depend on
    what happened before). Returns (pictures, their files in the cache, how many were drawn)."""
    keys, installed = [], backbone.installed_hash()
    for i in range(0, len(wanted), sampler.batch_size):
        part = wanted[i : i + sampler.batch_size]
        # its batch counts as well: the same picture drawn in other company may differ in its last bits
        company = hashlib.sha256(json.dumps([installed, *map(astuple, part)]).encode()).hexdigest()
        keys += [picture_key(company, w, sampler, backbone) for w in part]
    files = [cache / k[:2] / f"{k}.png" for k in keys]
    kept = [read_picture(f) for f in files] if all(f.exists() for f in files) else [None]
    if all(p is not None for p in kept):
        return np.stack(kept), files, 0
    pictures = draw(backbone, wanted, sampler)
    for file, picture in zip(files, pictures, strict=True):
        write_atomically(file, png_bytes(picture))
    return pictures, files, len(wanted)


def place(cached: Path, target: Path) -> None:
    """Put a cached picture where people look for it: a hard link, or a copy where links are not to be had."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(cached, target)
    except OSError:
        write_atomically(target, cached.read_bytes())
