"""Pipelines with something odd in them, each built here: one line with the reason and what to do, which names a path once."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import architectures
import pytest
from test_untrusted import change

from cpbench import backbones, output
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.errors import UserError

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def odd(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, to be made odd."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "odd"))


def refused(folder: Path, **loading: object) -> str:
    """The UserError's line. The folder's path may occur twice only where a file is named."""
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("error", FutureWarning)
        backbones.load(str(folder), loading=BackboneConfig(**loading)).check(3)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and len(line) < 400 and ";" in line, line
    return line


def loaded(folder: Path, **loading: object) -> tuple[backbones.Backbone, list[str]]:
    """The backbone, and what is said while it is loaded and checked; Python's own warnings fail."""
    with warnings.catch_warnings(), output.collected() as lines:
        warnings.simplefilter("error", FutureWarning)
        backbone = backbones.load(str(folder), loading=BackboneConfig(**loading))
        backbone.check(3)
    return backbone, lines


@pytest.mark.parametrize(
    ("part", "library", "name", "hint"),
    [
        (
            "scheduler",
            "diffusers",
            "NewScheduler",
            "name another one there, such as DDIMScheduler, or upgrade diffusers",
        ),
        ("scheduler", "transformers", "DDIMScheduler", "name another one there"),
        ("unet", "diffusers", "UNet9DConditionModel", "or upgrade diffusers"),
        ("text_encoder", "transformers", "NewTextModel", "or upgrade transformers"),
    ],
)
def test_classes_that_the_library_does_not_have(odd: Path, part: str, library: str, name: str, hint: str) -> None:
    change(odd / "model_index.json", **{part: [library, name]})
    line = refused(odd)
    assert f"its {part} is a '{name}' by model_index.json" in line and hint in line and line.count(str(odd)) == 1


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "KarrasVeScheduler"])
def test_schedulers_without_a_noise_schedule_of_betas(odd: Path, name: str) -> None:
    change(odd / "model_index.json", scheduler=["diffusers", name])
    (odd / "scheduler" / "scheduler_config.json").write_text("{}")
    line = refused(odd)
    assert name in line and line.count(str(odd)) == 1


# The size of pictures


@pytest.mark.parametrize("side", [None, "absent", [8, 8], 0])
def test_without_a_sample_size_the_resolution_is_asked_for(odd: Path, side: object) -> None:
    change(odd / "unet" / "config.json", sample_size=side)
    if side == "absent":
        config = json.loads((odd / "unet" / "config.json").read_text())
        (odd / "unet" / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "sample_size"}))
    line = refused(odd)
    assert "sample_size of its unet is" in line and "--resolution" in line and line.count(str(odd)) == 1
    if side in (None, "absent"):
        backbone, _ = loaded(odd, resolution=32)
        pictures = generate(backbone, [SampleRequest("a dog", 0, "dog", "a {}", 0)], Sampler(2, 4.0))
        assert pictures.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_pictures_of_that_resolution_are_generated_without_a_sample_size(tmp_path: Path, name: str) -> None:
    folder = architectures.build(name, tmp_path)
    change(folder / "unet" / "config.json", sample_size=None)
    assert "--resolution" in refused(folder)
    backbone, _ = loaded(folder, resolution=64)
    pictures = generate(backbone, [SampleRequest("a dog", 0, "dog", "a {}", 0)], Sampler(1, 4.0))
    assert pictures.shape == (1, 64, 64, 3)


# Autoencoders


def without_weights(vae: Path) -> None:
    (vae / WEIGHTS).unlink()


def cut_short(vae: Path) -> None:
    (vae / WEIGHTS).write_bytes((vae / WEIGHTS).read_bytes()[:1000])


def other_width(vae: Path) -> None:
    change(vae / "config.json", block_out_channels=[8, 8, 32])


def more_layers(vae: Path) -> None:
    change(vae / "config.json", layers_per_block=2)


def odd_groups(vae: Path) -> None:
    change(vae / "config.json", norm_num_groups=7)


