"""The picture cache: identical pictures are generated once. Its key is everything that a picture's bytes depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from concurrent.futures import Future
from dataclasses import astuple
from pathlib import Path

import numpy as np

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.files import READ_ONLY, write_atomically
from cpbench.records import machine
from cpbench.records.pictures import CachedPicture, decoded, png_bytes, read_bytes
from cpbench.running.writing import Writer, done
from cpbench.version import SCORES

LIBRARIES = ("torch", "diffusers", "transformers", "peft")  # a picture's bytes depend on their versions


def picture_key(installed: str, request: SampleRequest, sampler: Sampler, backbone: Backbone) -> str:
    """SHA-256 of everything a picture's bytes depend on: equal keys, equal pictures.

    These are the installed weights and token embeddings, prompt, noise and sampler; SCORES, library versions, the type of
    processor or GPU and its threads. The method is not part of it, so all methods share the untouched model's pictures.
    """
    facts = [installed, request.prompt, request.seed, request.concept, request.template, request.index]
    settings = [
        sampler.num_inference_steps,
        sampler.guidance_scale,
        sampler.batch_size,
        str(backbone.dtype),
        backbone.picture_size,
    ]
    made_by = [
        SCORES,
        {name: machine.versions().get(name) for name in LIBRARIES},
        machine.computes_on(backbone.device),
    ]
    return hashlib.sha256(json.dumps([facts, settings, made_by], sort_keys=True).encode()).hexdigest()


def generate_once(
    backbone: Backbone, requests: list[SampleRequest], sampler: Sampler, cache: Path, writer: Writer
) -> tuple[np.ndarray, list[Future[CachedPicture]], int]:
    """The requested pictures, read from `cache` if all of them are in it, else all generated: a batch must not depend on
    what is cached. Returns (pictures, their files in the cache, which `writer` may still be writing, the number generated)."""
    keys, installed = [], backbone.installed_hash()
    for i in range(0, len(requests), sampler.batch_size):
        part = requests[i : i + sampler.batch_size]
        # the batch is part of the key: in another batch the same picture may differ in its last bits
        facts = [installed, *map(astuple, part)] + (["compiled"] if is_compiled(backbone, sampler, len(part)) else [])
        company = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        keys += [picture_key(company, w, sampler, backbone) for w in part]
    cached = [recall(cache, key) for key in keys]
    if all(cached):
        return np.stack([picture for picture, _ in cached]), [done(file) for _, file in cached], 0
    pictures = generate(backbone, requests, sampler)
    files = [writer.submit(keep, cache, key, picture) for key, picture in zip(keys, pictures, strict=True)]
    return pictures, files, len(requests)


def is_compiled(backbone: Backbone, sampler: Sampler, pictures: int) -> bool:
    """Whether a batch of so many pictures is computed by the compiled denoiser, whose last bits are others."""
    a_step = backbone.family.evaluations_a_step(sampler.guidance_scale)
    return backbone.compiled is not None and a_step * pictures in backbone.compiled.sizes


def keep(cache: Path, key: str, picture: np.ndarray) -> CachedPicture:
    """Put a picture into the cache, read-only, as <key>-<SHA-256 of the file>.png."""
    data = png_bytes(picture)
    digest = hashlib.sha256(data).hexdigest()
    file = cache / key[:2] / f"{key}-{digest}.png"
    write_atomically(file, data, READ_ONLY)
    return CachedPicture(file, digest, data)


def recall(cache: Path, key: str) -> tuple[np.ndarray, CachedPicture] | None:
    """The cached picture of this key; None if there is none. A file whose hash is not the one in its name is removed."""
    for file in sorted((cache / key[:2]).glob(f"{key}-*.png")):
        data = read_bytes(file, digest := file.stem.partition("-")[2])
        picture = None if data is None else decoded(data)
        if data is not None and picture is not None:
            return picture, CachedPicture(file, digest, data)
        with contextlib.suppress(OSError):
            file.unlink()
    return None
