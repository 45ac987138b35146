"""A run whose tables cannot be those of its record is told everywhere; and what no reader would take is not begun."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import test_html_report
import yaml
from test_leaderboard import groups_in

from cpbench.errors import UserError
from cpbench.files import file_hash, write_json
from cpbench.records import checks, reading
from cpbench.records.tables import read_scores, write_scores
from cpbench.report import data, paired_runs


def make_run(folder: Path) -> Path:
    """With the hashes of its tables and its figures, as a finished run records them."""
    run = test_html_report.make_run(folder)
    (run / "measures.csv").write_text("row,measure,concept,value\n3,identified,dog,0.5\n")
    shown = data.read_run(run)
    files = {name: file_hash(run / name) for name in ("scores.csv", "measures.csv")}
    change_record(run, files=files, figures=shown.summary)
    return run


def change_record(run: Path, **changes: object) -> None:
    write_json(run / "run.json", json.loads((run / "run.json").read_text()) | changes)


def doubt(run: Path) -> str:
    return checks.doubt(run, reading.read(run), read_scores(run / "scores.csv"))


def another_score(run: Path) -> None:
    scores = read_scores(run / "scores.csv")
    scores.loc[0, "value"] += 0.01
    write_scores(run / "scores.csv", scores)


def other_measures(run: Path) -> None:
    (run / "measures.csv").write_text("row,measure,concept,value\n3,identified,dog,0.75\n")


def impossible_measures(run: Path) -> None:
    (run / "measures.csv").write_text("row,measure,concept,value\n3,identified,dog,7\n")
    change_record(run, files={})


def without_scores(run: Path) -> None:
    """But with those of its last row, which a report reads of a run that was stopped."""
    scores = read_scores(run / "scores.csv")
    write_scores(run / "task-03" / "scores.csv", scores[scores["row"] == 3])
    (run / "scores.csv").unlink()


def no_cosine(run: Path) -> None:
    scores = read_scores(run / "scores.csv")
    scores.loc[scores["metric"] == "dino", "value"] = 1.2
    write_scores(run / "scores.csv", scores)
    change_record(run, files={})


def better_average(run: Path) -> None:
    figures = json.loads((run / "run.json").read_text())["figures"]
    change_record(run, figures=figures | {"clip_t": figures["clip_t"] | {"final_average": 0.99}})


SPOILED = {
    "another score": (another_score, "its scores.csv is not the one that its run.json tells of"),
    "other measures": (other_measures, "its measures.csv is not the one that its run.json tells of"),
    "an impossible measure": (impossible_measures, "its measures.csv has identified 7, which is between 0 and 1"),
    "no cosine": (no_cosine, "its scores.csv has dino 1.2, and a cosine is between -1 and 1"),
    "a better average": (better_average, "its run.json tells of a final CLIP-T of 0.990, its scores.csv of "),
    "no scores": (without_scores, "its scores.csv is missing"),
    "another hash": (lambda run: change_record(run, hash="00000000"), "its run.json has another hash than its facts"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_leaderboard_report_and_comparison_find_the_same(tmp_path: Path, call: Callable, what: str) -> None:
    sound, doubtful = make_run(tmp_path / "runs" / "a"), make_run(tmp_path / "runs" / "b")
    assert doubt(sound) == data.read_run(sound).doubt == ""
    paired_runs.compare_runs(sound, doubtful)
    spoil, says = SPOILED[what]
    spoil(doubtful)
    assert doubt(doubtful).startswith(says)
    assert any("in doubt" in note and says in note for note in data.read_run(doubtful).notes)
    with pytest.raises(UserError, match="compare: .*/b: its "):
        paired_runs.compare_runs(sound, doubtful)
    (group,) = groups_in(tmp_path / "runs")
    assert [len(row["runs"]) for row in group["rows"]] == [1]
    code, said, _ = call("leaderboard", tmp_path / "runs", "--output", tmp_path / "out")
    assert code == 0 and says.split(",")[0][:30] in (tmp_path / "out" / "leaderboard.md").read_text()


def test_a_run_that_is_not_finished_is_in_no_doubt(tmp_path: Path) -> None:
    """Its tables grow after its record was written."""
    run = make_run(tmp_path / "run")
    change_record(run, status="running")
    another_score(run)
    assert data.read_run(run).doubt == ""


def test_a_run_that_no_reader_would_take_is_not_begun(tmp_path: Path, call: Callable) -> None:
    layers = ", ".join(["to_q"] * 400)
    words = ("run", "--method", "seqlora", "--sequence", "quick3", "--output", tmp_path / "runs")
    code, _, said = call(*words, "--set", f"target_modules=[{layers}]")
    assert code == 2 and "characters, and may have 2000" in said and len(said.splitlines()) == 1
    assert not list(tmp_path.glob("runs/*"))


def test_a_sequence_of_501_concepts_is_refused(tmp_path: Path, call: Callable) -> None:
    concept = {"class_noun": "dog", "kind": "live", "images": {"drawn": True}}
    sequence = {
        "name": "long",
        "version": 1,
        "concepts": [concept | {"name": f"dog{k}"} for k in range(501)],
        "evaluation": {"num_inference_steps": 1, "guidance_scale": 1.0, "pictures_per_prompt": 1},
    }
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(sequence))
    code, _, said = call("run", "--method", "base", "--sequence", tmp_path / "long.yaml", "--output", tmp_path / "runs")
    assert code == 2 and "concepts: must be a list with at most 500 entries, not 501" in said
