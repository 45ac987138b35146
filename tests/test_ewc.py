"""EWC: its Fishers by other paths to the same gradients, its penalty by loops, and DC scores' plain variant beside it."""

from collections.abc import Callable
from typing import Any

import learners
import numpy as np
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask, Tensors, change, layers, learn, product, rows_stay, tasks

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.dcscore import DCScore
from cpbench.baselines.ewc import Ewc, EwcOptions
from cpbench.errors import UserError
from cpbench.learning import training
from cpbench.method import State

WAYS = [(fisher, space) for fisher in ("online", "per-task") for space in ("factors", "product")]
SMALL: dict[str, Any] = {"fisher_samples": 3, "ewc_weight": 0.05}
Three = Callable[[str, str], list[Learned]]


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Three:
    return lambda fisher, space: three_tasks(Ewc, fisher=fisher, space=space, **SMALL)


def coordinates(factors: Tensors, space: str) -> dict[str, np.ndarray]:
    """What is weighed: A and B, or their products by loops."""
    if space == "factors":
        return {k: v.detach().double().numpy() for k, v in factors.items()}
    return {n: product(factors, n) for n in dict.fromkeys(k.rpartition(".")[0] for k in factors)}


def fishers_of(state: State, way: tuple[str, str]) -> list[Tensors]:
    return (
        [state.tensors_of("fisher")]
        if way[0] == "online"
        else [state.tensors_of(f"fisher/{c}") for c in state.concepts]
    )


# Beside DC scores


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_it_is_the_plain_variant_of_dc_scores(tiny: Backbone, make_task: MakeTask, decay: float) -> None:
    """The backbone predicts noise, so that the loss of training is the error of the classifier."""
    given = SMALL | {"fisher_decay": decay}
    mine, theirs = tasks(Ewc, tiny, make_task, **given), tasks(DCScore, tiny, make_task, variant="ewc", **given)
    for here, there in zip(mine, theirs, strict=True):
        assert here.evaluations == there.evaluations == 3 * 2 + 3
        same = {"token": "token", "fisher": "fisher", "adapter": f"adapter/{here.state.concepts[-1]}"}
        for part, other in same.items():
            found, expected = here.state.tensors_of(part), there.state.tensors_of(other)
            assert found.keys() == expected.keys()
            for k, v in expected.items():
                torch.testing.assert_close(found[k], v, atol=1e-5, rtol=1e-3)
    assert [f["ewc"] for f in mine[2].phase("train")] == pytest.approx(
        [f["ewc"] for f in theirs[2].phase("train")], rel=1e-3
    )


# The Fisher


@pytest.mark.parametrize("targets", [("to_q", "to_out.0"), ("conv1",)])
def test_the_fisher_of_the_product_is_that_of_merged_weights(
    tiny: Backbone, make_task: MakeTask, targets: tuple[str, ...]
) -> None:
    """With W + A B as one weight and no LoRA, the gradient is that of the weight itself; mean 1 over all of them."""
    learned = learn(Ewc, tiny, make_task, 1, None, space="product", target_modules=targets, fisher_samples=3)
    factors, names = learned.state.tensors_of("adapter"), layers(tiny, targets)
    merged = {f"{n}.weight": torch.from_numpy(product(factors, n)).float() for n in names}
    W = tiny.replace_weights({k: tiny.denoiser.get_parameter(k) + v for k, v in merged.items()})
    tiny.add_token("<v1>", learned.state.tensors["token/dog"])
    tiny.train_only(W.values())
    sums = {k: torch.zeros_like(v, dtype=torch.float64) for k, v in W.items()}
    for batch in training.batches(tiny, make_task(tiny, "dog", 1), 3, 1, "fisher"):
        words = tiny.encode_prompts([batch.template.replace("{}", "<v1> dog")])
        loss = ((tiny.denoiser(batch.noisy, batch.timesteps, words).sample - batch.noise) ** 2).mean()
        for k, slope in zip(W, torch.autograd.grad(loss, list(W.values())), strict=True):
            sums[k] += slope.double() ** 2
    mean = torch.cat([v.flatten() for v in sums.values()]).mean()
    assert learned.state.tensors_of("fisher").keys() == set(names)
    for n in names:
        expected = (sums[f"{n}.weight"] / mean).float()
        torch.testing.assert_close(learned.state.tensors[f"fisher/{n}"], expected, rtol=2e-3, atol=1e-4)


