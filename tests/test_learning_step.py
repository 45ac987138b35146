"""A step of learning against the same step written out as it was: peft's layers, one tensor at a time, torch's AdamW."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from cpbench.backbones import adapters, lora_layers
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.loading import load
from cpbench.backbones.lora_layers import step_view
from cpbench.backbones.memory_format import channels_last
from cpbench.backbones.options import BackboneConfig
from cpbench.errors import RulesError
from cpbench.learning import prior_preservation, training
from cpbench.learning.flat import Block, as_one, joined, stacks
from cpbench.learning.optimizer import Optimizer
from cpbench.learning.training import Batch, batches, denoising, train
from cpbench.method import Task

MakeTask = Callable[..., Task]
Tensors = dict[str, torch.Tensor]
LAYERS = (*adapters.ATTENTION, "feed_forward", "conv1", "conv2", "conv_shortcut", "proj_in", "downsamplers.0.conv")
SCALER = torch.amp.GradScaler("cpu", enabled=False)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_lora(backbone: Backbone, layers: tuple[str, ...] = LAYERS) -> dict[str, nn.Parameter]:
    """A LoRA with a B that is not zero, so that every gradient is there."""
    lora = backbone.add_lora(3, layers, seeded(0))
    with torch.no_grad():
        for i, (name, factor) in enumerate(lora.items()):
            if name.endswith("lora_B"):
                factor.copy_(torch.randn(factor.shape, generator=seeded(i)) * 0.1)
    return lora


def as_peft_computes(backbone: Backbone) -> None:
    """Take our forward away: what is left is peft's own."""
    for module in backbone.denoiser.modules():
        vars(module).pop("forward", None)


def close(found: Tensors, expected: Tensors, tolerance: float = 1e-6) -> None:
    """Every entry within `tolerance` of the largest one."""
    largest = max(float(v.abs().max()) for v in expected.values())
    assert largest > 0 and found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).abs().max()) <= tolerance * largest, name


# One step, from one state and batch


@pytest.mark.parametrize("form", ["as counted", "one product", "two products"])
def test_loss_and_gradients_are_those_of_pefts_layers(
    tiny: Backbone, make_task: MakeTask, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form != "as counted":
        monkeypatch.setattr(lora_layers, "in_one_product", lambda *sizes: form == "one product")
    lora, word = with_lora(tiny), tiny.add_token("<v1>", tiny.word_embedding("dog"))
    parameters = lora | {"word": word}
    (batch,) = batches(tiny, make_task(tiny), 1, 3, "train")
    loss = denoising(tiny, "<v1> dog")
    tiny.train_only(parameters.values())
    assert sum("forward" in vars(m) for m in tiny.denoiser.modules()) == len(lora) // 2
    with channels_last(tiny.denoiser), Optimizer([(1e-3, lora), (1e-3, {"word": word})], torch.float32) as optimizer:
        optimizer.begin_step()
        ours = loss(batch)["denoising"]
        found = training._gradients(ours, parameters, SCALER)
    as_peft_computes(tiny)
    prompt_embeds = tiny.encode_prompts([batch.template.format("<v1> dog")]).expand(3, -1, -1)
    prediction = tiny.denoiser(batch.noisy, batch.timesteps, prompt_embeds).sample
    theirs = (prediction - batch.noise).square().mean()
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)
    expected = torch.autograd.grad(theirs, list(parameters.values()))
    close(found, dict(zip(parameters, expected, strict=True)))


