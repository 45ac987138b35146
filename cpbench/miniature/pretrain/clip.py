"""Two small CLIPs on the drawn world: one in transformers' format, whose text tower becomes the generator's text
encoder, and one in open_clip's, the judge. Different seeds and shapes, so that CLIP-T is not circular.

The loss is CLIP's: cross-entropy both ways over a batch, with a learned temperature (Radford et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import data
from .loop import Recipe, train
from .tokenizer import CONTEXT_LENGTH
from .vae import to_tensor

TEXT = Recipe("clip-text", steps=2000, batch=128, lr=1e-3, seed=11, ema=0.995)
JUDGE = Recipe("clip-judge", steps=3000, batch=128, lr=1e-3, seed=22, ema=0.995)
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def text_encoder_config(vocab_size: int, eos_token_id: int) -> dict:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT_LENGTH,
        "projection_dim": 128,
        "bos_token_id": eos_token_id - 1,
        "eos_token_id": eos_token_id,
        "pad_token_id": eos_token_id,
    }


def judge_config(vocab_size: int) -> dict:
    """open_clip's `model_cfg`: CLIP's ResNet, small. With the same steps a ViT of its cost reads far worse."""
    return {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 24, "head_width": 32},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": ".",
            "tokenizer_kwargs": {"clean": "lower", "strip_sep_token": False},
            "width": 96,
            "heads": 3,
            "layers": 3,
        },
    }


def contrastive(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss of unit vectors (n, d) and (n, d)."""
    logits = scale * image @ text.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def fit(
    model: torch.nn.Module,
    features: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    tokens: torch.Tensor,
    pictures: data.Pictures,
    recipe: Recipe,
    work: Path,
    device: str,
    report=print,
) -> None:
    """Train `model` on pictures and the tokens of their captions."""

    def step(i, rng, noise):
        indices = np.sort(rng.choice(len(pictures.images), recipe.batch, replace=False))
        image, text, scale = features(to_tensor(pictures.images[indices]).to(device), tokens[indices].to(device))
        loss = contrastive(image, text, scale)
        hits = (image @ text.T).argmax(1) == torch.arange(len(image), device=device)
        return loss, {"accuracy": float(hits.float().mean())}

    model.load_state_dict(train(model, step, recipe, work, report=report))


def train_text_encoder(tokenizer, pictures: data.Pictures, work: Path, device: str, report=print) -> torch.nn.Module:
    """A transformers CLIPModel trained on captions; returns it whole (its `text_model` is the generator's encoder)."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(TEXT.seed)
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 128,
    }
    model = CLIPModel(
        CLIPConfig(
            text_config=text_encoder_config(len(tokenizer), tokenizer.eos_token_id),
            vision_config=vision,
            projection_dim=128,
        )
    ).to(device)
    tokens = tokenizer(pictures.captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def features(images, ids):
        out = model(input_ids=ids, pixel_values=images)
        return (
            F.normalize(out.image_embeds, dim=-1),
            F.normalize(out.text_embeds, dim=-1),
            model.logit_scale.exp().clamp(max=100),
        )

    fit(model, features, tokens, pictures, TEXT, work, device, report)
    return model


def train_judge(tokenizer, pictures: data.Pictures, work: Path, device: str, report=print) -> torch.nn.Module:
    """The judge: an open_clip CLIP of `judge_config`."""
    from open_clip.model import CLIP

    torch.manual_seed(JUDGE.seed)
    model = CLIP(**judge_config(len(tokenizer))).to(device)
    model.visual.to(memory_format=torch.channels_last)
    tokens = tokenizer(pictures.captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def features(images, ids):
        return (
            model.encode_image(images, normalize=True),
            model.encode_text(ids, normalize=True),
            model.logit_scale.exp().clamp(max=100),
        )

    fit(model, features, tokens, pictures, JUDGE, work, device, report)
    return model
