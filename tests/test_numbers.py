"""One way to print a number, and nobody who has another."""

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpbench.numbers import number

ROOT = Path(__file__).resolve().parents[1]
# A score printed by an f-string's own format: ".3f", ".2f", "+.3f". Amounts (seconds, megabytes, shares) have other digits.
SCORE_FORMAT = re.compile(r"[+,]?\.[234]f")
# Where that is no score for a person: seconds, gigabytes, and what is read by a program
OTHERS = {
    "benchmarks/cli_startup.py", "benchmarks/learning_step.py", "benchmarks/memory.py", "benchmarks/sampling.py",
    "benchmarks/world.py", "cpbench/finished/classifier_matrix.py", "cpbench/miniature/pretrain/loop.py",
    "cpbench/miniature/pretrain/card.py", "cpbench/running/plan.py",
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5732, "0.573"), (-0.31, "-0.310"), (0.0, "0.000"), (-0.0, "0.000"), (-0.0004, "0.000"), (-0.0006, "-0.001"),
        (1.0, "1.000"), (-12.3456, "-12.346"), (None, "-"), (math.nan, "-"), (math.inf, "inf"), (-1e9, "-1e+09"),
        (np.float32(-0.25), "-0.250"), (np.float64(0.0005), "0.001"),
    ],
)  # fmt: skip
def test_a_number_has_a_leading_zero_and_no_negative_one(value: float | None, text: str) -> None:
    assert number(value) == text


def test_digits_and_signs_are_the_callers() -> None:
    assert [number(v, 2) for v in (0.126, -0.004)] == ["0.13", "0.00"]
    assert [number(v, sign=True) for v in (0.1, -0.1, -0.0, math.nan)] == ["+0.100", "-0.100", "+0.000", "-"]


@given(st.floats(-1e5, 1e5), st.integers(1, 4), st.booleans())
def test_it_is_pythons_own_rounding_but_for_the_sign_of_zero(value: float, digits: int, sign: bool) -> None:
    text = number(value, digits, sign)
    plain = f"{value:{'+' if sign else ''}.{digits}f}"
    assert text == (plain if float(plain) else f"{0.0:{'+' if sign else ''}.{digits}f}")
    assert re.fullmatch(rf"[-+]?\d+\.\d{{{digits}}}", text)


@pytest.mark.parametrize(
    "file",
    sorted(f.relative_to(ROOT).as_posix() for top in ("cpbench", "benchmarks") for f in (ROOT / top).rglob("*.py")),
)
def test_no_module_formats_scores_in_a_way_of_its_own(file: str) -> None:
    if file in OTHERS:
        return
    tree = ast.parse((ROOT / file).read_text())
    specs = [
        ast.unparse(n.format_spec)[2:-1] for n in ast.walk(tree) if isinstance(n, ast.FormattedValue) and n.format_spec
    ]
    assert [spec for spec in specs if SCORE_FORMAT.fullmatch(spec)] == []