def test_steps_are_those_of_a_plain_loop(tiny: Backbone, make_task: MakeTask) -> None:
    """Two groups with different rates, four steps: peft's layers, a clip and an AdamW of separate tensors."""
    task, steps, rates = make_task(tiny), 4, (1e-2, 3e-3)
    lora, word = with_lora(tiny), tiny.add_token("<v1>", tiny.word_embedding("dog"))
    start = [p.detach().clone() for p in (*lora.values(), word)]
    train(tiny, task, denoising(tiny, "<v1> dog"), [(rates[0], lora), (rates[1], [word])], steps, 2)
    found = {**{k: p.detach().clone() for k, p in lora.items()}, "word": word.detach().clone()}
    assert tiny.lora_parameters is lora and not any(hasattr(p, "block") for p in lora.values())

    as_peft_computes(tiny)
    separate = [*lora.values(), word]
    for parameter, value in zip(separate, start, strict=True):
        parameter.data = value
        parameter.grad = None
    groups = [{"params": list(lora.values()), "lr": rates[0]}, {"params": [word], "lr": rates[1]}]
    adamw = torch.optim.AdamW(groups, weight_decay=0.0, fused=False, foreach=False)
    for batch in batches(tiny, task, steps, 2, "train"):
        prompt_embeds = tiny.encode_prompts([batch.template.format("<v1> dog")]).expand(2, -1, -1)
        adamw.zero_grad()
        (tiny.denoiser(batch.noisy, batch.timesteps, prompt_embeds).sample - batch.noise).square().mean().backward()
        nn.utils.clip_grad_norm_(separate, 1.0)
        adamw.step()
    for name, parameter in (lora | {"word": word}).items():
        apart = (found[name] - parameter.detach()).abs()  # AdamW divides by the gradient: the smallest ones differ
        assert float(apart.max()) < 1e-3 and float(apart.median()) < 1e-5, name


def test_a_frozen_teacher_is_computed_by_its_own_factors(tiny: Backbone, make_task: MakeTask) -> None:
    lora = with_lora(tiny)
    teacher = {k: torch.randn(v.shape, generator=seeded(7)) * 0.1 for k, v in lora.items()}
    (batch,) = batches(tiny, make_task(tiny), 1, 2, "train")
    prompt_embeds = tiny.encode_prompts(["a dog"]).expand(2, -1, -1)
    outputs = []

    def loss(batch: Batch) -> Tensors:
        with torch.no_grad():
            outputs.append(tiny.predict(batch.noisy, batch.timesteps, prompt_embeds, teacher))
        return denoising(tiny, "dog")(batch)

    train(tiny, make_task(tiny), loss, [(1e-2, lora)], 1, 2)
    tiny.restore()
    tiny.add_lora(3, LAYERS, values=teacher)
    as_peft_computes(tiny)
    with torch.no_grad():
        torch.testing.assert_close(
            outputs[0], tiny.predict(batch.noisy, batch.timesteps, prompt_embeds), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("change", ["disabled", "scaled", "hooked"])
def test_layers_that_somebody_changed_compute_as_peft_does(tiny: Backbone, change: str) -> None:
    with_lora(tiny, ("to_q",))
    name = next(n for n, m in tiny.denoiser.named_modules() if n.endswith("to_q"))
    layer = tiny.denoiser.get_submodule(name)
    if change == "disabled":
        layer.enable_adapters(False)
    elif change == "scaled":
        layer.scale_layer(0.5)
    else:
        hook = layer.base_layer.register_forward_hook(lambda module, args, output: output + 1)
    x = torch.randn(2, 5, layer.in_features, generator=seeded(1))
    try:
        assert torch.equal(layer(x), type(layer).forward(layer, x))
    finally:
        if change == "hooked":
            hook.remove()


def test_after_restore_no_forward_is_ours(tiny: Backbone, make_task: MakeTask) -> None:
    before = fingerprint(tiny)
    strides = {n: p.stride() for n, p in tiny.denoiser.named_parameters()}
    train(tiny, make_task(tiny), denoising(tiny, "dog"), [(1e-2, with_lora(tiny))], 1, 1)
    tiny.restore()
    assert fingerprint(tiny) == before and {n: p.stride() for n, p in tiny.denoiser.named_parameters()} == strides
    assert not any("forward" in vars(m) for m in tiny.denoiser.modules())


def test_in_bfloat16_the_step_is_as_near_to_float32_as_pefts(tiny_folder: Path, make_task: MakeTask) -> None:
    """By the cosine of the gradients: ours without autocast, peft's with it."""
    gradients: dict[str, torch.Tensor] = {}
    for label, dtype in (("float32", "float32"), ("ours", "bfloat16"), ("peft", "bfloat16")):
        backbone = load(str(tiny_folder), loading=BackboneConfig(dtype=dtype))
        lora = with_lora(backbone)
        (batch,) = batches(backbone, make_task(backbone), 1, 4, "train")
        backbone.train_only(lora.values())
        if label == "peft":
            as_peft_computes(backbone)
            prompt_embeds = backbone.encode_prompts([batch.template.format("dog")]).expand(4, -1, -1)
            with torch.autocast("cpu", torch.bfloat16):
                prediction = backbone.denoiser(batch.noisy.bfloat16(), batch.timesteps, prompt_embeds).sample
            value = (prediction.float() - batch.noise.float()).square().mean()
            parts = torch.autograd.grad(value, list(lora.values()))
        else:
            with Optimizer([(1e-3, lora)], backbone.dtype) as optimizer:
                optimizer.begin_step()
                value = denoising(backbone, "dog")(batch)["denoising"]
                parts = tuple(training._gradients(value, lora, SCALER).values())
        assert all(part.dtype == torch.float32 for part in parts)
        gradients[label] = torch.cat([part.flatten() for part in parts])
    cosines = [float(torch.cosine_similarity(gradients[k], gradients["float32"], dim=0)) for k in ("ours", "peft")]
    assert cosines[0] > 0.98 and cosines[0] > cosines[1] - 0.01


# Blocks


def parameters_of(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, generator=seeded(i))) for i, shape in enumerate(shapes)]


