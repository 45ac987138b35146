"""Adapters against the dense computation they stand for: bigger tables, W + B A, and no trace when taken out."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.adapters import add_lora, inner_name, matching_modules, put_at, remove_lora
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.vocabulary import TokenEmbeddings

WORDS, WIDTH = 7, 5


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_and_table(extra: int, seed: int = 0) -> tuple[TokenEmbeddings, nn.Embedding]:
    """TokenEmbeddings with `extra` rows, and one plain embedding that holds the same values."""
    values = torch.randn(WORDS + extra, WIDTH, generator=seeded(seed))
    extras = {f"v{i + 1}": nn.Parameter(values[WORDS + i].clone()) for i in range(extra)}
    rows = TokenEmbeddings(nn.Embedding.from_pretrained(values[:WORDS].clone()), extras)
    return rows, nn.Embedding.from_pretrained(values.clone(), freeze=False)


class Layers(nn.Module):
    """A linear layer without and with bias, and convolutions with stride, padding and a kernel of 1."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.to_q = nn.Linear(6, 4, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(6, 3), nn.Identity()])
        self.conv = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(4, 5, 1)
        for p in self.parameters():
            nn.init.normal_(p, generator=seeded(seed))
        self.requires_grad_(False)


LAYERS = ("to_q", "to_out.0", "conv", "point")
INPUTS = {"to_q": (2, 6), "to_out.0": (2, 3, 6), "conv": (2, 4, 7, 5), "point": (2, 4, 3, 3)}


# Token rows


@given(st.integers(0, 4), st.lists(st.integers(0, WORDS + 3), min_size=1, max_size=12), st.integers(0, 2**32))
def test_rows_look_up_as_one_bigger_table(extra: int, ids: list[int], seed: int) -> None:
    rows, table = rows_and_table(extra, seed)
    asked = torch.tensor([[i for i in ids if i < WORDS + extra] or [0]])
    assert torch.equal(rows(asked), table(asked))


@given(st.lists(st.integers(0, WORDS + 1), min_size=1, max_size=12))
def test_gradients_reach_only_the_rows_and_are_those_of_the_bigger_table(ids: list[int]) -> None:
    rows, table = rows_and_table(2)
    asked, weights = torch.tensor([ids]), torch.randn(1, len(ids), WIDTH, generator=seeded(1))
    if not any(i >= WORDS for i in ids):
        weights = weights + 0 * rows.token_embeddings["v1"].sum()  # else there is nothing to go back to
    (rows(asked) * weights).sum().backward()
    (table(asked) * weights.detach()).sum().backward()
    for i, row in enumerate(rows.token_embeddings.values()):
        torch.testing.assert_close(row.grad, table.weight.grad[WORDS + i])
    assert rows.table.weight.grad is None
    assert not [n for n, p in rows.named_parameters() if p.requires_grad]  # rows belong to the vocabulary


def test_a_row_that_is_not_in_the_prompt_gets_no_gradient() -> None:
    rows, _ = rows_and_table(3)
    rows(torch.tensor([[0, WORDS + 1, 2]])).sum().backward()
    moved = {name: float(row.grad.abs().sum()) for name, row in rows.token_embeddings.items()}
    assert moved == {"v1": 0.0, "v2": float(WIDTH), "v3": 0.0}


def test_rows_keep_their_order() -> None:
    values = {name: nn.Parameter(torch.full((WIDTH,), float(i))) for i, name in enumerate(["v10", "v2", "v1"])}
    rows = TokenEmbeddings(nn.Embedding(WORDS, WIDTH), values)
    assert rows(torch.arange(WORDS, WORDS + 3)).mean(1).tolist() == [0.0, 1.0, 2.0]


def test_a_table_looks_up_its_part_of_a_row() -> None:
    table = nn.Embedding(WORDS, WIDTH)
    rows = TokenEmbeddings(table, {"v1": nn.Parameter(torch.arange(3.0 * WIDTH))}, slice(WIDTH, 2 * WIDTH))
    assert rows(torch.tensor([WORDS]))[0].tolist() == list(range(WIDTH, 2 * WIDTH))
    assert rows.weight is table.weight


