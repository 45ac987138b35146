"""What is asked of a family: all that differs between kinds of pipelines. `Backbone` asks, methods never do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch

from cpbench.backbones.vocabulary import Vocabulary

Role = Literal["attention", "text_keys_values", "text_attention", "feed_forward"]


class Family(Protocol):
    """One kind of pipeline: how it reads prompts, is called, and turns latents into pixels.

    roles: how the names of the denoiser's layers end, by what they do. "attention" is every projection of its attention,
    "text_attention" those of the attention that looks at the prompt, "text_keys_values" the keys and values of that,
    "feed_forward" the layers behind an attention. unread: arguments of the pipeline's from_pretrained for parts that are
    never loaded. float32_vae: its usual autoencoder overflows in half precision, and is in float32 if its config is silent.
    """

    denoiser: ClassVar[str]  # its name among the pipeline's parts
    denoiser_class: ClassVar[str]  # in diffusers
    tokenizers: ClassVar[tuple[str, ...]]  # by their names among the parts, one for every text encoder
    roles: ClassVar[Mapping[Role, tuple[str, ...]]]
    unread: ClassVar[Mapping[str, Any]]
    float32_vae: ClassVar[bool]
    pipe: Any

    def __init__(self, pipe: Any): ...

    def refuse_mismatch(self, what: str) -> None:
        """UserError, in one line that begins with `what`, for parts that are whole and do not fit together."""

    @property
    def picture_size(self) -> int:
        """Pixels a side of the pictures that the pipeline was made for."""

    @property
    def smallest_side(self) -> int:
        """The side of the smallest latent that the denoiser takes; every other is a multiple of it."""

    def latent_shape(self, picture_size: int) -> tuple[int, ...]:
        """The shape of one picture's latent."""

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """All that the denoiser reads of the prompts, as one tensor (n, tokens, d) that can be repeated and expanded."""

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The prompts' tokens (n, tokens, d) alone, of what `encode_prompts` returned."""

    def arguments(
        self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """(hidden states, further keywords) of the denoiser's call, for what `encode_prompts` returned."""

    def normalised(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The autoencoder's posterior in the scale that the denoiser works in."""

    def denormalised(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in the scale of the autoencoder's decoder."""

    def evaluations_a_step(self, guidance_scale: float) -> int:
        """How often the denoiser is asked for every picture and step of sampling."""

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        """What the pipeline's call is told of prompts and guidance."""
