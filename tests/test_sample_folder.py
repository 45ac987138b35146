"""`cpbench sample` never writes over a picture of another request, and sample.json says how each picture was made."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from cpbench.errors import UserError
from cpbench.finished.sample_folder import entries_of, write
from cpbench.method import State


@pytest.fixture(scope="module")
def run(short_run) -> Path:
    return short_run("seqlora")


def test_another_prompt_gets_other_numbers_and_the_same_again_the_same_files(run: Path, call, tmp_path: Path) -> None:
    code, out, _ = call("sample", run, "--prompt", "a {dog}", "-n", 2)
    assert code == 0 and out.split() == ["sample/00.png", "sample/01.png"]
    before = (tmp_path / "sample" / "00.png").read_bytes()
    assert call("sample", run, "--prompt", "a {vase}", "-n", 1)[1].split() == ["sample/02.png"]
    assert call("sample", run, "--prompt", "a {dog}", "-n", 1, "--seed", 1)[1].split() == ["sample/03.png"]
    assert call("sample", run, "--prompt", "a {dog}", "-n", 1, "--after", 1)[1].split() == ["sample/04.png"]
    again = call("sample", run, "--prompt", "a {dog}", "-n", 3)[1].split()
    assert again == ["sample/00.png", "sample/01.png", "sample/05.png"]
    assert (tmp_path / "sample" / "00.png").read_bytes() == before
    samples = json.loads((tmp_path / "sample" / "sample.json").read_text())["samples"]
    assert [(s["prompt"], s["seed"], s["after"], len(s["files"])) for s in samples] == [
        ("a {dog}", 0, 2, 3),
        ("a {vase}", 0, 2, 1),
        ("a {dog}", 1, 2, 1),
        ("a {dog}", 0, 1, 1),
    ]
    assert samples[0]["full_prompt"] == "a <v1> dog" and samples[0]["num_inference_steps"] == 1
    assert samples[0]["state_sha256"] == State.checksum(run / "task-02")
    for entry in (f for s in samples for f in s["files"]):
        assert hashlib.sha256((tmp_path / "sample" / entry["name"]).read_bytes()).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("content", ["{", "[]", '{"samples": [{"files": [{"name": "../../x.png", "sha256": "0"}]}]}'])
def test_a_foreign_sample_json_is_refused_before_anything_is_generated(
    run: Path, call, tmp_path: Path, content: str
) -> None:
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "sample.json").write_text(content)
    code, out, err = call("sample", run, "--prompt", "a {dog}")
    assert code == 2 and len(err.splitlines()) == 1 and "sample.json: is not a list of samples" in err and not out
    assert (tmp_path / "sample" / "sample.json").read_text() == content


def grey(*shades: int) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in shades])


def test_pictures_that_something_else_left_are_kept(tmp_path: Path) -> None:
    (tmp_path / "07.png").write_bytes(b"mine")
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert [f.name for f in write(tmp_path, grey(1, 2), {"prompt": "a"})] == ["08.png", "09.png"]
    (tmp_path / "08.png").write_bytes(b"painted over")
    assert [f.name for f in write(tmp_path, grey(1, 2), {"prompt": "a"})] == ["10.png", "11.png"]
    assert (tmp_path / "08.png").read_bytes() == b"painted over" and (tmp_path / "07.png").read_bytes() == b"mine"


def test_a_lost_picture_is_written_again_and_fewer_leave_the_others_listed(tmp_path: Path) -> None:
    write(tmp_path, grey(1, 2, 3), {"prompt": "a"})
    (tmp_path / "00.png").unlink()
    assert [f.name for f in write(tmp_path, grey(1), {"prompt": "a", "run": "moved"})] == ["00.png"]
    (entry,) = entries_of(tmp_path)
    assert [f["name"] for f in entry["files"]] == ["00.png", "01.png", "02.png"] and entry["run"] == "moved"


def test_numbers_of_lost_pictures_are_not_given_to_others(tmp_path: Path) -> None:
    write(tmp_path, grey(1, 2), {"prompt": "a"})
    (tmp_path / "01.png").unlink()
    assert [f.name for f in write(tmp_path, grey(5), {"prompt": "b"})] == ["02.png"]


def test_a_folder_in_place_of_the_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sample.json").mkdir()
    with pytest.raises(UserError, match=r"sample.json: is not a list"):
        entries_of(tmp_path)
