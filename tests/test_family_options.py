"""What differs by the family of a backbone: presets, names, T5, instructions, distilled models, errors of DC scores."""

import inspect
import json
import shutil
from pathlib import Path

import pytest
import torch
from test_methods_on_transformers import task
from test_transformers import SIDE
from transformer_pipelines import BUILDERS, build

from cpbench import learning
from cpbench.backbones import distilled, hub, loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.options import BACKBONES, BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.errors import UserError
from cpbench.learning import diffusion_classifier as dc
from cpbench.method import State
from cpbench.miniature import EMBEDDED
from cpbench.registry import load_method, preset
from cpbench.running import counting


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    folders_by_name: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders_by_name:
            folders_by_name[name] = BUILDERS[name](name, tmp_path_factory.mktemp(name))
        return folders_by_name[name]

    return folder


def load(folder: Path, **options: object) -> Backbone:
    return loading.load(str(folder), loading=BackboneConfig(resolution=SIDE, **options))


# Names and presets


def test_a_built_in_name_is_pinned_and_its_family_is_known() -> None:
    assert {*EMBEDDED, *hub.BUILT_IN} == set(BACKBONES)
    for name, repository in hub.BUILT_IN.items():
        assert len(repository.revision) == 40 and repository.licence
        assert repository.name in BACKBONES[name]
        loading.family_in({"_class_name": repository.pipeline})


def test_a_preset_is_the_familys_over_the_papers(folders) -> None:
    papers, flux = preset("sd15", "dcscore"), preset("flux1-dev", "dcscore")
    assert flux["temperature"] == "auto" and flux["dc_error"] == "velocity" and "dc_error" not in papers
    assert preset("flux1-dev", "clora") == preset("sd15", "clora")  # flux.yaml has none
    assert preset(str(folders("flux-dev")), "dcscore") == flux
    assert preset(str(folders("pixart-sigma-1024")), "clora")["forgetting_weight"] == 1e6
    assert preset("sd35-medium", "seqlora")["learning_rate"] == 4e-4


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in EMBEDDED])
def test_every_preset_is_valid(name: str) -> None:
    for method in ("seqlora", "isolated", "joint", "ewc", "l2", "si", "genreplay", "dcscore", "olora", "clora"):
        load_method(method).Options(**preset(name, method))


def test_an_option_that_came_later_is_no_part_of_a_runs_identity_where_it_changes_nothing() -> None:
    options = load_method("dcscore").Options
    before = options().model_dump(mode="json")
    assert "dc_error" not in options.identifying(before) and "word_encoders" not in options.identifying(before)
    assert options.identifying(before | {"dc_error": "velocity"})["dc_error"] == "velocity"
    assert options.identifying(before | {"word_encoders": "t5"})["word_encoders"] == "t5"
    assert options.identifying(before)["temperature"] == 0.01


# T5 in Stable Diffusion 3, and where words are learned


@pytest.fixture(scope="module")
def with_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sd35-medium", tmp_path_factory.mktemp("t5"), with_t5=True)


@torch.no_grad()
def test_stable_diffusion_3_with_t5_draws_what_the_pipeline_draws(with_t5: Path) -> None:
    from diffusers import StableDiffusion3Pipeline

    backbone, plain = load(with_t5, t5=True), StableDiffusion3Pipeline.from_pretrained(with_t5)
    plain.set_progress_bar_config(disable=True)
    want = SampleRequest("a photo of a dog", 0, "dog", "a {}", 0)
    ours = generate(backbone, [want], Sampler(3, 4.0))[0]
    keywords = {"height": SIDE, "width": SIDE, "num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "np"}
    theirs = plain(want.prompt, latents=noise(backbone, want)[None], **keywords).images[0]
    assert abs(theirs * 255 - ours).max() <= 1
    without = generate(load(with_t5), [want], Sampler(3, 4.0))[0]
    assert abs(without.astype(int) - ours).max() > 5


def test_t5_is_refused_where_there_is_none(folders) -> None:
    for name in ("sd35-medium", "pixart-sigma-1024"):
        with pytest.raises(UserError, match="has no third text encoder; leave out --t5"):
            load(folders(name), t5=True)


@pytest.mark.parametrize("word_encoders", ["all", "clip", "t5"])
def test_a_word_is_trained_in_the_text_encoders_that_are_named(with_t5: Path, word_encoders: str) -> None:
    backbone = load(with_t5, t5=True)
    first = backbone.word_embedding("dog")
    method = load_method("seqlora")
    method = method(method.Options(steps=2, batch_size=1, word_encoders=word_encoders, token_learning_rate=0.1))
    state = method.learn(backbone, task(backbone, 1, "dog"), State())
    moved = state.tensors["token/dog"] - first
    for encoder in backbone.vocabulary.encoders:
        trained = word_encoders in ("all", encoder.kind)
        assert bool(moved[encoder.part].abs().max() > 0) is trained, encoder.tokenizer_name
    backbone.restore()


def test_word_encoders_that_the_backbone_lacks_are_refused(folders) -> None:
    backbone = load(folders("pixart-sigma-1024"))
    with pytest.raises(UserError, match="word_encoders=clip: the backbone's text encoders are t5; use all"):
        backbone.add_token("<v1>", backbone.word_embedding("dog"), "clip")


# Sana's instruction


def test_the_instruction_is_in_learning_and_sampling_or_in_neither(folders) -> None:
    told, plain = load(folders("sana-600m")), load(folders("sana-600m"), instruction="none")
    lines = inspect.signature(told.pipe.__call__).parameters["complex_human_instruction"].default
    for backbone, instruction in ((told, lines), (plain, None)):
        hidden, mask, _, _ = backbone.pipe.encode_prompt(
            ["a photo of a dog"], False, complex_human_instruction=instruction
        )
        prompt_embeds = backbone.encode_prompts(["a photo of a dog"])
        torch.testing.assert_close(backbone.hidden_states(prompt_embeds), hidden, atol=1e-5, rtol=1e-5)
        assert torch.equal(prompt_embeds[..., -1], mask.float())
    assert "complex_human_instruction" not in told.family.sampling_arguments(["a"], 4.0)
    assert plain.family.sampling_arguments(["a"], 4.0)["complex_human_instruction"] is None
    assert told.weights_hash != plain.weights_hash


def test_an_instruction_is_refused_where_there_is_none(folders) -> None:
    with pytest.raises(UserError, match="has no instruction before its prompts; leave out --instruction"):
        load(folders("flux-dev"), instruction="none")


# Distilled models


@pytest.mark.parametrize(
    ("name", "is_distilled"),
    [
        ("stabilityai/sdxl-turbo", True),
        ("stabilityai/stable-diffusion-3.5-large-turbo", True),
        ("black-forest-labs/FLUX.1-schnell", True),
        ("latent-consistency/lcm-sdxl", True),
        ("black-forest-labs/FLUX.2-klein-4B", True),
        ("black-forest-labs/FLUX.2-klein-base-4B", False),
        ("stabilityai/stable-diffusion-xl-base-1.0", False),
        ("some/welcmy-model", False),
    ],
)
def test_a_distilled_model_is_known_by_its_name(name: str, is_distilled: bool) -> None:
    assert bool(distilled.reason(name, {})) is is_distilled


def test_flux_without_guidance_is_distilled(folders, tmp_path: Path) -> None:
    backbone = load(folders("flux-dev"))
    distilled.refuse(backbone)
    folder = shutil.copytree(folders("flux-dev"), tmp_path / "pipeline")
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"guidance_embeds": False}))
    schnell = load(folder)
    assert schnell.family.max_lengths["tokenizer_2"] == 256
    with pytest.raises(UserError, match="distilled for a few steps.*--allow-distilled"):
        distilled.refuse(schnell)


