"""The metrics against the formulas, written again here as plain loops over concepts counted from 1."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cpbench.errors import UserError
from cpbench.metrics import figures, scores
from cpbench.metrics import retention as m
from cpbench.metrics.cosines import (
    centred,
    common_mean,
    cosine_centred,
    cosine_nearest,
    cosine_self_pairs,
    mean_cosines,
    mean_products,
    nearest_cosines,
    paired_cosine,
)

NAN = float("nan")
SCORES = st.floats(-1, 1, allow_subnormal=False)
ON_MATRIX = (
    m.final_average,
    m.plasticity,
    m.forgetting,
    m.forgetting_all_rows,
    m.backward_transfer,
    m.share_lost,
    m.forward_transfer,
    m.forgetting_from_noise,
)
WITH_CEILING = (m.normalised_retention, m.gap_closed)


def summary(R, C):
    """By name the figures of a matrix and its ceilings that need nothing else."""
    return figures.values(R, ceiling=C)


def cosine_all_pairs(a, b):
    """The mean cosine of all pairs of a row of `a` and a row of `b`, in double precision: what CLIP-I and DINO are."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    lengths = np.outer(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1))
    return float((a @ b.T / lengths).mean())


@st.composite
def matrices(draw, least=1):
    """A retention matrix and its ceilings, which lie above the floor."""
    T = draw(st.integers(least, 6))
    R = draw(arrays(np.float64, (T + 1, T), elements=SCORES))
    C = R[0] + draw(arrays(np.float64, (T,), elements=st.floats(0.01, 1)))
    return R, C


def embeddings(n, d):
    # Each row has one coordinate that is far from 0, so that it has a direction.
    rest = arrays(np.float64, (n, d), elements=st.floats(-1, 1, width=16))
    return rest.map(lambda x: x + 2 * np.eye(n, d, k=0) + 2 * (np.arange(n)[:, None] >= d))


def cosine(x, y):
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    return dot / math.sqrt(sum(p * p for p in x)) / math.sqrt(sum(q * q for q in y))


# The formulas as loops. R(i, j): row i, concept j, both as in the papers.


def loops(matrix, ceiling):
    T = len(matrix[0])

    def R(i, j):
        return matrix[i][j - 1]

    def C(j):
        return ceiling[j - 1]

    everyone, earlier = range(1, T + 1), range(1, T)
    gained_then = sum(R(j, j) - R(0, j) for j in earlier)
    gained_now = sum(R(T, j) - R(0, j) for j in earlier)
    span = sum(C(j) - R(0, j) for j in everyone)
    dropped = [max(R(i, j) for i in range(j, T)) - R(T, j) for j in earlier]
    dropped_all = [max(R(i, j) for i in range(j, T + 1)) - R(T, j) for j in everyone]
    return {
        "final_average": sum(R(T, j) for j in everyone) / T,
        "plasticity": sum(R(j, j) for j in everyone) / T,
        "forgetting": sum(dropped) / (T - 1) if T > 1 else NAN,
        "forgetting_all_rows": sum(dropped_all) / T if T > 1 else NAN,
        "backward_transfer": sum(R(T, j) - R(j, j) for j in earlier) / (T - 1) if T > 1 else NAN,
        "normalised_retention": sum(R(T, j) - R(0, j) for j in everyone) / span,
        "gap_closed": sum(R(j, j) - R(0, j) for j in everyone) / span,
        "share_lost": 1 - gained_now / gained_then if gained_then > 1e-9 else NAN,
    }


@settings(deadline=None, max_examples=200)
@given(matrices())
def test_summary_is_what_the_formulas_say(case):
    R, C = case
    assert summary(R, C) == pytest.approx(loops(R.tolist(), C.tolist()), rel=1e-6, abs=1e-9, nan_ok=True)


# Three tasks by hand.

