"""Who judges: weights, preprocessing, tokenizer and rules make a run's hash, name its caches and keep tables apart."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torchvision import transforms

from cpbench.backbones.backbone import MINIATURE
from cpbench.concepts import images
from cpbench.errors import UserError
from cpbench.files import read_json
from cpbench.finished import scoring
from cpbench.judges import embeddings, identity
from cpbench.judges import judge as judges
from cpbench.judges.embeddings import Embeddings
from cpbench.judges.judge import Judge, Preprocessing
from cpbench.judges.local import load_clip
from cpbench.judges.select import load_judges
from cpbench.records import tables
from cpbench.records.record import JudgeFacts

ROOT = Path(__file__).parents[1]
FOLDER = MINIATURE / "judges"
PRE = Preprocessing(72, 56, (0.1, 0.2, 0.3), (0.9, 0.8, 0.7), "bilinear")
WORDS = "resize=72,crop=56,interpolation=bilinear,mean=0.1/0.2/0.3,std=0.9/0.8/0.7"


def edited(folder: Path, kind: str, change: Callable[[dict], object]) -> str:
    """A copy of the miniature's judge whose config was changed."""
    shutil.copytree(FOLDER / kind, folder)
    file = folder / {"clip": "open_clip_config.json", "dino": "config.json"}[kind]
    config = json.loads(file.read_text())
    change(config)
    file.write_text(json.dumps(config))
    return str(folder)


def other_words(folder: Path) -> str:
    """A copy of the miniature's CLIP that reads the words for dog as those for vase, and the other way round."""
    shutil.copytree(FOLDER / "clip", folder)
    for name in ("vocab.json", "tokenizer.json"):
        if (folder / name).is_file():
            table = json.loads((folder / name).read_text())
            vocabulary = table if name == "vocab.json" else table["model"]["vocab"]
            vocabulary["dog</w>"], vocabulary["vase</w>"] = vocabulary["vase</w>"], vocabulary["dog</w>"]
            (folder / name).write_text(json.dumps(table))
    return str(folder)