SHAPES = [(3, 4), (5,), (2, 2, 1, 1), ()]


def test_a_block_keeps_values_names_and_objects() -> None:
    parameters = parameters_of(SHAPES)
    values = [p.detach().clone() for p in parameters]
    block = Block(parameters, torch.float32)
    assert all(torch.equal(p, v) for p, v in zip(parameters, values, strict=True))
    block.value.data += 1
    assert all(torch.equal(p, v + 1) for p, v in zip(parameters, values, strict=True))
    block.begin_step()
    assert joined(parameters) is block.joined and joined(parameters[:2]) is not block.joined
    block.end()
    assert not any(hasattr(p, name) for p in parameters for name in ("block", "step_view"))
    assert torch.equal(joined(parameters), block.value)


@pytest.mark.parametrize("layers_dtype", [torch.float32, torch.bfloat16])
def test_gradients_through_a_block_are_those_of_its_parameters(layers_dtype: torch.dtype) -> None:
    """A term of the whole vector, one of what layers compute with and one of a parameter itself, together and alone."""
    parameters = parameters_of(SHAPES)
    block = Block(parameters, layers_dtype)
    block.begin_step()
    weights = torch.randn(block.value.shape, generator=seeded(9))
    whole, layer, own = (
        (weights * joined(parameters).square()).sum(),
        step_view(parameters[0]).float().sum(),
        parameters[1].sum(),
    )
    assert step_view(parameters[0]).dtype == layers_dtype
    found = torch.autograd.grad(whole + 2 * layer + 3 * own, parameters, retain_graph=True)
    parts = weights.split([p.numel() for p in parameters])
    expected = [2 * w.view(p.shape) * p.detach() for w, p in zip(parts, parameters, strict=True)]
    expected[0] += 2
    expected[1] += 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert as_one(torch.autograd.grad(whole, parameters)) is not None  # one vector, which need not be copied
    assert as_one([parameters[1], parameters[0]]) is None and as_one([parameters[0], None]) is None


GRADIENT_PLANS = {
    "always": [(0, 1, 2, 3)] * 5,
    "never for one": [(0, 1, 3)] * 5,
    "later for one": [(0, 1, 3), (0, 1, 3), (0, 1, 2, 3), (0, 1, 3), (2,)],
    "sometimes": [(0, 1, 2, 3), (1, 3), (0, 1, 2, 3), (), (0,)],
}


@pytest.mark.parametrize("plan", list(GRADIENT_PLANS))
@pytest.mark.parametrize("rates", [(1e-2, 1e-2), (1e-2, 3e-4)])
def test_blocks_are_moved_as_torchs_adamw_moves_each_tensor(plan: str, rates: tuple[float, float]) -> None:
    """A tensor without a gradient in a step stays, and so do its moments; they count its own steps only."""
    ours, theirs = parameters_of(SHAPES), parameters_of(SHAPES)
    groups = [{"0": ours[0], "1": ours[1]}, {"2": ours[2], "3": ours[3]}]
    optimizer = Optimizer(list(zip(rates, groups, strict=True)), torch.float32)
    adamw = torch.optim.AdamW(
        [{"params": theirs[:2], "lr": rates[0]}, {"params": theirs[2:], "lr": rates[1]}], weight_decay=0.0
    )
    for step, present in enumerate(GRADIENT_PLANS[plan]):
        gradients = {str(k): torch.randn(ours[k].shape, generator=seeded(100 * step + k)) for k in present}
        for k, parameter in enumerate(theirs):
            parameter.grad = gradients[str(k)].clone() if k in present else None
        expected_norm = nn.utils.clip_grad_norm_(theirs, 1.0)
        adamw.step()
        optimizer.receive([gradients])
        assert float(optimizer.clip()) == pytest.approx(float(expected_norm), rel=1e-5)
        optimizer.step(SCALER)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
            assert (a.grad is None) == (b.grad is None)