def test_the_fisher_of_the_product_agrees_with_finite_differences(tiny: Backbone, make_task: MakeTask) -> None:
    """The steepest entries of a layer, each moved by itself, against each other: their scale is the normaliser's."""
    learned = learn(Ewc, tiny, make_task, 1, None, space="product", target_modules=("attn2.to_v",), fisher_samples=1)
    (batch,) = training.batches(tiny, make_task(tiny, "dog", 1), 1, 1, "fisher")
    name = max(learned.state.tensors_of("fisher"), key=lambda n: float(learned.state.tensors[f"fisher/{n}"].max()))
    F = learned.state.tensors[f"fisher/{name}"]
    tiny.add_token("<v1>", learned.state.tensors["token/dog"])
    tiny.add_lora(2, ("attn2.to_v",), values=learned.state.tensors_of("adapter"))
    words = tiny.encode_prompts([batch.template.replace("{}", "<v1> dog")])
    weight = tiny.denoiser.get_submodule(name).base_layer.weight

    def loss(i: int, step: float) -> float:
        moved = weight.detach().clone()
        moved.view(-1)[i] += step
        given = {f"{name}.base_layer.weight": moved}
        with torch.no_grad():
            out = torch.func.functional_call(tiny.denoiser, given, (batch.noisy, batch.timesteps, words))
        return float(((out.sample - batch.noise).double() ** 2).mean())

    steepest = F.flatten().topk(5).indices.tolist()
    squares = [((loss(i, 0.05) - loss(i, -0.05)) / 0.1) ** 2 for i in steepest]
    ratios = np.array([float(F.view(-1)[i]) for i in steepest]) / squares
    np.testing.assert_allclose(ratios / ratios[0], 1, rtol=0.1)


