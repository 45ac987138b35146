"""Stable Diffusion 3 and 3.5: a transformer with joint attention of text and picture (Esser et al. 2024). A flow.

The pipeline may be used without its third text encoder, T5: in the place of its tokens are zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from cpbench.backbones.families.family import Role
from cpbench.backbones.families.transformer import (
    Transformer,
    refuse_absent,
    refuse_other_channels,
    refuse_other_width,
    refuse_without_shift,
)
from cpbench.backbones.processes.flow import Density
from cpbench.backbones.vocabulary import Vocabulary, encoder_name
from cpbench.errors import UserError

T5_TOKENS = 256  # the pipeline's own default; no token is masked, so that the number matters
CLIP_TOKENIZERS = ("tokenizer", "tokenizer_2")


class StableDiffusion3(Transformer):
    denoiser_class: ClassVar[str] = "SD3Transformer2DModel"
    max_lengths: Mapping[str, int] = {"tokenizer_3": T5_TOKENS}
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {
        # attn2, which 3.5-medium has in some blocks, is of the picture to itself
        "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        "text_attention": ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        "text_keys_values": ("add_k_proj", "add_v_proj"),
        "feed_forward": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    }
    unread: ClassVar[Mapping[str, Any]] = dict.fromkeys(
        ("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor")
    )
    density: ClassVar[Density] = Density("logit-normal", is_shifted=True)

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        has_t5 = getattr(pipe, "text_encoder_3", None) is not None
        self.tokenizers = (*CLIP_TOKENIZERS, "tokenizer_3") if has_t5 else CLIP_TOKENIZERS

    # Prompts

    @property
    def t5_tokens(self) -> int:
        """T5's tokens, or the zeros for them: none in a transformer that is as wide as the CLIP encoders."""
        has_room = self.pipe.transformer.config.joint_attention_dim > sum(self._widths())
        return T5_TOKENS if has_room else 0

    def _widths(self) -> list[int]:
        return [getattr(self.pipe, encoder_name(t)).config.hidden_size for t in CLIP_TOKENIZERS]

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """CLIP's hidden states before the last layer, side by side, T5's or zeros, and the pooled states as one more token."""
        clip = [vocabulary.outputs(encoder, prompts, all_layers=True) for encoder in vocabulary.encoders[:2]]
        hidden = torch.cat([out.hidden_states[-2] for out in clip], dim=-1)
        pooled = torch.cat([out[0] for out in clip], dim=-1).unsqueeze(1)
        width = self.pipe.transformer.config.joint_attention_dim
        hidden, pooled = (F.pad(part, (0, width - part.shape[-1])) for part in (hidden, pooled))
        if t5 := vocabulary.encoders[2:]:
            return torch.cat([hidden, vocabulary.outputs(t5[0], prompts)[0].to(hidden), pooled], dim=1)
        return torch.cat([F.pad(hidden, (0, 0, 0, self.t5_tokens)), pooled], dim=1)

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return prompt_embeds[:, :-1]

    # The denoiser's call

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        pooled = prompt_embeds[:, -1, : self.pipe.transformer.config.pooled_projection_dim]
        return {
            "encoder_hidden_states": self.hidden_states(prompt_embeds).to(dtype),
            "pooled_projections": pooled.to(dtype),
        }

    # Sampling

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        return {"prompt": prompts, "guidance_scale": guidance_scale, "max_sequence_length": self.t5_tokens}

    # Parts that do not fit together

    def refuse_mismatch(self, label: str) -> None:
        refuse_absent(self.pipe, label, [part for t in CLIP_TOKENIZERS for part in (encoder_name(t), t)])
        refuse_other_channels(self.pipe, label, may_have_variance=False)
        refuse_without_shift(self.pipe, label)
        transformer, widths, projections = self.pipe.transformer.config, self._widths(), self._projections()
        if sum(widths) > transformer.joint_attention_dim:
            raise UserError(
                f"{label}: its text encoders give hidden states of {' + '.join(map(str, widths))}, and its transformer reads "
                f"{transformer.joint_attention_dim}; the parts are of two models"
            )
        if (t5 := getattr(self.pipe, "text_encoder_3", None)) is not None:
            refuse_other_width(label, "T5", t5.config.d_model, transformer.joint_attention_dim)
        if sum(projections) != transformer.pooled_projection_dim:
            raise UserError(
                f"{label}: its text encoders give pooled states of {' + '.join(map(str, projections))}, and its transformer "
                f"reads {transformer.pooled_projection_dim}; the parts are of two models"
            )

    def _projections(self) -> list[int]:
        return [getattr(self.pipe, encoder_name(t)).config.projection_dim for t in CLIP_TOKENIZERS]
