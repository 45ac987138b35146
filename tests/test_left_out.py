"""No picture is left out, or used in part, without a word: `run` and `new-sequence` say it in one line per concept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpbench.backbones.hub import MINIATURE
from cpbench.concepts import images, photographs
from cpbench.concepts.new_sequence import write
from cpbench.concepts.picture_files import LEFT_OUT, content_of, left_out
from cpbench.concepts.sequences import Concept
from cpbench.errors import UserError

MINIATURE_JUDGES = MINIATURE / "judges"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def photograph(file: Path, seed: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (300, 300, 3), np.uint8)).save(file)
    return file


@pytest.fixture
def rex(tmp_path: Path) -> Path:
    for k in range(3):
        photograph(tmp_path / "rex" / f"{k}.png", k)
    return tmp_path / "rex"


def noted(folder: Path) -> list[str]:
    """What a run says of a concept's photographs."""
    concept = Concept("rex", "dog", "live", ("a {}",), str(folder), rendered=False)
    return images.notes([concept], "sd15", {"rex": images.load(concept, "sd15", 16)}, None)


def warned(folder: Path, tmp_path: Path) -> tuple[str, ...]:
    return write(tmp_path / "my.yaml", [f"{folder}:dog"]).warnings


def test_a_folder_of_pictures_alone_is_not_spoken_of(rex: Path) -> None:
    (rex / "README.md").write_text("Rex")
    (rex / "notes.txt").write_text("not of one picture")
    (rex / "LICENSE").write_text("CC0")
    (rex / ".hidden.cr2").write_bytes(b"raw")
    (rex / "empty").mkdir()
    assert noted(rex) == []


def test_pictures_in_subfolders_are_counted_and_kohyas_layout_is_explained(rex: Path, tmp_path: Path) -> None:
    for k in range(2):
        photograph(rex / "more" / "deeper" / f"{k}.png", 10 + k)
    photograph(rex / "10_sks dog" / "a.png", 20)
    (line,) = noted(rex)
    assert line.startswith("rex: left out: ") and line == warned(rex, tmp_path)[0]
    assert "2 files in 'more' (subfolders are not read: name this one as the concept's folder" in line
    assert "1 file in '10_sks dog' (kohya's layout, 10 repeats of 'sks dog': name this subfolder" in line


def test_a_folder_with_pictures_in_subfolders_only_says_where_they_are(tmp_path: Path) -> None:
    photograph(tmp_path / "rex" / "10_sks dog" / "a.png")
    with pytest.raises(UserError, match=r"no pictures .* left out: 1 file in '10_sks dog' \(kohya's layout"):
        noted(tmp_path / "rex")


@pytest.mark.parametrize("ending", LEFT_OUT)
def test_endings_that_are_not_read_are_named(rex: Path, tmp_path: Path, ending: str) -> None:
    (rex / f"other{ending.upper()}").write_bytes(b"whatever")
    (line,) = noted(rex)
    assert f"1 file whose ending is not read: 'other{ending.upper()}' (convert to JPEG or PNG" in line
    assert warned(rex, tmp_path) == (line,)


def test_many_files_are_one_line(rex: Path) -> None:
    for k in range(30):
        (rex / f"{k:02d}.cr2").write_bytes(b"raw")
    (line,) = noted(rex)
    assert "30 files whose ending is not read: '00.cr2', '01.cr2', '02.cr2' and 27 more" in line


def test_pictures_without_an_ending_are_named_and_other_files_are_not(rex: Path) -> None:
    photograph(rex / "3.png", 3).rename(rex / "IMG_3")
    (rex / "IMG_4").write_bytes(HEIC)
    (rex / "Makefile").write_text("all:")
    (line,) = noted(rex)
    assert "2 files without an ending: 'IMG_3', 'IMG_4' (add the ending" in line and "Makefile" not in line


