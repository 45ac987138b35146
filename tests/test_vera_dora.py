"""VeRA and DoRA against their equations by loops, as adapters and as what dcscore trains, carries, draws and exports."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from learners import SMALL, TARGETS, Tensors, change, layers, learn, rows_stay, tasks
from test_adapters import INPUTS, LAYERS, Layers, seeded
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.adapters import add_lora, inner_name, remove_lora
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.baselines.dcscore import DCScore
from cpbench.errors import UserError
from cpbench.learning import training
from cpbench.method import State

KINDS = ("vera", "dora")
VARIANTS = ("ewc", "ewc-dc", "dsc", "dsc-ewc", "dsc-ewc-dc")
ONE = {"steps": 1, "batch_size": 1, "dsc_steps": 1, "fisher_samples": 1, "candidates": 3, "dsc_learning_rate": 1e-2}
SHAPES = {"low": (4, 6), "wide": (3, 9), "high": (7, 5)}  # out, in


class Linears(nn.Module):
    """Layers of which none is both the widest and the highest."""

    def __init__(self):
        super().__init__()
        for name, (out, width) in SHAPES.items():
            setattr(self, name, nn.Linear(width, out, bias=name != "low"))
        for p in self.parameters():
            nn.init.normal_(p, generator=seeded(0))
        self.requires_grad_(False)


def root_of(kind: str) -> tuple[nn.Module, tuple[str, ...]]:
    return (Linears(), tuple(SHAPES)) if kind == "vera" else (Layers(), LAYERS)


def input_of(name: str) -> torch.Tensor:
    return torch.randn(INPUTS.get(name) or (2, SHAPES[name][1]), generator=seeded(9))


def moved(factors: Tensors, seed: int = 1) -> Tensors:
    """Each factor some way off, and nowhere zero."""
    g = seeded(seed)
    return {k: v.detach().cpu() + 0.5 + torch.rand(v.shape, generator=g) for k, v in factors.items()}


def by_loops_vera(b: np.ndarray, B: np.ndarray, d: np.ndarray, A: np.ndarray, width: int) -> np.ndarray:
    """(diag(b) B diag(d) A)_ij = sum_r b_i B_ir d_r A_rj, of A and B the first columns and rows that the layer has."""
    out = np.zeros((len(b), width))
    for i in range(len(b)):
        for j in range(width):
            for r in range(len(d)):
                out[i, j] += b[i] * B[i, r] * d[r] * A[r, j]
    return out


def by_loops_dora(W: np.ndarray, A: np.ndarray, B: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Row i of m (W + B A) / || W + B A ||, the norm of one output's weights."""
    flat, A, B, out = W.reshape(len(W), -1), A.reshape(len(A), -1), B.reshape(len(B), -1), []
    for i in range(len(W)):
        v = flat[i].copy()
        for r in range(len(A)):
            v += B[i, r] * A[r]
        out.append(m.reshape(-1)[i] * v / sum(x * x for x in v) ** 0.5)
    return np.array(out).reshape(W.shape)


def expected(
    kind: str, values: Tensors, pristine: dict[str, np.ndarray], A: torch.Tensor, B: torch.Tensor
) -> dict[str, np.ndarray]:
    """The weights of every layer by loops, float64; A, B: VeRA's."""
    v, found = {k: x.detach().double().numpy() for k, x in values.items()}, {}
    for name, W in pristine.items():
        own = [v[f"{name}.{side}"] for side in adapters.TRAINED[kind]]
        if kind == "vera":
            b, d = own
            found[name] = W + by_loops_vera(b, B.double().numpy(), d, A.double().numpy(), W.shape[1])
        else:
            found[name] = by_loops_dora(W, *own)
    return found


