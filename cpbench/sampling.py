"""Drawing: batches through the diffusers pipeline, with noise fixed per (seed, concept, prompt, index), each once."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cpbench import machine, results, schedulers
from cpbench.backbones import Backbone
from cpbench.errors import UserError
from cpbench.method import seed_of
from cpbench.results import READ_ONLY, write_atomically
from cpbench.version import SCORES

DRAWN_BY = ("torch", "diffusers", "transformers", "peft")  # whose versions move a picture's bytes


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
    """SHA-256 of all that moves a picture's bytes: equal keys, equal pictures.

    That is the installed weights and token rows, prompt, noise and sampler, and what computes: SCORES, the libraries,
    the kind of processor or GPU and its threads. Nothing of a method's file, so that methods share the untouched model's.
    """
    facts = [installed, want.prompt, want.seed, want.concept, want.template, want.index]
    how = [
        sampler.num_inference_steps,
        sampler.guidance_scale,
        sampler.batch_size,
        str(backbone.dtype),
        backbone.picture_size,
    ]
    made_by = [SCORES, {name: results.versions().get(name) for name in DRAWN_BY}, machine.computes_on(backbone.device)]
    return hashlib.sha256(json.dumps([facts, how, made_by], sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def draw(backbone: Backbone, wanted: list[Wanted], sampler: Sampler) -> np.ndarray:
    """The pictures, uint8 (n, h, w, 3), in batches cut from `wanted` in order."""
    pipe = backbone.pipe
    original = pipe.scheduler
    out = []
    try:
        with backbone.drawing():
            for i in range(0, len(wanted), sampler.batch_size):
                part = wanted[i : i + sampler.batch_size]
                # a fresh scheduler a call: a multistep solver remembers its last steps
                pipe.scheduler = schedulers.solver(original, sampler.num_inference_steps)
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


def read_picture(path: Path, sha256: str | None = None) -> np.ndarray | None:
    """uint8 (h, w, 3), or None where there is no whole picture, or with `sha256` one of other bytes."""
    try:
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            return None
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def is_blank(picture: np.ndarray) -> bool:
    """Whether a picture (h, w, 3) is of one colour all over."""
    return bool((picture == picture[:1, :1]).all())


def png_bytes(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


@dataclass(frozen=True)
class Kept:
    """A picture's file in the cache, and the SHA-256 of its bytes, which its name ends with."""

    file: Path
    sha256: str


def draw_once(
    backbone: Backbone, wanted: list[Wanted], sampler: Sampler, cache: Path
) -> tuple[np.ndarray, list[Kept], int]:
    """The pictures, from `cache` if every one of them is there, else drawn (all of them: batches must not depend on
    what happened before). Returns (pictures, their files in the cache, how many were drawn)."""
    keys, installed = [], backbone.installed_hash()
    for i in range(0, len(wanted), sampler.batch_size):
        part = wanted[i : i + sampler.batch_size]
        # its batch counts as well: the same picture drawn in other company may differ in its last bits
        company = hashlib.sha256(json.dumps([installed, *map(astuple, part)]).encode()).hexdigest()
        keys += [picture_key(company, w, sampler, backbone) for w in part]
    found = [recall(cache, key) for key in keys]
    if all(found):
        return np.stack([picture for picture, _ in found]), [kept for _, kept in found], 0
    pictures = draw(backbone, wanted, sampler)
    return pictures, [keep(cache, *pair) for pair in zip(keys, pictures, strict=True)], len(wanted)


def keep(cache: Path, key: str, picture: np.ndarray) -> Kept:
    """Put a picture into the cache, read-only, as <key>-<SHA-256 of the file>.png."""
    data = png_bytes(picture)
    digest = hashlib.sha256(data).hexdigest()
    file = cache / key[:2] / f"{key}-{digest}.png"
    write_atomically(file, data, READ_ONLY)
    return Kept(file, digest)


def recall(cache: Path, key: str) -> tuple[np.ndarray, Kept] | None:
    """The picture kept for this key; None where there is none, or its bytes are not those of its name (it is removed)."""
    for file in sorted((cache / key[:2]).glob(f"{key}-*.png")):
        picture = read_picture(file, digest := file.stem.partition("-")[2])
        if picture is not None:
            return picture, Kept(file, digest)
        with contextlib.suppress(OSError):
            file.unlink()
    return None


def place(kept: Kept, target: Path) -> None:
    """Put a cached picture where people look for it: a copy of its own, read-only, so that nobody changes the cache."""
    write_atomically(target, kept.file.read_bytes(), READ_ONLY, like=kept.file)
