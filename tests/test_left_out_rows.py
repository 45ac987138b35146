"""`evaluation.rows` and `evaluation.diagonal`: what is not asked for is not generated, and a figure that needs it is empty."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import undisturbed

import cpbench
from cpbench import config
from cpbench.errors import UserError
from cpbench.files import file_hash, read_json, short_hash
from cpbench.leaderboard import board
from cpbench.metrics.figures import in_a_run
from cpbench.records import outcome_lines
from cpbench.records.reading import read
from cpbench.records.record import method_name
from cpbench.records.tables import read_scores
from cpbench.report import data, tables
from cpbench.running import cells, prepare, sweep

SEQUENCE = """
name: three
version: 1
images: {folder: '{folder}/{name}'}
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: backpack, class_noun: backpack, kind: object}
  - {name: dog2, class_noun: dog, kind: live}
evaluation:
  live: ["a {} in the snow"]
  object: ["a {} in the snow"]
  pictures_per_prompt: 2
  num_inference_steps: 1
  prior: ["a photo of a {}"]
  compositions: ["a {} and a {}"]
"""
CONCEPTS = ["dog", "backpack", "dog2"]
LEARNED = {0: CONCEPTS, 1: CONCEPTS[:1], 2: CONCEPTS[:2], 3: CONCEPTS}  # in a whole row
CASES: dict[str, tuple[dict[str, Any], dict[int, list[str]]]] = {  # the evaluation, and the cells of the matrix
    "all": ({}, LEARNED),
    "two": ({"rows": [2]}, {t: LEARNED[t] for t in (0, 2, 3)}),
    "diagonal": ({"rows": [], "diagonal": True}, LEARNED | {2: ["backpack"]}),
}
WHOLE = {"all": [0, 1, 2, 3], "two": [0, 2, 3], "diagonal": [0, 3]}
Made = dict[str, Path]


def settings_of(folder: Path, evaluation: dict[str, Any]) -> dict[str, Any]:
    options = {"steps": 2, "batch_size": 1, "rank": 2, "learning_rate": 3e-2}
    given = {"method": "seqlora", "sequence": str(folder / "three.yaml"), "output": folder / "out"}
    return given | {"backbone": str(undisturbed.small() / "pipeline"), "options": options, "evaluation": evaluation}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a finished run of each case; equal pictures are generated once for all of them."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "three.yaml").write_text(SEQUENCE.replace("{folder}", str(undisturbed.small() / "concepts")))
    return {name: cpbench.run(**settings_of(folder, evaluation))["folder"] for name, (evaluation, _) in CASES.items()}


def means_of(run: Path, metric: str) -> dict[tuple[int, str], float]:
    """The matrix by cell, computed from scores.csv."""
    scores = read_scores(run / "scores.csv")
    part = scores[(scores["kind"] == "cell") & (scores["metric"] == metric)]
    return {(int(t), c): float(group["value"].mean()) for (t, c), group in part.groupby(["row", "concept"])}


def ceiling_of(run: Path, metric: str) -> dict[str, float]:
    scores = read_scores(run / "scores.csv")
    part = scores[(scores["kind"] == "real") & (scores["metric"] == metric)]
    return dict(zip(part["concept"], part["value"], strict=True))


def by_hand(R: dict[tuple[int, str], float], top: dict[str, float]) -> dict[str, float | None]:
    """Every figure by a loop over the cells that there are; None where one is missing."""
    T, names = 3, list(enumerate(CONCEPTS, 1))

    def share(part: list[float], whole: list[float]) -> float:
        return sum(part) / sum(whole) if sum(whole) > 1e-9 else math.nan

    formulas: dict[str, Callable[[], float]] = {
        "final_average": lambda: sum(R[T, c] for _, c in names) / T,
        "plasticity": lambda: sum(R[j, c] for j, c in names) / T,
        "forgetting": lambda: sum(max(R[i, c] for i in range(j, T)) - R[T, c] for j, c in names[:-1]) / (T - 1),
        "forgetting_all_rows": lambda: sum(max(R[i, c] for i in range(j, T + 1)) - R[T, c] for j, c in names) / T,
        "backward_transfer": lambda: sum(R[T, c] - R[j, c] for j, c in names[:-1]) / (T - 1),
        "normalised_retention": lambda: share([R[T, c] - R[0, c] for _, c in names], [top[c] - R[0, c] for _, c in names]),
        "gap_closed": lambda: share([R[j, c] - R[0, c] for j, c in names], [top[c] - R[0, c] for _, c in names]),
        "share_lost": lambda: 1 - share(
            [R[T, c] - R[0, c] for _, c in names[:-1]], [R[j, c] - R[0, c] for j, c in names[:-1]]
        ),
    }  # fmt: skip
    values: dict[str, float | None] = {}
    for name, formula in formulas.items():
        try:
            values[name] = None if math.isnan(value := formula()) else value
        except KeyError:
            values[name] = None
    return values


def same(figures: dict[str, float | None], expected: dict[str, float | None]) -> bool:
    return all(
        figures[k] is None if v is None else figures[k] == pytest.approx(v, abs=2e-6) for k, v in expected.items()
    )


# What is generated


@pytest.mark.parametrize("name", CASES)
def test_cells_that_were_asked_for_are_there_and_as_in_a_whole_run(made: Made, name: str) -> None:
    scores, everything = (read_scores(made[case] / "scores.csv") for case in (name, "all"))
    matrix = scores[scores["kind"] == "cell"]
    assert {(t, c) for t, c in zip(matrix["row"], matrix["concept"], strict=True)} == {
        (t, c) for t, concepts in CASES[name][1].items() for c in concepts
    }
    assert set(scores[scores["kind"] == "prior"]["row"]) == set(WHOLE[name])  # nouns in whole rows only
    assert set(scores[scores["kind"] == "pair"]["row"]) == {0, 3}
    both = scores.merge(everything, on=list(scores.columns[:-1]), suffixes=("", "_whole"))
    assert len(both) == len(scores) and (both["value"] == both["value_whole"]).all()


@pytest.mark.parametrize("name", CASES)
def test_what_is_planned_is_what_is_generated(made: Made, name: str) -> None:
    folder = made[name]
    settings = settings_of(folder.parents[5], CASES[name][0])
    run_config, _, _ = config.resolve(settings)
    sequence = prepare.sequences.load(run_config.sequence)
    planned = [cell for t in cells.rows_of(run_config, 3) for cell in cells.cells_of(run_config, sequence, t, 2)]
    pictures = [f for t in range(4) for f in (folder / f"task-{t:02d}").rglob("*.png") if f.name != "real.png"]
    assert sum(cell.pictures for cell in planned) == len(pictures)
    grid = sweep.Grid(
        methods=("seqlora",),
        sequences=(settings["sequence"],),
        backbones=(settings["backbone"],),
        common={"options": settings["options"], "evaluation": settings["evaluation"]},
    )
    (estimate,) = sweep.estimate_jobs(grid, settings["output"])
    assert estimate.is_finished and estimate.generation == 2 * len(pictures)  # one step, with guidance


def test_a_run_is_resumed_where_a_single_cell_is_missing(made: Made) -> None:
    folder = made["diagonal"]
    settings = settings_of(folder.parents[5], CASES["diagonal"][0])
    before, written = file_hash(folder / "scores.csv"), (folder / "run.json").stat().st_mtime_ns
    assert cpbench.run(**settings)["folder"] == folder
    assert (folder / "run.json").stat().st_mtime_ns == written  # it was finished
    (folder / "task-02" / "row.json").unlink()
    cpbench.run(**settings)
    assert file_hash(folder / "scores.csv") == before and (folder / "task-02" / "row.json").is_file()
    assert (folder / "run.json").stat().st_mtime_ns > written


# Figures


@pytest.mark.parametrize("metric", ["dino", "clip_t"])
@pytest.mark.parametrize("name", CASES)
def test_a_figure_is_of_cells_that_are_there_or_empty(made: Made, name: str, metric: str) -> None:
    everything = means_of(made["all"], metric)
    R = {(t, c): everything[t, c] for t, concepts in CASES[name][1].items() for c in concepts}
    expected = by_hand(R, ceiling_of(made["all"], metric) or dict.fromkeys(CONCEPTS, math.nan))
    record = read_json(made[name] / "run.json")
    assert same(record["figures"][metric], expected)
    assert {k for k, v in record["intervals"][metric].items() if v} <= {k for k, v in expected.items() if v is not None}
    assert {figure.name for figure in in_a_run()} == set(record["figures"][metric])


def test_which_figures_are_empty(made: Made) -> None:
    figures = {name: read_json(folder / "run.json")["figures"]["dino"] for name, folder in made.items()}
    known = {name: {k for k, v in values.items() if v is not None} for name, values in figures.items()}
    assert {"final_average", "normalised_retention"} <= known["two"] < known["diagonal"] < known["all"]
    assert known["diagonal"] - known["two"] >= {"plasticity", "backward_transfer", "gap_closed"}
    assert known["all"] - known["diagonal"] == {"forgetting", "forgetting_all_rows", "forgetting_from_noise"}


def test_lines_claim_nothing_of_cells_that_are_missing(made: Made) -> None:
    lines = {
        name: outcome_lines.task_line(read_scores(made[name] / "scores.csv"), CONCEPTS, 2)
        for name in ("all", "diagonal")
    }
    assert "; kept" in lines["all"] and lines["all"].startswith(lines["diagonal"])  # and of nothing that was lost
    verdicts = {name: outcome_lines.verdict(read_scores(made[name] / "scores.csv"), CONCEPTS) for name in made}
    assert {name for name, line in verdicts.items() if "right after its own task" in line} == {"all", "diagonal"}


def test_a_loss_is_told_against_the_last_row_that_has_the_concept(made: Made) -> None:
    scores = read_scores(made["diagonal"] / "scores.csv")
    dog = (scores["metric"] == "dino") & (scores["kind"] == "cell") & (scores["concept"] == "dog")
    scores.loc[dog & (scores["row"] == 1), "value"] = 0.9
    scores.loc[dog & (scores["row"] == 3), "value"] = 0.1
    assert outcome_lines.verdict(scores, CONCEPTS).endswith("hit hardest: dog 0.900 -> 0.100, by backpack or dog2")


@pytest.mark.parametrize(("one", "other"), [("diagonal", "two"), ("all", "diagonal"), ("two", "all")])
def test_compare_computes_figures_from_cells_that_both_have(made: Made, call: Callable, one: str, other: str) -> None:
    code, out, _ = call("compare", made[one], made[other], "--json")
    facts = json.loads(out)
    assert code == 0 and facts["task"] == 3 and any("different rows" in note for note in facts["notes"])
    common = {(t, c) for t in CASES[one][1] for c in CASES[one][1][t] if c in CASES[other][1].get(t, [])}
    everything = means_of(made["all"], "dino")
    expected = by_hand({cell: everything[cell] for cell in common}, ceiling_of(made["all"], "dino"))
    for figures in facts["figures"]["dino"]:
        assert same(figures, expected)
    code, out, _ = call("compare", made[one], made[other])
    line = next(line for line in out.splitlines() if line.split()[:1] == ["forgetting"])
    assert code == 0 and line.split()[1:] == ["-", "-", "-"]


def test_in_a_leaderboard_other_rows_are_a_table_of_their_own(made: Made, tmp_path: Path) -> None:
    content = board.write(made["all"].parents[3], tmp_path, show=False)
    groups = {str(group["comparable"]["rows"]): group["rows"][0] for group in content["groups"]}
    assert set(groups) == {"all", "[0, 2, 3]", "0, 3 and the diagonal"}
    for rows, name in {"all": "all", "[0, 2, 3]": "two", "0, 3 and the diagonal": "diagonal"}.items():
        R = means_of(made[name], "dino")
        by_concept = [[R[t, c] for t in range(j, 4) if (t, c) in R] for j, c in enumerate(CONCEPTS, 1)]
        expected = sum(sum(v) / len(v) for v in by_concept) / 3  # over the rows that there are
        assert groups[rows]["mean"]["dino_over_tasks"] == pytest.approx(expected, abs=2e-6)
    assert groups["0, 3 and the diagonal"]["method"].endswith("evaluation.diagonal=true evaluation.rows=[]")


def test_a_report_says_what_is_missing_and_has_no_mean_of_a_part(made: Made) -> None:
    run = data.read_run(made["diagonal"])
    assert run.whole_rows == [0, 3] and run.last == 3
    assert any("Rows 1-2 of the matrices have the concept of their own task alone" in note for note in run.notes)
    assert [name for name, _ in tables.measure_rows(run)["rows"]] == ["untouched", "task 3"]
    heat = tables.heat_tables(run, tables.scales([run]), 1000)[0]["rows"]
    assert [row["mean"] == "-" for row in heat[:4]] == [False, True, True, False]
    assert [cell["text"] == "-" for cell in heat[2]["cells"]] == [True, False, False]  # dog is missing, dog2 too early
    assert heat[2]["cells"][0]["title"] == "not evaluated"


# Settings


def test_the_hash_is_what_it_was_before_there_was_a_choice(tmp_path: Path) -> None:
    """Of the facts without those of the code, which change by themselves; the literals are from before `diagonal`."""
    base = {"method": "raretoken", "sequence": "quick3", "output": tmp_path}
    run = prepare.prepare(*config.resolve(base))

    def hash_of(**more: Any) -> str:
        run.config = config.resolve(base | more)[0]
        prepare.identify(run)
        kept = {key: value for key, value in run.facts.items() if key != "references"}  # there were none
        return short_hash({**kept, "scores": 1, "versions": {}, "options": {}})

    assert hash_of() == hash_of(evaluation={"rows": None, "diagonal": False}) == "cf6fffd7"
    assert hash_of(rows=(2,)) == hash_of(evaluation={"rows": [2]}) == "97922658"
    assert hash_of(rows=(2, 0)) == hash_of(evaluation={"rows": [0, 2], "diagonal": False}) == "1ebb5857"
    assert len({hash_of(evaluation={"rows": [2], "diagonal": True}), hash_of(rows=(1,)), "97922658", "cf6fffd7"}) == 4


def test_the_short_form_wins_where_it_stands_later(tmp_path: Path) -> None:
    base = {"method": "base", "sequence": "quick3"}
    file = tmp_path / "settings.yaml"
    file.write_text("evaluation: {rows: [1], guidance_scale: 2, diagonal: true}\n")
    assert config.resolve(base, file)[0].rows == (1,)
    by_option = config.resolve(base | {"rows": [2]}, file)[0]
    assert by_option.rows == (2,) and by_option.evaluation.guidance_scale == 2 and by_option.evaluation.diagonal
    file.write_text("rows: [1]\n")  # as in 0.1
    assert config.resolve(base, file)[0].rows == (1,)
    assert config.resolve(base, file, ("evaluation.rows=[2, 3]",))[0].rows == (2, 3)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows", "7"], "rows: there is no row 7; the sequence has 3 tasks"),
        (["--rows", "1,x"], "must be whole numbers"),
        (["--rows", "2,2"], "evaluation.rows: row 2 is named twice"),
        (["--set", "evaluation.rows=[-1]"], "must be greater than or equal to 0, not -1"),
        (["--set", "evaluation.rows=[a]"], "must be a whole number, not 'a'"),
        (["--set", "evaluation.rows=3"], "evaluation.rows: must be a list"),
        (["--set", "evaluation.diagonal=3"], "evaluation.diagonal: must be true or false, not 3"),
    ],
)
def test_rows_that_are_none_are_refused_in_one_line(call: Callable, words: list[str], told: str) -> None:
    code, _, said = call("run", "--method", "base", "--sequence", "quick3", *words)
    assert code == 2 and told in said and "Traceback" not in said


def test_a_sweep_sets_rows_and_refuses_wrong_ones(tmp_path: Path) -> None:
    grid, _ = sweep.grid_from(None, {"methods": ["base"], "sequences": ["quick3"]}, None, (), {"rows": [1]})
    assert grid.common["evaluation"] == {"rows": [1]}
    (job,) = sweep.jobs_of(grid)
    assert config.resolve(job.settings)[0].rows == (1,)
    wrong = grid.model_copy(update={"methods": ("base evaluation.rows=[4]",)})
    with pytest.raises(UserError, match="there is no row 4"):
        sweep.jobs_of(wrong)


def test_records_of_earlier_versions_have_their_rows_among_the_evaluation(made: Made, tmp_path: Path) -> None:
    record = read_json(made["two"] / "run.json")
    rows = record["config"]["evaluation"].pop("rows")
    record["config"]["rows"] = rows  # as cpbench 0.1 wrote it
    (tmp_path / "run.json").write_text(json.dumps(record))
    upgraded = read(tmp_path)
    assert upgraded.config.evaluation["rows"] == [2] and method_name(upgraded).endswith(" evaluation.rows=[2]")
