"""L2: the distance by loops and its gradient in closed form, and EWC with a Fisher of ones beside it."""

from collections.abc import Callable

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, change, layers, learn, product, rows_stay

from cpbench.backbones.adapters import products
from cpbench.backbones.backbone import Backbone
from cpbench.baselines.ewc import Ewc
from cpbench.baselines.l2 import L2, L2Options, distance
from cpbench.method import State

WEIGHT = 0.5


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(L2, distance_weight=WEIGHT)


def far(before: Learned, after: Learned) -> float:
    names = dict.fromkeys(k.rpartition(".")[0] for k in before.factors)
    return sum(((product(after.factors, n) - product(before.factors, n)) ** 2).sum() for n in names)


def test_the_distance_goes_by_names_and_not_by_their_order() -> None:
    """A state that was read has its tensors in the order of their names; a new LoRA has that of its layers."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"z.lora_A": (2, 3), "z.lora_B": (4, 2), "a.lora_A": (2, 3), "a.lora_B": (4, 2), "m.lora_A": (2, 5)}
    now = {k: torch.randn(s, generator=generator) for k, s in (shapes | {"m.lora_B": (4, 2)}).items()}
    last = {k: now[k].clone() for k in sorted(now)}
    assert list(products(now)) == ["z", "a", "m"] and list(products(last)) == ["a", "m", "z"]
    assert float(distance(products(now), products(last))) == 0
    for layer, W in products(now).items():
        np.testing.assert_allclose(W.numpy(), product(now, layer), rtol=1e-5, atol=1e-6)


def test_the_distance_by_hand() -> None:
    last = {"q": torch.tensor([[1.0, -2.0], [0.0, 3.0]]), "conv": torch.zeros(1, 1, 2, 1)}
    now = {"q": torch.tensor([[1.0, 1.0], [5.0, 3.0]]), "conv": torch.tensor([2.0, -1.0]).view(1, 1, 2, 1)}
    assert float(distance(now, last)) == 3**2 + 5**2 + 2**2 + 1


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_its_gradient_is_the_closed_form(seed: int, out: int, width: int, rank: int) -> None:
    """With G = 2 (B A - W_{t-1}): dL/dA = B^T G, dL/dB = G A^T."""
    g = torch.Generator().manual_seed(seed)
    A, B, last = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((rank, width), (out, rank), (out, width)))
    factors = {"q.lora_A": A.requires_grad_(True), "q.lora_B": B.requires_grad_(True)}
    distance(products(factors), {"q": last}).backward()
    G = 2 * (product(factors, "q") - last.numpy())
    np.testing.assert_allclose(A.grad.numpy(), B.detach().numpy().T @ G, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(B.grad.numpy(), G @ A.detach().numpy().T, rtol=1e-9, atol=1e-12)


def test_the_logged_term_is_the_distance_from_where_the_last_task_ended(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    expected = [0.0]

    def look(phase: str, step: int) -> None:
        moved = (product(tiny.lora_parameters, n) - product(three[1].factors, n) for n in names)
        expected.append(WEIGHT * sum((x**2).sum() for x in moved))

    names = layers(tiny)
    again = learn(L2, tiny, make_task, 3, three[1].state, look, distance_weight=WEIGHT)
    assert [f["distance"] for f in again.curve] == pytest.approx(expected[:3], rel=1e-4)
    assert all(f["loss"] == pytest.approx(f["denoising"] + f["distance"], rel=1e-5) for f in again.curve)
    assert expected[2] > 0 and not any("distance" in f for f in three[0].curve)


def test_it_is_ewc_on_the_product_with_a_fisher_of_ones(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    """lambda here is half of lambda there."""
    state = three[0].state
    ones = {f"fisher/{n}": torch.ones(tiny.denoiser.get_submodule(n).weight.shape) for n in layers(tiny)}
    with_ones = State(state.tensors | ones, state.facts)
    options = {"space": "product", "ewc_weight": 2 * WEIGHT, "fisher_samples": 1}
    there = learn(Ewc, tiny, make_task, 2, with_ones, **options)
    for k, v in there.factors.items():
        torch.testing.assert_close(three[1].factors[k], v, atol=1e-5, rtol=1e-3)
    plain = learn(L2, tiny, make_task, 2, state, distance_weight=0.0)
    assert max(float((three[1].factors[k] - v).abs().max()) for k, v in plain.factors.items()) > 1e-3


def test_a_heavy_weight_holds_the_weights(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    moved = []
    for weight in (0.0, 1e4):
        options = {"steps": 12, "learning_rate": 1e-3, "distance_weight": weight}
        moved.append(far(three[0], learn(L2, tiny, make_task, 2, three[0].state, **options)))
    assert 0 < moved[1] < 0.2 * moved[0]


def test_it_carries_the_one_lora_and_all_words(tiny: Backbone, three: list[Learned]) -> None:
    sides = {f"adapter/{n}.{side}" for n in layers(tiny) for side in ("lora_A", "lora_B")}
    for number, learned in enumerate(three, 1):
        assert learned.state.tensors.keys() == sides | {f"token/{c}" for c in CONCEPTS[:number]}
        assert learners.same(learned.state.tensors_of("adapter"), learned.factors)
        assert learned.evaluations == 3 * 2
    rows_stay(three)
    method = L2(L2Options(rank=2))
    found = change(tiny, method, three[2].state, ("dog",))
    for n in layers(tiny):
        np.testing.assert_allclose(found[n], product(three[2].factors, n), atol=1e-5)
    assert method.phrase("vase", "vase", three[2].state) == "<v2> vase"
