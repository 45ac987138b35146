"""Intervals, intransigence and the noise beside forgetting on the leaderboard, against numbers worked out by hand and scipy's."""

import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats
from test_html_report import Tree
from test_leaderboard import CODE, FIGURES, groups_in, make_run, markdown_tables, record, seed, summary, write
from test_leaderboard_page import board

from cpbench.files import read_json, short_hash
from cpbench.leaderboard import entries
from cpbench.leaderboard.groups import group_runs
from cpbench.leaderboard.page import page
from cpbench.leaderboard.text import as_json, markdown, score_table, terminal_tables
from cpbench.metrics.intervals import bootstrap
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.metrics.scores import SCORES as METRICS
from cpbench.metrics.summary import intervals, summaries
from cpbench.records import tables

SCORED = [f"{m}_{k}" for m in METRICS for k in FIGURES]


def shown(
    folder: Path,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, str]], list[dict[str, str]]]:
    """The rows of the only table: as JSON, CSV, Markdown and HTML have them."""
    (group,) = groups_in(folder)
    csv = pd.read_csv(folder / "out" / "leaderboard.csv").to_dict("records")
    (rows,) = markdown_tables((folder / "out" / "leaderboard.md").read_text()).values()
    return group["rows"], csv, rows, board(Tree((folder / "out" / "leaderboard.html").read_text()))


# Intervals


def test_over_tasks_by_hand(tmp_path: Path) -> None:
    """Each concept's mean over the rows since it was learned, picture by picture, and the bootstrap of those means."""
    folder = make_run(tmp_path / "l2", "l2", 0.4)
    ((row,), (line,), _, _) = shown(tmp_path)
    order = read_json(folder / "run.json")["sequence"]["concepts"]
    scores = pd.read_csv(folder / "scores.csv")
    dino = scores[(scores["kind"] == "cell") & (scores["metric"] == "dino")]
    kept = pd.concat([dino[(dino["concept"] == c) & (dino["row"] >= t)] for t, c in enumerate(order, 1)])
    means = kept.groupby(["concept", "prompt", "index"])["value"].mean()
    found = bootstrap(means.to_numpy(), *(list(means.index.get_level_values(k)) for k in (0, 1)))
    expected = (found.mean, found.low, found.high)
    assert tuple(row[k]["dino_over_tasks"] for k in ("mean", "low", "high")) == pytest.approx(expected, abs=2e-6)
    assert line["dino_over_tasks_low"] == pytest.approx(found.low, abs=2e-6)


def test_over_tasks_needs_every_concept_in_every_row(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "l2", "l2", 0.4)
    scores = tables.read_scores(folder / "scores.csv")
    first = read_json(folder / "run.json")["sequence"]["concepts"][0]
    scores.loc[(scores["concept"] == first) & (scores["row"] == 2), "value"] = float("nan")
    tables.write_scores(folder / "scores.csv", scores)
    ((row,), *_) = shown(tmp_path)
    assert row["mean"]["dino_over_tasks"] is None and row["low"]["dino_over_tasks"] is None


def test_one_run_has_its_own_interval(tmp_path: Path) -> None:
    """Of its scores, whatever its record says or lacks."""
    folder = make_run(tmp_path / "l2", "l2", 0.4)
    (row,), (line,), (words,), (cells,) = shown(tmp_path)
    concepts = read_json(folder / "run.json")["sequence"]["concepts"]
    expected = intervals(tables.read_scores(folder / "scores.csv"), concepts, len(concepts))
    for key in SCORED:
        metric = next(m for m in METRICS if key.startswith(m))
        bounds = expected[metric][key.removeprefix(f"{metric}_")] or [None, None]
        assert [row[side][key] for side in ("low", "high")] == bounds
    low, high = expected["dino"]["final_average"]
    assert (line["dino_final_average_low"], line["dino_final_average_high"]) == (low, high)
    assert "carried_MB_low" not in line
    assert words["DINO final"] == f"{row['mean']['dino_final_average']:.3f}"
    bounds = ", ".join(f"{row[side]['dino_over_tasks']:.3f}" for side in ("low", "high"))
    assert words["DINO over tasks"] == rf"{row['mean']['dino_over_tasks']:.3f} \[{bounds}\]"
    assert cells["DINO final"] == f"{row['mean']['dino_final_average']:.3f} {low:.2f} to {high:.2f}"


