"""Diffusion by a schedule of alpha-bars (Ho et al. 2020): the noise that methods train on and the solver that samples.

    z_t = a x_0 + s eps,    a = sqrt(alpha-bar_t),    s = sqrt(1 - alpha-bar_t),    v = a eps - s x_0

What is trained on and the solver come from whatever scheduler a pipeline ships. Schedulers of diffusers share names of settings that do not mean the same in each, and their defaults differ. So another
class's config is not handed on whole: taken are its noise schedule (betas, number of timesteps, what is predicted, whether
the last signal-to-noise ratio is made zero), and for the solver where the steps lie. That both came out with the very
alpha-bars of the pipeline's own scheduler is checked by their values.
"""

from __future__ import annotations

from typing import Any

import torch

from cpbench.backbones.processes.process import Prediction
from cpbench.errors import UserError, quoted

PREDICTIONS = ("epsilon", "sample", "v_prediction")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
SPACING = ("timestep_spacing", "steps_offset")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas", "use_beta_sigmas")
KNOWN_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")  # to every class; others have more
LEARNED = ("learned", "learned_range")


class Diffusion:
    """The process of a pipeline's own scheduler; times are its timesteps, whole numbers from 0, where there is least noise."""

    def __init__(self, own: Any):
        self.own = own
        self.scheduler = training(own)

    @property
    def num_timesteps(self) -> int:
        return self.scheduler.config.num_train_timesteps

    @property
    def prediction(self) -> Prediction:
        kind = self.scheduler.config.prediction_type
        return {"sample": "x_0", "v_prediction": "v"}.get(kind, kind)

    def times(self, u: torch.Tensor) -> torch.Tensor:
        last = self.num_timesteps - 1
        return (u * self.num_timesteps).long().clamp(max=last)  # rounding may reach the end

    def evenly(self, n: int) -> torch.Tensor:
        return torch.tensor([(2 * k + 1) * self.num_timesteps // (2 * n) for k in range(n)])

    def noised(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.scheduler.add_noise(x_0, eps, t)

    def target(self, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if self.prediction == "v":
            return self.scheduler.get_velocity(x_0, eps, t)
        return eps if self.prediction == "epsilon" else x_0

    def weight(self, t: torch.Tensor) -> torch.Tensor | None:
        """None: the simple loss (Ho et al. 2020, eq. 14), in which every time counts the same."""
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
        return solver(self.own, num_inference_steps)


def _said(own: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """Those settings that the scheduler's file gives. What it leaves to its class's default is left to each class."""
    left_out = own.config.get("_use_default_values", [])
    return {k: own.config[k] for k in keys if k in own.config and k not in left_out}


def _noise(own: Any) -> dict[str, Any]:
    """The noise schedule, its class's defaults written out, for a scheduler of another class."""
    given = {k: own.config[k] for k in (*NOISE, "prediction_type") if own.config.get(k) is not None}
    if given.get("trained_betas") is None and given.get("beta_schedule") not in KNOWN_BETAS:
        given["trained_betas"] = own.betas.tolist()
    return given


def training(own: Any) -> Any:
    """diffusers' DDPMScheduler with the noise schedule of a pipeline's own scheduler."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(_noise(own))


def solver(own: Any, num_inference_steps: int) -> Any:
    """The deterministic multistep DPM-Solver that draws `num_inference_steps` steps in the pipeline's noise schedule.

    A pipeline's own DPMSolverMultistepScheduler keeps its config, but for noise that it would draw while it solves (from
    the global generator). Of another scheduler see above. Rules for the noise levels (Karras's, say) are left out where
    they do not give this number of steps that can be told apart. UserError where there are not so many steps at all.
    """
    from diffusers import DPMSolverMultistepScheduler

    if isinstance(own, DPMSolverMultistepScheduler):
        kind, every = own.config.algorithm_type, False
        given = dict(own.config) | {"algorithm_type": kind.removeprefix("sde-")}
        given.pop("_use_default_values", None)
    else:
        every, given = True, _noise(own) | _said(own, (*SPACING, *SIGMAS))
    for rules in ({}, dict.fromkeys(SIGMAS, False)):
        made = DPMSolverMultistepScheduler.from_config(given | rules)
        made.set_timesteps(num_inference_steps)
        if _can_be_told_apart(made, num_inference_steps, every):
            return made
    raise UserError(
        f"num_inference_steps {num_inference_steps}: the backbone's {type(own).__name__} has {len(own.alphas_cumprod)} "
        f"timesteps, and they do not give this number of distinct steps; use another one"
    )


def _can_be_told_apart(made: Any, n: int, every: bool) -> bool:
    """Whether a solver has n steps, ever less noisy, whose timesteps differ: `every` one of them, or the first from the others.

    The first one must: diffusers finds its place by it, and would begin at the second of two.
    """
    t, sigmas = made.timesteps, made.sigmas
    distinct = len(t.unique()) == n if every else int((t == t[0]).sum()) == 1
    within = int(t.min()) >= 0 and int(t.max()) < made.config.num_train_timesteps
    return len(t) == n and distinct and within and bool(sigmas.isfinite().all() and (sigmas.diff() < 0).all())


def refuse(own: Any, what: str) -> None:
    """UserError, in one line that begins with `what`, for a scheduler that says no noise schedule that methods can train on."""
    name, config = type(own).__name__, own.config
    if (kind := config.get("prediction_type", "epsilon")) not in PREDICTIONS:
        raise UserError(
            f"{what}: its scheduler's prediction_type is {quoted(kind)}, not one of {', '.join(PREDICTIONS)}"
        )
    flow, continuous = config.get("use_flow_sigmas"), config.get("timestep_type") == "continuous"
    alphas = getattr(own, "alphas_cumprod", None)
    if alphas is None or flow or continuous or not {"beta_start", "beta_end", "beta_schedule"} <= config.keys():
        raise UserError(
            f"{what}: its {name} has no betas (EDM and flow matching have none), and methods train on a noise schedule of "
            f"betas; take a pipeline of Stable Diffusion's own kind"
        )
    if (kind := config.get("variance_type")) in LEARNED:
        raise UserError(
            f"{what}: its {name} wants a variance that the UNet predicts ({kind}); methods learn the noise alone"
        )
    try:
        made = [training(own), solver(own, 1)]
    except (ValueError, TypeError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{what}: its {name} cannot be used ({reason}); mend scheduler_config.json") from None
    for other in made:
        if other.alphas_cumprod.shape != alphas.shape or not torch.allclose(
            other.alphas_cumprod, alphas.float().cpu(), rtol=1e-3, atol=1e-6
        ):
            raise UserError(
                f"{what}: its {name} noises latents in a way of its own, which {type(other).__name__} does not know; "
                "take a pipeline with another scheduler"
            )
