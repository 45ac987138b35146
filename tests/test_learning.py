"""The training loop against formulas written out here: targets, noisy latents, the loss of the first step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from cpbench import adapters
from cpbench.backbones import Backbone, fingerprint
from cpbench.learning import TEMPLATES, Batch, Latents, noise_scheduler, target, train
from cpbench.method import Task

MakeTask = Callable[..., Task]


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's: betas whose roots are evenly spaced between the roots of 0.00085 and 0.012."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.tensor(np.cumprod(1 - betas))


def lora_and_word(backbone: Backbone, task: Task) -> tuple[dict[str, nn.Parameter], nn.Parameter]:
    row = backbone.add_token("<v1>", backbone.word_embedding(task.class_noun))
    return backbone.add_lora(2, adapters.ATTENTION, task.generator("lora")), row


def learn(backbone: Backbone, task: Task, steps: int = 3, batch_size: int = 2, **more) -> list[torch.Tensor]:
    """A LoRA and a word after a short training; the backbone is restored."""
    factors, row = lora_and_word(backbone, task)
    train(backbone, task, "<v1> dog", [(1e-2, list(factors.values())), (1e-2, [row])], steps, batch_size, **more)
    learned = [p.detach().clone() for p in (*factors.values(), row)]
    backbone.restore()
    return learned


@contextmanager
def watched(backbone: Backbone) -> Iterator[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]]:
    """(noisy latents, timesteps, words, prediction) of every call of the UNet."""
    calls: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def note(module: nn.Module, args: tuple, out: object) -> None:
        calls.append((*(a.detach().clone() for a in args), out.sample.detach().clone()))

    hook = backbone.unet.register_forward_hook(note)
    try:
        yield calls
    finally:
        hook.remove()


# What the UNet should predict


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_the_formula_of_the_prediction_type(tiny: Backbone, kind: str) -> None:
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler.from_config(tiny.pipe.scheduler.config, prediction_type=kind)
    g = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 1, 500, 999])
    x, e = (torch.randn(4, 2, 3, 3, generator=g) for _ in range(2))
    a = alphas_cumprod()[t].float().view(4, 1, 1, 1)
    expected = {"epsilon": e, "v_prediction": a.sqrt() * e - (1 - a).sqrt() * x, "sample": x}[kind]
    got = target(scheduler, Batch(x, e, scheduler.add_noise(x, e, t), t, ""))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_training_scheduler_adds_noise_as_the_pipeline_was_trained(tiny: Backbone) -> None:
    scheduler = noise_scheduler(tiny)
    assert scheduler.config.num_train_timesteps == 1000
    t = torch.arange(1000)
    noisy = scheduler.add_noise(torch.ones(1000, 1), torch.full((1000, 1), 2.0), t)
    a = alphas_cumprod().float().unsqueeze(1)
    torch.testing.assert_close(noisy, a.sqrt() + 2 * (1 - a).sqrt(), atol=1e-5, rtol=1e-5)


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
    drawn = latents.draw(400, torch.Generator().manual_seed(0)).flatten(1)
    which = (drawn.mean(1) / 100).round().long()
    assert (which.bincount(minlength=4) > 60).all()
    for i, spread in enumerate([0.5, 1.0, 2.0, 4.0]):
        z = (drawn[which == i] - 100 * i) / spread
        assert abs(float(z.mean())) < 0.05 and float(z.std()) == pytest.approx(1, abs=0.05)
    again = latents.draw(400, torch.Generator().manual_seed(0)).flatten(1)
    assert torch.equal(drawn, again)


# Training


@pytest.mark.parametrize("named", ["lora", "word", "both", "one factor"])
def test_only_the_named_parameters_move(tiny: Backbone, make_task: MakeTask, named: str) -> None:
    task = make_task(tiny)
    tiny.add_token("<v0>", tiny.word_embedding("vase"))
    row = tiny.add_token("<v1>", tiny.word_embedding("dog"))
    values = {
        k: torch.randn(v.shape, generator=torch.Generator().manual_seed(i)) * 0.1
        for i, (k, v) in enumerate(tiny.add_lora(2, adapters.ATTENTION, task.generator("lora")).items())
    }
    for k, v in tiny.factors.items():
        v.data.copy_(values[k])
    factors = list(tiny.factors.values())
    some = {"lora": factors, "word": [row], "both": [*factors, row], "one factor": factors[3:4]}[named]
    # ids, since the same parameter has other names below a wrapped layer
    names = {
        id(p): f"{part}.{n}:" for part in ("unet", "text_encoder") for n, p in getattr(tiny, part).named_parameters()
    }
    before = fingerprint(tiny)
    train(tiny, task, "<v1> dog", [(1e-2, some)], steps=2, batch_size=2)
    after = fingerprint(tiny)
    assert {k for k in before if before[k] != after[k]} == {names[id(p)] for p in some}
    assert before.keys() == after.keys()


def test_each_group_has_its_own_learning_rate(tiny: Backbone, make_task: MakeTask) -> None:
    """Adam's first step is the learning rate times the sign of the gradient, whatever its size."""
    task = make_task(tiny)
    factors, row = lora_and_word(tiny, task)
    factors = {k: v for k, v in factors.items() if k.endswith("lora_B")}  # A's gradient is 0 while B is
    before = [p.detach().clone() for p in (*factors.values(), row)]
    train(tiny, task, "<v1> dog", [(1e-2, list(factors.values())), (3e-3, [row])], steps=1, batch_size=2)
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


