"""Merged layers against the layers with an adapter that they stand for, in every precision, and no trace of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.loading import load
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate

ADAPTERS = ("lora", "vera", "dora")
LINEAR = ("to_q", "to_v", "ff.net.2")
TARGETS = {"lora": (*LINEAR, "conv1"), "vera": LINEAR, "dora": (*LINEAR, "conv1")}


@pytest.fixture(scope="module")
def _loaded_half(tiny_folder: Path) -> Backbone:
    return load(str(tiny_folder), loading=BackboneConfig(dtype="bfloat16"))


@pytest.fixture
def half(_loaded_half: Backbone) -> Iterator[Backbone]:
    """The tiny backbone in bfloat16, restored after every test."""
    yield _loaded_half
    _loaded_half.restore()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def add_trained(backbone: Backbone, adapter: str, scale: float = 0.1) -> None:
    """An adapter whose parameters are no longer as they start."""
    parameters = backbone.add_lora(4, TARGETS[adapter], seeded(0), adapter_type=adapter)
    for number, parameter in enumerate(parameters.values()):
        parameter.data += torch.randn(parameter.shape, generator=seeded(number)) * scale


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("replaced", [False, True])
def test_merged_layers_compute_the_same_and_leave_no_trace(tiny: Backbone, replaced: bool, adapter: str) -> None:
    before = fingerprint(tiny)
    if replaced:
        tiny.replace_weights({"conv_in.weight": tiny.denoiser.conv_in.weight * 1.5})
    add_trained(tiny, adapter)
    noisy, t = torch.randn(2, *tiny.latent_shape, generator=seeded(1)), torch.tensor([100, 700])
    words = tiny.encode_prompts(["a dog", "a cat in the snow"])
    layers = {name: type(m) for name, m in tiny.denoiser.named_modules()}
    with torch.no_grad():
        wrapped = tiny.predict(noisy, t, words)
        hashed = tiny.installed_hash()
        with tiny.generating():
            merged = tiny.predict(noisy, t, words)
            assert not any(n in name for n in ("lora", "vera") for name, _ in tiny.denoiser.named_modules())
        torch.testing.assert_close(tiny.predict(noisy, t, words), wrapped, rtol=0, atol=0)
    torch.testing.assert_close(merged, wrapped, rtol=1e-4, atol=1e-5)
    assert {name: type(m) for name, m in tiny.denoiser.named_modules()} == layers and tiny.installed_hash() == hashed
    tiny.restore()
    assert fingerprint(tiny) == before
    with torch.no_grad():
        assert not torch.allclose(tiny.predict(noisy, t, words), wrapped, atol=1e-3)  # the LoRA did something


def test_a_failure_while_merged_puts_the_loras_back(tiny: Backbone) -> None:
    before = fingerprint(tiny)
    tiny.add_lora(2, ("to_k",), seeded(0))
    with_lora = fingerprint(tiny)
    with pytest.raises(RuntimeError, match="while drawing"), tiny.generating():
        raise RuntimeError("while drawing")
    assert fingerprint(tiny) == with_lora
    tiny.restore()
    assert fingerprint(tiny) == before


@contextmanager
def apart(backbone: Backbone) -> Iterator[None]:
    """Sampling as before: layers with an adapter and float32 weights beside those of lower precision, under autocast."""
    with torch.autocast(backbone.device.type, backbone.dtype, enabled=backbone.dtype != torch.float32):
        yield


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_merged_pictures_are_no_further_from_those_of_float32_than_with_adapters_apart(
    tiny: Backbone, half: Backbone, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, by the mean absolute difference of 16 pictures; the two differ by chance by less than a tenth."""
    cell = [SampleRequest("a dog in the snow", 0, "dog", "a {} in the snow", index) for index in range(16)]
    for backbone in (tiny, half):
        add_trained(backbone, adapter, scale=0.03)
    exact, pictures = generate(tiny, cell, Sampler(4)).astype(float), [generate(half, cell, Sampler(4))]
    with monkeypatch.context() as patch:
        patch.setattr(half, "generating", lambda: apart(half))
        pictures.append(generate(half, cell, Sampler(4)))
    merged, separate = (np.abs(p - exact).mean() for p in pictures)
    assert 0 < merged <= 1.1 * separate


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_while_sampling_every_weight_has_the_pipelines_precision(half: Backbone, adapter: str) -> None:
    """Weights that a method replaced are in float32, also below an adapter; layers cannot mix the two by themselves."""
    below = next(n for n, m in half.denoiser.named_modules() if n.endswith("to_q") and isinstance(m, nn.Linear))
    norm = next(n for n, _ in half.text_encoder.named_parameters() if n.endswith("final_layer_norm.weight"))
    names = (f"{below}.weight", "conv_in.weight", "conv_in.bias", f"text_encoder.{norm}")
    replaced = half.replace_weights({n: 1.01 * half.as_loaded(n).float() for n in names})
    half.add_token("<v1>", half.word_embedding("dog"))
    add_trained(half, adapter)
    with half.generating():
        parameters = [p for part in (half.denoiser, half.text_encoder) for p in part.parameters()]
        assert {p.dtype for p in parameters} == {torch.bfloat16} and not any(p.requires_grad for p in parameters)
    assert all(p.dtype == torch.float32 for p in replaced.values())
    assert half.denoiser.conv_in.weight is replaced["conv_in.weight"]
    generate(half, [SampleRequest("a <v1>", 0, "dog", "a {}", 0)], Sampler(1))


def test_merging_rounds_once(half: Backbone) -> None:
    """W + B A as numpy has it in double precision, rounded to bfloat16."""
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    W = half.denoiser.get_submodule(name).weight.float().numpy().astype(float)
    sides = half.add_lora(4, (name,), seeded(0))
    sides[f"{name}.lora_B"].data = torch.randn(sides[f"{name}.lora_B"].shape, generator=seeded(1))
    A, B = (sides[f"{name}.lora_{side}"].detach().numpy().astype(float) for side in "AB")
    with half.generating():
        merged = half.denoiser.get_submodule(name).weight
        assert merged.dtype == torch.bfloat16
        exact = torch.from_numpy(W + B @ A)
        # half a unit in the last of bfloat16's 8 digits, and float32's own error
        assert ((merged.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
