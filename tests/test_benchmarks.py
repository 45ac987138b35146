"""The benchmarks' own arithmetic, and the number of kernels of a learning step."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import architectures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import same_scores  # noqa: E402
import timing  # noqa: E402
import true_size  # noqa: E402

MOST_KERNELS = 2_200  # of a learning step on Stable Diffusion 1.5
MOST_KERNELS_THIN = 640  # of its first and last level with one layer each
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="counting kernels needs a C++ compiler"
)


def kernels(*arguments: str) -> dict[str, int]:
    command = [sys.executable, str(BENCHMARKS / "kernels.py"), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


@needs_compiler
@pytest.mark.slow
def test_a_learning_step_has_few_kernels() -> None:
    count = kernels("sd15", "--thin")["sd15"]
    assert MOST_KERNELS_THIN / 20 < count <= MOST_KERNELS_THIN


@needs_compiler
@pytest.mark.slow
def test_a_learning_step_at_true_size_has_few_kernels() -> None:
    count = kernels("sd15")["sd15"]
    assert MOST_KERNELS / 20 < count <= MOST_KERNELS


def test_a_method_is_measured_as_it_is_at_true_size(tmp_path: Path) -> None:
    options = {"steps": 3, "batch_size": 1, "dtype": "float32", "resolution": 64, "device": "cpu", "pictures": 2}
    options |= {"gradient_checkpointing": False, "offload": False, "num_inference_steps": 1}
    figures = true_size.run_method("seqlora", architectures.build("sd15", tmp_path), options)
    assert figures["trained"] == pytest.approx(figures["state_mb"] / 4, rel=0.01)  # float32
    assert all(figures[name] > 0 for name in true_size.COLUMNS if name != "method")


def test_the_interval_of_paired_differences_is_students() -> None:
    differences = np.random.default_rng(0).normal(0.02, 0.05, 40)
    expected = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert same_scores.interval(differences) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("shift", "is_same"), [(0.0, True), (0.2, False)])
def test_scores_that_moved_are_seen(tmp_path: Path, shift: float, is_same: bool) -> None:
    noise = np.random.default_rng(1).normal(0, 0.01, (4, 10))
    before = {(method, concept): 0.5 for method in "abcd" for concept in range(10)}
    after = {key: 0.5 + shift + noise.flat[k] for k, key in enumerate(before)}
    low, high = same_scores.interval(same_scores.differences(before, after))
    assert same_scores.within(low, high) is is_same


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holms_comparisons_are_those_of_the_closed_test(p: list[float]) -> None:
    """A comparison differs if, in every set of comparisons that it is in, the least p is at most 5 % over the set's size."""
    closed = set()
    for k in range(len(p)):
        sets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n) if k in s]
        if all(min(p[i] for i in s) * len(s) <= 0.05 for s in sets):
            closed.add(str(k))
    assert set(same_scores.holm({str(k): value for k, value in enumerate(p)}, 0.05)) == closed


def test_repetitions_are_interleaved() -> None:
    calls: list[str] = []
    seconds = timing.interleaved({"ours": lambda: calls.append("ours"), "theirs": lambda: calls.append("theirs")}, 2)
    assert calls == ["ours", "theirs"] * 2
    assert {name: len(values) for name, values in seconds.items()} == {"ours": 2, "theirs": 2}
