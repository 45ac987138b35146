"""The training loop against formulas written out here: targets, noisy latents, batches, the loss of the first step."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.processes.diffusion import Diffusion
from cpbench.errors import RulesError, UserError
from cpbench.learning import training
from cpbench.learning.training import (
    TEMPLATES,
    Batch,
    Latents,
    Loss,
    batches,
    denoising,
    error,
    train,
)
from cpbench.method import Recipe, Task

MakeTask = Callable[..., Task]


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's: betas whose roots are evenly spaced between the roots of 0.00085 and 0.012."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.tensor(np.cumprod(1 - betas))


def lora_and_word(backbone: Backbone, task: Task) -> tuple[dict[str, nn.Parameter], nn.Parameter]:
    row = backbone.add_token("<v1>", backbone.word_embedding(task.class_noun))
    return backbone.add_lora(2, adapters.ATTENTION, task.generator("lora")), row


def usual(backbone: Backbone) -> Loss:
    return denoising(backbone, "<v1> dog")


def learn(backbone: Backbone, task: Task, steps: int = 3, batch_size: int = 2, **more) -> list[torch.Tensor]:
    """A LoRA and a word after a short training; the backbone is restored."""
    factors, row = lora_and_word(backbone, task)
    groups = [(1e-2, list(factors.values())), (1e-2, [row])]
    train(backbone, task, usual(backbone), groups, steps, batch_size, **more)
    learned = [p.detach().clone() for p in (*factors.values(), row)]
    backbone.restore()
    return learned


@contextmanager
def watched(backbone: Backbone) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """(noisy latents, timesteps, words, prediction) of every call of the UNet."""
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def note(module: nn.Module, args: tuple, kwargs: dict, out: object) -> None:
        inputs = (*args, kwargs["timestep"], kwargs["encoder_hidden_states"])
        calls.append((*(a.detach().clone() for a in inputs), out.sample.detach().clone()))

    hook = backbone.denoiser.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


# Latents


def test_latents_hold_every_picture_and_its_mirror_image(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny, n=3)
    latents = Latents(tiny, task)
    mirrored = [np.asarray(ImageOps.mirror(Image.fromarray(p))) for p in task.images]
    assert len(latents.mean) == len(latents.std) == 6
    for i, picture in enumerate([*task.images, *mirrored]):
        pixels = torch.tensor(picture / 127.5 - 1, dtype=torch.float32).movedim(2, 0)[None]
        with torch.no_grad():
            posterior = tiny.vae.encode(pixels).latent_dist
        torch.testing.assert_close(latents.mean[i], posterior.mean[0] * 0.5, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(latents.std[i], posterior.std[0] * 0.5, atol=1e-5, rtol=1e-4)


def test_a_draw_is_a_sample_of_the_posterior_of_any_of_them(tiny: Backbone, make_task: MakeTask) -> None:
    latents = Latents(tiny, make_task(tiny, n=2))
    shape = latents.mean.shape
    # means far apart, and a spread of its own for each, so that a draw tells where it comes from
    latents.mean = torch.arange(4.0).view(4, 1, 1, 1).expand(shape) * 100
    latents.std = torch.tensor([0.5, 1.0, 2.0, 4.0]).view(4, 1, 1, 1).expand(shape)
    drawn = latents.sample(400, torch.Generator().manual_seed(0))[0].flatten(1)
    which = (drawn.mean(1) / 100).round().long()
    assert (which.bincount(minlength=4) > 60).all()
    for i, spread in enumerate([0.5, 1.0, 2.0, 4.0]):
        z = (drawn[which == i] - 100 * i) / spread
        assert abs(float(z.mean())) < 0.05 and float(z.std()) == pytest.approx(1, abs=0.05)
    again = latents.sample(400, torch.Generator().manual_seed(0))[0].flatten(1)
    assert torch.equal(drawn, again)


# Training


WEIGHTS = ("conv_in.weight", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", "conv_out.bias")


def full_of_parts(backbone: Backbone, task: Task) -> dict[str, list[nn.Parameter]]:
    """Replaced weights (one of them below a LoRA), two words and a LoRA, all of them with something to learn."""
    weights = backbone.replace_weights({k: backbone.denoiser.get_parameter(k) * 1.1 for k in WEIGHTS})
    earlier = backbone.add_token("<v0>", backbone.word_embedding("vase"))
    row = backbone.add_token("<v1>", backbone.word_embedding("dog"))
    factors = backbone.add_lora(2, adapters.ATTENTION, task.generator("lora"))
    for i, factor in enumerate(factors.values()):
        factor.data = torch.randn(factor.shape, generator=torch.Generator().manual_seed(i)) * 0.1
    return {
        "lora": list(factors.values()),
        "one factor": list(factors.values())[3:4],
        "word": [row],
        "both": [*factors.values(), row],
        "weights": list(weights.values()),
        "one weight": [weights[WEIGHTS[1]]],
        "all": [*factors.values(), row, *weights.values(), earlier],
    }


def everything(backbone: Backbone) -> dict[str, nn.Parameter]:
    """All parameters by name; the same parameter has another name below a wrapped layer."""
    own = {f"{part}.{name}": p for part, root in backbone.parts() for name, p in root.named_parameters()}
    return own | {f"word {name}": row for name, row in backbone.token_embeddings.items()}


@pytest.mark.parametrize("named", ["lora", "one factor", "word", "both", "weights", "one weight", "all"])
def test_only_the_named_parameters_move(tiny: Backbone, make_task: MakeTask, named: str) -> None:
    task = make_task(tiny)
    some = full_of_parts(tiny, task)[named]
    parameters = everything(tiny)
    names = {id(p): n for n, p in parameters.items()}
    expected = {names[id(p)] for p in some}
    before = {n: p.detach().clone() for n, p in parameters.items()}

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        words = tiny.encode_prompts(["a <v0> and a <v1> dog"]).expand(len(batch.noisy), -1, -1)
        return {"mse": (tiny.predict(batch.noisy, batch.timesteps, words) - batch.noise).square().mean()}

    train(tiny, task, loss, [(1e-2, some)], steps=2, batch_size=2)
    after = everything(tiny)
    assert after.keys() == before.keys() and all(after[n] is parameters[n] for n in after)
    assert {n for n in before if not torch.equal(before[n], after[n])} == expected
    # and nothing else was asked for a gradient, or given one
    assert {n for n in after if after[n].requires_grad} == expected
    assert {n for n in after if after[n].grad is not None} == expected


def test_a_second_training_trains_its_own_parameters_alone(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny)
    factors, row = lora_and_word(tiny, task)
    train(tiny, task, usual(tiny), [(1e-2, [row])], steps=2, batch_size=2, phase="first")
    frozen = row.detach().clone()
    row.grad = None
    train(tiny, task, usual(tiny), [(1e-2, list(factors.values()))], steps=2, batch_size=2, phase="second")
    assert torch.equal(row, frozen) and row.grad is None and not row.requires_grad
    assert all(f.requires_grad and f.any() for f in factors.values())


def test_each_group_has_its_own_learning_rate(tiny: Backbone, make_task: MakeTask) -> None:
    """Adam's first step is the learning rate times the sign of the gradient, whatever its size."""
    task = make_task(tiny)
    factors, row = lora_and_word(tiny, task)
    factors = {k: v for k, v in factors.items() if k.endswith("lora_B")}  # A's gradient is 0 while B is
    before = [p.detach().clone() for p in (*factors.values(), row)]
    train(tiny, task, usual(tiny), [(1e-2, list(factors.values())), (3e-3, [row])], steps=1, batch_size=2)
    moved = [float((p.detach() - b).abs().max()) for p, b in zip((*factors.values(), row), before, strict=True)]
    assert moved[:-1] == pytest.approx([1e-2] * len(factors), rel=1e-2)
    assert moved[-1] == pytest.approx(3e-3, rel=1e-2)


