"""SI: the path integral of the gradient is what the loss fell by, and what a task moved is held by it."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import SMALL, Learned, MakeTask, learn, rows_stay

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.si import XI, SynapticIntelligence, accumulate, consolidated

WEIGHT = 5.0


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(SynapticIntelligence, **SMALL | {"si_weight": WEIGHT})


# The paper's quantities


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.floats(0.5, 4), st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=4),
    st.integers(200, 400),
)
def test_on_a_quadratic_omega_is_what_each_entry_lowered_the_loss_by(entries: list, steps: int) -> None:
    """L = 1/2 sum a (x - m)^2 under small steps down its gradient: omega_j = a/2 [(x_0 - m)^2 - (x_T - m)^2], up to O(rate)."""
    a, m, x = (torch.tensor(column, dtype=torch.float64) for column in zip(*entries, strict=True))
    rate, start, omega = 1e-3, x.clone(), {}
    for _ in range(steps):
        g = a * (x - m)
        after = x - rate * g
        accumulate(omega, {"x": g}, {"x": x}, {"x": after})
        x = after
    fell = a / 2 * ((start - m).square() - (x - m).square())
    torch.testing.assert_close(omega["x"], fell, rtol=5e-3, atol=1e-9)
    Omega = consolidated({"x": torch.ones_like(a)}, omega, {"x": x}, {"x": start})["x"]
    torch.testing.assert_close(Omega, 1 + fell / ((x - start).square() + XI), rtol=5e-3, atol=1e-9)


def test_what_raised_the_loss_counts_for_nothing_and_nothing_is_taken_away() -> None:
    omega, zero = {"x": torch.tensor([-3.0, 2.0])}, {"x": torch.zeros(2)}
    Omega = consolidated({"x": torch.tensor([0.5, 0.5])}, omega, {"x": torch.tensor([1.0, 1.0])}, zero)["x"]
    torch.testing.assert_close(Omega, torch.tensor([0.5, 0.5 + 2 / 1.001]))


# What is learned


def by_loops(
    tiny: Backbone, make_task: MakeTask, number: int, before: Learned | None, monkeypatch
) -> tuple[Learned, dict]:
    """(the task learned again, Omega_t from the gradients of the denoising loss alone and the moves, entry by entry)."""
    from cpbench.learning import training

    gradients: list[dict] = []
    places: list[dict] = []
    genuine = training._gradients

    def noted(term: torch.Tensor, trained: dict, scaler: object) -> dict:
        if not places or len(places) == len(gradients):
            places.append({k: p.detach().double().numpy().copy() for k, p in trained.items()})
            fresh = torch.autograd.grad(term, list(trained.values()), retain_graph=True, allow_unused=True)
            gradients.append({k: g.double().numpy() for k, g in zip(trained, fresh, strict=True) if g is not None})
        return genuine(term, trained, scaler)

    state = before.state if before else None
    monkeypatch.setattr(
        training,
        "_gradients",
        lambda term, trained, scaler, also=(): (
            noted(term, trained, scaler) if is_first(term) else genuine(term, trained, scaler)
        ),
    )
    seen: list[int] = []

    def is_first(term: torch.Tensor) -> bool:  # of a step's terms the first is the denoising loss
        seen.append(1)
        terms = 2 if number > 1 else 1
        return (len(seen) - 1) % terms == 0

    learned = learn(SynapticIntelligence, tiny, make_task, number, state, **SMALL | {"si_weight": WEIGHT})
    names = list(learned.factors)
    ends = [*places[1:], {k: v.double().numpy() for k, v in learned.factors.items()}]
    start = places[0]
    Omega = {k: v.double().numpy() for k, v in (before.state.tensors_of("fisher") if before else {}).items()}
    out = {}
    for name in names:
        total = np.zeros_like(start[name])
        for g, here, there in zip(gradients, places, ends, strict=True):
            total -= g[name] * (there[name] - here[name]) if name in g else 0
        moved = ends[-1][name] - start[name]
        out[name] = Omega.get(name, 0) + np.maximum(total, 0) / (moved**2 + XI)
    return learned, out


@pytest.mark.parametrize("number", [1, 2])
def test_omega_is_the_path_integral_of_the_denoising_losses_own_gradient(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, expected = by_loops(tiny, make_task, number, three[number - 2] if number > 1 else None, monkeypatch)
    found = learned.state.tensors_of("fisher")
    assert found.keys() == expected.keys() and len(found) > 8
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=2e-3, atol=1e-7)
    assert max(float(v.max()) for v in found.values()) > 0


def test_the_penalty_is_of_the_distance_from_the_last_task_weighed_by_omega(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    Omega, start = three[0].state.tensors_of("fisher"), three[0].state.tensors_of("adapter")
    after_each: list[float] = []

    def look(phase: str, step: int) -> None:
        now = {k: v.detach() for k, v in tiny.lora_parameters.items()}
        after_each.append(sum(float((Omega[k] * (now[k] - start[k]) ** 2).sum()) for k in Omega))

    learned = learn(SynapticIntelligence, tiny, make_task, 2, three[0].state, look, **SMALL | {"si_weight": WEIGHT})
    told = [figures["si"] for figures in learned.phase("train")]
    assert told == pytest.approx([0.0, *(WEIGHT * x for x in after_each[:-1])], rel=1e-4)
    assert "si" not in three[0].curve[0]


def test_a_larger_weight_keeps_the_lora_nearer(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    start, apart = three[0].state.tensors_of("adapter"), []
    for weight in (0.0, 1e4):
        learned = learn(SynapticIntelligence, tiny, make_task, 2, three[0].state, **SMALL | {"si_weight": weight})
        Omega = three[0].state.tensors_of("fisher")
        apart.append(sum(float((Omega[k] * (learned.factors[k] - start[k]) ** 2).sum()) for k in Omega))
    assert apart[1] < 0.5 * apart[0]


def test_omega_never_falls_and_earlier_words_stay(three: list[Learned]) -> None:
    for before, after in itertools.pairwise(three):
        fishers = before.state.tensors_of("fisher"), after.state.tensors_of("fisher")
        assert all((fishers[1][k] >= fishers[0][k]).all() for k in fishers[0])
    rows_stay(three)