def test_of_two_runs_there_is_none(tmp_path: Path) -> None:
    write(tmp_path, record("lora"), record("lora", **seed(1)))
    (row,), (line,), (words,), (cells,) = shown(tmp_path)
    assert set(row["low"].values()) == set(row["high"].values()) == {None}
    assert pd.isna(line["dino_final_average_low"]) and line["dino_final_average_std"] == 0
    assert words["DINO final"] == "0.500 ± 0.000" == cells["DINO final"]


def test_of_three_runs_it_is_students_over_them(tmp_path: Path) -> None:
    finals, forgotten = (0.60, 0.66, 0.75), (0.1, 0.3, None)
    summaries = [summary(0.5, final_average=f, forgetting=g) for f, g in zip(finals, forgotten, strict=True)]
    write(tmp_path, *(record("lora", figures=it, **seed(n)) for n, it in enumerate(summaries)))
    for n, final in enumerate(finals):
        (tmp_path / f"run-{n}" / "measures.csv").write_text(f"row,measure,concept,value\n2,identified,a,{final / 2}\n")
    (row,), (line,), (words,), (cells,) = shown(tmp_path)
    # mean 0.67, deviation sqrt(0.0114 / 2), t = 4.302653 with two degrees of freedom: half = t sqrt(0.0057 / 3)
    assert (row["low"]["dino_final_average"], row["high"]["dino_final_average"]) == (0.482452, 0.857548)
    expected = stats.t.interval(0.95, 2, loc=0.67, scale=stats.sem(finals))
    assert (line["dino_final_average_low"], line["dino_final_average_high"]) == pytest.approx(expected, abs=1e-6)
    assert row["high"]["identified"] == pytest.approx(expected[1] / 2, abs=1e-6)
    assert (row["low"]["clip_t_final_average"], row["high"]["clip_t_final_average"]) == (0.25, 0.25)
    assert row["mean"]["dino_forgetting"] == 0.2 and row["low"]["dino_forgetting"] is None  # of two runs
    assert words["DINO final"] == "0.670 ± 0.075"
    assert cells["DINO final"] == "0.670 ± 0.075 0.48 to 0.86" and cells["forgetting"] == "0.200 ± 0.141"


def test_what_cannot_be_computed_is_not_shown(tmp_path: Path) -> None:
    write(tmp_path, record("lora", None))  # without a ceiling, and of one picture a cell
    (row,), _, (words,), (cells,) = shown(tmp_path)
    assert words["retention"] == cells["retention"] == "-" and row["low"]["dino_normalised_retention"] is None
    assert words["forgetting, noise floor"] == words["intransigence"] == cells["intransigence"] == "-"
    assert row["mean"]["dino_forward_transfer"] is None


INVENTED = {
    "no end": {"dino": {"final_average": [0.1, float("nan")]}},
    "from high to low": {"clip_i": {"share_lost": [0.2, 0.1]}},
    "none": {"dino": {"final_average": None}},
    "an unknown figure": {"fid": {"final_average": [0, 1]}, "dino": {"luck": [0, 1], "plasticity": [0, 1]}},
}
JUNK = {
    "a list": [[0.1, 0.2]],
    "a metric that is a pair": {"dino": [0.1, 0.2]},
    "three ends": {"dino": {"final_average": [0.1, 0.2, 0.3]}},
    "words": {"dino": {"final_average": ["0.1", "0.2"]}},
    "a huge end": {"dino": {"final_average": [0, 10**400]}},
}


