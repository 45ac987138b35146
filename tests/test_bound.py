"""What a run calls finished is its own and whole: states of another seed, removed or swapped pictures, damaged curves."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cpbench import config
from cpbench.config import resolve
from cpbench.errors import DamagedState, UserError
from cpbench.method import State
from cpbench.records import machine
from cpbench.records.folder import RunFolder
from cpbench.records.measures_table import recorded_pictures
from cpbench.records.pictures import png_bytes
from cpbench.running import bookkeeping, runner
from cpbench.running.cells import cells_of_row, pictures_of

LORA: dict[str, Any] = {"rank": 2, "steps": 3, "batch_size": 1, "learning_rate": 3e-2}


def given(short: Path, output: Path, seed: int = 0) -> dict[str, Any]:
    return {
        "method": "seqlora",
        "sequence": str(short),
        "output": output,
        "seed": seed,
        "options": LORA,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def two_seeds(short: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bound")
    for seed in (0, 1):
        runner.execute(*resolve(given(short, output, seed)))
    return output


@pytest.fixture
def both(two_seeds: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """(output, seed 0's folder, seed 1's) of a copy that may be harmed."""
    output = Path(shutil.copytree(two_seeds, tmp_path / "out"))
    (zero,) = (f.parent for f in output.glob("**/order0-seed0/run.json"))
    return output, zero, zero.with_name("order0-seed1")


def tables(folder: Path) -> dict[str, bytes]:
    return {
        str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.glob("**/*.csv")) if ".damaged" not in f.name
    }


def again(short: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    runner.execute(*resolve(given(short, output)))
    return capsys.readouterr().out


def test_another_seeds_state_is_set_aside_and_learned_again(both, short: Path, capsys) -> None:
    output, zero, one = both
    whole = tables(zero)
    for name in ("state.json", "state.safetensors"):
        shutil.copy(one / "task-02" / name, zero / "task-02" / name)
    said = again(short, output, capsys)
    assert "belongs to something else: its seed is 1, not 0" in " ".join(said.split())
    assert tables(zero) == whole and (zero / "task-02" / "state.json.damaged-1").is_file()
    assert State.load(zero / "task-02").facts == State.load(one / "task-02").facts
    assert json.loads((zero / "task-02" / "state.json").read_text())["bound"]["seed"] == 0


def test_a_state_after_another_one_is_not_believed(both, short: Path, capsys) -> None:
    output, zero, _ = both
    record = json.loads((zero / "task-02" / "state.json").read_text())
    first = json.loads((zero / "task-01" / "state.json").read_text())
    assert record["bound"]["before"] == first["checksum"] and first["bound"]["before"] is None
    for name in ("state.json", "state.safetensors"):
        shutil.copy(zero / "task-02" / name, zero / "task-01" / name)
    assert "its task is 2, not 1" in " ".join(again(short, output, capsys).split())


def test_a_method_does_not_see_what_its_state_is_bound_to(both) -> None:
    _, zero, _ = both
    assert "bound" not in State.load(zero / "task-01").facts


def test_numbers_that_are_none_are_damage_on_load_too(tmp_path: Path) -> None:
    State({"adapter/a": torch.tensor([1.0, float("nan")])}, {}).save(tmp_path)
    with pytest.raises(DamagedState, match="no numbers"):
        State.load(tmp_path)


@pytest.mark.parametrize("harm", ["removed", "swapped", "saved over"])
def test_a_row_without_its_pictures_is_made_again(both, short: Path, capsys, harm: str) -> None:
    output, zero, _ = both
    whole = tables(zero)
    a, b = (zero / "task-02" / "pictures" / "dog" / f"00-{k}.png" for k in (0, 1))
    before = a.read_bytes()
    if harm == "removed":
        a.unlink()
    elif harm == "swapped":
        b.replace(zero / "x"), a.replace(b), (zero / "x").replace(a)
    else:
        a.chmod(0o644)
        a.write_bytes(png_bytes(255 - np.asarray(Image.open(a))))
    assert "finished already" not in again(short, output, capsys)
    assert a.read_bytes() == before and tables(zero) == whole
    assert "finished already" in again(short, output, capsys)


def test_saving_a_picture_over_changes_no_other_method(both, short: Path, capsys) -> None:
    output, zero, one = both
    name = "task-00/pictures/dog/00-0.png"
    whole = {f: f.read_bytes() for f in output.glob(".cache/pictures/*/*.png")}
    (zero / name).chmod(0o644)
    (zero / name).write_bytes(b"saved over")
    assert {f: f.read_bytes() for f in whole} == whole and (zero / name).stat().st_nlink == 1


def test_a_swapped_picture_is_not_measured_and_not_shown(both, short: Path) -> None:
    from cpbench.concepts import sequences
    from cpbench.report import data

    _, zero, _ = both
    picture = zero / "task-02" / "pictures" / "dog" / "00-0.png"
    picture.chmod(0o644)
    picture.write_bytes(png_bytes(np.full((64, 64, 3), 7, np.uint8)))
    cell = next(c for c in cells_of_row(sequences.load(str(short)), 2, 2) if c.name == "dog")
    with pytest.raises(UserError, match="is not the picture that was generated there"):
        pictures_of(RunFolder(zero).task(2), cell)
    shown = data.read_run(zero)
    assert shown.picture(2, "dog", 0) is None and shown.picture(2, "dog", 0, 1) is not None
    assert any("1 pictures have changed since they were scored" in note for note in shown.notes)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"phase,step\ntrain,x\n", b'a,"b\n1', b"step,loss\n1,2,3\n"])
def test_a_damaged_curve_keeps_no_run_from_its_end(both, short: Path, capsys, content: bytes) -> None:
    output, zero, _ = both
    (zero / "task-01" / "curve.csv").write_bytes(content)
    (zero / "curves.png").unlink()
    again(short, output, capsys)
    assert json.loads((zero / "run.json").read_text())["status"] == "finished"


def test_a_picture_that_cannot_be_made_keeps_no_run_from_its_end(both, short: Path, capsys, monkeypatch) -> None:
    output, zero, _ = both
    (zero / "grid.png").unlink()

    def broken(*args: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(runner, "retention_grid", broken)
    assert "grid.png could not be made: RuntimeError: no font" in again(short, output, capsys)
    assert json.loads((zero / "run.json").read_text())["status"] == "finished"


def test_tasks_made_under_other_conditions_are_said(both, short: Path, capsys, monkeypatch) -> None:
    output, zero, _ = both
    for name in ("state.json", "state.safetensors"):
        (zero / "task-02" / name).unlink()
    facts = machine.facts("cpu") | {"threads": 7}
    monkeypatch.setattr(machine, "facts", lambda device: facts)
    said = " ".join(again(short, output, capsys).split())
    made_on = json.loads((zero / "run.json").read_text())["made_on"]
    assert {tuple(it["learning"]): it["threads"] for it in made_on} == {(1,): 1, (2,): 7}
    assert "tasks were computed under different conditions" in said and "tasks 2" in said


# Cleaning


def test_clean_removes_what_no_run_names_and_nothing_else(both, call: Callable) -> None:
    output, zero, one = both
    cache = output / ".cache" / "pictures"
    kept = {f for f in cache.glob("*/*.png")}
    stray = cache / "ab" / f"{'a' * 64}-{'b' * 64}.png"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x" * 1000)
    left = zero / ".scores.csv.abc.tmp"
    left.write_bytes(b"half")
    code, said, _ = call("clean", "--output", output, "--dry-run")
    assert (
        code == 0 and stray.exists() and left.exists() and "1 cached picture (0.0 MB) used by no run: would be" in said
    )
    code, said, _ = call("clean", "--output", output)
    assert code == 0 and not stray.exists() and not left.exists()
    assert set(cache.glob("*/*.png")) == kept
    shutil.rmtree(one)
    call("clean", "--output", output)
    named = set(recorded_pictures(zero / "task-00").values()) | {
        d for t in (1, 2) for d in recorded_pictures(zero / f"task-{t:02d}").values()
    }
    assert {f.stem.partition("-")[2] for f in cache.glob("*/*.png")} <= named and any(cache.glob("*/*.png"))


def test_clean_leaves_a_folder_at_work_alone(both, call: Callable) -> None:
    output, zero, _ = both
    with bookkeeping.run_lock(zero):
        code, _, said = call("clean", "--output", output)
    assert code == 2 and "is still running" in said and str(zero) in said
    assert call("clean", "--output", output / "none")[0] == 2


# Photographs on the miniature


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    for name in ("rex", "mug"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(3):
            Image.effect_noise((80, 80), 20 + 60 * k).convert("RGB").save(tmp_path / "photos" / name / f"{k}.png")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nversion: 1\nimages: {folder: 'photos/{name}'}\nconcepts:\n"
        "  - {name: rex, class_noun: dog, kind: live}\n  - {name: mug, class_noun: can, kind: object}\n"
        "evaluation: {live: ['a {} in the snow'], object: ['a {} in the snow'], pictures_per_prompt: 1,\n"
        "  num_inference_steps: 1, photographs: {num_inference_steps: 1, pictures_per_prompt: 1}}\n"
    )
    return tmp_path / "mine.yaml"


def test_a_forgotten_backbone_is_not_the_miniature_for_photographs(mine: Path, call: Callable) -> None:
    for words in (("run",), ("plan",)):
        code, _, said = call(*words, "--method", "base", "--sequence", mine, "--output", mine.parent / "out")
        assert code == 2 and "--backbone miniature if you mean it" in said and len(said.splitlines()) == 1
    code, _, said = call("sweep", "--methods", "base", "--sequences", mine, "--dry-run")
    assert code == 2 and "photographs on the miniature" in said
    assert call("sweep", "--methods", "base", "--sequences", mine, "--backbones", "miniature", "--dry-run")[0] == 0


def test_photographs_on_the_miniature_are_marked_everywhere(mine: Path, call: Callable) -> None:
    output = mine.parent / "results"
    words = ("run", "--method", "base", "--sequence", mine, "--backbone", "miniature", "--output", output)
    code, said, _ = call(*words)
    assert code == 0 and config.ON_THE_MINIATURE.split(",")[0] in " ".join(said.split())
    (record,) = output.glob("**/run.json")
    assert json.loads(record.read_text())["pictures"] == "photographs"
    assert call("leaderboard", output)[0] == 0
    assert config.ON_THE_MINIATURE in (output / "leaderboard.md").read_text()
    assert config.ON_THE_MINIATURE in (output / "leaderboard.html").read_text()
    assert call("report", record.parent)[0] == 0
    assert "on the miniature" in (record.parent / "report.html").read_text()
