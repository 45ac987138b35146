"""Distances against scikit-learn's kernels summed pair by pair, and against torchmetrics."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.errors import UserError
from cpbench.metrics import distances as d


def features(seed, n, width=8, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (n, width))


def by_concept(counts, width=8, seed=0):
    return {f"c{i}": features(seed + i, n, width) for i, n in enumerate(counts)}


def summed(kernel, x, y, diagonals=False, paired=False):
    """MMD^2 with a kernel matrix's entries summed one by one."""

    def mean(a, b, skip):
        K = kernel(a, b)
        entries = [K[i, j] for i in range(len(a)) for j in range(len(b)) if not (skip and i == j)]
        return sum(entries) / len(entries)

    return mean(x, x, not diagonals) + mean(y, y, not diagonals) - 2 * mean(x, y, paired)


# MMDs of two sets


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(2, 7), st.integers(2, 7), st.integers(1, 9))
def test_polynomial_mmd_is_that_of_scikit_learns_kernel(seed, m, n, width):
    from sklearn.metrics.pairwise import polynomial_kernel  # (x.y / d + 1)^3 are its defaults

    x, y = features(seed, m, width), features(seed + 100, n, width, 0.5)
    assert d.polynomial_mmd(x, y) == pytest.approx(summed(polynomial_kernel, x, y), rel=1e-9, abs=1e-9)
    y = features(seed + 100, m, width)
    expected = summed(polynomial_kernel, x, y, paired=True)
    assert d.polynomial_mmd(x, y, paired=True) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 7), st.integers(1, 7), st.floats(0.3, 20))
def test_gaussian_mmd_is_that_of_scikit_learns_kernel_on_directions(seed, m, n, sigma):
    from sklearn.metrics.pairwise import rbf_kernel
    from sklearn.preprocessing import normalize

    x, y = features(seed, m), features(seed + 100, n, shift=0.5)
    expected = summed(lambda a, b: rbf_kernel(a, b, 1 / (2 * sigma**2)), normalize(x), normalize(y), diagonals=True)
    assert d.gaussian_mmd(x, y, sigma) == pytest.approx(expected, abs=1e-9)


def test_cmmd_on_single_pictures_is_the_closed_form():
    # one picture a side at right angles: k = 1, 1 and exp(-2 / 200)
    assert d.gaussian_mmd([[3.0, 0.0]], [[0.0, 0.1]]) == pytest.approx(2 * (1 - math.exp(-0.01)), rel=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(2, 9), st.integers(2, 9), st.randoms(use_true_random=False))
def test_mmds_do_not_ask_for_order_or_side(seed, m, n, random):
    x, y = features(seed, m), features(seed + 100, n)
    rows = list(range(m))
    random.shuffle(rows)
    for mmd in (d.polynomial_mmd, d.gaussian_mmd):
        assert mmd(x, y) == pytest.approx(mmd(x[rows], y), abs=1e-9)
        assert mmd(x, y) == pytest.approx(mmd(y, x), abs=1e-9)
    assert d.gaussian_mmd(x, y) >= -1e-12
    assert d.gaussian_mmd(x, x[rows]) == pytest.approx(0, abs=1e-12)
    assert d.gaussian_mmd(3 * x, y) == pytest.approx(d.gaussian_mmd(x, y), abs=1e-12)  # only directions


