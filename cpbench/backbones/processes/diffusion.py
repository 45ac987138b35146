"""Diffusion with a schedule of alpha-bars (Ho et al. 2020): the training noise and the sampling solver.

    z_t = a x_0 + s eps,    a = sqrt(alpha-bar_t),    s = sqrt(1 - alpha-bar_t),    v = a eps - s x_0

Both are derived from the pipeline's scheduler. The schedulers of diffusers share names of settings with different
meanings and defaults. So only the noise schedule is taken from another class's config (betas, number of timesteps,
prediction type, zero terminal signal-to-noise ratio), and for the solver also the spacing of steps. The resulting
alpha-bars are compared with those of the pipeline's scheduler.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cpbench.backbones.processes.process import Prediction
from cpbench.errors import UserError, quoted

PREDICTIONS = ("epsilon", "sample", "v_prediction")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
SPACING = ("timestep_spacing", "steps_offset")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas", "use_beta_sigmas")
KNOWN_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")  # by every class; some have more
LEARNED = ("learned", "learned_range")


class Diffusion:
    """The process of a pipeline's scheduler. Times are its timesteps: integers from 0, the least noisy."""

    def __init__(self, pipeline_scheduler: Any):
        self.pipeline_scheduler = pipeline_scheduler
        self.scheduler = training(pipeline_scheduler)
        self._solvers: dict[int, Any] = {}

    @property
    def num_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    @property
    def prediction(self) -> Prediction:
        prediction_type = self.scheduler.config.prediction_type
        return {"sample": "x_0", "v_prediction": "v"}.get(prediction_type, prediction_type)

    def times(self, u: torch.Tensor) -> torch.Tensor:
        last = self.num_timesteps - 1
        return (u * self.num_timesteps).long().clamp(max=last)  # rounding may give the end

    def evenly(self, n: int) -> torch.Tensor:
        return torch.tensor([(2 * k + 1) * self.num_timesteps // (2 * n) for k in range(n)])

    def noised(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.scheduler.add_noise(x_0, eps, t)

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.prediction == "v":
            return self.scheduler.get_velocity(x_0, eps, t)
        return eps if self.prediction == "epsilon" else x_0

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """None: the simple loss (Ho et al. 2020, eq. 14), in which all times have the same weight."""
        return None

    def converted(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, to: Prediction) -> torch.Tensor:
        if to == self.prediction:
            return output
        output, z_t = output.float(), z_t.float()
        alphas = self.scheduler.alphas_cumprod.to(z_t)[t].view(-1, *[1] * (z_t.ndim - 1))
        a, s = alphas.sqrt(), (1 - alphas).sqrt()
        if self.prediction == "epsilon":
            eps, x_0 = output, (z_t - s * output) / a
        elif self.prediction == "v":
            eps, x_0 = a * output + s * z_t, a * z_t - s * output
        else:
            eps, x_0 = (z_t - a * output) / s, output
        return {"epsilon": eps, "x_0": x_0, "v": a * eps - s * x_0}[to]

    def solver(self, num_inference_steps: int) -> Any:
        if num_inference_steps not in self._solvers:
            self._solvers[num_inference_steps] = solver(self.pipeline_scheduler, num_inference_steps)
        return self._solvers[num_inference_steps]


def _given_settings(pipeline_scheduler: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The settings in the scheduler's file, without those that are its class's defaults."""
    left_out = pipeline_scheduler.config.get("_use_default_values", [])
    return {k: pipeline_scheduler.config[k] for k in keys if k in pipeline_scheduler.config and k not in left_out}


def _noise(pipeline_scheduler: Any) -> dict[str, Any]:
    """The noise schedule, including defaults, for a scheduler of another class."""
    schedule = {
        k: pipeline_scheduler.config[k]
        for k in (*NOISE, "prediction_type")
        if pipeline_scheduler.config.get(k) is not None
    }
    if schedule.get("trained_betas") is None and schedule.get("beta_schedule") not in KNOWN_BETAS:
        schedule["trained_betas"] = pipeline_scheduler.betas.tolist()
    return schedule


def training(pipeline_scheduler: Any) -> Any:
    """diffusers' DDPMScheduler with the noise schedule of a pipeline's scheduler."""
    from diffusers import DDPMScheduler

    with _without_advice():
        return DDPMScheduler.from_config(_noise(pipeline_scheduler))


@contextmanager
def _without_advice() -> Iterator[None]:
    """A context without diffusers' warnings about settings of old schedulers, several lines each; they are used as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def solver(pipeline_scheduler: Any, num_inference_steps: int) -> Any:
    """The deterministic multistep DPM-Solver with `num_inference_steps` steps in the pipeline's noise schedule.

    A pipeline's DPMSolverMultistepScheduler keeps its config, except stochastic sampling, which would use the global
    generator. For another scheduler see above. Rules for the noise levels, such as Karras's, are dropped if they do not
    give this number of distinct steps. UserError if there are not so many steps.
    """
    from diffusers import DPMSolverMultistepScheduler

    if isinstance(pipeline_scheduler, DPMSolverMultistepScheduler):
        algorithm, all_distinct = pipeline_scheduler.config.algorithm_type, False
        config = dict(pipeline_scheduler.config) | {"algorithm_type": algorithm.removeprefix("sde-")}
        config.pop("_use_default_values", None)
    else:
        all_distinct, config = (
            True,
            _noise(pipeline_scheduler) | _given_settings(pipeline_scheduler, (*SPACING, *SIGMAS)),
        )
    for rules in ({}, dict.fromkeys(SIGMAS, False)):
        with _without_advice():
            candidate = DPMSolverMultistepScheduler.from_config(config | rules)
        candidate.set_timesteps(num_inference_steps)
        if _has_distinct_steps(candidate, num_inference_steps, all_distinct):
            return candidate
    raise UserError(
        f"num_inference_steps {num_inference_steps}: the backbone's {type(pipeline_scheduler).__name__} has "
        f"{len(pipeline_scheduler.alphas_cumprod)} timesteps, which do not give this number of distinct steps; use another one"
    )


def _has_distinct_steps(solver: Any, n: int, all_distinct: bool) -> bool:
    """Whether a solver has n steps of decreasing noise with distinct timesteps: all of them, or at least the first.

    The first must be distinct: diffusers finds its start by it, and would start at the second of two equal ones.
    """
    t, sigmas = solver.timesteps, solver.sigmas
    distinct = len(t.unique()) == n if all_distinct else int((t == t[0]).sum()) == 1
    within = int(t.min()) >= 0 and int(t.max()) < solver.config.num_train_timesteps
    return len(t) == n and distinct and within and bool(sigmas.isfinite().all() and (sigmas.diff() < 0).all())


def refuse(pipeline_scheduler: Any, label: str) -> None:
    """UserError, which begins with `label`, for a scheduler without a noise schedule that methods can train on."""
    name, config = type(pipeline_scheduler).__name__, pipeline_scheduler.config
    if (prediction := config.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise UserError(
            f"{label}: its scheduler's prediction_type is {quoted(prediction)}, not one of {', '.join(PREDICTIONS)}"
        )
    flow, continuous = config.get("use_flow_sigmas"), config.get("timestep_type") == "continuous"
    alphas = getattr(pipeline_scheduler, "alphas_cumprod", None)
    if alphas is None or flow or continuous or not {"beta_start", "beta_end", "beta_schedule"} <= config.keys():
        raise UserError(
            f"{label}: its {name} has no betas (EDM and flow matching have none), and methods train on a noise schedule of "
            f"betas; use a pipeline of Stable Diffusion's type"
        )
    if (variance := config.get("variance_type")) in LEARNED:
        raise UserError(
            f"{label}: its {name} needs a variance from the UNet ({variance}); methods learn the noise only"
        )
    try:
        schedulers = [training(pipeline_scheduler), solver(pipeline_scheduler, 1)]
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{label}: its {name} cannot be used ({reason}); fix scheduler_config.json") from None
    for scheduler in schedulers:
        if scheduler.alphas_cumprod.shape != alphas.shape or not torch.allclose(
            scheduler.alphas_cumprod, alphas.float().cpu(), rtol=1e-3, atol=1e-6
        ):
            raise UserError(
                f"{label}: its {name} adds noise in a way that {type(scheduler).__name__} does not support; "
                "use a pipeline with another scheduler"
            )
