"""Pipelines of transformers with random weights, small, or at their published sizes.

Every part has its released config.json with only widths, depths, vocabulary and picture size cut (CUT names the keys);
switches stay: dual attention in some blocks (3.5-medium), the last block without text output, normed queries and keys.
Weights are drawn so that the output is of the size of its target and tells prompts apart, see `refuse_tame`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from architectures import CLIP_L, OPEN_CLIP_G, text_config

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

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


PIXART_TRANSFORMERS = {  # transformer/config.json of PixArt-alpha/PixArt-XL-2-512x512, -1024-MS and PixArt-Sigma-XL-2-1024-MS
    "pixart-alpha-512": {
        "activation_fn": "gelu-approximate", "attention_bias": True, "attention_head_dim": 72, "attention_type": "default",
        "caption_channels": 4096, "cross_attention_dim": 1152, "dropout": 0.0, "in_channels": 4,
        "norm_elementwise_affine": False, "norm_eps": 1e-6, "norm_num_groups": 32, "norm_type": "ada_norm_single",
        "num_attention_heads": 16, "num_embeds_ada_norm": 1000, "num_layers": 28, "out_channels": 8, "patch_size": 2,
        "sample_size": 64, "upcast_attention": False,
    },
}  # fmt: skip
PIXART_TRANSFORMERS["pixart-sigma-1024"] = PIXART_TRANSFORMERS["pixart-alpha-512"] | {
    "sample_size": 128, "interpolation_scale": 2, "use_additional_conditions": False,
}  # fmt: skip
PIXART_CUT = {
    "attention_head_dim": 16, "caption_channels": 64, "cross_attention_dim": 32, "num_attention_heads": 2, "num_layers": 3,
    "num_embeds_ada_norm": 1000, "sample_size": 16,
}  # fmt: skip
PIXART_SCHEDULER = {
    "algorithm_type": "dpmsolver++", "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "lower_order_final": True, "num_train_timesteps": 1000, "prediction_type": "epsilon", "solver_order": 2,
    "solver_type": "midpoint", "steps_offset": 0, "thresholding": False, "timestep_spacing": "linspace",
    "use_karras_sigmas": False, "variance_type": None,
}  # fmt: skip
T5 = {  # text_encoder/config.json, T5 1.1 XXL
    "d_ff": 10240, "d_kv": 64, "d_model": 4096, "dense_act_fn": "gelu_new", "feed_forward_proj": "gated-gelu",
    "is_gated_act": True, "num_heads": 64, "num_layers": 24, "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32, "tie_word_embeddings": False, "vocab_size": 32128,
}  # fmt: skip
T5_CUT = {"d_ff": 64, "d_kv": 8, "d_model": 64, "num_heads": 4, "num_layers": 2}
LONGER = 28  # rows by which T5's table is longer than its tokenizer
WORDS = ("a", "an", "photo", "picture", "of", "the", "on", "in", "dog", "cat", "vase", "red", "table", "grass")


def t5(tokenizer_length: int, width: int = T5_CUT["d_model"], small: bool = True):
    """A small T5 encoder whose table is longer than its tokenizer; or T5 XXL."""
    from transformers import T5Config, T5EncoderModel

    if not small:
        return T5EncoderModel(T5Config(**T5))
    config = T5 | T5_CUT | {"vocab_size": tokenizer_length + LONGER, "d_model": width}
    encoder = T5EncoderModel(T5Config(**config))
    draw_weights(encoder, 2)
    encoder.get_input_embeddings().weight.data.normal_(generator=torch.Generator().manual_seed(3))
    return encoder


def t5_tokenizer():
    """A tokenizer of T5's kind, with a hundred sentinels behind whole words and letters."""
    from transformers import T5Tokenizer

    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *(f"\u2581{word}" for word in WORDS), *letters]
    scores = [0.0, 0.0, 0.0, -4.0, *[-2.0] * len(WORDS), *[-8.0] * len(letters)]
    pieces += [f"<extra_id_{i}>" for i in reversed(range(100))]
    return T5Tokenizer(vocab=list(zip(pieces, scores + [0.0] * 100, strict=True)), model_max_length=512)


@contextmanager
def built_in(dtype: torch.dtype) -> Iterator[None]:
    """A context with seed 0 and this default dtype, so that a large network is never in float32."""
    default = torch.get_default_dtype()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(default)


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


