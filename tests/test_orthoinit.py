"""Merge & Orthogonal Init: the start against LAPACK's vectors, and both merges, the published one with its cross terms."""

from collections.abc import Callable

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, change, layers, learn, product, rows_stay, tasks

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.orthoinit import OrthoInit, OrthoInitOptions, orthogonal

Three = Callable[[bool], list[Learned]]


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Three:
    return lambda sum_factors: three_tasks(OrthoInit, sum_factors=sum_factors)


def own(learned: list[Learned], number: int, layer: str) -> np.ndarray:
    """B A of what task `number` trained on top of the merged weights."""
    return product(learned[number - 1].factors, layer)


# The orthogonal start

COLUMNS = st.integers(2, 9).flatmap(
    lambda r: st.lists(
        st.lists(st.sampled_from([0.0]) | st.floats(-3, 3).filter(lambda x: abs(x) > 1e-3), min_size=r, max_size=r),
        min_size=1,
        max_size=5,
    )
)


@given(COLUMNS)
def test_each_column_is_orthogonal_to_the_other_and_of_norm_1(columns: list[list[float]]) -> None:
    v = torch.tensor(columns, dtype=torch.float64).T
    o = orthogonal(v)
    np.testing.assert_allclose((o * v).sum(0), 0, atol=1e-12)
    np.testing.assert_allclose((o**2).sum(0), 1, atol=1e-12)


@given(COLUMNS)
def test_it_is_the_last_right_singular_vector_of_the_column_as_a_row(columns: list[list[float]]) -> None:
    o = orthogonal(torch.tensor(columns, dtype=torch.float64).T)
    for i, column in enumerate(columns):
        last = torch.linalg.svd(torch.tensor([column], dtype=torch.float64)).Vh[-1]
        torch.testing.assert_close(o[:, i], last, atol=1e-9, rtol=0)


def test_a_random_columns_vector_is_nearly_the_last_unit_vector() -> None:
    """The numbers of the docstring."""
    o = orthogonal(torch.randn(64, 2000, generator=torch.Generator().manual_seed(0)))
    assert float(o[-1].mean()) == pytest.approx(0.99, abs=0.006)
    assert float(o[:-1].abs().mean()) == pytest.approx(0.01, abs=0.004)
    values = torch.linalg.svdvals(o)
    assert values[0] > 5 * values[1]


@pytest.mark.parametrize("sum_factors", [True, False])
@pytest.mark.parametrize("targets", [("to_q", "to_v"), ("conv1",)])
def test_a_task_starts_off_the_last_ones_columns(
    tiny: Backbone, make_task: MakeTask, sum_factors: bool, targets: tuple[str, ...]
) -> None:
    """The last A is the sum of all in the published form; B starts at zero."""
    given = {"sum_factors": sum_factors, "target_modules": targets}
    before = tasks(OrthoInit, tiny, make_task, 2, **given)
    still = learn(OrthoInit, tiny, make_task, 3, before[1].state, **given, learning_rate=1e-9, steps=1)
    for k, v in still.factors.items():
        if k.endswith("lora_B"):
            assert float(v.abs().max()) < 1e-8
        else:
            last = before[1].factors[k] + (before[0].factors[k] if sum_factors else 0)
            np.testing.assert_allclose((v * last).sum(0), 0, atol=1e-6)
            np.testing.assert_allclose(v.norm(dim=0), 1, atol=1e-6)


def test_the_first_task_starts_as_other_loras_do(tiny: Backbone, make_task: MakeTask) -> None:
    fresh = {k: v.clone() for k, v in tiny.add_lora(2, ("to_q",), make_task(tiny, "dog").generator("lora")).items()}
    tiny.restore()
    still = learn(OrthoInit, tiny, make_task, 1, None, learning_rate=1e-9, steps=1, target_modules=("to_q",))
    for k, v in fresh.items():
        torch.testing.assert_close(still.factors[k], v, atol=1e-8, rtol=0)


