"""Paired comparison against scipy's permutation test, all signs by loops, and simulations."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.errors import UserError
from cpbench.metrics.comparison import compare, sign_flip

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
    assert found.verdict == "differs" and 0.01 < found.low < found.difference < found.high
    assert found.difference == pytest.approx(0.1, abs=0.03)
    assert (found.concepts, found.pairs, found.unpaired, found.left_out) == (8, 48, 0, ())
    turned = compare(run(2), run(1, gain=0.1))
    assert turned.verdict == "differs" and turned.difference == pytest.approx(-found.difference)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    assert (turned.p, turned.p_of_signs) == pytest.approx((found.p, found.p_of_signs))


def test_it_is_students_t_over_the_concepts_means():
    from scipy import stats

    a, b = run(1), run(2)
    means = [np.mean([a[k] - b[k] for k in a if k[0] == f"c{c}"]) for c in range(8)]
    expected, found = stats.ttest_1samp(means, 0), compare(a, b)
    assert (found.difference, found.p) == pytest.approx((np.mean(means), expected.pvalue))
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p_of_signs == sign_flip(means)


def test_pairing_shows_what_unpaired_runs_hide():
    a, b = run(1, gain=0.1), run(2)
    spread = np.std(list(a.values())) / math.sqrt(len(a))
    assert compare(a, b).verdict == "differs" and compare(a, b).difference < 4 * spread


def test_nothing_is_shown_where_there_is_nothing():
    assert compare(run(1), run(1)).verdict == "alike" and compare(run(1), run(1)).p == 1
    found = [compare(run(100 + 2 * i), run(101 + 2 * i)).verdict for i in range(150)]
    assert found.count("differs") < 15


def test_of_one_concept_nothing_is_shown():
    one = compare(run(1, concepts=1, gain=0.3), run(2, concepts=1))
    assert one.verdict == "open" and math.isnan(one.low) and math.isnan(one.p) and one.concepts == 1


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
