"""CIDM: consolidation and shares by loops, one LoRA that mixes all of them, two words a concept."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask, Tensors, learn, product

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.cidm import Cidm, CidmOptions, consolidation, shares, shares_of_states
from cpbench.method import NotDefined, State

TARGETS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
WEIGHT = 0.3
SMALL: dict[str, Any] = {"consolidation_weight": WEIGHT}


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(Cidm, **SMALL)


def consolidation_by_loops(now: Tensors, past: list[Tensors], ones_penalty: bool) -> float:
    """Both terms are once for every layer and past task, as in the released loop, and each kind has its mean."""
    total, count = 0.0, 0
    for old, name in itertools.product(past, [k for k in now if k.endswith("lora_B")]):
        U, V = (x[name].detach().double().flatten(1).tolist() for x in (now, old))
        overlaps = [abs(sum(a * b for a, b in zip(u, v, strict=True))) for u in U for v in V]
        total += sum(overlaps) / len(overlaps)
        count += 1
        if ones_penalty:
            entries = [u for row in U for u in row]
            total += sum((u - 1) ** 2 for u in entries) / len(entries)
    return total / count


def drawn(seed: int, rank: int) -> Tensors:
    g = torch.Generator().manual_seed(seed)
    factors = {}
    for name, out, width in (("q", 3, 2), ("k", 4, 5)):
        factors[f"{name}.lora_A"] = torch.randn(rank, width, generator=g, dtype=torch.float64)
        factors[f"{name}.lora_B"] = torch.randn(out, rank, generator=g, dtype=torch.float64)
    return factors


def shares_by_loops(words: dict[str, list[list[float]]], prompt: list[str]) -> dict[str, float]:
    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    p = [word for concept in prompt for word in words[concept]]
    powers = {k: (sum(max(cosine(v, q) for q in p) for v in own) / len(own)) ** 4 for k, own in words.items()}
    return {k: x / sum(powers.values()) for k, x in powers.items()}


# Consolidation


@given(st.integers(0, 500), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_consolidation_is_a_mean_over_layers_and_past_tasks(seed: int, count: int, rank: int, ones: bool) -> None:
    now, past = drawn(seed, rank), [drawn(seed + 1 + k, rank) for k in range(count)]
    assert float(consolidation(now, past, ones)) == pytest.approx(consolidation_by_loops(now, past, ones), rel=1e-9)


def test_consolidation_by_hand() -> None:
    """U U'^T = [[1, -2], [0, 3]]: mean 1.5; from U to ones: (0 + 9 + 1 + 4) / 4 = 3.5."""
    now = {"q.lora_A": torch.zeros(2, 1), "q.lora_B": torch.tensor([[1.0, -2.0], [0.0, 3.0]])}
    past = [{"q.lora_A": torch.ones(2, 1), "q.lora_B": torch.eye(2)}]
    assert float(consolidation(now, past, False)) == 1.5
    assert float(consolidation(now, past, True)) == 1.5 + 3.5
    two = [*past, {k: 3 * v for k, v in past[0].items()}]  # overlaps of mean 1.5 and 4.5
    assert float(consolidation(now, two, True)) == 3.0 + 3.5


def test_one_half_pushes_apart_and_the_other_to_ones() -> None:
    past = [drawn(1, 2)]
    for ones in (False, True):
        now = {k: v.clone().requires_grad_(True) for k, v in drawn(2, 2).items()}
        begun = consolidation_by_loops(now, past, False)
        far = float((now["q.lora_B"].detach() - 1).abs().mean())
        for _ in range(50):
            consolidation(now, past, ones).backward()
            with torch.no_grad():
                for k, v in now.items():
                    if k.endswith("lora_B"):
                        v -= 0.1 * v.grad
                    v.grad = None
        if ones:
            assert float((now["q.lora_B"].detach() - 1).abs().mean()) < 0.9 * far
        else:
            assert consolidation_by_loops(now, past, False) < 0.5 * begun


def test_the_first_task_has_nothing_to_keep_off(three: list[Learned]) -> None:
    assert all("consolidation" not in figures for figures in three[0].curve)
    assert all(figures["loss"] == figures["denoising"] for figures in three[0].curve)


@pytest.mark.parametrize("ones", [True, False])
def test_the_loss_is_that_of_the_factors_against_all_earlier_ones(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], ones: bool
) -> None:
    before, now = three[1].state, []

    def look(phase: str, step: int) -> None:
        now.append({k: v.detach().clone() for k, v in tiny.lora_parameters.items()})

    learned = learn(Cidm, tiny, make_task, 3, before, look, ones_penalty=ones, **SMALL)
    past = [before.tensors_of(f"adapter/{c}") for c in CONCEPTS[:2]]
    # the first step's B is zero
    assert learned.curve[0]["consolidation"] == pytest.approx(WEIGHT * ones)
    for factors, figures in zip(now, learned.curve[1:], strict=False):
        expected = WEIGHT * consolidation_by_loops(factors, past, ones)
        assert figures["consolidation"] == pytest.approx(expected, rel=1e-5) and expected > 0
        assert figures["loss"] == pytest.approx(figures["denoising"] + expected, rel=1e-5)


