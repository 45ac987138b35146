"""Stable Diffusion 1 and 2: a UNet with cross-attention to one CLIP text encoder (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from cpbench.backbones.families.family import Role
from cpbench.backbones.vocabulary import Vocabulary, encoder_name
from cpbench.errors import UserError, quoted


class StableDiffusion:
    denoiser: ClassVar[str] = "unet"
    denoiser_class: ClassVar[str] = "UNet2DConditionModel"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    max_lengths: ClassVar[Mapping[str, int]] = {}
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "text_attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
        "text_keys_values": ("attn2.to_k", "attn2.to_v"),
        "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    }
    unread: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }
    float32_vae: ClassVar[bool] = False
    density: ClassVar[None] = None
    addition_embed_type: ClassVar[str | None] = None  # further input of its UNet besides the prompt's tokens

    def __init__(self, pipe: Any):
        self.pipe = pipe

    @property
    def picture_size(self) -> int:
        return self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor

    @property
    def smallest_side(self) -> int:
        return 2 ** (len(self.pipe.unet.config.block_out_channels) - 1)

    def latent_shape(self, picture_size: int) -> tuple[int, int, int]:
        """(channels, height, width)."""
        side = picture_size // self.pipe.vae_scale_factor
        return self.pipe.unet.config.in_channels, side, side

    # Prompts

    def prepared(self, prompt: str) -> str:
        return prompt

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        (encoder,) = vocabulary.encoders
        masked = getattr(encoder.model.config, "use_attention_mask", False)  # as diffusers does
        return vocabulary.outputs(encoder, prompts, masked)[0]

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return prompt_embeds

    def attended(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        return self.hidden_states(prompt_embeds)

    # The denoiser's call

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def times(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        return {"encoder_hidden_states": prompt_embeds.to(dtype)}

    def predicted(self, output: torch.Tensor) -> torch.Tensor:
        return output

    # Latents

    def _standard(self) -> tuple[Any, Any]:
        """(shift, spread) with which the pipeline standardises latents, besides its scaling factor."""
        return getattr(self.pipe.vae.config, "shift_factor", None) or 0.0, 1.0

    def normalised(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (shift, spread), scale = self._standard(), self.pipe.vae.config.scaling_factor
        return (mean - shift) * scale / spread, std * scale / spread

    def denormalised(self, latents: torch.Tensor) -> torch.Tensor:
        shift, spread = self._standard()
        return latents * spread / self.pipe.vae.config.scaling_factor + shift

    # Sampling

    def evaluations_a_step(self, guidance_scale: float) -> int:
        """Two with guidance, for the prompt and the empty prompt."""
        return 2 if guidance_scale > 1 else 1

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        return {"prompt": prompts, "guidance_scale": guidance_scale}

    # Parts that do not fit together

    def refuse_mismatch(self, label: str) -> None:
        unet, vae, name = self.pipe.unet.config, self.pipe.vae.config, type(self.pipe).__name__
        needed = [part for t in self.tokenizers for part in (encoder_name(t), t)]
        if absent := [part for part in needed if getattr(self.pipe, part, None) is None]:
            raise UserError(f"{label}: has no {absent[0]}; {name} needs {' and '.join(needed)}")
        latents = vae.latent_channels
        if unet.out_channels == 2 * unet.in_channels:
            raise UserError(
                f"{label}: its UNet predicts a variance besides the noise ({unet.out_channels} channels for "
                f"{unet.in_channels}); methods learn the noise only"
            )
        if unet.in_channels == 2 * latents + 1:
            raise UserError(
                f"{label}: its UNet is for inpainting ({unet.in_channels} input channels, where a latent has {latents}); "
                "use a text-to-image pipeline"
            )
        if not unet.in_channels == unet.out_channels == latents:
            raise UserError(
                f"{label}: its VAE's latents have {latents} channels, and its UNet reads {unet.in_channels} and predicts "
                f"{unet.out_channels}; pass a --vae that fits"
            )
        for key in ("latents_mean", "latents_std"):
            if (extra := vae.get(key)) is not None and (not isinstance(extra, list | tuple) or len(extra) != latents):
                raise UserError(f"{label}: {key} of its VAE must have {latents} numbers; fetch it again")
        if unet.time_cond_proj_dim is not None:
            raise UserError(
                f"{label}: its UNet takes guidance as an input, as those distilled into a few steps do "
                "(time_cond_proj_dim); methods do not train that; take the model it was distilled from"
            )
        if unet.class_embed_type is not None or unet.num_class_embeds is not None:
            raise UserError(f"{label}: its UNet needs a class label besides the prompt; use a text-to-image pipeline")
        if unet.addition_embed_type != self.addition_embed_type or unet.encoder_hid_dim_type is not None:
            extra = unet.encoder_hid_dim_type or unet.addition_embed_type
            raise UserError(f"{label}: its UNet needs {quoted(extra)} besides the prompt, which {name} does not have")
        widths = [getattr(self.pipe, encoder_name(t)).config.hidden_size for t in self.tokenizers]
        context_width = unet.cross_attention_dim
        if any(
            width != sum(widths)
            for width in (context_width if isinstance(context_width, list | tuple) else [context_width])
        ):
            raise UserError(
                f"{label}: its text encoder{'s give' if len(widths) > 1 else ' gives'} hidden states of "
                f"{' + '.join(map(str, widths))}, and its UNet reads {context_width}; the parts are of two models"
            )
