"""What a run and a sweep print: a line per task, tables once, a verdict and the next command; and the list of runs."""

import json
import os
import re
import shlex
import socket
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pandas as pd
import pytest
from conftest import THREE

from cpbench.cli.options import cli
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.records import outcome_lines, runs, tables
from cpbench.records.folder import RunFolder
from cpbench.records.reading import read
from cpbench.running import sweep
from cpbench.running.engines import Job, Outcome, SweepPaths

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
CONCEPTS = ["dog", "cup", "cat"]
DINO = {(0, "dog"): 0.26, (0, "cup"): 0.05, (0, "cat"): 0.34, (1, "dog"): 0.736, (2, "dog"): 0.549, (2, "cup"): 0.963,
        (3, "dog"): 0.09, (3, "cup"): 0.862, (3, "cat"): 0.778}  # fmt: skip


def scores_of(cells: dict[tuple[int, str], float], real: float = 0.9) -> pd.DataFrame:
    lines = [(t, "cell", concept, "p", 0, "dino", value) for (t, concept), value in cells.items()]
    lines += [(0, "real", concept, "p", 0, "dino", real) for concept in CONCEPTS]
    return pd.DataFrame(lines, columns=SCORE_COLUMNS)


# A task, and a run, in one line


def test_a_task_is_told_in_one_line() -> None:
    first, second, third = (outcome_lines.task_line(scores_of(DINO), CONCEPTS, t) for t in (1, 2, 3))
    assert first == "task 1 of 3, dog: learned 0.736 by DINO (untouched 0.260)"
    assert second.startswith("task 2 of 3, cup: learned 0.963 by DINO (untouched 0.050); kept 0.549 of 0.736; ")
    assert second.endswith("hit hardest: dog 0.736 -> 0.549, by cup")
    assert third == (
        "task 3 of 3, cat: learned 0.778 by DINO (untouched 0.340); kept 0.476 of 0.849; hit hardest: dog 0.549 -> 0.090, by cat"
    )


def test_what_lost_nothing_is_not_hit() -> None:
    same = DINO | {(2, "dog"): 0.736, (3, "dog"): 0.7362, (3, "cup"): 0.963}
    assert outcome_lines.task_line(scores_of(same), CONCEPTS, 3).endswith("; nothing lost")
    assert "hit hardest" not in outcome_lines.verdict(scores_of(same), CONCEPTS)


def test_with_rows_left_out_the_concepts_between_share_the_blame() -> None:
    """--rows: what happened between two rows cannot be told apart."""
    scores = scores_of({cell: value for cell, value in DINO.items() if cell[0] != 2})
    line = outcome_lines.task_line(scores, CONCEPTS, 3)
    assert line.endswith("hit hardest: dog 0.736 -> 0.090, by cup or cat")
    assert "kept 0.476; " in line  # of what is not known: cup has no score right after its own task


def test_a_run_is_told_in_one_line() -> None:
    line = outcome_lines.verdict(scores_of(DINO), CONCEPTS)
    assert line == (
        "DINO after 3 tasks: 0.577 (untouched 0.217, real pictures 0.900); right after its own task a concept had 0.826; "
        "hit hardest: dog 0.549 -> 0.090, by cat"
    )
    alone = outcome_lines.verdict(scores_of(DINO)[lambda s: (s["concept"] == "dog") & (s["row"] < 2)], ["dog"])
    assert alone == "DINO after 1 task: 0.736 (untouched 0.260, real pictures 0.900)"


@pytest.mark.parametrize("metric", ["dino", "clip_i"])
def test_scores_that_are_not_defined_are_no_loss(metric: str) -> None:
    scores = scores_of(DINO | {(3, "dog"): float("nan")}).assign(metric=metric)
    line = outcome_lines.task_line(scores, CONCEPTS, 3)
    assert "kept 0.862" in line and line.endswith("hit hardest: cup 0.963 -> 0.862, by cat")
    nothing = scores_of({cell: float("nan") for cell in DINO}, float("nan"))
    assert "learned - by DINO" in outcome_lines.task_line(nothing, CONCEPTS, 3)
    assert outcome_lines.verdict(scores[:0], CONCEPTS) == ""


