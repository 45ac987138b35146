"""The protocol of a family: everything that differs between pipeline classes. Only `Backbone` uses it, methods never do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch

from cpbench.backbones.processes.flow import Density
from cpbench.backbones.vocabulary import Vocabulary

Role = Literal["attention", "text_keys_values", "text_attention", "feed_forward"]


class Family(Protocol):
    """One pipeline class: how it encodes prompts, is called, and decodes latents.

    roles: the endings of the denoiser's layer names by function. "attention": all attention projections;
    "text_attention": those of the attention to the prompt; "text_keys_values": its keys and values; "feed_forward": the
    layers after an attention. unread: arguments of the pipeline's from_pretrained for parts that are never loaded.
    float32_vae: the usual autoencoder overflows in half precision, and is loaded in float32 unless its config says
    otherwise. density: of a flow's training times; None for diffusion.

    A pipeline that gives a language model an instruction before each prompt has a family with `instruct(has_instruction)`.
    """

    denoiser: ClassVar[str]  # its name among the pipeline's parts
    denoiser_class: ClassVar[str]  # in diffusers
    tokenizers: tuple[str, ...]  # names among the pipeline's parts, one per text encoder
    max_lengths: Mapping[str, int]  # of prompts in tokens, by tokenizer, where it is not the tokenizer's own
    roles: ClassVar[Mapping[Role, tuple[str, ...]]]
    unread: ClassVar[Mapping[str, Any]]
    float32_vae: ClassVar[bool]
    density: ClassVar[Density | None]
    pipe: Any

    def __init__(self, pipe: Any): ...

    def refuse_mismatch(self, label: str) -> None:
        """UserError, which begins with `label`, for complete parts that do not fit together."""

    @property
    def picture_size(self) -> int:
        """Pixels per side of the pictures that the pipeline was trained for."""

    @property
    def smallest_side(self) -> int:
        """The side of the smallest latent for the denoiser; all sides are multiples of it."""

    def latent_shape(self, picture_size: int) -> tuple[int, ...]:
        """The shape of one picture's latent."""

    def prepared(self, prompt: str) -> str:
        """The prompt as the pipeline's call changes it before tokens are made of it."""

    def encode_prompts(self, vocabulary: Vocabulary, prompts: list[str]) -> torch.Tensor:
        """All inputs of the denoiser from the prompts as one tensor (n, tokens, d), which can be repeated and expanded."""

    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The hidden states (n, tokens, d) of the prompts' tokens, from the result of `encode_prompts`."""

    def attended(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        """What the keys and values of the attention to the prompt are made of: (n, tokens, d), one d for all layers.

        None where there is no such thing: in joint attention each block has its own states of the text.
        """

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (n, c, h, w) as the denoiser and the pipeline take them."""

    def times(self, t: torch.Tensor) -> torch.Tensor:
        """Times (n,) of the process as the denoiser takes them."""

    def arguments(self, prompt_embeds: torch.Tensor, picture_size: int, dtype: torch.dtype) -> dict[str, Any]:
        """Keywords for the denoiser's call besides latents and times, from the result of `encode_prompts`."""

    def predicted(self, output: torch.Tensor) -> torch.Tensor:
        """What the denoiser predicts (n, c, h, w), of its output, which may be packed or have a variance besides.

        Also latents, of those that the pipeline returns.
        """

    def normalised(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The autoencoder's posterior in the scale that the denoiser works in."""

    def denormalised(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in the scale of the autoencoder's decoder."""

    def evaluations_a_step(self, guidance_scale: float) -> int:
        """Denoiser evaluations per picture and sampling step."""

    def sampling_arguments(self, prompts: list[str], guidance_scale: float) -> dict[str, Any]:
        """Arguments of the pipeline's call for prompts and guidance."""