@pytest.mark.parametrize("what", JUNK)
def test_intervals_that_no_run_writes_are_no_record(tmp_path: Path, what: str, capsys: pytest.CaptureFixture) -> None:
    make_run(tmp_path / "plain", "l2", 0.4)
    make_run(tmp_path / "junk", "ewc", 0.4, intervals=JUNK[what])
    (group,) = groups_in(tmp_path)
    assert [row["method"] for row in group["rows"]] == ["l2"]
    assert "not as cpbench writes it (intervals" in capsys.readouterr().out


@pytest.mark.parametrize("what", INVENTED)
def test_what_a_record_says_of_intervals_is_not_read(tmp_path: Path, what: str) -> None:
    for name, more in (
        ("plain", {}),
        ("junk", {"intervals": INVENTED[what], "measures": {"identified": 1.0, "luck": 7}}),
    ):
        make_run(tmp_path / name / "run", "l2", 0.4, **more)
    first, second = (groups_in(tmp_path / name)[0]["rows"][0] for name in ("plain", "junk"))
    assert first == second and first["low"]["dino_plasticity"] is not None


def test_the_terminal_has_the_first_where_there_is_room(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "l2", "l2", 0.4)
    (group,) = groups_in(tmp_path)
    mean, low, high = (group["rows"][0][k]["dino_over_tasks"] for k in ("mean", "low", "high"))
    assert f"{mean:.3f} [{low:.2f}, {high:.2f}] " in capsys.readouterr().out
    found = group_runs(entries.read_runs(tmp_path))
    for width, cell in ((119, f"{mean:.3f}"), (120, f"{mean:.3f} [{low:.2f}, {high:.2f}]")):
        (made,) = terminal_tables(found, [], width)
        assert [str(it) for it in made.columns[3].cells] == [cell]


# The noise, and what is in the tables alone


def test_noise_stands_right_of_forgetting_and_forward_transfer_on_no_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "l2", "l2", 0.4)
    scores = tables.read_scores(folder / "scores.csv")
    order = read_json(folder / "run.json")["sequence"]["concepts"]
    before = [(t, "unlearned", c, "p", 0, "dino", 0.25) for t, c in enumerate(order) if t]  # just before their tasks
    scores = pd.concat([scores, pd.DataFrame(before, columns=SCORE_COLUMNS)])
    tables.write_scores(folder / "scores.csv", scores)
    floor = scores[(scores["kind"] == "cell") & (scores["row"] == 0) & (scores["metric"] == "dino")]
    transfer = 0.25 - floor[floor["concept"] != order[0]].groupby("concept")["value"].mean().mean()
    noise = summaries(scores, order, len(order))["dino"]["forgetting_from_noise"]
    (row,), (line,), (words,), (cells,) = shown(tmp_path)
    for heads in (list(words), list(cells)):
        assert heads[heads.index("forgetting") + 1] == "forgetting, noise floor" and "forward transfer" not in heads
    assert words["forgetting, noise floor"] == cells["forgetting, noise floor"] == f"{noise:.3f}" != "0.000"
    for figures in (line, row["mean"]):
        found = figures["dino_forgetting_from_noise"], figures["dino_forward_transfer"]
        assert found == pytest.approx((noise, transfer), abs=1e-6)
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "- forgetting, noise floor: what the maximum in Chaudhry's formula yields" in text


# Intransigence

Cells = dict[tuple[int, str], list[float]]  # by row and concept, the pictures' scores
ALONE: Cells = {(1, "a"): [0.7, 0.9], (2, "a"): [0.7, 0.9], (2, "b"): [0.5, 0.7]}  # a 0.8, b 0.6
METHOD: Cells = {(1, "a"): [0.6, 0.8], (2, "a"): [0.1, 0.1], (2, "b"): [0.2, 0.4]}  # after its own task: a 0.7, b 0.3
TURNED: Cells = {(1, "b"): [0.2, 0.4], (2, "b"): [0.0, 0.0], (2, "a"): [0.6, 0.8]}  # the same, b first