# LoRA


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_the_change_of_the_weights_is_b_times_a(rank: int) -> None:
    """Output of each wrapped layer against the plain layer of weight W + B A, computed here: alpha is the rank."""
    plain, wrapped, g = Layers(), Layers(), seeded(rank)
    factors = add_lora(wrapped, list(LAYERS), rank, seeded(0))
    values = {name: torch.randn(f.shape, generator=g) for name, f in factors.items()}
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(values[name])
    for name in LAYERS:
        a, b = values[f"{name}.lora_A"], values[f"{name}.lora_B"]
        assert (a.shape[0], b.shape[1]) == (rank, rank)
        layer = plain.get_submodule(name)
        with torch.no_grad():
            layer.weight += (b.flatten(1) @ a.flatten(1)).view(layer.weight.shape)
        x = torch.randn(INPUTS[name], generator=g)
        torch.testing.assert_close(wrapped.get_submodule(name)(x), layer(x), atol=1e-4, rtol=1e-5)


def test_saved_factors_come_back() -> None:
    values = {k: v.detach().clone() for k, v in add_lora(Layers(), list(LAYERS), 2, seeded(0)).items()}
    values = {k: v + 1 for k, v in values.items()}
    factors = add_lora(Layers(), list(LAYERS), 2, values=values)
    assert list(factors) == list(values)
    assert all(torch.equal(factors[k], values[k]) for k in values)


def test_a_saved_factor_that_is_missing_is_an_error() -> None:
    values = add_lora(Layers(), list(LAYERS), 2, seeded(0))
    del values["conv.lora_B"]
    with pytest.raises(KeyError, match="conv.lora_B"):
        add_lora(Layers(), list(LAYERS), 2, values=values)


def test_a_new_lora_changes_nothing_and_is_trainable() -> None:
    plain, wrapped = Layers(), Layers()
    factors = add_lora(wrapped, list(LAYERS), 3, seeded(0))
    for name in LAYERS:
        x = torch.randn(INPUTS[name], generator=seeded(4))
        assert torch.equal(wrapped.get_submodule(name)(x), plain.get_submodule(name)(x))
    trainable = {id(p) for p in wrapped.parameters() if p.requires_grad}
    assert trainable == {id(f) for f in factors.values()}


def test_a_starts_uniform_within_one_over_the_root_of_the_fan_in() -> None:
    """Kaiming's bound with gain 1/sqrt(3), as torch's own Linear and Conv2d begin; B is zero."""
    root = nn.Module()
    root.wide, root.conv = nn.Linear(400, 3), nn.Conv2d(64, 3, 3)
    factors = add_lora(root, ["wide", "conv"], 16, seeded(0))
    for name, fan_in in (("wide", 400), ("conv", 64 * 9)):
        a, bound = factors[f"{name}.lora_A"].detach(), fan_in**-0.5
        assert bound * 0.99 < float(a.abs().max()) <= bound
        assert abs(float(a.mean())) < 0.03 * bound
        assert float(a.std()) == pytest.approx(bound / 3**0.5, rel=0.03)
        assert not factors[f"{name}.lora_B"].any()


def test_factors_depend_on_the_generator_alone() -> None:
    def factors(seed: int, world: int) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(world)
            return add_lora(Layers(), list(LAYERS), 2, seeded(seed))

    first, again, other = factors(1, 10), factors(1, 11), factors(2, 10)
    for name in first:
        assert torch.equal(first[name], again[name])
        assert name.endswith("lora_B") or not torch.equal(first[name], other[name])