# Shares


def test_shares_by_hand() -> None:
    """For a: cosines 1, 1; for b: its first word is a's first, its second has cosine 0.6 with a's second: mean 0.8."""
    words = {
        "a": torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]),
        "b": torch.tensor([[1.0, 0.0, 0.0], [0.0, 6.0, 8.0]]),
        "c": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]),
    }
    found = shares(words, words["a"])
    assert found == pytest.approx({"a": 1 / 1.4096, "b": 0.4096 / 1.4096, "c": 0})
    assert shares(words, None) == pytest.approx(dict.fromkeys("abc", 1 / 3))


@given(st.integers(0, 500), st.integers(1, 4), st.data())
def test_shares_by_loops(seed: int, count: int, data: st.DataObject) -> None:
    g = torch.Generator().manual_seed(seed)
    words = {f"c{k}": torch.randn(2, 5, generator=g, dtype=torch.float64) for k in range(count)}
    prompt = data.draw(st.lists(st.sampled_from(sorted(words)), min_size=1, max_size=2, unique=True))
    found = shares(words, torch.cat([words[concept] for concept in prompt]))
    expected = shares_by_loops({k: v.tolist() for k, v in words.items()}, prompt)
    assert found == pytest.approx(expected) and sum(found.values()) == pytest.approx(1)
    assert all(
        found[c] == pytest.approx(max(found.values())) for c in prompt
    )  # a word is like none as it is like itself


# What is installed


@pytest.mark.parametrize("concepts", [(), ("dog",), ("vase",), ("dog2", "vase")])
def test_the_installed_lora_is_the_mixture(tiny: Backbone, three: list[Learned], concepts: tuple[str, ...]) -> None:
    state, method = three[2].state, Cidm(CidmOptions(rank=2, mixing="rows"))
    words = {c: state.tensors[f"token/{c}"].tolist() for c in CONCEPTS}
    w = shares_by_loops(words, list(concepts)) if concepts else dict.fromkeys(CONCEPTS, 1 / 3)
    assert (max(w.values()) - min(w.values()) > 0.1) is bool(concepts)
    found = learners.change(tiny, method, state, concepts)
    adapted = learners.layers(tiny, TARGETS)
    exported = method.lora(state, concepts)
    assert {k.rpartition(".")[0] for k in exported} == set(adapted)
    for layer, change in found.items():
        expected = 0 * change
        if layer in adapted:
            expected = sum(w[c] * product(state.tensors_of(f"adapter/{c}"), layer) for c in CONCEPTS)
            assert np.abs(expected).max() > 1e-4
            np.testing.assert_allclose(product(exported, layer), expected, atol=1e-6)
        np.testing.assert_allclose(change, expected, atol=2e-6)


def test_both_words_of_every_concept_are_installed(tiny: Backbone, three: list[Learned]) -> None:
    state, plain = three[2].state, len(tiny.tokenizer)
    with tiny.installed(Cidm(CidmOptions(rank=2)), state, ("vase",)):
        said = [Cidm().phrase(c, "noun", state) for c in CONCEPTS]
        assert said == ["<v1a> <v1b>", "<v2a> <v2b>", "<v3a> <v3b>"]  # the words stand alone
        ids = tiny.tokenizer(" ".join(said), add_special_tokens=False).input_ids
        assert ids == list(range(plain, plain + 6))
        rows = torch.stack([tiny.token_embeddings[f"v{n}{side}"] for n in (1, 2, 3) for side in "ab"])
        assert torch.equal(rows, torch.cat([state.tensors[f"token/{c}"] for c in CONCEPTS]))


# As released: for each prompt, from the text encoder's states


def states_by_hand(tiny: Backbone, state: State, prompt: str) -> dict[str, float]:
    """w_t in float64: the words' states in "<v1a> <v1b>", against every position of the prompt."""
    from cpbench.learning import add_tokens

    flat = State({}, {"concepts": [f"v{n}{side}" for n in range(1, 4) for side in "ab"]})
    flat.tensors = {
        f"token/v{n}{side}": state.tensors[f"token/{c}"][k]
        for n, c in enumerate(CONCEPTS, 1)
        for k, side in enumerate("ab")
    }
    add_tokens(tiny, flat, lambda name, _: f"<{name}>")
    with torch.no_grad():
        p = tiny.encode_prompts([prompt])[0].double().numpy()
        powers = {}
        for n, c in enumerate(CONCEPTS, 1):
            v = tiny.encode_prompts([f"<v{n}a> <v{n}b>"])[0, 1:3].double().numpy()  # after the begin of text
            cosines = (v / np.linalg.norm(v, axis=1, keepdims=True)) @ (p / np.linalg.norm(p, axis=1, keepdims=True)).T
            powers[c] = float(cosines.max(1).mean()) ** 4
    tiny.restore()
    return {c: x / sum(powers.values()) for c, x in powers.items()}


