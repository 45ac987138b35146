"""`cpbench compare` of methods: two over all seeds and orders that both have, and all pairs of a table at once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_leaderboard import CONCEPTS, make_run

from cpbench.leaderboard.entries import read_runs
from cpbench.leaderboard.groups import group_runs
from cpbench.leaderboard.pairs import RANKING_SCORES, ranked
from cpbench.records import tables


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """l2 and ewc over four endings, ewc the better one; olora over one, like l2."""
    for method, level, draws in (("l2", 0.3, 4), ("ewc", 0.6, 4), ("olora", 0.31, 1)):
        for k in range(draws):
            make_run(tmp_path / "runs" / f"{method}-{k}", method, level, (k, 0))
    return tmp_path / "runs"


def final_means(folder: Path, method: str, k: int) -> pd.Series:
    scores = tables.read_scores(folder / f"{method}-{k}" / "scores.csv")
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == "dino") & (scores["row"] == len(CONCEPTS))]
    return cells.groupby("concept")["value"].mean()


def test_two_methods_over_all_their_endings(three: Path, call: Callable) -> None:
    code, said, _ = call("compare", "ewc", "l2", "--results", three, "--json")
    (table,) = json.loads(said)["tables"]
    assert code == 0 and list(table["pairs"]) == ["over tasks", "at the end", "right after learning", "change since"]
    end = table["pairs"]["at the end"]
    differences = pd.concat([final_means(three, "ewc", k) - final_means(three, "l2", k) for k in range(4)], axis=1)
    assert end["difference"] == pytest.approx(differences.to_numpy().mean())
    assert (end["verdict"], end["concepts"], end["endings"]) == ("differs", len(CONCEPTS), 4)
    change, learned = (table["pairs"][k]["difference"] for k in ("change since", "right after learning"))
    assert change == pytest.approx(end["difference"] - learned)
    code, said, _ = call("compare", "l2", "ewc", "--results", three)
    assert code == 0 and said.count("B is higher") >= 2 and "given these endings" not in said


def test_of_few_endings_it_is_said(three: Path, call: Callable) -> None:
    code, said, _ = call("compare", "l2", "olora", "--results", three)
    assert code == 0 and "given these endings" in said and "A is higher" not in said
    expected = stats.ttest_1samp(final_means(three, "l2", 0) - final_means(three, "olora", 0), 0)
    _, said, _ = call("compare", "l2", "olora", "--results", three, "--json")
    assert json.loads(said)["tables"][0]["pairs"]["at the end"]["p"] == pytest.approx(expected.pvalue)


def test_all_pairs_as_a_matrix(three: Path, call: Callable) -> None:
    code, said, _ = call("compare", "--all", "--results", three)
    lines = said.splitlines()
    (ewc,) = (line for line in lines if line.startswith("1 ewc"))
    assert code == 0 and ewc.split()[2:] == ["+", "+"] and "3 pairs: 2 differ" in said
    code, said, _ = call("compare", "--all", "--results", three, "--json")
    assert len(json.loads(said)["tables"][0]["pairs"]) == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["ewc"], "name two runs or two methods"),
        (["ewc", "l2", "--all"], "--all takes no names"),
        (["ewc", "l3"], "unknown finished method 'l3': the finished methods are ewc, l2, olora"),
        (["ewc", "l2", "--sequence", "other"], "unknown sequence 'other'"),
        (["ewc", "l2", "--results", "nowhere"], "it does not exist"),
    ],
)
def test_what_cannot_be_compared_is_one_line(three: Path, call: Callable, words: list[str], told: str) -> None:
    words = words if "--results" in words else [*words, "--results", str(three)]
    code, _, said = call("compare", *words)
    assert code == 2 and told in said and len(said.splitlines()) == 1


def test_methods_below_counts_methods_and_not_rows(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "ewc", 0.7)
    for k, changed in enumerate(({}, {"rank": 2}, {"rank": 3})):
        make_run(tmp_path / f"b{k}", "l2", 0.2, changed=changed)
    (group,) = group_runs(read_runs(tmp_path))
    best = group.rows[0]
    assert (best.method, best.rank, best.below, best.compared) == ("ewc", 1, 1, 3)
    assert [row.rank for row in group.rows[1:]] == [2, 2, 2]


def test_rows_can_be_ranked_by_another_score(tmp_path: Path) -> None:
    """The one that ends best is not the one that was best on the way."""
    for method, level, end in (("l2", 0.3, 0.4), ("ewc", 0.6, -0.3)):
        folder = make_run(tmp_path / method, method, level, figures={})
        scores = tables.read_scores(folder / "scores.csv")
        last = (scores["row"] == len(CONCEPTS)) & (scores["kind"] == "cell") & (scores["metric"] == "dino")
        scores.loc[last, "value"] = np.clip(scores.loc[last, "value"] + end, -1, 1)
        tables.write_scores(folder / "scores.csv", scores)
    (group,) = group_runs(read_runs(tmp_path))
    assert [row.method for row in group.rows] == ["ewc", "l2"]
    rows, pairs = ranked(group.rows, RANKING_SCORES["final"])
    assert [(row.method, row.rank) for row in rows] == [("l2", 1), ("ewc", 2)] and pairs[0, 1].sign == "+"
    rows, pairs = ranked(group.rows, RANKING_SCORES["dino-area"])
    assert pairs == {} and [row.rank for row in rows] == [None, None]


def test_only_some_rows_are_shown_with_the_ranks_of_the_whole_table(tmp_path: Path) -> None:
    for method, level in (("ewc", 0.7), ("l2", 0.4), ("olora", 0.2)):
        make_run(tmp_path / method, method, level)
    (group,) = group_runs(read_runs(tmp_path))
    (part,) = group_runs(read_runs(tmp_path), methods=["olora", "l2"])
    assert [(row.method, row.rank) for row in part.rows] == [("l2", 2), ("olora", 3)]
    assert part.pairs == {(0, 1): group.pairs[1, 2]} and [part.rank(row) for row in part.rows] == ["2", "3"]
    assert group_runs(read_runs(tmp_path), methods=["no such row"]) == []


def test_an_ending_without_the_score_is_left_out_of_a_comparison(tmp_path: Path) -> None:
    """The second seed of one method lacks a row, and so has no score over tasks; the first seeds are compared."""
    for method, level in (("ewc", 0.7), ("l2", 0.3)):
        for k in (0, 1):
            make_run(tmp_path / f"{method}-{k}", method, level, (k, 0))
    folder = tmp_path / "l2-1"
    scores = tables.read_scores(folder / "scores.csv")
    scores.loc[(scores["row"] == 2) & (scores["concept"] == CONCEPTS[0]), "value"] = float("nan")
    tables.write_scores(folder / "scores.csv", scores)
    (group,) = group_runs(read_runs(tmp_path))
    (pair,) = group.pairs.values()
    assert pair.effect.endings == 1 and pair.verdict == "differs"
