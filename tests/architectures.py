"""Pipelines of Stable Diffusion's architectures with random weights, at their published sizes or made small.

Configurations are those of the published model_index.json files and what they point to; `small` keeps every block, layer
and switch and divides the widths, so that the code takes the same paths.
"""

from pathlib import Path

import torch

ARCHITECTURES = ("sd15", "sd21-base", "sdxl")
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
OPEN_CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
OPEN_CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def text_config(kind: dict[str, int], act: str, projection: int, vocabulary: int, small: bool):
    from transformers import CLIPTextConfig

    if small:
        kind = kind | {"hidden_size": kind["hidden_size"] // 32, "intermediate_size": 64, "num_hidden_layers": 3}
        kind["num_attention_heads"] = 4
        projection //= 32
    return CLIPTextConfig(
        **kind,
        hidden_act=act,
        projection_dim=projection,
        vocab_size=vocabulary,
        max_position_embeddings=77,
        bos_token_id=vocabulary - 2,
        eos_token_id=2,  # as published, and wrong for the vocabulary: the trap of METHODS.md 0.7
        pad_token_id=1,
    )


def unet(name: str, small: bool):
    from diffusers import UNet2DConditionModel

    by = 10 if small else 1
    groups = {"norm_num_groups": 8} if small else {}
    if name == "sdxl":
        return UNet2DConditionModel(
            sample_size=128 // (8 if small else 1),
            block_out_channels=[320 // by, 640 // by, 1280 // by],
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            attention_head_dim=[4, 4, 4] if small else [5, 10, 20],
            cross_attention_dim=2048 // (32 if small else 1),
            transformer_layers_per_block=[1, 2, 10],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256 // (32 if small else 1),
            projection_class_embeddings_input_dim=2816 // (32 if small else 1),
            **groups,
        )
    two = name == "sd21-base"
    return UNet2DConditionModel(
        sample_size=64 // (8 if small else 1),
        block_out_channels=[320 // by, 640 // by, 1280 // by, 1280 // by],
        attention_head_dim=(4 if small else 8) if not two else ([4] * 4 if small else [5, 10, 20, 20]),
        cross_attention_dim=(1024 if two else 768) // (32 if small else 1),
        use_linear_projection=two,
        **groups,
    )


def vae(name: str, small: bool):
    from diffusers import AutoencoderKL

    widths = [8, 16, 16, 16] if small else [128, 256, 512, 512]
    xl = name == "sdxl"
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=8 if small else 32,
        sample_size=1024 if xl else 512,
        scaling_factor=0.13025 if xl else 0.18215,
        force_upcast=xl,
    )


def drawn_by(pipe, size: int, prompt: str, noise: torch.Tensor, steps: int, guidance: float):
    """What a plain pipeline draws of one prompt from this noise (c, h, w): float (size, size, 3)."""
    return pipe(
        prompt,
        height=size,
        width=size,
        latents=noise[None],
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="np",
    ).images[0]


def build(name: str, folder: Path, small: bool = True, prediction_type: str = "epsilon", dtype=torch.float32) -> Path:
    """Save the pipeline in diffusers' format, and return its folder."""
    from diffusers import EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from cpbench.miniature.pretrain.tokenizer import save_tokenizer

    save_tokenizer(folder / "words", whole=not small)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)
    n = len(tokenizer)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    betas["prediction_type"] = prediction_type
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            parts = {"vae": vae(name, small), "unet": unet(name, small), "tokenizer": tokenizer}
            if name == "sdxl":
                parts["text_encoder"] = CLIPTextModel(text_config(CLIP_L, "quick_gelu", 768, n, small))
                second = text_config(OPEN_CLIP_G, "gelu", 1280, n, small)
                parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
                parts["tokenizer_2"] = tokenizer
                parts["scheduler"] = EulerDiscreteScheduler(**betas, timestep_spacing="leading")
            else:
                kind, act = (OPEN_CLIP_H, "gelu") if name == "sd21-base" else (CLIP_L, "quick_gelu")
                parts["text_encoder"] = CLIPTextModel(text_config(kind, act, 768, n, small))
                parts["scheduler"] = PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False)
        finally:
            torch.set_default_dtype(default)
    if small:
        generator = torch.Generator().manual_seed(0)
        for part in ("text_encoder", "text_encoder_2"):
            if part in parts:  # at CLIP's own scale, 0.02, so small a model hardly tells two prompts apart
                parts[part].get_input_embeddings().weight.data.normal_(std=0.5, generator=generator)
    if name == "sdxl":
        pipe = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    else:
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline"