def test_a_fishers_loss_that_is_no_number_is_refused(
    tiny: Backbone, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its square would make every later penalty NaN; samples are single pictures."""
    plain = tiny.predict
    monkeypatch.setattr(
        tiny, "predict", lambda noisy, *more: plain(noisy, *more) * (float("nan") if len(noisy) == 1 else 1)
    )
    with pytest.raises(UserError, match="concept dog: the loss is nan at step 0"):
        learn(Ewc, tiny, make_task, 1, None, **SMALL)


def test_each_tasks_fisher_has_mean_1(three: Three) -> None:
    for way in WAYS:
        for number, learned in enumerate(three(*way), 1):
            for F in fishers_of(learned.state, way):
                flat = torch.cat([v.flatten() for v in F.values()])
                assert float(flat.min()) >= 0
                assert float(flat.mean()) == pytest.approx(number if way[0] == "online" else 1, rel=1e-4)


def test_decay_halves_what_was_known(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    before = three("online", "product")[0].state
    ends = [
        learn(Ewc, tiny, make_task, 2, before, space="product", fisher_decay=d, **SMALL).state.tensors_of("fisher")
        for d in (0.0, 0.5, 1.0)
    ]
    for k, old in before.tensors_of("fisher").items():
        for F, d in zip(ends[1:], (0.5, 1.0), strict=True):
            torch.testing.assert_close(F[k], ends[0][k] + d * old, rtol=1e-4, atol=1e-5)


# The penalty


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_the_logged_penalty_is_its_equation_by_loops(
    tiny: Backbone, make_task: MakeTask, three: Three, way: tuple[str, str]
) -> None:
    """Task 3: lambda/2 times the sum over Fishers and entries, around what tasks 1 and 2 ended with."""
    first, second = (x.factors for x in three(*way)[:2])
    anchors = [coordinates(x, way[1]) for x in ([second] if way[0] == "online" else [first, second])]
    Fs = fishers_of(three(*way)[1].state, way)
    assert len(Fs) == len(anchors)

    def penalty(factors: Tensors) -> float:
        at, total = coordinates(factors, way[1]), 0.0
        for F, anchor in zip(Fs, anchors, strict=True):
            total += sum((F[k].double().numpy() * (at[k] - anchor[k]) ** 2).sum() for k in at)
        return 0.05 / 2 * total

    expected = [penalty(second)]

    def look(phase: str, step: int) -> None:
        if phase == "train":
            expected.append(penalty(tiny.lora_parameters))

    learned = learn(Ewc, tiny, make_task, 3, three(*way)[1].state, look, fisher=way[0], space=way[1], **SMALL)
    train = learned.phase("train")
    assert [f["ewc"] for f in train] == pytest.approx(expected[:3], rel=1e-3, abs=1e-9)
    assert [f["loss"] for f in train] == pytest.approx([f["denoising"] + f["ewc"] for f in train], rel=1e-5)
    assert (float(expected[0]) > 0) is (way[0] == "per-task")  # the last LoRA is not the only anchor
    assert not any("ewc" in f for f in three(*way)[0].curve)  # nothing is held in task 1


def batch_fisher(tiny: Backbone, make_task: MakeTask, number: int, learned: Learned) -> dict[str, np.ndarray]:
    """The mean of squared gradients of three batches of two, by a plain loop over a plain denoiser."""
    task = make_task(tiny, CONCEPTS[number - 1], number)
    method = Ewc(EwcOptions(rank=2))
    total: dict[str, np.ndarray] = {}
    with tiny.installed(method, learned.state, ()):
        factors = {k: p.requires_grad_() for k, p in tiny.lora_parameters.items()}
        phrase = method.phrase(task.concept, task.class_noun, learned.state)
        for batch in training.batches(tiny, task, 3, 2, "fisher"):
            states = tiny.encode_prompts([batch.template.format(phrase)] * 2)
            out = tiny.denoiser(batch.noisy, batch.timesteps, encoder_hidden_states=states).sample
            gradients = torch.autograd.grad((out - batch.noise).square().mean(), list(factors.values()))
            for name, g in zip(factors, gradients, strict=True):
                total[name] = total.get(name, 0) + g.double().numpy() ** 2 / 3
    return total


@pytest.mark.parametrize("anchors", ["each", "last"])
def test_fishers_of_batches_as_they_come_are_continualhypers(tiny: Backbone, make_task: MakeTask, anchors: str) -> None:
    """lambda/2 sum over tasks and entries of F_k (theta - theta*_k)^2, F_k not scaled; `last`: their sum, at the last."""
    options = {"fisher": "batch", "anchors": anchors, "normalise": False, "ewc_weight": 1e5, "fisher_samples": 3}
    learned = tasks(Ewc, tiny, make_task, 2, **options)
    Fs = [batch_fisher(tiny, make_task, number, at) for number, at in enumerate(learned, 1)]
    for k in Fs[0]:
        found = learned[1].state
        expected = {f"fisher/{c}/{k}": F[k] for c, F in zip(CONCEPTS, Fs, strict=False)}
        if anchors == "last":
            expected = {f"fisher/{k}": Fs[0][k] + Fs[1][k]}
        for name, F in expected.items():
            np.testing.assert_allclose(found.tensors[name].double().numpy(), F, rtol=1e-3, atol=1e-12)
    stars = [coordinates(at.factors, "factors") for at in learned]
    if anchors == "last":
        stars[0] = stars[1]
    expected = []

    def look(phase: str, step: int) -> None:
        if phase == "train":
            at = coordinates(tiny.lora_parameters, "factors")
            pairs = zip(Fs, stars, strict=True)
            expected.append(1e5 / 2 * sum((F[k] * (at[k] - star[k]) ** 2).sum() for F, star in pairs for k in at))

    third = learn(Ewc, tiny, make_task, 3, learned[1].state, look, **options).phase("train")
    assert [f["ewc"] for f in third[1:]] == pytest.approx(expected[:2], rel=1e-2) and expected[0] > 0


def test_the_product_may_be_made_of_other_factors(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    """Task 2 begins from (2 A, B / 2) around (A, B): no distance for the product."""
    for space in ("factors", "product"):
        state = three("per-task", space)[0].state
        twice = {k: v * (2 if k.endswith("lora_A") else 0.5) for k, v in state.tensors_of("adapter").items()}
        moved = state.tensors | {f"adapter/{k}": v for k, v in twice.items()}
        moved |= {f"anchor/dog/{k}": v for k, v in state.tensors_of("adapter").items()}
        start = learn(Ewc, tiny, make_task, 2, State(moved, state.facts), fisher="per-task", space=space, **SMALL)
        assert (start.curve[0]["ewc"] < 1e-9) is (space == "product")


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_heavy_penalty_holds_what_is_weighed(
    tiny: Backbone, make_task: MakeTask, three: Three, way: tuple[str, str]
) -> None:
    """The distance as the Fisher measures it, after a few small steps with and without."""
    before, ends = three(*way)[0], []
    (F,) = fishers_of(before.state, way)
    start = coordinates(before.factors, way[1])
    for weight in (0.0, 1e4):
        chosen = {"fisher": way[0], "space": way[1], "ewc_weight": weight, "fisher_samples": 1}
        after = learn(Ewc, tiny, make_task, 2, before.state, steps=12, **chosen | {"learning_rate": 1e-3})
        end = coordinates(after.factors, way[1])
        ends.append(sum((F[k].double().numpy() * (end[k] - start[k]) ** 2).sum() for k in end))
    assert ends[1] < 0.3 * ends[0]


# What is carried and installed


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_it_carries_what_it_needs_and_no_more(tiny: Backbone, three: Three, way: tuple[str, str]) -> None:
    learned, names = three(*way), layers(tiny)
    sides = [f"{n}.{side}" for n in names for side in ("lora_A", "lora_B")]
    weighed = sides if way[1] == "factors" else names
    for number, at in enumerate(learned, 1):
        expected = {f"adapter/{s}" for s in sides} | {f"token/{c}" for c in CONCEPTS[:number]}
        if way[0] == "online":
            expected |= {f"fisher/{k}" for k in weighed}
        else:
            expected |= {f"fisher/{c}/{k}" for c in CONCEPTS[:number] for k in weighed}
            expected |= {f"anchor/{c}/{s}" for c in CONCEPTS[: number - 1] for s in sides}
        assert at.state.tensors.keys() == expected
        assert learners.same(at.state.tensors_of("adapter"), at.factors)  # the Fisher's draws move nothing
        for earlier, concept in zip(learned[: number - 1], CONCEPTS, strict=False):
            if way[0] == "per-task":
                assert learners.same(at.state.tensors_of(f"anchor/{concept}"), earlier.factors)
                assert learners.same(
                    at.state.tensors_of(f"fisher/{concept}"), earlier.state.tensors_of(f"fisher/{concept}")
                )
    rows_stay(learned)
    factors = sum(v.numel() for v in learned[0].factors.values())
    assert [x.trained for x in learned] == [factors + 16] * 3  # weights that are weighed are not trained


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_it_goes_on_from_the_last_lora(tiny: Backbone, make_task: MakeTask, three: Three, way: tuple[str, str]) -> None:
    before = three(*way)[1]
    still = {"learning_rate": 1e-9, "token_learning_rate": 0, "steps": 1, "fisher": way[0], "space": way[1]}
    after = learn(Ewc, tiny, make_task, 3, before.state, **SMALL | still)
    for k, v in before.factors.items():
        torch.testing.assert_close(after.factors[k], v, atol=1e-7, rtol=0)
    assert torch.equal(after.state.tensors["token/dog2"], tiny.word_embedding("dog"))


def test_the_last_lora_is_installed_for_every_concept(tiny: Backbone, three: Three) -> None:
    learned, method = three("online", "product")[2], Ewc(EwcOptions(rank=2))
    for concepts in ((), ("dog",), ("vase", "dog2")):
        found = change(tiny, method, learned.state, concepts)
        for n in layers(tiny):
            np.testing.assert_allclose(found[n], product(learned.factors, n), atol=1e-5)
    assert method.phrase("vase", "vase", learned.state) == "<v2> vase"
    assert learners.same(method.lora(learned.state, ()), learned.factors)
