"""C-LoRA: its penalty by brute force, the sum of its products in the weights, and what three tasks leave behind."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import CONCEPTS, Learned, MakeTask

from cpbench.backbones import adapters
from cpbench.backbones.adapters import products
from cpbench.backbones.backbone import Backbone
from cpbench.baselines.clora import CLora, CLoraOptions
from cpbench.learning.lora import forgetting
from cpbench.method import State

Tensors = dict[str, torch.Tensor]
WEIGHT = 1e5
SMALL: dict[str, Any] = {"rank": 2, "steps": 4, "batch_size": 2, "learning_rate": 1e-2, "token_learning_rate": 1e-2}
SMALL |= {"forgetting_weight": WEIGHT}


def learn(*given: Any, **options: Any) -> Learned:
    """`learners.learn` of this method with small options."""
    return learners.learn(CLora, *given, **SMALL | options)


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(CLora, **SMALL)


def keys_and_values(backbone: Backbone) -> list[str]:
    """Key and value projections of every cross-attention, by what they are: they read the words, 16 wide."""
    names = []
    for name, module in backbone.denoiser.named_modules():
        if type(module).__name__ == "Attention" and name.endswith("attn2"):
            assert module.to_k.in_features == module.to_v.in_features == 16
            names += [f"{name}.to_k", f"{name}.to_v"]
    assert len(names) >= 6
    return names


def product_by_loop(factors: Tensors, layer: str) -> np.ndarray:
    """sum_r B[i, r] A[r, j] in the shape of W, (out, in)."""
    A, B = (factors[f"{layer}.{side}"].detach().double().numpy() for side in ("lora_A", "lora_B"))
    out = np.zeros((len(B), A.shape[1]))
    for r in range(len(A)):
        out += np.outer(B[:, r], A[r])
    return out


def past_sum(state: State, concepts: tuple[str, ...], layer: str) -> np.ndarray:
    return np.sum([product_by_loop(state.tensors_of(f"adapter/{c}"), layer) for c in concepts], axis=0)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed: int, layers: int, out: int, width: int, rank: int) -> tuple[Tensors, Tensors]:
    """Past sums by layer and current factors; layers grow, so that they differ in shape."""
    past, factors = {}, {}
    for n in range(layers):
        past[f"up.{n}"] = drawn(seed + 3 * n, out + n, width)
        factors[f"up.{n}.lora_A"] = drawn(seed + 3 * n + 1, rank, width)
        factors[f"up.{n}.lora_B"] = drawn(seed + 3 * n + 2, out + n, rank)
    return past, factors


SHAPES = st.tuples(st.integers(0, 1000), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))

# The penalty


def test_the_penalty_by_hand() -> None:
    past = {"k": torch.tensor([[1.0, -2.0], [0.0, 3.0]]), "v": torch.tensor([[2.0]])}
    now = {"k": torch.tensor([[4.0, 1.0], [5.0, -1.0]]), "v": torch.tensor([[0.5]])}
    assert float(forgetting(past, now)) == (1 * 4) ** 2 + (2 * 1) ** 2 + 0 + (3 * 1) ** 2 + (2 * 0.5) ** 2


@given(SHAPES)
def test_the_penalty_is_summed_over_layers_and_elements(sizes: tuple[int, ...]) -> None:
    past, factors = made(*sizes)
    total = 0.0
    for layer, old in past.items():
        A, B = factors[f"{layer}.lora_A"].tolist(), factors[f"{layer}.lora_B"].tolist()
        for i in range(len(B)):
            for j in range(len(A[0])):
                new = sum(B[i][r] * A[r][j] for r in range(len(A)))
                total += (abs(float(old[i, j])) * new) ** 2
    assert float(forgetting(past, products(factors))) == pytest.approx(total, rel=1e-9)


@given(SHAPES)
def test_its_gradient_is_the_closed_form(sizes: tuple[int, ...]) -> None:
    """With P = B A and G = dL/dP = 2 past^2 P: dL/dA = B^T G, dL/dB = G A^T."""
    past, factors = made(*sizes)
    for factor in factors.values():
        factor.requires_grad_(True)
    forgetting(past, products(factors)).backward()
    for layer, old in past.items():
        A, B = (factors[f"{layer}.{side}"] for side in ("lora_A", "lora_B"))
        G = 2 * old.numpy() ** 2 * product_by_loop(factors, layer)
        np.testing.assert_allclose(A.grad.numpy(), B.detach().numpy().T @ G, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(B.grad.numpy(), G @ A.detach().numpy().T, rtol=1e-9, atol=1e-12)


def test_its_gradient_agrees_with_finite_differences() -> None:
    past, factors = made(5, 2, 2, 3, 2)
    leaves = {k: v.clone().requires_grad_(True) for k, v in factors.items()}
    forgetting(past, products(leaves)).backward()
    step = 1e-6
    for name, factor in factors.items():
        for i in range(factor.numel()):
            ends = []
            for sign in (1, -1):
                moved = {k: v.clone() for k, v in factors.items()}
                moved[name].view(-1)[i] += sign * step
                ends.append(float(forgetting(past, products(moved))))
            slope = float(leaves[name].grad.view(-1)[i])
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-6)


def test_the_product_is_the_change_that_an_installed_lora_makes(tiny: Backbone) -> None:
    """Through the layer itself: its output changes by (A B) x, in the layout of W."""
    (layer, *_) = keys_and_values(tiny)
    x = drawn(0, 5, 16).float()
    plain = tiny.denoiser.get_submodule(layer)(x).detach()
    factors = tiny.add_lora(2, ("attn2.to_k", "attn2.to_v"), torch.Generator().manual_seed(0))
    with torch.no_grad():
        factors[f"{layer}.lora_B"].normal_(generator=torch.Generator().manual_seed(1))
        change = tiny.denoiser.get_submodule(layer)(x) - plain
        found = products(factors)
    assert sorted(found) == sorted(keys_and_values(tiny))
    torch.testing.assert_close(x @ found[layer].T, change, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found[layer].detach().numpy(), product_by_loop(factors, layer), rtol=1e-5, atol=1e-6)


def test_the_product_of_a_convolution_is_the_change_of_its_kernel(tiny: Backbone) -> None:
    x = drawn(0, 2, 8, 5, 5).float()
    layer = next(n for n, m in tiny.denoiser.named_modules() if n.endswith("conv1") and m.in_channels == 8)
    module = tiny.denoiser.get_submodule(layer)
    plain = module(x).detach()
    factors = tiny.add_lora(2, ("conv1",), torch.Generator().manual_seed(0))
    with torch.no_grad():
        factors[f"{layer}.lora_B"].normal_(generator=torch.Generator().manual_seed(1))
        change, kernel = tiny.denoiser.get_submodule(layer)(x) - plain, products(factors)[layer]
    assert kernel.shape == module.weight.shape and kernel.shape[2:] == (3, 3)
    torch.testing.assert_close(torch.nn.functional.conv2d(x, kernel, padding=1), change, atol=1e-4, rtol=1e-4)


# Training


def test_terms_of_each_task(three: list[Learned]) -> None:
    first, *later = three
    assert all(not {"forgetting", "log_penalty"} & set(figures) for figures in first.curve)
    for learned in later:
        pushed = [figures["forgetting"] for figures in learned.curve]
        assert pushed[0] == 0 and all(p > 0 for p in pushed[1:])  # B starts at zero
        assert [f["log_penalty"] for f in learned.curve[1:]] == pytest.approx(np.log(pushed[1:]) - np.log(WEIGHT))
    for learned in three:
        assert [figures["step"] for figures in learned.curve] == list(range(4))
        for figures in learned.curve:  # log_norm and log_penalty are shown, not minimised
            assert figures["denoising"] > 0.1
            assert figures["loss"] == pytest.approx(figures["denoising"] + figures.get("forgetting", 0), rel=1e-6)
        assert np.isfinite([f["log_norm"] for f in learned.curve]).all()


def test_figures_of_a_step_are_those_of_the_factors_it_started_from(
    tiny: Backbone, make_task: MakeTask, three: list[Learned]
) -> None:
    """Task 3 is learned again; after every step the penalty of the next one is worked out by brute force."""
    expected: list[tuple[float, float]] = []
    weights: list[bool] = []
    layers = keys_and_values(tiny)
    past = {layer: past_sum(three[1].state, ("dog", "vase"), layer) for layer in layers}
    pristine = {layer: tiny.denoiser.get_parameter(f"{layer}.weight").double().numpy() for layer in layers}

    def look(phase: str, step: int) -> None:
        now = {layer: product_by_loop(tiny.lora_parameters, layer) for layer in layers}
        penalty = sum(((np.abs(past[layer]) * now[layer]) ** 2).sum() for layer in layers)
        expected.append((WEIGHT * penalty, np.log(sum(np.abs(p).sum() for p in now.values()))))
        for layer in layers:  # W = W_init + past, whatever the step
            below = tiny.weights[f"{layer}.weight"].detach().double().numpy()
            weights.append(np.allclose(below, pristine[layer] + past[layer], rtol=1e-5, atol=1e-7))

    again = learn(tiny, make_task, 3, three[1].state, look=look)
    assert [f["forgetting"] for f in again.curve[1:]] == pytest.approx([p for p, _ in expected[:-1]], rel=1e-4)
    assert [f["log_norm"] for f in again.curve[1:]] == pytest.approx([n for _, n in expected[:-1]], abs=1e-4)
    assert all(weights) and len(weights) == 4 * len(layers)


def test_the_penalty_keeps_new_products_small(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    ends = {}
    for weight in (0.0, 1e12):
        learned = learn(tiny, make_task, 2, three[0].state, steps=12, learning_rate=3e-3, forgetting_weight=weight)
        ends[weight] = learned.curve[-1]["log_norm"]
        assert (learned.curve[-1]["forgetting"] > 0) is (weight > 0)
    assert ends[1e12] < ends[0.0] - 1


def test_evaluations_and_trained_parameters_are_as_foretold(tiny: Backbone, three: list[Learned]) -> None:
    width, rank = 16, 2
    adapter = sum(rank * (width + tiny.denoiser.get_submodule(name).out_features) for name in keys_and_values(tiny))
    for learned in three:
        assert learned.evaluations == 4 * 2
        assert learned.trained == adapter + width


# What is carried and installed


def test_the_state_keeps_the_factors_and_the_row_of_every_task_bit_for_bit(
    tiny: Backbone, three: list[Learned]
) -> None:
    sides = {f"{layer}.{side}" for layer in keys_and_values(tiny) for side in ("lora_A", "lora_B")}
    for number, learned in enumerate(three, 1):
        seen = CONCEPTS[:number]
        assert learned.state.concepts == list(seen)
        expected = {f"adapter/{c}/{side}" for c in seen for side in sides} | {f"token/{c}" for c in seen}
        assert learned.state.tensors.keys() == expected
        assert all(float(v.abs().max()) > 0 for v in learned.state.tensors.values())
    for before, after in ((three[0], three[1]), (three[1], three[2])):
        for name, tensor in before.state.tensors.items():
            assert torch.equal(after.state.tensors[name], tensor), name
    apart = [three[2].state.tensors_of(f"adapter/{c}") for c in CONCEPTS]
    assert not any(torch.equal(apart[i][side], apart[j][side]) for i in range(3) for j in range(i) for side in sides)


def test_installed_weights_are_the_first_ones_plus_all_products(tiny: Backbone, three: list[Learned]) -> None:
    state, layers = three[2].state, keys_and_values(tiny)
    pristine = {name: p.detach().clone() for name, p in tiny.denoiser.named_parameters()}
    for concepts in ((), ("dog",), ("dog2", "vase")):
        with tiny.installed(CLora(), state, concepts):
            for name, parameter in tiny.denoiser.named_parameters():
                layer = name.removesuffix(".weight")
                if layer in layers:
                    expected = pristine[name].double().numpy() + past_sum(state, CONCEPTS, layer)
                    np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
                    assert float((parameter.detach() - pristine[name]).abs().max()) > 1e-3
                else:
                    assert torch.equal(parameter, pristine[name])
            assert tiny.lora_parameters == {}
            for n, concept in enumerate(CONCEPTS, 1):
                assert torch.equal(tiny.token_embeddings[f"v{n}"], state.tensors[f"token/{concept}"])


def test_the_installed_model_is_the_last_lora_on_the_sum_of_the_earlier(tiny: Backbone, three: list[Learned]) -> None:
    """As the UNet was while task 3 was learned: Eq. 2 with its three parts apart."""
    state, layers = three[2].state, keys_and_values(tiny)
    noisy, t = drawn(0, 2, *tiny.latent_shape).float(), torch.tensor([20, 700])

    def output() -> torch.Tensor:
        with torch.no_grad():
            return tiny.denoiser(noisy, t, tiny.encode_prompts(["a photo of a <v3>"]).expand(2, -1, -1)).sample

    with tiny.installed(CLora(), state, ("dog2",)):
        installed = output()
    sums = {f"{n}.weight": torch.from_numpy(past_sum(state, ("dog", "vase"), n)) for n in layers}
    tiny.replace_weights({name: tiny.denoiser.get_parameter(name) + change for name, change in sums.items()})
    for n, concept in enumerate(CONCEPTS, 1):
        tiny.add_token(f"<v{n}>", state.tensors[f"token/{concept}"])
    without = output()
    tiny.add_lora(2, ("attn2.to_k", "attn2.to_v"), values=state.tensors_of("adapter/dog2"))
    torch.testing.assert_close(output(), installed, atol=1e-5, rtol=1e-4)
    assert float((without - installed).abs().max()) > 1e-3


# Words


@pytest.mark.parametrize(("use_class_noun", "said"), [(False, "<v2>"), (True, "<v2> vase")])
def test_the_word_stands_alone_unless_the_noun_is_kept(
    tiny: Backbone,
    make_task: MakeTask,
    three: list[Learned],
    monkeypatch: pytest.MonkeyPatch,
    use_class_noun: bool,
    said: str,
) -> None:
    method = CLora(CLoraOptions(use_class_noun=use_class_noun))
    assert method.phrase("vase", "vase", three[2].state) == said
    prompts: set[str] = set()
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: prompts.update(texts) or encode(texts))
    learn(tiny, make_task, 2, three[0].state, use_class_noun=use_class_noun, batch_size=1)
    assert prompts and prompts <= {f"a photo of a {said}", f"a picture of a {said}", f"a {said}"}


def test_a_word_starts_as_a_random_entry_of_the_vocabulary(tiny: Backbone, make_task: MakeTask) -> None:
    """Mean and spread of every coordinate over 400 seeds, against those of the table."""
    still = learn(tiny, make_task, 1, None, seed=3, token_learning_rate=0, steps=1).state
    task = make_task(tiny)
    starts = torch.stack([tiny.random_embedding(replace(task, seed=s).generator("word")) for s in range(400)])
    assert torch.equal(still.tensors["token/dog"], starts[3])
    table = tiny.text_encoder.get_input_embeddings().weight.detach().double()
    spread = ((table - table.mean(0)) ** 2).mean(0).sqrt()
    z = (starts.double() - table.mean(0)) / spread
    own = torch.randn(16, generator=make_task(tiny, seed=3).generator("word"))
    torch.testing.assert_close(z[3].float(), own, atol=5e-3, rtol=5e-3)  # its standard deviation may divide by n - 1
    assert z.mean(0).abs().max() < 4 / 20  # four standard errors
    assert (z.std(0) - 1).abs().max() < 4 / 28
    assert abs(float(torch.corrcoef(z.T).triu(1).abs().max())) < 0.25  # a draw of its own for each coordinate


def test_a_words_start_depends_on_seed_and_concept(tiny: Backbone, make_task: MakeTask) -> None:
    def start(number: int, seed: int) -> torch.Tensor:
        state = learn(tiny, make_task, number, None, seed=seed, token_learning_rate=0, steps=1).state
        return state.tensors[f"token/{CONCEPTS[number - 1]}"]

    first = start(1, 0)
    assert torch.equal(first, start(1, 0))
    assert not torch.equal(first, start(1, 1)) and not torch.equal(first, start(2, 0))
    assert not torch.equal(first, tiny.word_embedding("dog"))
    moved = learn(tiny, make_task, 1, None, steps=1).state.tensors["token/dog"]
    assert 0 < float((moved - first).abs().max()) < 0.011  # one step of Adam at 1e-2 from there


# End to end


def test_layers_can_be_chosen(tiny: Backbone, make_task: MakeTask) -> None:
    first = learn(tiny, make_task, 1, None, target_modules=adapters.ATTENTION, rank=3).state
    second = learn(tiny, make_task, 2, first, target_modules=adapters.ATTENTION, rank=3)
    assert second.curve[-1]["forgetting"] > 0
    layers = {k.split("/")[2].rpartition(".")[0] for k in first.tensors if k.startswith("adapter/")}
    assert any(n.endswith("attn1.to_out.0") for n in layers) and any(n.endswith("attn2.to_q") for n in layers)
    with tiny.installed(CLora(CLoraOptions(target_modules=adapters.ATTENTION, rank=3)), second.state, ("dog",)):
        assert tiny.weights.keys() == {f"{n}.weight" for n in layers}
