"""Processes: what is trained on and sampled with, also of pipelines that ship other schedulers than Stable Diffusion's."""

from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.processes import diffusion, process_of
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.baselines.seqlora import SequentialLora
from cpbench.errors import UserError
from cpbench.learning.lora import LoraOptions
from cpbench.method import State, Task

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FOREIGN = (
    "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
CELL = [SampleRequest("a dog", 0, "dog", "a {}", k) for k in range(2)]


def stable_diffusions() -> torch.Tensor:
    """alpha-bar of Stable Diffusion: betas linear in their roots (Rombach et al. 2022), 1,000 of them."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
    return torch.tensor(np.cumprod(1 - betas), dtype=torch.float32)


# Times, noise and what is predicted

KINDS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x_0"}


def process(prediction_type: str) -> diffusion.Diffusion:
    return process_of(made("DDIMScheduler", prediction_type=prediction_type))


def parts(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """(x_0, eps, times, a, s) of four latents of two channels."""
    t, g = torch.tensor([0, 1, 500, 999]), torch.Generator().manual_seed(seed)
    a = stable_diffusions()[t].view(4, 1, 1, 1)
    return (*(torch.randn(4, 2, 3, 3, generator=g) for _ in range(2)), t, a.sqrt(), (1 - a).sqrt())


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_is_the_formula_of_the_prediction_type(kind: str) -> None:
    x_0, eps, t, a, s = parts()
    expected = {"epsilon": eps, "v_prediction": a * eps - s * x_0, "sample": x_0}[kind]
    torch.testing.assert_close(process(kind).target(x_0, eps, t), expected, atol=1e-5, rtol=1e-5)
    assert process(kind).prediction == KINDS[kind]


def test_noise_comes_in_as_the_pipeline_was_trained() -> None:
    t = torch.arange(1000)
    assert process("epsilon").num_timesteps == 1000
    noisy = process("epsilon").noised(torch.ones(1000, 1), torch.full((1000, 1), 2.0), t)
    a = stable_diffusions().unsqueeze(1)
    torch.testing.assert_close(noisy, a.sqrt() + 2 * (1 - a).sqrt(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", KINDS.values())
def test_a_true_output_of_any_kind_says_the_truth_of_the_others(kind: str, to: str) -> None:
    x_0, eps, t, a, s = parts(1)
    true = {"epsilon": eps, "v": a * eps - s * x_0, "x_0": x_0}
    got = process(kind).converted(true[KINDS[kind]], a * x_0 + s * eps, t, to)
    torch.testing.assert_close(
        got[1:], true[to][1:], atol=2e-3, rtol=2e-3
    )  # dividing by s = 0.03 at t = 0, a = 0.07 at 999


def test_what_is_predicted_already_is_not_computed_again() -> None:
    output = torch.randn(1, 2, 3, 3, dtype=torch.float64)
    assert process("epsilon").converted(output, torch.zeros_like(output), torch.tensor([5]), "epsilon") is output


def test_times_are_the_quantiles_of_a_uniform_density() -> None:
    found = process("epsilon").times(torch.tensor([0.0, 0.0009, 0.001, 0.5, 0.9999, 1.0]))
    assert found.tolist() == [0, 0, 1, 500, 999, 999]


def test_times_are_evenly_spaced() -> None:
    evenly = process("epsilon").evenly
    assert evenly(1).tolist() == [500] and evenly(4).tolist() == [125, 375, 625, 875]
    for n in (1, 3, 4, 7, 40, 50):
        assert [t * n // 1000 for t in evenly(n).tolist()] == list(range(n))  # one in each of equal parts
        if 1000 % n == 0:  # those of Li et al.'s code
            assert evenly(n).tolist() == list(range(1000 // n // 2, 1000, 1000 // n))[:n]


# Schedulers of other kinds: the same noise schedule in learning and drawing, no noise of their own, no invention


def made(name: str, **settings: object):
    return getattr(diffusers, name).from_config(SD | settings)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("n", [1, 10, 25, 50])
def test_every_scheduler_gives_its_noise_schedule_to_learning_and_drawing(name: str, n: int) -> None:
    own = made(name)
    diffusion.refuse(own, "backbone x")
    solver, training = diffusion.solver(own, n), diffusion.training(own)
    for it in (solver, training):
        torch.testing.assert_close(it.alphas_cumprod, stable_diffusions(), rtol=1e-4, atol=1e-7)
    assert len(solver.timesteps.unique()) == n == len(solver.timesteps)
    assert training.config.prediction_type == solver.config.prediction_type == "epsilon"


@pytest.mark.parametrize("sigmas", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
@pytest.mark.parametrize("odd", [{"rescale_betas_zero_snr": True}, {"beta_schedule": "squaredcos_cap_v2"}])
@pytest.mark.parametrize("n", [25, 30, 50])
def test_rules_for_sigmas_over_odd_schedules_draw_all_their_steps(sigmas: str, odd: dict, n: int) -> None:
    own = made("DPMSolverMultistepScheduler", **{sigmas: True}, **odd)
    solver, x = diffusion.solver(own, n), torch.ones(1, 1, 2, 2)
    for t in solver.timesteps:
        x = solver.step(0.5 * x, t, x).prev_sample
    assert x.isfinite().all()


def test_a_rule_that_works_is_kept() -> None:
    own = made("EulerDiscreteScheduler", use_karras_sigmas=True)
    assert diffusion.solver(own, 10).config.use_karras_sigmas
    assert not torch.equal(
        diffusion.solver(own, 10).sigmas, diffusion.solver(made("EulerDiscreteScheduler"), 10).sigmas
    )


def test_this_solver_keeps_its_config_whole(miniature: Backbone) -> None:
    """The miniature's pictures are those of plain diffusers, bit for bit."""
    own = miniature.pipe.scheduler
    plain, ours = diffusers.DPMSolverMultistepScheduler.from_config(own.config), diffusion.solver(own, 10)
    plain.set_timesteps(10)
    assert torch.equal(ours.timesteps, plain.timesteps) and torch.equal(ours.sigmas, plain.sigmas)
    assert {k: ours.config[k] for k in plain.config if k[0] != "_"} == {
        k: v for k, v in plain.config.items() if k[0] != "_"
    }


@pytest.mark.parametrize("algorithm", ["sde-dpmsolver++", "sde-dpmsolver"])
def test_a_stochastic_solver_draws_nothing_from_the_global_generator(tiny: Backbone, algorithm: str) -> None:
    original = tiny.pipe.scheduler
    tiny.pipe.scheduler = made("DPMSolverMultistepScheduler", algorithm_type=algorithm, final_sigmas_type="sigma_min")
    try:
        pictures = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            pictures.append(generate(tiny, CELL, Sampler(4, 4.0, 2)))
            assert torch.equal(torch.get_rng_state(), before)
    finally:
        tiny.pipe.scheduler = original
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("name", ["DEISMultistepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"])
def test_schedulers_of_community_models_learn_and_draw(
    tiny: Backbone, make_task: Callable[..., Task], name: str
) -> None:
    """What they ship decides nothing but the noise schedule: the very losses and pictures of DDIM's with the same betas."""
    options = LoraOptions(steps=2, batch_size=2, rank=2)
    original, found = tiny.pipe.scheduler, []
    try:
        for own in (name, "DDIMScheduler"):
            tiny.pipe.scheduler = made(own)
            tiny.check(10)
            state = SequentialLora(options).learn(tiny, make_task(tiny, "dog"), State())
            tiny.restore()
            with tiny.installed(SequentialLora(options), state, ("dog",)):
                found.append((state.tensors, generate(tiny, CELL, Sampler(10, 4.0, 2))))
    finally:
        tiny.pipe.scheduler = original
    (learned, drawn), (usual, pictures) = found
    assert learned.keys() == usual.keys() and all(torch.equal(learned[k], usual[k]) for k in learned)
    assert np.array_equal(drawn, pictures) and drawn.std() > 0


@pytest.mark.parametrize(
    "name", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "LCMScheduler"]
)
def test_what_has_no_betas_is_refused_in_one_line(name: str) -> None:
    own = getattr(diffusers, name)()
    if name == "LCMScheduler":  # which has some
        return diffusion.refuse(own, "backbone x")
    with pytest.raises(UserError, match=f"backbone x: its {name} has no betas"):
        diffusion.refuse(own, "backbone x")


def test_a_learned_variance_is_refused() -> None:
    with pytest.raises(UserError, match="needs a variance from the UNet"):
        diffusion.refuse(made("DDPMScheduler", variance_type="learned_range"), "backbone x")


def test_the_check_before_a_run_takes_the_runs_own_steps_and_leaves_no_trace(tiny: Backbone) -> None:
    from cpbench.backbones.backbone import fingerprint

    before, evaluations, state = fingerprint(tiny), tiny.unet_evaluations, torch.get_rng_state()
    tiny.check(50)
    assert fingerprint(tiny) == before and tiny.unet_evaluations == evaluations
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(UserError, match="num_inference_steps 1001"):
        tiny.check(1001)