def test_shares_depend_on_the_prompt_that_is_drawn(tiny: Backbone, three: list[Learned]) -> None:
    state, method = three[2].state, Cidm(CidmOptions(rank=2))
    assert method.per_prompt and not Cidm(CidmOptions(mixing="rows")).per_prompt
    found = []
    for prompt in ("a <v1a> <v1b> in the snow", "a red <v1a> <v1b> on top of a wooden floor"):
        expected = states_by_hand(tiny, state, prompt)
        with tiny.installed(method, state, ("dog",), (prompt,)):
            w = shares_of_states(tiny, state, ("dog",), (prompt,))
            assert w == pytest.approx(expected, rel=1e-5)
            for layer in learners.layers(tiny, TARGETS):
                mixture = sum(expected[c] * product(state.tensors_of(f"adapter/{c}"), layer) for c in CONCEPTS)
                np.testing.assert_allclose(product(tiny.lora_parameters, layer), 0.8 * mixture, atol=1e-6)
        found.append(w)
    assert found[0]["dog"] != found[1]["dog"]


@given(st.integers(0, 500), st.integers(1, 4), st.integers(1, 9))
def test_shares_of_all_positions_equal_the_formula(seed: int, count: int, positions: int) -> None:
    g = torch.Generator().manual_seed(seed)
    words = {f"c{k}": torch.randn(2, 5, generator=g, dtype=torch.float64) for k in range(count)}
    p = torch.randn(positions, 5, generator=g, dtype=torch.float64)
    powers = {}
    for name, own in words.items():
        largest = [max(float(v @ q / (v.norm() * q.norm())) for q in p) for v in own]
        powers[name] = (sum(largest) / len(largest)) ** 4
    expected = {name: x / sum(powers.values()) for name, x in powers.items()}
    assert shares(words, p) == pytest.approx(expected, rel=1e-9)


def test_without_a_prompt_the_words_are_one_and_without_concepts_all_are_equal(
    tiny: Backbone, three: list[Learned]
) -> None:
    state, method = three[2].state, Cidm(CidmOptions(rank=2))
    with tiny.installed(method, state, ("vase",)):
        w = shares_of_states(tiny, state, ("vase",), ())
        assert w == pytest.approx(shares_of_states(tiny, state, ("vase",), ("<v2a> <v2b>",)))
        assert shares_of_states(tiny, state, (), ()) == pytest.approx(dict.fromkeys(CONCEPTS, 1 / 3))
    with pytest.raises(NotDefined, match="for each prompt"):
        method.lora(state, ("vase",))


# What is learned and carried


def test_every_task_is_learned_on_the_untouched_model(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    """Without consolidation, task 2 is what it is alone, but for its words' names."""
    after = learn(Cidm, tiny, make_task, 2, three[0].state, consolidation_weight=0).state
    alone = learn(Cidm, tiny, make_task, 2, None, consolidation_weight=0).state
    for name, tensor in alone.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, atol=1e-6, rtol=1e-5)
    kept = three[1].state.tensors_of("adapter/vase")
    assert any(not torch.allclose(after.tensors_of("adapter/vase")[k], v, atol=1e-4) for k, v in kept.items())


def test_one_word_starts_at_random_and_one_as_the_noun(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny, "dog", 1)
    still = learn(Cidm, tiny, make_task, 1, None, token_learning_rate=0).state.tensors["token/dog"]
    assert torch.equal(still[0], tiny.random_embedding(task.generator("word")))
    assert torch.equal(still[1], tiny.word_embedding("dog"))
    moved = learn(Cidm, tiny, make_task, 1, None, steps=1).state.tensors["token/dog"]
    assert ((moved - still).abs().amax(1) > 5e-3).all()  # both


def test_the_state_keeps_every_lora_and_every_word_bit_for_bit(tiny: Backbone, three: list[Learned]) -> None:
    sides = {f"{layer}.{side}" for layer in learners.layers(tiny, TARGETS) for side in ("lora_A", "lora_B")}
    for number, learned in enumerate(three, 1):
        seen = CONCEPTS[:number]
        expected = {f"adapter/{c}/{side}" for c in seen for side in sides} | {f"token/{c}" for c in seen}
        assert learned.state.tensors.keys() == expected and learned.state.concepts == list(seen)
        assert learned.state.tensors[f"token/{seen[-1]}"].shape == (2, 16)
        sizes = [sum(tiny.denoiser.get_parameter(f"{n}.weight").shape) for n in learners.layers(tiny, TARGETS)]
        assert learned.trained == 2 * sum(sizes) + 2 * 16
    for before, after in itertools.pairwise(three):
        assert all(torch.equal(after.state.tensors[k], v) for k, v in before.state.tensors.items())


def test_all_shares_are_of_the_first_concept_when_it_is_alone(three: list[Learned]) -> None:
    state: State = three[0].state
    lora = Cidm(CidmOptions(mixing="rows")).lora(state, ("dog",))
    for name, factor in state.tensors_of("adapter/dog").items():
        torch.testing.assert_close(lora[name], factor)
