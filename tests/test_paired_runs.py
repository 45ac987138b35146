"""`cpbench compare`: pairs are the last common row's pictures, and what cannot be paired is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from test_html_report import make_run

from cpbench.errors import UserError
from cpbench.records.tables import read_scores, write_scores
from cpbench.report import paired_runs
from cpbench.report.data import read_run

CONCEPTS = [f"c{k}" for k in range(7)]


def shifted(run: Path, by: float) -> None:
    """Every DINO score of the last row but c0's, moved."""
    scores = read_scores(run / "scores.csv")
    own = (scores["row"] == scores["row"].max()) & (scores["metric"] == "dino") & (scores["concept"] != "c0")
    scores.loc[own, "value"] += by
    write_scores(run / "scores.csv", scores)


def test_differences_are_those_of_the_last_common_row(tmp_path: Path, call: Callable) -> None:
    a, b = make_run(tmp_path / "a", CONCEPTS), make_run(tmp_path / "b", CONCEPTS)
    shifted(b, -0.3)
    _, row, found, notes = paired_runs.compare_runs(a, b)
    assert row == 7 and notes == [] and set(found) == {"dino", "clip_i", "clip_t"}
    it = found["dino"]
    assert it.difference == pytest.approx(0.3 * 6 / 7) and it.pairs == 7 * 4 * 2 and it.concepts == 7
    # one concept does not differ: its sign makes no difference
    assert it.p_of_signs == pytest.approx(2 / 2**6) and it.verdict == "differs" and it.p < 0.01
    assert (found["clip_t"].difference, found["clip_t"].p, found["clip_t"].verdict) == (0, 1, "alike")

    code, said, _ = call("compare", a, b)
    lines = [line for line in said.splitlines() if line.strip()]
    assert code == 0 and "after task 7" in lines[0]
    assert any("DINO" in line and "+0.257" in line and "A is higher" in line for line in lines)
    assert sum("alike" in line for line in lines) == 2
    code, said, _ = call("compare", b, a)
    assert code == 0 and "B is higher" in said and "-0.257" in said


def test_margins_are_those_of_dino(tmp_path: Path) -> None:
    """0.02 closer by CLIP-T may be all that there is on a published model: no other score is said to be alike for it."""
    a, b = make_run(tmp_path / "a", CONCEPTS), make_run(tmp_path / "b", CONCEPTS)
    scores = read_scores(b / "scores.csv")
    is_last = scores["row"] == scores["row"].max()
    for k, concept in enumerate(CONCEPTS):  # differences of both signs, of which none is shown
        scores.loc[is_last & (scores["concept"] == concept) & (scores["metric"] != "clip_i"), "value"] += (
            0.01 * (-1) ** k
        )
    write_scores(b / "scores.csv", scores)
    _, _, found, _ = paired_runs.compare_runs(a, b)
    assert (found["dino"].verdict, found["clip_t"].verdict, found["clip_i"].verdict) == ("alike", "open", "alike")


def test_a_half_finished_run_is_compared_where_it_is(tmp_path: Path) -> None:
    whole, half = make_run(tmp_path / "a"), make_run(tmp_path / "b", rows=[0, 1, 2])
    _, row, found, _ = paired_runs.compare_runs(whole, half)
    scores = [read_run(r).scores for r in (whole, half)]
    a, b = (s[(s["row"] == 2) & (s["metric"] == "dino") & (s["kind"] == "cell")]["value"].mean() for s in scores)
    assert row == 2 and found["dino"].difference == pytest.approx(a - b)
    assert found["dino"].verdict != "differs" and found["dino"].concepts == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pictures": "photographs"}, "one uses drawn stand-ins"),
        ({"config": {"backbone": "miniature", "seed": 4, "order": 0}}, "differ in seed or order"),
        ({"judges": {"dino": {"model": "a dino", "weights_sha256": "00"}}}, "their judges differ"),
    ],
)
def test_what_cannot_be_paired_is_refused(tmp_path: Path, call: Callable, changes: dict, told: str) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", **changes)
    with pytest.raises(UserError, match=told):
        paired_runs.compare_runs(a, b)
    code, _, said = call("compare", a, b)
    assert code == 2 and len(said.splitlines()) == 1


def test_rows_that_only_one_has_drawn_are_no_common_ground(tmp_path: Path, call: Callable) -> None:
    stopped = make_run(tmp_path / "a", CONCEPTS, rows=[0, 1, 2])
    thinned = make_run(tmp_path / "b", CONCEPTS, rows=[0, 7])
    code, _, said = call("compare", stopped, thinned)
    assert code == 2 and "no evaluated task in common" in said and len(said.splitlines()) == 1
    more = make_run(tmp_path / "c", CONCEPTS, rows=[0, 2, 7])
    assert paired_runs.compare_runs(stopped, more)[1] == 2


def test_pictures_that_have_no_like_are_told(tmp_path: Path, call: Callable) -> None:
    a, b = make_run(tmp_path / "a", CONCEPTS), make_run(tmp_path / "b", CONCEPTS)
    scores = read_scores(a / "scores.csv")
    scores.loc[(scores["metric"] == "dino") & (scores["concept"] == "c3"), "value"] = float("nan")
    write_scores(a / "scores.csv", scores)
    code, said, _ = call("compare", a, b)
    assert (
        code == 0
        and "DINO: 8 pictures exist in only one run or have no score, and are not compared; this excludes all pictures of c3."
        in said
    )


def test_scores_that_are_damaged_are_told_as_such(tmp_path: Path, call: Callable) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (b / "scores.csv").write_bytes((b / "scores.csv").read_bytes()[:-5])
    code, _, said = call("compare", a, b)
    assert code == 2 and "damaged" in said and len(said.splitlines()) == 1


def test_few_concepts_are_said_to_be_too_few(tmp_path: Path, call: Callable) -> None:
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    code, said, _ = call("compare", a, b)
    assert code == 0 and "fewer than six concepts" in said and "A is higher" not in said and "B is higher" not in said


def test_runs_whose_numbers_cannot_be_theirs_are_refused(tmp_path: Path, call: Callable) -> None:
    a, b, c = (make_run(tmp_path / name) for name in "abc")
    record = json.loads((b / "run.json").read_text())
    (b / "run.json").write_text(json.dumps(record | {"hash": "0123abcd"}))
    shifted(c, 3.0)
    for other, told in ((b, "another hash than its facts"), (c, "a cosine is between -1 and 1")):
        code, _, said = call("compare", a, other)
        assert code == 2 and told in said and str(other) in said and len(said.splitlines()) == 1
        assert any(told in note for note in read_run(other).notes)
