"""Families of transformers against diffusers' own pipelines, on small ones with released switches."""

from pathlib import Path

import pytest
import torch
from transformer_pipelines import BUILDERS, refuse_tame

from cpbench.backbones import adapters, loading
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise

SIDE = 128  # pixels; of a size in its config.json only FLUX has none
PROMPTS = ("a photo of a dog", "a red vase on a table")


@pytest.fixture(scope="module", params=BUILDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return loading.load(str(folder), loading=BackboneConfig(resolution=SIDE))


def noisy(backbone: Backbone, n: int) -> torch.Tensor:
    return torch.randn(n, *backbone.latent_shape, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_the_small_pipeline_is_lively(backbone: Backbone) -> None:
    z = noisy(backbone, 1).expand(2, -1, -1, -1)
    refuse_tame(backbone.predict(z, backbone.process.evenly(3)[[1, 1]], backbone.encode_prompts(list(PROMPTS))))


def plain_pipeline(backbone: Backbone, folder: Path):
    """diffusers' own: (pipeline, keywords for its call that make it draw a square of SIDE of a word in brackets)."""
    import diffusers

    name = type(backbone.pipe).__name__
    null_parts = dict.fromkeys(("text_encoder_3", "tokenizer_3")) if name == "StableDiffusion3Pipeline" else {}
    plain = getattr(diffusers, name).from_pretrained(folder, **null_parts)
    if name.startswith("PixArt"):
        plain.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    keywords = {"height": SIDE, "width": SIDE}
    if name.startswith(("PixArt", "Sana")):
        keywords |= {"use_resolution_binning": False, "clean_caption": False}
    return plain, keywords


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_batch_draws_what_the_plain_pipeline_draws_of_each(backbone: Backbone, folder: Path, guidance: float) -> None:
    plain, keywords = plain_pipeline(backbone, folder)
    keywords |= {"num_inference_steps": 4, "guidance_scale": guidance}
    requests = [SampleRequest(p, 0, "dog", "a {}", k) for k, p in enumerate(PROMPTS)]
    sampler = Sampler(num_inference_steps=4, guidance_scale=guidance, batch_size=2)
    with backbone.generating():
        backbone.pipe.scheduler = backbone.process.solver(4)
        ours = backbone.sample_latents(list(PROMPTS), torch.stack([noise(backbone, r) for r in requests]), sampler)
    pictures = generate(backbone, requests, sampler)
    for k, request in enumerate(requests):
        latents, is_flux = noise(backbone, request)[None], hasattr(plain, "_pack_latents")
        if is_flux:
            latents = plain._pack_latents(latents, *latents.shape)
        theirs = plain(request.prompt, output_type="latent", latents=latents, **keywords).images
        if is_flux:
            theirs = plain._unpack_latents(theirs, SIDE, SIDE, plain.vae_scale_factor)
        # PixArt's solver begins by dividing by 0.006, and with it the rounding of one and of two pictures at once
        torch.testing.assert_close(ours[k], theirs[0], rtol=0, atol=1e-4 * float(theirs.abs().max()))
        drawn = plain(request.prompt, output_type="np", latents=latents, **keywords).images[0]
        assert abs(drawn * 255 - pictures[k]).max() <= 1


@pytest.fixture(scope="module")
def half_backbone(folder: Path) -> Backbone:
    return loading.load(str(folder), loading=BackboneConfig(resolution=SIDE, dtype="bfloat16"))


@torch.no_grad()
def test_in_bfloat16_a_picture_is_as_near_to_float32s_as_the_plain_pipelines(
    backbone: Backbone, half_backbone: Backbone, folder: Path
) -> None:
    assert {half_backbone.dtype, *(e.dtype for _, e in half_backbone.vocabulary.named_encoders())} == {torch.bfloat16}
    plain, keywords = plain_pipeline(backbone, folder)
    plain.to(torch.bfloat16)
    request = SampleRequest(PROMPTS[0], 0, "dog", "a {}", 0)
    sampler = Sampler(num_inference_steps=4, guidance_scale=1.0)
    exact, ours = (generate(model, [request], sampler)[0].astype(int) for model in (backbone, half_backbone))
    latents = noise(half_backbone, request)[None].bfloat16()
    if hasattr(plain, "_pack_latents"):
        latents = plain._pack_latents(latents, *latents.shape)
    keywords |= {"num_inference_steps": 4, "guidance_scale": 1.0}
    theirs = plain(request.prompt, output_type="np", latents=latents, **keywords).images[0] * 255
    far = abs(theirs - exact).mean()
    assert 0 < abs(ours - exact).mean() < max(2 * far, 0.5)


def test_in_bfloat16_a_step_is_that_of_pefts_layers_and_learns_in_float32(
    backbone: Backbone, half_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(model: Backbone) -> tuple[float, torch.Tensor]:
        try:
            word = model.add_token("<v1>", model.word_embedding("dog"))
            lora = model.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
            for name, B in lora.items():
                if name.endswith("lora_B"):
                    B.data = torch.randn(B.shape, generator=torch.Generator().manual_seed(len(name))) * 0.05
            model.train_only([word, *lora.values()])
            z, t = noisy(model, 2), model.process.evenly(2)
            prompt_embeds = model.encode_prompts(["a <v1> dog"]).expand(2, -1, -1)
            loss = (model.predict(z, t, prompt_embeds).float() - z).square().mean()
            loss.backward()
            trained = [word, *lora.values()]
            assert {p.dtype for p in trained} == {p.grad.dtype for p in trained} == {torch.float32}
            return loss.item(), torch.cat([p.grad.flatten() for p in trained])
        finally:
            model.restore()

    (exact, _), (ours, gradient) = step(backbone), step(half_backbone)
    monkeypatch.setattr(adapters.lora_layers, "give_own_forward", lambda root, names: None)
    theirs, other = step(half_backbone)
    assert ours == pytest.approx(exact, rel=0.03) and ours == pytest.approx(theirs, rel=1e-3)
    # not float32's: of these networks bfloat16 leaves a gradient that is 0.6 to 0.99 of it by cosine
    assert torch.cosine_similarity(gradient, other, dim=0) > 0.995


def test_a_copied_word_gives_the_same_states_in_every_encoder(backbone: Backbone) -> None:
    """A new word whose embedding is that of a known token is that token, bit for bit, in both encoders."""
    try:
        backbone.add_token("<v1>", backbone.word_embedding("dog"))
        new, known = (backbone.encode_prompts([f"a photo of a {word} on grass"]) for word in ("<v1>", "dog"))
        assert torch.equal(new, known) and new.requires_grad
    finally:
        backbone.restore()


def test_roles_are_those_of_the_text(backbone: Backbone) -> None:
    """Keys and values of the text stream in joint attention, of attn2 in cross-attention."""
    names = adapters.matching_modules(backbone.denoiser, adapters.TEXT_KEYS_VALUES)
    blocks, is_joint = (
        len(backbone.denoiser.transformer_blocks),
        backbone.attended(backbone.encode_prompts(["a"])) is None,
    )
    assert len(names) == 2 * blocks and all(("attn2" in name) != is_joint for name in names)
    attention = adapters.matching_modules(backbone.denoiser, adapters.ATTENTION)
    if hasattr(backbone.denoiser, "single_transformer_blocks"):  # FLUX: these have no projections out, and one stream
        assert len(attention) == 8 * blocks + 3 * len(backbone.denoiser.single_transformer_blocks)
    elif is_joint:  # the last block has no text output, and 4 more are for attention of the picture to itself
        has_dual = any("attn2" in name for name, _ in backbone.denoiser.named_modules())
        assert len(attention) == 8 * blocks - 1 + 4 * 2 * has_dual
    else:
        assert len(attention) == 8 * blocks


def test_changes_are_undone_bit_for_bit(backbone: Backbone) -> None:
    before = fingerprint(backbone)
    word = backbone.add_token("<v1>", backbone.word_embedding("dog"))
    lora = backbone.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    z, t = noisy(backbone, 2), backbone.process.evenly(2)
    loss = backbone.predict(z, t, backbone.encode_prompts(["a <v1> dog"]).expand(2, -1, -1)).square().mean()
    loss.backward()
    assert float(word.grad.abs().max()) > 0 and any(float(p.grad.abs().max()) > 0 for p in lora.values())
    backbone.restore()
    assert fingerprint(backbone) == before
