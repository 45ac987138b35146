"""MagMax: the merge entry by entry, and that the model it keeps is not the one it trained."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import Learned, MakeTask, change, layers, product, rows_stay, tasks

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.magmax import MagMax, MergeInit

NUMBERS = st.sampled_from([-3.0, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0])


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(MagMax)


def larger(previous: float, last: float) -> float:
    return last if abs(last) >= abs(previous) else previous


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=8))
def test_the_larger_change_stays_with_its_sign_and_the_last_of_two_alike(pairs: list[tuple[float, float]]) -> None:
    previous, last = ({"q": torch.tensor(x).view(-1, 1)} for x in zip(*pairs, strict=True))
    (merged,) = MagMax().merged(previous, last).values()
    assert merged.flatten().tolist() == [larger(*pair) for pair in pairs]


def test_it_carries_the_largest_change_of_all_tasks(tiny: Backbone, three: list[Learned]) -> None:
    for n in layers(tiny):
        D = np.zeros(tuple(tiny.denoiser.get_submodule(n).weight.shape))
        for learned in three:
            last = product(learned.factors, n)
            merged = np.vectorize(larger)(D, last)
            found = learned.state.tensors[f"weights/{n}"].double().numpy()
            np.testing.assert_allclose(found, merged, atol=1e-6)
            D = found
        assert 0.1 < (np.abs(D - product(three[2].factors, n)) > 1e-6).mean() < 0.9  # some of each
    rows_stay(three)


def test_its_second_model_is_neither_the_trained_one_nor_the_sum(tiny: Backbone, three: list[Learned]) -> None:
    found = change(tiny, MagMax(), three[1].state, ("dog",))
    for n in layers(tiny):
        first, last = (product(x.factors, n) for x in three[:2])
        assert np.abs(found[n] - (first + last)).max() > 1e-4
        np.testing.assert_allclose(found[n], three[1].state.tensors[f"weights/{n}"].double().numpy(), atol=1e-5)
        beyond = np.sign(first * last) * (np.abs(first + last) - np.abs(found[n]))
        assert beyond.min() > -1e-5  # where signs agree the sum goes further, where they do not it falls short


def test_a_task_is_learned_as_merge_and_init_learns_it(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    """Tasks 1 are one and the same; task 2 of both has the same start."""
    other = tasks(MergeInit, tiny, make_task, 2)
    assert all(torch.equal(three[0].state.tensors[k], v) for k, v in other[0].state.tensors.items())
    assert all(torch.equal(three[1].factors[k], v) for k, v in other[1].factors.items())
    assert MagMax().lora(three[1].state, ()) is None and MagMax.Options is MergeInit.Options