@pytest.mark.parametrize("other", ["seed", "purpose"])
def test_another_seed_or_purpose_gives_other_bits(tiny: Backbone, make_task: MakeTask, other: str) -> None:
    first = learn(tiny, make_task(tiny))
    changed = learn(tiny, make_task(tiny, seed=1)) if other == "seed" else learn(tiny, make_task(tiny), purpose="more")
    assert not any(torch.equal(a, b) for a, b in zip(first, changed, strict=True))


def test_the_first_loss_is_the_mean_square_of_what_was_predicted_against_the_noise(
    tiny: Backbone, make_task: MakeTask
) -> None:
    """All of step 0 by hand: latents, strata, noise, words, and the error of the UNet's own output."""
    n, said = 4, []
    task = make_task(tiny, log=lambda step, **figures: said.append((step, figures)))
    factors, row = lora_and_word(tiny, task)
    with watched(tiny) as calls:
        train(tiny, task, "<v1> dog", [(1e-4, [*factors.values(), row])], steps=1, batch_size=n)
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
    assert step == 0
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
                train(tiny, task, "<v1> dog", [(1e-4, list(factors.values()))], steps=1, batch_size=3)
        finally:
            tiny.pipe.scheduler = original
            tiny.restore()
        ((noisy, t, _, guess),) = calls
        g = task.generator("train")
        latents = Latents(tiny, task)
        z = latents.draw(3, g)
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
        train(tiny, task, "<v1> dog", [(1e-4, list(factors.values()))], steps=steps, batch_size=n)
    timesteps = torch.stack([t for _, t, _, _ in calls])
    assert sorted(map(tuple, (timesteps // 200).sort(1).values.tolist())) == [(0, 1, 2, 3, 4)] * steps
    assert len({tuple(row) for row in timesteps.tolist()}) == steps


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

    train(tiny, task, "<v1> dog", [(1e-2, [*factors.values(), row])], 5, 2, penalty=penalty)
    assert said[0]["pull"] == pytest.approx(start, rel=1e-5)
    assert said[0]["loss"] == pytest.approx(said[0]["denoising"] + said[0]["pull"], rel=1e-6)
    assert said[-1]["pull"] < said[0]["pull"]
    for k, v in factors.items():  # the pull is much the stronger: five steps of Adam, all upwards
        assert float((v.detach() - before[k]).min()) == pytest.approx(0.05, rel=0.05)


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
