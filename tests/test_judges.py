"""Judges against the libraries they come from: torchvision's preprocessing, open_clip's and timm's own calls."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from cpbench.backbones.backbone import MINIATURE
from cpbench.concepts import images
from cpbench.errors import UserError
from cpbench.judges import judge as judges
from cpbench.judges.judge import Judge, Preprocessing
from cpbench.judges.local import load_clip, load_dino
from cpbench.judges.select import load_judges

FOLDER = MINIATURE / "judges"
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth" / "dataset"
# as published: METHODS.md 0.4 for DINO, open_clip's own constants for CLIP
DINO = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = Preprocessing(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
PROMPTS = (
    "a dog in the snow",
    "A Purple Backpack!",
    "a stuffed animal on top of a wooden floor",
    "zyzzyva",
    "a photo of a <v1> dog, 27 cups",
    "",
    "a dog " * 40,
)


@pytest.fixture(scope="module")
def loaded() -> dict[str, Judge]:
    return load_judges("miniature")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.concatenate([images.rendered("dog")[:3], images.rendered("vase")[:2]])


def torchvision_like(pre: Preprocessing) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize(pre.resize, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(pre.crop),
            transforms.ToTensor(),
            transforms.Normalize(pre.mean, pre.std),
        ]
    )


# Preprocessing


@pytest.mark.parametrize("pre", [DINO, CLIP], ids=["dino", "clip"])
def test_preprocessing_of_photographs_is_torchvisions(pre: Preprocessing) -> None:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"DreamBooth's photographs are not at {PHOTOGRAPHS}")
    files = [sorted((PHOTOGRAPHS / name).glob("*.jpg"))[0] for name in ("dog", "backpack", "vase")]
    opened = [Image.open(f).convert("RGB") for f in files]
    opened.append(opened[0].crop((0, 7, 633, 411)))  # those of DreamBooth are all square
    opened.append(opened[1].crop((13, 0, 320, 640)))
    for photograph in opened:
        torch.testing.assert_close(
            pre([np.asarray(photograph)])[0], torchvision_like(pre)(photograph), atol=1e-6, rtol=1e-6
        )


@pytest.mark.parametrize("pre", [DINO, CLIP, Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3)])
def test_preprocessing_of_drawn_pictures_is_torchvisions(pre: Preprocessing, pictures: np.ndarray) -> None:
    expected = torch.stack([torchvision_like(pre)(Image.fromarray(p)) for p in pictures])
    torch.testing.assert_close(pre(pictures), expected, atol=1e-6, rtol=1e-6)


@settings(max_examples=80)
@given(st.integers(2, 90), st.integers(2, 90), st.integers(2, 40), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_preprocessing_of_any_size_is_torchvisions(height: int, width: int, crop: int, more: int, seed: int) -> None:
    pre = Preprocessing(crop + more, crop, (0.2, 0.4, 0.6), (0.3, 0.2, 0.1))
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = torchvision_like(pre)(Image.fromarray(picture))
    torch.testing.assert_close(pre([picture])[0], expected, atol=1e-5, rtol=1e-6)


def test_pictures_of_several_sizes_make_one_batch() -> None:
    sizes = ((300, 400), (224, 224), (10, 30))
    batch = CLIP([np.zeros((*size, 3), np.uint8) for size in sizes])
    assert batch.shape == (3, 3, 224, 224)
    expected = -torch.tensor(CLIP.mean) / torch.tensor(CLIP.std)
    torch.testing.assert_close(batch, expected.view(1, 3, 1, 1).expand(batch.shape))


# Embeddings


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_embeddings_are_unit_vectors_that_tell_pictures_apart(
    loaded: dict[str, Judge], pictures: np.ndarray, name: str
) -> None:
    vectors = loaded[name].images(pictures)
    assert vectors.shape[0] == len(pictures) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    apart = np.abs(vectors[:, None] - vectors[None]).max(-1) + np.eye(len(vectors))
    assert apart.min() > 1e-4


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_a_picture_has_one_embedding_alone_or_in_a_batch(pictures: np.ndarray, name: str) -> None:
    load = {"clip": load_clip, "dino": load_dino}[name]
    together, alone, twos = load(FOLDER / name), load(FOLDER / name), load(FOLDER / name)
    expected = together.images(pictures)
    singly = np.concatenate([alone.images(p[None]) for p in pictures])
    np.testing.assert_allclose(singly, expected, atol=1e-5)
    np.testing.assert_allclose(twos.images(list(pictures), batch_size=2), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_a_picture_met_before_is_not_encoded_again(pictures: np.ndarray, name: str) -> None:
    judge = {"clip": load_clip, "dino": load_dino}[name](FOLDER / name)
    encoded: list[int] = []
    layer = next(m for m in judge.model.modules() if isinstance(m, torch.nn.Conv2d))
    layer.register_forward_hook(lambda module, args, out: encoded.append(len(out)))
    first = judge.images(pictures[:3])
    again = judge.images(pictures[[2, 4, 0, 4]])
    assert sum(encoded) <= 5  # four pictures, one of them twice in a call
    judge.images(pictures[[4, 2]])
    assert sum(encoded) <= 5
    assert np.array_equal(again[0], first[2]) and np.array_equal(again[2], first[0])
    assert np.array_equal(again[1], again[3])


def test_only_the_last_pictures_are_remembered_and_those_that_are_used_stay(
    pictures: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judges, "MOST_KEPT", 2)
    judge = load_judges("miniature")["dino"]
    a, b, c = pictures[:3]
    whole = judge.images(pictures[:3])  # more than is kept, and all of them are answered
    assert len(judge._vectors) == 2
    again = judge.images([b])  # kept, and now the last that was used
    judge.images([a])
    judge.images([b])
    encoded = []
    judge.model.register_forward_pre_hook(lambda module, given: encoded.append(len(given[0])))
    np.testing.assert_array_equal(judge.images([b]), again)
    assert encoded == [] and len(judge._vectors) == 2
    np.testing.assert_allclose(judge.images([c])[0], whole[2], atol=1e-5)
    assert encoded == [1]


def test_equal_bytes_in_another_shape_are_another_picture(loaded: dict[str, Judge], pictures: np.ndarray) -> None:
    wide = pictures[0].reshape(32, 128, 3)
    square, stretched = (loaded["dino"].images([p])[0] for p in (pictures[0], wide))
    expected = load_dino(FOLDER / "dino").images([wide])[0]
    np.testing.assert_allclose(stretched, expected, atol=1e-5)
    assert np.abs(square - stretched).max() > 1e-4


def test_texts_are_unit_vectors_and_only_clip_reads(loaded: dict[str, Judge]) -> None:
    vectors = loaded["clip"].texts(list(PROMPTS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors.shape[1] == loaded["clip"].images(np.zeros((1, 64, 64, 3), np.uint8)).shape[1]
    with pytest.raises(TypeError, match="dino"):
        loaded["dino"].texts(["a dog"])


# Words


def test_open_clip_reads_words_as_transformers_does(loaded: dict[str, Judge]) -> None:
    import open_clip
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(FOLDER / "clip")
    ids = open_clip.get_tokenizer(f"local-dir:{FOLDER / 'clip'}")(list(PROMPTS))
    expected = theirs(list(PROMPTS), padding="max_length", truncation=True, max_length=32).input_ids
    assert ids.tolist() == expected
    assert loaded["clip"].tokenizer(list(PROMPTS)).tolist() == expected
    # a prompt of 32 tokens and more still ends
    assert expected[-1][0] == theirs.bos_token_id and expected[-1][-1] == theirs.eos_token_id


def test_words_of_the_world_are_one_token_and_others_are_spelled(loaded: dict[str, Judge]) -> None:
    names = {i: token for token, i in json.loads((FOLDER / "clip" / "vocab.json").read_text()).items()}

    def tokens(prompt: str) -> list[str]:
        read = [names[i] for i in loaded["clip"].tokenizer([prompt])[0].tolist()]
        assert read[0] == "<|startoftext|>"
        return read[1 : read.index("<|endoftext|>")]

    assert tokens("A purple dog in the snow") == [f"{w}</w>" for w in ["a", "purple", "dog", "in", "the", "snow"]]
    assert tokens("sks rare backpack") == ["sks</w>", "rare</w>", "backpack</w>"]
    for word in ("zyzzyva", "qwrtp", "<v1>", "naïve"):
        spelled = tokens(word)
        assert len(spelled) > 1
        assert bytes_of("".join(spelled)) == word


def bytes_of(spelled: str) -> str:
    """Text back from byte-level BPE, by CLIP's table of printable stand-ins for bytes."""
    from open_clip.tokenizer import bytes_to_unicode

    table = {c: b for b, c in bytes_to_unicode().items()}
    return bytes(table[c] for c in re.sub("</w>", "", spelled)).decode()