def sd3(
    name: str, words: Path, dtype: torch.dtype = torch.float32, small: bool = True, with_t5: bool = False
) -> DiffusionPipeline:
    """A Stable Diffusion 3, without T5 unless it is wanted."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

    from cpbench.miniature.pretrain.tokenizer import save_tokenizer

    save_tokenizer(words, whole=not small)
    tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=77)
    config = SD3_TRANSFORMERS[name] | (CUT if small else {})
    if small and "dual_attention_layers" in config:
        config["dual_attention_layers"] = [0, 1]  # of three blocks
    small_vae = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 8} if small else {}
    with built_in(torch.float32 if small else dtype):
        parts = {
            "transformer": SD3Transformer2DModel(**config),
            "vae": AutoencoderKL(**SD3_VAE | small_vae),
            "text_encoder": CLIPTextModelWithProjection(text_config(CLIP_L, "quick_gelu", 768, len(tokenizer), small)),
            "text_encoder_2": CLIPTextModelWithProjection(
                text_config(OPEN_CLIP_G, "gelu", 1280, len(tokenizer), small)
            ),
        }
    if small:
        for part in ("text_encoder", "text_encoder_2"):
            parts[part].get_input_embeddings().weight.data.normal_(
                std=0.5, generator=torch.Generator().manual_seed(1)
            )  # at CLIP's own scale a small model hardly tells two prompts apart
        draw_weights(parts["transformer"])
    if dtype != torch.float32:
        parts = {name: part.to(dtype) for name, part in parts.items()}
    t5_parts = {"text_encoder_3": None, "tokenizer_3": None}
    if with_t5:
        t5_parts["tokenizer_3"] = t5_tokenizer()
        t5_parts["text_encoder_3"] = t5(len(t5_parts["tokenizer_3"]), config["joint_attention_dim"])
    return StableDiffusion3Pipeline(
        **parts,
        **t5_parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=FlowMatchEulerDiscreteScheduler(**SD3_SCHEDULER),
    )


def pixart(name: str, words: Path, dtype: torch.dtype = torch.float32, small: bool = True) -> DiffusionPipeline:
    """A PixArt."""
    from diffusers import (
        AutoencoderKL,
        DPMSolverMultistepScheduler,
        PixArtAlphaPipeline,
        PixArtSigmaPipeline,
        PixArtTransformer2DModel,
    )

    tokenizer = t5_tokenizer()
    small_vae = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 8} if small else {}
    small_vae["latent_channels"] = 4
    usual_vae = {"scaling_factor": 0.18215, "shift_factor": None, "use_quant_conv": True, "use_post_quant_conv": True}
    with built_in(dtype):
        transformer = PixArtTransformer2DModel(**PIXART_TRANSFORMERS[name] | (PIXART_CUT if small else {}))
        vae = AutoencoderKL(**SD3_VAE | small_vae | usual_vae | {"force_upcast": "sigma" in name})
        text_encoder = t5(len(tokenizer), small=small)
    if small:
        draw_weights(transformer)
    kind = PixArtSigmaPipeline if "sigma" in name else PixArtAlphaPipeline
    return kind(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(**PIXART_SCHEDULER),
    )


SANA_TRANSFORMERS = {  # transformer/config.json of Efficient-Large-Model/Sana_600M_512px_diffusers and Sana_1600M_1024px_diffusers
    "sana-600m": {
        "in_channels": 32, "out_channels": 32, "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 28,
        "num_cross_attention_heads": 16, "cross_attention_head_dim": 72, "cross_attention_dim": 1152,
        "caption_channels": 2304, "mlp_ratio": 2.5, "attention_bias": False, "sample_size": 16, "patch_size": 1,
        "norm_elementwise_affine": False, "norm_eps": 1e-6, "interpolation_scale": None,
    },
}  # fmt: skip
SANA_TRANSFORMERS["sana-1600m"] = SANA_TRANSFORMERS["sana-600m"] | {
    "num_attention_heads": 70, "num_layers": 20, "num_cross_attention_heads": 20, "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240, "sample_size": 32,
}  # fmt: skip
SANA_CUT = {
    "num_attention_heads": 4, "attention_head_dim": 8, "num_layers": 3, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16, "cross_attention_dim": 32, "caption_channels": 64, "sample_size": 4,
}  # fmt: skip
SANA_VAE = {  # vae/config.json, dc-ae-f32c32-sana
    "in_channels": 3, "latent_channels": 32, "attention_head_dim": 32,
    "encoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "decoder_block_types": ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3,
    "encoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "decoder_block_out_channels": [128, 256, 512, 512, 1024, 1024],
    "encoder_layers_per_block": [2, 2, 2, 3, 3, 3], "decoder_layers_per_block": [3, 3, 3, 3, 3, 3],
    "encoder_qkv_multiscales": [[], [], [], [5], [5], [5]], "decoder_qkv_multiscales": [[], [], [], [5], [5], [5]],
    "downsample_block_type": "conv", "upsample_block_type": "interpolate", "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu", "scaling_factor": 0.41407,
}  # fmt: skip
SANA_VAE_CUT = {
    "attention_head_dim": 8, "encoder_block_out_channels": [8, 8, 16, 16, 32, 32],
    "decoder_block_out_channels": [8, 8, 16, 16, 32, 32], "encoder_layers_per_block": [1] * 6,
    "decoder_layers_per_block": [1] * 6,
}  # fmt: skip
SANA_SCHEDULER = PIXART_SCHEDULER | {
    "flow_shift": 3.0, "use_flow_sigmas": True, "prediction_type": "flow_prediction", "final_sigmas_type": "zero",
}  # fmt: skip
GEMMA = {  # text_encoder/config.json, Gemma 2 2B
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "vocab_size": 256000,
    "query_pre_attn_scalar": 256, "sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0,
}  # fmt: skip
GEMMA_CUT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16,
}  # fmt: skip


def gemma_tokenizer():
    """A tokenizer of Gemma's kind: byte-level fallback, no word of its own but WORDS, padded on the left by default."""
    from diffusers import SanaPipeline
    from transformers import GemmaTokenizer

    vocab = {token: i for i, token in enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))}
    merges: list[tuple[str, str]] = []
    for piece in (*(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *map(chr, range(33, 127))):
        vocab.setdefault(piece, len(vocab))
    told = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    words = {word for line in told for word in line.lower().split() if word.isalpha()}
    for word in (*WORDS, *sorted(words - set(WORDS))):  # else a token of its own for each letter of the instruction
        for end in range(1, len(word) + 1):
            left, letter = "\u2581" + word[: end - 1], word[end - 1]
            if left + letter not in vocab:
                vocab[left + letter] = len(vocab)
                merges.append((left, letter))
    return GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, model_max_length=8192)


