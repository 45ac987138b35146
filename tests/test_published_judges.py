"""The published judges, and unknown ones in their architectures, from files of random weights, against open_clip's and timm's own ways of loading and of preparing."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cpbench import torchvision_compat
from cpbench.errors import UserError
from cpbench.judges import identity
from cpbench.judges import published as published_judges
from cpbench.judges.published import PUBLISHED, load

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth" / "dataset"


@pytest.fixture(scope="module", autouse=True)
def torchvision_loads() -> None:
    torchvision_compat.apply()


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((512, 512, 3), (300, 420, 3))]


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    path = tmp_path_factory.mktemp("clip") / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def dino_file(architecture: str, folder: Path, **size: int) -> Path:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False, num_classes=0, **size)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder / "model.safetensors"


def test_clip_from_a_file_is_open_clips_own_with_quick_gelu(clip_file: Path, pictures: list[np.ndarray]) -> None:
    import open_clip
    from open_clip.transformer import QuickGELU

    judge = load("clip", str(clip_file), activation="quickgelu")
    activations = [m for n, m in judge.model.named_modules() if n.endswith("mlp.gelu")]
    assert len(activations) == 24  # 12 blocks a tower
    assert {type(m) for m in activations} == {QuickGELU}
    assert judge.identity["activation"] == "QuickGELU"
    assert "ViT-B-32-quickgelu" in judge.identity["model"]

    model, _, theirs = open_clip.create_model_and_transforms("ViT-B-32-quickgelu", pretrained=str(clip_file))
    model.eval()
    with torch.no_grad():
        x = torch.stack([theirs(Image.fromarray(p)) for p in pictures])
        expected = torch.nn.functional.normalize(model.encode_image(x), dim=-1).numpy()
        words = open_clip.get_tokenizer("ViT-B-32-quickgelu")(["a dog in the snow", "a " * 100])
        texts = torch.nn.functional.normalize(model.encode_text(words), dim=-1).numpy()
    np.testing.assert_allclose(judge.images(pictures), expected, atol=1e-5)
    np.testing.assert_allclose(judge.texts(["a dog in the snow", "a " * 100]), texts, atol=1e-5)


@pytest.mark.parametrize("name", ["clip-vit-b-32", "clip-vit-l-14"])
def test_openais_weights_go_into_the_architectures_with_their_activation(name: str) -> None:
    import open_clip

    it = PUBLISHED[name]
    theirs = open_clip.get_pretrained_cfg(it.architecture, "openai")
    assert open_clip.get_model_config(it.architecture)["quick_gelu"] is True
    assert theirs["quick_gelu"] is True
    assert theirs["hf_hub"].rstrip("/") == it.repository
    assert it.preprocessing.mean == tuple(theirs["mean"])
    assert it.preprocessing.std == tuple(theirs["std"])
    config = open_clip.get_model_config(it.architecture)
    vision = config["vision_cfg"]
    assert it.preprocessing.crop == vision["image_size"]
    assert it.shape == (vision["width"], 3, vision["patch_size"], vision["patch_size"])


def test_dino_from_a_file_is_timms_own(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    file = dino_file("vit_small_patch16_224.dino", tmp_path)
    judge = load("dino", str(file))
    model = timm.create_model("vit_small_patch16_224.dino", pretrained=False, num_classes=0, checkpoint_path=str(file))
    theirs = create_transform(**resolve_data_config({}, model=model))  # Resize(248) of its crop_pct 0.9
    assert theirs.transforms[1].size in (224, (224, 224))
    published = theirs.transforms[0].__class__(256, interpolation=theirs.transforms[0].interpolation)
    theirs.transforms[0] = published  # as Caron et al. evaluate, METHODS.md 0.4
    with torch.no_grad():
        x = torch.stack([theirs(Image.fromarray(p)) for p in pictures])
        expected = torch.nn.functional.normalize(model.eval().forward_features(x)[:, 0], dim=-1).numpy()
    np.testing.assert_allclose(judge.images(pictures), expected, atol=1e-5)
    assert (
        judge.identity["model"] == "unknown weights in the architecture of dino-vit-s-16 (vit_small_patch16_224.dino)"
    )


def test_dinov2_interpolates_its_positions_to_224_pixels(tmp_path: Path, pictures: list[np.ndarray]) -> None:
    file = dino_file("vit_small_patch14_dinov2.lvd142m", tmp_path)
    judge = load("dino", str(file))
    assert judge.identity["model"].startswith("unknown weights in the architecture of dinov2-vit-s-14 (")
    assert judge.model.patch_embed.grid_size == (16, 16)
    vectors = judge.images(pictures)
    assert vectors.shape == (2, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_judges_tell_dreambooths_photographs_apart_from_their_prompts_shape(clip_file: Path) -> None:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"DreamBooth's photographs are not at {PHOTOGRAPHS}")
    files = sorted((PHOTOGRAPHS / "dog").glob("*.jpg"))
    vectors = load("clip", str(clip_file), activation="quickgelu").images(
        [np.asarray(Image.open(f).convert("RGB")) for f in files]
    )
    assert vectors.shape == (len(files), 512)


@pytest.mark.parametrize(
    ("kind", "wanted", "said"),
    [
        ("clip", "clip-vit-b32", "clip-vit-b-32"),
        ("dino", "clip-vit-b-32", "dino judge"),
        ("clip", "nowhere.safetensors", "there is no such file"),
        ("dino", "weights.pth", "safetensors"),
    ],
)
def test_what_is_no_judge_is_named(kind: str, wanted: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(kind, wanted)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"visual.conv1.weight": torch.zeros(8, 3, 4, 4)}, file)
    with pytest.raises(UserError, match="its architecture is not that of a known clip judge"):
        load("clip", str(file))
    file.write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load("clip", str(file))


def test_offline_the_way_to_get_the_weights_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="cannot be downloaded .* pass --dino FILE.safetensors"):
        published_judges.load("dino", "dino-vit-s-16")


# Which judge a file is


def in_the_cache(name: str, file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a file where the hub's cache has a published judge's weights; its SHA-256."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    it, digest = PUBLISHED[name], hashlib.sha256(file.read_bytes()).hexdigest()
    folder = cache / f"models--{it.repository.replace('/', '--')}"
    revision = "0123456789" * 4
    for part in ("blobs", "refs", f"snapshots/{revision}"):
        (folder / part).mkdir(parents=True)
    shutil.copyfile(file, folder / "blobs" / digest)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision / it.file).symlink_to(os.path.join("..", "..", "blobs", digest))
    return digest


def test_the_published_judge_is_that_of_its_repository_or_of_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = dino_file("vit_small_patch16_224.dino", tmp_path)
    digest = in_the_cache("dino-vit-s-16", file, tmp_path / "cache", monkeypatch)
    by_name, by_bytes = load("dino", "dino-vit-s-16"), load("dino", str(file))
    for judge in (by_name, by_bytes):
        assert judge.identity["model"] == "dino-vit-s-16 (vit_small_patch16_224.dino)"
        assert judge.identity["weights_sha256"] == digest and "revision 0123456789" in judge.identity["source"]
    assert identity.counted(by_name.identity) == identity.counted(by_bytes.identity)
    weights = load_file(file)
    save_file(weights | {"norm.bias": weights["norm.bias"] + 1e-3}, file)
    other = load("dino", str(file)).identity
    assert other["model"].startswith("unknown weights in the architecture of dino-vit-s-16 (")
    assert other["weights_sha256"] != digest


def test_a_supervised_vit_is_not_dino_and_is_prepared_as_its_config_says(
    tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    file = dino_file("vit_small_patch16_224.augreg_in1k", tmp_path)
    model = timm.create_model("vit_small_patch16_224.augreg_in1k", pretrained=False, num_classes=0)
    model.load_state_dict(load_file(file))
    bare = load("dino", str(file))
    cfg = {
        k: v for k, v in model.pretrained_cfg.items() if k in ("input_size", "crop_pct", "mean", "std", "interpolation")
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_small_patch16_224", "pretrained_cfg": cfg}))
    judge = load("dino", str(file))
    assert "unknown weights" in judge.identity["model"] and judge.identity["preprocessing_from"] == "config.json"
    theirs = create_transform(**resolve_data_config({}, model=model))
    with torch.no_grad():
        x = torch.stack([theirs(Image.fromarray(p)) for p in pictures])
        expected = torch.nn.functional.normalize(model.eval().forward_features(x)[:, 0], dim=-1).numpy()
    np.testing.assert_allclose(judge.images(pictures), expected, atol=1e-5)
    assert bare.preprocessing == published_judges.DINO and "published" in bare.identity["preprocessing_from"]
    assert identity.counted(bare.identity) != identity.counted(judge.identity)


def test_a_clip_is_of_the_activation_that_its_config_or_the_user_says(
    clip_file: Path, tmp_path: Path, pictures: list[np.ndarray]
) -> None:
    """The same shapes fit both, and nothing in the weights says which."""
    import open_clip

    with pytest.raises(UserError, match="fit two activations, gelu and quickgelu, .* --clip-activation"):
        load("clip", str(clip_file))
    file = tmp_path / "open_clip_model.safetensors"
    file.symlink_to(clip_file)
    cfg = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}
    whole = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": cfg}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(whole))
    judge = load("clip", str(file))
    assert judge.identity["architecture"] == "ViT-B-32" and judge.preprocessing.mean == (0.5, 0.5, 0.5)
    model = open_clip.create_model("ViT-B-32", pretrained=str(clip_file)).eval()
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.encode_image(judge.preprocessing(pictures)), dim=-1).numpy()
    np.testing.assert_allclose(judge.images(pictures), expected, atol=1e-5)
    quick = load("clip", str(clip_file), activation="quickgelu")
    assert quick.identity["model"] == "unknown weights in the architecture of clip-vit-b-32 (ViT-B-32-quickgelu)"
    assert np.abs(quick.model.encode_image(judge.preprocessing(pictures)).detach().numpy() - expected).max() > 1e-3
    whole["model_cfg"]["vision_cfg"]["layers"] = 11
    (tmp_path / "open_clip_config.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="has another architecture"):
        load("clip", str(file))


@pytest.mark.parametrize("change", ["a head", "a weight less", "another depth"])
def test_weights_that_do_not_fit_whole_are_refused(change: str, tmp_path: Path) -> None:
    file = dino_file("vit_small_patch16_224.dino", tmp_path)
    weights = load_file(file)
    if change == "a head":
        weights["head.weight"] = torch.zeros(1000, 384)
    elif change == "a weight less":
        del weights["norm.bias"]
    else:
        weights = {k: v for k, v in weights.items() if not k.startswith("blocks.11.")}
    save_file(weights, file)
    with pytest.raises(UserError, match="does not fit the architecture of dino-vit-s-16: .* (missing|not part of it)"):
        load("dino", str(file))
