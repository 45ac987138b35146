"""The model card's measures, against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from cpbench.miniature.pretrain import card


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
    assert card.identity_auc(vectors, kind, who, place) == pytest.approx(roc_auc_score(labels, scores))


def test_nearest_neighbour_is_scikit_learns_without_the_picture_itself(people) -> None:
    vectors, _, who, _ = people
    hits = []
    for i in range(len(who)):
        others = np.arange(len(who)) != i
        model = KNeighborsClassifier(1).fit(vectors[others], who[others])
        hits.append(model.predict(vectors[i : i + 1])[0] == who[i])
    assert card.nearest_neighbour(vectors, who) == pytest.approx(np.mean(hits))


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
    assert card.pca_error(train, test, 8, 5) == pytest.approx(expected, rel=1e-3)


def test_psnr_of_an_error_of_one_step_in_ten() -> None:
    assert card.psnr(0.04) == pytest.approx(20.0)


def test_portraits_are_of_individuals_no_other_split_has() -> None:
    from cpbench.miniature.world import training_identity

    validation = {training_identity("dog", k, card.SPLIT) for k in range(card.PEOPLE)}
    pretraining = {training_identity("dog", k) for k in range(400)}
    assert not validation & pretraining
