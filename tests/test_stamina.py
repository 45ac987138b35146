"""STAMINA: hard masks and their gradient by hand, what is folded against what was trained, what is carried."""

import itertools
from collections.abc import Callable

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, learn, product, rows_stay

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.stamina import Stamina, StaminaOptions, from_bits, straight_through, to_bits, word_network
from cpbench.learning import training
from cpbench.method import State

TARGETS = ("attn2.to_k", "attn2.to_v")
WIDTH = 16  # of the tiny text encoder
WEIGHT = 1e4
# masks that begin on the edge, so that a few steps leave some weights out and not others
EDGE = {"mask_start": 1e-3, "mask_learning_rate": 1e-2, "mask_weight": 1e-3, "mask_rank": 2, "token_hidden": 5}
EDGE |= {"forgetting_weight": WEIGHT}


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(Stamina, **EDGE)


def mask(state: State, concept: str, layer: str, like: np.ndarray) -> np.ndarray:
    """Bit by bit, the highest of a byte first."""
    bits = [
        byte >> place & 1 for byte in state.tensors[f"mask/{concept}/{layer}"].tolist() for place in range(7, -1, -1)
    ]
    return np.array(bits[: like.size], dtype=float).reshape(like.shape)


def masked(state: State, concept: str, layer: str) -> np.ndarray:
    AB = product(state.tensors_of(f"adapter/{concept}"), layer)
    return mask(state, concept, layer, AB) * AB


# The mask


def test_a_mask_is_hard_and_its_gradient_that_of_the_sigmoid() -> None:
    logits = torch.tensor([-30.0, -2.0, -1e-6, 1e-6, 0.7, 30.0], dtype=torch.float64, requires_grad=True)
    M = straight_through(logits)
    assert M.tolist() == [0, 0, 0, 1, 1, 1]
    weights = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, -6.0], dtype=torch.float64)
    (M * weights).sum().backward()
    x, h = logits.detach().numpy(), 1e-5
    slope = (1 / (1 + np.exp(-(x + h))) - 1 / (1 + np.exp(-(x - h)))) / (2 * h)
    np.testing.assert_allclose(logits.grad.numpy(), slope * weights.numpy(), rtol=1e-4, atol=1e-9)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(0, 100))
def test_bits_are_an_eighth_of_a_byte_each_and_come_back(shape: list[int], seed: int) -> None:
    M = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).float()
    bits = to_bits(M)
    assert bits.dtype == torch.uint8 and len(bits) == -(-M.numel() // 8)
    assert torch.equal(from_bits(bits, torch.empty(shape)), M)


def test_the_penalty_thins_the_mask(tiny: Backbone, make_task: MakeTask) -> None:
    ends = []
    for weight in (0.0, 10.0):
        curve = learn(Stamina, tiny, make_task, 1, None, steps=8, **EDGE | {"mask_weight": weight}).curve
        assert curve[0]["density"] == 1  # C starts at zero, and b is above it
        assert [f["mask"] for f in curve] == pytest.approx([weight * f["density"] for f in curve])
        ends.append(curve[-1]["density"])
    assert ends[1] < ends[0] / 2


def test_a_mask_that_cannot_move_lets_all_through(tiny: Backbone, make_task: MakeTask) -> None:
    state = learn(Stamina, tiny, make_task, 1, None, **EDGE | {"mask_learning_rate": 0}).state
    for layer in learners.layers(tiny, TARGETS):
        assert mask(state, "dog", layer, product(state.tensors_of("adapter/dog"), layer)).all()


# What is trained, and what is left of it


@pytest.mark.parametrize("number", [1, 2, 3])
def test_what_is_folded_is_what_was_trained(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], number: int
) -> None:
    """The model that three steps leave is the one that the fourth step starts from: its figures, from the state."""
    given, state = (three[number - 2].state if number > 1 else None), three[number - 1].state
    fourth = learn(Stamina, tiny, make_task, number, given, steps=4, **EDGE).curve[3]
    concept, layers = CONCEPTS[number - 1], learners.layers(tiny, TARGETS)

    task, method = make_task(tiny, concept, number), Stamina(StaminaOptions())
    *_, batch = training.batches(tiny, task, 4, 2, "train")
    with tiny.installed(method, state, (concept,)), torch.no_grad():
        loss = training.denoising(tiny, method.phrase(concept, task.class_noun, state))
        assert float(loss(batch)["denoising"]) == pytest.approx(fourth["denoising"], rel=1e-5)
    AB = {layer: product(state.tensors_of(f"adapter/{concept}"), layer) for layer in layers}
    masks = {layer: mask(state, concept, layer, AB[layer]) for layer in layers}
    density = sum(m.sum() for m in masks.values()) / sum(m.size for m in masks.values())
    assert 0 < density < 1 and fourth["density"] == pytest.approx(density)
    if number == 1:
        assert "forgetting" not in fourth
        return
    L_forget = 0.0
    for layer in layers:
        past = sum(masked(given, c, layer) for c in given.concepts)
        L_forget += ((np.abs(past) * masks[layer] * AB[layer]) ** 2).sum()
    assert fourth["forgetting"] == pytest.approx(WEIGHT * L_forget, rel=1e-4) and L_forget > 0