def test_the_sum_over_terms_is_moved_and_the_terms_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for largest in (2**27, 0):  # as a block, and each by itself
        monkeypatch.setattr("cpbench.learning.optimizer.LARGEST", largest)
        a, b = parameters_of([(3,), (2, 2)])
        optimizer = Optimizer([(1e-2, {"a": a, "b": b})], torch.float32)
        terms = [{"a": torch.full((3,), 3.0), "b": torch.ones(2, 2)}, {"a": torch.full((3,), 1.0)}]
        optimizer.receive(terms, keep=True)
        assert float(optimizer.clip()) == pytest.approx((3 * 16 + 4) ** 0.5)
        assert torch.equal(terms[0]["a"], torch.full((3,), 3.0)) and torch.equal(terms[0]["b"], torch.ones(2, 2))
        shared = torch.ones(3)
        optimizer = Optimizer([(1e-2, {"a": a}), (1e-2, {"c": nn.Parameter(torch.ones(3))})], torch.float32)
        optimizer.receive([{"a": shared, "c": shared}])
        assert float(optimizer.clip()) == pytest.approx(6**0.5)
        assert float(a.grad.norm()) == pytest.approx(3**0.5 / 6**0.5)


def test_a_parameter_in_two_groups_is_an_error(tiny: Backbone, make_task: MakeTask) -> None:
    word = tiny.add_token("<v1>", tiny.word_embedding("dog"))
    with pytest.raises(RulesError, match="trains a parameter twice"):
        train(tiny, make_task(tiny), denoising(tiny, "<v1> dog"), [(1e-3, [word]), (1e-2, [word])], 1, 1)


def test_a_layer_is_the_same_function_of_its_own_weight_and_bias() -> None:
    """Where these are trained too, in two products: by autograd's own."""
    tensors = [
        torch.randn(s, generator=seeded(i), requires_grad=True)
        for i, s in enumerate([(7, 5), (4, 5), (4,), (2, 5), (4, 2)])
    ]
    x, W, bias, A, B = tensors
    weights = torch.randn(7, 4, generator=seeded(9))
    ours = (lora_layers.TwoProducts.apply(x, W, bias, A, B) * weights).sum()
    theirs = ((x @ (W + B @ A).T + bias) * weights).sum()
    for a, b in zip(torch.autograd.grad(ours, tensors), torch.autograd.grad(theirs, tensors), strict=True):
        torch.testing.assert_close(a, b)


def test_stacks_go_by_shape_and_by_name() -> None:
    tensors = {name: torch.full((2,) if name in "bd" else (3,), float(k)) for k, name in enumerate("dcba")}
    found = {tuple(names): stacked for names, stacked in stacks(tensors)}
    assert list(found) == [("a", "c"), ("b", "d")]
    assert found[("b", "d")].tolist() == [[2.0, 2.0], [0.0, 0.0]]


# Terms on further pictures


def test_further_pictures_share_the_call_of_the_denoiser(tiny: Backbone, make_task: MakeTask) -> None:
    """Each term is what it is by itself, other terms are called as before, and the UNet sees as many pictures."""
    task, images = make_task(tiny), make_task(tiny, "vase").images
    prompts = [f"a vase number {k}" for k in range(len(images))]

    def term() -> training.ErrorTerm:
        return prior_preservation.error_term(tiny, task, images, prompts, 1, 3, "prior", "prior", 0.5)

    (batch,) = batches(tiny, task, 1, 2, "train")
    calls, before = [], tiny.unet_evaluations
    hook = tiny.denoiser.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    try:
        with torch.no_grad():
            together = denoising(tiny, "dog", term(), lambda: {"more": torch.ones(())})(batch)
            apart = denoising(tiny, "dog")(batch) | term()()
    finally:
        hook.remove()
    assert calls == [5, 2, 3] and tiny.unet_evaluations - before == 10 and float(together.pop("more")) == 1
    assert together.keys() == apart.keys() == {"denoising", "prior"}
    for name, value in apart.items():
        assert float(together[name]) == pytest.approx(float(value), rel=1e-5)