def scored(folder: Path, method: str, cells: Cells, draw: tuple[int, int] = (0, 0), code: str = "", **more: Any) -> str:
    """A run over a and b, in orders above 0 b and a, whose scores.csv has these cells and those of row 0. Returns its hash."""
    names = ["b", "a"] if draw[1] else ["a", "b"]
    cells = {(0, c): [0.1, 0.1] for c in names} | cells
    lines = [(t, "cell", c, f"p{k}", 0, "dino", v) for (t, c), values in cells.items() for k, v in enumerate(values)]
    tables.write_scores(folder / "scores.csv", pd.DataFrame(lines, columns=SCORE_COLUMNS))
    final = sum(sum(cells[2, c]) / len(cells[2, c]) for c in names) / 2
    made = record(method, figures=summary(0.5, final_average=final)) | {
        "config": {"backbone": "miniature", "seed": draw[0], "order": draw[1], "method": method},
        "facts": {"method": method, "source": code, "sequence": "5e" * 32}
        | CODE,  # its content, the same in every order
        "sequence": {"name": "seq", "version": 1, "concepts": names},
    }
    made |= more
    made["hash"] = short_hash(made["facts"])
    (folder / "run.json").write_text(json.dumps(made))
    return made["hash"]


def intransigence(folder: Path) -> dict[str, tuple[float | None, float | None, float | None]]:
    """By method the mean and the interval's ends."""
    (group,) = groups_in(folder)
    return {
        row["method"]: tuple(row[k]["dino_intransigence"] for k in ("mean", "low", "high")) for row in group["rows"]
    }


def means(folder: Path) -> dict[str, float | None]:
    return {method: mean for method, (mean, _, _) in intransigence(folder).items()}


def test_intransigence_by_hand(tmp_path: Path) -> None:
    scored(tmp_path / "1", "isolated", ALONE)
    scored(tmp_path / "2", "l2", METHOD)
    scored(tmp_path / "3", "ewc", {(1, "a"): [0.9, 0.9], (2, "a"): [0.5, 0.5], (2, "b"): [0.7, 0.7]})
    rows, csv, words, cells = shown(tmp_path)
    found = {row["method"]: row["mean"]["dino_intransigence"] for row in rows}
    assert found == {"isolated": 0, "l2": 0.2, "ewc": -0.1}  # ((0.8 - 0.7) + (0.6 - 0.3)) / 2
    assert {line["method"]: line["dino_intransigence"] for line in csv} == found
    said = {row["method"]: row["intransigence"] for row in words}
    assert said == {"isolated": "0.000", "l2": "0.200", "ewc": "-0.100"}
    # picture by picture the differences are 0.1 and 0.1 of a, 0.3 and 0.3 of b: drawn concepts have 0.1, 0.2 or 0.3
    paired = bootstrap([0.1, 0.1, 0.3, 0.3], list("aabb"), ["p0", "p1"] * 2)
    (l2,) = [row for row in rows if row["method"] == "l2"]
    bounds = (l2["low"]["dino_intransigence"], l2["high"]["dino_intransigence"])
    assert bounds == pytest.approx((paired.low, paired.high)) and bounds == (0.1, 0.3)
    assert {row["method"]: row["intransigence"] for row in cells}["l2"] == "0.200 0.10 to 0.30"


def test_intransigence_is_of_the_same_seed_and_rather_of_the_same_order(tmp_path: Path) -> None:
    scored(tmp_path / "1", "isolated", ALONE)
    scored(tmp_path / "2", "isolated", {(1, "b"): [0.9], (2, "b"): [0.9], (2, "a"): [0.9]}, (0, 1))
    scored(tmp_path / "3", "l2", METHOD)
    scored(tmp_path / "4", "ewc", TURNED, (0, 1))  # ((0.9 - 0.3) + (0.9 - 0.7)) / 2
    scored(tmp_path / "5", "olora", TURNED, (0, 2))
    scored(tmp_path / "6", "clora", METHOD, (1, 0))
    assert means(tmp_path) == {"isolated": 0, "l2": 0.2, "ewc": 0.4, "olora": 0.2, "clora": None}