# DC scores on a flow


def test_the_error_of_a_velocity_is_the_noises_without_its_factor(folders) -> None:
    """|e_eps|^2 = (1 - s)^2 |e_v|^2."""
    backbone = load(folders("sd35-medium"))
    (batch,) = learning.batches(backbone, task(backbone, 1, "dog"), 1, 3, "x")
    with torch.no_grad():
        e = {
            error: dc.errors(
                dc.predicted_noise(backbone, batch, ["dog", "vase"], error=error), dc.target(backbone, batch, error)
            )
            for error in ("epsilon", "velocity")
        }
    s = (batch.timesteps / 1000).view(-1, 1)
    torch.testing.assert_close(e["epsilon"], (1 - s) ** 2 * e["velocity"], atol=1e-5, rtol=1e-4)


def test_the_temperature_is_the_median_spread_over_five_nouns(folders) -> None:
    backbone = load(folders("sd35-medium"))
    it, spreads = task(backbone, 1, "vase"), []
    tau = dc.measured_temperature(backbone, it, "velocity")
    for batch in learning.batches(backbone, it, 64, 1, "temperature", ("photo of a {}",)):
        e = []
        for noun in ("vase", "dog", "backpack", "sneaker", "cat"):
            with torch.no_grad():
                embeds = backbone.encode_prompts([f"photo of a {noun}"])
                v = backbone.predict(batch.noisy, batch.timesteps, embeds)
            e.append(float((v - (batch.noise - batch.latents)).square().mean()))
        spreads.append(max(e) - min(e))
    assert tau == pytest.approx(sorted(spreads)[31], rel=1e-3)  # torch's median is the lower one


def test_a_measured_temperature_is_carried_from_task_to_task(folders) -> None:
    backbone, kind = load(folders("sana-600m")), load_method("dcscore")
    few = {"steps": 1, "batch_size": 1, "fisher_samples": 1, "dsc_steps": 1}
    method = kind(kind.Options(**few, temperature="auto", dc_error="velocity"))
    method.check(backbone)
    state = method.learn(backbone, task(backbone, 1, "dog"), State())
    backbone.restore()
    tau = state.facts["temperature"]
    assert tau == dc.measured_temperature(backbone, task(backbone, 1, "dog"), "velocity") > 0
    after = method.learn(backbone, task(backbone, 2, "vase"), state)
    backbone.restore()
    assert after.facts["temperature"] == tau


def test_a_velocity_is_refused_on_a_diffusion(folders) -> None:
    kind = load_method("dcscore")
    with pytest.raises(UserError, match="dc_error=velocity: the backbone is a diffusion"):
        kind(kind.Options(dc_error="velocity")).check(load(folders("pixart-alpha-512")))


def test_measuring_a_temperature_counts_among_the_evaluations(folders) -> None:
    backbone, kind = load(folders("sana-600m")), load_method("dcscore")
    few = {"steps": 1, "batch_size": 1, "fisher_samples": 1, "dsc_steps": 1, "dc_error": "velocity"}
    tasks = [task(backbone, 1, "dog"), task(backbone, 2, "vase")]
    measured, given = (
        counting.count(kind, kind.Options(**few, temperature=tau), tasks, backbone) for tau in ("auto", 0.01)
    )
    assert measured == [given[0] + 64 * 5, given[1]]
