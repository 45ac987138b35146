"""Stable Diffusion 1.5, 2.1 and XL, made small, with random weights: every method on each, against diffusers itself."""

from collections.abc import Callable, Iterator
from pathlib import Path

import architectures
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from learners import SHORT

from cpbench import backbones
from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone, fingerprint
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.files import seed_of
from cpbench.learning import training
from cpbench.method import State
from cpbench.registry import built_in_methods, load_method

VARIANTS = {
    "raretoken lora": ("raretoken", {"adapter": "lora"}),
    "dcscore vera": ("dcscore", {"adapter": "vera", "learning_rate": 0.1}),
    "dcscore dora": ("dcscore", {"adapter": "dora"}),
    "dreambooth lora": ("dreambooth", {"adapter": "lora"}),
    "dreambooth text": ("dreambooth", {"train_text_encoder": True}),
    "customdiffusion merged": ("customdiffusion", {"merge": "closed-form"}),
    "ewc product": ("ewc", {"space": "product"}),
    "orthoinit exact": ("orthoinit", {"sum_factors": False}),
}
CASES = {name: (name, {}) for name in built_in_methods()} | VARIANTS  # a new file is covered as it comes
SMALLEST = SHORT | {"steps": 1, "fisher_samples": 1, "batch_size": 2}
PROMPTS = ("a dog in the snow", "a purple backpack, two cups and a vase", "")
WANTED = [SampleRequest(p, 0, "dog", "a {} in the snow", k) for p in PROMPTS for k in (0, 1)]
ON_A_BEACH = SampleRequest("a photo of a <v1> dog on the beach", 0, "dog", "a {} on the beach", 0)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    kept: dict[tuple, Path] = {}

    def folder(name: str, prediction_type: str = "epsilon") -> Path:
        if (name, prediction_type) not in kept:
            made = tmp_path_factory.mktemp(f"{name}-{prediction_type}")
            kept[name, prediction_type] = architectures.build(name, made, prediction_type=prediction_type)
        return kept[name, prediction_type]

    return folder


@pytest.fixture(scope="module")
def _loaded() -> dict[str, Backbone]:
    return {}


@pytest.fixture(params=architectures.ARCHITECTURES)
def backbone(
    request: pytest.FixtureRequest, folders: Callable[..., Path], _loaded: dict[str, Backbone]
) -> Iterator[Backbone]:
    if request.param not in _loaded:
        _loaded[request.param] = backbones.load(str(folders(request.param)))
    yield _loaded[request.param]
    _loaded[request.param].restore()


def plain_pipeline(folder: Path):
    """diffusers' own, with the solver that we draw with and the end of text where the tokenizer has it."""
    from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    for part in ("text_encoder", "text_encoder_2"):
        if encoder := getattr(pipe, part, None):
            end = pipe.tokenizer.eos_token_id
            encoder.config.eos_token_id = getattr(encoder, "text_model", encoder).eos_token_id = end
    return pipe


# Drawing and words, against the pipeline