def test_polynomial_mmd_is_unbiased():
    pairs = [(features(2 * i, 6, 4), features(2 * i + 1, 9, 4)) for i in range(3000)]
    values = np.array([d.polynomial_mmd(x, y) for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(len(values))
    assert (values < 0).mean() > 0.3


def test_pictures_of_equal_noise_need_the_paired_form():
    x = features(0, 60)
    assert d.polynomial_mmd(x, x, paired=True) == pytest.approx(0, abs=1e-12)
    assert d.polynomial_mmd(x, x) < -0.01  # for a model that did not change
    # on pictures that move together but have one distribution, the paired form alone is right on average
    values = []
    for i in range(2000):
        common, one, two = (features(3 * i + k, 8, 4) for k in range(3))
        x, y = (common + one) / math.sqrt(2), (common + two) / math.sqrt(2)
        values.append((d.polynomial_mmd(x, y, paired=True), d.polynomial_mmd(x, y)))
    (paired, plain), errors = np.mean(values, axis=0), np.std(values, axis=0) / math.sqrt(len(values))
    assert abs(paired) < 3 * errors[0] and plain < -10 * errors[1]


def test_distance_of_too_little_is_nan_and_of_misfits_an_error():
    assert math.isnan(d.polynomial_mmd(features(0, 1), features(1, 5)))
    assert math.isnan(d.gaussian_mmd(np.empty((0, 8)), features(1, 5)))
    assert math.isnan(d.gaussian_mmd(np.zeros((2, 8)), features(1, 5)))
    assert math.isnan(d.kernel_inception_distance(features(0, 1), features(1, 5)))
    for distance in (d.polynomial_mmd, d.gaussian_mmd, d.kernel_inception_distance):
        with pytest.raises(ValueError, match=r"\(2, 8\) and \(2, 7\)"):
            distance(features(0, 2), features(0, 2, 7))
    with pytest.raises(ValueError, match=r"same number of rows; got \(2, 8\) and \(3, 8\)"):
        d.polynomial_mmd(features(0, 2), features(0, 3), paired=True)


# KID


def test_kid_of_whole_sets_is_the_polynomial_mmd():
    x, y = features(0, 60), features(1, 60, shift=0.3)
    assert d.kernel_inception_distance(x, y) == pytest.approx(d.polynomial_mmd(x, y), rel=1e-9)


def test_kid_of_unequal_sets_is_the_mean_over_subsets():
    x, y = features(0, 50), features(1, 90, shift=0.3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = d.kernel_inception_distance(x, y, seed=3)
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is left alone
    assert found == d.kernel_inception_distance(x, y, seed=3) != d.kernel_inception_distance(x, y, seed=4)
    rng = np.random.default_rng(0)
    subsets = [d.polynomial_mmd(x, y[rng.permutation(90)[:50]]) for _ in range(400)]
    error = np.std(subsets) * math.sqrt(1 / 100 + 1 / 400)
    assert abs(found - np.mean(subsets)) < 4 * error


def test_kid_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(UserError, match=r"KID: needs torchmetrics; pip install 'cpbench\[metrics\]'"):
        d.kernel_inception_distance(features(0, 5), features(1, 5))


# Pools


COUNTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=12)


@given(COUNTS)
def test_pools_hold_every_concept_once_and_enough_pictures(counts):
    x, y = ({f"c{i}": np.empty((n[side], 3)) for i, n in enumerate(counts)} for side in (0, 1))
    totals = [sum(n[side] for n in counts) for side in (0, 1)]
    if min(totals) < 50:
        whose = f"all {len(counts)} concepts pooled" if len(counts) > 1 else "of one concept"
        with pytest.raises(UserError, match=f"{totals[0]} and {totals[1]} pictures, {whose}, are too few"):
            d.pools(x, y, "CMMD")
        return
    groups = d.pools(x, y, "CMMD")
    assert [c for g in groups for c in g] == list(x)  # in order
    for group in groups:
        assert all(sum(len(side[c]) for c in group) >= 50 for side in (x, y))
    for group in groups[:-1]:  # and no larger than they must be
        assert any(sum(len(side[c]) for c in group[:-1]) < 50 for side in (x, y))


def test_pools_by_hand():
    x = {c: np.empty((5, 2)) for c in "abcdefg"}
    y = {c: np.empty((40, 2)) for c in "abcdefg"}
    assert d.pools(x, y, "A_mmd", least=10) == [["a", "b"], ["c", "d"], ["e", "f", "g"]]
    assert d.pools(y, y, "F_mmd") == [["a", "b"], ["c", "d"], ["e", "f", "g"]]
    assert d.pools({}, {}, "F_mmd") == []
    with pytest.raises(ValueError, match="the same concepts"):
        d.pools(x, {"a": x["a"]}, "A_mmd")


@pytest.mark.parametrize("distance", [d.a_mmd, d.f_mmd, d.cmmd, lambda x, y: d.kid(x, y, "dino")])
def test_under_fifty_pictures_a_side_is_refused_in_one_line(distance):
    x, y = by_concept([5] * 9), by_concept([20] * 9, seed=50)
    with pytest.raises(
        UserError, match="45 and 180 pictures, all 9 concepts pooled, are too few: it needs 50 per side"
    ) as e:
        distance(x, y)
    assert "\n" not in str(e.value)
    assert str(e.value).startswith(("A_mmd", "F_mmd", "CMMD", "KID-dino"))


def test_each_distance_is_the_mean_over_its_pools():
    x, y = by_concept([30, 30, 50]), by_concept([40, 40, 60], seed=50)
    groups = (("c0", "c1"), ("c2",))
    one, two = (np.concatenate([x[c] for c in g]) for g in groups), (np.concatenate([y[c] for c in g]) for g in groups)
    halves = list(zip(one, two, strict=True))
    cases = {
        "A_mmd": (d.a_mmd, lambda a, b: 1000 * d.polynomial_mmd(a, b)),
        "CMMD": (d.cmmd, lambda a, b: 1000 * d.gaussian_mmd(a, b)),
        "KID-dino": (lambda a, b: d.kid(a, b, "dino"), d.kernel_inception_distance),
    }
    for name, (distance, single) in cases.items():
        found = distance(x, y)
        assert found.name == name and tuple(found.pools) == groups
        assert list(found.pools.values()) == pytest.approx([single(*half) for half in halves])
        assert found.value == pytest.approx(sum(found.pools.values()) / 2)


def test_f_mmd_of_a_model_that_did_not_change_is_zero_and_after_one_task_nothing():
    then = by_concept([50, 60])
    assert d.f_mmd(then, then).value == pytest.approx(0, abs=1e-9)
    assert d.f_mmd(then, then, paired=False).value < -1
    moved = {c: x + 0.5 for c, x in then.items()}
    assert d.f_mmd(then, moved).value > 100
    empty = d.f_mmd({}, {})
    assert math.isnan(empty.value) and empty.pools == {}


# DIV


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(2, 7))
def test_diversity_is_scipys_mean_cosine_distance(seed, n):
    from scipy.spatial.distance import pdist

    x = features(seed, n)
    assert d.diversity(x) == pytest.approx(pdist(x, "cosine").mean())
    assert d.diversity(np.tile(x[:1], (n, 1))) == pytest.approx(0, abs=1e-12)


def test_diversity_of_one_picture_is_not_defined():
    assert math.isnan(d.diversity(features(0, 1)))


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """torch's hub folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    d._lpips.cache_clear()
    yield tmp_path / "checkpoints"
    d._lpips.cache_clear()


@pytest.fixture
def squeeze_weights(no_weights):
    """LPIPS's smallest network, its ImageNet weights replaced by seeded ones."""
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(squeezenet1_1(weights=None).state_dict(), no_weights / "squeezenet1_1-b8a52dc0.pth")


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)