OTHERS: dict[str, Callable[[Path], dict[str, str]]] = {
    "mean": lambda f: {"dino": edited(f, "dino", lambda c: c["pretrained_cfg"].update(mean=[0.4, 0.5, 0.5]))},
    "std": lambda f: {"clip": edited(f, "clip", lambda c: c["preprocess_cfg"].update(std=[0.5, 0.5, 0.4]))},
    "size": lambda f: {"dino": edited(f, "dino", lambda c: c["pretrained_cfg"].update(crop_pct=0.8))},
    "interpolation": lambda f: {
        "clip": edited(f, "clip", lambda c: c["preprocess_cfg"].update(interpolation="bilinear"))
    },
    "tokenizer": lambda f: {"clip": other_words(f)},
    "flag": lambda f: {"dino_preprocessing": "std=0.4"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_equal_weights_that_see_or_read_otherwise_are_another_judge(what: str, tmp_path: Path) -> None:
    given = OTHERS[what](tmp_path / "judge")
    usual, other = load_judges("miniature"), load_judges("miniature", **given)
    kind = next(iter(given)).partition("_")[0]
    assert {n: j.identity["weights_sha256"] for n, j in other.items()} == {
        n: j.identity["weights_sha256"] for n, j in usual.items()
    }
    for name in ("clip", "dino"):
        same = identity.counted(other[name].identity) == identity.counted(usual[name].identity)
        assert same == (name != kind)
        folders = {scoring.folder_name(judge[name].identity) for judge in (usual, other)}
        assert len({folder.rpartition("-")[2] for folder in folders}) == (1 if same else 2)


def test_a_copy_of_a_judge_elsewhere_is_the_same_judge(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(FOLDER / "clip", tmp_path / "a copy"))
    (copy / "LICENSE").write_text("free")
    one, other = (identity.counted(load_clip(f).identity) for f in (FOLDER / "clip", copy))
    assert one == other and one["tokenizer"] and "library" not in one


def test_another_preprocessing_is_another_run(short: Path, tmp_path: Path) -> None:
    from cpbench.config import RunConfig
    from cpbench.registry import load_method
    from cpbench.running.prepare import prepare

    def facts(**judging: str) -> dict:
        method = load_method("base")
        config = RunConfig(method="base", sequence=str(short), output=tmp_path / "out", **judging)
        return prepare(config, method, method.Options()).facts

    usual = facts()
    moved = edited(tmp_path / "judge", "dino", lambda c: c["pretrained_cfg"].update(mean=[0.4, 0.5, 0.5]))
    for judging in ({"dino": moved}, {"dino_preprocessing": "mean=0.4/0.5/0.5"}, {"clip": other_words(tmp_path / "w")}):
        other = facts(**judging)
        assert {k for k in usual if usual[k] != other[k]} == {"judges"}
        assert usual["judges"] == facts()["judges"]


def test_scoring_again_keeps_two_preprocessings_apart(short_run: Callable, tmp_path: Path) -> None:
    """And says what a judge says that never saw the other's embeddings."""
    ran = Path(shutil.copytree(short_run("seqlora"), tmp_path / "run"))
    usual, _, _ = scoring.rescore(ran, None, None)
    before = (usual / "scores.csv").read_bytes()
    other, _, _ = scoring.rescore(ran, None, None, dino_preprocessing="std=0.25")
    assert other != usual and (usual / "scores.csv").read_bytes() == before
    assert len(list((ran / "embeddings").glob("dino-*.safetensors"))) == 2
    alone = Path(shutil.copytree(short_run("seqlora"), tmp_path / "alone"))
    shutil.rmtree(alone / "embeddings")
    fresh, _, _ = scoring.rescore(alone, None, None, dino_preprocessing="std=0.25")
    one, two = (tables.read_scores(f / "scores.csv") for f in (other, fresh))
    np.testing.assert_allclose(one["value"], two["value"], atol=2e-6)
    table = tables.read_scores(usual / "scores.csv")
    assert (table["value"] - one["value"])[table["metric"] == "dino"].abs().max() > 1e-3
    assert "std (0.25, 0.25, 0.25)" in read_json(other / "judges.json")["dino"]["preprocessing"]


# What a user says


def test_a_preprocessing_in_words_is_torchvisions() -> None:
    pre = load_judges("miniature")["dino"].preprocessing.changed(WORDS)
    assert pre == PRE
    theirs = transforms.Compose(
        [
            transforms.Resize(72, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(56),
            transforms.ToTensor(),
            transforms.Normalize(PRE.mean, PRE.std),
        ]
    )
    for picture in images.rendered("dog")[:2]:
        torch.testing.assert_close(pre([picture])[0], theirs(Image.fromarray(picture)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "resize",
        "resize=x",
        "size=3",
        "mean=1/2",
        "mean=nan",
        "std=1,std=1",
        "interpolation=best",
        "crop=224 mean=1",
    ],
)
def test_words_that_are_no_preprocessing_are_refused_in_a_line(words: str, call: Callable, tmp_path: Path) -> None:
    given = ("run", "--method", "base", "--sequence", "quick3", "--dino-preprocessing", words, "--output", tmp_path)
    code, _, said = call(*given)
    assert code == 2 and len(said.splitlines()) == 1 and "resize=256,crop=224" in said


@pytest.mark.parametrize("words", ["std=0", "crop=65", "resize=32", "crop=32", "resize=100000"])
def test_a_preprocessing_that_the_judge_cannot_take_is_refused(words: str) -> None:
    with pytest.raises(UserError, match="--clip-preprocessing"):
        load_judges("miniature", clip_preprocessing=words)


# Older records


def test_what_older_records_do_not_say_is_known_of_the_miniatures_and_the_published_judges() -> None:
    import open_clip

    for judge in load_judges("miniature").values():
        known = identity.OF_WEIGHTS[judge.identity["weights_sha256"]]
        assert known.items() <= judge.identity.items()
        assert ("tokenizer" in known) == (judge.name == "clip")
    for name in ("ViT-B-32-quickgelu", "ViT-L-14-quickgelu"):
        assert judges.tokenizer_hash(open_clip.get_tokenizer(name)) == identity.OPENAI_WORDS


def test_committed_records_and_new_ones_stand_in_one_table(tmp_path: Path) -> None:
    file = next(iter(sorted((ROOT / "results" / "reference").glob("**/run.json"))))
    old = json.loads(file.read_text())
    assert "tokenizer" not in old["judges"]["clip"]  # else this test shows nothing
    new = old | {"judges": {n: j.identity for n, j in load_judges("miniature").items()}}
    other = old | {"judges": {n: j.identity for n, j in load_judges("miniature", other_words(tmp_path / "c")).items()}}
    facts = []
    for record in (old, new, other):
        held = {n: JudgeFacts.model_validate(it) for n, it in record["judges"].items()}
        facts.append({n: it.compared for n, it in held.items()})
    assert facts[0] == facts[1]
    assert facts[2]["dino"] == facts[0]["dino"] and facts[2]["clip"] != facts[0]["clip"]
    completed = [{n: identity.completed(it) for n, it in r["judges"].items()} for r in (old, new)]
    counted = [{n: identity.counted(it) for n, it in it.items()} for it in completed]
    assert counted[0] == counted[1]


# Embeddings that are kept


@pytest.fixture
def dino() -> Judge:
    return load_judges("miniature")["dino"]


def kept_in(folder: Path, judge: Judge) -> Path:
    kept = Embeddings(folder, judge)
    kept.images(images.rendered("dog")[:2])
    kept.save()
    return kept.file


def test_kept_embeddings_are_read_again(dino: Judge, tmp_path: Path) -> None:
    file = kept_in(tmp_path, dino)
    again = Embeddings(tmp_path, dino)
    assert again.file == file and len(again.known) == 2
    again.images(images.rendered("dog")[:2])
    assert not again.grown
    np.testing.assert_array_equal(again.images(images.rendered("dog")[:2]), dino.images(images.rendered("dog")[:2]))


def test_a_flipped_bit_anywhere_is_made_again(dino: Judge, tmp_path: Path) -> None:
    file = kept_in(tmp_path, dino)
    whole, right = file.read_bytes(), dino.images(images.rendered("dog")[:2])
    rng = np.random.default_rng(0)
    for at in {*range(8), *rng.integers(0, len(whole), 60).tolist(), len(whole) - 1}:
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(broken)
        np.testing.assert_array_equal(Embeddings(tmp_path, dino).images(images.rendered("dog")[:2]), right)


@pytest.mark.parametrize("change", ["no record", "another judge's name", "rows of two lengths"])
def test_what_is_not_what_its_record_says_is_made_again(change: str, dino: Judge, tmp_path: Path) -> None:
    file = kept_in(tmp_path, dino)
    with safe_open(file, framework="np") as opened:
        facts = dict(opened.metadata())
    held = load_file(file)
    if change == "no record":
        facts = {}
    elif change == "another judge's name":
        facts["key"] = json.dumps(json.loads(facts["key"]) | {"judge": {}})
    else:
        held[next(iter(held))] = np.zeros(3, np.float32)
        facts["sha256"] = embeddings._digest(held)
    save_file(held, file, facts)
    assert Embeddings(tmp_path, dino).known == {}


def test_other_versions_of_what_computes_have_another_file(
    dino: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = kept_in(tmp_path, dino)
    genuine = embeddings.metadata.version
    for name in ("torch", "timm", "pillow"):
        with monkeypatch.context() as patched:
            patched.setattr(embeddings.metadata, "version", lambda n, m=name: "0" if n == m else genuine(n))
            assert Embeddings(tmp_path, dino).file != file
    monkeypatch.setattr(embeddings, "SCORES", 10**6)
    assert Embeddings(tmp_path, dino).file != file


def test_kept_embeddings_of_another_kind_are_made_again(dino: Judge, tmp_path: Path) -> None:
    """A file that anybody can make, with a checksum that is right, and numbers of half precision or another length."""
    from safetensors import safe_open
    from safetensors.numpy import load, save

    from cpbench.judges import embeddings

    pictures = images.rendered("dog")[:3]
    file = kept_in(tmp_path, dino)
    with safe_open(file, framework="np") as opened:
        said = opened.metadata()
    for change in (np.float16, lambda v: v[:7]):
        others = {k: change(v) for k, v in load(file.read_bytes()).items()}
        file.write_bytes(save(others, said | {"sha256": embeddings._digest(others)}))
        found = Embeddings(tmp_path, dino).images(pictures)
        np.testing.assert_allclose(found, dino.images(pictures), atol=1e-6)
        file = kept_in(tmp_path, dino)


# What a judge is called


def test_the_miniatures_judges_are_called_what_they_are(dino: Judge) -> None:
    """By the weights that ship, whatever a record calls them; others keep their recorded name and have no caveat."""
    assert identity.title(dino.identity) == "miniature's DINO (XCiT, 64 px)"
    published = {"model": "dino-vit-s-16 (vit_small_patch16_224.dino)", "weights_sha256": "5" * 64}
    assert identity.title(published) == published["model"]
    assert identity.caveat([published]) == ""
    assert "miniature's DINO (XCiT, 64 px) are not comparable with published" in identity.caveat(
        [dino.identity, published]
    )


def test_every_judge_of_the_miniature_has_a_title() -> None:
    assert set(identity.OF_THE_MINIATURE) == set(identity.OF_WEIGHTS)
