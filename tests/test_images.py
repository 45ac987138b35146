"""Where a concept's pictures come from: photographs as PIL reads them, drawings that are always the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpbench import images
from cpbench.errors import UserError
from cpbench.miniature.world import SUBJECTS
from cpbench.sequences import Concept

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth" / "dataset"
there = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"the DreamBench photographs are not in {PHOTOGRAPHS}")


def complaint(*args: object) -> str:
    with pytest.raises(UserError) as caught:
        images.load(*args)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def concept(name: str = "rex", folder: Path | None = None, drawn: bool = False) -> Concept:
    return Concept(name, "dog", "live", ("a {}",), None if folder is None else str(folder), drawn)


def middle_square(picture: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle, cut by slicing, resized by PIL's Lanczos filter."""
    h, w = picture.shape[:2]
    side = min(h, w)
    y, x = (h - side) // 2, (w - side) // 2
    cut = Image.fromarray(picture[y : y + side, x : x + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))


# Photographs


@there
@pytest.mark.parametrize("name", ["dog", "backpack", "vase"])
def test_photographs_are_cut_and_resized_as_pil_does(name: str) -> None:
    files = sorted((PHOTOGRAPHS / name).glob("*.jpg"))
    found = images.load(concept(name, PHOTOGRAPHS / name), "some/backbone", 64)
    assert found.dtype == np.uint8 and found.shape == (len(files), 64, 64, 3) and len(files) >= 4
    for file, picture in zip(files, found, strict=True):
        np.testing.assert_array_equal(picture, middle_square(np.asarray(Image.open(file).convert("RGB")), 64))


@pytest.mark.parametrize("shape", [(40, 70), (71, 40), (33, 33), (20, 21)])
def test_middle_of_any_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = images.load(concept(folder=tmp_path), "sd", 16)
    np.testing.assert_array_equal(found, [middle_square(pixels, 16)])


def test_files_come_in_order_of_name_and_only_pictures_count(tmp_path: Path) -> None:
    for k, name in enumerate(["b.png", "a.JPG", "c.webp", "d.jpeg"]):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(tmp_path / name, quality=100)
    for name in ("notes.txt", "prompts.yaml", ".DS_Store"):
        (tmp_path / name).write_text("no picture")
    found = images.load(concept(folder=tmp_path), "sd", 8)
    np.testing.assert_allclose(found[:, 4, 4, 0], [60, 0, 120, 180], atol=4)


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("RGBA", (90, 90, 90, 255)), ("P", 90), ("CMYK", (0,) * 4)])
def test_all_modes_become_rgb(tmp_path: Path, mode: str, colour: object) -> None:
    picture = Image.new(mode, (8, 8), colour)
    if mode == "P":
        picture.putpalette([90] * 768)
    picture.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    found = images.load(concept(folder=tmp_path), "sd", 8)
    assert found.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(found, 255 if mode == "CMYK" else 90, atol=2)


def test_pictures_stand_upright_as_the_camera_noted(tmp_path: Path) -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 250  # light above, dark below
    lying, exif = Image.fromarray(np.rot90(upright)), Image.Exif()
    exif[274] = 6  # orientation: show it turned by 90 degrees clockwise
    lying.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images.load(concept(folder=tmp_path), "sd", 8), [upright])


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    line = complaint(concept("rex", tmp_path / "gone"), "sd", 64)
    assert "concept rex" in line and str(tmp_path / "gone") in line
    (tmp_path / "notes.txt").write_text("no picture")
    line = complaint(concept("rex", tmp_path), "sd", 64)
    assert "concept rex" in line and str(tmp_path) in line and ".png" in line


@pytest.mark.parametrize("broken", ["not a picture", "cut short", "empty", "a folder"])
def test_broken_pictures_are_named(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "b.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    if broken == "not a picture":
        file.write_text("words")
    elif broken == "cut short":
        whole = (tmp_path / "a.png").read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif broken == "empty":
        file.touch()
    else:
        file.mkdir()
    line = complaint(concept("rex", tmp_path), "sd", 64)
    assert "concept rex" in line and str(file) in line


def test_backbones_that_do_not_draw_need_a_folder() -> None:
    line = complaint(concept("dog", None, drawn=True), "some/backbone", 64)
    assert "concept dog" in line and "some/backbone" in line and "folder" in line


def test_hash_changes_with_every_pixel() -> None:
    pictures = np.zeros((2, 4, 4, 3), np.uint8)
    other = pictures.copy()
    other[1, 3, 3, 2] = 1
    assert images.content_hash(pictures) == images.content_hash(pictures.copy()) != images.content_hash(other)
    assert images.content_hash(np.asfortranarray(other)) == images.content_hash(other)


# Drawings


def test_miniature_draws_and_other_backbones_read_photographs(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    both = concept("dog", tmp_path, drawn=True)
    assert images.is_drawn(both, "miniature") and not images.is_drawn(both, "some/backbone")
    assert images.load(both, "miniature", 64).shape == (5, 64, 64, 3)
    assert images.load(both, "some/backbone", 64).shape == (1, 64, 64, 3)
    assert not images.is_drawn(concept("dog", tmp_path), "miniature")  # a folder and no `drawn: true`
    assert images.load(concept("dog", tmp_path), "miniature", 64).shape == (1, 64, 64, 3)


def test_drawn_pictures_are_always_the_same_and_leave_numpy_alone() -> None:
    np.random.seed(1)
    first = images.drawn("cat")
    before = np.random.get_state()[1].tolist()
    np.random.seed(2)
    np.testing.assert_array_equal(images.drawn("cat"), first)
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == before
    assert first.dtype == np.uint8 and first.shape == (5, 64, 64, 3)


def test_every_subject_has_pictures_of_its_own_no_two_alike() -> None:
    every = np.concatenate([images.drawn(name) for name in SUBJECTS]).astype(np.int16)
    assert len(every) == 5 * len(SUBJECTS)
    for i, picture in enumerate(every):
        assert np.abs(every[:i] - picture).mean(axis=(1, 2, 3)).min(initial=255) > 3


def test_oracle_depends_on_all_it_is_asked_for() -> None:
    asked = ("dog", "a {} in the snow", 0, 0)
    first = images.oracle(*asked)
    np.testing.assert_array_equal(images.oracle(*asked), first)
    for other in (("dog2", *asked[1:]), ("dog", "a {} on the beach", 0, 0), (*asked[:2], 1, 0), (*asked[:3], 1)):
        assert np.abs(images.oracle(*other).astype(float) - first).mean() > 3, other


def test_unknown_subjects_get_near_matches() -> None:
    line = complaint(concept("dogg", drawn=True), "miniature", 64)
    assert "'dogg'" in line and "did you mean 'dog'" in line