# Prompts


@pytest.fixture
def encoded(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The prompts of every call of the text encoder."""
    calls: list[list[str]] = []
    genuine = tiny.family.encode_prompts

    def noted(vocabulary: object, prompts: list[str]) -> torch.Tensor:
        calls.append(list(prompts))
        return genuine(vocabulary, prompts)

    monkeypatch.setattr(tiny.family, "encode_prompts", noted)
    yield calls


def test_a_phase_that_learns_no_word_encodes_every_prompt_once(
    tiny: Backbone, make_task: MakeTask, encoded: list[list[str]]
) -> None:
    tiny.add_token("<v1>", tiny.word_embedding("dog"))
    train(tiny, make_task(tiny), denoising(tiny, "<v1> dog"), [(1e-2, with_lora(tiny))], 12, 2)
    assert sorted(encoded) == sorted([t.format("<v1> dog")] for t in training.TEMPLATES)
    assert tiny.encoded is None


def test_prompts_with_a_trained_word_or_a_trained_encoder_are_encoded_in_every_step(
    tiny: Backbone, make_task: MakeTask, encoded: list[list[str]]
) -> None:
    word = tiny.add_token("<v1>", tiny.word_embedding("dog"))

    def loss(batch: Batch) -> Tensors:
        return {"sum": sum(tiny.encode_prompts([p]).square().mean() for p in ("a <v1> dog", "a dog"))}

    train(tiny, make_task(tiny), loss, [(1e-2, [word])], 3, 1)
    assert sorted(encoded) == [["a <v1> dog"]] * 3 + [["a dog"]]
    encoded.clear()
    tiny.restore()
    weights = tiny.replace_weights(
        {f"text_encoder.{n}": p for n, p in tiny.text_encoder.named_parameters() if n.endswith("fc1.weight")}
    )
    train(tiny, make_task(tiny), denoising(tiny, "dog"), [(1e-3, list(weights.values()))], 4, 1)
    assert len(encoded) == 4


def test_a_word_that_changes_is_encoded_anew(tiny: Backbone, make_task: MakeTask, encoded: list[list[str]]) -> None:
    word = tiny.add_token("<v1>", tiny.word_embedding("dog"))
    outputs = []

    def loss(batch: Batch) -> Tensors:
        outputs.append(tiny.encode_prompts(["a <v1>"]))
        with torch.no_grad():
            word.add_(1)
        return denoising(tiny, "dog")(batch)

    train(tiny, make_task(tiny), loss, [(1e-2, with_lora(tiny))], 2, 1, templates=("a {}",))
    assert not torch.allclose(outputs[0], outputs[1]) and encoded.count(["a <v1>"]) == 2


# Figures


def test_norms_are_told_every_tenth_step_and_at_the_last(tiny: Backbone, make_task: MakeTask) -> None:
    curve: list[tuple[int, dict]] = []
    task = make_task(tiny, log=lambda step, **figures: curve.append((step, figures)))
    train(tiny, task, denoising(tiny, "dog"), [(1e-2, with_lora(tiny, ("to_q",)))], 14, 1)
    assert [step for step, _ in curve] == list(range(14))
    assert [step for step, figures in curve if "lora_norm" in figures] == [0, 10, 13]
    assert all({"loss", "denoising", "gradient_norm"} <= figures.keys() for _, figures in curve)


def test_an_error_that_follows_a_loss_that_is_no_number_is_told_as_that(tiny: Backbone, make_task: MakeTask) -> None:
    lora, steps = with_lora(tiny, ("to_q",)), []

    def loss(batch: Batch) -> Tensors:
        steps.append(1)
        if len(steps) == 5:
            raise ValueError("a matrix of NaN has no inverse")
        return {"odd": (float("nan") if len(steps) == 3 else 1.0) * sum(p.square().sum() for p in lora.values())}

    with pytest.raises(Exception, match="the loss is nan at step 2; lower the learning rate"):
        train(tiny, make_task(tiny), loss, [(1e-2, lora)], 9, 1)