def test_the_global_generators_do_not_move() -> None:
    root = Layers()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    add_lora(root, list(LAYERS), 2, seeded(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_taken_out_nothing_is_left() -> None:
    root = Layers()
    before = {**dict(root.named_modules()), **dict(root.named_parameters())}
    attributes = set(vars(root))
    originals = {name: root.get_submodule(name) for name in LAYERS}
    add_lora(root, list(LAYERS), 2, seeded(0))
    assert not isinstance(root.to_q, nn.Linear)
    remove_lora(root, originals)
    after = {**dict(root.named_modules()), **dict(root.named_parameters())}
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert set(vars(root)) == attributes


def test_the_inner_name_is_where_peft_keeps_the_factor() -> None:
    root = Layers()
    factors = add_lora(root, list(LAYERS), 2, seeded(0))
    for name, factor in factors.items():
        assert root.get_parameter(inner_name(name)) is factor
    inner = {inner_name(name) for name in factors}
    assert inner == {n for n, p in root.named_parameters() if p.requires_grad} and len(inner) == len(factors)


# Single parameters


@pytest.mark.parametrize("name", ["to_q.weight", "to_out.0.weight", "to_out.0.bias", "conv.weight", "scale"])
def test_a_parameter_that_is_set_takes_the_place_of_the_other(name: str) -> None:
    root = Layers()
    root.scale = nn.Parameter(torch.ones(3), requires_grad=False)
    before = dict(root.named_parameters())
    new = nn.Parameter(before[name].detach() * 2)
    put_at(root, name, new)
    after = dict(root.named_parameters())
    assert list(after) == list(before) and name in after
    assert after[name] is new
    assert all(after[n] is before[n] for n in before if n != name)


def test_a_layer_computes_with_the_parameter_that_was_set() -> None:
    root, x = Layers(), torch.randn(INPUTS["to_out.0"], generator=seeded(1))
    layer = root.get_submodule("to_out.0")
    weight = torch.randn(layer.weight.shape, generator=seeded(2))
    put_at(root, "to_out.0.weight", nn.Parameter(weight))
    torch.testing.assert_close(layer(x), x @ weight.T + layer.bias)


def test_a_parameter_of_a_layer_that_is_not_there_cannot_be_set() -> None:
    root = Layers()
    with pytest.raises(AttributeError, match="nowhere"):
        put_at(root, "to_out.nowhere.weight", nn.Parameter(torch.ones(1)))


# Which layers


def test_every_attention_projection_of_the_unet_is_wrapped(tiny: Backbone) -> None:
    from diffusers.models.attention import BasicTransformerBlock
    from peft.tuners.lora import LoraLayer

    blocks = [m for m in tiny.denoiser.modules() if isinstance(m, BasicTransformerBlock)]
    expected = {id(p) for b in blocks for a in (b.attn1, b.attn2) for p in (a.to_q, a.to_k, a.to_v, a.to_out[0])}
    assert len(expected) == 8 * len(blocks) > 0
    found = matching_modules(tiny.denoiser, adapters.ATTENTION)
    assert {id(tiny.denoiser.get_submodule(n)) for n in found} == expected and len(found) == len(expected)
    factors = tiny.add_lora(2, adapters.ATTENTION, seeded(0))
    wrapped = [m for m in tiny.denoiser.modules() if isinstance(m, LoraLayer)]
    assert {id(m.base_layer) for m in wrapped} == expected
    assert len(factors) == 2 * len(expected)


def test_targets_match_whole_ends_of_names_of_linear_and_convolution_layers() -> None:
    root = nn.ModuleDict(
        {
            "attn": nn.ModuleDict({"to_k": nn.Linear(2, 2), "also_to_k": nn.Linear(2, 2)}),
            "to_k": nn.Conv2d(1, 1, 1),
            "norm": nn.ModuleDict({"to_k": nn.LayerNorm(2)}),
        }
    )
    assert matching_modules(root, ["to_k"]) == ["attn.to_k", "to_k"]
    assert matching_modules(root, ["attn.to_k", "to_k"]) == ["attn.to_k", "to_k"]
    assert matching_modules(root, ["attn.to_k"]) == ["attn.to_k"]


@pytest.mark.parametrize("missed", ["to_kk", "o_k", "norm", "", "attn"])
def test_a_target_that_matches_nothing_is_named(tiny: Backbone, missed: str) -> None:
    with pytest.raises(ValueError, match="no layer's name ends with") as caught:
        tiny.add_lora(2, ["to_q", missed], seeded(0))
    assert repr(missed) in str(caught.value) and "'to_q'" not in str(caught.value)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["to_q", "to_k", "attn1.to_q", "attn2.to_v", "conv_in", "proj_in"]), unique=True))