# As adapters


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3])
def test_a_layer_answers_as_one_of_the_equations_weight(kind: str, rank: int) -> None:
    wrapped, names = root_of(kind)
    factors = add_lora(wrapped, list(names), rank, seeded(0), adapter_type=kind, seed=5)
    values = moved(factors)
    with torch.no_grad():
        for k, factor in factors.items():
            factor.copy_(values[k])
    plain, _ = root_of(kind)
    pristine = {n: plain.get_submodule(n).weight.double().numpy() for n in names}
    A, B = adapters.projections(5, rank, 9, 7)
    for name, weight in expected(kind, values, pristine, A, B).items():
        layer = plain.get_submodule(name)
        before = layer(input_of(name))
        layer.weight.data = torch.from_numpy(weight).float()
        answer = wrapped.get_submodule(name)(input_of(name))
        torch.testing.assert_close(answer, layer(input_of(name)), atol=1e-4, rtol=1e-4)
        assert float((answer - before).detach().abs().max()) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_one_changes_nothing_and_all_of_it_is_trained(kind: str) -> None:
    plain, names = root_of(kind)
    wrapped, _ = root_of(kind)
    factors = add_lora(wrapped, list(names), 3, seeded(0), adapter_type=kind)
    for name in names:
        x = input_of(name)
        assert torch.equal(wrapped.get_submodule(name)(x), plain.get_submodule(name)(x))
    trainable = {n: p for n, p in wrapped.named_parameters() if p.requires_grad}
    assert {inner_name(k): id(v) for k, v in factors.items()} == {n: id(p) for n, p in trainable.items()}
    (sum(wrapped.get_submodule(n)(input_of(n)).square().sum() for n in names)).backward()
    started = {k: bool(v.grad.any()) for k, v in factors.items()}
    waiting = ("lora_A", "vera_lambda_d")  # the other side is zero
    assert started == {k: not k.endswith(waiting) for k in factors}


@pytest.mark.parametrize("kind", KINDS)
def test_it_comes_from_its_arguments_alone_and_leaves_the_global_generators(kind: str) -> None:
    def made(world: int, seed: int = 0) -> tuple[Tensors, Tensors]:
        root, names = root_of(kind)
        torch.manual_seed(world)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        factors = add_lora(root, list(names), 2, seeded(seed), adapter_type=kind, seed=seed)
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
        return {k: v.detach() for k, v in factors.items()}, dict(root.named_buffers())

    with torch.random.fork_rng(devices=[]):
        first, again, other = made(1), made(2), made(1, seed=1)
    for a, b in zip(first, again, strict=True):
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    differing = {k.rpartition(".")[2] for part in (0, 1) for k, v in first[part].items() if (v != other[part][k]).any()}
    assert differing == ({"lora_A"} if kind == "dora" else {"default"})
    assert len(first[1]) == (2 if kind == "vera" else 0)  # one A and one B, shared by all layers


@pytest.mark.parametrize("kind", KINDS)
def test_taken_out_nothing_is_left(kind: str) -> None:
    root, names = root_of(kind)
    before, attributes = {**dict(root.named_modules()), **dict(root.named_parameters())}, set(vars(root))
    originals = {name: root.get_submodule(name) for name in names}
    add_lora(root, list(names), 2, seeded(0), adapter_type=kind)
    assert not isinstance(root.get_submodule(names[0]), nn.Linear)
    remove_lora(root, originals)
    after = {**dict(root.named_modules()), **dict(root.named_parameters())}
    assert list(after) == list(before) and all(after[n] is before[n] for n in before)
    assert set(vars(root)) == attributes and not list(root.buffers())


