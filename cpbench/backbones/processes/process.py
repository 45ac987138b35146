"""The protocol of a noise process: how noise is added, what the denoiser predicts, and how sampling removes noise."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

Prediction = Literal["epsilon", "v", "x_0"]


class Process(Protocol):
    """One way from a picture to noise and back. x_0, eps, z_t: (n, c, h, w); times t: (n,)."""

    pipeline_scheduler: Any  # the pipeline's scheduler

    @property
    def prediction(self) -> Prediction:
        """The denoiser's prediction type."""

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """The times of training at these quantiles u in [0, 1] of their density, the least noisy first."""

    def evenly(self, n: int) -> torch.Tensor:
        """The middles (n,) of n equal parts of all times, the least noisy first."""

    def noised(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t."""

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The training target of the prediction for z_t."""

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """Weights (n,) of the squared errors; None if all are equal."""

    def converted(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, to: Prediction) -> torch.Tensor:
        """The denoiser's output as if it had predicted `to`."""

    def solver(self, num_inference_steps: int) -> Any:
        """A deterministic solver of diffusers, whose `set_timesteps` forgets its last steps. UserError if it cannot have so
        many steps.
        """