FORGETS = [  # concept 1: learned to 0.8, then 0.6, then 0.4; concept 2: 0.7, then 0.5; concept 3: 0.9
    [0.2, 0.3, 0.1],
    [0.8, 0.3, 0.1],
    [0.6, 0.7, 0.1],
    [0.4, 0.5, 0.9],
]
RECOVERS = [  # concept 1: 0.5, then 0.7, then 0.6; concept 2: 0.4, then 0.6
    [0.1, 0.2, 0.3],
    [0.5, 0.2, 0.3],
    [0.7, 0.4, 0.3],
    [0.6, 0.6, 0.6],
]


def test_three_tasks_that_forget():
    assert summary(FORGETS, [0.9, 0.8, 1.0]) == pytest.approx(
        {
            "final_average": 0.6,
            "plasticity": 0.8,
            "forgetting": (0.4 + 0.2) / 2,
            "forgetting_all_rows": (0.4 + 0.2 + 0) / 3,
            "backward_transfer": (-0.4 - 0.2) / 2,
            "normalised_retention": (0.2 + 0.2 + 0.8) / (0.7 + 0.5 + 0.9),
            "gap_closed": (0.6 + 0.4 + 0.8) / (0.7 + 0.5 + 0.9),
            "share_lost": 1 - (0.2 + 0.2) / (0.6 + 0.4),
        }
    )


def test_three_tasks_that_recover():
    assert summary(RECOVERS, [1.0, 1.0, 1.0]) == pytest.approx(
        {
            "final_average": 0.6,
            "plasticity": 0.5,
            "forgetting": (0.1 - 0.2) / 2,  # the last row is not in the maximum: negative
            "forgetting_all_rows": (0.1 + 0 + 0) / 3,
            "backward_transfer": (0.1 + 0.2) / 2,
            "normalised_retention": (0.5 + 0.4 + 0.3) / (0.9 + 0.8 + 0.7),
            "gap_closed": (0.4 + 0.2 + 0.3) / (0.9 + 0.8 + 0.7),
            "share_lost": 1 - (0.5 + 0.4) / (0.4 + 0.2),
        }
    )


def test_partly_finished_run_counts_the_finished_tasks():
    two_done = np.array(FORGETS)[:3, :2]
    assert m.final_average(two_done) == pytest.approx(0.65)
    assert m.forgetting(two_done) == pytest.approx(0.2)
    assert m.share_lost(two_done) == pytest.approx(1 - 0.4 / 0.6)


# What must not change, and what must.


@settings(deadline=None)
@given(matrices(), st.randoms(use_true_random=False))
def test_final_average_does_not_ask_for_the_concepts_order(case, random):
    R, _ = case
    columns = list(range(R.shape[1]))
    random.shuffle(columns)
    assert m.final_average(R[:, columns]) == pytest.approx(m.final_average(R))


@settings(deadline=None)
@given(matrices(least=2), st.data())
def test_forgetting_does_not_see_a_concepts_level(case, data):
    R, _ = case
    shift = data.draw(arrays(np.float64, (R.shape[1],), elements=SCORES))
    for metric in (m.forgetting, m.forgetting_all_rows, m.backward_transfer):
        assert metric(R + shift) == pytest.approx(metric(R), abs=1e-9)


@settings(deadline=None)
@given(matrices(), st.floats(0.1, 10), SCORES)
def test_shares_do_not_depend_on_the_scores_scale(case, scale, shift):
    R, C = case
    for metric in WITH_CEILING:
        assert metric(scale * R + shift, scale * C + shift) == pytest.approx(metric(R, C), abs=1e-6)


@settings(deadline=None)
@given(matrices(least=2))
def test_cells_of_concepts_not_yet_learned_do_not_count(case):
    R, C = case
    hidden = R.copy()
    for t in range(1, R.shape[1]):
        hidden[t, t:] = NAN
    assert summary(hidden, C) == pytest.approx(summary(R, C), nan_ok=True)


