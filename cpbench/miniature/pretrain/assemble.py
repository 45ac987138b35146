"""Assembles trained parts, in half precision, into folders that diffusers, open_clip and timm load with their own calls."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from cpbench.judges.local import PROJECTED

from . import clip, dino, unet, vae
from .tokenizer import save_tokenizer


def halves(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Float tensors as float16, ready for safetensors."""
    return {k: (v.half() if v.is_floating_point() else v).contiguous().clone() for k, v in weights.items()}


def save_pipeline(folder: Path, autoencoder, denoiser, text_encoder, tokenizer_folder: Path, scaling: float) -> None:
    """The generator, in diffusers' own format."""
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    words = CLIPTextModel(CLIPTextConfig(**clip.text_encoder_config(len(tokenizer), tokenizer.eos_token_id)))
    inner = getattr(words, "text_model", words)
    inner.load_state_dict(text_encoder.state_dict())
    painter = AutoencoderKL(**vae.CONFIG, scaling_factor=scaling)
    painter.load_state_dict(autoencoder.state_dict())
    guess = UNet2DConditionModel(**unet.CONFIG)
    guess.load_state_dict(denoiser if isinstance(denoiser, dict) else denoiser.state_dict())
    StableDiffusionPipeline(
        vae=painter.half(), text_encoder=words.half(), tokenizer=tokenizer, unet=guess.half(), scheduler=DPMSolverMultistepScheduler(**unet.SCHEDULER),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    save_tokenizer(folder / "tokenizer")  # adds vocab.json and merges.txt, which transformers 5 leaves out
    # transformers 5 would otherwise load the text encoder in the files' float16 beside a float32 UNet
    config = folder / "text_encoder" / "config.json"
    facts = json.loads(config.read_text()) | {"dtype": "float32"}
    config.write_text(json.dumps(facts, indent=2) + "\n")


def save_clip_judge(folder: Path, model, vocab_size: int) -> None:
    """The CLIP judge as an open_clip `local-dir:` folder, tokenizer included."""
    save_tokenizer(folder)
    facts = {
        "model_cfg": clip.judge_config(vocab_size),
        "preprocess_cfg": {
            "mean": clip.MEAN,
            "std": clip.STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(facts, indent=2) + "\n")
    save_file(halves(model.state_dict()), folder / "open_clip_model.safetensors")


def save_dino_judge(folder: Path, backbone) -> None:
    """The DINO judge as a timm `local-dir:` folder."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "architecture": dino.ARCHITECTURE,
        "feature": PROJECTED,
        "num_classes": dino.MODEL_ARGS["num_classes"],
        "num_features": dino.MODEL_ARGS["embed_dim"],
        "global_pool": "token",
        "model_args": dino.MODEL_ARGS,
        "pretrained_cfg": {
            "input_size": [3, 64, 64],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": clip.MEAN,
            "std": clip.STD,
            "num_classes": dino.MODEL_ARGS["num_classes"],
            "first_conv": "patch_embed.proj.0.0",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(facts, indent=2) + "\n")
    save_file(halves(backbone.state_dict()), folder / "model.safetensors")
