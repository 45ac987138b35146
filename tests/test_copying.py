"""Copying: a picture drawn again is found, and real pictures themselves are not called copies of each other."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.metrics import copying


def pictures(seed, n, width=6):
    return np.random.default_rng(seed).normal(size=(n, width))


def cosine(x, y):
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(1, 6), st.integers(2, 6))
def test_ceiling_and_share_are_those_of_the_loops(seed, n, m):
    drawn, real = pictures(seed, n), pictures(seed + 1000, m)
    ceiling = max(cosine(x, y) for x, y in combinations(real, 2))
    table = [[cosine(x, y) for y in real] for x in drawn]
    assert copying.copy_ceiling(real) == pytest.approx(ceiling)
    expected = [float(max(row) > ceiling) for row in table]
    assert copying.copied(drawn, real).tolist() == expected
    assert copying.share_copied(drawn, real) == pytest.approx(sum(expected) / n)


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(2, 6), st.floats(0.1, 10))
def test_training_pictures_drawn_again_are_copies(seed, m, length):
    real = pictures(seed, m)
    assert copying.share_copied(length * real, real) == 1


def test_at_the_ceiling_is_not_above_it():
    real = np.array([[1.0, 0.0], [0.6, 0.8]])  # cosine 0.6
    at, above = [[0.6, -0.8]], [[0.61, -0.79]]
    assert copying.copied(at, real).tolist() == [0] and copying.copied(above, real).tolist() == [1]


def test_quantile_is_that_of_different_pictures():
    real = pictures(0, 5)
    cosines = [cosine(x, y) for x, y in combinations(real, 2)]
    assert copying.copy_ceiling(real, 0.5) == pytest.approx(np.median(cosines))
    drawn = pictures(1, 40)
    assert copying.share_copied(drawn, real, 0.5) > copying.share_copied(drawn, real)


@pytest.mark.filterwarnings("error")
def test_what_is_not_defined():
    one, some = pictures(0, 1), pictures(1, 3)
    assert math.isnan(copying.copy_ceiling(one)) and math.isnan(copying.share_copied(some, one))
    assert math.isnan(copying.share_copied(np.empty((0, 6)), some))
    assert np.isnan(copying.copied(np.concatenate([np.zeros((1, 6)), some]), some)).tolist() == [True] + [False] * 3


def test_real_pictures_twice_hide_every_copy():
    real = pictures(2, 3)
    assert copying.share_copied(real, np.concatenate([real, real[:1]])) == 0  # the ceiling is 1
