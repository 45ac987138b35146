"""Sana: a linear transformer on the latents of a deep autoencoder, with prompts in Gemma (Xie et al. 2024). A flow."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from cpbench.backbones.families.family import Role
from cpbench.backbones.families.transformer import Transformer, refuse_absent, refuse_other_channels, refuse_other_width
from cpbench.backbones.processes.flow import Density
from cpbench.backbones.vocabulary import Vocabulary

TOKENS = 300  # of a prompt that the transformer reads, the pipeline's own default


class Sana(Transformer):
    """Each prompt follows the pipeline's own instruction to the language model, in learning and in sampling.

    Of the states, the transformer reads the first and the last 299. Guidance's empty prompt has no instruction.
    """

    denoiser_class: ClassVar[str] = "SanaTransformer2DModel"
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer",)
    roles: ClassVar[Mapping[Role, tuple[str, ...]]] = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0"),
        "text_attention": ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0"),
        "text_keys_values": ("attn2.to_k", "attn2.to_v"),
        "feed_forward": ("ff.conv_inverted", "ff.conv_point"),  # conv_depth has one filter a channel, no matrix
    }
    density: ClassVar[Density] = Density("uniform", is_shifted=False)

    def __init__(self, pipe: Any):
        super().__init__(pipe)
        self.max_lengths = {"tokenizer": TOKENS}
        if pipe.tokenizer is not None:
            pipe.tokenizer.padding_side = "right"  # as the pipeline sets it in its first call
            self.instruct(True)

    def instruct(self, has_instruction: bool) -> None:
        """With the pipeline's own instruction before each prompt, or without."""
        lines = inspect.signature(self.pipe.__call__).parameters["complex_human_instruction"].default
        self.instruction = "\n".join(lines) if has_instruction else ""
        # the instruction's begin, and a space at its end which is then the next word's, are counted twice
        more = len(self.pipe.tokenizer.encode(self.instruction)) - 2 if has_instruction else 0
        self.max_lengths = {"tokenizer": TOKENS + more}

    # Prompts

    def prepared(self, prompt: str) -> str:
        """As the pipeline changes every prompt."""
        return self.instruction + prompt.lower().strip()

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """Gemma's hidden states that the transformer reads, with the mask of the tokens as one more value of each."""
        (encoder,) = vocabulary.encoders
        hidden, mask = vocabulary.outputs(encoder, prompts, masked=True)[0], vocabulary.mask(encoder, prompts)
        states = torch.cat([hidden, mask.unsqueeze(-1).to(hidden)], dim=-1)
        return torch.cat([states[:, :1], states[:, 1 - TOKENS :]], dim=1)

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        return prompt_embeds[..., :-1]

    def attended(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        """The hidden states in the transformer's own width, normed."""
        transformer = self.pipe.transformer
        hidden = self.hidden_states(prompt_embeds).to(transformer.caption_projection.linear_1.weight.dtype)
        return transformer.caption_norm(transformer.caption_projection(hidden))

    # The denoiser's call

    def times(self, t: torch.Tensor) -> torch.Tensor:
        return t * self.pipe.transformer.config.timestep_scale

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "encoder_hidden_states": self.hidden_states(prompt_embeds).to(dtype),
            "encoder_attention_mask": prompt_embeds[..., -1].to(dtype),
        }

    # Sampling

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        """Cleaned captions would lose a word in angle brackets, and other sizes than asked for would be drawn."""
        more = {"clean_caption": False, "use_resolution_binning": False, "max_sequence_length": TOKENS}
        if not self.instruction:
            more["complex_human_instruction"] = None
        return {"prompt": prompts, "guidance_scale": guidance_scale} | more

    # Parts that do not fit together

    def refuse_mismatch(self, label: str) -> None:
        refuse_absent(self.pipe, label, ["text_encoder", "tokenizer"])
        refuse_other_channels(self.pipe, label, may_have_variance=True)
        width = self.pipe.text_encoder.config.hidden_size
        refuse_other_width(label, "text encoder", width, self.pipe.transformer.config.caption_channels)
