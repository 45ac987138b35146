"""PixArt-alpha and -Sigma: a transformer with cross-attention to T5 (Chen et al. 2023, 2024). A diffusion, of epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from cpbench.backbones.families.family import Role
from cpbench.backbones.vocabulary import Vocabulary
from cpbench.errors import UserError

WITH_SIZES = 128  # sample_size of the transformers that are told the picture's size


class PixArtAlpha:
    denoiser: ClassVar[str] = "transformer"
    denoiser_class: ClassVar[str] = "PixArtTransformer2DModel"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    max_lengths: ClassVar[Mapping[str, int]] = {"tokenizer": 120}  # the pipeline's own default
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "text_attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
        "text_keys_values": ("attn2.to_k", "attn2.to_v"),
        "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    }
    unread: ClassVar[Mapping[str, Any]] = {}
    float32_vae: ClassVar[bool] = False
    density: ClassVar[None] = None

    def __init__(self, pipe: Any):
        self.pipe = pipe

    @property
    def picture_size(self) -> int:
        return self.pipe.transformer.config.sample_size * self.pipe.vae_scale_factor

    @property
    def smallest_side(self) -> int:
        return self.pipe.transformer.config.patch_size

    def latent_shape(self, picture_size: int) -> tuple[int, int, int]:
        """(channels, height, width)."""
        side = picture_size // self.pipe.vae_scale_factor
        return self.pipe.transformer.config.in_channels, side, side

    # Prompts

    def prepared(self, prompt: str) -> str:
        """As the pipeline changes every prompt."""
        return prompt.lower().strip()

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """T5's hidden states, with the mask of the tokens as one more value of each."""
        (encoder,) = vocabulary.encoders
        hidden = vocabulary.outputs(encoder, prompts, masked=True)[0]
        return torch.cat([hidden, vocabulary.mask(encoder, prompts).unsqueeze(-1).to(hidden)], dim=-1)

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return prompt_embeds[..., :-1]

    def attended(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        """The hidden states in the transformer's own width."""
        projection = self.pipe.transformer.caption_projection
        return projection(self.hidden_states(prompt_embeds).to(projection.linear_1.weight.dtype))

    # The denoiser's call

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def times(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        """With sizes where the transformer is told them."""
        sizes: dict[str, torch.Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.pipe.transformer.config.sample_size == WITH_SIZES:
            one = torch.ones(len(prompt_embeds), 1, dtype=dtype, device=prompt_embeds.device)
            sizes = {"resolution": one.repeat(1, 2) * picture_size, "aspect_ratio": one}
        return {
            "encoder_hidden_states": self.hidden_states(prompt_embeds).to(dtype),
            "encoder_attention_mask": prompt_embeds[..., -1].to(dtype),
            "added_cond_kwargs": sizes,
        }

    def predicted(self, output: torch.Tensor) -> torch.Tensor:
        """The noise, without the variance that the released transformers predict besides."""
        return output[:, : self.pipe.transformer.config.in_channels]

    # Latents

    def normalised(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scale = self.pipe.vae.config.scaling_factor
        return mean * scale, std * scale

    def denormalised(self, latents: torch.Tensor) -> torch.Tensor:
        return latents / self.pipe.vae.config.scaling_factor

    # Sampling

    def evaluations_a_step(self, guidance_scale: float) -> int:
        """Two with guidance, for the prompt and the empty prompt."""
        return 2 if guidance_scale > 1 else 1

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        """Cleaned captions would lose a word in angle brackets, and other sizes than asked for would be drawn."""
        more = {"clean_caption": False, "use_resolution_binning": False}
        return {
            "prompt": prompts,
            "guidance_scale": guidance_scale,
            "max_sequence_length": self.max_lengths["tokenizer"],
        } | more

    # Parts that do not fit together

    def refuse_mismatch(self, label: str) -> None:
        name = type(self.pipe).__name__
        if absent := [part for part in ("text_encoder", "tokenizer") if getattr(self.pipe, part, None) is None]:
            raise UserError(f"{label}: has no {absent[0]}; {name} needs text_encoder and tokenizer")
        transformer, latents = self.pipe.transformer.config, self.pipe.vae.config.latent_channels
        if transformer.in_channels != latents or transformer.out_channels not in (latents, 2 * latents):
            raise UserError(
                f"{label}: its VAE's latents have {latents} channels, and its transformer reads {transformer.in_channels} and "
                f"predicts {transformer.out_channels}; pass a --vae that fits"
            )
        width = self.pipe.text_encoder.config.d_model
        if transformer.caption_channels != width:
            raise UserError(
                f"{label}: its text encoder gives hidden states of {width}, and its transformer reads "
                f"{transformer.caption_channels}; the parts are of two models"
            )


class PixArtSigma(PixArtAlpha):
    max_lengths: ClassVar[Mapping[str, int]] = {"tokenizer": 300}