def test_words_are_the_pipelines(backbone: Backbone) -> None:
    words = backbone.encode_prompts(list(PROMPTS))
    with torch.no_grad():
        told = plain_pipeline(Path(backbone.name)).encode_prompt(
            list(PROMPTS), device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    torch.testing.assert_close(backbone.hidden_states(words), told[0], atol=1e-5, rtol=1e-4)
    if len(told) > 2:
        torch.testing.assert_close(backbone.family.pooled(words), told[2], atol=1e-5, rtol=1e-4)


def test_a_batch_is_drawn_as_the_pipeline_draws_one_by_one(backbone: Backbone) -> None:
    sampler = Sampler(4, 5.0, batch_size=4)
    ours = generate(backbone, WANTED, sampler).astype(float) / 255
    pipe = plain_pipeline(Path(backbone.name))
    for picture, want in zip(ours, WANTED, strict=True):
        start = noise(backbone, want)
        theirs = architectures.drawn_by(pipe, backbone.picture_size, want.prompt, start, 4, 5.0)
        assert np.abs(picture - theirs).max() < 1e-4 + 0.5 / 255  # ours is rounded to bytes


# Methods


@pytest.mark.parametrize("case", CASES)
def test_every_method_learns_two_tasks_and_draws(
    backbone: Backbone, make_task: Callable[..., object], case: str
) -> None:
    name, chosen = CASES[case]
    kind = load_method(name)
    options = kind.Options(**{k: v for k, v in SMALLEST.items() if k in kind.Options.model_fields}, **chosen)
    kind(options).check(backbone)
    before, state = fingerprint(backbone), State()
    for number, concept in enumerate(("dog", "backpack"), 1):
        state = kind(options).learn(backbone, make_task(backbone, concept, number), state)
        backbone.restore()
    assert fingerprint(backbone) == before
    assert all(torch.isfinite(t).all() for t in state.tensors.values())
    method = kind(options)
    with backbone.installed(method, state, ("dog",)):
        words = method.phrase("dog", "dog", state)
        drawn = generate(
            backbone, [SampleRequest(f"a {words} in the snow", 0, "dog", "a {} in the snow", 0)], Sampler(2, 4.0)
        )
    assert drawn.shape == (1, backbone.picture_size, backbone.picture_size, 3) and drawn.std() > 0
    assert fingerprint(backbone) == before


def blocks_of(backbone: Backbone) -> int:
    """Transformer blocks, each with self- and cross-attention, of the published UNet, which the small one keeps."""
    return {"sd15": 16, "sd21-base": 16, "sdxl": 70}[Path(backbone.name).parent.name.rpartition("-epsilon")[0]]


def test_a_lora_is_on_every_attention_layer_of_the_architecture(backbone: Backbone) -> None:
    blocks = blocks_of(backbone)
    factors = backbone.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    assert len(factors) == blocks * 2 * 4 * 2  # self and cross; q, k, v, out; A and B
    backbone.restore()
    assert len(backbone.add_lora(2, ("attn2.to_k",), torch.Generator().manual_seed(0))) == blocks * 2


def test_every_methods_own_layers_are_all_there(backbone: Backbone) -> None:
    """K and V of cross-attention are two a block, its linear layers four, and with self-attention's eight."""
    a_block = {"clora": 2, "stamina": 2, "cidm": 4, "lwf": 4}
    for name in built_in_methods():
        targets = load_method(name).Options.model_fields.get("target_modules")
        if targets is not None:
            found = adapters.matching_modules(backbone.denoiser, targets.default)
            assert len(found) == blocks_of(backbone) * a_block.get(name, 8), name
            crossing = [layer for layer in found if ".attn2." in layer]
            assert len(crossing) == blocks_of(backbone) * a_block.get(name, 4), name


def test_a_word_has_a_row_in_every_encoders_table(backbone: Backbone) -> None:
    row = backbone.add_token("<v1>", backbone.word_embedding("backpack"))
    assert row.shape == (sum(e.table.embedding_dim for e in backbone.vocabulary.encoders),)
    words = backbone.encode_prompts(["a photo of a <v1> dog"])
    torch.testing.assert_close(words, backbone.encode_prompts(["a photo of a backpack dog"]))
    backbone.train_only([row])
    backbone.predict(torch.ones(1, *backbone.latent_shape), torch.tensor([500]), words).square().sum().backward()
    for encoder in backbone.vocabulary.encoders:
        assert row.grad[encoder.part].abs().max() > 0


# A training step, against a plain loop


def test_learning_is_a_plain_loop_of_diffusers_and_peft(backbone: Backbone, make_task: Callable[..., object]) -> None:
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    steps, n, rank, rate = 3, 2, 4, 1e-4
    task = make_task(backbone, "dog", n=2)
    told: list[float] = []
    object.__setattr__(task, "log", lambda step, phase, **figures: told.append(figures["loss"]))
    factors = backbone.add_lora(rank, adapters.ATTENTION, task.generator("lora"))
    first = {k: v.detach().clone() for k, v in factors.items()}
    loss = training.denoising(backbone, "dog")
    training.train(backbone, task, loss, [(rate, list(factors.values()))], steps, n)
    ours = {k: v.detach().clone() for k, v in factors.items()}

    pipe = plain_pipeline(Path(backbone.name))
    unet, vae, scheduler = pipe.unet, pipe.vae, DDPMScheduler.from_config(pipe.scheduler.config)
    for part in (unet, vae, pipe.text_encoder):
        part.requires_grad_(False)
    unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"], bias="none")
    )
    weights = {k.replace(".default.weight", ""): p for k, p in unet.named_parameters() if p.requires_grad}
    assert weights.keys() == first.keys()
    with torch.no_grad():
        for k, p in weights.items():
            p.copy_(first[k])
        pictures = np.concatenate([task.images, task.images[:, :, ::-1]])
        posterior = vae.encode(torch.tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist
    optimizer = torch.optim.AdamW(weights.values(), lr=rate, weight_decay=0)
    generator = torch.Generator().manual_seed(seed_of(task.seed, "train", "dog"))
    for step in range(steps):
        which = torch.randint(len(pictures), (n,), generator=generator)
        fresh = torch.randn(n, *backbone.latent_shape, generator=generator)
        latents = (posterior.mean[which] + posterior.std[which] * fresh) * vae.config.scaling_factor
        at = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
        timesteps = (at * 1000).long()
        eps = torch.randn(latents.shape, generator=generator)
        template = ("a photo of a dog", "a picture of a dog", "a dog")[int(torch.randint(3, (1,), generator=generator))]
        with torch.no_grad():
            embeds = pipe.encode_prompt(
                [template] * n, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        added = {}
        if len(embeds) == 4:
            size = backbone.picture_size
            ids = torch.tensor([[size, size, 0, 0, size, size]] * n, dtype=torch.float32)
            added = {"added_cond_kwargs": {"text_embeds": embeds[2], "time_ids": ids}}
        guess = unet(scheduler.add_noise(latents, eps, timesteps), timesteps, embeds[0], **added).sample
        theirs = F.mse_loss(guess, eps)
        assert abs(float(theirs.detach()) - told[step]) < 1e-5
        optimizer.zero_grad()
        theirs.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
    for k, p in weights.items():
        torch.testing.assert_close(ours[k], p.detach(), atol=1e-5, rtol=1e-5)


# Precision, prediction types, autoencoders


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_the_architecture_predicts(
    folders: Callable[..., Path], make_task: Callable[..., object], prediction_type: str
) -> None:
    backbone = backbones.load(str(folders("sd15", prediction_type)))
    task = make_task(backbone)
    (batch,) = training.batches(backbone, task, 1, 2, "train")
    process = backbone.process
    a = process.scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    expected = {
        "epsilon": batch.noise,
        "v_prediction": a.sqrt() * batch.noise - (1 - a).sqrt() * batch.latents,
        "sample": batch.latents,
    }[prediction_type]
    torch.testing.assert_close(process.target(batch.latents, batch.noise, batch.timesteps), expected)
    assert generate(backbone, WANTED[:1], Sampler(2, 4.0)).std() > 0


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[pytest.mark.slow] if name == "sdxl" else [])
        for name in architectures.ARCHITECTURES
        for dtype in ("bfloat16", "float16")
    ],
)
def test_in_half_precision_what_is_trained_is_in_float32(
    folders: Callable[..., Path], make_task: Callable[..., object], name: str, dtype: str
) -> None:
    whole = backbones.load(str(folders(name)))
    half = backbones.load(str(folders(name)), loading=BackboneConfig(dtype=dtype))
    assert half.dtype == getattr(torch, dtype) == half.denoiser.conv_in.weight.dtype
    assert half.vae.dtype == (torch.float32 if name == "sdxl" else half.dtype)
    losses = []
    for backbone in (whole, half):
        task = make_task(backbone)
        curve: list[float] = []
        object.__setattr__(task, "log", lambda step, phase, curve=curve, **f: curve.append(f["loss"]))
        row = backbone.add_token("<v1>", backbone.word_embedding("dog"))
        factors = backbone.add_lora(2, adapters.ATTENTION, task.generator("lora"))
        assert {p.dtype for p in (row, *factors.values())} == {torch.float32}
        before = [p.detach().clone() for p in (row, *factors.values())]
        groups = [(1e-4, [row, *factors.values()])]
        training.train(backbone, task, training.denoising(backbone, "<v1> dog"), groups, 2, 2)
        assert not torch.equal(row, before[0])
        losses.append(curve)
        assert np.isfinite(generate(backbone, [ON_A_BEACH], Sampler(2, 4.0)).astype(float)).all()
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