# Who they are


@pytest.mark.parametrize(("name", "file"), [("clip", "open_clip_model.safetensors"), ("dino", "model.safetensors")])
def test_the_identity_names_weights_and_preprocessing(loaded: dict[str, Judge], name: str, file: str) -> None:
    identity = loaded[name].identity
    assert identity["weights_sha256"] == hashlib.sha256((FOLDER / name / file).read_bytes()).hexdigest()
    assert "bicubic" in identity["preprocessing"] and "64" in identity["preprocessing"]
    assert str(loaded[name].preprocessing.mean) in identity["preprocessing"]
    assert json.loads(json.dumps(identity)) == identity


def test_open_clips_own_calls_give_the_same_features(loaded: dict[str, Judge], pictures: np.ndarray) -> None:
    import open_clip

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{FOLDER / 'clip'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{FOLDER / 'clip'}")
    model.eval()
    with torch.no_grad():
        x = torch.stack([preprocess(Image.fromarray(p)) for p in pictures])
        expected = model.encode_image(x.float(), normalize=True).numpy()
        words = model.encode_text(tokenizer(list(PROMPTS)), normalize=True).numpy()
    np.testing.assert_allclose(loaded["clip"].images(pictures), expected, atol=1e-5)
    np.testing.assert_allclose(loaded["clip"].texts(list(PROMPTS)), words, atol=1e-5)


def test_timms_own_calls_give_the_same_features(loaded: dict[str, Judge], pictures: np.ndarray) -> None:
    import timm

    model = timm.create_model(f"local-dir:{FOLDER / 'dino'}", pretrained=True).eval()
    preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        x = torch.stack([preprocess(Image.fromarray(p)) for p in pictures])
        token = model.forward_features(x)[:, 0]
        projected = token @ model.head.weight.T + model.head.bias
        expected = (projected / projected.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(loaded["dino"].images(pictures), expected, atol=1e-5)


@pytest.mark.parametrize("classes", [0, 10])
def test_a_dino_that_does_not_say_it_is_projected_gives_its_class_token(
    tmp_path: Path, pictures: np.ndarray, classes: int
) -> None:
    """Also where a classifier was left on it: its answers are no embedding."""
    import timm
    from safetensors.torch import save_file

    size = {"img_size": 64, "embed_dim": 32, "depth": 1, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **size).eval()
    half = (0.5, 0.5, 0.5)
    cfg = {"input_size": [3, 64, 64], "num_classes": classes, "mean": half, "std": half, "classifier": "head", "first_conv": "patch_embed.proj"}  # fmt: skip
    facts = {"architecture": "vit_tiny_patch16_224", "num_classes": classes, "model_args": size, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    judge = load_dino(tmp_path)
    with torch.no_grad():
        token = model.forward_features(judge.preprocessing(pictures))[:, 0].numpy()
    expected = token / np.linalg.norm(token, axis=1, keepdims=True)
    np.testing.assert_allclose(judge.images(pictures), expected, atol=1e-5)
    assert judge.identity["feature"] == "class token after the final norm"


def test_the_weights_in_the_folder_are_the_weights_that_judge(loaded: dict[str, Judge]) -> None:
    """Not random ones, which timm and open_clip make in silence when they find no file."""
    from safetensors.torch import load_file

    for name, file in (("clip", "open_clip_model.safetensors"), ("dino", "model.safetensors")):
        model, stored = loaded[name].model.state_dict(), load_file(FOLDER / name / file)
        assert stored.keys() <= model.keys() and len(stored) > 20
        assert all(torch.equal(model[k].float(), v.float()) for k, v in stored.items())


@pytest.mark.parametrize("load", [load_clip, load_dino])
def test_a_folder_without_weights_is_refused_by_name(tmp_path: Path, load) -> None:
    with pytest.raises(UserError, match="safetensors is missing") as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
