"""Saved pictures judged again: the same judges say the same, others something else, and nothing of the run changes."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file, save_file
from torchmetrics.functional import pairwise_cosine_similarity

from cpbench.backbones.backbone import MINIATURE
from cpbench.concepts import held_out
from cpbench.errors import UserError
from cpbench.files import read_json, write_json
from cpbench.finished import scoring
from cpbench.judges.judge import content_key
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.records import tables as results
from cpbench.records.pictures import read_picture


@pytest.fixture
def ran(short_run: Callable, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short_run("seqlora"), tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_the_same_judges_say_the_same_and_the_run_stays_as_it_is(ran: Path) -> None:
    before = contents(ran)
    folder, concepts, last = scoring.rescore(ran, None, None)
    assert (concepts, last) == (["dog", "vase"], 2) and folder.parent == ran / "scored"
    after = contents(ran)
    assert {k: v for k, v in after.items() if not k.startswith(("scored/", "embeddings/"))} == {
        k: v for k, v in before.items() if not k.startswith("embeddings/")
    }
    ours, theirs = (results.read_scores(f / "scores.csv") for f in (ran, folder))
    assert ours.drop(columns="value").equals(theirs.drop(columns="value"))
    np.testing.assert_allclose(ours["value"], theirs["value"], atol=2e-6)
    for name in ("measures.csv", "identification.csv"):
        assert (folder / name).read_bytes() == (ran / name).read_bytes()


def test_other_rules_of_pairing_are_there_as_matrices(ran: Path) -> None:
    """Against torchmetrics' cosines, picture by picture, from the embeddings that were kept."""
    folder, concepts, _ = scoring.rescore(ran, None, None)
    usual = pd.read_csv(folder / "matrix-dino.csv", index_col="row")
    (file,) = (ran / "embeddings").glob("dino-*.safetensors")
    kept = {key: torch.from_numpy(vector) for key, vector in load_numpy(file).items()}

    def embedded(pictures: Iterable[np.ndarray]) -> torch.Tensor:
        return torch.stack([kept[content_key(p)] for p in pictures]).double()

    real = {c: embedded(held_out.further_drawings(c, 8)) for c in concepts}
    centre = torch.stack([v.mean(0) for v in real.values()]).mean(0)
    for t, concept in ((0, "dog"), (1, "dog"), (2, "vase")):
        own = embedded(read_picture(f) for f in (ran / f"task-{t:02d}" / "pictures" / concept).glob("0*.png"))
        cosines = pairwise_cosine_similarity(own, real[concept])
        assert usual.loc[t, concept] == pytest.approx(float(cosines.mean()), abs=2e-6)
        nearest = pd.read_csv(folder / "matrix-dino-nearest.csv", index_col="row")
        assert nearest.loc[t, concept] == pytest.approx(float(cosines.amax(1).mean()), abs=2e-6)
        moved = pairwise_cosine_similarity(own - centre, real[concept] - centre)
        centred = pd.read_csv(folder / "matrix-dino-centred.csv", index_col="row")
        assert centred.loc[t, concept] == pytest.approx(float(moved.mean()), abs=2e-6)
    assert np.isnan(nearest.loc[1, "vase"]) and (folder / "matrix-clip_i-nearest.csv").is_file()


def test_another_judge_says_something_else_by_its_own_name(ran: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(MINIATURE / "judges" / "dino", other)
    weights = load_file(other / "model.safetensors")
    save_file({k: v * 1.1 if v.dim() > 1 else v for k, v in weights.items()}, other / "model.safetensors")
    usual, _, _ = scoring.rescore(ran, None, None)
    folder, _, _ = scoring.rescore(ran, None, str(other))
    assert folder != usual and len(list((ran / "embeddings").glob("dino-*.safetensors"))) == 2
    tables = [results.read_scores(f / "scores.csv").set_index(SCORE_COLUMNS[:-1])["value"] for f in (usual, folder)]
    moved = (tables[0] - tables[1]).abs().groupby("metric").max()
    assert moved["dino"] > 1e-3 and moved["clip_t"] < 1e-5
    assert read_json(folder / "judges.json")["dino"]["model"] == "other"


def test_a_picture_that_is_gone_has_no_score(ran: Path) -> None:
    (ran / "task-02" / "pictures" / "dog" / "00-1.png").unlink()
    folder, _, _ = scoring.rescore(ran, None, None)
    scores = results.read_scores(folder / "scores.csv")
    lost = scores[scores["value"].isna()]
    assert set(zip(lost["row"], lost["kind"], lost["concept"], lost["index"], strict=True)) == {(2, "cell", "dog", 1)}
    shutil.rmtree(ran / "task-01" / "pictures" / "dog")
    folder, _, _ = scoring.rescore(ran, None, None)
    scores = results.read_scores(folder / "scores.csv")
    assert scores[(scores["row"] == 1) & (scores["kind"] == "cell")]["value"].isna().all()


def test_what_is_not_as_it_was_is_refused(ran: Path, call: Callable) -> None:
    record = read_json(ran / "run.json")
    pictures = record["facts"]["images"] | {"vase": "0" * 64}
    write_json(ran / "run.json", record | {"facts": record["facts"] | {"images": pictures}})
    with pytest.raises(UserError, match="the pictures of vase are not those it learned from"):
        scoring.rescore(ran, None, None)
    write_json(ran / "run.json", record | {"facts": record["facts"] | {"sequence": "0" * 64}})
    with pytest.raises(UserError, match="has changed since the run"):
        scoring.rescore(ran, None, None)
    write_json(ran / "run.json", record)
    for task in ran.glob("task-*"):
        shutil.rmtree(task / "pictures")
    code, _, said = call("score", ran)
    assert code == 2 and "its pictures are not there" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "told"),
    [(["clip-vit-l-15"], "did you mean 'clip-vit-l-14'"), (["clip-vit-l-14", "clip-vit-b-32"], "is also a clip judge")],
)
def test_judges_names(names: list[str], told: str) -> None:
    kinds = {"clip": "clip-vit-l-14", "dino": "dinov2-vit-s-14"}
    assert scoring.judges_by_type(("clip-vit-l-14", "dinov2-vit-s-14")) == (kinds, [])
    with pytest.raises(UserError, match=told):
        scoring.judges_by_type(tuple(names))