@pytest.mark.parametrize("concepts", [(), ("dog",), ("dog2", "vase")])
def test_installed_weights_are_the_first_ones_plus_all_masked_products(
    tiny: Backbone, three: list[Learned], concepts: tuple[str, ...]
) -> None:
    state = three[2].state
    found = learners.change(tiny, Stamina(), state, concepts)
    adapted = learners.layers(tiny, TARGETS)
    for layer, change in found.items():
        expected = sum(masked(state, c, layer) for c in CONCEPTS) if layer in adapted else 0 * change
        np.testing.assert_allclose(change, expected, atol=2e-6)
        assert bool(np.abs(expected).max() > 1e-3) is (layer in adapted)
    with tiny.installed(Stamina(), state, concepts):
        for n, concept in enumerate(CONCEPTS, 1):
            assert torch.equal(tiny.token_embeddings[f"v{n}"], state.tensors[f"token/{concept}"])
    assert Stamina().lora(state, concepts) is None  # under a mask a product has no low rank


def test_the_state_is_factors_and_bits_and_smaller_than_the_products(tiny: Backbone, three: list[Learned]) -> None:
    layers, rank = learners.layers(tiny, TARGETS), 2
    for number, learned in enumerate(three, 1):
        expected = {f"token/{c}": (WIDTH,) for c in CONCEPTS[:number]}
        for concept, layer in itertools.product(CONCEPTS[:number], layers):
            out, width = tiny.denoiser.get_parameter(f"{layer}.weight").shape
            expected |= {f"adapter/{concept}/{layer}.lora_A": (rank, width)}
            expected |= {f"adapter/{concept}/{layer}.lora_B": (out, rank)}
            expected |= {f"mask/{concept}/{layer}": (-(-out * width // 8),)}
        assert {k: tuple(v.shape) for k, v in learned.state.tensors.items()} == expected
    for before, after in itertools.pairwise(three):
        assert all(torch.equal(after.state.tensors[k], v) for k, v in before.state.tensors.items())
    sizes = three[0].state.bytes_by_type()
    dense = sum(4 * tiny.denoiser.get_parameter(f"{layer}.weight").numel() for layer in layers)
    assert sizes["adapter"] + sizes["mask"] < dense


def test_at_the_size_of_stable_diffusion_the_state_is_a_fourteenth_of_the_products() -> None:
    """K and V of SD 1.5: 768 wide; 10 layers of 320, 10 of 640 and 12 of 1280 outputs."""
    outs = [320] * 10 + [640] * 10 + [1280] * 12
    dense = sum(4 * 768 * out for out in outs)
    carried = sum(4 * 16 * (768 + out) + 768 * out // 8 for out in outs)
    assert (round(dense / 1e6, 1), round(carried / 1e6, 1)) == (76.7, 5.6)
    assert 13.5 < dense / carried < 14.5


def test_what_is_trained(tiny: Backbone, three: list[Learned]) -> None:
    sizes = [sum(tiny.denoiser.get_parameter(f"{n}.weight").shape) for n in learners.layers(tiny, TARGETS)]
    network = 5 * 5 + WIDTH * 5 + WIDTH  # E, F, v
    assert {learned.trained for learned in three} == {(2 + 2) * sum(sizes) + network}


# Words


def test_a_words_network_begins_with_the_word_it_is_given() -> None:
    g = torch.Generator().manual_seed(1)
    start = torch.randn(3, generator=g)
    (E, F, v), z = word_network(start, 4, torch.Generator().manual_seed(2))
    assert torch.equal(v, start) and not F.any() and all(p.requires_grad for p in (E, F, v))
    again = word_network(start, 4, torch.Generator().manual_seed(2))
    assert torch.equal(again[1], z) and torch.equal(again[0][0], E)
    assert not torch.equal(word_network(start, 4, torch.Generator().manual_seed(3))[1], z)


def test_a_word_starts_at_random_and_moves_by_its_network(tiny: Backbone, make_task: MakeTask) -> None:
    """After one step of Adam from F = 0: v by the rate times a sign, F likewise, so V by that of v and of F relu(E z)."""
    task = make_task(tiny, "dog", 1)
    start, rate = tiny.random_embedding(task.generator("word")), 1e-3
    still = learn(Stamina, tiny, make_task, 1, None, **EDGE | {"token_learning_rate": 0}).state
    torch.testing.assert_close(still.tensors["token/dog"], start)
    moved = learn(Stamina, tiny, make_task, 1, None, steps=1, **EDGE | {"token_learning_rate": rate}).state
    (E, _, _), z = word_network(start, 5, task.generator("code"))
    hidden = [max(0.0, sum(float(E.detach()[i, j] * z[j]) for j in range(5))) for i in range(5)]
    # F's gradient is that of V times relu(E z), none where this is 0: every entry moves as V does
    found = (moved.tensors["token/dog"] - start).abs()
    torch.testing.assert_close(found, torch.full((WIDTH,), rate * (1 + sum(hidden))), rtol=1e-2, atol=1e-5)


def test_earlier_words_stay(three: list[Learned]) -> None:
    rows_stay(three)


@pytest.mark.parametrize(("use_class_noun", "said"), [(False, "<v2>"), (True, "<v2> vase")])
def test_the_word_stands_alone_unless_the_noun_is_kept(three: list[Learned], use_class_noun: bool, said: str) -> None:
    assert Stamina(StaminaOptions(use_class_noun=use_class_noun)).phrase("vase", "vase", three[2].state) == said
