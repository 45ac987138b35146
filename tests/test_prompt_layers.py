"""Keys and values of a prompt computed once per pipeline call: the same pictures bit for bit, and nothing left behind."""

from collections import Counter
from contextlib import nullcontext

import architectures
import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention

from cpbench.backbones import loading, prompt_layers
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.sampling import Sampler, SampleRequest, generate

CELL = [SampleRequest(f"a {noun} in the snow", 0, "dog", "a {} in the snow", 0) for noun in ("dog", "vase", "cat")]
SAMPLER = Sampler(num_inference_steps=3, guidance_scale=4.0, batch_size=2)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return loading.load(str(architectures.build("sdxl", tmp_path_factory.mktemp("sdxl"))))


def pictures_and_calls(backbone: Backbone) -> tuple[np.ndarray, Counter]:
    """Pictures of CELL, and how often each layer of keys and values was called."""
    calls: Counter = Counter()
    layers = [m for m in backbone.denoiser.modules() if isinstance(m, Attention) and m.is_cross_attention]
    hooks = [
        layer.register_forward_hook(lambda *_, key=(n, side): calls.update([key]))
        for n, attention in enumerate(layers)
        for side, layer in (("k", attention.to_k), ("v", attention.to_v))
    ]
    try:
        return generate(backbone, CELL, SAMPLER), calls
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", ["tiny", "sdxl"])
def test_pictures_are_the_same_bit_for_bit_with_one_call_per_batch(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of three steps, of two pictures and of one, and other prompts in the second."""
    backbone = request.getfixturevalue(name)
    before = fingerprint(backbone)
    pictures, calls = pictures_and_calls(backbone)
    with monkeypatch.context() as patch:
        patch.setattr(prompt_layers, "remembered", lambda denoiser: nullcontext())
        expected, every_step = pictures_and_calls(backbone)
    assert np.array_equal(pictures, expected)
    assert set(calls.values()) == {2} and set(every_step.values()) == {6} and calls.keys() == every_step.keys()
    assert fingerprint(backbone) == before


def test_other_hidden_states_are_not_answered_with_the_first_ones(tiny: Backbone) -> None:
    noisy, t = torch.randn(1, *tiny.latent_shape, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    with torch.no_grad():
        prompts = [tiny.encode_prompts([prompt]) for prompt in ("a dog", "a cat")]
        expected = [tiny.predict(noisy, t, prompt_embeds) for prompt_embeds in prompts]
        with tiny.generating():
            for k in (0, 0, 1, 0, 1):
                predicted = tiny.predict(noisy, t, prompts[k])
                torch.testing.assert_close(predicted, expected[k], rtol=1e-5, atol=1e-6)  # sums in another order
    assert float((expected[0] - expected[1]).abs().max()) > 1e-4


def test_only_layers_that_read_the_prompt_unchanged_are_remembered(
    tiny: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = prompt_layers.prompt_layers(tiny.denoiser)
    assert names and all(name.endswith(("attn2.to_k", "attn2.to_v")) for name in names)
    normed, of_the_picture = (tiny.denoiser.get_submodule(names[k].rpartition(".")[0]) for k in (0, -1))
    monkeypatch.setattr(normed, "norm_cross", torch.nn.LayerNorm(16))
    monkeypatch.setattr(of_the_picture, "is_cross_attention", False)
    assert prompt_layers.prompt_layers(tiny.denoiser) == names[2:-2]
    assert prompt_layers.prompt_layers(torch.nn.Sequential(torch.nn.Linear(2, 2))) == []


def test_a_failure_puts_the_layers_back(tiny: Backbone) -> None:
    before = fingerprint(tiny)
    with pytest.raises(RuntimeError, match="while sampling"), tiny.generating():
        raise RuntimeError("while sampling")
    assert fingerprint(tiny) == before and len(tiny.denoiser._forward_pre_hooks) == 1  # the backbone counts evaluations