def test_the_same_task_twice_gives_the_same_bits(tiny: Backbone, make_task: MakeTask) -> None:
    first = learn(tiny, make_task(tiny))
    torch.manual_seed(12345)
    np.random.seed(7)
    before = torch.get_rng_state()
    again = learn(tiny, make_task(tiny))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("other", ["seed", "phase"])
def test_another_seed_or_phase_gives_other_bits(tiny: Backbone, make_task: MakeTask, other: str) -> None:
    first = learn(tiny, make_task(tiny))
    changed = learn(tiny, make_task(tiny, seed=1)) if other == "seed" else learn(tiny, make_task(tiny), phase="more")
    assert not any(torch.equal(a, b) for a, b in zip(first, changed, strict=True))


def test_the_first_loss_is_the_mean_square_of_what_was_predicted_against_the_noise(
    tiny: Backbone, make_task: MakeTask
) -> None:
    """All of step 0 by hand: latents, strata, noise, words, and the error of the UNet's own output."""
    n, said = 4, []
    task = make_task(tiny, log=lambda step, **figures: said.append((step, figures)))
    factors, row = lora_and_word(tiny, task)
    with watched(tiny) as calls:
        train(tiny, task, usual(tiny), [(1e-4, [*factors.values(), row])], steps=1, batch_size=n)
    ((noisy, timesteps, words, guess),) = calls

    latents, g = Latents(tiny, task), task.generator("train")
    which = torch.randint(len(task.images) * 2, (n,), generator=g)
    z = latents.mean[which] + latents.std[which] * torch.randn(n, *tiny.latent_shape, generator=g)
    order, within = torch.randperm(n, generator=g), torch.rand(n, generator=g)
    t = torch.floor((order + within) / n * 1000).long()
    noise = torch.randn(z.shape, generator=g)
    prompt = TEMPLATES[int(torch.randint(len(TEMPLATES), (1,), generator=g))].replace("{}", "<v1> dog")
    assert torch.equal(timesteps, t)
    a = alphas_cumprod()[t].float().view(n, 1, 1, 1)
    torch.testing.assert_close(noisy, a.sqrt() * z + (1 - a).sqrt() * noise, atol=1e-5, rtol=1e-4)
    ids = tiny.tokenizer([prompt] * n, padding="max_length", return_tensors="pt").input_ids
    assert (ids == len(tiny.tokenizer) - 1).sum() == n
    tiny.restore()
    tiny.add_token("<v1>", tiny.word_embedding("dog"))  # as it was before the step
    with torch.no_grad():
        torch.testing.assert_close(words, tiny.text_encoder(ids).last_hidden_state, atol=1e-5, rtol=1e-4)
    ((step, figures),) = said
    by_hand = float(((guess.double() - noise.double()) ** 2).sum() / guess.numel())
    assert (step, figures["phase"]) == (0, "train")
    assert figures["loss"] == pytest.approx(by_hand, rel=1e-5)
    assert figures["denoising"] == pytest.approx(by_hand, rel=1e-5)


