"""Pipelines of transformers with flow matching, small, with random weights.

Every part has its released config.json with only widths, depths, vocabulary and picture size cut (CUT names the keys);
switches stay: dual attention in some blocks (3.5-medium), the last block without text output, normed queries and keys.
Weights are drawn so that the output is of the size of its target and tells prompts apart, see `refuse_tame`.
"""

from pathlib import Path

import torch
from architectures import CLIP_L, OPEN_CLIP_G, text_config

SD3_TRANSFORMERS = {  # transformer/config.json of stabilityai/stable-diffusion-3-medium-diffusers and -3.5-medium
    "sd3-medium": {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 192,
    },
    "sd35-medium": {
        "sample_size": 128, "patch_size": 2, "in_channels": 16, "num_layers": 24, "attention_head_dim": 64,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
        "pooled_projection_dim": 2048, "out_channels": 16, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
        "dual_attention_layers": list(range(13)),
    },
}  # fmt: skip
CUT = {
    "sample_size": 16, "num_layers": 3, "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 128,
    "caption_projection_dim": 32, "pooled_projection_dim": 64, "pos_embed_max_size": 24,
}  # fmt: skip
SD3_VAE = {  # vae/config.json
    "in_channels": 3, "out_channels": 3, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4, "act_fn": "silu",
    "latent_channels": 16, "norm_num_groups": 32, "sample_size": 1024, "scaling_factor": 1.5305,
    "shift_factor": 0.0609, "use_quant_conv": False, "use_post_quant_conv": False, "force_upcast": True,
}  # fmt: skip
SD3_SCHEDULER = {"num_train_timesteps": 1000, "shift": 3.0}


def draw_weights(network: torch.nn.Module, seed: int = 0) -> None:
    """Matrices so that a layer keeps the size of what passes; biases and shifts that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in network.named_parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 1
        spread = fan_in**-0.5 if p.ndim > 1 else 0.1
        mean = 1.0 if p.ndim == 1 and name.endswith("weight") else 0.0
        p.data.copy_(mean + spread * torch.randn(p.shape, generator=generator))


def refuse_tame(outputs: torch.Tensor) -> None:
    """AssertionError unless the denoiser's outputs for two prompts (2, c, h, w), else equal inputs, are lively."""
    assert 0.5 < float(outputs.std()) < 2, f"its output has a standard deviation of {float(outputs.std()):.3f}"
    assert float((outputs[0] - outputs[1]).abs().mean()) > 1e-2, "two prompts give the same output"


def sd3(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a small Stable Diffusion 3 without T5 in diffusers' format, and return its folder."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    from cpbench.miniature.pretrain.tokenizer import save_tokenizer

    save_tokenizer(folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)
    config = SD3_TRANSFORMERS[name] | CUT
    if "dual_attention_layers" in config:
        config["dual_attention_layers"] = [0, 1]  # of three blocks
    small_vae = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = {
            "transformer": SD3Transformer2DModel(**config),
            "vae": AutoencoderKL(**SD3_VAE | small_vae),
            "text_encoder": CLIPTextModelWithProjection(text_config(CLIP_L, "quick_gelu", 768, len(tokenizer), True)),
            "text_encoder_2": CLIPTextModelWithProjection(text_config(OPEN_CLIP_G, "gelu", 1280, len(tokenizer), True)),
        }
    for part in ("text_encoder", "text_encoder_2"):
        parts[part].get_input_embeddings().weight.data.normal_(
            std=0.5, generator=torch.Generator().manual_seed(1)
        )  # at CLIP's own scale a small model hardly tells two prompts apart
    draw_weights(parts["transformer"])
    if dtype != torch.float32:
        parts = {name: part.to(dtype) for name, part in parts.items()}
    pipe = StableDiffusion3Pipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        scheduler=FlowMatchEulerDiscreteScheduler(**SD3_SCHEDULER),
    )
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
