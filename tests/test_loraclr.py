"""LoRACLR: the contrastive distances by a loop, and one change that answers each concept's inputs."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, change, layers, product

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.loraclr import ROWS, LoraClr, LoraClrOptions, contrast


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 4), st.floats(0.1, 3))
def test_the_distances_by_a_loop(seed: int, concepts: int, m: float) -> None:
    g = torch.Generator().manual_seed(seed)
    Y, Yhat = (torch.randn(concepts, 5, 3, generator=g, dtype=torch.float64) for _ in range(2))

    def rms(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).mean()))

    y, yhat = Y.numpy(), Yhat.numpy()
    total = 0.0
    for i in range(concepts):
        d_p = rms(y[i], yhat[i])
        d_n = min(rms(y[i], yhat[j]) for j in range(concepts) if j != i)
        total += d_p**2 + max(0.0, m - d_n) ** 2
    assert float(contrast(Y, Yhat, m)) == pytest.approx(total / concepts, rel=1e-9)


def test_outputs_that_are_far_apart_cost_nothing_more() -> None:
    Y = torch.stack([torch.zeros(4, 2), torch.ones(4, 2)])
    assert float(contrast(Y, Y, 0.9)) == 0 and float(contrast(Y, Y, 1.5)) == pytest.approx(0.25)


def test_merging_lowers_the_loss_below_the_averages() -> None:
    """Each concept's inputs lie in two directions of six, so that one change can answer all of them."""
    g = torch.Generator().manual_seed(0)
    W_0, Deltas = torch.randn(4, 6, generator=g), torch.randn(3, 4, 6, generator=g)
    X = torch.randn(3, 20, 6, generator=g) * torch.eye(3).repeat_interleave(2, 1)[:, None]
    method = LoraClr(LoraClrOptions(merge_steps=300, merge_learning_rate=1e-2, merge_weight=1e-3))
    Y = X @ (W_0 + Deltas).mT

    def L(Delta: torch.Tensor) -> float:
        return float(contrast(Y, X @ (W_0 + Delta).T, 0.5) + 1e-3 * Delta.square().sum())

    assert L(method.contrasted(W_0, Deltas, X)) < 0.2 * L(Deltas.mean(0))


# What is learned


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(LoraClr, merge_steps=5)


def test_it_keeps_all_loras_and_rows_of_generated_pictures(tiny: Backbone, three: list[Learned]) -> None:
    for number, at in enumerate(three, 1):
        for concept in CONCEPTS[:number]:
            rows = at.state.tensors_of(f"generated/{concept}")
            assert rows.keys() == set(layers(tiny))
            for layer, X in rows.items():
                assert X.dtype == torch.float16 and len(X) <= ROWS
                assert X.shape[1] == tiny.denoiser.get_submodule(layer).in_features
                assert torch.equal(X, three[CONCEPTS.index(concept)].state.tensors[f"generated/{concept}/{layer}"])
        assert at.evaluations == 3 * 2 + 20


def test_the_first_concept_alone_is_its_lora(three: list[Learned]) -> None:
    state = three[0].state
    for layer, found in state.tensors_of("weights").items():
        np.testing.assert_allclose(found.numpy(), product(state.tensors_of("adapter/dog"), layer), atol=1e-6)


def test_the_merged_change_is_installed(tiny: Backbone, three: list[Learned]) -> None:
    state = three[-1].state
    for layer, found in change(tiny, LoraClr(LoraClrOptions(rank=2)), state).items():
        np.testing.assert_allclose(found, state.tensors[f"weights/{layer}"].double().numpy(), atol=1e-5)


def test_each_concepts_rows_are_of_the_same_places(tiny: Backbone, three: list[Learned]) -> None:
    """Cross-attention's queries of two concepts begin with the same noise's size of rows; keys have the prompt's tokens."""
    sizes = {c: {k: v.shape for k, v in three[-1].state.tensors_of(f"generated/{c}").items()} for c in CONCEPTS}
    assert sizes["dog"] == sizes["vase"] == sizes["dog2"]
