"""A run that is killed, anywhere and as often as one likes, comes to what it would have come to; nothing is half there."""

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import undisturbed
import yaml
from test_methods_on_transformers import FEW

from cpbench.registry import built_in_methods, load_method

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """A run that nothing happened to: its files, how many renames it took, and the seconds."""
    folder = tmp_path_factory.mktemp("whole")
    times = []
    for name in ("first", "second"):  # the first also starts the server that the others are forked from
        began = time.monotonic()
        process = undisturbed.server().Process(
            target=undisturbed.go, args=(undisturbed.given(folder, folder / name), folder / "log")
        )
        process.start()
        process.join()
        times.append(time.monotonic() - began)
        assert process.exitcode == 0, (folder / "log").read_text()
    contents = undisturbed.contents(folder / "first")
    assert len(contents) > 20 and contents == undisturbed.contents(folder / "second")
    renames = int((folder / "renames").read_text())
    return {"contents": contents, "seconds": times[1], "renames": renames, "output": folder / "first"}


def start(folder: Path, die_at: int | None = None, die_on: str = "", **more: object):
    words = undisturbed.given(folder, folder / "output", **more)
    process = undisturbed.server().Process(target=undisturbed.go, args=(words, folder / "log", die_at, die_on))
    process.start()
    return process


def finish(folder: Path, **more: object) -> dict[str, bytes]:
    process = start(folder, **more)
    process.join()
    assert process.exitcode == 0, (folder / "log").read_text()
    assert not list((folder / "output").rglob("order0-seed0/**/.*.tmp"))  # what was half written is gone
    return undisturbed.contents(folder / "output")


def killed(folder: Path, whole: dict, times: int, seed: int) -> int:
    """Kill runs, half of them at a moment, half at a rename, until `times` have died; compare each that is finished."""
    chance, died, finished = random.Random(seed), 0, 0
    while died < times:
        here = folder / str(finished)
        here.mkdir(exist_ok=True)
        by_rename = chance.random() < 0.5
        process = start(here, chance.randint(1, whole["renames"]) if by_rename else None)
        if not by_rename:
            process.join(chance.uniform(0, whole["seconds"] * 1.2))
            process.kill()
        process.join()
        if process.exitcode == 0:
            assert undisturbed.contents(here / "output") == whole["contents"]
            finished += 1
        else:
            assert process.exitcode == -9, (here / "log").read_text()
            died += 1
    assert finish(folder / str(finished)) == whole["contents"]
    return died


def test_killed_once(whole: dict, tmp_path: Path) -> None:
    assert killed(tmp_path, whole, 1, seed=0) == 1


@pytest.mark.slow
def test_killed_fifty_times(whole: dict, tmp_path: Path) -> None:
    assert killed(tmp_path, whole, 50, seed=1) == 50


@pytest.mark.slow
def test_killed_at_every_rename(whole: dict, tmp_path: Path) -> None:
    for n in range(1, whole["renames"] + 1):
        (tmp_path / str(n)).mkdir()
        process = start(tmp_path / str(n), n)
        process.join()
        assert process.exitcode == -9
        assert finish(tmp_path / str(n)) == whole["contents"], n


@pytest.mark.slow
@pytest.mark.parametrize("method", built_in_methods())
def test_each_method_comes_to_the_same_after_a_kill(tmp_path: Path, method: str) -> None:
    """Killed when its first task is learned. On transformers: tests/test_runs_on_transformers.py."""
    options = {k: v for k, v in FEW.items() if k in load_method(method).Options.model_fields}
    contents = {}
    for name in ("whole", "killed"):
        here = tmp_path / name
        here.mkdir()
        if name == "killed":
            process = start(here, die_on="state.json", method=method, options=options)
            process.join()
            assert process.exitcode == -9, (here / "log").read_text()
        contents[name] = finish(here, method=method, options=options)
    assert len(contents["whole"]) > 10 and contents["whole"] == contents["killed"]


@pytest.mark.slow
def test_each_task_in_a_process_of_its_own_gives_the_same_states(whole: dict, tmp_path: Path) -> None:
    """state.json is the last that a task's learning writes: each process learns one task, and dies."""
    for t in (1, 2, 3):
        process = start(tmp_path, die_on="state.json")
        process.join()
        assert process.exitcode == -9
        (folder,) = (f.parent for f in tmp_path.glob("output/**/run.json"))
        assert [(folder / f"task-0{k}" / "state.json").exists() for k in (1, 2, 3)] == [k <= t for k in (1, 2, 3)]
    assert finish(tmp_path) == whole["contents"]


