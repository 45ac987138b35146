"""Norms of what is trained, against the products and differences themselves."""

from collections.abc import Callable

import pytest
import torch
from learners import CONCEPTS, learn, product

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.seqlora import SequentialLora
from cpbench.baselines.stamina import Stamina
from cpbench.learning import norms, training


def test_a_loras_norm_is_that_of_its_product_convolutions_included(tiny: Backbone) -> None:
    generator = torch.Generator().manual_seed(0)
    factors = tiny.add_lora(3, ("to_q", "conv1"), generator)
    with torch.no_grad():
        for name, factor in factors.items():
            if name.endswith("lora_B"):
                factor.copy_(torch.randn(factor.shape, generator=generator))
    layers = [name.removesuffix(".lora_A") for name in factors if name.endswith("lora_A")]
    expected = sum((product(factors, layer) ** 2).sum() for layer in layers) ** 0.5
    assert {factors[f"{layer}.lora_A"].dim() for layer in layers} == {2, 4}
    assert float(norms.lora_norm(factors)) == pytest.approx(expected, rel=1e-4)


def test_vera_tells_the_norm_of_its_vectors(tiny: Backbone) -> None:
    vectors = tiny.add_lora(2, ("to_q",), adapter_type="vera", seed=1)
    expected = sum(float(v.detach().double().square().sum()) for v in vectors.values()) ** 0.5
    assert expected > 0 and float(norms.trained_norms(tiny)["vector_norm"]) == pytest.approx(expected)


def test_only_what_is_trained_is_told(tiny: Backbone) -> None:
    name = "mid_block.attentions.0.proj_in.weight"
    (weight,) = tiny.replace_weights({name: tiny.denoiser.get_parameter(name) + 0.5}).values()
    first, second = (tiny.add_token(f"<v{k}>", torch.full_like(tiny.word_embedding("dog"), k)) for k in (1, 2))
    n, d = weight.numel(), len(first)
    tiny.train_only([weight, second])
    assert {k: float(v) for k, v in norms.trained_norms(tiny).items()} == pytest.approx(
        {"weight_change": 0.5 * n**0.5, "token_norm": 2 * d**0.5}, rel=1e-4
    )
    tiny.train_only([first, second])
    assert {k: float(v) for k, v in norms.trained_norms(tiny).items()} == pytest.approx({"token_norm": 1.5 * d**0.5})
    tiny.train_only([])
    assert norms.trained_norms(tiny) == {}


def test_every_step_tells_them_as_they_are_after_it(tiny: Backbone, make_task: Callable) -> None:
    seen = []

    def look(phase: str, step: int) -> None:
        row = next(iter(tiny.token_embeddings.values()))
        layers = [name.removesuffix(".lora_A") for name in tiny.lora_parameters if name.endswith("lora_A")]
        whole = sum(float((product(tiny.lora_parameters, layer) ** 2).sum()) for layer in layers) ** 0.5
        seen.append((whole, float(row.detach().square().sum()) ** 0.5))

    curve = learn(SequentialLora, tiny, make_task, 1, None, look).curve
    assert [f["lora_norm"] for f in curve] == pytest.approx([lora for lora, _ in seen], rel=1e-4)
    assert [f["token_norm"] for f in curve] == pytest.approx([row for _, row in seen])
    assert 0 < curve[0]["lora_norm"] < curve[-1]["lora_norm"]


def test_full_weights_drift_from_what_was_loaded(tiny: Backbone, make_task: Callable) -> None:
    curve: list[dict] = []
    task = make_task(tiny, CONCEPTS[0], log=lambda step, **figures: curve.append(figures))
    theta = tiny.replace_weights(dict(tiny.denoiser.named_parameters()))
    loss = training.denoising(tiny, "dog")
    training.train(tiny, task, loss, [(1e-3, list(theta.values()))], 3, 1)
    moved = [(theta[k] - tiny.as_loaded(k)).detach().square().sum() for k in theta]
    assert curve[-1]["weight_change"] == pytest.approx(float(torch.stack(moved).sum().sqrt()))
    assert "lora_norm" not in curve[0] and "token_norm" not in curve[0]


def test_stamina_tells_its_own(tiny: Backbone, make_task: Callable) -> None:
    curve = learn(Stamina, tiny, make_task, 1, None).curve
    assert curve[0]["lora_norm"] == 0 < curve[-1]["lora_norm"] and curve[0]["token_norm"] > 0