def test_a_tiny_autoencoder_may_take_the_others_place(
    folders: Callable[..., Path], make_task: Callable[..., object], tmp_path: Path
) -> None:
    from diffusers import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )
    tiny.save_pretrained(tmp_path / "taesd")
    folder = str(folders("sd15"))
    own, other = backbones.load(folder), backbones.load(folder, loading=BackboneConfig(vae=str(tmp_path / "taesd")))
    assert own.weights_hash != other.weights_hash
    images = make_task(other).images
    mean, std = other.encode_images(images)
    x = torch.tensor(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(mean, other.vae.encode(x).latents)
    assert not std.any() and mean.shape == (2, *other.latent_shape)
    assert generate(other, WANTED[:2], Sampler(2, 4.0)).shape == (2, 64, 64, 3)


def test_another_resolution_changes_what_is_drawn_and_learned(
    folders: Callable[..., Path], make_task: Callable[..., object]
) -> None:
    backbone = backbones.load(str(folders("sdxl")), loading=BackboneConfig(resolution=64))
    assert backbone.picture_size == 64 and backbone.latent_shape == (4, 8, 8)
    assert generate(backbone, WANTED[:1], Sampler(2, 4.0)).shape == (1, 64, 64, 3)
    loss = training.denoising(backbone, "dog")
    factors = backbone.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
    training.train(backbone, make_task(backbone), loss, [(1e-4, list(factors.values()))], 1, 2)


def test_checkpointing_and_slicing_change_no_gradient(
    folders: Callable[..., Path], make_task: Callable[..., object]
) -> None:
    grads = []
    for loading in (
        BackboneConfig(),
        BackboneConfig(gradient_checkpointing=True),
        BackboneConfig(attention_slicing=True),
    ):
        backbone = backbones.load(str(folders("sd15")), loading=loading)
        factors = backbone.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
        (batch,) = training.batches(backbone, make_task(backbone), 1, 2, "train")
        training.denoising(backbone, "dog")(batch)["denoising"].backward()
        grads.append(torch.cat([p.grad.flatten() for p in factors.values()]))
    for other in grads[1:]:
        torch.testing.assert_close(other, grads[0], atol=1e-7, rtol=1e-4)


def test_networks_that_take_turns_draw_the_same_and_come_back(backbone: Backbone) -> None:
    """On a CPU diffusers' hooks move nothing, but run; see `test_offload_on_a_gpu` for the rest."""
    before, plain = fingerprint(backbone), generate(backbone, WANTED, Sampler(2, 4.0, batch_size=4))
    backbone.offload = True
    try:
        backbone.add_token("<v1>", backbone.word_embedding("backpack"))
        backbone.add_lora(2, adapters.ATTENTION, torch.Generator().manual_seed(0))
        np.testing.assert_array_equal(generate(backbone, WANTED, Sampler(2, 4.0, batch_size=4)), plain)
    finally:
        backbone.offload = False
    backbone.restore()  # which refuses what is not the very tensor that was loaded
    assert fingerprint(backbone) == before and not hasattr(backbone.denoiser, "_hf_hook")


@pytest.mark.gpu
@pytest.mark.parametrize("name", architectures.ARCHITECTURES)
def test_offload_on_a_gpu(folders: Callable[..., Path], name: str) -> None:
    plain = backbones.load(str(folders(name)), "cuda", BackboneConfig(dtype="float32"))
    turns = backbones.load(str(folders(name)), "cuda", BackboneConfig(dtype="float32", offload=True))
    row = turns.word_embedding("backpack")
    for backbone in (plain, turns):
        backbone.add_token("<v1>", row)
    first, second = (generate(b, [ON_A_BEACH], Sampler(2, 4.0)) for b in (plain, turns))
    np.testing.assert_array_equal(first, second)
    turns.restore()


def test_offload_is_refused_where_there_is_no_gpu(folders: Callable[..., Path]) -> None:
    from cpbench.errors import UserError

    with pytest.raises(UserError, match="offload: .* leave out --offload"):
        backbones.load(str(folders("sd15")), "cpu", BackboneConfig(offload=True))


def test_what_trains_all_of_a_unet_is_refused_where_it_does_not_fit(
    folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, gradients and AdamW's two moments in float32: 16 bytes a weight."""
    from cpbench.errors import UserError
    from cpbench.learning import weights_or_lora

    backbone = backbones.load(str(folders("sdxl")))
    need = 16 * sum(p.numel() for p in backbone.denoiser.parameters())
    kind = load_method("raretoken")
    monkeypatch.setattr(weights_or_lora, "device_memory", lambda device: need - 1)
    kind(kind.Options(adapter="lora")).check(backbone)
    with pytest.raises(UserError, match=r"method raretoken: trains all .* use --set adapter=lora"):
        kind(kind.Options()).check(backbone)
    monkeypatch.setattr(weights_or_lora, "device_memory", lambda device: need)
    kind(kind.Options()).check(backbone)
