"""The diffusion classifier against loops, numbers by hand, and one network that speaks in three ways."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.processes import process_of
from cpbench.learning import diffusion_classifier as dc
from cpbench.learning.training import Batch
from cpbench.method import Task

MakeTask = Callable[..., Task]
KINDS = ("epsilon", "v_prediction", "sample")
PHRASES = ("dog", "<v1> dog", "<v2> vase")
TIMESTEPS = (0, 40, 500, 999)
BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHA_BAR = torch.tensor(np.cumprod(1 - BETAS))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def roots(timesteps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a and s of z_t = a x + s eps, in float64."""
    bar = ALPHA_BAR[timesteps].view(-1, 1, 1, 1)
    return bar.sqrt(), (1 - bar).sqrt()


def batch_of(timesteps: tuple[int, ...], shape: tuple[int, ...], template: str = "a photo of a {}") -> Batch:
    t = torch.tensor(timesteps)
    x, noise = normal(len(t), *shape), normal(len(t), *shape, seed=1)
    a, s = roots(t)
    return Batch(x, noise, (a * x + s * noise).float(), t, template, torch.arange(len(x)))


def softmax(e: list[float], tau: float) -> list[float]:
    weights = [math.exp(-(x - min(e)) / tau) for x in e]
    return [w / sum(weights) for w in weights]


def readied(backbone: Backbone, seed: int = 0) -> dict[str, nn.Parameter]:
    """Two words and a LoRA that both tell in the UNet's output; returns the LoRA."""
    for n in (1, 2):
        backbone.add_token(f"<v{n}>", normal(16, seed=n) / 2)
    factors = backbone.add_lora(2, adapters.ATTENTION, torch.Generator())
    with torch.no_grad():
        for name, value in values_like(factors, seed).items():
            factors[name].copy_(value)
    return factors


def values_like(factors: dict[str, nn.Parameter], seed: int) -> dict[str, torch.Tensor]:
    return {k: normal(*v.shape, seed=100 * seed + i) / 2 for i, (k, v) in enumerate(factors.items())}


@contextmanager
def watched(backbone: Backbone) -> Iterator[list[int]]:
    """How many pictures each call of the UNet had."""
    calls: list[int] = []
    hook = backbone.denoiser.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    try:
        yield calls
    finally:
        hook.remove()


@contextmanager
def speaking(backbone: Backbone, kind: str) -> Iterator[None]:
    """The UNet's output, a guess of the noise, said as a guess of v or of the picture; the pipeline says so too."""

    def convert(module: nn.Module, args: tuple, kwargs: dict, out: object) -> object:
        z, t, eps = args[0].double(), kwargs["timestep"], out.sample.double()
        a, s = roots(t)
        x = (z - s * eps) / a
        out.sample = {"epsilon": eps, "v_prediction": a * eps - s * x, "sample": x}[kind].float()
        return out

    original, hook = backbone.pipe.scheduler, backbone.denoiser.register_forward_hook(convert, with_kwargs=True)
    backbone.pipe.scheduler = type(original).from_config(original.config, prediction_type=kind)
    try:
        yield
    finally:
        hook.remove()
        backbone.pipe.scheduler = original


# The distribution


def test_the_distribution_by_hand() -> None:
    """Errors apart by tau ln 2 halve the odds: 4 to 2 to 1; the second picture cannot tell two candidates apart."""
    tau = 0.05
    e = torch.tensor([[1, 1 + tau * math.log(2), 1 + tau * math.log(4)], [0.3, 0.3, 0.3 + 40 * tau]])
    P = dc.log_scores(e, tau).exp()
    expected = torch.tensor([[4 / 7, 2 / 7, 1 / 7], [0.5, 0.5, math.exp(-40) / 2]])
    torch.testing.assert_close(P, expected, atol=1e-5, rtol=1e-4)


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=6), st.sampled_from([0.01, 0.1, 1.0, 10.0]), st.floats(-100, 100)
)
def test_the_distribution_is_the_softmax_by_loop(e: list[float], tau: float, shift: float) -> None:
    both = torch.tensor([e, [x + shift for x in e]], dtype=torch.float64)  # what is common to all does not matter
    log_p = dc.log_scores(both, tau)
    for row in log_p:
        assert row.exp().tolist() == pytest.approx(softmax(e, tau), abs=1e-9)
        assert float(row.exp().sum()) == pytest.approx(1)
    assert torch.isfinite(log_p).all()  # differences of 1000 tau have a logarithm still


