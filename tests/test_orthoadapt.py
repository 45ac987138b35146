"""Orthogonal Adaptation: columns that no other task has, what is overlapped when they run out, and the sum of all tasks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from learners import Learned, MakeTask, change, layers, learn, product

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.orthoadapt import OrthoAdapt, OrthoAdaptOptions
from cpbench.errors import UserError
from cpbench.method import Task


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Callable[[str], list[Learned]]:
    return lambda basis: three_tasks(OrthoAdapt, basis=basis)


def columns(t: int, width: int, rank: int = 8, basis: str = "disjoint", seed: int = 0) -> list[torch.Tensor]:
    task = Task(t, "dog", "dog", np.zeros((1, 8, 8, 3), np.uint8), seed)
    return OrthoAdapt(OrthoAdaptOptions(rank=rank, basis=basis)).columns(task, "layer", width)


def test_within_a_basis_no_two_tasks_share_a_direction() -> None:
    B = columns(6, 48)
    everything = torch.cat(B, 1).double()
    torch.testing.assert_close(everything.T @ everything, torch.eye(48, dtype=torch.float64), atol=1e-5, rtol=0)


def test_after_six_tasks_a_layer_of_48_goes_on_with_another_basis() -> None:
    *earlier, B = columns(7, 48)
    assert all(torch.equal(a, b) for a, b in zip(earlier, columns(6, 48), strict=True))
    torch.testing.assert_close(B.T @ B, torch.eye(8), atol=1e-5, rtol=0)
    shares = torch.cat([B.T @ b for b in earlier], 1)
    assert float(shares.abs().max()) > 0.1
    # the first basis is spanned by the six tasks: each column of the seventh lies in it
    torch.testing.assert_close(shares.square().sum(1), torch.ones(8), atol=1e-4, rtol=0)


def test_shared_random_columns_are_of_one_basis_and_may_meet() -> None:
    B = columns(12, 48, basis="shared-random")
    cosines = torch.stack([(a.T @ b).abs() for i, a in enumerate(B) for b in B[:i]])
    rounded = cosines.round(decimals=4)
    assert set(rounded.unique().tolist()) == {0.0, 1.0}
    # two draws of 8 of 48 columns share 8 * 8 / 48 of them on average
    assert abs(float(rounded.sum((1, 2)).mean()) - 64 / 48) < 0.5
    assert not torch.equal(B[0], columns(12, 48, basis="shared-random", seed=1)[0])


@pytest.mark.parametrize("basis", ["disjoint", "shared-random"])
def test_only_one_side_is_trained_and_the_sum_is_installed(tiny: Backbone, three: Callable, basis: str) -> None:
    learned, total = three(basis), {}
    for number, at in enumerate(learned, 1):
        for layer in layers(tiny):
            width = at.factors[f"{layer}.lora_A"].shape[1]
            task = Task(number, "dog", "dog", np.zeros((1, 8, 8, 3), np.uint8), 0)
            B = OrthoAdapt(OrthoAdaptOptions(rank=2, basis=basis)).columns(task, layer, width)[-1]
            torch.testing.assert_close(at.factors[f"{layer}.lora_A"], B.T)
            assert float(at.factors[f"{layer}.lora_B"].abs().max()) > 0
            total[layer] = total.get(layer, 0) + product(at.factors, layer)
        assert at.trained == sum(v.numel() for k, v in at.factors.items() if k.endswith("lora_B")) + 16
    method = OrthoAdapt(OrthoAdaptOptions(rank=2, basis=basis))
    for layer, found in change(tiny, method, learned[-1].state).items():
        np.testing.assert_allclose(found, total[layer], atol=1e-5)
    assert learned[0].state.bytes_by_type()["weights"] == learned[2].state.bytes_by_type()["weights"]


def test_overlaps_are_noted_by_layer(tiny: Backbone, make_task: MakeTask, three: Callable) -> None:
    assert three("disjoint")[0].state.facts["overlap"] == {}
    found = three("disjoint")[2].state.facts["overlap"]
    assert found.keys() == set(layers(tiny)) and all(largest < 1e-5 for largest, _ in found.values())
    crowded = None
    for number in (1, 2, 3):  # of 16 inputs and rank 8 the third task has none left
        crowded = learn(OrthoAdapt, tiny, make_task, number, crowded.state if crowded else None, rank=8)
    overlaps = crowded.state.facts["overlap"]
    narrow = [n for n in overlaps if tiny.denoiser.get_submodule(n).in_features == 16]
    assert narrow and all(overlaps[n][0] > overlaps[n][1] > 0.01 for n in narrow)


def test_a_rank_above_a_layers_width_is_refused(tiny: Backbone) -> None:
    with pytest.raises(UserError, match="rank 32 is more than the"):
        OrthoAdapt(OrthoAdaptOptions(rank=32)).check(tiny)
    OrthoAdapt(OrthoAdaptOptions(rank=2)).check(tiny)