@settings(deadline=None)
@given(matrices(least=2), st.data())
def test_nan_in_the_last_row_is_never_dropped(case, data):
    R, C = case
    R[-1, data.draw(st.integers(0, R.shape[1] - 2))] = NAN
    now = summary(R, C)
    assert {k for k, v in now.items() if not math.isnan(v)} == {"plasticity", "gap_closed"}


def test_nan_in_a_middle_row_makes_only_the_maxima_nan():
    R = np.array(FORGETS)
    R[2, 0] = NAN
    nan = {k for k, v in summary(R, [0.9, 0.8, 1.0]).items() if math.isnan(v)}
    assert nan == {"forgetting", "forgetting_all_rows"}


def test_method_that_changes_nothing_scores_zero_and_forgets_nothing():
    R = np.tile([0.3, 0.5, 0.4], (4, 1))
    now = summary(R, [0.9, 0.9, 0.9])
    assert [now[k] for k in ("normalised_retention", "gap_closed", "forgetting", "backward_transfer")] == [0] * 4
    assert math.isnan(now["share_lost"])  # a share of nothing


def test_score_at_the_ceiling_retains_everything():
    R = np.array([[0.2, 0.3], [0.9, 0.3], [0.9, 0.8]])
    assert m.normalised_retention(R, [0.9, 0.8]) == pytest.approx(1)
    assert m.share_lost(R) == pytest.approx(0)


def test_one_task_has_no_forgetting():
    one = [[0.2], [0.8]]
    assert all(math.isnan(f(one)) for f in (m.forgetting, m.backward_transfer, m.share_lost))
    assert m.final_average(one) == m.plasticity(one) == 0.8


@pytest.mark.filterwarnings("error")
def test_before_the_first_task_nothing_is_defined():
    assert all(math.isnan(v) for v in summary(np.empty((1, 0)), []).values())


def test_ceiling_below_the_floor_gives_no_share():
    assert math.isnan(m.normalised_retention([[0.5], [0.6]], [0.5]))
    assert math.isnan(m.gap_closed([[0.5], [0.6]], [0.4]))
    assert math.isnan(summary(FORGETS, [NAN] * 3)["gap_closed"])


@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 3), (4, 2), (3, 2, 1)])
@pytest.mark.parametrize("metric", (*ON_MATRIX, *WITH_CEILING, m.intransigence, m.over_tasks))
def test_wrong_shape_is_named(metric, shape):
    more = ([0.0] * shape[-1],) if metric in (*WITH_CEILING, m.intransigence, m.over_tasks) else ()
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        metric(np.zeros(shape), *more)


@pytest.mark.parametrize("metric", (*WITH_CEILING, m.intransigence, m.over_tasks))
def test_ceiling_of_the_wrong_length_is_named(metric):
    with pytest.raises(ValueError, match=r"got \(2,\)"):
        metric(FORGETS, [0.9, 0.9])


# Other conventions, transfer, noise


@settings(deadline=None)
@given(matrices())
def test_conventions_of_forgetting_are_what_their_names_say(case):
    R, _ = case
    T = R.shape[1]
    expected = {
        "chaudhry": [R[j:T, j - 1].max() - R[T, j - 1] for j in range(1, T)],
        "lrcp": [R[j : T + 1, j - 1].max() - R[T, j - 1] for j in range(1, T + 1)],
        "first-minus-last": [R[j, j - 1] - R[T, j - 1] for j in range(1, T)],
    }
    assert set(expected) == set(m.CONVENTIONS)
    for convention, lost in expected.items():
        value = sum(lost) / len(lost) if T > 1 else NAN
        assert m.forgetting(R, convention) == pytest.approx(value, nan_ok=True, abs=1e-12)


def test_after_one_task_nothing_is_forgotten_by_any_convention():
    for convention in m.CONVENTIONS:
        assert math.isnan(m.forgetting([[0.2], [0.8]], convention))
    assert math.isnan(m.forgetting_from_noise([[0.1], [0.1]]))
    assert math.isnan(m.forward_transfer([[0.2], [0.8]]))


