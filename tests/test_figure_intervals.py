"""Intervals of a matrix's figures, against a bootstrap written as loops and against the intervals of plain means."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpbench.metrics import figures, matrices
from cpbench.metrics.figure_intervals import figure_intervals
from cpbench.metrics.intervals import bootstrap
from cpbench.metrics.matrices import SCORE_COLUMNS

PROMPTS = ("a", "b", "c", "d")


def scores_of(seed: int, T: int, pictures: int = 2, forget: float = 0.0) -> pd.DataFrame:
    """Concepts of different levels, prompts of different difficulty, and noise; `forget` a task."""
    rng = np.random.default_rng(seed)
    level, harder = rng.uniform(0.6, 0.8, T), rng.normal(0, 0.05, (T, len(PROMPTS)))
    rows = []
    for t in range(T + 1):
        for j in range(T) if t == 0 else range(t):
            for p, prompt in enumerate(PROMPTS):
                for k in range(pictures):
                    mean = 0.2 if t == 0 else level[j] - forget * (t - j - 1)
                    rows.append((t, "cell", f"c{j}", prompt, k, "dino", mean + harder[j, p] + rng.normal(0, 0.02)))
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def concepts(T: int) -> list[str]:
    return [f"c{j}" for j in range(T)]


def looped(scores: pd.DataFrame, T: int, ceiling: list[float], draws: int) -> dict[str, tuple[float, float]]:
    """The same with Python's loops: concepts again, in each prompts, in each pictures, the same in all rows."""
    rng = np.random.default_rng(99)
    value = scores.set_index(["row", "concept", "prompt", "index"])["value"].to_dict()
    pictures = scores["index"].max() + 1
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        for n, names in ((T, ("final_average", "plasticity", "normalised_retention", "gap_closed")),
                         (T - 1, ("forgetting", "backward_transfer", "share_lost"))):  # fmt: skip
            columns = []
            for j in rng.integers(n, size=n):
                chosen = [(PROMPTS[p], int(k)) for p in rng.integers(len(PROMPTS), size=len(PROMPTS))
                          for k in rng.integers(pictures, size=pictures)]  # fmt: skip
                mean = {t: np.mean([value[t, f"c{j}", p, k] for p, k in chosen]) for t in (0, *range(j + 1, T + 1))}
                columns.append(
                    (
                        mean[0],
                        mean[j + 1],
                        mean[T],
                        max((mean[t] for t in range(j + 1, T)), default=math.nan),
                        ceiling[j],
                    )
                )
            floor, own, last, best, top = np.array(columns).T
            values = {
                "final_average": last.mean(),
                "plasticity": own.mean(),
                "normalised_retention": (last - floor).sum() / (top - floor).sum(),
                "gap_closed": (own - floor).sum() / (top - floor).sum(),
                "forgetting": (best - last).mean(),
                "backward_transfer": (last - own).mean(),
                "share_lost": 1 - (last - floor).sum() / (own - floor).sum(),
            }
            for name in names:
                found.setdefault(name, []).append(values[name])
    return {name: tuple(np.quantile(v, [0.025, 0.975])) for name, v in found.items()}


def test_they_are_those_of_a_bootstrap_in_loops() -> None:
    T, ceiling = 5, [0.9] * 5
    scores = scores_of(0, T, forget=0.05)
    expected = looped(scores, T, ceiling, 1500)
    found = figure_intervals(scores, "dino", concepts(T), ceiling)
    for name, (low, high) in expected.items():
        width = high - low
        assert found[name] == (pytest.approx(low, abs=0.12 * width), pytest.approx(high, abs=0.12 * width)), name


def test_those_of_means_are_the_bootstraps_of_the_last_row_and_of_the_diagonal() -> None:
    T = 8
    scores = scores_of(1, T)
    found = figure_intervals(scores, "dino", concepts(T), [0.9] * T)
    own = scores["concept"].str[1:].astype(int) + 1
    for name, part in (("final_average", scores[scores["row"] == T]), ("plasticity", scores[scores["row"] == own])):
        plain = bootstrap(part["value"], list(part["concept"]), list(part["prompt"]))
        width = plain.high - plain.low
        assert found[name] == (pytest.approx(plain.low, abs=width / 8), pytest.approx(plain.high, abs=width / 8))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 100), st.integers(2, 6), st.integers(1, 2))
