"""Merging LoRAs: by hand on 2 x 2 layers, apart from what peft makes of A and B, and gradient fusion's least squares."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, change, learn, product, same
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.isolated import Isolated
from cpbench.baselines.mergelora import MergeLora, MergeLoraOptions, add_to_sums, minimised, misfit
from cpbench.learning import add_tokens
from cpbench.learning.layer_inputs import as_rows, watched, word_states
from cpbench.method import State, Task

MERGES = ("sum", "average", "ties", "dare", "fusion")
ONE = torch.tensor([[4.0, -1.0], [2.0, 0.5]])
TWO = torch.tensor([[1.0, 3.0], [-5.0, 0.2]])


def merged(merge: str, *Deltas: torch.Tensor, seed: int = 0, **options: float) -> torch.Tensor:
    task = Task(len(Deltas), "dog", "dog", np.zeros((1, 8, 8, 3), np.uint8), seed)
    return MergeLora(MergeLoraOptions(merge=merge, **options)).merged("layer", list(Deltas), task)


# By hand


@pytest.mark.parametrize(
    ("merge", "by_hand"),
    [
        ("sum", [[5.0, 2.0], [-3.0, 0.7]]),
        ("average", [[2.5, 1.0], [-1.5, 0.35]]),
        # kept: 4 and 2 of one, 3 and -5 of two; where both are kept, the sign of 2 - 5 wins
        ("ties", [[4.0, 3.0], [-5.0, 0.0]]),
    ],
)
def test_two_layers_by_hand(merge: str, by_hand: list) -> None:
    torch.testing.assert_close(merged(merge, ONE, TWO), torch.tensor(by_hand))


def test_where_signs_agree_ties_takes_the_mean() -> None:
    torch.testing.assert_close(merged("ties", ONE, 2 * ONE, density=1.0), 1.5 * ONE)


def test_dare_doubles_a_random_half_and_leaves_the_global_generator_alone() -> None:
    large = torch.arange(1.0, 10_001).view(100, 100)
    before = torch.get_rng_state()
    found = merged("dare", large)
    assert torch.equal(torch.get_rng_state(), before)
    ratio = found / large
    assert set(ratio.unique().tolist()) == {0.0, 2.0}
    assert abs(float((ratio > 0).float().mean()) - 0.5) < 4 * 0.005
    torch.rand(3)
    assert torch.equal(merged("dare", large), found) and not torch.equal(merged("dare", large, seed=1), found)
    torch.testing.assert_close(merged("dare", large, density=1.0), large)


def test_a_convolution_is_merged_as_its_matrix() -> None:
    kernel = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    for merge in ("sum", "ties"):
        torch.testing.assert_close(
            merged(merge, kernel, -2 * kernel).flatten(1), merged(merge, kernel.flatten(1), -2 * kernel.flatten(1))
        )


def test_pefts_merge_of_a_and_b_has_cross_terms_and_ours_has_not() -> None:
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential(nn.Linear(4, 3, bias=False))
    model = get_peft_model(base, LoraConfig(r=2, lora_alpha=2, target_modules=["0"]), "one")
    model.add_adapter("two", LoraConfig(r=2, lora_alpha=2, target_modules=["0"]))
    layer, g = model.base_model.model[0], torch.Generator().manual_seed(0)
    sides = {}
    for name in ("one", "two"):
        for side in (layer.lora_A[name], layer.lora_B[name]):
            side.weight.data = torch.randn(side.weight.shape, generator=g)
        sides[name] = layer.lora_A[name].weight.data, layer.lora_B[name].weight.data
    model.add_weighted_adapter(["one", "two"], [1.0, 1.0], "both", "linear")
    (A, B), (C, D) = sides["one"], sides["two"]
    ours = merged("sum", B @ A, D @ C)
    torch.testing.assert_close(layer.get_delta_weight("both"), ours + B @ C + D @ A)
    torch.testing.assert_close(ours, B @ A + D @ C)


# Gradient fusion


def sums(seed: int, concepts: int, rows: int, width: int, out: int = 3) -> tuple[torch.Tensor, torch.Tensor, list]:
    """S, D, and of each concept (X, Delta), float64."""
    g = torch.Generator().manual_seed(seed)
    parts = []
    for _ in range(concepts):
        X = torch.randn(rows, width, generator=g, dtype=torch.float64)
        parts.append((X, torch.randn(out, width, generator=g, dtype=torch.float64)))
    S, D = {}, {}
    for X, Delta in parts:
        add_to_sums(S, D, "layer", X.T @ X / len(X), Delta)
    return S["layer"], D["layer"], parts


def by_rows(Delta: torch.Tensor, parts: list) -> float:
    return sum(float((X @ (Delta - one).T).square().sum()) / len(X) for X, one in parts)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(3, 9))
def test_the_misfit_is_that_of_all_rows_but_for_a_constant(seed: int, concepts: int, rows: int) -> None:
    S, D, parts = sums(seed, concepts, rows, 5)
    candidates = [torch.zeros_like(D), parts[0][1], sum(one for _, one in parts)]
    constant = by_rows(candidates[0], parts) - float(misfit(candidates[0], S, D))
    for Delta in candidates[1:]:
        assert float(misfit(Delta, S, D)) + constant == pytest.approx(by_rows(Delta, parts), rel=1e-9, abs=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(1, 3))
def test_the_closed_form_is_what_lbfgs_tends_to(seed: int, concepts: int) -> None:
    S, D, parts = sums(seed, concepts, rows=40, width=5)
    closed = MergeLora(MergeLoraOptions(merge="fusion")).solved(S, D)
    slow = minimised(S, D)
    torch.testing.assert_close(closed, slow, atol=2e-3, rtol=2e-3)  # the ridge is 1e-4 of S
    plain = torch.linalg.lstsq(
        torch.cat([X / len(X) ** 0.5 for X, _ in parts]), torch.cat([X @ one.T / len(X) ** 0.5 for X, one in parts])
    ).solution.T
    torch.testing.assert_close(slow, plain, atol=1e-4, rtol=1e-4)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(2, 4), st.integers(2, 12))
def test_fusion_answers_no_worse_than_sum_and_average(seed: int, concepts: int, rows: int) -> None:
    S, D, parts = sums(seed, concepts, rows, 6)
    fused = MergeLora(MergeLoraOptions(merge="fusion")).solved(S, D)
    total = sum(one for _, one in parts)
    for other in (total, total / concepts):
        assert by_rows(fused, parts) <= by_rows(other, parts) * (1 + 1e-3) + 1e-9


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(6, 4), nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 4, 3, stride=2, padding=1)],
    ids=["linear", "3x3", "1x1", "stride"],
)
def test_a_layers_rows_times_its_matrix_are_its_output(layer: nn.Module) -> None:
    x = torch.randn((2, 6, 5, 5) if isinstance(layer, nn.Conv2d) else (2, 7, 6))
    out = layer(x) - layer(torch.zeros_like(x))
    out = out.flatten(2).transpose(1, 2).flatten(0, 1) if isinstance(layer, nn.Conv2d) else out.flatten(0, 1)
    torch.testing.assert_close(as_rows(layer, x) @ layer.weight.flatten(1).T, out, atol=1e-5, rtol=1e-4)


def test_each_input_is_told_and_no_hook_is_left() -> None:
    net, told = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), []
    with watched(net, ["1"], lambda name, rows: told.append((name, rows.shape))):
        net(torch.ones(4, 3))
    net(torch.ones(4, 3))
    assert told == [("1", (4, 3))] and not net[1]._forward_pre_hooks


def test_the_prompts_rows_are_the_words_and_the_ends(tiny: Backbone) -> None:
    state = State({"token/dog": torch.randn(16, generator=torch.Generator().manual_seed(0))}, {"concepts": ["dog"]})
    add_tokens(tiny, state)
    prompts = ["photo of a <v1> dog", "<v1> dog"]
    states = tiny.encode_prompts(prompts)
    # begin, photo, of, a, <v1>, dog, end; begin, <v1>, dog, end
    by_hand = torch.stack([states[0, 4], states[0, 6], states[1, 1], states[1, 3]])
    torch.testing.assert_close(word_states(tiny, prompts), by_hand)


# What is learned


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Callable[[str], list[Learned]]:
    return lambda merge: three_tasks(MergeLora, merge=merge)


@pytest.mark.parametrize("merge", MERGES)
def test_what_is_carried_and_installed(tiny: Backbone, three: Callable, merge: str) -> None:
    learned = three(merge)
    for number, at in enumerate(learned, 1):
        kinds = {name.split("/")[0] for name in at.state.tensors}
        assert kinds == {"token", "weights", "anchor" if merge == "fusion" else "adapter"}
        assert at.state.concepts == list(CONCEPTS[:number])
    sizes = [at.state.bytes_by_type() for at in learned]
    assert sizes[0]["weights"] == sizes[2]["weights"]
    if merge == "fusion":
        assert sizes[0]["anchor"] == sizes[2]["anchor"]
    else:
        assert sizes[2]["adapter"] == 3 * sizes[0]["adapter"]
    state = learned[-1].state
    for layer, found in change(tiny, MergeLora(MergeLoraOptions(rank=2, merge=merge)), state).items():
        np.testing.assert_allclose(found, state.tensors[f"weights/{layer}"].double().numpy(), atol=1e-5)


def test_the_sum_of_one_is_what_isolated_learns(tiny: Backbone, make_task: MakeTask, three: Callable) -> None:
    alone = learn(Isolated, tiny, make_task, 1, None).state
    state = three("sum")[0].state
    assert same(alone.tensors_of("adapter/dog"), state.tensors_of("adapter/dog"))
    for layer, found in state.tensors_of("weights").items():
        np.testing.assert_allclose(found.numpy(), product(alone.tensors_of("adapter/dog"), layer), atol=1e-6)


def test_the_weight_scales_what_is_merged(tiny: Backbone, make_task: MakeTask, three: Callable) -> None:
    half = learn(MergeLora, tiny, make_task, 2, three("sum")[0].state, merge="sum", weight=0.5).state
    for layer, whole in three("sum")[1].state.tensors_of("weights").items():
        torch.testing.assert_close(half.tensors[f"weights/{layer}"], whole / 2)


def test_fusion_answers_its_concepts_inputs_better_than_the_sum(three: Callable) -> None:
    state, sum_state = three("fusion")[2].state, three("sum")[2].state
    S, D = (state.tensors_of(f"anchor/{name}") for name in "SD")
    assert S.keys() == sum_state.tensors_of("weights").keys()
    totals = np.zeros(3)
    for layer, total in sum_state.tensors_of("weights").items():
        candidates = (state.tensors[f"weights/{layer}"], total, total / 3)
        totals += [
            float(misfit(Delta.flatten(1).double(), S[layer].double(), D[layer].double())) for Delta in candidates
        ]
    assert totals[0] < totals[1] and totals[0] < totals[2]


def test_the_second_sort_of_layers_sees_the_fused_keys(tiny: Backbone, make_task: MakeTask, three: Callable) -> None:
    """The first concept's S of a layer behind cross-attention, by a sampling of our own with Delta_1 in the weights."""
    from cpbench.backbones.sampling import Sampler
    from cpbench.learning import add_to_weights, prior_preservation

    state, task = three("fusion")[0].state, make_task(tiny, "dog", 1)
    layer = next(name for name in state.tensors_of("weights") if name.endswith("attn2.to_q"))
    lora = learn(Isolated, tiny, make_task, 1, None).state.tensors_of("adapter/dog")
    fused = {n: d for n, d in state.tensors_of("weights").items() if n.endswith(("attn2.to_k", "attn2.to_v"))}
    others = {n: torch.from_numpy(product(lora, n)).float() for n in state.tensors_of("weights") if n not in fused}
    add_to_weights(tiny, fused | others)
    add_tokens(tiny, state)
    seen: list[torch.Tensor] = []
    handle = tiny.denoiser.get_submodule(layer).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().flatten(0, -2).double())
    )
    prior_preservation.generate(tiny, task, ["photo of a <v1> dog"], Sampler(20, 1.0), "fusion")
    handle.remove()
    tiny.restore()
    assert len(seen) == 20
    X = torch.cat(seen)
    torch.testing.assert_close(state.tensors[f"anchor/S/{layer}"].double(), X.T @ X / len(X), rtol=1e-3, atol=1e-5)


def test_a_convolution_is_fused_as_its_unfolded_patches() -> None:
    conv = nn.Conv2d(2, 3, 3, padding=1, bias=False)
    x = torch.randn(1, 2, 4, 4)
    by_hand = torch.stack(
        [F.pad(x, (1, 1, 1, 1))[0, :, i : i + 3, j : j + 3].flatten() for i in range(4) for j in range(4)]
    )
    torch.testing.assert_close(as_rows(conv, x), by_hand)
