"""The flow process against the lines of diffusers' training scripts, and solvers of released configs."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling

from cpbench.backbones.processes import process_of, refuse
from cpbench.backbones.processes.flow import Density, Flow
from cpbench.errors import UserError

# scheduler_config.json as released
SD3 = {"num_train_timesteps": 1000, "shift": 3.0}
FLUX = SD3 | {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "max_image_seq_len": 4096}
SANA = {"num_train_timesteps": 1000, "use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
SANA |= {"algorithm_type": "dpmsolver++", "solver_order": 2, "beta_schedule": "linear"}
LOGIT_NORMAL, UNIFORM = Density("logit-normal", True), Density("uniform", False)
FAMILIES = {
    "sd3": (FlowMatchEulerDiscreteScheduler, SD3, LOGIT_NORMAL),
    "flux": (FlowMatchEulerDiscreteScheduler, FLUX, UNIFORM),
    "sana": (DPMSolverMultistepScheduler, SANA, UNIFORM),
}


def process(family: str) -> Flow:
    scheduler_class, config, density = FAMILIES[family]
    return process_of(scheduler_class(**config), density)


def trained_on(family: str) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler that the family's script trains with: it reads the pipeline's config as FlowMatchEuler's."""
    return FlowMatchEulerDiscreteScheduler.from_config(dict(FAMILIES[family][1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_times_are_those_of_the_script(family: str) -> None:
    """As often: of many draws by its lines, each tenth of ours has a tenth; and each value is one of its table."""
    ours, script = process(family), trained_on(family)
    scheme = "logit_normal" if family == "sd3" else "none"
    u = compute_density_for_timestep_sampling(
        scheme, 200_000, logit_mean=0.0, logit_std=1.0, generator=torch.Generator().manual_seed(0)
    )
    theirs = script.timesteps[(u * script.config.num_train_timesteps).long()]
    quantiles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = ours.times(quantiles)
    assert bool((t.diff() >= 0).all()) and set(t.tolist()) <= set(ours.table.tolist())
    torch.testing.assert_close(ours.table.flip(0), script.timesteps, rtol=1e-6, atol=1e-4)
    grid = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(t.quantile(grid), theirs.quantile(grid), rtol=0.02, atol=2.0)


@pytest.mark.parametrize("u", [0.0, 1.0])
def test_the_ends_of_the_density_are_the_ends_of_the_table(u: float) -> None:
    for family in FAMILIES:
        ours = process(family)
        assert float(ours.times(torch.tensor([u]))) == float(ours.table[-1 if u else 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_noise_and_target_are_those_of_the_script(family: str) -> None:
    ours, script = process(family), trained_on(family)
    g = torch.Generator().manual_seed(1)
    x_0, eps = (torch.randn(5, 4, 3, 3, generator=g) for _ in range(2))
    t = script.timesteps[[999, 700, 400, 100, 0]]
    sigmas = torch.stack([script.sigmas[(script.timesteps == x).nonzero().item()] for x in t]).view(-1, 1, 1, 1)
    torch.testing.assert_close(ours.noised(x_0, eps, t), (1.0 - sigmas) * x_0 + sigmas * eps)
    torch.testing.assert_close(ours.target(x_0, eps, t), eps - x_0)
    assert ours.weight(t) is None and ours.num_timesteps == 1000


def test_a_true_velocity_says_the_truth_of_noise_and_picture() -> None:
    ours, g = process("sd3"), torch.Generator().manual_seed(2)
    x_0, eps = (torch.randn(5, 4, 3, 3, generator=g) for _ in range(2))
    t = ours.evenly(5)
    z, v = ours.noised(x_0, eps, t), ours.target(x_0, eps, t)
    torch.testing.assert_close(ours.converted(v, z, t, "epsilon"), eps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.converted(v, z, t, "x_0"), x_0, rtol=1e-5, atol=1e-5)
    assert ours.converted(v, z, t, "v") is v
    # |error of epsilon|^2 = (1 - s)^2 |error of v|^2
    wrong = v + torch.randn(v.shape, generator=g)
    errors = (
        (ours.converted(wrong, z, t, "epsilon") - eps).square().mean((1, 2, 3)),
        (wrong - v).square().mean((1, 2, 3)),
    )
    torch.testing.assert_close(errors[0], (1 - t / 1000) ** 2 * errors[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_the_solver_brings_a_straight_path_to_its_picture(family: str, steps: int) -> None:
    """With the true velocity of one picture any number of steps ends in it."""
    solver = process(family).solver(steps)
    assert type(solver) is FAMILIES[family][0]
    g = torch.Generator().manual_seed(3)
    x_0, z = (torch.randn(2, 4, 3, 3, generator=g) for _ in range(2))
    solver.set_timesteps(steps, **({"mu": 0.9} if family == "flux" else {}))
    assert len(solver.timesteps) == steps
    for t, s in zip(solver.timesteps, solver.sigmas, strict=False):
        z = solver.step((z - x_0) / s, t, z).prev_sample
    torch.testing.assert_close(z, x_0, rtol=1e-3, atol=1e-3)


def test_sanas_solver_keeps_its_shift_and_its_training_times_have_none() -> None:
    ours = process("sana")
    solver = ours.solver(20)
    solver.set_timesteps(20)
    s = torch.from_numpy(np.linspace(1, 1 / 1000, 21)[:-1]).float()
    assert float((solver.sigmas[:-1] - 3 * s / (1 + 2 * s)).abs().max()) < 0.01
    torch.testing.assert_close(ours.table, torch.arange(1, 1001).float())


def test_a_stochastic_solver_becomes_deterministic() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(**SD3, stochastic_sampling=True)
    assert not process_of(scheduler, LOGIT_NORMAL).solver(5).config.stochastic_sampling
    scheduler = DPMSolverMultistepScheduler(**SANA | {"algorithm_type": "sde-dpmsolver++"})
    assert process_of(scheduler, UNIFORM).solver(5).config.algorithm_type == "dpmsolver++"


def test_flows_that_methods_cannot_train_on_are_refused() -> None:
    with pytest.raises(UserError, match="inverted sigmas"):
        refuse(FlowMatchEulerDiscreteScheduler(**SD3, invert_sigmas=True), "backbone x", LOGIT_NORMAL)
    wrong = DPMSolverMultistepScheduler(**SANA | {"prediction_type": "epsilon"})
    with pytest.raises(UserError, match="prediction_type 'epsilon'"):
        refuse(wrong, "backbone x", UNIFORM)
    unknown = diffusers.FlowMatchHeunDiscreteScheduler()
    with pytest.raises(UserError, match="FlowMatchHeunDiscreteScheduler"):
        refuse(unknown, "backbone x", UNIFORM)
    for family, (_, _, density) in FAMILIES.items():
        refuse(process(family).pipeline_scheduler, f"backbone {family}", density)
