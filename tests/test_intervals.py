"""Intervals against closed forms, scipy, plain loops, and the truth of simulations."""

import math
import random
from statistics import NormalDist, fmean, stdev

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.metrics import intervals
from cpbench.metrics.intervals import Interval, bootstrap, concept_means, t_interval

Z = NormalDist().inv_cdf(0.975)


def rows(seed, most=4):
    """Ragged rows (value, concept, prompt) of some concepts, their prompts and pictures."""
    rng = random.Random(seed)
    out = []
    for c in range(rng.randint(1, most)):
        for p in range(rng.randint(1, most)):
            out += [(rng.gauss(c, 1), f"c{c}", f"p{p}") for _ in range(rng.randint(1, most))]
    return out


def columns(table):
    return tuple(map(list, zip(*table, strict=True)))


def nested(table):
    tree = {}
    for value, c, p in table:
        tree.setdefault(c, {}).setdefault(p, []).append(value)
    return [list(prompts.values()) for prompts in tree.values()]


# The mean


@settings(max_examples=40)
@given(st.integers(0, 999))
def test_mean_is_of_pictures_then_prompts_then_concepts(seed):
    table = rows(seed)
    expected = [fmean(fmean(p) for p in prompts) for prompts in nested(table)]
    names, means = concept_means(*columns(table))
    assert names == sorted({c for _, c, _ in table}) and means == pytest.approx(expected)
    found = bootstrap(*columns(table), resamples=20)
    assert found.mean == pytest.approx(fmean(expected)) and found.units == len(expected)


# The bootstrap


def test_one_level_gives_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 300)
    found = bootstrap(values, [str(i) for i in range(300)], resamples=8000)
    error = values.std() / math.sqrt(300)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - Z * error, values.mean() + Z * error), abs=0.08 * error
    )
    narrower = bootstrap(values, [str(i) for i in range(300)], level=0.5, resamples=8000)
    assert narrower.high - narrower.low == pytest.approx(2 * NormalDist().inv_cdf(0.75) * error, rel=0.06)


def test_one_level_is_scipys_bootstrap():
    from scipy import stats

    values = np.random.default_rng(1).exponential(size=12)  # skewed, so that the two sides differ
    theirs = stats.bootstrap((values,), np.mean, n_resamples=8000, method="percentile", random_state=0)
    found = bootstrap(values, [str(i) for i in range(12)], resamples=8000)
    low, high = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_three_ragged_levels_are_those_of_plain_loops():
    rng = random.Random(0)
    table = rows(7)
    tree = nested(table)
    assert len(tree) > 2 and len({len(p) for p in tree}) > 1  # ragged indeed

    def again():
        return fmean(
            fmean(fmean(rng.choices(pictures, k=len(pictures))) for pictures in rng.choices(prompts, k=len(prompts)))
            for prompts in rng.choices(tree, k=len(tree))
        )

    drawn = [again() for _ in range(6000)]
    found = bootstrap(*columns(table), resamples=6000)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.15 * stdev(drawn))


def test_pictures_of_a_concept_are_no_more_evidence_about_concepts():
    values = np.random.default_rng(0).normal(size=10)
    names = [f"c{i}" for i in range(10)]
    few = bootstrap(values, names)
    many = bootstrap(np.repeat(values, 50), np.repeat(names, 50))
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.1)


@pytest.mark.parametrize(("concepts", "least", "most"), [(25, 0.89, 0.97), (5, 0.77, 0.89)])
def test_interval_of_concepts_prompts_and_pictures_holds_the_truth(concepts, least, most):
    # In theory 0.93 of 25 and 0.83 of 5: the normal interval against Student's t of that many concepts.
    rng = np.random.default_rng(0)
    labels = [np.repeat(np.arange(concepts), 6), np.tile(np.repeat([0, 1, 2], 2), concepts)]
    held = []
    for trial in range(500):
        values = rng.normal(size=(concepts, 1, 1)) + 0.3 * rng.normal(size=(concepts, 3, 1))
        values = (values + 0.3 * rng.normal(size=(concepts, 3, 2))).ravel()
        found = bootstrap(values, *labels, resamples=300, seed=trial)
        held.append(found.low <= 0 <= found.high)
    assert least < np.mean(held) < most  # with five concepts too narrow, as the docstring says


