"""Stable Diffusion 3 and 3.5 against diffusers' own pipeline, on small ones with released switches."""

from pathlib import Path

import pytest
import torch
from transformer_pipelines import SD3_TRANSFORMERS, refuse_tame, sd3

from cpbench.backbones import adapters, loading
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise

PROMPTS = ("a photo of a dog", "a red vase on a table")


@pytest.fixture(scope="module", params=SD3_TRANSFORMERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sd3(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return loading.load(str(folder))


def noisy(backbone: Backbone, n: int) -> torch.Tensor:
    return torch.randn(n, *backbone.latent_shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_the_small_pipeline_is_lively(backbone: Backbone) -> None:
    z = noisy(backbone, 1).expand(2, -1, -1, -1)
    refuse_tame(backbone.predict(z, torch.tensor([700.0, 700.0]), backbone.encode_prompts(list(PROMPTS))))


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_batch_draws_what_the_plain_pipeline_draws_of_each(backbone: Backbone, folder: Path, guidance: float) -> None:
    from diffusers import StableDiffusion3Pipeline

    plain = StableDiffusion3Pipeline.from_pretrained(folder, text_encoder_3=None, tokenizer_3=None)
    plain.set_progress_bar_config(disable=True)
    requests = [SampleRequest(p, 0, "dog", "a {}", k) for k, p in enumerate(PROMPTS)]
    sampler = Sampler(num_inference_steps=4, guidance_scale=guidance, batch_size=2)
    with backbone.generating():
        backbone.pipe.scheduler = backbone.process.solver(4)
        ours = backbone.sample_latents(list(PROMPTS), torch.stack([noise(backbone, r) for r in requests]), sampler)
    pictures = generate(backbone, requests, sampler)
    for k, request in enumerate(requests):
        latents = {"latents": noise(backbone, request)[None], "num_inference_steps": 4, "guidance_scale": guidance}
        theirs = plain(request.prompt, height=128, width=128, output_type="latent", **latents).images[0]
        torch.testing.assert_close(ours[k], theirs, rtol=1e-4, atol=1e-4)
        drawn = plain(request.prompt, height=128, width=128, output_type="np", **latents).images[0]
        assert abs(drawn * 255 - pictures[k]).max() <= 1


def test_a_copied_word_gives_the_same_states_in_every_encoder(backbone: Backbone) -> None:
    """A new word whose embedding is that of a known token is that token, bit for bit, in both encoders."""
    try:
        backbone.add_token("<v1>", backbone.word_embedding("dog"))
        new, known = (backbone.encode_prompts([f"a photo of a {word} on grass"]) for word in ("<v1>", "dog"))
        assert torch.equal(new, known) and new.requires_grad
    finally:
        backbone.restore()


def test_roles_are_those_of_the_text_stream(backbone: Backbone) -> None:
    names = adapters.matching_modules(backbone.denoiser, adapters.TEXT_KEYS_VALUES)
    blocks = len(backbone.denoiser.transformer_blocks)
    assert len(names) == 2 * blocks and not any("attn2" in name for name in names)
    attention = adapters.matching_modules(backbone.denoiser, adapters.ATTENTION)
    has_dual = any("attn2" in name for name, _ in backbone.denoiser.named_modules())
    assert any("attn2" in name for name in attention) == has_dual
    # 8 projections a block, the last has no text output, and 4 more for attention of the picture to itself
    assert len(attention) == 8 * blocks - 1 + 4 * 2 * has_dual


def test_changes_are_undone_bit_for_bit(backbone: Backbone) -> None:
    before = fingerprint(backbone)
    word = backbone.add_token("<v1>", backbone.word_embedding("dog"))
    lora = backbone.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    z, t = noisy(backbone, 2), torch.tensor([300.0, 800.0])
    loss = backbone.predict(z, t, backbone.encode_prompts(["a <v1> dog"]).expand(2, -1, -1)).square().mean()
    loss.backward()
    assert float(word.grad.abs().max()) > 0 and any(float(p.grad.abs().max()) > 0 for p in lora.values())
    backbone.restore()
    assert fingerprint(backbone) == before