def sana(name: str, words: Path, dtype: torch.dtype = torch.float32, small: bool = True) -> DiffusionPipeline:
    """A Sana."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = gemma_tokenizer()
    small_gemma = GEMMA_CUT | {"vocab_size": len(tokenizer) + LONGER} if small else {}
    with built_in(dtype):
        transformer = SanaTransformer2DModel(**SANA_TRANSFORMERS[name] | (SANA_CUT if small else {}))
        vae = AutoencoderDC(**SANA_VAE | (SANA_VAE_CUT if small else {}))
        text_encoder = Gemma2Model(Gemma2Config(**GEMMA | small_gemma))
    if small:
        draw_weights(transformer)
        draw_weights(text_encoder, 2)
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(**SANA_SCHEDULER),
    )


FLUX_TRANSFORMERS = {  # transformer/config.json of black-forest-labs/FLUX.1-dev
    "flux-dev": {
        "attention_head_dim": 128, "guidance_embeds": True, "in_channels": 64, "joint_attention_dim": 4096,
        "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38, "patch_size": 1,
        "pooled_projection_dim": 768,
    },
}  # fmt: skip
FLUX_CUT = {
    "attention_head_dim": 16, "joint_attention_dim": 64, "num_attention_heads": 2, "num_layers": 2, "num_single_layers": 3,
    "pooled_projection_dim": 24, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
FLUX_SCHEDULER = {
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15,
    "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True,
}  # fmt: skip


def flux(name: str, words: Path, dtype: torch.dtype = torch.float32, small: bool = True) -> DiffusionPipeline:
    """A FLUX.1."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from cpbench.miniature.pretrain.tokenizer import save_tokenizer

    save_tokenizer(words, whole=not small)
    clip_tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=77)
    tokenizer = t5_tokenizer()
    small_vae = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 8} if small else {}
    with built_in(dtype):
        transformer = FluxTransformer2DModel(**FLUX_TRANSFORMERS[name] | (FLUX_CUT if small else {}))
        vae = AutoencoderKL(**SD3_VAE | small_vae | {"scaling_factor": 0.3611, "shift_factor": 0.1159})
        clip = CLIPTextModel(text_config(CLIP_L, "quick_gelu", 768, len(clip_tokenizer), small))
        text_encoder_2 = t5(len(tokenizer), small=small)
    if small:
        clip.get_input_embeddings().weight.data.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
        draw_weights(transformer)
    return FluxPipeline(
        tokenizer=clip_tokenizer,
        text_encoder=clip,
        tokenizer_2=tokenizer,
        text_encoder_2=text_encoder_2,
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULER),
    )


MAKERS = dict.fromkeys(SD3_TRANSFORMERS, sd3) | dict.fromkeys(PIXART_TRANSFORMERS, pixart)
MAKERS |= dict.fromkeys(SANA_TRANSFORMERS, sana) | dict.fromkeys(FLUX_TRANSFORMERS, flux)


def build(name: str, folder: Path, dtype: torch.dtype = torch.float32, small: bool = True, **more: bool) -> Path:
    """Save a pipeline in diffusers' format below `folder`, and return its own folder."""
    MAKERS[name](name, folder / "words", dtype, small, **more).save_pretrained(folder / "pipeline")
    return folder / "pipeline"


BUILDERS = dict.fromkeys(MAKERS, build)