def test_they_hold_figures_without_a_maximum_and_do_not_depend_on_the_rows_order(
    seed: int, T: int, pictures: int
) -> None:
    scores = scores_of(seed, T, pictures, forget=0.03)
    ceiling = [0.95] * T
    R = matrices.matrices(scores, concepts(T))["dino"].to_numpy()
    values = figures.values(R, ceiling=ceiling)
    found = figure_intervals(scores, "dino", concepts(T), ceiling)
    for name in (
        "final_average",
        "plasticity",
        "backward_transfer",
        "normalised_retention",
        "gap_closed",
        "share_lost",
    ):
        low, high = found[name]
        assert low - 1e-9 <= values[name] <= high + 1e-9, name
    shuffled = scores.sample(frac=1, random_state=seed)
    assert figure_intervals(shuffled, "dino", concepts(T), ceiling) == found


def test_a_method_that_changes_nothing_has_no_width_where_there_is_nothing_to_tell() -> None:
    scores = scores_of(2, 4)
    first = scores[scores["row"] == 0]
    same = pd.concat([first.assign(row=t)[first["concept"].isin(concepts(t or 4))] for t in range(5)])
    found = figure_intervals(same, "dino", concepts(4), [0.9] * 4)
    for name in ("forgetting", "backward_transfer", "normalised_retention", "gap_closed"):
        assert found[name] == (0, 0)
    low, high = found["final_average"]
    assert low < high
    assert all(map(math.isnan, found["share_lost"]))


def test_what_is_not_defined_has_none() -> None:
    scores = scores_of(3, 3)
    one = figure_intervals(scores[scores["row"] < 2], "dino", ["c0"], [0.9])
    lost = ("forgetting", "forgetting_all_rows", "backward_transfer", "share_lost")
    assert all(math.isnan(bound) for name in lost for bound in one[name])
    assert one["final_average"][0] < one["final_average"][1]
    thinned = figure_intervals(scores[scores["row"] != 2], "dino", concepts(3), [0.9] * 3)  # --rows
    assert {k for k, v in thinned.items() if math.isnan(v[0])} == {
        "plasticity", "forgetting", "forgetting_all_rows", "backward_transfer", "share_lost", "gap_closed",
    }  # fmt: skip
    no_ceiling = figure_intervals(scores, "dino", concepts(3), [math.nan] * 3)
    assert {k for k, v in no_ceiling.items() if math.isnan(v[0])} == {"normalised_retention", "gap_closed"}


def test_a_picture_that_failed_is_left_out_of_its_cell() -> None:
    scores = scores_of(4, 3)
    failed = scores.copy()
    at = failed[(failed["row"] == 3) & (failed["concept"] == "c1")].index[0]
    failed.loc[at, "value"] = math.nan
    without, with_all = (figure_intervals(s, "dino", concepts(3), [0.9] * 3) for s in (failed, scores))
    assert not math.isnan(without["final_average"][0]) and without["final_average"] != with_all["final_average"]
    assert without["plasticity"] == with_all["plasticity"]


# One figure, two functions: of a matrix, and of drawn columns


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 4))
def test_a_figure_of_drawn_columns_is_that_of_the_matrix(seed: int, T: int, draws: int) -> None:
    """Every concept drawn once, in any order: all columns of all, or those of all but the last."""
    rng = np.random.default_rng(seed)
    R, C = rng.uniform(-1, 1, (T + 1, T)), rng.uniform(0.5, 1, T)
    R[0] = C - rng.uniform(0.1, 1, T)
    R[1:][np.triu_indices(T, k=1)] = np.nan  # not learned yet
    R[np.arange(1, T + 1), np.arange(T)] = R[0] + rng.uniform(0.1, 1, T)  # so that there is something to lose
    for figure in figures.in_a_run():
        if figure.resampled is None or not (n := T - figure.earlier):
            continue
        order = [rng.permutation(n) for _ in range(draws)]
        parts = [[float(v) for v in R[j + 1 : T, j]] for j in range(T)]
        before = np.array([max(own, default=math.nan) for own in parts])
        best = np.array([max([*own, R[T, j]]) if T > 1 else math.nan for j, own in enumerate(parts)])
        every = (R[0], R[np.arange(1, T + 1), np.arange(T)], R[T], before, best, C)
        drawn = figures.Columns(*(np.stack([values[o] for o in order]) for values in every))
        expected = figure.value(R, ceiling=C, upper=R, standard_errors=np.zeros_like(R))
        assert figure.resampled(drawn) == pytest.approx([expected] * draws, abs=1e-9, nan_ok=True), figure.name


def test_what_has_an_interval() -> None:
    """And all that has none: what a maximum of noise is, and what most runs do not draw."""
    without = {it.name for it in figures.FIGURES.values() if it.resampled is None and it.interval is None}
    assert without == {"forgetting_from_noise", "forward_transfer"}
    assert not any(it.resampled for it in figures.FIGURES.values() if not it.in_a_run)