@pytest.mark.parametrize("ending", [".txt", ".caption", ".json"])
def test_captions_beside_pictures_are_named(rex: Path, ending: str) -> None:
    for k in range(2):
        (rex / f"{k}{ending}").write_text("sks dog on grass")
    (line,) = noted(rex)
    assert f"2 files of captions: '0{ending}', '1{ending}'" in line and "class noun" in line


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_the_first_frame_of_an_animation_is_used_and_that_is_said(rex: Path, tmp_path: Path, ending: str) -> None:
    frames = [Image.open(photograph(tmp_path / f"frame-{k}.png", 50 + k)) for k in range(2)]
    frames[0].save(rex / f"moving.{ending}", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(photographs.upright(rex / f"moving.{ending}", "rex"), frames[0])
    assert noted(rex) == [f"rex: moving.{ending} is animated; its first frame is used"]
    assert f"rex: moving.{ending} is animated; its first frame is used" in warned(rex, tmp_path)


def test_blank_and_identical_training_pictures_are_told(rex: Path, tmp_path: Path) -> None:
    (rex / "copy.png").write_bytes((rex / "0.png").read_bytes())
    Image.new("RGB", (300, 300), "white").save(rex / "white.png")
    assert noted(rex) == [
        "rex: white.png is of a single colour; replace or remove it",
        "rex: copy.png is the same picture as rex/0.png; keep one of them",
    ]
    assert "rex: white.png is of a single colour; replace or remove it" in warned(rex, tmp_path)


def test_one_picture_in_two_concepts_is_told(rex: Path, tmp_path: Path) -> None:
    (tmp_path / "max").mkdir()
    (tmp_path / "max" / "0.png").write_bytes((rex / "1.png").read_bytes())
    both = [Concept(n, "dog", "live", ("a {}",), str(tmp_path / n), rendered=False) for n in ("rex", "max")]
    said = images.notes(both, "sd15", {c.name: images.load(c, "sd15", 16) for c in both}, None)
    assert said == ["max: 0.png is the same picture as rex/1.png; keep one of them"]


def test_a_concept_of_blank_pictures_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rex").mkdir()
    for shade in (0, 255):
        Image.new("RGB", (300, 300), (shade,) * 3).save(tmp_path / "rex" / f"{shade}.png")
    with pytest.raises(UserError, match=r"every picture in .*rex is of a single colour; replace them"):
        noted(tmp_path / "rex")


def test_a_run_says_it_before_it_starts(rex: Path, tmp_path: Path, call, tiny_folder: Path) -> None:
    photograph(rex / "10_sks dog" / "a.png", 20)
    (rex / "3.cr2").write_bytes(b"raw")
    (tmp_path / "my.yaml").write_text(
        "name: my\nversion: 1\nconcepts: [{name: rex, class_noun: dog, kind: live, images: {folder: rex}}]\n"
        'evaluation: {live: ["a {} in the snow"]}\n'
    )
    words = ("plan", "--method", "base", "--sequence", "my.yaml", "--backbone", tiny_folder)
    code, out, err = call(*words, "--clip", MINIATURE_JUDGES / "clip", "--dino", MINIATURE_JUDGES / "dino")
    assert code == 0, err
    (line,) = (line for line in out.splitlines() if line.startswith("note "))
    assert "left out: 1 file in '10_sks dog'" in line and "3.cr2" in line


# What a file contains


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (HEIC, "its content is HEIC, as iPhones save pictures); convert it to JPEG or PNG; renaming is not enough"),
        (b"", "it is empty); replace or remove it"),
        (b"<!DOCTYPE html><html></html>", "its content is a web page); replace"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS; run `git lfs pull`"),
        (b"\xff\xd8\xff" + bytes(9), "its content is damaged JPEG); replace"),
        (b"words", "its content is not a picture); replace"),
    ],
)
def test_what_a_file_with_a_pictures_ending_contains_is_said(rex: Path, content: bytes, says: str) -> None:
    (rex / "a.jpg").write_bytes(content)
    with pytest.raises(UserError) as caught:
        noted(rex)
    assert str(rex / "a.jpg") in str(caught.value) and says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats_are_known_by_their_first_bytes(tmp_path: Path, form: str) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "a", format=form)
    assert content_of(tmp_path / "a") == form
    assert left_out(tmp_path, "rex").startswith("1 file without an ending: 'a'")


def test_avif_in_a_jpg_is_to_be_converted(rex: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(rex / "a.jpg", format="AVIF")
    with pytest.raises(UserError, match=r"a.jpg contains AVIF, not .jpg; convert it to JPEG or PNG"):
        noted(rex)