def test_intransigence_is_against_isolated_with_its_usual_settings(tmp_path: Path) -> None:
    file = {"backbone": "miniature", "seed": 0, "order": 0, "method": "./isolated.py"}
    scored(tmp_path / "1", "isolated", ALONE, changed={"rank": 1}, code="00000001")
    scored(tmp_path / "2", "isolated", ALONE, config=file, code="00000002")
    scored(tmp_path / "3", "l2", METHOD)
    assert set(means(tmp_path).values()) == {None}
    scored(tmp_path / "4", "isolated", METHOD, code="00000004")
    assert means(tmp_path) == {"isolated": 0, "l2": 0, "isolated rank=1": -0.2, "isolated (own file)": -0.2}


def test_of_two_rows_of_isolated_the_one_with_more_runs_is_the_measure(tmp_path: Path) -> None:
    one = scored(tmp_path / "1", "isolated", METHOD, code="00000001")
    for n in (0, 1):
        more = scored(tmp_path / f"2{n}", "isolated", ALONE, (n, 0), code="00000002")
    l2 = scored(tmp_path / "3", "l2", METHOD)
    (group,) = groups_in(tmp_path)
    found = {(row["method"], row["hash"]): row["mean"]["dino_intransigence"] for row in group["rows"]}
    assert found == {("isolated", one): 0.2, ("isolated", more): 0, ("l2", l2): 0.2}


@pytest.mark.parametrize("what", ["nothing", "scores", "scores of isolated", "a concept", "a concept of isolated"])
def test_without_all_scores_there_is_no_intransigence(tmp_path: Path, what: str) -> None:
    short = {(1, "b"): [0.5], (2, "a"): [0.5], (2, "b"): [0.5]}  # of a there is nothing right after its own task
    scored(tmp_path / "1", "isolated", short if what == "a concept of isolated" else ALONE)
    scored(tmp_path / "2", "l2", short if what == "a concept" else METHOD)
    if what.startswith("scores"):
        (tmp_path / ("1" if "isolated" in what else "2") / "scores.csv").unlink()
    found = intransigence(tmp_path).get("l2", (None, None, None))  # without scores it is in no table
    assert found == ((0.2, 0.1, 0.3) if what == "nothing" else (None, None, None))


def test_intransigence_over_three_seeds(tmp_path: Path) -> None:
    for n, less in enumerate((0.0, 0.1, 0.2)):
        scored(tmp_path / f"a{n}", "isolated", ALONE, (n, 0))
        scored(tmp_path / f"b{n}", "l2", {k: [v - less for v in values] for k, values in METHOD.items()}, (n, 0))
    # 0.2, 0.3, 0.4: deviation 0.1, half of the interval 4.302653 * 0.1 / sqrt(3)
    assert intransigence(tmp_path)["l2"] == (0.3, 0.051586, 0.548414)


# The same bytes


def test_the_order_of_runs_changes_nothing(tmp_path: Path) -> None:
    for n, draw in enumerate(((0, 0), (1, 0), (0, 1), (2, 0))):
        scored(tmp_path / f"a{n}", "isolated", TURNED if draw[1] else ALONE, draw)
        if n != 2:
            scored(tmp_path / f"b{n}", "l2", METHOD, draw)
    scored(tmp_path / "c", "isolated", METHOD, code="ffffffff")
    runs = entries.read_runs(tmp_path)

    def written(order: list[Any]) -> list[str]:
        found = group_runs(order)
        whole = json.dumps(as_json(found, [], {}))
        return [whole, score_table(found).to_csv(), markdown(found, [], {}), page(found, [], {}, tmp_path)]

    expected = written(runs)
    for order in itertools.islice(itertools.permutations(runs), 0, None, 4001):
        assert written(list(order)) == expected