def test_unknown_convention_is_named_with_a_near_one():
    with pytest.raises(UserError, match="unknown forgetting convention 'chaudry': did you mean 'chaudhry'"):
        m.forgetting(FORGETS, "chaudry")


def test_forward_transfer_is_taken_just_before_a_concepts_own_task():
    R = [[0.2, 0.3, 0.1], [0.8, 0.35, NAN], [0.6, 0.7, 0.25], [0.4, 0.5, 0.9]]
    assert m.forward_transfer(R) == pytest.approx((0.05 + 0.15) / 2)
    R[2][2] = NAN  # as in a run that draws only what was learned
    assert math.isnan(m.forward_transfer(R))


@settings(deadline=None)
@given(matrices(), st.data())
def test_intransigence_is_the_mean_gap_to_learning_alone(case, data):
    R, _ = case
    T = R.shape[1]
    alone = data.draw(arrays(np.float64, (T,), elements=SCORES))
    assert m.intransigence(R, alone) == pytest.approx(sum(alone[j] - R[j + 1, j] for j in range(T)) / T, abs=1e-12)
    assert m.intransigence(R, np.diagonal(R[1:])) == 0


def test_forgetting_from_noise_is_the_closed_form_of_the_largest_of_normals():
    largest = {1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi)}  # means of the largest of n
    for T in (2, 3, 4):
        expected = 0.02 * sum(largest[T - j] for j in range(1, T)) / (T - 1)
        assert m.forgetting_from_noise(np.full((T + 1, T), 0.02)) == pytest.approx(expected, abs=3e-4)
    se = np.array([[9.0, 9.0, 9.0], [3.0, 9.0, 9.0], [4.0, 2.0, 9.0], [9.0, 9.0, 9.0]])
    # E max of two normals is sqrt((3^2 + 4^2) / (2 pi)); the cells that are 9 are in no maximum
    assert m.forgetting_from_noise(se) == pytest.approx(5 / math.sqrt(2 * math.pi) / 2, abs=0.05)


def test_forgetting_from_noise_is_the_mean_forgetting_of_methods_that_forget_nothing():
    rng = np.random.default_rng(1)
    deviation, pictures, level = 0.1, 16, np.array([0.3, 0.5, 0.6, 0.4])
    runs = level + rng.normal(scale=deviation, size=(4000, pictures, 5, 4)).mean(axis=1)
    found = m.forgetting_from_noise(np.full((5, 4), deviation / math.sqrt(pictures)))
    assert found == pytest.approx(np.mean([m.forgetting(R) for R in runs]), rel=0.05)
    assert found > 0.01  # of noise alone


@settings(deadline=None, max_examples=20)
@given(matrices(least=2), st.floats(0.1, 10))
def test_forgetting_from_noise_scales_with_the_noise_and_repeats(case, scale):
    se = np.abs(case[0])
    value = m.forgetting_from_noise(se, samples=500)
    assert m.forgetting_from_noise(se, samples=500) == value
    assert m.forgetting_from_noise(scale * se, samples=500) == pytest.approx(scale * value, abs=1e-9)
    assert m.forgetting_from_noise(0 * se) == 0


def test_forgetting_from_noise_needs_the_cells_it_uses():
    se = np.full((4, 3), 0.1)
    hidden = se.copy()
    hidden[0], hidden[1, 1:], hidden[2, 2:] = NAN, NAN, NAN
    assert m.forgetting_from_noise(hidden) == m.forgetting_from_noise(se)
    hidden[2, 0] = NAN
    assert math.isnan(m.forgetting_from_noise(hidden))
    with pytest.raises(ValueError, match="not negative; got -0.1"):
        m.forgetting_from_noise(-se)


