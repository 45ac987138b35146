"""A plan's counts are what the run then does."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpbench.cli import options as options_module
from cpbench.config import resolve
from cpbench.files import read_json
from cpbench.records.tables import read_scores
from cpbench.running import plan, runner
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
GIVEN = {
    "options": {"steps": 2, "batch_size": 2},
    "evaluation": {"num_inference_steps": 2, "pictures_per_prompt": 1},
}


@pytest.fixture(autouse=True, scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("three") / "three.yaml"
    file.write_text(THREE)
    GIVEN["sequence"] = str(file)


@pytest.mark.parametrize("method", ["seqlora", "isolated"])
def test_the_counts_are_those_of_the_run(method: str, tmp_path: Path) -> None:
    resolved = resolve(GIVEN | {"method": method, "output": tmp_path})
    foretold = plan.plan(prepare(*resolved))
    run = runner.execute(*resolved)
    costs = run.costs.values()
    assert foretold.tasks == 3
    assert foretold.learning_evaluations == sum(c.get("learning_unet_evaluations", 0) for c in costs)
    drawn = sum(c["pictures_drawn"] for c in costs)
    scores = read_scores(run.folder / "scores.csv")  # isolated has no way to draw its pair at the end
    undefined = scores[scores["value"].isna() & (scores["kind"] == "pair")][
        ["concept", "prompt", "index"]
    ].drop_duplicates()
    assert foretold.pictures == sum(c["pictures_drawn"] + c["pictures_reused"] for c in costs) + len(undefined)
    assert (drawn < foretold.pictures) == (method == "isolated")
    if method == "seqlora":
        assert foretold.drawing_evaluations == sum(c["drawing_unet_evaluations"] for c in costs)
        # two copies of every picture are on disk, the run's and the cache's
        pictures = [f for f in tmp_path.rglob("*.png") if f.parent != run.folder and f.name != "real.png"]
        assert len(pictures) == 2 * foretold.pictures
        assert 0.5 < sum(f.stat().st_size for f in pictures) / foretold.picture_bytes < 1.5
    states = sum(f.stat().st_size for f in run.folder.rglob("state.safetensors"))
    assert foretold.state_bytes == pytest.approx(states, rel=0.1)
    assert foretold.learning_seconds > 0 and foretold.drawing_seconds > 0 and foretold.peak_memory_bytes > 10**8


def test_a_plan_writes_nothing_and_says_all(tmp_path: Path) -> None:
    told = ["plan", "--method", "dcscore", "--sequence", "quick3", "--output", str(tmp_path)]
    done = CliRunner().invoke(options_module.cli, told, catch_exceptions=False)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == [
        "tasks", "learning", "drawing", "disk", "memory", "time"
    ]  # fmt: skip
    assert "UNet evaluations" in done.output and not list(tmp_path.iterdir())


def test_every_repetition_is_rehearsed_once() -> None:
    from cpbench.registry import load_method

    options = load_method("dcscore").Options()
    short = plan.once(options)
    assert (short.steps, short.dsc_steps, short.fisher_draws) == (1, 1, 1)
    assert short.model_dump(exclude={"steps", "dsc_steps", "fisher_draws"}) == options.model_dump(
        exclude={"steps", "dsc_steps", "fisher_draws"}
    )


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