def test_cross_entropy_is_the_mean_over_pictures_by_loop() -> None:
    teacher, student = (dc.log_scores(normal(3, 4, seed=i).double(), 0.7) for i in (0, 1))
    by_loop = [
        -sum(math.exp(t) * s for t, s in zip(*pair, strict=True))
        for pair in zip(teacher.tolist(), student.tolist(), strict=True)
    ]
    assert float(dc.cross_entropy(teacher, student)) == pytest.approx(sum(by_loop) / 3)
    assert float(dc.cross_entropy(student, teacher)) != pytest.approx(sum(by_loop) / 3, rel=1e-3)


def test_cross_entropy_of_what_is_known() -> None:
    even, sure = torch.full((2, 4), math.log(1 / 4)), torch.tensor([[0.0, -1e4, -1e4, -1e4]] * 2)
    assert float(dc.cross_entropy(even, even)) == pytest.approx(math.log(4))  # entropy
    assert float(dc.cross_entropy(sure, sure)) == 0
    assert float(dc.cross_entropy(sure, even)) == pytest.approx(math.log(4))  # H(1_i, P) = - log P(i)


# Errors


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_errors_are_reduced_over_each_latent_alone(reduction: dc.Reduction) -> None:
    k, n, shape = 3, 2, (2, 3, 5)
    predicted, noise = normal(k, n, *shape), normal(n, *shape, seed=1)
    e = dc.errors(predicted, noise, reduction)
    assert e.shape == (n, k)
    for i in range(k):
        for j in range(n):
            pairs = zip(predicted[i, j].flatten().tolist(), noise[j].flatten().tolist(), strict=True)
            total = sum((p - q) ** 2 for p, q in pairs)
            assert float(e[j, i]) == pytest.approx(total / 30 if reduction == "mean" else total, rel=1e-5)


def test_the_mean_is_the_sum_with_another_temperature() -> None:
    predicted, noise = normal(3, 2, 2, 3, 5), normal(2, 2, 3, 5, seed=1)
    mean, total = (dc.errors(predicted, noise, r) for r in ("mean", "sum"))
    torch.testing.assert_close(dc.log_scores(mean, 0.01), dc.log_scores(total, 0.01 * 30), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(dc.errors(predicted, noise), mean, atol=0, rtol=0)


# The prediction type


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_output_of_any_kind_stands_for_the_true_noise(tiny: Backbone, kind: str) -> None:
    batch = batch_of(TIMESTEPS, (4, 3, 3))
    a, s = roots(batch.timesteps)
    x, eps = batch.latents.double(), batch.noise.double()
    perfect = {"epsilon": eps, "v_prediction": a * eps - s * x, "sample": x}[kind].float()
    process = process_of(type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config, prediction_type=kind))
    got = process.converted(perfect, batch.noisy, batch.timesteps, "epsilon")
    torch.testing.assert_close(got, batch.noise, atol=1e-4, rtol=1e-4)


def test_an_error_in_v_is_one_in_epsilon_by_the_signals_share(tiny: Backbone) -> None:
    """|eps - eps_theta|^2 = alpha_bar |v - v_theta|^2: 0.9991 of it at t = 0, 0.0047 of it at t = 999."""
    batch, guess = batch_of(TIMESTEPS, (4, 3, 3)), normal(4, 4, 3, 3, seed=5)
    a, s = roots(batch.timesteps)
    v = a * batch.noise - s * batch.latents
    own = type(tiny.pipe.scheduler).from_config(tiny.pipe.scheduler.config, prediction_type="v_prediction")
    eps = process_of(own).converted(guess, batch.noisy, batch.timesteps, "epsilon")
    in_eps, in_v = ((d.double() ** 2).flatten(1).sum(1) for d in (batch.noise - eps, v - guess))
    torch.testing.assert_close(in_eps, ALPHA_BAR[batch.timesteps] * in_v, rtol=1e-3, atol=1e-5)
    assert ALPHA_BAR[999] < 0.005 < 0.999 < ALPHA_BAR[0]


