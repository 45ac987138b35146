"""Where a concept's pictures come from, and that drawings are always the same. Photographs: test_photographs.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpbench.concepts import images
from cpbench.concepts.sequences import Concept
from cpbench.errors import UserError
from cpbench.miniature.world import SUBJECTS


def complaint(*args: object) -> str:
    with pytest.raises(UserError) as caught:
        images.load(*args)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def concept(name: str = "rex", folder: Path | None = None, drawn: bool = False) -> Concept:
    return Concept(name, "dog", "live", ("a {}",), None if folder is None else str(folder), drawn)


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


def test_drawings_have_one_size() -> None:
    line = complaint(concept("dog", None, drawn=True), "miniature", 32)
    assert "concept dog" in line and "64 pixels" in line and "--resolution" in line


def test_miniature_draws_and_other_backbones_read_photographs(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    both = concept("dog", tmp_path, drawn=True)
    assert images.is_rendered(both, "miniature") and not images.is_rendered(both, "some/backbone")
    assert images.load(both, "miniature", 64).shape == (5, 64, 64, 3)
    assert images.load(both, "some/backbone", 64).shape == (1, 64, 64, 3)
    assert not images.is_rendered(concept("dog", tmp_path), "miniature")  # a folder and no `drawn: true`
    assert images.load(concept("dog", tmp_path), "miniature", 64).shape == (1, 64, 64, 3)


def test_drawn_pictures_are_always_the_same_and_leave_numpy_alone() -> None:
    np.random.seed(1)
    first = images.rendered("cat")
    before = np.random.get_state()[1].tolist()
    np.random.seed(2)
    np.testing.assert_array_equal(images.rendered("cat"), first)
    np.random.seed(1)
    assert np.random.get_state()[1].tolist() == before
    assert first.dtype == np.uint8 and first.shape == (5, 64, 64, 3)


def test_every_subject_has_pictures_of_its_own_no_two_alike() -> None:
    every = np.concatenate([images.rendered(name) for name in SUBJECTS]).astype(np.int16)
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