# A run


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "three.yaml").write_text(THREE)
    short = "--set steps=1 --set batch_size=1 --set rank=1 --no-overlap"
    return ["--method", "seqlora", "--sequence", "three.yaml", *shlex.split(short)]


def test_a_run_prints_a_line_per_task_then_its_tables_a_verdict_and_what_to_do_next(
    call: Callable, words: list[str], tmp_path: Path
) -> None:
    code, shown, said = call("run", *words)
    assert (code, said) == (0, "")
    lines = shown.splitlines()
    tasks = [k for k, line in enumerate(lines) if re.match(r"task \d of 3, \w+: learned -?0", line)]
    assert [lines[k].split()[1] for k in tasks] == ["1", "2", "3"]
    titles = [k for k, line in enumerate(lines) if re.match(r"(DINO|CLIP-I|CLIP-T|summary) after task", line)]
    assert len(titles) == 4 and min(titles) > max(tasks) and all("task 3" in lines[k] for k in titles)
    (folder,) = tmp_path.glob("results/runs/three/miniature/seqlora/*/order0-seed0")
    record = read(folder)
    expected = outcome_lines.verdict(tables.read_scores(folder / "scores.csv"), record.sequence.concepts)
    assert lines[-2] == expected != ""
    program, verb, *rest = shlex.split(lines[-1].removeprefix("next: "))
    assert (program, verb) == ("cpbench", "report") and (tmp_path / rest[0]).samefile(folder)
    cli.commands[verb].make_context(verb, list(rest))
    code, page, said = call(verb, *rest)
    assert code == 0 and Path(page.strip()).is_file(), said

    code, again, _ = call("run", *words)
    assert code == 0 and "finished already" in again and "after task" not in again


@pytest.mark.slow
def test_verbose_prints_the_tables_after_every_task(call: Callable, words: list[str]) -> None:
    code, shown, said = call("run", *words, "-v")
    assert (code, said) == (0, "")
    assert re.findall(r"^DINO after task (\d)", shown, re.MULTILINE) == ["1", "2", "3"]
    assert shown.count("cost by task") == 1


# A sweep


def test_the_time_that_is_left_counts_runs_that_wait() -> None:
    half = {"stage": "", "share": 0.5, "left": 100.0}  # takes 200 seconds
    begun = {"stage": "", "share": 0.0, "left": None}
    assert sweep.time_left([], [half], 0) == 100
    assert sweep.time_left([], [half, half], 0) == 100
    assert sweep.time_left([], [half, half], 2) == pytest.approx((2 * 100 + 2 * 200) / 2)
    assert sweep.time_left([300.0], [half], 1) == pytest.approx(100 + 250)
    assert sweep.time_left([300.0], [begun], 0) == 300
    assert sweep.time_left([], [begun], 3) is None and sweep.time_left([], [], 2) is None
    assert sweep.time_left([], [half, {**half, "share": 0.1, "left": 900.0}], 0) == 900  # never before the last one


def test_a_sweep_says_how_much_is_left_in_all(tmp_path: Path) -> None:
    jobs, paths = [Job(f"job{k}", {}) for k in range(3)], SweepPaths(tmp_path)
    futures = {one.name: Future() for one in jobs}
    (tmp_path / "sweep").mkdir()
    assert sweep.overall(jobs, futures, paths) == "0 of 3 runs ended, time left not known yet"
    futures["job0"].set_result(Outcome(0, 600.0))
    paths.file(jobs[1], "progress").write_text(json.dumps({"stage": "x", "share": 0.5, "left": 300.0}))
    assert sweep.overall(jobs, futures, paths) == "1 of 3 runs ended, about 15.0 minutes left in all"
    for name in ("job1", "job2"):
        futures[name].set_result(Outcome(1, 1.0))
    assert sweep.overall(jobs, futures, paths) == "3 of 3 runs ended"


