"""Stable Diffusion XL: a UNet that reads two text encoders, the second's pooled states, and sizes (Podell et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from cpbench.backbones.families.stable_diffusion import StableDiffusion
from cpbench.backbones.vocabulary import Vocabulary
from cpbench.errors import UserError


class StableDiffusionXL(StableDiffusion):
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    unread: ClassVar[Mapping[str, Any]] = {"feature_extractor": None, "image_encoder": None}
    float32_vae: ClassVar[bool] = True
    addition_embed_type: ClassVar[str | None] = "text_time"

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """Hidden states of the layers before the last, concatenated, and the pooled state as one more token."""
        outputs = [vocabulary.outputs(encoder, prompts, all_layers=True) for encoder in vocabulary.encoders]
        hidden = torch.cat([out.hidden_states[-2] for out in outputs], dim=-1)
        pooled = outputs[-1][0]
        last = nn.functional.pad(pooled, (0, hidden.shape[-1] - pooled.shape[-1])).unsqueeze(1)
        return torch.cat([hidden, last], dim=1)

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return prompt_embeds[:, :-1]

    def pooled(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The pooled states (n, d) of the second encoder, from the result of `encode_prompts`."""
        return prompt_embeds[:, -1, : self.pipe.text_encoder_2.config.projection_dim]

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        """With the pooled states, and sizes and crop (Podell et al. 2023, 2.2) of an uncropped picture."""
        pooled, size = self.pooled(prompt_embeds), picture_size
        ids = torch.tensor([size, size, 0, 0, size, size], dtype=dtype, device=pooled.device)
        added = {"text_embeds": pooled.to(dtype), "time_ids": ids.expand(len(pooled), -1)}
        return {"encoder_hidden_states": self.hidden_states(prompt_embeds).to(dtype), "added_cond_kwargs": added}

    def _standard(self) -> tuple[Any, Any]:
        """Per channel if the autoencoder has statistics."""
        config = self.pipe.vae.config
        statistics = [getattr(config, key, None) for key in ("latents_mean", "latents_std")]
        if None in statistics:
            return super()._standard()
        mean, std = (torch.tensor(values, device=self.pipe.vae.device).view(1, -1, 1, 1) for values in statistics)
        return mean, std

    def refuse_mismatch(self, label: str) -> None:
        super().refuse_mismatch(label)
        unet, encoder = self.pipe.unet.config, self.pipe.text_encoder_2.config
        width = unet.addition_time_embed_dim * 6 + encoder.projection_dim
        if width != unet.projection_class_embeddings_input_dim:
            raise UserError(
                f"{label}: its UNet needs {unet.projection_class_embeddings_input_dim} numbers for sizes and pooled "
                f"states, and its text_encoder_2 gives {width}; the parts are of two models"
            )
