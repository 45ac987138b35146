"""The wheel carries the tasks, the presets and the miniature, and works outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
LIGHT = ("click", "pydantic", "PyYAML", "rich")  # all that `list` and `describe` import
PACKAGES = {
    "cpbench": "cpbench",
    "baselines": "cpbench/baselines",
    "tasks": "cpbench/tasks",
}  # folder: in the wheel
SHIPPED = {".py", ".yaml", ".md", ".j2"}


def command(*words: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what is, or could be, committed: building in the checkout would leave litter."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    copy = tmp_path_factory.mktemp("sources")
    listed = command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, sources, cwd=folder)
    (built,) = folder.glob("cpbench-*.whl")
    return built


@pytest.fixture(scope="module")
def members(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def cpbench(wheel, tmp_path_factory) -> Path:
    """The script of a fresh virtual environment with the wheel and the CLI's light dependencies."""
    venv = tmp_path_factory.mktemp("venv")
    command(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv)
    scripts = venv / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet")
    command(*pip, "--no-deps", wheel, cwd=venv)
    command(*pip, "-c", ROOT / "constraints.txt", *LIGHT, cwd=venv)
    return scripts / "cpbench"


def test_every_module_and_data_file_is_in_the_wheel(sources, members):
    expected = set()
    for folder, package in PACKAGES.items():
        for file in (sources / folder).rglob("*"):
            inside = file.relative_to(sources / folder)
            if file.is_file() and (file.suffix in SHIPPED or "weights" in inside.parts):
                expected.add(str(PurePosixPath(package, *inside.parts)))
    assert sorted(expected - members) == []


def test_wheel_holds_nothing_but_the_package(members):
    assert {name.split("/")[0] for name in members} == {"cpbench", "cpbench-0.2.0.dist-info"}


def test_tasks_and_presets_are_in_the_wheel(members):
    paths = [PurePosixPath(name) for name in members]
    assert "cpbench/tasks/dreambench10.yaml" in members
    assert any(path.match("cpbench/baselines/presets/*.yaml") for path in paths)


def test_miniature_and_its_judges_are_in_the_wheel(members):
    weights = [name for name in members if name.startswith("cpbench/miniature/weights/")]
    assert "cpbench/miniature/weights/model_index.json" in weights
    tensors = {name.removeprefix("cpbench/miniature/weights/") for name in weights if name.endswith(".safetensors")}
    parts = {PurePosixPath(name).parts[0] for name in tensors}
    assert parts == {"unet", "vae", "text_encoder", "judges", "transformer"}
    assert {"judges/clip/open_clip_model.safetensors", "judges/dino/model.safetensors"} <= tensors
    assert "cpbench/miniature/weights/README.md" in weights


@pytest.mark.parametrize("verb, shown", [("list methods", "seqlora"), ("describe dreambench10", "backpack")])
@pytest.mark.parametrize("where", ["empty folder", "repository root"])
def test_installed_cli_works_anywhere(cpbench, tmp_path, verb, shown, where):
    cwd = tmp_path if where == "empty folder" else ROOT
    assert shown in command(cpbench, *verb.split(), cwd=cwd)
