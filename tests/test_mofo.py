"""MoFO: exactly the entries with the largest momentum move, and moments are Adam's everywhere."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import Learned
from torch import nn

from cpbench.baselines.mofo import MofoOptions, MomentumFiltered, largest
from cpbench.learning import flat
from cpbench.learning.optimizer import Optimizer

RATE = 0.1


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.floats(0.01, 1))
def test_the_largest_by_sorting_ties_by_index(entries: list[int], alpha: float) -> None:
    k = math.ceil(alpha * len(entries))
    expected = sorted(range(len(entries)), key=lambda i: (-abs(entries[i]), i))[:k]
    found = largest(torch.tensor(entries, dtype=torch.float32), alpha)
    assert found.nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("in_blocks", [True, False])
@settings(max_examples=10)
@given(st.integers(0, 100))
def test_steps_are_adams_with_the_others_put_back(in_blocks: bool, seed: int) -> None:
    """Three steps of two tensors, against Adam by hand; the smallest moves' moments go on."""
    rng = np.random.default_rng(seed)
    start = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    gradients = [{k: rng.normal(size=v.shape) for k, v in start.items()} for _ in range(3)]
    gradients[1].pop("b")  # in one step a tensor has none

    theta = {k: v.copy() for k, v in start.items()}
    m, v, steps = ({k: np.zeros_like(x) for k, x in start.items()} for _ in range(3))
    for g in gradients:
        for k in g:
            steps[k] = steps[k] + 1
            m[k], v[k] = 0.9 * m[k] + 0.1 * g[k], 0.999 * v[k] + 0.001 * g[k] ** 2
            m_hat, v_hat = m[k] / (1 - 0.9 ** steps[k]), v[k] / (1 - 0.999 ** steps[k])
            count = math.ceil(0.5 * m[k].size)
            moves = np.zeros(m[k].size, bool)
            moves[np.argsort(-np.abs(m_hat).ravel(), kind="stable")[:count]] = True
            theta[k] = theta[k] - np.where(moves.reshape(m[k].shape), RATE * m_hat / (np.sqrt(v_hat) + 1e-8), 0)

    named = {k: nn.Parameter(torch.tensor(x)) for k, x in start.items()}
    most, flat_most = 2**27 if in_blocks else 0, flat.LARGEST
    from cpbench.learning import optimizer as module

    module.LARGEST = most
    try:
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        with Optimizer([(RATE, named)], torch.float64) as optimizer:
            assert bool(optimizer.blocks) is in_blocks
            for g in gradients:
                optimizer.begin_step()
                optimizer.receive([{k: torch.tensor(x) for k, x in g.items()}])
                before = optimizer.values()
                optimizer.step(scaler)
                optimizer.put_back(before, lambda name, moment: largest(moment, 0.5))
    finally:
        module.LARGEST = flat_most
    for k, parameter in named.items():
        np.testing.assert_allclose(parameter.detach().numpy(), theta[k], rtol=1e-6, atol=1e-9)


# What is learned


@pytest.fixture(scope="module")
def one(three_tasks: Callable) -> Callable[..., list[Learned]]:
    return lambda **options: three_tasks(MomentumFiltered, prior_pictures=2, prior_inference_steps=1, **options)


def test_one_step_moves_that_share_of_each_tensor(tiny, one: Callable) -> None:
    state = one(steps=1, moving_share=0.25)[0].state
    moved = 0
    for name, weight in state.tensors_of("weights").items():
        n = int((weight != tiny.denoiser.get_parameter(name)).sum())
        assert n <= math.ceil(0.25 * weight.numel()), name
        moved += n > 0
    assert moved > 0.9 * len(state.tensors_of("weights"))  # a bias before a norm may have no gradient


def test_with_all_entries_it_is_dreambooth(tiny, make_task, one: Callable) -> None:
    from learners import learn, same

    from cpbench.baselines.dreambooth import DreamBooth

    options = {"steps": 3, "prior_pictures": 2, "prior_inference_steps": 1, "prior_weight": 0.02, "learning_rate": 1e-2}
    whole = learn(DreamBooth, tiny, make_task, 1, None, **options).state
    assert same(whole.tensors, one(moving_share=1.0)[0].state.tensors)


def test_there_is_no_lora_to_choose() -> None:
    assert "adapter" not in MofoOptions.model_fields and "rank" not in MofoOptions.model_fields