def test_div_without_lpips_is_the_judges_and_named_so(no_weights):
    x = features(0, 4)
    assert not d.lpips_at_hand("alex")
    assert d.div(noise(4), x, "dino") == ("DIV-dino", d.diversity(x))
    with pytest.raises(UserError, match=r"DIV by LPIPS: needs torchmetrics .*alexnet-owt-7be5be79.pth"):
        d.div_lpips(noise(4))
    with pytest.raises(UserError, match="unknown LPIPS network 'squeze': did you mean 'squeeze'"):
        d.lpips_at_hand("squeze")
    assert not list(no_weights.iterdir())  # nothing was downloaded


def test_div_by_lpips_is_the_mean_over_pairs(squeeze_weights):
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity as lpips

    pictures = noise(9)  # 36 pairs, more than are taken at once
    name, value = d.div(pictures, features(0, 9), "dino", "squeeze")
    assert name == "DIV-lpips-squeeze"
    as_floats = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    i, j = zip(*[(i, j) for i in range(9) for j in range(9) if i != j], strict=True)
    with torch.no_grad():
        expected = lpips(as_floats[list(i)], as_floats[list(j)], "squeeze", reduction="none")
    assert value == pytest.approx(expected.mean().item(), rel=1e-4)
    assert d.div_lpips(list(pictures[::-1]), "squeeze") == pytest.approx(value, rel=1e-5)
    assert value > 1e-6  # and nothing is left over from the call before
    assert d.div_lpips(pictures[[0, 0, 0]], "squeeze") == pytest.approx(0, abs=1e-9)
    assert math.isnan(d.div_lpips(pictures[:1], "squeeze"))