@settings(max_examples=20)
@given(st.integers(0, 999), st.randoms(use_true_random=False))
def test_interval_repeats_and_does_not_ask_for_the_order_of_rows(seed, shuffler):
    table = rows(seed)
    found = bootstrap(*columns(table), resamples=50)
    shuffler.shuffle(table)
    assert bootstrap(*columns(table), resamples=50) == found
    values = [v for v, _, _ in table]
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


@settings(max_examples=20)
@given(st.integers(0, 999), st.floats(0.1, 10), st.floats(-5, 5))
def test_interval_moves_with_the_scale(seed, scale, shift):
    values, *labels = columns(rows(seed))
    found = bootstrap(values, *labels, resamples=50)
    moved = bootstrap(scale * np.array(values) + shift, *labels, resamples=50)
    assert (moved.mean, moved.low, moved.high) == pytest.approx(
        tuple(scale * v + shift for v in (found.mean, found.low, found.high)), abs=1e-9
    )


def test_interval_is_as_wide_however_many_are_drawn_at_once(monkeypatch):
    values, *labels = columns(rows(7))
    whole = bootstrap(values, *labels, resamples=4000)
    monkeypatch.setattr(intervals, "AT_ONCE", 200)
    parts = bootstrap(values, *labels, resamples=4000)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=0.1 * (whole.high - whole.low))
    assert parts.mean == whole.mean


def test_seeds_differ():
    values, *labels = columns(rows(7))
    assert bootstrap(values, *labels, seed=0) != bootstrap(values, *labels, seed=1)


@pytest.mark.filterwarnings("error")
def test_failed_pictures_are_left_out_and_undefined_concepts_are_not():
    nan = float("nan")
    found = bootstrap([1.0, nan, 3.0, 5.0], ["a", "a", "b", "b"], ["x", "x", "x", "y"])
    assert found == bootstrap([1.0, 3.0, 5.0], ["a", "b", "b"], ["x", "x", "y"])
    gone = bootstrap([1.0, nan], ["a", "b"])
    assert math.isnan(gone.mean) and math.isnan(gone.low) and gone.units == 2
    names, means = concept_means([1.0, nan], ["a", "b"])
    assert names == ["a", "b"] and means.tolist() == pytest.approx([1.0, nan], nan_ok=True)
    assert math.isnan(bootstrap([nan], ["a"]).high) and math.isnan(bootstrap([], []).mean)


def test_one_picture_has_no_width():
    assert bootstrap([0.7], ["a"]) == Interval(0.7, 0.7, 0.7, 1)


def test_misfits_are_named():
    with pytest.raises(ValueError, match=r"got \(2,\), 1 and 1"):
        bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match=r"got \(1, 2\), 1 and 1"):
        bootstrap([[1.0, 2.0]], ["a"])


# Seeds


@settings(max_examples=40)
@given(st.lists(st.floats(-10, 10), min_size=3, max_size=8, unique=True), st.sampled_from([0.8, 0.95]))
def test_t_interval_is_scipys(values, level):
    from scipy import stats

    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    found = t_interval(values, level)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert found.mean == pytest.approx(fmean(values), abs=1e-12) and found.units == len(values)


def test_t_interval_of_three_seeds_by_hand():
    found = t_interval([1.0, 2.0, 3.0])  # t(2) = 4.3027, standard error 1 / sqrt(3)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)))


@pytest.mark.filterwarnings("error")
def test_under_three_seeds_there_is_no_interval():
    two = t_interval([1.0, 2.0])
    assert two.mean == 1.5 and math.isnan(two.low) and math.isnan(two.high) and two.units == 2
    assert math.isnan(t_interval([]).mean)
    undefined = t_interval([1.0, 2.0, float("nan"), 3.0])
    assert math.isnan(undefined.mean) and math.isnan(undefined.low)
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        t_interval([[1.0, 2.0, 3.0]])