def test_the_first_loss_follows_the_prediction_type(tiny: Backbone, make_task: MakeTask) -> None:
    """The same draws and, while B is 0, the same prediction: only the target differs."""
    said: list[float] = []
    task = make_task(tiny, log=lambda step, **figures: said.append(figures["denoising"]))
    errors = []
    for kind in ("epsilon", "v_prediction", "sample"):
        original = tiny.pipe.scheduler
        tiny.pipe.scheduler = type(original).from_config(original.config, prediction_type=kind)
        try:
            factors, _ = lora_and_word(tiny, task)
            with watched(tiny) as calls:
                train(tiny, task, usual(tiny), [(1e-4, list(factors.values()))], steps=1, batch_size=3)
        finally:
            tiny.pipe.scheduler = original
            tiny.restore()
        ((noisy, t, _, guess),) = calls
        g = task.generator("train")
        latents = Latents(tiny, task)
        z, _ = latents.sample(3, g)
        torch.randperm(3, generator=g), torch.rand(3, generator=g)
        e, a = torch.randn(z.shape, generator=g), alphas_cumprod()[t].float().view(3, 1, 1, 1)
        wanted = {"epsilon": e, "v_prediction": a.sqrt() * e - (1 - a).sqrt() * z, "sample": z}[kind]
        errors.append(float((guess - wanted).square().mean()))
    assert said == pytest.approx(errors, rel=1e-4)
    assert len({round(e, 4) for e in errors}) == 3