DAMAGED = (
    "run.json",
    "scores.csv",
    "matrix-*.csv",
    "measures.csv",
    "identification.csv",
    "embeddings/*",
    "grid.png",
    "task-*/scores.csv",
    "task-*/row.json",
    "task-*/state.*",
)


def truncated(whole: dict, tmp_path: Path, names: tuple[str, ...]) -> Path:
    """A finished run's folder, in which these files lost their second half; and then the run was started again."""
    shutil.copytree(whole["output"], tmp_path / "output")
    (folder,) = (f.parent for f in tmp_path.glob("output/**/run.json"))
    for name in names:
        for file in folder.glob(name):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert finish(tmp_path) == whole["contents"]
    return folder


@pytest.mark.parametrize("names", [DAMAGED[:-1], DAMAGED[-1:]], ids=["all but states", "states"])
def test_truncated_files_are_made_again(whole: dict, tmp_path: Path, names: tuple[str, ...]) -> None:
    """What a loss of power may leave, here of a run that says it is finished."""
    folder = truncated(whole, tmp_path, names)
    assert len(list(folder.glob("task-*/state.json.damaged-1"))) == (3 if names == DAMAGED[-1:] else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED[:-1])
def test_a_truncated_file_is_made_again(whole: dict, tmp_path: Path, name: str) -> None:
    truncated(whole, tmp_path, (name,))


def test_a_truncated_picture_is_drawn_again(whole: dict, tmp_path: Path) -> None:
    """One that was kept to be used again, when it is asked for: its row is to be made anew."""
    shutil.copytree(whole["output"], tmp_path / "output")
    for file in tmp_path.glob("output/.cache/pictures/*/*.png"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for file in tmp_path.glob("output/**/row.json"):
        file.unlink()
    assert finish(tmp_path) == whole["contents"]


def test_poisoned_global_generators_change_nothing(whole: dict, tmp_path: Path) -> None:
    """Other seeds of Python's, numpy's and torch's, and draws from them between any two files that are written."""
    words = undisturbed.given(tmp_path, tmp_path / "output")
    process = undisturbed.server().Process(target=undisturbed.go_poisoned, args=(words, tmp_path / "log"))
    process.start()
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert undisturbed.contents(tmp_path / "output") == whole["contents"]


@pytest.mark.slow
def test_rows_made_by_a_second_process_are_the_same(whole: dict, tmp_path: Path) -> None:
    words = undisturbed.given(tmp_path, str(tmp_path / "output"), overlap=True)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(words))
    command = [sys.executable, "-m", "cpbench", "run", "--config", str(tmp_path / "given.yaml")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert undisturbed.contents(tmp_path / "output") == whole["contents"]


def test_a_full_disk_is_one_line_and_nothing_is_lost(whole: dict, tmp_path: Path) -> None:
    """By a limit on the size of files, which state.safetensors is the first to meet; then the limit is gone."""
    size = max(len(data) for name, data in whole["contents"].items() if "state.safetensors" in name)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(undisturbed.given(tmp_path, str(tmp_path / "output"))))
    command = [sys.executable, "-m", "cpbench", "run", "--config", str(tmp_path / "given.yaml")]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
    )
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith("cpbench: ") and "state.safetensors: File too large" in line
    assert "run the same command again" in line
    assert finish(tmp_path) == whole["contents"]


def test_an_output_folder_that_vanishes_is_told_and_the_run_goes_on_when_it_is_back(
    whole: dict, tmp_path: Path
) -> None:
    words = undisturbed.given(tmp_path, tmp_path / "output")
    process = undisturbed.server().Process(
        target=undisturbed.go_while_the_folder_vanishes, args=(words, tmp_path / "log")
    )
    process.start()
    process.join()
    assert process.exitcode == 1 and "No such file or directory: " in (tmp_path / "log").read_text()
    shutil.rmtree(tmp_path / "output", ignore_errors=True)  # what was written where the mount had been
    (tmp_path / "gone").rename(tmp_path / "output")
    assert finish(tmp_path) == whole["contents"]
