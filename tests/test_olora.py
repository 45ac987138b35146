"""O-LoRA: overlaps by loops, none between orthogonal LoRAs, and the sum of all tasks' products in the weights."""

from collections.abc import Callable
from typing import Any

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, Tensors, change, layers, learn, product, rows_stay

from cpbench.backbones.adapters import side_by_side
from cpbench.backbones.backbone import Backbone
from cpbench.baselines.olora import OLora, OLoraOptions, overlap

WEIGHT = 0.2
Three = Callable[[str], list[Learned]]


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Three:
    return lambda side: three_tasks(OLora, side=side, orthogonality_weight=WEIGHT)


def drawn(seed: int, rank: int, convolution: bool = False) -> Tensors:
    """A LoRA on two layers, 3 x 5 and 4 x 2, the second a convolution of 3 x 3 where asked for."""
    g = torch.Generator().manual_seed(seed)
    factors = {}
    for name, out, width in (("q", 3, (5,)), ("k", 4, (2, 3, 3) if convolution else (2,))):
        factors[f"{name}.lora_A"] = torch.randn(rank, *width, generator=g, dtype=torch.float64)
        B = torch.randn(out, rank, generator=g, dtype=torch.float64)
        factors[f"{name}.lora_B"] = B.view(out, rank, 1, 1) if convolution and name == "k" else B
    return factors


def overlap_by_loops(past: list[Tensors], now: Tensors, side: str) -> float:
    total = 0.0
    for old in past:
        for name in (k for k in now if k.endswith(side)):
            a, b = (x[name].detach().double().numpy() for x in (old, now))
            if side == "B":  # columns, one for each of the ranks
                a, b = (np.moveaxis(x, 1, 0) for x in (a, b))
            for i in range(len(a)):
                for j in range(len(b)):
                    total += abs(float((a[i].ravel() * b[j].ravel()).sum()))
    return total


@given(
    st.integers(0, 500),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from("AB"),
)
def test_the_overlap_is_summed_over_layers_tasks_and_pairs(
    seed: int, ranks: list[int], rank: int, convolution: bool, side: str
) -> None:
    past = [drawn(seed + 1 + i, r, convolution) for i, r in enumerate(ranks)]
    now = drawn(seed, rank, convolution)
    found = float(overlap(side_by_side(past), now, side))
    assert found == pytest.approx(overlap_by_loops(past, now, side), rel=1e-9)


@pytest.mark.parametrize("side", ["A", "B"])
def test_orthogonal_loras_do_not_overlap(side: str) -> None:
    """Past rows (columns) span half of an orthonormal basis, the new ones the other half; sizes do not matter."""
    Q = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    past, now = {"q.lora_A": 7 * Q[:3], "q.lora_B": Q[:, :3]}, {"q.lora_A": Q[3:], "q.lora_B": 5 * Q[:, 3:]}
    assert float(overlap(past, now, side)) < 1e-12
    other = {"q.lora_A": Q[2:4], "q.lora_B": -Q[:, 2:4]}  # one of the two is a past one
    assert float(overlap(past, other, side)) == pytest.approx(7 if side == "A" else 1)


@pytest.mark.parametrize("side", ["A", "B"])
def test_the_logged_overlap_is_that_with_all_earlier_loras(
    tiny: Backbone, make_task: MakeTask, three: Three, side: str
) -> None:
    past, expected = [x.factors for x in three(side)[:2]], []

    def look(phase: str, step: int) -> None:
        expected.append(overlap_by_loops(past, tiny.lora_parameters, side))

    options: dict[str, Any] = {"side": side, "orthogonality_weight": WEIGHT}
    again = learn(OLora, tiny, make_task, 3, three(side)[1].state, look, **options)
    assert [f["overlap"] for f in again.curve[1:]] == pytest.approx(expected[:2], rel=1e-4)
    assert (again.curve[0]["overlap"] == 0) is (side == "B")  # B starts at zero, A does not
    for figures in again.curve:
        assert figures["orthogonality"] == pytest.approx(WEIGHT * figures["overlap"], rel=1e-5)
        assert figures["loss"] == pytest.approx(figures["denoising"] + figures["orthogonality"], rel=1e-5)
    assert not any("overlap" in f for f in three(side)[0].curve)


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_heavy_weight_keeps_directions_apart(tiny: Backbone, make_task: MakeTask, three: Three, side: str) -> None:
    ends = []
    for weight in (0.0, 10.0):
        options = {"steps": 30, "learning_rate": 3e-3, "side": side, "orthogonality_weight": weight}
        now = learn(OLora, tiny, make_task, 2, three(side)[0].state, **options).factors
        sizes = sum(float(v.norm()) for k, v in now.items() if k.endswith(side))
        ends.append(overlap_by_loops([three(side)[0].factors], now, side) / sizes)
    assert ends[1] < 0.8 * ends[0]


def test_it_carries_every_lora_and_all_words(tiny: Backbone, three: Three) -> None:
    learned, names = three("B"), layers(tiny)
    for number, at in enumerate(learned, 1):
        sides = {f"{n}.{side}" for n in names for side in ("lora_A", "lora_B")}
        expected = {f"adapter/{c}/{s}" for c in CONCEPTS[:number] for s in sides}
        assert at.state.tensors.keys() == expected | {f"token/{c}" for c in CONCEPTS[:number]}
        for earlier, concept in zip(learned[:number], CONCEPTS, strict=False):
            assert learners.same(at.state.tensors_of(f"adapter/{concept}"), earlier.factors)
        assert at.evaluations == 3 * 2 and at.trained == sum(v.numel() for v in at.factors.values()) + 16
    rows_stay(learned)


def test_all_products_are_installed(tiny: Backbone, three: Three) -> None:
    method, state = OLora(OLoraOptions(rank=2)), three("B")[2].state
    lora = method.lora(state, ("dog",))
    for concepts in ((), ("dog",), ("dog2", "vase")):
        found = change(tiny, method, state, concepts)
        for n in layers(tiny):
            expected = sum(product(x.factors, n) for x in three("B"))
            np.testing.assert_allclose(found[n], expected, atol=1e-5)
            np.testing.assert_allclose(product(lora, n), expected, atol=1e-6)
    assert [method.phrase(c, "thing", state) for c in CONCEPTS] == ["<v1> thing", "<v2> thing", "<v3> thing"]


def test_a_task_is_learned_on_top_of_the_earlier_ones(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    """While task 3 is learned the weights below its LoRA are W_init + A_1 B_1 + A_2 B_2, and the word starts as its noun."""
    names, pristine = layers(tiny), {n: p.detach().clone() for n, p in tiny.denoiser.named_parameters()}
    below: list[dict[str, np.ndarray]] = []

    def look(phase: str, step: int) -> None:
        below.append({n: tiny.weights[f"{n}.weight"].detach().double().numpy() for n in names})

    still = learn(OLora, tiny, make_task, 3, three("B")[1].state, look, token_learning_rate=0)
    for n in names:
        expected = pristine[f"{n}.weight"].double().numpy() + sum(product(x.factors, n) for x in three("B")[:2])
        for seen in below:
            np.testing.assert_allclose(seen[n], expected, atol=1e-5)
    assert torch.equal(still.state.tensors["token/dog2"], tiny.word_embedding("dog"))
