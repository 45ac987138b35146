"""PixArt-alpha and -Sigma: a transformer with cross-attention to T5 (Chen et al. 2023, 2024). A diffusion, of epsilon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from cpbench.backbones.families.family import Role
from cpbench.backbones.families.transformer import Transformer, refuse_absent, refuse_other_channels, refuse_other_width
from cpbench.backbones.vocabulary import Vocabulary

WITH_SIZES = 128  # sample_size of the transformers that are told the picture's size


class PixArt(Transformer):
    """-alpha reads prompts of 120 tokens, -Sigma of 300, the pipelines' own defaults."""

    denoiser_class: ClassVar[str] = "PixArtTransformer2DModel"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "text_attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
        "text_keys_values": ("attn2.to_k", "attn2.to_v"),
        "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    }
    density: ClassVar[None] = None

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self.max_lengths = {"tokenizer": 300 if "Sigma" in type(pipe).__name__ else 120}

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

    # Sampling

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
        refuse_absent(self.pipe, label, ["text_encoder", "tokenizer"])
        refuse_other_channels(self.pipe, label, may_have_variance=True)
        width = self.pipe.text_encoder.config.d_model
        refuse_other_width(label, "text encoder", width, self.pipe.transformer.config.caption_channels)
