"""Which files make a backbone's hash: those that are loaded. And which are loaded, where there are variants or shards."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cpbench.backbones import hub, loading
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.loading import pick_dtype
from cpbench.backbones.options import BackboneConfig
from cpbench.errors import UserError


def test_the_miniature_keeps_its_hash() -> None:
    assert hub.hash_folder(hub.MINIATURE).startswith("6f4f0ee5")


def test_what_is_not_loaded_does_not_count(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("LICENSE.txt", ".DS_Store", "README.md", "v1-5.ckpt", "unet/.DS_Store", "unet/LICENSE", "picture.png"):
        (copy / name).write_bytes(b"x")
    shutil.copy(weights, copy / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    shutil.copy(weights, copy / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    for part in ("safety_checker", "feature_extractor"):
        (copy / part).mkdir()
        (copy / part / "config.json").write_text("{}")
    assert hub.hash_folder(copy) == tiny.weights_hash == loading.load(str(copy)).weights_hash


def only_fp16(folder: Path, copy: Path) -> Path:
    """The pipeline as `save_pretrained(variant="fp16")` leaves it."""
    loading.load(str(folder)).pipe.to(torch.float16).save_pretrained(copy, variant="fp16")
    assert not list(copy.rglob("model.safetensors")) and list(copy.rglob("*.fp16.safetensors"))
    return copy


def test_the_only_variant_is_taken(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = only_fp16(tiny_folder, tmp_path / "copy")
    found = loading.load(str(copy))
    for name, parameter in tiny.denoiser.named_parameters():
        assert torch.equal(found.denoiser.get_parameter(name), parameter.half().float()), name
    assert found.weights_hash == loading.load(str(copy), loading=BackboneConfig(variant="fp16")).weights_hash
    assert found.weights_hash != tiny.weights_hash


def test_of_several_variants_one_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    copy = only_fp16(tiny_folder, tmp_path / "copy")
    for file in list(copy.rglob("*.fp16.safetensors")):
        shutil.copy(file, file.with_name(file.name.replace("fp16", "ema")))
    with pytest.raises(UserError, match="several variants .*--variant"):
        loading.load(str(copy))
    loading.load(str(copy), loading=BackboneConfig(variant="ema"))
    with pytest.raises(UserError, match="no variant 'none'"):
        loading.load(str(tiny_folder), loading=BackboneConfig(variant="none"))


def test_shards_are_loaded_and_counted(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    shutil.rmtree(copy / "unet")
    tiny.denoiser.save_pretrained(copy / "unet", max_shard_size="20KB")
    shards = sorted((copy / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    found = loading.load(str(copy))
    assert all(torch.equal(found.denoiser.get_parameter(n), p) for n, p in tiny.denoiser.named_parameters())
    before = hub.hash_folder(copy)
    data = shards[-1].read_bytes()
    shards[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert hub.hash_folder(copy) != before


def test_shards_of_a_variant_are_loaded_and_counted(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    for part in ("unet", "text_encoder"):
        shutil.rmtree(copy / part)
        half = getattr(loading.load(str(tiny_folder)), part).half()
        half.save_pretrained(copy / part, max_shard_size="10KB", variant="fp16")
    read = [n for n in hub.files_read(copy, "it") if n.startswith(("unet/", "text_encoder/"))]
    there = [f.relative_to(copy).as_posix() for part in ("unet", "text_encoder") for f in (copy / part).iterdir()]
    assert sorted(read) == sorted(n for n in there if "generation" not in n) and len(read) > 8
    found = loading.load(str(copy))
    for part in ("unet", "text_encoder"):
        for name, parameter in getattr(tiny, part).named_parameters():
            assert torch.equal(getattr(found, part).get_parameter(name), parameter.half().float()), name


def test_pickles_count_where_the_user_lets_them_be_read(tiny: Backbone, tiny_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    shutil.rmtree(copy / "unet")
    (copy / "unet").mkdir()
    shutil.copy(tiny_folder / "unet" / "config.json", copy / "unet")
    bins = [copy / "unet" / "diffusion_pytorch_model.bin", copy / "unet" / "diffusion_pytorch_model.fp16.bin"]
    for file, factor in zip(bins, (1, 2), strict=True):
        torch.save({n: factor * t for n, t in tiny.denoiser.state_dict().items()}, file)
    allowed = BackboneConfig(allow_pickle=True)
    found = loading.load(str(copy), loading=allowed)
    assert all(torch.equal(found.denoiser.get_parameter(n), p) for n, p in tiny.denoiser.named_parameters())
    bins[1].write_bytes(b"another variant")
    assert hub.hash_folder(copy, allowed) == found.weights_hash
    torch.save({n: 3 * t for n, t in tiny.denoiser.state_dict().items()}, bins[0])
    assert hub.hash_folder(copy, allowed) != found.weights_hash


@pytest.mark.parametrize(("millions", "expected"), [(8, torch.float32), (860, torch.bfloat16)])
def test_auto_is_float32_on_cuda_for_small_models(
    monkeypatch: pytest.MonkeyPatch, millions: int, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 0))
    assert pick_dtype("auto", "cuda", lambda: millions * 10**6) == expected
    assert pick_dtype("auto", "cpu", lambda: millions * 10**6) == torch.float32


def test_sdxls_latents_are_standardised_as_its_pipeline_does(tmp_path: Path) -> None:
    import json

    import numpy as np
    from architectures import build

    from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise

    folder = build("sdxl", tmp_path)
    file = folder / "vae" / "config.json"
    config = json.loads(file.read_text()) | {"latents_mean": [0.5, -0.3, 0.2, 0.1], "latents_std": [0.7, 1.3, 0.9, 1.1]}
    file.write_text(json.dumps(config))
    backbone = loading.load(str(folder))
    want = SampleRequest("a dog", 0, "dog", "a {}", 0)
    from cpbench.backbones.processes.diffusion import solver

    pipe, size = backbone.pipe, backbone.picture_size
    original, pipe.scheduler = pipe.scheduler, solver(pipe.scheduler, 2)
    theirs = pipe(
        want.prompt, height=size, width=size, latents=noise(backbone, want)[None], num_inference_steps=2,
        guidance_scale=4.0, output_type="np",
    ).images  # fmt: skip
    pipe.scheduler = original
    ours = generate(backbone, [want], Sampler(2, 4.0, 1))
    assert np.abs(ours - np.rint(theirs * 255)).max() <= 1
    mean, _ = backbone.encode_images(ours)
    z = backbone.vae.encode(torch.from_numpy(ours).permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
    m, s = (torch.tensor(config[k]).view(1, 4, 1, 1) for k in ("latents_mean", "latents_std"))
    torch.testing.assert_close(mean, (z - m) / s * backbone.vae.config.scaling_factor, rtol=1e-4, atol=1e-5)


def test_weights_are_those_of_the_file_that_counts(tiny: Backbone, tiny_folder: Path) -> None:
    kept = load_file(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tiny.denoiser.get_parameter(n), v) for n, v in kept.items())
