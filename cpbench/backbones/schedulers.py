"""The solver that pictures are drawn with and the noise that methods train on, from whatever scheduler a pipeline ships.

Schedulers of diffusers share names of settings that do not mean the same in each, and their defaults differ. So another
class's config is not handed on whole: taken are its noise schedule (betas, number of timesteps, what is predicted, whether
the last signal-to-noise ratio is made zero), and for the solver where the steps lie. That both came out with the very
alpha-bars of the pipeline's own scheduler is checked by their values.
"""

from __future__ import annotations

from typing import Any

import torch

from cpbench.errors import UserError, quoted

PREDICTIONS = ("epsilon", "sample", "v_prediction")
NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
SPACING = ("timestep_spacing", "steps_offset")
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas", "use_beta_sigmas")
KNOWN_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")  # to every class; others have more
LEARNED = ("learned", "learned_range")


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