def test_every_step_sees_one_timestep_of_each_stratum(tiny: Backbone, make_task: MakeTask) -> None:
    n, steps = 5, 8
    task = make_task(tiny)
    factors, _ = lora_and_word(tiny, task)
    with watched(tiny) as calls:
        train(tiny, task, usual(tiny), [(1e-4, list(factors.values()))], steps=steps, batch_size=n)
    timesteps = torch.stack([t for _, t, _, _ in calls])
    assert sorted(map(tuple, (timesteps // 200).sort(1).values.tolist())) == [(0, 1, 2, 3, 4)] * steps
    assert len({tuple(row) for row in timesteps.tolist()}) == steps


def test_without_strata_each_time_is_drawn_alone(tiny: Backbone, make_task: MakeTask) -> None:
    task = replace(make_task(tiny), recipe=Recipe(stratified_times=False))
    timesteps = torch.stack([batch.timesteps for batch in batches(tiny, task, 300, 5, "train")])
    strata = (timesteps // 200).sort(1).values
    together = (strata == torch.arange(5)).all(1).float().mean()
    assert abs(float(together) - 0.0384) < 0.04  # 5! / 5^5
    assert abs(float(timesteps.float().mean()) - 499.5) < 4 * 288.7 / 1500**0.5


def test_without_mirrors_only_the_pictures_themselves_are_seen(tiny: Backbone, make_task: MakeTask) -> None:
    task = replace(make_task(tiny, n=3), recipe=Recipe(mirrored_pictures=False))
    latents = Latents(tiny, task)
    torch.testing.assert_close(latents.mean, Latents(tiny, make_task(tiny, n=3)).mean[:3], atol=1e-5, rtol=1e-4)
    _, places = latents.sample(60, torch.Generator().manual_seed(0))
    assert set(places.tolist()) == {0, 1, 2}


def test_weight_decay_is_adamws(tiny: Backbone, make_task: MakeTask) -> None:
    """One step: what both have moved by their gradients is the same, and the decay takes rate x decay of the value."""
    moved = []
    for decay in (0.0, 0.3):
        task = replace(make_task(tiny), recipe=Recipe(weight_decay=decay))
        factors, _ = lora_and_word(tiny, task)
        before = [p.detach().clone() for p in factors.values()]
        train(tiny, task, usual(tiny), [(1e-2, list(factors.values()))], steps=1, batch_size=2)
        moved.append([p.detach() - b for p, b in zip(factors.values(), before, strict=True)])
        tiny.restore()
    for plain, decayed, b in zip(*moved, before, strict=True):
        torch.testing.assert_close(decayed, plain - 1e-2 * 0.3 * b, atol=1e-6, rtol=1e-4)


def test_training_goes_down_and_its_curve_is_logged(tiny: Backbone, make_task: MakeTask) -> None:
    """Eight latents of one picture, a fixed prompt: a LoRA must fit some of that even in a random UNet."""
    said: list[tuple[int, dict[str, float]]] = []
    task = make_task(tiny, n=1, log=lambda step, **figures: said.append((step, figures)))
    learn(tiny, task, steps=40, batch_size=4)
    assert [step for step, _ in said] == list(range(40))
    losses = [figures["loss"] for _, figures in said]
    assert np.mean(losses[-10:]) < 0.97 * np.mean(losses[:10])
    assert all(figures["gradient_norm"] > 0 for _, figures in said)


def test_a_penalty_is_added_to_the_loss_and_to_the_gradient(tiny: Backbone, make_task: MakeTask) -> None:
    said: list[dict[str, float]] = []
    task = make_task(tiny, log=lambda step, **figures: said.append(figures))
    factors, row = lora_and_word(tiny, task)
    apart = {k: torch.full_like(v, 3.0) for k, v in factors.items()}
    before = {k: v.detach().clone() for k, v in factors.items()}
    start = float(sum((v.detach() - apart[k]).square().sum() for k, v in factors.items()))

    def penalty() -> dict[str, torch.Tensor]:
        pull = torch.stack([(v - apart[k]).square().sum() for k, v in factors.items()]).sum()
        return {"pull": pull, "nothing": 0 * row.sum()}

    plain = usual(tiny)
    train(tiny, task, lambda batch: plain(batch) | penalty(), [(1e-2, [*factors.values(), row])], 5, 2)
    assert said[0]["pull"] == pytest.approx(start, rel=1e-5)
    assert said[0]["loss"] == pytest.approx(said[0]["denoising"] + said[0]["pull"], rel=1e-6)
    assert said[-1]["pull"] < said[0]["pull"]
    for k, v in factors.items():  # the pull is much the stronger: five steps of Adam, all upwards
        assert float((v.detach() - before[k]).min()) == pytest.approx(0.05, rel=0.05)


def test_a_term_without_gradient_is_logged_and_not_added(tiny: Backbone, make_task: MakeTask) -> None:
    bare, said = learn(tiny, make_task(tiny)), []
    task = make_task(tiny, log=lambda step, **figures: said.append(figures))
    factors, row = lora_and_word(tiny, task)
    plain, sizes = usual(tiny), []

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        sizes.append(float(row.detach().square().sum()))
        return {"watched": row.detach().square().sum() + 1e3, **plain(batch), "number": torch.tensor(7)}

    groups = [(1e-2, list(factors.values())), (1e-2, [row])]
    train(tiny, task, loss, groups, steps=3, batch_size=2)
    assert [f["watched"] for f in said] == pytest.approx([1e3 + size for size in sizes], rel=1e-6)
    assert [f["number"] for f in said] == [7.0] * 3
    for figures in said:
        assert figures["loss"] == pytest.approx(figures["denoising"], rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(bare, (*factors.values(), row), strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_training_with_its_step(
    tiny: Backbone, make_task: MakeTask, bad: float
) -> None:
    """It is looked at every tenth step and at the last: here at step 10."""
    said: list[int] = []
    task = make_task(tiny, log=lambda step, **figures: said.append(step))
    factors, row = lora_and_word(tiny, task)
    trained, seen = [*factors.values(), row], []
    plain = usual(tiny)

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        seen.append(1)
        return plain(batch) | {"odd": (bad if len(seen) == 3 else 0.0) * row.square().sum()}

    with pytest.raises(UserError, match="learning rate") as caught:
        train(tiny, task, loss, [(1e-2, trained)], steps=15, batch_size=2)
    assert "concept dog" in str(caught.value) and f"the loss is {bad} at step 2" in str(caught.value)
    assert said == [0, 1] and len(seen) == 11


def test_a_norm_that_nothing_trained_comes_before_is_trained(tiny: Backbone, make_task: MakeTask) -> None:
    """torch 2.13 crashes in the backward pass of a GroupNorm in channels_last whose input has no gradient."""
    name = "down_blocks.0.resnets.0.norm1.weight"
    weights = tiny.replace_weights({name: tiny.denoiser.get_parameter(name)})
    train(tiny, make_task(tiny), usual(tiny), [(1e-2, weights)], steps=2, batch_size=2)
    assert float((weights[name] - tiny.as_loaded(name)).detach().abs().max()) > 1e-3


@pytest.mark.parametrize("below_a_lora", [False, True])
def test_replaced_weights_are_trained_and_the_originals_stay(
    tiny: Backbone, make_task: MakeTask, below_a_lora: bool
) -> None:
    """Adam's first step takes every entry with a gradient by the learning rate, from the value it was given."""
    task = make_task(tiny)
    originals = dict(tiny.denoiser.named_parameters())
    kept = {k: v.detach().clone() for k, v in originals.items()}
    weights = tiny.replace_weights({k: kept[k] * 1.5 for k in WEIGHTS})
    factors, row = (
        lora_and_word(tiny, task) if below_a_lora else ({}, tiny.add_token("<v1>", tiny.word_embedding("dog")))
    )
    train(tiny, task, usual(tiny), [(1e-3, list(weights.values()))], steps=1, batch_size=4)
    for name, weight in weights.items():
        moved = (weight.detach() - kept[name] * 1.5).abs()
        assert float(moved.max()) == pytest.approx(1e-3, rel=1e-2) and float(moved.median()) > 0.9e-3
    assert torch.equal(row, tiny.word_embedding("dog"))
    assert not any(f.any() for k, f in factors.items() if k.endswith("lora_B"))
    tiny.restore()
    for name, parameter in tiny.denoiser.named_parameters():
        assert parameter is originals[name] and torch.equal(parameter, kept[name]) and parameter.grad is None


@pytest.mark.parametrize(("steps", "batch_size"), [(1, 1), (3, 2), (2, 5)])
def test_evaluations_are_steps_times_batch(tiny: Backbone, make_task: MakeTask, steps: int, batch_size: int) -> None:
    before = tiny.unet_evaluations
    learn(tiny, make_task(tiny), steps=steps, batch_size=batch_size)
    assert tiny.unet_evaluations - before == steps * batch_size


def test_trainable_parameters_are_counted(tiny: Backbone, make_task: MakeTask) -> None:
    learned = learn(tiny, make_task(tiny), steps=1)
    tiny.trainable_parameters = 0
    learn(tiny, make_task(tiny), steps=1)
    assert tiny.trainable_parameters == sum(p.numel() for p in learned)


def test_of_two_phases_the_larger_number_of_trainable_parameters_counts(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny)
    factors, row = lora_and_word(tiny, task)
    tiny.trainable_parameters = 0
    for phase, some in (("small", [row]), ("large", list(factors.values())), ("small again", [row])):
        train(tiny, task, usual(tiny), [(1e-4, some)], steps=1, batch_size=1, phase=phase)
    assert tiny.trainable_parameters == sum(f.numel() for f in factors.values())


# Batches


def tensors_of(batch: Batch) -> tuple[torch.Tensor, ...]:
    return batch.latents, batch.noise, batch.noisy, batch.timesteps


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(a.template == b.template for a, b in pairs) and all(
        torch.equal(x, y) for a, b in pairs for x, y in zip(tensors_of(a), tensors_of(b), strict=True)
    )


def alike(first: list[Batch], second: list[Batch]) -> bool:
    """Whether any tensor is the same in both."""
    pairs = zip(first, second, strict=True)
    return any(torch.equal(x, y) for a, b in pairs for x, y in zip(tensors_of(a), tensors_of(b), strict=True))


def test_batches_depend_on_seed_phase_and_concept_alone(tiny: Backbone, make_task: MakeTask) -> None:
    def drawn(phase: str = "train", steps: int = 6, **of_the_task) -> list[Batch]:
        return list(batches(tiny, make_task(tiny, **of_the_task), steps, 3, phase))

    first = drawn()
    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.get_rng_state()
    full_of_parts(tiny, make_task(tiny, "vase"))  # whatever is installed, and in whichever task
    assert same(drawn(number=4, log=print), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(drawn(steps=4), first[:4])
    for other in ({"seed": 1}, {"phase": "fisher"}, {"concept": "dog2"}):
        assert not alike(drawn(**other), first), other
    assert not alike(first[:3], first[3:])


def test_batches_come_one_by_one_and_disturb_nobody(tiny: Backbone, make_task: MakeTask) -> None:
    """Two that are drawn in turns are those that are drawn one after the other."""
    task, kept = make_task(tiny), []
    for pair in zip(batches(tiny, task, 4, 2, "a"), batches(tiny, task, 4, 2, "b"), strict=True):
        kept.append(pair)
    assert same([a for a, _ in kept], list(batches(tiny, task, 4, 2, "a")))
    assert same([b for _, b in kept], list(batches(tiny, task, 4, 2, "b")))


def test_a_batch_holds_the_noised_latents_of_its_concept(tiny: Backbone, make_task: MakeTask) -> None:
    task, latents = make_task(tiny), Latents(tiny, make_task(tiny))
    for batch in batches(tiny, task, 5, 4, "train"):
        a = alphas_cumprod()[batch.timesteps].float().view(4, 1, 1, 1)
        expected = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
        torch.testing.assert_close(batch.noisy, expected, atol=1e-5, rtol=1e-4)
        for z in batch.latents:  # a draw lies within the posterior of one of the pictures
            far = ((z - latents.mean) / latents.std).abs().flatten(1).max(1).values
            assert float(far.min()) < 6
        assert not any(t.requires_grad for t in tensors_of(batch))


def test_training_consumes_exactly_the_batches(tiny: Backbone, make_task: MakeTask) -> None:
    task, met = make_task(tiny), []
    factors, _ = lora_and_word(tiny, task)
    plain = usual(tiny)

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        met.append(batch)
        return plain(batch)

    for phase, templates in (("train", TEMPLATES), ("stage 2", ("my {}", "the {} here"))):
        met.clear()
        train(tiny, task, loss, [(1e-2, list(factors.values()))], 5, 3, phase, templates)
        assert same(met, list(batches(tiny, task, 5, 3, phase, templates)))
        assert len(met) == 5


def test_templates_are_drawn_from_those_given(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny)
    usual_ones = list(batches(tiny, task, 40, 1, "train"))
    assert {b.template for b in usual_ones} == {"a photo of a {}", "a picture of a {}", "a {}"}
    two = list(batches(tiny, task, 40, 1, "train", ("my {}", "the {} here")))
    assert {b.template for b in two} == {"my {}", "the {} here"}
    # the words move none of the rest
    for a, b in zip(usual_ones, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(tensors_of(a), tensors_of(b), strict=True))


def test_the_given_template_is_what_the_unet_reads(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny)
    factors, _ = lora_and_word(tiny, task)
    with torch.no_grad():
        expected = tiny.encode_prompts(["the <v1> dog here"])
    with watched(tiny) as calls:
        train(tiny, task, usual(tiny), [(1e-4, list(factors.values()))], 3, 2, templates=("the {} here",))
    assert len(calls) == 3
    for _, _, words, _ in calls:
        assert words.shape[0] == 2 and torch.equal(words, expected.expand(2, -1, -1))


def test_the_phase_is_logged_with_every_step(tiny: Backbone, make_task: MakeTask) -> None:
    said: list[tuple[str, int]] = []
    task = make_task(tiny, log=lambda step, phase, **figures: said.append((phase, step)))
    factors, row = lora_and_word(tiny, task)
    train(tiny, task, usual(tiny), [(1e-4, [row])], 2, 1, "stage 1")
    train(tiny, task, usual(tiny), [(1e-4, list(factors.values()))], 3, 1, phase="stage 2")
    assert said == [("stage 1", 0), ("stage 1", 1), ("stage 2", 0), ("stage 2", 1), ("stage 2", 2)]


def test_a_parameter_of_the_backbone_itself_is_not_trained_in_silence(tiny: Backbone, make_task: MakeTask) -> None:
    task = make_task(tiny)
    factors, _ = lora_and_word(tiny, task)
    own = tiny.denoiser.get_parameter("conv_in.weight")
    for named in ([own], [*factors.values(), own]):
        with pytest.raises(RulesError, match="replace_weights"):
            train(tiny, task, denoising(tiny, "<v1> dog"), [(1e-3, named)], 1, 1)


def test_a_draw_names_the_pictures_it_is_made_of(tiny: Backbone, make_task: Callable[..., Task]) -> None:
    latents = Latents(tiny, make_task(tiny, n=3))
    latents.std.zero_()
    drawn, which = latents.sample(50, torch.Generator().manual_seed(0))
    assert set(which.tolist()) == {0, 1, 2}
    for z, k in zip(drawn, which.tolist(), strict=True):
        assert torch.equal(z, latents.mean[k]) or torch.equal(z, latents.mean[k + 3])  # as it is, or mirrored


def test_further_terms_are_asked_for_once_a_step_and_added(tiny: Backbone, make_task: MakeTask) -> None:
    row = tiny.add_token("<v1>", tiny.word_embedding("dog"))
    asked: list[int] = []
    curve: list[dict[str, float]] = []

    def far() -> dict[str, torch.Tensor]:
        asked.append(1)
        return {"far": (row - 1).square().sum()}

    task = make_task(tiny, log=lambda step, **figures: curve.append(figures))
    plain = denoising(tiny, "<v1> dog", far, dict)

    def loss(batch: Batch) -> tuple[dict, dict]:
        return plain(batch), {"shown": torch.tensor(5.0)}

    expected = float((row.detach() - 1).square().sum())
    train(tiny, task, loss, [(1e-3, [row])], steps=2, batch_size=1)
    assert len(asked) == 2 and curve[0]["far"] == pytest.approx(expected) and curve[0]["shown"] == 5
    for figures in curve:
        assert figures["loss"] == pytest.approx(figures["denoising"] + figures["far"], rel=1e-6)


# The four places to enter the loop


def trained(tiny: Backbone, make_task: MakeTask, steps: int = 2, **hooks: object) -> tuple[dict, list[dict]]:
    """(the LoRA's A and B and the word's row after some steps, what was logged)."""
    tiny.restore()
    curve: list[dict] = []
    task = make_task(tiny, log=lambda step, **figures: curve.append(figures))
    factors, row = lora_and_word(tiny, task)
    train(tiny, task, usual(tiny), [(1e-2, factors), (1e-2, {"word": row})], steps, 2, **hooks)
    return {k: v.detach().clone() for k, v in (factors | {"word": row}).items()}, curve


def far(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
    return (parameters["word"] - 1).square().sum()


def test_a_penalty_is_a_term_of_the_parameters_by_name(tiny: Backbone, make_task: MakeTask) -> None:
    seen: list[tuple[torch.Tensor, set[str]]] = []

    def penalty(batch: Batch, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append((batch.noisy, set(parameters)))
        return {"far": 0.5 * far(parameters)}

    after, curve = trained(tiny, make_task, penalty=penalty)
    assert len(seen) == 2 and seen[0][1] == set(after) and not torch.equal(seen[0][0], seen[1][0])
    for figures in curve:
        assert figures["loss"] == pytest.approx(figures["denoising"] + figures["far"], rel=1e-6)
    plain, _ = trained(tiny, make_task)
    assert far(after) < far(plain)


def test_a_term_that_is_to_be_minimised_and_asks_for_no_gradient_is_an_error(
    tiny: Backbone, make_task: MakeTask
) -> None:
    with pytest.raises(RulesError, match="its term 'far' is to be minimised and has no gradient"):
        trained(tiny, make_task, penalty=lambda batch, parameters: ({"far": far(parameters).detach()}, {}))


def test_gradients_of_every_term_are_autograds_own(tiny: Backbone, make_task: MakeTask) -> None:
    """Of the penalty by the closed form 2 w (row - 1); of both together the step is the one without the hook."""
    noted: list[dict] = []

    def note(batch: Batch, terms: dict, gradients: dict[str, dict[str, torch.Tensor]]) -> None:
        noted.append({term: {k: g.clone() for k, g in of_term.items()} for term, of_term in gradients.items()})
        assert set(terms) == set(gradients) == {"denoising", "far"}

    def penalty(batch: Batch, parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        rows.append(parameters["word"].detach().clone())
        return {"far": 30 * far(parameters)}  # far above norm 1, to which the sum is clipped

    rows: list[torch.Tensor] = []
    hooked, curve = trained(tiny, make_task, penalty=penalty, before_step=note)
    for gradients, row in zip(noted, rows, strict=True):
        assert set(gradients["far"]) == {"word"}
        torch.testing.assert_close(gradients["far"]["word"], 60 * (row - 1))
        assert len(gradients["denoising"]) > 8 and "word" in gradients["denoising"]
    assert curve[0]["gradient_norm"] > 60
    plain, _ = trained(tiny, make_task, penalty=penalty)
    for name, value in hooked.items():
        torch.testing.assert_close(value, plain[name], atol=1e-5, rtol=1e-4)


def test_what_a_method_makes_of_the_gradients_is_what_moves_the_parameters(tiny: Backbone, make_task: MakeTask) -> None:
    def only_the_word(batch: Batch, terms: dict, gradients: dict[str, dict[str, torch.Tensor]]) -> None:
        for name, g in gradients["denoising"].items():
            gradients["denoising"][name] = g if name == "word" else torch.zeros_like(g)

    start, _ = trained(tiny, make_task, steps=0)
    after, curve = trained(tiny, make_task, before_step=only_the_word)
    assert all(torch.equal(after[k], start[k]) == (k != "word") for k in start)
    assert curve[0]["gradient_norm"] > 0


def test_after_a_step_a_method_sees_what_it_moved(tiny: Backbone, make_task: MakeTask) -> None:
    """By AdamW's first step, of size lr wherever there is a gradient (Kingma, Ba 2015: m / sqrt(v) is its sign)."""
    seen: list[tuple[dict, dict]] = []
    after, _ = trained(
        tiny, make_task, after_step=lambda before, now: seen.append((before, {k: v.clone() for k, v in now.items()}))
    )
    start, _ = trained(tiny, make_task, steps=0)
    assert all(torch.equal(seen[0][0][k], start[k]) and torch.equal(seen[1][1][k], after[k]) for k in start)
    assert all(torch.equal(seen[0][1][k], seen[1][0][k]) for k in start)
    moved = (seen[0][1]["word"] - seen[0][0]["word"]).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 1e-2), atol=1e-4, rtol=1e-2)


def test_an_error_counts_by_the_weight_of_its_time(tiny: Backbone, make_task: MakeTask) -> None:
    """A process whose times weigh differently, by hand; Stable Diffusion's weigh the same."""

    class Weighing(Diffusion):
        def weight(self, t: torch.Tensor) -> torch.Tensor:
            return 1.0 + t / 1000

    (batch,) = batches(tiny, make_task(tiny), 1, 3, "train")
    words, usual_process = tiny.encode_prompts(["a dog"]).expand(3, -1, -1), tiny.process
    squared = (tiny.predict(batch.noisy, batch.timesteps, words) - batch.noise).square().flatten(1).mean(1)
    torch.testing.assert_close(error(tiny, batch, words), squared.mean())
    try:
        tiny._process = Weighing(tiny.pipe.scheduler)
        torch.testing.assert_close(error(tiny, batch, words), ((1 + batch.timesteps / 1000) * squared).mean())
    finally:
        tiny._process = usual_process


@pytest.mark.parametrize("with_norms", [True, False])
def test_the_gradient_of_the_latents_is_asked_for_where_a_group_norm_is_trained_and_nowhere_else(
    tiny: Backbone, make_task: MakeTask, monkeypatch: pytest.MonkeyPatch, with_norms: bool
) -> None:
    """In every step: torch's GroupNorm crashes in channels_last without it, in some steps of the many."""
    norm = next(name for name, module in tiny.denoiser.named_modules() if isinstance(module, nn.GroupNorm))
    name = f"{norm}.weight" if with_norms else next(iter(WEIGHTS))
    weights = tiny.replace_weights({name: tiny.denoiser.get_parameter(name) * 1.0})
    asked: list[int] = []
    genuine = training._scaled_gradients

    def noted(*args: Any, also: Sequence[torch.Tensor] = (), **more: Any) -> dict[str, torch.Tensor]:
        asked.append(len(also))
        return genuine(*args, also=also, **more)

    monkeypatch.setattr(training, "_scaled_gradients", noted)
    task = make_task(tiny, "dog")
    train(tiny, task, usual(tiny), [(1e-5, weights)], 12, 1)
    assert asked == [int(with_norms)] * 12