def test_matching_is_by_brute_force(targets: list[str]) -> None:
    root = nn.Module()
    for path in ("a.attn1.to_q", "a.attn2.to_q", "a.attn1.to_k", "b.attn2.to_v", "conv_in", "b.proj_in", "c"):
        here = root
        for part in path.split(".")[:-1]:
            here = here._modules.setdefault(part, nn.Module())
        here.add_module(path.split(".")[-1], nn.Linear(1, 1))
    ends = [t.split(".") for t in targets]
    paths = [n.split(".") for n, m in root.named_modules() if isinstance(m, nn.Linear)]
    expected = [".".join(p) for p in paths if any(p[-len(e) :] == e for e in ends)]
    assert matching_modules(root, targets) == expected


# What LoRAs stand for


def random_lora(seed: int, rank: int) -> dict[str, torch.Tensor]:
    """Factors of all layers of `Layers`, named and shaped as `add_lora` makes them."""
    factors = add_lora(Layers(), list(LAYERS), rank, seeded(seed))
    return {k: torch.randn(v.shape, generator=seeded(seed + i)) for i, (k, v) in enumerate(factors.items())}


@pytest.mark.parametrize("ranks", [(2,), (1, 3), (2, 5, 1)])
def test_loras_add_up_whether_as_products_or_side_by_side(ranks: tuple[int, ...]) -> None:
    """Against outputs of layers whose weights are W + sum B A, each product by numpy."""
    loras = [random_lora(100 * i, rank) for i, rank in enumerate(ranks)]
    total, one = adapters.sum_of_products(loras), adapters.side_by_side(loras)
    assert set(total) == set(LAYERS) and one.keys() == loras[0].keys()
    wide = Layers()
    add_lora(wide, list(LAYERS), sum(ranks), values=one)
    for name in LAYERS:
        W = Layers().get_submodule(name).weight
        pairs = [(x[f"{name}.lora_B"].flatten(1).numpy(), x[f"{name}.lora_A"].flatten(1).numpy()) for x in loras]
        expected = sum(B @ A for B, A in pairs).reshape(W.shape)
        np.testing.assert_allclose(total[name].numpy(), expected, rtol=1e-4, atol=1e-5)
        plain, x = Layers().get_submodule(name), torch.randn(INPUTS[name], generator=seeded(7))
        plain.weight.data += torch.from_numpy(expected)
        torch.testing.assert_close(wide.get_submodule(name)(x), plain(x), atol=1e-4, rtol=1e-4)


def test_no_lora_adds_up_to_nothing() -> None:
    assert adapters.products({}) == adapters.sum_of_products([]) == adapters.side_by_side([]) == {}


def test_changes_go_on_top_of_the_weights_of_their_layers_alone(tiny: Backbone) -> None:
    names = matching_modules(tiny.denoiser, ("attn2.to_v", "conv1"))
    before = {n: p.detach().clone() for n, p in tiny.denoiser.named_parameters()}
    changes = {n: torch.randn(before[f"{n}.weight"].shape, generator=seeded(0)) for n in names}
    adapters.add_to_weights(tiny, changes)
    for n, p in tiny.denoiser.named_parameters():
        expected = before[n] + changes.get(n.removesuffix(".weight"), 0) if n.endswith(".weight") else before[n]
        assert torch.equal(p, expected), n
    tiny.restore()
    adapters.add_to_weights(tiny, {})
    assert tiny.weights == {} and all(torch.equal(p, before[n]) for n, p in tiny.denoiser.named_parameters())
