"""Flow matching on straight paths (Lipman et al. 2023; Liu et al. 2023): the training times and the sampling solver.

    z_s = (1 - s) x_0 + s eps,    v = eps - x_0

The denoiser predicts the velocity v. Its time is t = 1000 s (num_train_timesteps s), and in training one of the 1000
values of a table: s = k / 1000, k = 1 ... 1000, or these shifted towards noise (Esser et al. 2024, eq. 23):

    s' = shift s / (1 + (shift - 1) s)

How the table is shifted and how often each of its values is drawn differs between models, see `Density`. In sampling
the solver follows its own config, which may shift by another amount.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from cpbench.backbones.processes.process import Prediction
from cpbench.errors import UserError


@dataclass(frozen=True)
class Density:
    """How a family draws its training times, as diffusers' script for it does.

    shape: of u, by which the table is read: logit-normal(0, 1) (Esser et al. 2024, eq. 19) or uniform. is_shifted:
    whether the table has the `shift` of the scheduler's config.
    """

    shape: Literal["logit-normal", "uniform"]
    is_shifted: bool


class Flow:
    """The process of a pipeline's flow-matching scheduler. Times are 1000 s, the least noisy 1 or its shifted value."""

    prediction: Prediction = "v"

    def __init__(self, pipeline_scheduler: Any, density: Density):
        self.pipeline_scheduler, self.density = pipeline_scheduler, density
        config, n = pipeline_scheduler.config, pipeline_scheduler.config.num_train_timesteps
        s = torch.arange(1, n + 1, dtype=torch.float64) / n
        if density.is_shifted and not config.get("use_dynamic_shifting"):  # this shift depends on the picture's size
            s = config.shift * s / (1 + (config.shift - 1) * s)
        self.table = (n * s).float()
        self._solvers: dict[int, Any] = {}

    @property
    def num_timesteps(self) -> int:
        return len(self.table)

    def times(self, u: torch.Tensor) -> torch.Tensor:
        if self.density.shape == "logit-normal":
            u = torch.special.ndtri(u.double()).sigmoid()
        return self.table[(u * self.num_timesteps).long().clamp(max=self.num_timesteps - 1)]

    def evenly(self, n: int) -> torch.Tensor:
        return self.table[[(2 * k + 1) * self.num_timesteps // (2 * n) for k in range(n)]]

    def noised(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        s = self._s(t, x_0)
        return (1 - s) * x_0 + s * eps

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return eps - x_0

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """None: all times have the same weight."""
        return None

    def converted(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, to: Prediction) -> torch.Tensor:
        if to == "v":
            return output
        v, z_t = output.float(), z_t.float()
        s = self._s(t, z_t)
        return z_t + (1 - s) * v if to == "epsilon" else z_t - s * v

    def solver(self, num_inference_steps: int) -> Any:
        if num_inference_steps not in self._solvers:
            self._solvers[num_inference_steps] = solver(self.pipeline_scheduler, num_inference_steps)
        return self._solvers[num_inference_steps]

    def _s(self, t: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return (t.to(like) / self.num_timesteps).view(-1, *[1] * (like.ndim - 1))


def is_flow(pipeline_scheduler: Any) -> bool:
    """Whether a pipeline's scheduler is one of flow matching that cpbench knows."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    config = pipeline_scheduler.config
    return isinstance(pipeline_scheduler, FlowMatchEulerDiscreteScheduler) or bool(config.get("use_flow_sigmas"))


def solver(pipeline_scheduler: Any, num_inference_steps: int) -> Any:
    """The pipeline's own solver without stochastic steps, which would use the global generator.

    UserError if it does not have so many distinct steps. With a shift by the picture's size this shows in sampling only.
    """
    config = dict(pipeline_scheduler.config)
    config.pop("_use_default_values", None)
    if "stochastic_sampling" in config:
        config["stochastic_sampling"] = False
    if "algorithm_type" in config:
        config["algorithm_type"] = config["algorithm_type"].removeprefix("sde-")
    candidate = type(pipeline_scheduler).from_config(config)
    if not config.get("use_dynamic_shifting"):
        candidate.set_timesteps(num_inference_steps)
        if len(candidate.timesteps.unique()) < num_inference_steps:
            raise UserError(
                f"num_inference_steps {num_inference_steps}: the backbone's {type(candidate).__name__} does not have so many "
                f"distinct steps; use another number up to {candidate.config.num_train_timesteps}"
            )
    return candidate


def refuse(pipeline_scheduler: Any, label: str) -> None:
    """UserError, which begins with `label`, for a flow that methods cannot train on."""
    name, config = type(pipeline_scheduler).__name__, pipeline_scheduler.config
    if not is_flow(pipeline_scheduler):
        raise UserError(
            f"{label}: its {name} is no FlowMatchEulerDiscreteScheduler, nor one with use_flow_sigmas; put one of these into its "
            "scheduler folder"
        )
    if config.get("invert_sigmas"):
        raise UserError(
            f"{label}: its {name} has inverted sigmas (invert_sigmas), and methods train on noise that grows with time; use "
            "another pipeline"
        )
    if config.get("use_flow_sigmas") and (prediction := config.get("prediction_type")) != "flow_prediction":
        raise UserError(
            f"{label}: its {name} uses flow sigmas with prediction_type {prediction!r}, not 'flow_prediction'; fix "
            "scheduler_config.json"
        )
