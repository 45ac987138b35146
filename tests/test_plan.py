"""A plan's counts are what the run then does."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpbench.cli import options as options_module
from cpbench.config import resolve
from cpbench.files import read_json
from cpbench.fitted_table import unwrapped
from cpbench.records.record import Cost
from cpbench.records.tables import read_scores
from cpbench.running import counting, plan, runner, sweep
from cpbench.running.prepare import Run, prepare

THREE = """
name: three
version: 1
images: {drawn: true}
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: backpack, class_noun: backpack, kind: object}
  - {name: dog2, class_noun: dog, kind: live}
evaluation:
  live: ["a {} in the snow", "a {} on the beach"]
  object: ["a {} in the snow", "a {} on the beach"]
  compositions: ["a {} and a {} in the snow"]
"""
FAILING = """
from cpbench.baselines.base import Base


class Failing(Base):
    def learn(self, backbone, task, state):
        raise ValueError("out of luck")
"""
GIVEN = {
    "options": {"steps": 2, "batch_size": 2},
    "evaluation": {"num_inference_steps": 2, "pictures_per_prompt": 1},
}


@pytest.fixture(autouse=True, scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("three") / "three.yaml"
    file.write_text(THREE)
    GIVEN["sequence"] = str(file)


@pytest.mark.parametrize("method", ["seqlora", pytest.param("isolated", marks=pytest.mark.slow)])
def test_the_counts_are_those_of_the_run(method: str, tmp_path: Path) -> None:
    resolved = resolve(GIVEN | {"method": method, "output": tmp_path})
    foretold = plan.plan(prepare(*resolved))
    run = runner.execute(*resolved)
    costs = run.costs.values()
    assert foretold.tasks == 3
    assert foretold.learning_evaluations == sum(c.learning_evaluations for c in costs)
    drawn = sum(c.pictures_generated for c in costs)
    scores = read_scores(run.folder / "scores.csv")  # isolated has no way to draw its pair at the end
    undefined = scores[scores["value"].isna() & (scores["kind"] == "pair")][
        ["concept", "prompt", "index"]
    ].drop_duplicates()
    assert foretold.pictures == sum(c.pictures_generated + c.pictures_reused for c in costs) + len(undefined)
    assert (drawn < foretold.pictures) == (method == "isolated")
    if method == "seqlora":
        assert foretold.generation_evaluations == sum(c.generation_evaluations for c in costs)
        # two copies of every picture are on disk, the run's and the cache's
        pictures = [f for f in tmp_path.rglob("*.png") if f.parent != run.folder and f.name != "real.png"]
        assert len(pictures) == 2 * foretold.pictures
        assert 0.5 < sum(f.stat().st_size for f in pictures) / foretold.picture_bytes < 1.5
    states = sum(f.stat().st_size for f in run.folder.rglob("state.safetensors"))
    assert foretold.state_bytes == pytest.approx(states, rel=0.1)
    assert foretold.learning_seconds > 0 and foretold.generation_seconds > 0 and foretold.peak_memory_bytes > 10**8


def dry_run(grid: sweep.Grid, output: Path) -> tuple[list[str], str]:
    """The table of a dry run, and the line below it."""
    estimates = sweep.estimate_jobs(grid, output)
    return unwrapped(sweep.dry_run_table(estimates)), sweep.dry_run_total(estimates)


def test_a_plan_writes_nothing_and_says_all(tmp_path: Path) -> None:
    told = ["plan", "--method", "dcscore", "--sequence", "quick3", "--output", str(tmp_path)]
    done = CliRunner().invoke(options_module.cli, told, catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == [
        "tasks", "learning", "pictures", "disk", "memory", "time"
    ]  # fmt: skip
    assert "UNet evaluations" in done.output and not list(tmp_path.iterdir())


def test_repetitions_are_shortened_in_their_proportion() -> None:
    from cpbench.registry import load_method

    options = load_method("dcscore").Options()  # 1000 steps, 250 of DSC, 500 draws
    short = plan.shortened(options, 12)
    assert (short.steps, short.dsc_steps, short.fisher_samples) == (12, 3, 6)
    names = {"steps", "dsc_steps", "fisher_samples"}
    assert short.model_dump(exclude=names) == options.model_dump(exclude=names)
    assert plan.shortened(options, 10**6) == options
    assert plan.shortened(load_method("base").Options(), 3) == load_method("base").Options()


def test_what_is_fixed_is_told_apart_from_what_an_evaluation_takes() -> None:
    assert plan.line_of((6, 2.6), (24, 4.4)) == pytest.approx((2.0, 0.1))
    assert plan.line_of((6, 2.6), (24, 2.0)) == (2.6, 0.0)  # noise: never below zero
    assert plan.line_of((6, 2.6), (6, 2.7)) == (2.6, 0.0)


# Counting


def test_counts_are_kept_by_all_that_moves_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "cache"))
    given = GIVEN | {"method": "seqlora", "output": tmp_path}
    first = prepare(*resolve(given))
    calls: list[int] = []
    genuine = counting.count
    monkeypatch.setattr(counting, "count", lambda *words: calls.append(1) or genuine(*words))
    assert first.counts == [4, 4, 4] and calls == [1]
    assert prepare(*resolve(given | {"seed": 3})).counts == [4, 4, 4] and calls == [1]
    longer = given | {"options": {"steps": 5, "batch_size": 2}}
    assert prepare(*resolve(longer)).counts == [10, 10, 10] and calls == [1, 1]


def test_a_dry_run_says_what_is_not_counted_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "cache"))
    common = {"options": GIVEN["options"], "evaluation": GIVEN["evaluation"]}
    grid = sweep.Grid(methods=("seqlora",), sequences=(GIVEN["sequence"],), common=common)
    (_, first), last = dry_run(grid, tmp_path / "out")
    assert "not counted yet" in first and "(of 1 not counted yet; `cpbench plan` counts)" in last
    assert prepare(*resolve(GIVEN | {"method": "seqlora", "output": tmp_path})).counts == [4, 4, 4]
    (head, first), last = dry_run(grid, tmp_path / "out")
    assert (
        "to learn" in head
        and " 12 evaluations" in first
        and "12 UNet evaluations to learn" in last
        and "not counted" not in last
    )


def test_a_run_that_takes_another_number_says_so() -> None:
    costs = {0: Cost(), 1: Cost(learning_evaluations=101), 2: Cost(learning_evaluations=100)}
    assert counting.difference([100, 100], costs) == "" and counting.difference(None, costs) == ""
    assert "learning took 201 evaluations, but 150 were counted" in counting.difference([100, 50], costs)


def test_a_method_that_cannot_be_counted_runs_and_tells_why_when_it_comes_to_it(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAILING)
    run = prepare(*resolve(GIVEN | {"method": str(tmp_path / "mine.py"), "output": tmp_path, "options": {}}))
    assert run.counts is None and run.learning_work(1) == 0
    with pytest.raises(ValueError, match="out of luck"):
        runner.execute(*resolve(GIVEN | {"method": str(tmp_path / "mine.py"), "output": tmp_path, "options": {}}))


# States that are not kept


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, three: None) -> tuple[dict, Run]:
    given = GIVEN | {"method": "seqlora", "output": tmp_path_factory.mktemp("ran"), "keep_states": "last"}
    return given, runner.execute(*resolve(given))


def test_states_that_are_not_kept_are_gone_and_the_run_is_finished(ran: tuple[dict, Run], capsys) -> None:
    given, run = ran
    left = sorted(f.parent.name for f in run.folder.rglob("state.safetensors"))
    assert left == ["task-03"] and read_json(run.folder / "run.json")["status"] == "finished"
    runner.execute(*resolve(given))
    assert capsys.readouterr().out.startswith("finished already")


def test_a_run_with_dropped_states_goes_on(ran: tuple[dict, Run], tmp_path: Path) -> None:
    given = ran[0] | {"output": Path(shutil.copytree(ran[0]["output"], tmp_path / "copy"))}
    (folder,) = (f.parent for f in given["output"].glob("**/run.json"))
    whole = (folder / "scores.csv").read_bytes()
    for name in ("scores.csv", "cost.json"):
        (folder / "task-03" / name).unlink()
    again = runner.execute(*resolve(given))
    assert again.folder == folder and (folder / "scores.csv").read_bytes() == whole
    # nothing makes up for a state that is gone: everything from there on is learned again, and comes out the same
    (folder / "task-03" / "state.safetensors").unlink()
    (folder / "task-03" / "state.json").unlink()
    runner.execute(*resolve(given))
    assert (folder / "scores.csv").read_bytes() == whole


def test_whole_weights_are_kept_for_the_last_task_alone(tmp_path: Path) -> None:
    given = GIVEN | {"method": "raretoken", "output": tmp_path, "options": {"steps": 1, "token_steps": 1}}
    run = runner.execute(*resolve(given))
    assert [f.parent.name for f in run.folder.rglob("state.safetensors")] == ["task-03"]