@pytest.mark.slow
def test_a_sweep_ends_with_its_table(call: Callable, words: list[str], tmp_path: Path) -> None:
    axes = ["--methods", "base", "--sequences", "three.yaml", "--seeds", "0,1", "--jobs", "1"]
    code, shown, said = call("sweep", *axes)
    assert (code, said) == (0, ""), shown
    finals = {}
    for file in tmp_path.glob("results/runs/**/run.json"):
        record = read(file.parent)
        finals[record.config.seed] = record.figures["dino"]["final_average"]
    lines = shown.splitlines()
    head = next(k for k, line in enumerate(lines) if re.match(r"run +state +DINO final", line))
    for seed, line in enumerate(lines[head + 1 : head + 3]):
        assert re.fullmatch(rf"three-miniature-base-order0-seed{seed} +finished in .* +{finals[seed]:.3f}", line), line
    assert lines[head + 3] == "2 of 2 runs finished"
    _, shown, _ = call("sweep", *axes[:-2], "--dry-run", "--json")  # a sequence by its relative path is found again
    assert [run["is_finished"] for run in json.loads(shown)] == [True, True]


# Runs that are there


def test_the_list_of_runs_has_what_each_came_to(call: Callable, tmp_path: Path) -> None:
    code, shown, said = call("list", "runs", "--output", REFERENCE / "quick3")
    assert (code, said) == (0, "")
    head, *lines = shown.splitlines()
    assert head.split() == [
        "method",
        "sequence",
        "backbone",
        "seed",
        "order",
        "status",
        "DINO",
        "final",
        "settings",
        "folder",
    ]
    listed = {line.split()[-1] for line in lines}
    assert listed == {str(file.parent) for file in (REFERENCE / "quick3").glob("**/run.json")}
    record = read(REFERENCE / "quick3" / "miniature" / "seqlora" / next(
        folder for folder in (REFERENCE / "quick3" / "miniature" / "seqlora").iterdir()
    ) / "order0-seed0")  # fmt: skip
    (line,) = (line for line in lines if line.startswith("seqlora "))
    final = f"{record.figures['dino']['final_average']:.3f}"
    assert line.split()[1:7] == ["quick3", "miniature", "0", "0", "finished", final]


def test_an_unfinished_run_is_listed_and_a_damaged_one_is_named(call: Callable, tmp_path: Path) -> None:
    source = next((REFERENCE / "quick3" / "miniature" / "base").glob("*/order0-seed0")) / "run.json"
    record = json.loads(source.read_text())
    for name, text in (("half", json.dumps(record | {"status": "failed"})), ("damaged", "{")):
        folder = tmp_path / "results" / "runs" / "quick3" / "miniature" / "base" / name / "order0-seed0"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(text)
    code, shown, said = call("list", "runs")
    assert (code, said) == (0, "")
    assert re.search(r"^base +quick3 +miniature +0 +0 +failed +- ", shown, re.MULTILINE)
    assert re.search(r"^left out .*damaged/order0-seed0: ", shown, re.MULTILINE)
    (run,) = json.loads(call("list", "runs", "--json")[1])
    assert run["status"] == "failed" and run["dino_final_average"] is None


@pytest.mark.parametrize(
    ("holder", "status"),
    [
        (None, "stopped"),
        ({"pid": os.getpid(), "host": socket.gethostname()}, "running"),
        ({"pid": 2**22 + 1, "host": socket.gethostname()}, "stopped"),  # more than Linux gives out
        ({"pid": "1", "host": socket.gethostname()}, "stopped"),
        ({"pid": 10**30, "host": socket.gethostname()}, "stopped"),
        ({"pid": 1, "host": "another-machine"}, "running"),
        (["nonsense"], "stopped"),
    ],
)
def test_a_run_whose_process_is_gone_is_not_running(tmp_path: Path, holder: object, status: str) -> None:
    source = next((REFERENCE / "quick3" / "miniature" / "base").glob("*/order0-seed0")) / "run.json"
    (tmp_path / "run.json").write_text(json.dumps(json.loads(source.read_text()) | {"status": "running"}))
    if holder is not None:
        RunFolder(tmp_path).holder.write_text(json.dumps(holder))
    (run,) = runs.runs_in(tmp_path)
    assert run["status"] == status


def test_no_runs_is_a_line_and_no_folder_an_error(call: Callable) -> None:
    code, shown, _ = call("list", "runs")
    assert code == 0 and "no runs in results/runs" in shown
    assert json.loads(call("list", "runs", "--json")[1]) == []
    code, _, line = call("list", "runs", "--output", "gone")
    assert code == 2 and "gone" in line
    code, _, line = call("list", "methods", "--output", "gone")
    assert code == 2 and "--output" in line
