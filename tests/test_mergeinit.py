"""Merge & Init: what is carried is the sum of all tasks' products, and each starts anew on top of it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask, change, layers, learn, product, rows_stay, tasks

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.mergeinit import MergeInit, MergeInitOptions
from cpbench.baselines.olora import OLora


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(MergeInit)


def test_it_carries_the_sum_of_the_products_and_all_words(tiny: Backbone, three: list[Learned]) -> None:
    names = layers(tiny)
    for number, learned in enumerate(three, 1):
        expected = {f"weights/{n}" for n in names} | {f"token/{c}" for c in CONCEPTS[:number]}
        assert learned.state.tensors.keys() == expected
        for n in names:
            D = sum(product(x.factors, n) for x in three[:number])
            np.testing.assert_allclose(learned.state.tensors[f"weights/{n}"].double().numpy(), D, atol=1e-6)
            assert np.abs(D).max() > 1e-4
        assert learned.evaluations == 3 * 2
        assert learned.trained == sum(v.numel() for v in learned.factors.values()) + 16
    rows_stay(three)


def test_what_is_carried_is_installed(tiny: Backbone, three: list[Learned]) -> None:
    method, state = MergeInit(MergeInitOptions(rank=2)), three[2].state
    for concepts in ((), ("dog",), ("dog2", "vase")):
        for n, found in change(tiny, method, state, concepts).items():
            np.testing.assert_allclose(found, state.tensors[f"weights/{n}"].double().numpy(), atol=1e-5)
    assert method.lora(state, ("dog",)) is None
    assert method.phrase("vase", "vase", state) == "<v2> vase"


def test_a_task_starts_anew_on_the_merged_weights(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    first = {k: v.clone() for k, v in tiny.add_lora(2, ("to_q",), make_task(tiny, "dog2").generator("lora")).items()}
    tiny.restore()
    pristine = {n: p.detach().clone() for n, p in tiny.denoiser.named_parameters()}

    def look(phase: str, step: int) -> None:
        for n in layers(tiny, ("to_q.base_layer",)):
            name = n.removesuffix(".base_layer")
            merged = pristine[f"{name}.weight"] + three[1].state.tensors[f"weights/{name}"]
            assert torch.equal(tiny.denoiser.get_submodule(n).weight, merged)

    still = {"learning_rate": 1e-9, "steps": 1, "target_modules": ("to_q",), "token_learning_rate": 0}
    kept = {k: v for k, v in three[1].state.tensors.items() if "weights/" not in k or k.endswith("to_q")}
    state = type(three[1].state)(kept, three[1].state.facts)
    learned = learn(MergeInit, tiny, make_task, 3, state, look, **still)
    assert learned.factors.keys() == first.keys()
    for k, v in first.items():
        torch.testing.assert_close(learned.factors[k], v, atol=1e-8, rtol=0)
    assert torch.equal(learned.state.tensors["token/dog2"], tiny.word_embedding("dog"))


def test_it_learns_as_a_stack_of_loras_that_nothing_keeps_apart(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    """O-LoRA without its penalty carries the same changes, in factors."""
    stack = tasks(OLora, tiny, make_task, orthogonality_weight=0.0)
    for n in layers(tiny):
        expected = sum(product(x.factors, n) for x in stack)
        np.testing.assert_allclose(three[2].state.tensors[f"weights/{n}"].double().numpy(), expected, atol=1e-4)
