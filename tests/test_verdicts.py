"""Differs, alike or open: the tests behind the words, against scipy, brute force and simulated tables."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cpbench.metrics.verdicts import FEWEST_ENDINGS, Effect, discoveries, effect, verdicts

SEEDS = st.integers(0, 10_000)


@given(SEEDS, st.integers(2, 12))
def test_of_one_ending_it_is_students_t_over_concepts(seed: int, concepts: int) -> None:
    d = np.random.default_rng(seed).normal(0.1, 1, size=(concepts, 1))
    found, expected = effect(d), stats.ttest_1samp(d[:, 0], 0)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9) and found.is_given_endings
    for level in (0.9, 0.95):
        assert found.interval(level) == pytest.approx(tuple(expected.confidence_interval(level)), rel=1e-9)


@given(SEEDS, st.integers(2, 3))
def test_of_a_few_endings_it_is_that_of_the_concepts_means(seed: int, endings: int) -> None:
    d = np.random.default_rng(seed).normal(0.1, 1, size=(8, endings))
    assert effect(d).p == pytest.approx(stats.ttest_1samp(d.mean(1), 0).pvalue, rel=1e-9)


@given(SEEDS)
def test_of_several_endings_the_variance_is_that_of_both_factors(seed: int) -> None:
    """By the components: s_c^2 / C + s_o^2 / O + s_e^2 / (C O), each from its mean square."""
    rng = np.random.default_rng(seed)
    C, O = 7, 5  # noqa: E741
    d = rng.normal(size=(C, 1)) + 2 * rng.normal(size=(1, O)) + 0.1 * rng.normal(size=(C, O))
    anova_c = sum(O * (row.mean() - d.mean()) ** 2 for row in d) / (C - 1)
    anova_o = sum(C * (column.mean() - d.mean()) ** 2 for column in d.T) / (O - 1)
    residual = sum((d[i, j] - d[i].mean() - d[:, j].mean() + d.mean()) ** 2 for i in range(C) for j in range(O))
    anova_e = residual / ((C - 1) * (O - 1))
    s_c, s_o = (anova_c - anova_e) / O, (anova_o - anova_e) / C
    found = effect(d)
    if s_c > 0 and s_o > 0:
        assert found.error**2 == pytest.approx(s_c / C + s_o / O + anova_e / (C * O), rel=1e-9)
        assert min(C, O) - 1 <= found.freedom <= C * O - 1
    assert not found.is_given_endings


@pytest.mark.parametrize("endings", [1, FEWEST_ENDINGS, 6])
@pytest.mark.parametrize("spread", [0.0, 0.06])
@pytest.mark.parametrize("concepts", [3, 6, 10, 30])
def test_an_interval_covers_the_truth_as_often_as_it_says(concepts: int, endings: int, spread: float) -> None:
    """2,000 tables, with an effect that all concepts of an ending share; of one ending it is not estimated."""
    rng, covered, n = np.random.default_rng(0), 0, 2000
    for _ in range(n):
        shared = rng.normal(0, spread, size=(1, endings))
        d = 0.03 + rng.normal(0, 0.1, size=(concepts, 1)) + shared + rng.normal(0, 0.05, size=(concepts, endings))
        truth = 0.03 + (float(shared.mean()) if endings < FEWEST_ENDINGS else 0.0)
        low, high = effect(d).interval()
        covered += low <= truth <= high
    assert 0.93 <= covered / n <= 0.99


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_discoveries_are_benjamini_and_hochbergs(p: list[float]) -> None:
    adjusted = stats.false_discovery_control(p)
    clear = np.abs(adjusted - 0.05) > 1e-9
    assert (discoveries(p) == (adjusted <= 0.05))[clear].all()


def test_what_is_no_number_is_never_discovered() -> None:
    assert discoveries([np.nan, 1e-9, np.nan]).tolist() == [False, True, False] and not len(discoveries([]))


def test_words_by_hand() -> None:
    found = verdicts(
        {
            "far": Effect(0.2, 0.01, 9, 10, 1),
            "near": Effect(0.02, 0.01, 9, 10, 1),
            "small and sure": Effect(0.008, 0.001, 9, 10, 1),
            "unsure": Effect(0.1, 0.08, 9, 10, 1),
            "below": Effect(-0.3, 0.02, 9, 10, 1),
        }
    )
    expected = {"far": "differs", "near": "alike", "small and sure": "alike", "unsure": "open", "below": "differs"}
    assert found == expected


def test_what_one_test_shows_many_do_not() -> None:
    """p = 0.03 alone is a discovery; as the smallest of twenty it is none."""
    one = Effect(0.1, float(0.1 / stats.t.ppf(1 - 0.03 / 2, 9)), 9, 10, 1)
    assert one.p == pytest.approx(0.03) and verdicts({"one": one}) == {"one": "differs"}
    many = {str(k): Effect(0.0, 0.1, 9, 10, 1) for k in range(19)} | {"one": one}
    assert verdicts(many)["one"] == "open"


@pytest.mark.parametrize("d", [[[np.nan, 1.0]], [1.0, 2.0], np.zeros((0, 3))])
def test_other_shapes_are_refused(d: object) -> None:
    with pytest.raises(ValueError, match="one difference per concept and ending"):
        effect(d)