@settings(deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(2, 6)), elements=SCORES))
def test_standard_error_is_the_two_way_layouts_residual(x):
    rows, pictures = x.shape
    grand = sum(map(sum, x)) / x.size
    squares = 0.0
    for i in range(rows):
        for p in range(pictures):
            fitted = grand + (sum(x[i]) / pictures - grand) + (sum(x[k][p] for k in range(rows)) / rows - grand)
            squares += (x[i][p] - fitted) ** 2
    variance = squares / (x.size - rows - pictures + 1)
    assert m.standard_error(x) == pytest.approx(math.sqrt(variance / pictures), abs=1e-9)
    again = x + np.arange(pictures) * 0.1 + np.arange(rows)[:, None]  # harder prompts, other levels: no noise
    assert m.standard_error(again) == pytest.approx(m.standard_error(x), abs=1e-7)
    spoilt = np.column_stack([x, np.full(rows, 0.5)])
    spoilt[0, -1] = NAN  # a picture that failed in one row is left out
    assert m.standard_error(spoilt) == m.standard_error(x)


def test_standard_error_finds_the_noise_there_was():
    rng = np.random.default_rng(0)
    prompts = rng.normal(scale=0.3, size=8)
    found = [m.standard_error(0.5 + prompts + rng.normal(scale=0.05, size=(6, 8))) ** 2 for _ in range(500)]
    assert np.mean(found) == pytest.approx(0.05**2 / 8, rel=0.05)
    assert math.isnan(m.standard_error(np.zeros((1, 8)))) and math.isnan(m.standard_error(np.zeros((3, 1))))
    with pytest.raises(ValueError, match=r"\(rows, pictures\); got \(3,\)"):
        m.standard_error(np.zeros(3))


# Cosines


@settings(deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
def test_cosines_picture_by_picture_are_those_of_the_loops(data, n, k, d):
    a, b = data.draw(embeddings(n, d)), data.draw(embeddings(k, d))
    assert mean_cosines(a, b).tolist() == pytest.approx([sum(cosine(x, y) for y in b) / k for x in a], abs=1e-9)
    assert nearest_cosines(a, b).tolist() == pytest.approx([max(cosine(x, y) for y in b) for x in a], abs=1e-9)
    assert mean_cosines(a, b).mean() == pytest.approx(cosine_all_pairs(a, b), abs=1e-9)
    assert cosine_nearest(a, b) == pytest.approx(nearest_cosines(a, b).mean(), abs=1e-9)
    assert cosine_nearest(a, b) >= cosine_all_pairs(a, b) - 1e-9
    assert cosine_nearest(a, np.concatenate([b, a])) == pytest.approx(1)


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(2, 6))
def test_centred_cosine_is_that_of_directions_less_the_centre(data, n, k, d):
    a, b = data.draw(embeddings(n, d)), data.draw(embeddings(k, d))
    centre = np.full(d, 7.0)  # no direction comes near it
    less = [[list(x / np.linalg.norm(x) - centre) for x in group] for group in (a, b)]
    expected = sum(cosine(x, y) for x in less[0] for y in less[1]) / (n * k)
    assert cosine_centred(a, b, centre) == pytest.approx(expected, abs=1e-9)
    assert np.linalg.norm(centred(a, centre), axis=1) == pytest.approx(np.ones(n))
    assert cosine_centred(a, b, np.zeros(d)) == pytest.approx(cosine_all_pairs(a, b), abs=1e-9)


def test_centring_takes_out_what_all_pictures_share():
    rng = np.random.default_rng(0)
    shared = 5 * np.ones(16)
    own = rng.normal(size=(8, 1, 16))
    concepts = shared + own + 0.1 * rng.normal(size=(8, 4, 16))
    centre = common_mean(concepts)
    across = [(concepts[i], concepts[j]) for i in range(8) for j in range(8) if i != j]
    assert min(cosine_all_pairs(*pair) for pair in across) > 0.9
    assert np.mean([cosine_centred(*pair, centre) for pair in across]) == pytest.approx(-1 / 7, abs=0.05)
    assert min(cosine_centred(c, c, centre) for c in concepts) > 0.95