def test_a_network_has_one_distribution_however_it_speaks(tiny: Backbone) -> None:
    readied(tiny)
    batch, found = batch_of(TIMESTEPS, tiny.latent_shape), {}
    for kind in KINDS:
        with speaking(tiny, kind), torch.no_grad():
            found[kind] = dc.errors(dc.predicted_noise(tiny, batch, PHRASES), batch.noise)
    P = {kind: dc.log_scores(e, 0.01).exp() for kind, e in found.items()}
    for kind in KINDS[1:]:
        torch.testing.assert_close(found[kind], found["epsilon"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(P[kind], P["epsilon"], rtol=0, atol=1e-3)
    assert float((P["epsilon"] - 1 / 3).abs().max()) > 0.02  # candidates differ: there was something to get wrong


# One call for all candidates


@pytest.mark.parametrize("teacher", [False, True])
def test_one_call_for_all_is_what_a_call_each_gives(tiny: Backbone, teacher: bool) -> None:
    installed = readied(tiny)
    factors = values_like(installed, 3) if teacher else None
    batch = batch_of(TIMESTEPS, tiny.latent_shape, "a picture of a {}")
    before = tiny.unet_evaluations
    with watched(tiny) as calls, torch.no_grad():
        together = dc.predicted_noise(tiny, batch, PHRASES, factors)
    assert calls == [len(PHRASES) * len(TIMESTEPS)]
    assert tiny.unet_evaluations - before == len(PHRASES) * len(TIMESTEPS)
    assert together.shape == (len(PHRASES), len(TIMESTEPS), *tiny.latent_shape)
    with torch.no_grad():
        for name, value in (factors or {}).items():
            installed[name].copy_(value)
        for i, phrase in enumerate(PHRASES):
            words = tiny.encode_prompts([f"a picture of a {phrase}"])
            for j, t in enumerate(TIMESTEPS):
                alone = tiny.denoiser(batch.noisy[j : j + 1], t, words).sample[0]
                torch.testing.assert_close(together[i, j], alone, atol=1e-5, rtol=1e-4)
    apart = [(together[i] - together[j]).abs().max() for i in range(3) for j in range(i)]
    assert float(min(apart)) > 1e-3  # else their order could not be seen


def test_a_teachers_values_give_what_the_backbone_gives_with_them_installed(tiny: Backbone) -> None:
    own, batch = readied(tiny), batch_of(TIMESTEPS, tiny.latent_shape)
    teacher, kept = values_like(own, 1), {k: v.detach().clone() for k, v in own.items()}
    with torch.no_grad():
        student = dc.predicted_noise(tiny, batch, PHRASES)
        lent = dc.predicted_noise(tiny, batch, PHRASES, teacher)
        again = dc.predicted_noise(tiny, batch, PHRASES)
    assert torch.equal(student, again) and all(torch.equal(own[k], kept[k]) for k in kept)
    tiny.restore()
    for n in (1, 2):
        tiny.add_token(f"<v{n}>", normal(16, seed=n) / 2)
    tiny.add_lora(2, adapters.ATTENTION, values=teacher)
    with torch.no_grad():
        installed = dc.predicted_noise(tiny, batch, PHRASES)
    torch.testing.assert_close(lent, installed, atol=1e-6, rtol=1e-5)
    assert float((lent - student).abs().max()) > 1e-2


def test_gradients_go_to_what_is_installed_and_not_past_a_teacher(tiny: Backbone) -> None:
    own, batch = readied(tiny), batch_of(TIMESTEPS, tiny.latent_shape)
    tiny.train_only(own.values())
    for i in range(len(PHRASES)):  # every candidate has a way to every factor that words go through
        e = dc.errors(dc.predicted_noise(tiny, batch, PHRASES), batch.noise)[:, i].sum()
        gradients = torch.autograd.grad(e, list(own.values()))
        assert all(float(g.abs().max()) > 0 for g in gradients)
    lent = dc.predicted_noise(tiny, batch, PHRASES, values_like(own, 1))
    assert not lent.requires_grad
