"""FLUX.1: a transformer with joint attention of text and picture, and guidance as an input. A flow.

CLIP gives one pooled state of a prompt, T5 the states of its tokens. Words are learned in both. Latents go in as a
sequence of patches of two by two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from cpbench.backbones.families.family import Role
from cpbench.backbones.families.transformer import Transformer, refuse_absent, refuse_other_width, refuse_without_shift
from cpbench.backbones.processes.flow import Density
from cpbench.backbones.vocabulary import Vocabulary, encoder_name
from cpbench.errors import UserError

PATCH = 2
LEARNING_GUIDANCE = 3.5  # what a transformer with guidance is told while learning: the default of diffusers' script
TIMES = 1000  # the transformer multiplies its times by it


class Flux(Transformer):
    """Without guidance as an input it is the distilled FLUX.1-schnell, whose prompts are half as long."""

    denoiser_class: ClassVar[str] = "FluxTransformer2DModel"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        "text_attention": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        "text_keys_values": ("add_k_proj", "add_v_proj"),
        "feed_forward": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp"),
    }
    unread: ClassVar[Mapping[str, Any]] = dict.fromkeys(("image_encoder", "feature_extractor"))
    density: ClassVar[Density] = Density("uniform", is_shifted=False)

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        # no token is masked, so that the number matters: 512 is the pipeline's default, 256 what schnell was made for
        self.max_lengths = {"tokenizer_2": 512 if pipe.transformer.config.guidance_embeds else 256}

    @property
    def picture_size(self) -> int:
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    @property
    def smallest_side(self) -> int:
        return PATCH

    # Prompts

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """T5's hidden states, and CLIP's pooled state as one more token."""
        clip, t5 = vocabulary.encoders
        hidden, pooled = vocabulary.outputs(t5, prompts)[0], vocabulary.outputs(clip, prompts).pooler_output
        pooled = F.pad(pooled, (0, hidden.shape[-1] - pooled.shape[-1])).unsqueeze(1)
        return torch.cat([hidden, pooled.to(hidden)], dim=1)

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return prompt_embeds[:, :-1]

    # The denoiser's call

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        """Patches (n, h w / 4, 4 c) of latents (n, c, h, w), row by row."""
        n, c, h, w = latents.shape
        patches = latents.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH)
        return patches.permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // PATCH**2, c * PATCH**2)

    def times(self, t: torch.Tensor) -> torch.Tensor:
        return t / TIMES

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        device, hidden = prompt_embeds.device, self.hidden_states(prompt_embeds)
        side = self.latent_shape(picture_size)[-1] // PATCH
        rows_and_columns = torch.cartesian_prod(*[torch.arange(side, device=device)] * 2)
        guidance = None
        if self.pipe.transformer.config.guidance_embeds:
            guidance = torch.full((len(prompt_embeds),), LEARNING_GUIDANCE, device=device)
        return {
            "encoder_hidden_states": hidden.to(dtype),
            "pooled_projections": prompt_embeds[:, -1, : self.pipe.transformer.config.pooled_projection_dim].to(dtype),
            "txt_ids": torch.zeros(hidden.shape[1], 3, device=device, dtype=dtype),
            "img_ids": F.pad(rows_and_columns, (1, 0)).to(dtype),
            "guidance": guidance,
        }

    def predicted(self, output: torch.Tensor) -> torch.Tensor:
        """The velocity (n, c, h, w) of its patches; the pictures are squares."""
        n, patches, width = output.shape
        side, c = math.isqrt(patches), width // PATCH**2
        grid = output.reshape(n, side, side, c, PATCH, PATCH)
        return grid.permute(0, 3, 1, 4, 2, 5).reshape(n, c, side * PATCH, side * PATCH)

    # Sampling

    def evaluations_a_step(self, guidance_scale: float) -> int:
        """One: guidance is an input of the transformer."""
        return 1

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        return {
            "prompt": prompts,
            "guidance_scale": guidance_scale,
            "max_sequence_length": self.max_lengths["tokenizer_2"],
        }

    # Parts that do not fit together

    def refuse_mismatch(self, label: str) -> None:
        refuse_absent(self.pipe, label, [part for t in self.tokenizers for part in (encoder_name(t), t)])
        transformer, channels = self.pipe.transformer.config, PATCH**2 * self.pipe.vae.config.latent_channels
        out = transformer.out_channels or transformer.in_channels
        if not transformer.in_channels == out == channels:
            raise UserError(
                f"{label}: a patch of its VAE's latents has {channels} channels, and its transformer reads "
                f"{transformer.in_channels} and predicts {out}; pass a --vae that fits"
            )
        refuse_without_shift(self.pipe, label)
        refuse_other_width(label, "T5", self.pipe.text_encoder_2.config.d_model, transformer.joint_attention_dim)
        refuse_other_width(label, "CLIP", self.pipe.text_encoder.config.hidden_size, transformer.pooled_projection_dim)