def test_common_mean_weighs_concepts_not_pictures():
    assert common_mean([[[2.0, 0.0]] * 9, [[0.0, 5.0]]]) == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match="at least one picture"):
        common_mean([np.ones((1, 2)), np.empty((0, 2))])
    with pytest.raises(ValueError, match="at least one concept"):
        common_mean([])
    with pytest.raises(ValueError, match=r"\(3,\); got \(2,\)"):
        centred(np.ones((1, 3)), [0, 0])


@settings(deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6))
def test_clip_i_and_dino_are_the_mean_of_all_cosines_in_the_judges_precision(data, n, k, d):
    a, b = data.draw(embeddings(n, d)), data.draw(embeddings(k, d))
    expected = [sum(cosine(x, y) for y in b) / k for x in a]
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (a, b)]
    for name in ("clip_i", "dino"):
        found = scores.SCORES[name].of(*unit)
        assert found.shape == (n,) and found.dtype == np.float32
        assert found.tolist() == pytest.approx(expected, abs=1e-6)
        assert found.mean() == pytest.approx(cosine_all_pairs(*unit), abs=1e-6)
    assert scores.SCORES["clip_t"].of(unit[0], unit[0]) == pytest.approx(np.ones(n))


@settings(deadline=None)
@given(st.data(), st.integers(2, 6), st.integers(1, 6))
def test_cosine_self_pairs_leaves_out_a_picture_with_itself(data, n, d):
    a = data.draw(embeddings(n, d))
    expected = sum(cosine(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    assert cosine_self_pairs(a) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(st.data(), st.integers(0, 5), st.integers(1, 6))
def test_paired_cosine_pairs_row_with_row(data, n, d):
    a, b = data.draw(embeddings(n, d)), data.draw(embeddings(n, d))
    assert paired_cosine(a, b).tolist() == pytest.approx([cosine(x, y) for x, y in zip(a, b, strict=True)])


def test_cosines_agree_with_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise").cosine_similarity
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 384)).astype(np.float32), rng.normal(size=(5, 384)).astype(np.float32)
    own = pairwise(a)
    assert mean_cosines(a, b) == pytest.approx(pairwise(a, b).mean(axis=1), abs=1e-6)
    assert cosine_self_pairs(a) == pytest.approx(own[~np.eye(7, dtype=bool)].mean(), abs=1e-6)
    assert paired_cosine(a[:5], b) == pytest.approx(np.diag(pairwise(a[:5], b)), abs=1e-6)


def test_cosines_do_not_see_length_and_are_plain():
    a = np.array([[3.0, 0.0], [0.0, 0.01]])
    assert mean_cosines(a, [[5.0, 0.0]]) == pytest.approx([1, 0])
    assert cosine_self_pairs(a) == pytest.approx(0)
    assert paired_cosine([[1.0, 1.0]], [[-2.0, -2.0]]) == pytest.approx([-1])


@pytest.mark.filterwarnings("error")
def test_cosine_of_nothing_is_nan():
    some, none = np.ones((2, 4)), np.empty((0, 4))
    assert math.isnan(cosine_self_pairs(some[:1])) and math.isnan(cosine_self_pairs(none))
    assert math.isnan(cosine_nearest(none, some)) and len(mean_products(none, some)) == 0
    with pytest.raises(ValueError, match="no pictures to compare with"):
        mean_products(some, none)
    assert np.isnan(mean_cosines(some, none)).all() and np.isnan(nearest_cosines(some, none)).tolist() == [True] * 2
    assert np.isnan(nearest_cosines([[1, 1], [0, 0]], some[:, :2])).tolist() == [False, True]
    assert np.isnan(mean_cosines(some, np.zeros((1, 4)))).all()  # a zero vector has no direction
    assert np.isnan(paired_cosine(some, [[1, 1, 1, 1], [0, 0, 0, 0]])).tolist() == [False, True]


def test_cosine_shapes_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        mean_cosines(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(1, 3\)"):
        paired_cosine(np.ones((2, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"a must be .* got \(3,\)"):
        cosine_self_pairs(np.ones(3))