# The merge


def test_the_published_merge_adds_factors(tiny: Backbone, three: Three) -> None:
    learned = three(True)
    for number, at in enumerate(learned, 1):
        for k, v in at.state.tensors_of("adapter").items():
            torch.testing.assert_close(v, sum(x.factors[k] for x in learned[:number]), atol=1e-6, rtol=1e-6)
        sides = {f"adapter/{n}.{side}" for n in layers(tiny) for side in ("lora_A", "lora_B")}
        assert at.state.tensors.keys() == sides | {f"token/{c}" for c in CONCEPTS[:number]}


def test_the_published_merge_has_cross_terms(tiny: Backbone, three: Three) -> None:
    """What is installed after task 2 is what was trained, and B_1 A_2 + B_2 A_1 on top."""
    learned = three(True)
    found = change(tiny, OrthoInit(OrthoInitOptions(rank=2)), learned[1].state, ("dog",))
    for n in layers(tiny):
        first, second = (x.factors for x in learned[:2])
        mixed = [
            {f"{n}.lora_A": a[f"{n}.lora_A"], f"{n}.lora_B": b[f"{n}.lora_B"]}
            for a, b in ((first, second), (second, first))
        ]
        cross = sum(product(x, n) for x in mixed)
        np.testing.assert_allclose(found[n], own(learned, 1, n) + own(learned, 2, n) + cross, atol=1e-5)
        assert np.abs(cross).max() > 1e-3


def test_the_right_merge_has_none(tiny: Backbone, three: Three) -> None:
    learned = three(False)
    method = OrthoInit(OrthoInitOptions(rank=2, sum_factors=False))
    for number, at in enumerate(learned, 1):
        found = change(tiny, method, at.state, ("dog",))
        for n in layers(tiny):
            expected = sum(own(learned, t, n) for t in range(1, number + 1))
            np.testing.assert_allclose(found[n], expected, atol=1e-5)
    kinds = [{k.split("/")[0] for k in x.state.tensors} for x in learned]
    assert kinds == [{"adapter", "token"}, {"adapter", "token", "weights"}, {"adapter", "token", "weights"}]
    assert method.lora(learned[2].state, ()) is None


@pytest.mark.parametrize("sum_factors", [True, False])
def test_a_task_is_learned_on_top_of_what_was_installed(
    tiny: Backbone, make_task: MakeTask, three: Three, sum_factors: bool
) -> None:
    method, before = OrthoInit(OrthoInitOptions(rank=2, sum_factors=sum_factors)), three(sum_factors)[1].state
    pristine = {n: tiny.denoiser.get_submodule(n).weight.detach().double().numpy() for n in layers(tiny)}
    installed = change(tiny, method, before)
    below: list[dict[str, np.ndarray]] = []

    def look(phase: str, step: int) -> None:
        below.append({n: tiny.weights[f"{n}.weight"].detach().double().numpy() for n in pristine})

    again = learn(OrthoInit, tiny, make_task, 3, before, look, sum_factors=sum_factors)
    for n, W in pristine.items():
        assert all(np.allclose(seen[n], W + installed[n], atol=1e-5) for seen in below) and len(below) == 3
    assert learners.same(again.state.tensors, three(sum_factors)[2].state.tensors)
    assert again.evaluations == 3 * 2


def test_words_and_what_is_exported(tiny: Backbone, three: Three) -> None:
    method, learned = OrthoInit(OrthoInitOptions(rank=2)), three(True)
    rows_stay(learned)
    rows_stay(three(False))
    assert learners.same(method.lora(learned[2].state, ()), learned[2].state.tensors_of("adapter"))
    assert method.phrase("vase", "vase", learned[2].state) == "<v2> vase"


def test_rank_1_has_no_orthogonal_column() -> None:
    with pytest.raises(ValueError, match="rank"):
        OrthoInitOptions(rank=1)