def unknown_block(vae: Path) -> None:
    change(vae / "config.json", down_block_types=["NewBlock2D"] * 3)


def other_class(vae: Path) -> None:
    change(vae / "config.json", _class_name="AsymmetricAutoencoderKL")


def no_number(vae: Path) -> None:
    change(vae / "config.json", scaling_factor="x")


def broken_config(vae: Path) -> None:
    (vae / "config.json").write_text("{")


SPOILED = {
    without_weights: f"there is no {WEIGHTS}",
    cut_short: f"{WEIGHTS} cannot be read as safetensors",
    other_width: "decoder.conv_in.bias has the shape [16] in its weights, and [32] by its config.json",
    more_layers: "lacks weights that its config.json asks for: encoder.down_blocks.0.resnets.1.norm1.weight and 47 more",
    odd_groups: "num_channels (8) must be divisible by num_groups (7)",
    unknown_block: "NewBlock2D does not exist",
    other_class: "is a 'AsymmetricAutoencoderKL'; one of AutoencoderKL, AutoencoderTiny, AutoencoderDC is needed",
    no_number: "scaling_factor 'x' in its config.json, which must be a number",
    broken_config: "config.json cannot be read as JSON",
}


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_errors_of_an_autoencoder_name_it_and_its_path_once(odd: Path, tiny_folder: Path, spoil: Callable) -> None:
    spoil(odd / "vae")
    own, passed = refused(odd), refused(tiny_folder, vae=str(odd / "vae"))
    files = 1 if spoil in (cut_short, broken_config) else 0  # the file's path is named besides
    assert SPOILED[spoil] in own and own.startswith(f"backbone {odd}: ") and own.count(str(odd)) == 1 + files
    assert SPOILED[spoil] in passed and passed.startswith(f"vae {odd / 'vae'}") and passed.count(str(odd)) == 1 + files
    assert files or "its vae" in own


def test_weights_of_another_width_are_named_with_their_part(odd: Path) -> None:
    change(odd / "unet" / "config.json", block_out_channels=[8, 32])
    assert "its unet cannot be loaded (down_blocks.1.resnets.0.conv1.bias has the shape [16]" in refused(odd)
    change(odd / "unet" / "config.json", block_out_channels=[8, 16])
    change(odd / "text_encoder" / "config.json", hidden_size=32)
    assert "its text_encoder cannot be loaded (tensors have other shapes" in refused(odd)


# Settings that diffusers replaces


def test_settings_of_an_old_version_that_diffusers_replaces_are_a_line_each(odd: Path) -> None:
    change(odd / "scheduler" / "scheduler_config.json", steps_offset=0, clip_sample=True)
    change(odd / "unet" / "config.json", _diffusers_version="0.6.0")
    backbone, lines = loaded(odd)
    assert [line.partition(", since ")[0] for line in lines] == [
        f"note: backbone {odd}: diffusers takes steps_offset for 1, not 0",
        f"note: backbone {odd}: diffusers takes clip_sample for false, not true",
        f"note: backbone {odd}: diffusers takes sample_size for 64, not 8",
    ]
    assert all(len(line.splitlines()) == 1 for line in lines) and backbone.picture_size == 256
    assert backbone.pipe.scheduler.config.steps_offset == 1 and backbone.pipe.scheduler.config.clip_sample is False


def test_old_algorithms_of_a_solver_are_used_without_advice(odd: Path) -> None:
    change(odd / "model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])
    file = odd / "scheduler" / "scheduler_config.json"
    change(file, _class_name="DPMSolverMultistepScheduler", algorithm_type="dpmsolver", final_sigmas_type="sigma_min")
    backbone, lines = loaded(odd)
    assert lines == [] and backbone.process.solver(4).config.algorithm_type == "dpmsolver"


def test_a_usual_pipeline_is_loaded_without_a_word(tiny_folder: Path) -> None:
    assert loaded(tiny_folder)[1] == []
