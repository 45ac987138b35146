"""The confusion matrix against loops over pictures and concepts."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.errors import UserError
from cpbench.metrics.identification import identify

CORNERS = {c: np.eye(3)[[i] * 2] for i, c in enumerate(["cat", "dog", "vase"])}


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def pictures(seed, concepts, width=5):
    rng = np.random.default_rng(seed)
    return {f"c{i}": rng.normal(size=(rng.integers(1, 5), width)) for i in range(concepts)}


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 5))
def test_counts_are_those_of_the_loops(seed, concepts):
    drawn, real = pictures(seed, concepts), pictures(seed + 1000, concepts)
    for rule, nearness in (("mean", np.mean), ("nearest", np.max)):
        expected = np.zeros((concepts, concepts), dtype=int)
        for i, group in enumerate(drawn.values()):
            for x in group:
                scores = [nearness([cosine(x, y) for y in refs]) for refs in real.values()]
                expected[i, scores.index(max(scores))] += 1
        found = identify(drawn, real, rule)
        assert found.counts.tolist() == expected.tolist()
        assert found.accuracy == pytest.approx(np.mean(np.diag(expected) / expected.sum(axis=1)))


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(1, 5))
def test_the_real_pictures_are_nearest_to_themselves(seed, concepts):
    real = pictures(seed, concepts)
    assert identify(real, real, "nearest").accuracy == 1
    assert np.array_equal(identify(real, real, "nearest").counts, np.diag([len(x) for x in real.values()]))


@settings(max_examples=30)
@given(st.integers(0, 999), st.permutations(range(4)))
def test_counts_follow_the_concepts(seed, order):
    drawn, real = pictures(seed, 4), pictures(seed + 1000, 4)
    names = [f"c{i}" for i in order]
    moved = identify({c: drawn[c] for c in names}, {c: real[c] for c in names})
    assert moved.concepts == tuple(names)
    assert np.array_equal(moved.counts, identify(drawn, real).counts[np.ix_(order, order)])


def test_a_dog_drawn_as_the_cat_is_seen():
    drawn = {"cat": np.eye(3)[[0, 0, 0, 0]], "dog": np.eye(3)[[0, 0, 0, 1]]}  # the vase is not learned yet
    found = identify(drawn, CORNERS)
    assert found.generated == ("cat", "dog") and found.concepts == ("cat", "dog", "vase")
    assert found.counts.tolist() == [[4, 0, 0], [3, 1, 0]]
    assert found.per_concept == {"cat": 1, "dog": 0.25} and found.accuracy == 0.625


def test_own_concept_is_found_by_name_not_by_place():
    drawn = {"vase": np.eye(3)[[2, 2]], "cat": np.eye(3)[[0, 1]]}
    found = identify(drawn, CORNERS)
    assert found.counts.tolist() == [[0, 0, 2], [1, 1, 0]]
    assert found.per_concept == {"vase": 1, "cat": 0.5}


def test_concepts_count_alike_whatever_their_number_of_pictures():
    found = identify({"cat": np.eye(3)[[0] * 9], "dog": np.eye(3)[[0]]}, CORNERS)
    assert found.accuracy == 0.5


def test_the_rules_differ_where_one_reference_is_near():
    real = {"a": np.array([[1.0, 0.0], [-1.0, 0.1]]), "b": np.array([[1.0, 1.0], [1.0, 1.0]])}
    drawn = {"a": np.array([[1.0, 0.1]])}
    assert identify(drawn, real, "nearest").accuracy == 1 and identify(drawn, real, "mean").accuracy == 0


@pytest.mark.filterwarnings("error")
def test_what_is_not_defined():
    assert math.isnan(identify({}, CORNERS).accuracy)
    none = identify({"cat": np.empty((0, 3)), "dog": np.eye(3)[[1]]}, CORNERS)
    assert math.isnan(none.per_concept["cat"]) and math.isnan(none.accuracy) and none.per_concept["dog"] == 1
    with pytest.raises(ValueError, match="no real pictures of toy"):
        identify({"toy": np.eye(3)}, CORNERS)
    with pytest.raises(ValueError, match="cat: a picture without a direction"):
        identify({"cat": np.zeros((1, 3))}, CORNERS)
    with pytest.raises(UserError, match="unknown identification rule 'neares': did you mean 'nearest'"):
        identify(CORNERS, CORNERS, "neares")
