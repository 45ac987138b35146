"""Stable Diffusion's architectures with random weights, built in memory on any device: no files, no download.

Configurations are those of tests/architectures.py, which are the published ones. `small` keeps every block, layer and
switch and divides the widths.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpbench import torchvision_compat
from cpbench.backbones.backbone import Backbone
from cpbench.method import Task
from cpbench.miniature.pretrain.tokenizer import save_tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import architectures
import transformer_pipelines

LEVELS = (
    "block_out_channels",
    "down_block_types",
    "up_block_types",
    "attention_head_dim",
    "transformer_layers_per_block",
)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def pipeline(name: str, device: str, dtype: torch.dtype, small: bool = False, thin: bool = False) -> Any:
    """A diffusers pipeline of "sd15" or "sdxl". The autoencoder of sdxl is in float32, as it is loaded.

    thin: the UNet's first and last level only, with one layer each.
    """
    torchvision_compat.apply()
    from diffusers import EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder), whole=not small)
        tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    words, xl = len(tokenizer), name == "sdxl"
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            first = architectures.text_config(architectures.CLIP_L, "quick_gelu", 768, words, small)
            parts = {"text_encoder": CLIPTextModel(first), "unet": unet(name, small, thin)}
            parts["vae"] = architectures.vae(name, small)
            if xl:
                second = architectures.text_config(architectures.OPEN_CLIP_G, "gelu", 1280, words, small)
                parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
    finally:
        torch.set_default_dtype(default)
    if xl:
        parts["vae"].float()
        scheduler = EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
        pipe = StableDiffusionXLPipeline(
            **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler, add_watermarker=False
        )
    else:
        scheduler = PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False)
        pipe = StableDiffusionPipeline(
            **parts,
            tokenizer=tokenizer,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def unet(name: str, small: bool, thin: bool) -> Any:
    """The architecture's denoiser; thin: see `pipeline`."""
    whole = architectures.unet(name, small)
    if not thin:
        return whole
    settings = {key: value for key, value in whole.config.items() if not key.startswith("_")}
    for key in LEVELS:
        if isinstance(settings[key], list | tuple):
            settings[key] = [settings[key][0], settings[key][-1]]
    return type(whole)(**settings | {"layers_per_block": 1})


def backbone(name: str, device: str, dtype: torch.dtype, small: bool = False, thin: bool = False) -> Backbone:
    """The pipeline as a backbone at its own resolution: 512 pixels for sd15, 1024 for sdxl, an eighth if small.

    thin: not of the transformers in tests/transformer_pipelines.py.
    """
    if name in transformer_pipelines.MAKERS:
        torchvision_compat.apply()
        with tempfile.TemporaryDirectory() as folder, torch.device(device):
            pipe = transformer_pipelines.MAKERS[name](name, Path(folder), dtype, small)
        return Backbone(pipe, name, device, "random")
    return Backbone(pipeline(name, device, dtype, small, thin), name, device, "random")


def task(size: int, pictures: int = 4) -> Task:
    """A concept of random pictures of this size."""
    noise = np.random.default_rng(0).integers(0, 256, (pictures, size, size, 3), dtype=np.uint8)
    return Task(1, "dog", "dog", noise, 0)
