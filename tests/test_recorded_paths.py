"""A run is used from any folder: its record names local files and folders by absolute paths, and its hash does not."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cpbench
from cpbench.concepts import images
from cpbench.finished.export import export
from cpbench.finished.export_readme import _python
from cpbench.finished.load import open_run
from cpbench.records import recorded_paths
from cpbench.records.reading import read

METHOD = """
from cpbench.baselines.seqlora import SequentialLora


class Mine(SequentialLora):
    pass
"""
SEQUENCE = """
name: mine
version: 1
images: {folder: "photos/{name}", drawn: false}
concepts:
  - {name: dog, class_noun: dog, kind: live}
evaluation: {live: ["a {} in the snow"], photographs: {pictures_per_prompt: 1, num_inference_steps: 9}}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A folder in which a run was started with relative paths only; everything it needs is there."""
    folder = tmp_path_factory.mktemp("somewhere") / "project"
    (folder / "photos" / "dog").mkdir(parents=True)
    for k, picture in enumerate(images.rendered("dog")):
        Image.fromarray(picture).save(folder / "photos" / "dog" / f"{k}.png")
    shutil.copytree(tiny_folder, folder / "tiny" / "pipeline")
    shutil.copytree(tiny_folder / "vae", folder / "vae")
    from cpbench.backbones.backbone import MINIATURE

    shutil.copytree(MINIATURE / "judges", folder / "judges")
    (folder / "mine.py").write_text(METHOD)
    (folder / "mine.yaml").write_text(SEQUENCE)
    before = os.getcwd()
    os.chdir(folder)
    try:
        done = cpbench.run(
            method="mine.py",
            sequence="mine.yaml",
            backbone="tiny/pipeline",
            vae="vae",
            clip="judges/clip",
            dino="judges/dino",
            output=Path("runs"),
            options={"steps": 2, "batch_size": 1, "rank": 2},
            evaluation={"num_inference_steps": 2, "guidance_scale": 3.0},
        )
    finally:
        os.chdir(before)
    return folder / done["folder"]


def root(run: Path) -> Path:
    return run.parents[5]


def test_paths_are_recorded_absolute_and_are_not_part_of_the_hash(project: Path) -> None:
    record = read(project)
    config = record.config.as_json()
    assert config["method"] == str(root(project) / "mine.py") and config["sequence"] == str(root(project) / "mine.yaml")
    assert config["backbone"] == str(root(project) / "tiny" / "pipeline")
    assert config["loading"]["vae"] == str(root(project) / "vae") and config["clip"] == str(
        root(project) / "judges/clip"
    )
    assert str(root(project)) not in json.dumps(record.facts.as_json())


@pytest.mark.parametrize("verb", ["sample", "classify", "score", "export"])
def test_a_run_is_used_from_another_folder(project: Path, call, tmp_path: Path, verb: str) -> None:
    arguments = {
        "sample": ("--prompt", "a {dog}", "-n", 1, "--trust-remote-code"),
        "classify": ("--draws", 1, "--rows", "0", "--trust-remote-code"),
        "score": ("--device", "cpu"),
        "export": (tmp_path / "exported", "--trust-remote-code"),
    }[verb]
    code, out, err = call(verb, project, *arguments)
    assert (code, err) == (0, ""), err
    assert out


def test_a_project_that_was_moved_is_found_again(project: Path, call, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(root(project), tmp_path / "moved"))
    run = moved / project.relative_to(root(project))
    away = root(project).rename(root(project).with_name("away"))
    try:
        assert recorded_paths.existing_paths(read(run), run)["backbone"] == str(moved / "tiny" / "pipeline")
        code, _, err = call("sample", run, "--prompt", "a {dog}", "-n", 1, "--trust-remote-code")
        assert (code, err) == (0, "")
    finally:
        away.rename(root(project))


@pytest.mark.parametrize(
    ("gone", "verb", "noun"),
    [
        ("tiny", "sample", "its backbone's folder"),
        ("vae", "sample", "its autoencoder's folder"),
        ("mine.py", "sample", "its method's file"),
        ("mine.yaml", "score", "its sequence's file"),
        ("judges", "score", "its CLIP judge"),
    ],
)
def test_what_is_gone_is_one_line(project: Path, call, gone: str, verb: str, noun: str) -> None:
    away = (root(project) / gone).rename(root(project) / "away")
    try:
        more = ("--prompt", "a {dog}", "--trust-remote-code") if verb == "sample" else ()
        code, _, err = call(verb, project, *more)
    finally:
        away.rename(root(project) / gone)
    assert code == 2 and len(err.splitlines()) == 1 and noun in err
    assert str(root(project) / gone) in err and "is not there any more" in err and "run.json" in err


def test_a_record_with_relative_paths_is_used_from_its_folder_and_elsewhere_says_why_not(
    project: Path, call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As cpbench 0.1 wrote them: "tiny/pipeline" looks like an id of the hub, and must not be looked for there."""
    older = Path(shutil.copytree(root(project), tmp_path / "older"))
    run = older / project.relative_to(root(project))
    record = json.loads((run / "run.json").read_text())
    del record["folder"]
    record["config"] |= {"method": "mine.py", "sequence": "mine.yaml", "backbone": "tiny/pipeline"}
    record["config"]["loading"]["vae"] = "./vae"
    (run / "run.json").write_text(json.dumps(record))
    asked = ("sample", run, "--prompt", "a {dog}", "-n", 1, "--trust-remote-code", "--output", tmp_path / "pictures")
    code, _, err = call(*asked)
    assert code == 2 and len(err.splitlines()) == 1
    assert "its method's file, mine.py, is not in" in err and "start from that folder" in err
    record["config"]["method"] = str(older / "mine.py")
    (run / "run.json").write_text(json.dumps(record))
    code, _, err = call(*asked)
    assert code == 2 and "its backbone's folder, tiny/pipeline, is not in" in err and "hub" not in err
    monkeypatch.chdir(older)
    assert call(*asked)[0] == 0


