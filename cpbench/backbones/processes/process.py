"""What is asked of a process: how noise comes in, what the denoiser predicts, and how sampling takes noise away."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import torch

Prediction = Literal["epsilon", "v", "x_0"]


class Process(Protocol):
    """One way from a picture to noise and back. x_0, eps, z_t: (n, c, h, w); times t: (n,)."""

    own: Any  # the pipeline's scheduler

    @property
    def prediction(self) -> Prediction:
        """What the denoiser predicts."""

    def times(self, u: torch.Tensor) -> torch.Tensor:
        """The times of training at these quantiles u in [0, 1] of their density, the least noisy first."""

    def evenly(self, n: int) -> torch.Tensor:
        """The middles (n,) of n equal parts of all times, the least noisy first."""

    def noised(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t."""

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the denoiser should predict of z_t."""

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """What a squared error counts at each time; None where all count the same."""

    def converted(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, to: Prediction) -> torch.Tensor:
        """The denoiser's output as if it had predicted `to`."""

    def solver(self, num_inference_steps: int) -> Any:
        """A fresh deterministic solver of diffusers. UserError where it has not so many steps."""
