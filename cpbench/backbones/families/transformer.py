"""What pipelines of transformers share: square latents of the config's side, a guidance of two evaluations, the VAE's scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from cpbench.errors import UserError


class Transformer:
    """A base of families; see `family.Family` for what each member means."""

    denoiser: ClassVar[str] = "transformer"
    unread: ClassVar[Mapping[str, Any]] = {}
    float32_vae: ClassVar[bool] = False
    max_lengths: Mapping[str, int] = {}

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
        return self.pipe.vae.config.latent_channels, side, side

    def prepared(self, prompt: str) -> str:
        return prompt

    def attended(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        return None

    def packed(self, latents: torch.Tensor) -> torch.Tensor:
        return latents

    def times(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def predicted(self, output: torch.Tensor) -> torch.Tensor:
        """Without a variance that a transformer may predict besides."""
        return output[:, : self.pipe.transformer.config.in_channels]

    def normalised(self, mean: torch.Tensor, std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift, scale = self._shift_and_scale()
        return (mean - shift) * scale, std * scale

    def denormalised(self, latents: torch.Tensor) -> torch.Tensor:
        shift, scale = self._shift_and_scale()
        return latents / scale + shift

    def _shift_and_scale(self) -> tuple[float, float]:
        vae = self.pipe.vae.config
        return vae.get("shift_factor") or 0.0, vae.scaling_factor

    def evaluations_a_step(self, guidance_scale: float) -> int:
        """Two with guidance, for the prompt and the empty prompt."""
        return 2 if guidance_scale > 1 else 1


def refuse_absent(pipe: Any, label: str, parts: list[str]) -> None:
    """UserError, which begins with `label`, if the pipeline lacks one of these parts."""
    if absent := [part for part in parts if getattr(pipe, part, None) is None]:
        raise UserError(f"{label}: has no {absent[0]}; {type(pipe).__name__} needs {' and '.join(parts)}")


def refuse_other_channels(pipe: Any, label: str, may_have_variance: bool) -> None:
    """UserError if the VAE's latents are not what the transformer reads and predicts, or predicts beside a variance."""
    latents, transformer = pipe.vae.config.latent_channels, pipe.transformer.config
    out = transformer.out_channels or transformer.in_channels
    if transformer.in_channels != latents or out not in ((latents, 2 * latents) if may_have_variance else (latents,)):
        raise UserError(
            f"{label}: its VAE's latents have {latents} channels, and its transformer reads {transformer.in_channels} and "
            f"predicts {out}; pass a --vae that fits"
        )


def refuse_without_shift(pipe: Any, label: str) -> None:
    """UserError for an autoencoder whose config has no shift_factor, where the pipeline subtracts it."""
    if not isinstance(pipe.vae.config.get("shift_factor"), int | float):
        raise UserError(
            f"{label}: its VAE has no shift_factor, which the pipeline subtracts; write a number into its config.json, 0.0 if it "
            "was trained without one"
        )


def refuse_other_width(label: str, part: str, width: int, reads: int) -> None:
    """UserError for a text encoder, which the message calls `part`, of another width than the transformer reads."""
    if width != reads:
        raise UserError(
            f"{label}: its {part} gives hidden states of {width}, and its transformer reads {reads}; the parts are of two models"
        )
