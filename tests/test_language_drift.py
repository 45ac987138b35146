"""Language drift of models that stay, move and collapse."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.metrics.language_drift import language_drift


def pictures(seed, n, width=6):
    return np.random.default_rng(seed).normal(size=(n, width))


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 5))
def test_drift_is_scipys_cosine_distance(seed, n, m):
    from scipy.spatial.distance import cdist, cosine

    before, after, real = pictures(seed, n), pictures(seed + 1000, n), pictures(seed + 2000, m)
    found = language_drift(before, after, real)
    moved = [cosine(x, y) for x, y in zip(before, after, strict=True)]
    was, now = (1 - cdist(them, real, "cosine") for them in (before, after))
    assert found.drift == pytest.approx(moved)
    assert found.pres_before == pytest.approx(was.mean(axis=1)) and found.pres_after == pytest.approx(now.mean(axis=1))
    expected = {"pres_before": was.mean(), "pres_after": now.mean(), "pres_rise": now.mean() - was.mean()}
    assert found.means == pytest.approx(expected | {"moved": sum(moved) / n}, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 6), st.floats(0.1, 10))
def test_a_model_that_did_not_change_did_not_drift(seed, n, length):
    before = pictures(seed, n)
    found = language_drift(before, before, pictures(seed + 1000, 4))
    assert found.drift.tolist() == [0] * n and found.means["pres_rise"] == 0
    assert (language_drift(before, length * before, before).drift >= 0).all()  # not -1e-16


def test_a_class_that_became_the_subject_is_seen():
    subject = np.array([[0.0, 1.0]] * 4)
    found = language_drift([[1.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 0.0]], subject)
    assert found.pres_before.tolist() == [0, 0] and found.pres_after.tolist() == [1, 0]
    assert found.drift.tolist() == [1, 0]
    assert found.means == {"pres_before": 0, "pres_after": 0.5, "pres_rise": 0.5, "moved": 0.5}


@pytest.mark.filterwarnings("error")
def test_what_is_not_defined():
    real = pictures(0, 3)
    assert all(math.isnan(v) for v in language_drift(np.empty((0, 6)), np.empty((0, 6)), real).means.values())
    failed = pictures(1, 2)
    failed[0] = 0
    assert np.isnan(language_drift(failed, failed, real).drift).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"\(2, 6\) and \(3, 6\)"):
        language_drift(pictures(0, 2), pictures(0, 3), real)