def test_names_and_ids_of_the_hub_stay_names(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from cpbench.config import RunConfig

    config = RunConfig(
        method="seqlora", sequence="quick3", backbone="owner/name", clip="clip-vit-b-32", data="hub"
    ).model_dump(mode="json")
    assert recorded_paths.absolute_paths(config) == {}


def test_the_reports_command_repeats_the_run_from_another_folder(project: Path, call) -> None:
    from cpbench.report import data

    words = shlex.split(data.command(data.read_run(project)))
    assert words[:2] == ["cpbench", "run"]
    code, out, err = call(*words[1:], "--output", root(project) / "runs")
    assert (code, err) == (0, "")
    assert "finished already" in out  # the same hash


# The README of an export


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


@pytest.mark.slow
def test_the_readmes_code_runs_in_a_clean_process_in_another_folder(project: Path, tmp_path: Path) -> None:
    run = open_run(project, device="cpu", trust_remote_code=True)
    export(run, tmp_path / "exported `here` \N{DOG FACE}")
    code = code_of(tmp_path / "exported `here` \N{DOG FACE}")
    assert "num_inference_steps=2, guidance_scale=3.0" in code and "vae=AutoencoderKL.from_pretrained" in code
    (tmp_path / "elsewhere").mkdir()
    clean = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "OMP_NUM_THREADS")} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "elsewhere",
        env=clean | {"PYTHONPATH": str(Path(cpbench.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "elsewhere" / "picture.png").size == (32, 32)


@pytest.mark.parametrize("words", ['a"b', "a\\b", "a`b", "dog \N{DOG FACE}", "line\nbreak", "\udc80", "caf\xe9", "犬"])
def test_words_in_the_readmes_code_are_those_of_the_run(words: str) -> None:
    assert eval(_python(words)) == words and "`" not in _python(words) and _python(words).isascii()
