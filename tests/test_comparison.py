"""Paired comparison against scipy's permutation test, all signs by loops, and simulations."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.errors import UserError
from cpbench.metrics.comparison import Comparison, compare, sign_flip
from cpbench.metrics.intervals import bootstrap

NAN = float("nan")


def run(seed, concepts=8, gain=0.0, noise=0.05):
    """Scores by (concept, prompt, index): what pictures share in every run, and this run's own."""
    shared = np.random.default_rng(0).normal(0.5, 0.2, (concepts, 3, 2))
    own = np.random.default_rng(seed + 1).normal(gain, noise, (concepts, 3, 2))
    return {(f"c{c}", f"p{p}", k): float((shared + own)[c, p, k]) for c, p, k in np.ndindex(shared.shape)}


# The test of signs


@settings(max_examples=30)
@given(st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=7))
def test_few_concepts_are_tried_with_all_signs(d):
    as_far = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) >= abs(sum(d)) - 1e-9
        for signs in product((1, -1), repeat=len(d))
    ]
    assert sign_flip(d) == sum(as_far) / len(as_far)


def test_exact_and_drawn_p_are_scipys():
    from scipy import stats

    rng = np.random.default_rng(0)
    for C, tolerance in ((9, 1e-12), (12, 1e-12), (13, 0.015), (40, 0.015)):
        d = rng.normal(0.3, 1, C)
        theirs = stats.permutation_test(
            (d, np.zeros(C)),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            n_resamples=2**13,  # exact up to 13
            vectorized=True,
        )
        assert sign_flip(d) == pytest.approx(theirs.pvalue, abs=tolerance)


def test_fewer_than_six_concepts_never_reach_five_percent():
    assert [sign_flip([1.0] * C) for C in (1, 5, 6)] == [1, 2 / 32, 2 / 64]


@settings(max_examples=30)
@given(
    st.lists(st.floats(-1, 1, width=16), min_size=1, max_size=14), st.floats(0.5, 4), st.randoms(use_true_random=False)
)
def test_p_does_not_ask_for_scale_direction_or_order(d, scale, shuffler):
    p = sign_flip(d, flips=300)
    assert 0 < p <= 1 and sign_flip(d, flips=300) == p
    assert sign_flip([-x for x in d], flips=300) == p
    assert sign_flip([scale * x for x in d], flips=300) == p
    if len(d) <= 12:
        shuffler.shuffle(d)
        assert sign_flip(d) == p


def test_p_of_nothing_and_of_no_difference():
    assert math.isnan(sign_flip([])) and math.isnan(sign_flip([0.1, NAN]))
    assert sign_flip([0.0] * 8) == sign_flip([0.0] * 20) == 1
    assert sign_flip([1.0] * 20) == 1 / 10_000  # never 0
    with pytest.raises(ValueError, match=r"\(1, 2\)"):
        sign_flip([[0.1, 0.2]])


# The comparison


def test_a_gain_is_shown_and_turned_round_it_is_a_loss():
    found = compare(run(1, gain=0.1), run(2))
    assert found.is_significant and 0 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(0.1, abs=0.03)
    assert (found.concepts, found.pairs, found.unpaired, found.left_out) == (8, 48, 0, ())
    turned = compare(run(2), run(1, gain=0.1))
    assert turned.is_significant and turned.difference == pytest.approx(-found.difference) and turned.p == found.p
    assert turned.low == pytest.approx(-found.high, abs=0.01)


def test_difference_and_interval_are_the_bootstraps():
    a, b = run(1), run(2)
    keys = sorted(a)
    expected = bootstrap([a[k] - b[k] for k in keys], [k[0] for k in keys], [k[1] for k in keys], seed=3)
    found = compare(a, b, seed=3)
    assert (found.difference, found.low, found.high) == (expected.mean, expected.low, expected.high)
    assert found.p == sign_flip([np.mean([a[k] - b[k] for k in keys if k[0] == f"c{c}"]) for c in range(8)])


def test_pairing_shows_what_unpaired_runs_hide():
    a, b = run(1, gain=0.05), run(2)
    spread = np.std(list(a.values())) / math.sqrt(len(a))
    assert compare(a, b).is_significant and compare(a, b).difference < 2 * spread


def test_nothing_is_shown_where_there_is_nothing():
    assert not compare(run(1), run(1)).is_significant and compare(run(1), run(1)).p == 1
    shown = [compare(run(100 + 2 * i), run(101 + 2 * i), resamples=200).is_significant for i in range(150)]
    assert np.mean(shown) < 0.1


def test_both_interval_and_p_decide():
    few = compare(run(1, concepts=5, gain=0.3), run(2, concepts=5))
    assert few.low > 0 and few.p == 2 / 32 and not few.is_significant  # five concepts cannot
    wide = Comparison(0.1, -0.01, 0.2, p=0.01, concepts=8, pairs=48, unpaired=0, left_out=())
    assert not wide.is_significant
    looser = compare(run(1, concepts=5, gain=0.3), run(2, concepts=5), level=0.9)
    assert looser.is_significant and few.low < looser.low < looser.high < few.high


def test_what_has_no_partner_is_counted():
    a, b = run(1), run(2)
    b = {k: v for k, v in b.items() if k[0] != "c7"}  # a concept that the other run lacks
    b["c9", "p0", 0] = 0.5
    a["c0", "p0", 0] = NAN  # a picture that failed
    found = compare(a, b)
    assert (found.concepts, found.pairs, found.unpaired) == (7, 41, 8)
    assert found.left_out == ("c7", "c9")
    rest = {k: v for k, v in a.items() if k in b and not math.isnan(v)}
    again = compare(rest, {k: b[k] for k in rest})
    assert (again.difference, again.low, again.p) == (found.difference, found.low, found.p)


def test_runs_with_nothing_in_common_are_refused():
    with pytest.raises(UserError, match="no picture of the same concept, prompt and index in common"):
        compare({("a", "p", 0): 0.1}, {("b", "p", 0): 0.1})