def test_projections_are_uniform_and_kaimings() -> None:
    A, B = adapters.projections(3, 64, 400, 300)
    assert A.shape == (64, 400) and B.shape == (300, 64)
    for x, fan_in in ((A, 400), (B, 64)):
        bound = (6 / fan_in) ** 0.5
        assert 0.99 * bound < float(x.abs().max()) <= bound
        assert abs(float(x.mean())) < 0.02 * bound and float(x.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not torch.equal(A, adapters.projections(4, 64, 400, 300)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_beside_layers_in_half_precision_it_is_in_float32(kind: str) -> None:
    root, names = root_of(kind)
    root.to(torch.bfloat16)
    factors = add_lora(root, list(names), 2, seeded(0), adapter_type=kind)
    assert {v.dtype for v in (*factors.values(), *root.buffers())} == {torch.float32}
    for name in names if kind == "dora" else ():
        W = root.get_submodule(name).base_layer.weight.double().numpy().reshape(len(factors[f"{name}.lora_B"]), -1)
        m = factors[f"{name}.lora_magnitude_vector"].detach().flatten()
        assert m.tolist() == pytest.approx([sum(x * x for x in row) ** 0.5 for row in W], rel=1e-6)
    values = moved(factors)
    fresh, _ = root_of(kind)
    add_lora(fresh, list(names), 2, values=values, adapter_type=kind)
    root, _ = root_of(kind)
    add_lora(root.to(torch.bfloat16), list(names), 2, values=values, adapter_type=kind)
    for name in names:
        x = input_of(name)
        with torch.autocast("cpu", torch.bfloat16):
            half = root.get_submodule(name)(x.bfloat16())
        whole = fresh.get_submodule(name)(x)
        assert float((half - whole).detach().abs().max()) < 0.03 * float(whole.detach().abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_backbone_predicts_as_with_other_factors_put_in_and_is_restored(tiny: Backbone, kind: str) -> None:
    before, plain_hash = fingerprint(tiny), tiny.installed_hash()
    g = seeded(3)
    given = torch.randn(2, *tiny.latent_shape, generator=g), torch.tensor([10, 700]), tiny.encode_prompts(["a", "b"])
    with torch.no_grad():
        plain = tiny.predict(*given)
        factors = tiny.add_lora(2, TARGETS, seeded(0), adapter_type=kind, seed=1)
        others = moved(factors)
        told = tiny.predict(*given, others)
        assert torch.equal(tiny.predict(*given), plain)  # a teacher leaves the student as it was
        hashes = [plain_hash, tiny.installed_hash()]
        tiny.restore()
        tiny.add_lora(2, TARGETS, values=others, adapter_type=kind, seed=1)
        torch.testing.assert_close(tiny.predict(*given), told)
        assert float((told - plain).abs().max()) > 0.01
        hashes.append(tiny.installed_hash())
    tiny.restore()
    if kind == "vera":
        tiny.add_lora(2, TARGETS, values=others, adapter_type=kind, seed=2)
        hashes.append(tiny.installed_hash())
        tiny.restore()
    assert len(set(hashes)) == len(hashes)
    assert fingerprint(tiny) == before and tiny.installed_hash() == plain_hash


# In dcscore


@pytest.fixture(scope="module")
def learned(_loaded: Callable[[str], Backbone], tiny_folder: Path, make_task: Callable) -> Callable:
    """Three tasks of the whole method with an adapter, learned once, and VeRA's projections after every step."""
    kept: dict[str, tuple] = {}

    def get(kind: str) -> tuple:
        if kind not in kept:
            backbone, seen, so_far = _loaded(str(tiny_folder)), [], []

            def look(phase: str, step: int) -> None:
                seen.append(dict(backbone.denoiser.named_buffers()))

            for number in (1, 2, 3):
                before = so_far[-1].state if so_far else None
                chosen = {**ONE, "adapter": kind, "learning_rate": 0.1, "dsc_learning_rate": 0.02}
                so_far.append(learn(DCScore, backbone, make_task, number, before, look, **chosen))
            kept[kind] = so_far, seen
        return kept[kind]

    return get


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_trains_and_carries_each_adapter(
    tiny: Backbone, make_task: Callable, variant: str, kind: str
) -> None:
    before = fingerprint(tiny)
    found = tasks(DCScore, tiny, make_task, 2, variant=variant, adapter=kind, **ONE)
    assert fingerprint(tiny) == before
    shapes = {n: tiny.denoiser.get_submodule(n).weight.shape for n in layers(tiny)}
    assert len(shapes) == 8 * sum(n.endswith("attn1") for n, _ in tiny.denoiser.named_modules()) > 0
    rank, width = SMALL["rank"], tiny.word_embedding("dog").numel()
    if kind == "vera":
        count = sum(out + rank for out, _ in shapes.values())
    else:
        count = sum(rank * (wide + out) + out for out, wide in shapes.values())
    names = {f"{n}.{side}" for n in shapes for side in adapters.TRAINED[kind]}
    for number, one in enumerate(found, 1):
        assert one.trained == count + width
        pool = ("dog", "vase")[:number] if "dsc" in variant else (("dog", "vase")[number - 1],)
        wanted = {f"adapter/{c}/{n}" for c in pool for n in names} | {f"token/{c}" for c in ("dog", "vase")[:number]}
        wanted |= {f"fisher/{n}" for n in names if "ewc" in variant}
        assert one.state.tensors.keys() == wanted
        assert sum(v.numel() for v in one.state.tensors_of(f"adapter/{pool[-1]}").values()) == count
    first, second = (one.state.tensors_of(f"adapter/{c}") for one, c in zip(found, ("dog", "vase"), strict=True))
    assert not any(torch.equal(first[n], second[n]) for n in names if not n.endswith("vera_lambda_d"))
    rows_stay(found)
    if "ewc" in variant:
        F = found[1].state.tensors_of("fisher")
        assert all(float(v.min()) >= 0 for v in F.values())
        assert float(torch.cat([v.flatten() for v in F.values()]).mean()) == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_installed_is_the_equation(tiny: Backbone, learned: Callable, kind: str) -> None:
    so_far, seen = learned(kind)
    state = so_far[-1].state
    pristine = {n: tiny.denoiser.get_submodule(n).weight.detach().double().numpy() for n in layers(tiny)}
    A, B = seen[-1].values() if kind == "vera" else (None, None)
    wanted = expected(kind, state.tensors_of("adapter/dog2"), pristine, A, B)
    method = DCScore(DCScore.Options(**SMALL, adapter=kind))
    found = change(tiny, method, state)
    for name, W in pristine.items():
        np.testing.assert_allclose(W + found[name], wanted[name], atol=2e-6, rtol=1e-4)
        assert np.abs(found[name]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_installed_draws_as_what_was_trained(tiny: Backbone, learned: Callable, kind: str) -> None:
    """The UNet with peft's adapter in it, as training left it, against the UNet that is drawn with."""
    state = learned(kind)[0][-1].state
    g = seeded(3)
    given = torch.randn(2, *tiny.latent_shape, generator=g), torch.tensor([10, 700]), tiny.encode_prompts(["a", "b"])
    seed = state.facts["vera"]["seed"] if kind == "vera" else 0
    with torch.no_grad():
        plain = tiny.predict(*given)
        tiny.add_lora(2, TARGETS, values=state.tensors_of("adapter/dog2"), adapter_type=kind, seed=seed)
        trained = tiny.predict(*given)
        tiny.restore()
        method = DCScore(DCScore.Options(**SMALL, adapter=kind))
        with tiny.installed(method, state, ("dog",)):
            torch.testing.assert_close(tiny.predict(*given), trained, atol=1e-5, rtol=1e-4)
    assert float((trained - plain).abs().max()) > 1e-3


def test_projections_are_the_same_in_every_task_and_come_from_the_runs_seed(
    tiny: Backbone, make_task: Callable, learned: Callable
) -> None:
    so_far, seen = learned("vera")
    assert len(seen) > 6
    for buffers in seen:
        assert list(buffers) == list(seen[0]) and len(buffers) == 2
        assert all(torch.equal(buffers[k], v) for k, v in seen[0].items())
    seeds = {one.state.facts["vera"]["seed"] for one in so_far}
    assert len(seeds) == 1 and all(one.state.facts["vera"] == so_far[0].state.facts["vera"] for one in so_far)
    assert not any("vera_A" in name or "vera_B" in name for one in so_far for name in one.state.tensors)
    other = DCScore(DCScore.Options(**SMALL | ONE, adapter="vera", variant="dsc"))
    for seed in (0, 1):
        state = other.learn(tiny, make_task(tiny, "vase", 1, seed=seed), State())
        tiny.restore()
        assert (state.facts["vera"]["seed"] in seeds) is (seed == 0)  # whatever the concept


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_was_saved_draws_the_same(tiny: Backbone, learned: Callable, tmp_path: Path, kind: str) -> None:
    state, method = learned(kind)[0][-1].state, DCScore(DCScore.Options(**SMALL, adapter=kind))
    state.save(tmp_path)
    pictures, before = [], fingerprint(tiny)
    wanted = [SampleRequest("a photo of a <v1> dog", 0, "dog", "a photo of a {}", k) for k in (0, 1)]
    for each in (state, State.load(tmp_path)):
        with tiny.installed(method, each, ("dog",)):
            pictures.append((tiny.installed_hash(), generate(tiny, wanted, Sampler(3, 4.0))))
        assert fingerprint(tiny) == before
    (first, ours), (second, again) = pictures
    assert first == second and np.array_equal(ours, again)
    plain = generate(
        tiny, [SampleRequest("a photo of a dog", 0, "dog", "a photo of a {}", k) for k in (0, 1)], Sampler(3, 4.0)
    )
    assert np.abs(ours.astype(float) - plain).max() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_teachers_and_penalty_are_those_of_the_adapter(learned: Callable, kind: str) -> None:
    """Teacher 1 is the student before its first step, teacher 2 is not; the penalty begins at zero and bites after DSC."""
    for one in learned(kind)[0][1:]:
        (train,), (dsc,) = one.phase("train"), one.phase("dsc")
        assert train["ewc"] == 0 and dsc["ewc"] > 0
        assert dsc["noise_current"] == pytest.approx(0, abs=1e-10) and dsc["noise_past"] > 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_is_of_the_vectors_too(tiny: Backbone, make_task: Callable, learned: Callable, kind: str) -> None:
    """Plain EWC, a draw by hand: the squared slope of the error, over its mean."""
    before = learned(kind)[0][0].state
    before = State({k: v for k, v in before.tensors.items() if not k.startswith("fisher/")}, before.facts)
    chosen = {**ONE, "fisher_samples": 2, "adapter": kind, "variant": "ewc"}
    after = learn(DCScore, tiny, make_task, 2, before, **chosen).state
    for n, concept in enumerate(after.concepts, 1):
        tiny.add_token(f"<v{n}>", after.tensors[f"token/{concept}"])
    seed = after.facts["vera"]["seed"] if kind == "vera" else 0
    phi = tiny.add_lora(2, TARGETS, values=after.tensors_of("adapter/vase"), adapter_type=kind, seed=seed)
    total = {k: torch.zeros_like(v) for k, v in phi.items()}
    for batch in training.batches(tiny, make_task(tiny, "vase", 2), 2, 1, "fisher"):
        words = tiny.encode_prompts([batch.template.replace("{}", "<v2> vase")])
        error = ((tiny.denoiser(batch.noisy, batch.timesteps, words).sample - batch.noise) ** 2).mean()
        for k, slope in zip(phi, torch.autograd.grad(error, list(phi.values())), strict=True):
            total[k] += slope**2 / 2
    mean = torch.cat([v.flatten() for v in total.values()]).mean()
    for k, v in total.items():
        torch.testing.assert_close(after.tensors[f"fisher/{k}"], v / mean, rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("targets", "odd", "use"),
    [
        (["to_q", "conv1", "conv2"], "conv1, conv2", "[to_q]"),
        (["conv_in"], "conv_in", "[attention]"),
    ],
)
def test_vera_on_convolutions_is_refused_with_what_to_set(
    tiny: Backbone, targets: list[str], odd: str, use: str
) -> None:
    DCScore(DCScore.Options(target_modules=targets, adapter="dora")).check(tiny)
    DCScore(DCScore.Options(adapter="vera")).check(tiny)
    with pytest.raises(UserError) as caught:
        DCScore(DCScore.Options(target_modules=targets, adapter="vera")).check(tiny)
    assert f"adapter=vera is for linear layers, and target_modules has convolutions ({odd})" in str(caught.value)
    assert f"--set 'target_modules={use}'" in str(caught.value)


def test_dora_on_convolutions_learns_and_installs_them(tiny: Backbone, make_task: Callable) -> None:
    chosen = {**ONE, "adapter": "dora", "variant": "ewc", "target_modules": ("attn2.to_k", "conv1")}
    state = learn(DCScore, tiny, make_task, 1, None, **chosen).state
    factors = {k: v.double().numpy() for k, v in state.tensors_of("adapter/dog").items()}
    named = {n for n, _ in tiny.denoiser.named_modules() if n.endswith(("attn2.to_k", "conv1"))}
    assert {k.rpartition(".")[0] for k in factors} == named and any(n.endswith("conv1") for n in named)
    pristine = {n: tiny.denoiser.get_submodule(n).weight.detach().double().numpy() for n in named}
    method = DCScore(DCScore.Options(**{**SMALL, **chosen}))
    with tiny.installed(method, state, ("dog",)):
        for name, W in pristine.items():
            wanted = by_loops_dora(W, *(factors[f"{name}.{side}"] for side in adapters.TRAINED["dora"]))
            found = tiny.denoiser.get_submodule(name).weight.detach().double().numpy()
            np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-5)
            assert np.abs(found - W).max() > 1e-4
