"""Photographs: where they are looked for, whether all are there, and that files become pixels as viewers show them."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cpbench.concepts import images, photographs, sequences
from cpbench.concepts.sequences import Concept
from cpbench.errors import ReplayError, UserError
from cpbench.running import audit

ROOT = Path(__file__).resolve().parents[1]
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth" / "dataset"
there = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"DreamBooth's photographs are not in {PHOTOGRAPHS}")
CLONE = "git clone https://github.com/google/dreambooth data/dreambooth"
CAT = 5  # photographs of DreamBooth's cat


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Started in an empty folder, with no data folder named."""
    monkeypatch.delenv("CPBENCH_DATA", raising=False)
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")
    yield


def complaint(action, *args: object, **more: object) -> str:
    """The UserError's line; nothing may be warned of besides."""
    with warnings.catch_warnings(), pytest.raises(UserError) as caught:
        warnings.simplefilter("error")
        action(*args, **more)
    line = str(caught.value)
    assert line.strip() and len(line.splitlines()) == 1
    return line


def concept(folder: Path | str, name: str = "rex") -> Concept:
    return Concept(name, "dog", "live", ("a {}",), str(folder), rendered=False)


def built_in(name: str, sequence: str = "dreambench30") -> Concept:
    (found,) = (c for c in sequences.load(sequence).concepts if c.name == name)
    return found


def noise(h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def subject_folder(folder: Path, name: str = "cat", shade: int = 0) -> Path:
    """A folder with the file names of DreamBooth's subject, each a picture of its own grey."""
    folder.mkdir(parents=True)
    for k, file in enumerate(photographs.manifest()[name]):
        Image.new("RGB", (9, 9), (shade + 10 * k,) * 3).save(folder / file, quality=100)
    return folder


# From a file to pixels


def shown(stored: np.ndarray, orientation: int) -> np.ndarray:
    """How viewers show stored pixels (h, w, 3): what EXIF says of where row 0 and column 0 of the file are."""
    turned = stored.transpose(1, 0, 2) if orientation >= 5 else stored  # 5: rows of the file are columns from the left
    bottom_up = orientation in (3, 4, 7, 8)
    right_to_left = orientation in (2, 3, 6, 7)
    return turned[:: -1 if bottom_up else 1, :: -1 if right_to_left else 1]


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "mpo"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_as_the_camera_noted(tmp_path: Path, form: str, orientation: int) -> None:
    file, exif = tmp_path / f"a.{'jpg' if form == 'mpo' else form}", Image.Exif()
    exif[274] = orientation
    pair = {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (30, 20))]} if form == "mpo" else {}
    Image.fromarray(noise(20, 30)).save(file, exif=exif, **pair)
    stored = np.asarray(Image.open(file).convert("RGB"))
    assert stored.shape == (20, 30, 3)
    np.testing.assert_array_equal(np.asarray(photographs.upright(file, "rex")), shown(stored, orientation))


def test_orientation_six_is_a_turn_clockwise(tmp_path: Path) -> None:
    stored, exif = np.zeros((2, 3, 3), np.uint8), Image.Exif()
    stored[0, 0], exif[274] = 255, 6  # a light pixel top left in the file is top right on the screen
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    seen = np.asarray(photographs.upright(tmp_path / "a.png", "rex"))
    assert seen.shape == (3, 2, 3) and seen[0, 1].tolist() == [255] * 3 and seen.sum() == 3 * 255


def middle_square(picture: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle, cut by slicing, resized by PIL's Lanczos filter."""
    h, w = picture.shape[:2]
    side = min(h, w)
    y, x = (h - side) // 2, (w - side) // 2
    cut = Image.fromarray(picture[y : y + side, x : x + side])
    return np.asarray(cut.resize((size, size), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("shape", [(40, 70), (71, 40), (33, 33), (20, 21), (1, 50), (50, 1), (1, 1)])
def test_crop_keeps_the_middle_of_any_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = noise(*shape)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = images.load(concept(tmp_path), "sd", 16)
    np.testing.assert_array_equal(found, [middle_square(pixels, 16)])


@pytest.mark.parametrize("shape", [(40, 70), (71, 40), (33, 33), (20, 21), (1, 500), (500, 1), (7, 15)])
@pytest.mark.parametrize("size", [16, 17])
def test_pad_keeps_all_of_any_shape_between_grey_bars(tmp_path: Path, shape: tuple[int, int], size: int) -> None:
    pixels = noise(*shape)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (found,) = images.load(concept(tmp_path), "sd", size, fit="pad")
    assert found.shape == (size, size, 3)
    h, w = (max(1, round(size * n / max(shape))) for n in shape)
    y, x = (size - h) // 2, (size - w) // 2
    whole = np.asarray(Image.fromarray(pixels).resize((w, h), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(found[y : y + h, x : x + w], whole)
    found = found.copy()
    found[y : y + h, x : x + w] = photographs.GREY
    assert (found == photographs.GREY).all()  # nothing but grey around it


def test_pad_and_crop_are_one_for_squares_and_grey_is_no_signal(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 40)).save(tmp_path / "a.png")
    cropped, padded = (images.load(concept(tmp_path), "sd", 16, None, fit) for fit in ("crop", "pad"))
    np.testing.assert_array_equal(cropped, padded)
    assert np.abs(np.array(photographs.GREY) / 127.5 - 1).max() < 0.005
    assert "'crop'" in complaint(images.load, concept(tmp_path), "sd", 16, fit="crops")


def test_files_come_in_order_of_name_and_only_pictures_count(tmp_path: Path) -> None:
    for k, name in enumerate(["b.png", "a.JPG", "c.webp", "d.jpeg"]):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(tmp_path / name, quality=100)
    for name in ("notes.txt", "prompts.yaml", ".DS_Store", "._a.JPG"):  # the last: what macOS leaves beside a file
        (tmp_path / name).write_text("no picture")
    found = images.load(concept(tmp_path), "sd", 8)
    np.testing.assert_allclose(found[:, 4, 4, 0], [60, 0, 120, 180], atol=4)


@pytest.mark.parametrize(("mode", "colour"), [("L", 90), ("RGBA", (90, 90, 90, 255)), ("P", 90), ("CMYK", (0,) * 4)])
def test_all_modes_become_rgb(tmp_path: Path, mode: str, colour: object) -> None:
    picture = Image.new(mode, (8, 8), colour)
    if mode == "P":
        picture.putpalette([90] * 768)
    picture.save(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    found = images.load(concept(tmp_path), "sd", 8)
    assert found.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(found, 255 if mode == "CMYK" else 90, atol=2)


def test_sixteen_bits_of_grey_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 90 * 256, np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.load(concept(tmp_path), "sd", 8), np.full((1, 8, 8, 3), 90))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_grey_whatever_colour_hides_there(tmp_path: Path, mode: str) -> None:
    if mode in ("RGBA", "LA"):
        picture, extra = Image.new("RGBA", (8, 8), (200, 200, 200, 0)).convert(mode), {}
    else:  # one colour of the palette, or one colour, is declared transparent
        picture = Image.new(mode, (8, 8), 1 if mode == "P" else (200, 200, 200))
        extra = {"transparency": 1 if mode == "P" else (200, 200, 200)}
        if mode == "P":
            picture.putpalette([200] * 768)
    picture.save(tmp_path / "a.png", **extra)
    np.testing.assert_array_equal(images.load(concept(tmp_path), "sd", 8), np.full((1, 8, 8, 3), 128))


@there
@pytest.mark.parametrize("name", ["dog", "backpack", "vase"])
def test_real_photographs_are_cut_and_resized_as_pil_does(name: str) -> None:
    files = sorted((PHOTOGRAPHS / name).glob("*.jpg"))
    found = images.load(concept(PHOTOGRAPHS / name), "some/backbone", 64)
    assert found.dtype == np.uint8 and found.shape == (len(files), 64, 64, 3) and len(files) >= 4
    for file, picture in zip(files, found, strict=True):
        np.testing.assert_array_equal(picture, middle_square(np.asarray(Image.open(file).convert("RGB")), 64))


# Files that are not what they seem


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    line = complaint(images.load, concept(tmp_path / "gone"), "sd", 64)
    assert "concept rex" in line and str(tmp_path / "gone") in line
    (tmp_path / "notes.txt").write_text("no picture")
    line = complaint(images.load, concept(tmp_path), "sd", 64)
    assert "concept rex" in line and str(tmp_path) in line and ".png" in line


@pytest.mark.parametrize("broken", ["not a picture", "cut short", "empty", "a folder"])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_broken_pictures_are_named(tmp_path: Path, broken: str, ending: str) -> None:
    file = tmp_path / f"b.{ending}"
    Image.fromarray(noise(64, 64)).save(tmp_path / f"a.{ending}")
    if broken == "not a picture":
        file.write_text("words")
    elif broken == "cut short":
        whole = (tmp_path / f"a.{ending}").read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    elif broken == "empty":
        file.touch()
    else:
        file.mkdir()
    line = complaint(images.load, concept(tmp_path), "sd", 64)
    assert "concept rex" in line and str(file) in line and "read" in line


@pytest.mark.parametrize(("inside", "ending"), [("PNG", "jpg"), ("JPEG", "png"), ("WEBP", "jpeg"), ("GIF", "png")])
def test_endings_that_belie_the_content_are_named(tmp_path: Path, inside: str, ending: str) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / f"a.{ending}", format=inside)
    line = complaint(images.load, concept(tmp_path), "sd", 8)
    right = {"PNG": "rename it to end in .png", "JPEG": "rename it to end in .jpg", "WEBP": "rename it to end in .webp"}
    assert f"a.{ending} contains {inside}" in line and right.get(inside, "convert it to JPEG or PNG") in line


@pytest.mark.parametrize("ending", ["heic", "GIF", "bmp", "tiff"])
def test_pictures_of_other_kinds_are_not_left_out_in_silence(tmp_path: Path, ending: str) -> None:
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    (tmp_path / f"b.{ending}").write_bytes(b"whatever")
    line = complaint(images.load, concept(tmp_path), "sd", 8)
    assert f"b.{ending}" in line and "convert" in line


def write_png(file: Path, w: int, h: int, *more: tuple[bytes, bytes]) -> None:
    """A small PNG that claims w x h pixels of one bit, with `more` chunks (name, data)."""
    head = struct.pack(">IIBBBBB", w, h, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", head), *more, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    )


@pytest.mark.parametrize("side", [10_000, 60_000])  # PIL warns of the first, and refuses the second
def test_pictures_that_would_fill_the_memory_are_named(tmp_path: Path, side: int) -> None:
    write_png(tmp_path / "a.png", side, side)
    assert os.path.getsize(tmp_path / "a.png") < 1000
    line = complaint(images.load, concept(tmp_path), "sd", 64)
    assert "a.png" in line and "pixels" in line and "smaller" in line


def test_notes_that_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", 8, 8)
    assert len(images.load(concept(tmp_path), "sd", 8)) == 1
    write_png(tmp_path / "a.png", 8, 8, (b"zTXt", b"note\0\0" + zlib.compress(bytes(10**7))))
    assert "a.png" in complaint(images.load, concept(tmp_path), "sd", 8)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is closed to this user")
def test_closed_files_and_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    Image.fromarray(noise(8, 8)).save(folder / "a.png")
    (folder / "a.png").chmod(0)
    assert "a.png" in complaint(images.load, concept(folder), "sd", 8)
    folder.chmod(0)
    assert str(folder) in complaint(images.load, concept(folder), "sd", 8)
    folder.chmod(0o700)


# Links and things that are no files


def test_a_picture_that_is_a_link_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        Image.fromarray(noise(8, 8)).save(tmp_path / name / "a.png")
    (tmp_path / "theirs" / "b.png").symlink_to("a.png")
    assert len(images.load(concept(tmp_path / "theirs"), "sd", 8)) == 2  # it stays inside
    (tmp_path / "theirs" / "c.png").symlink_to(tmp_path / "mine" / "a.png")
    line = complaint(images.load, concept(tmp_path / "theirs"), "sd", 8)
    assert str(tmp_path / "theirs" / "c.png") in line and str(tmp_path / "mine" / "a.png") in line and "link" in line


@pytest.mark.parametrize("target", ["gone.png", "c.png", "/dev/zero"])
def test_a_link_to_nothing_to_itself_or_to_a_device_is_refused(tmp_path: Path, target: str) -> None:
    (tmp_path / "c.png").symlink_to(target)
    assert "c.png" in complaint(images.load, concept(tmp_path), "sd", 8)


def test_a_concepts_folder_that_is_a_link_out_of_its_own_is_refused(tmp_path: Path) -> None:
    real = subject_folder(tmp_path / "mine" / "cat")
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "cat").symlink_to(real)
    line = complaint(images.load, concept(tmp_path / "dataset" / "cat"), "sd", 8)
    assert str(tmp_path / "dataset" / "cat") in line and str(real) in line
    assert "is a link" in complaint(images.load, built_in("cat"), "sd", 8, tmp_path)
    assert len(images.load(concept(real), "sd", 8)) == CAT


def test_a_data_folder_of_the_users_may_be_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject_folder(tmp_path / "disk" / "dreambooth" / "dataset" / "cat")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert len(images.load(built_in("cat"), "sd", 8, tmp_path / "data")) == CAT
    monkeypatch.setenv("CPBENCH_DATA", str(tmp_path / "data"))
    assert len(images.load(built_in("cat"), "sd", 8)) == CAT
    monkeypatch.delenv("CPBENCH_DATA")
    monkeypatch.chdir(tmp_path)
    assert len(images.load(built_in("cat"), "sd", 8)) == CAT  # ./data


def test_links_like_the_hubs_lead_to_its_blobs_only(tmp_path: Path) -> None:
    cat = hub_cache(tmp_path)
    assert len(images.load(concept(cat, "cat"), "sd", 8)) == CAT
    Image.fromarray(noise(8, 8)).save(tmp_path / "mine.png")
    (cat / "00.jpg").unlink()
    (cat / "00.jpg").symlink_to(tmp_path / "mine.png")
    assert "00.jpg" in (line := complaint(images.load, concept(cat, "cat"), "sd", 8)) and "mine.png" in line


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "a.png" in complaint(images.load, concept(tmp_path), "sd", 8)


def test_names_too_long_for_a_folder_are_not_there(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    assert "there is no folder" in complaint(images.load, concept(long), "sd", 8)
    assert "there is no such folder" in complaint(images.load, built_in("cat"), "sd", 8, long)


def encoded(form: str) -> bytes:
    exif, out = Image.Exif(), io.BytesIO()
    exif[274], exif[271] = 6, "a camera"
    Image.fromarray(noise(24, 16)).save(out, form, exif=exif)
    return out.getvalue()


WHOLE = {".jpg": encoded("JPEG"), ".png": encoded("PNG"), ".webp": encoded("WEBP")}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path, data: st.DataObject) -> None:
    ending = data.draw(st.sampled_from(sorted(WHOLE)))
    content = bytearray(WHOLE[ending])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / f"a{ending}"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        assert photographs.upright(file, "rex").mode == "RGB"
    except UserError as error:
        assert str(file) in str(error) and len(str(error).splitlines()) == 1


# Where they are looked for


def test_found_from_where_cpbench_is_started() -> None:
    subject_folder(Path("data/dreambooth/dataset/cat"))
    assert images.load(built_in("cat"), "sd", 8).shape == (CAT, 8, 8, 3)


@pytest.mark.parametrize("layout", ["dreambooth/dataset", "dataset", "."])
@pytest.mark.parametrize("how", ["--data", "CPBENCH_DATA", "~"])
def test_found_in_the_folder_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, how: str
) -> None:
    subject_folder(tmp_path / "root" / layout / "cat", shade=100)
    subject_folder(Path("data/dreambooth/dataset/cat"), shade=0)  # the folder that is named comes first
    data: str | Path | None = tmp_path / "root"
    if how == "CPBENCH_DATA":
        monkeypatch.setenv("CPBENCH_DATA", str(data))
        data = None
    elif how == "~":
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        data = "~/root"
    assert images.load(built_in("cat"), "sd", 8, data)[0].min() >= 98


def test_data_on_the_command_line_comes_before_the_environment(tmp_path: Path, monkeypatch) -> None:
    for k, root in enumerate(("first", "second")):
        subject_folder(tmp_path / root / "dataset" / "cat", shade=100 * k)
    monkeypatch.setenv("CPBENCH_DATA", str(tmp_path / "second"))
    assert images.load(built_in("cat"), "sd", 8, tmp_path / "first")[0].max() <= 2
    assert images.load(built_in("cat"), "sd", 8)[0].min() >= 98


def test_a_users_own_folder_is_not_moved_by_data_nor_held_to_dreambooths_names(tmp_path: Path) -> None:
    subject_folder(tmp_path / "root" / "dataset" / "cat")
    mine = tmp_path / "data" / "dreambooth" / "dataset" / "cat"
    mine.mkdir(parents=True)
    Image.new("RGB", (9, 9), (200,) * 3).save(mine / "mine.png")
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "my",
                "version": 1,
                "images": {"folder": "data/dreambooth/dataset/{name}"},
                "concepts": [{"name": "cat", "class_noun": "cat", "kind": "live"}],
                "evaluation": {"live": ["a {} in the snow"]},
            }
        )
    )
    (cat,) = sequences.load(tmp_path / "my.yaml").concepts
    np.testing.assert_array_equal(images.load(cat, "sd", 8, tmp_path / "root"), np.full((1, 8, 8, 3), 200))


def test_a_missing_source_is_answered_with_the_commands_that_fetch_it(tmp_path: Path) -> None:
    line = complaint(images.load, built_in("cat"), "sd", 64)
    assert "concept cat" in line and "data/dreambooth/dataset/cat" in line
    assert f"`{CLONE}`" in line and "`--data FOLDER`" in line and "`--data hub`" in line


def test_a_named_folder_without_the_subject_is_where_the_commands_lead(tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "my data"
    root.mkdir()
    line = complaint(images.load, built_in("cat"), "sd", 64, root)
    for place in ("dreambooth/dataset/cat", "dataset/cat", "cat"):
        assert str(root / place) in line
    assert f"dreambooth '{root}'/dreambooth`" in line
    subject_folder(root / "dreambooth" / "dataset" / "cat")  # as that command would
    assert len(images.load(built_in("cat"), "sd", 8, root)) == CAT
    line = complaint(images.load, built_in("cat"), "sd", 64, tmp_path / "gone")
    assert f"--data {tmp_path / 'gone'}" in line and CLONE in line
    monkeypatch.setenv("CPBENCH_DATA", str(tmp_path / "gone"))
    assert f"CPBENCH_DATA {tmp_path / 'gone'}" in complaint(images.load, built_in("cat"), "sd", 64)


def test_absolute_folders_are_of_no_data_set() -> None:
    assert photographs.data_set(built_in("cat")) == "dreambooth"
    for folder in ("/dreambooth/dataset/cat", "/data/dreambooth/dataset/cat", "photos/cat", "cat"):
        assert photographs.data_set(concept(folder, "cat")) is None


def photographed() -> list[tuple[str, Concept]]:
    return [(n, c) for n in sequences.names() for c in sequences.load(n).concepts if c.images]


def test_every_built_in_sequence_has_commands_that_fetch_its_photographs() -> None:
    tasks = Path(__file__).resolve().parents[1] / "tasks"
    for name, each in photographed():
        known = photographs.data_set(each)
        assert known, f"{name}: {each.images} is of no known data set"
        words = photographs.SOURCES[known].format("data").split()
        assert " ".join(words) in complaint(images.load, each, "sd", 64)
        address = next(w for w in words if w.startswith("https://"))
        assert address.removeprefix("https://") in (tasks / f"{name}.yaml").read_text()


def test_other_data_sets_are_found_by_their_own_name_only(tmp_path: Path) -> None:
    """CIFC has a folder `cat` too, with another cat: DreamBooth's must not be taken for it."""
    others = [c for _, c in photographed() if photographs.data_set(c) == "CIFC"]
    if not others:
        pytest.skip("no built-in sequence has CIFC's photographs")
    cat = next(c for c in others if c.name == "cat")
    subject_folder(tmp_path / "cat")
    line = complaint(images.load, cat, "sd", 8, tmp_path)
    assert f"https://github.com/JiahuaDong/CIFC {tmp_path}/CIFC" in line
    inside = tmp_path.joinpath(*Path(cat.images).parts[1:])
    inside.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(inside / "any name.png")
    assert len(images.load(cat, "sd", 8, tmp_path)) == 1
    assert "DreamBooth's photographs only" in complaint(images.load, cat, "sd", 8, "hub")


# DreamBooth's copy on the hub, in processes of their own: the hub's library reads its settings when it is imported

LOAD_CAT = """
from cpbench.concepts import images, sequences
from cpbench.errors import UserError
cat = next(c for c in sequences.load("dreambench10").concepts if c.name == "cat")
try:
    print(*images.load(cat, "sd", 8, "hub").shape)
except UserError as error:
    print(error)
"""


def load_cat_from_hub(home: Path, **env: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "CPBENCH_"))}
    env = (
        kept
        | {"HF_HOME": str(home), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        | env
    )
    done = subprocess.run(
        [sys.executable, "-c", LOAD_CAT], env=env, cwd=home, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return line


def hub_cache(home: Path) -> Path:
    """The cache as the hub's library leaves it: links in a snapshot's folder, to files by hash. Returns cat's folder."""
    repository = home / "hub" / "datasets--google--dreambooth"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "blobs").mkdir()
    cat = repository / "snapshots" / ("0" * 40) / "dataset" / "cat"
    for file in sorted(subject_folder(cat).iterdir()):
        blob = repository / "blobs" / f"{file.name[:2]:0>40}"
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, cat))
    return cat


def test_hub_is_read_from_its_cache_when_offline(tmp_path: Path) -> None:
    hub_cache(tmp_path)
    assert load_cat_from_hub(tmp_path, HF_HUB_OFFLINE="1") == f"{CAT} 8 8 3"


@pytest.mark.parametrize("env", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_hub_out_of_reach_is_one_line(tmp_path: Path, env: dict[str, str]) -> None:
    line = load_cat_from_hub(tmp_path, **env)
    assert "--data hub" in line and "google/dreambooth" in line and "`--data FOLDER`" in line and CLONE in line


def test_files_that_links_lead_to_are_guarded_while_another_concept_is_learned(tmp_path: Path) -> None:
    cat = hub_cache(tmp_path)
    (cat / "notes.txt").write_text("of a cat")
    others = images.guarded(concept(cat, "cat"), "sd")
    assert others[0] == cat and len(others) == 1 + CAT
    (tmp_path / "free.txt").write_text("of nobody")
    with audit.learning_only("dog", others, tmp_path / "runs"):
        assert (tmp_path / "free.txt").read_text()
        for file in (cat / "00.jpg", (cat / "01.jpg").resolve(), cat / "notes.txt"):
            with pytest.raises(ReplayError):
                file.read_bytes()
    assert (cat / "00.jpg").read_bytes()


def test_guarded_needs_no_photographs_where_concepts_are_drawn() -> None:
    assert images.guarded(built_in("cat"), "miniature") == [Path("data/dreambooth/dataset/cat")]
    assert images.guarded(Concept("x", "dog", "live", ("a {}",)), "miniature") == []
    assert CLONE in complaint(images.guarded, built_in("cat"), "sd")


# The manifest


def test_manifest_has_thirty_subjects_and_158_pictures() -> None:
    manifest = photographs.manifest()
    assert len(manifest) == 30 and sum(map(len, manifest.values())) == 158
    assert {c.name for c in sequences.load("dreambench30").concepts} == set(manifest)
    assert {len(files) for files in manifest.values()} == {4, 5, 6}
    for files in manifest.values():
        assert files == tuple(f"{k:02d}.jpg" for k in range(len(files)))


@there
@pytest.mark.parametrize("root", [PHOTOGRAPHS.parent.parent, PHOTOGRAPHS.parent, PHOTOGRAPHS])
def test_manifest_is_that_of_the_real_photographs(root: Path) -> None:
    assert {f.name for f in PHOTOGRAPHS.iterdir() if f.is_dir()} == set(photographs.manifest())
    for each in sequences.load("dreambench30").concepts:
        folder = photographs.folder_of(each, root)
        assert folder == PHOTOGRAPHS / each.name
        assert tuple(f.name for f in photographs.files_of(folder, each.name)) == photographs.manifest()[each.name]


@there
def test_all_thirty_real_subjects_load() -> None:
    for each in sequences.load("dreambench30").concepts:
        found = images.load(each, "sd", 32, PHOTOGRAPHS.parent)
        assert found.shape == (len(photographs.manifest()[each.name]), 32, 32, 3)
        assert found.std(axis=(1, 2, 3)).min() > 10 and len({images.content_hash(p) for p in found}) == len(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("remove 02.jpg", ["lacks 02.jpg"]),
        ("remove all", ["lacks 00.jpg, 01.jpg, 02.jpg and 2 more"]),
        ("add 05.jpg", ["also has 05.jpg"]),
        ("add holiday.heic", ["also has holiday.heic"]),
        ("rename 03.jpg", ["lacks 03.jpg", "also has 03.JPG.png"]),
    ],
)
def test_folders_that_are_not_dreambooths_are_named(tmp_path: Path, change: str, said: list[str]) -> None:
    folder = subject_folder(tmp_path / "dataset" / "cat")
    verb, _, file = change.partition(" ")
    for each in sorted(folder.iterdir()) if file == "all" else [folder / file]:
        if verb == "remove":
            each.unlink()
        elif verb == "add":
            each.write_bytes((folder / "00.jpg").read_bytes())
        else:
            each.rename(folder / "03.JPG.png")
    line = complaint(images.load, built_in("cat"), "sd", 8, tmp_path)
    assert str(folder) in line and all(words in line for words in said)


def test_notes_beside_the_pictures_are_no_matter(tmp_path: Path) -> None:
    folder = subject_folder(tmp_path / "dataset" / "cat")
    for name in ("licence.txt", ".DS_Store", "._00.jpg"):
        (folder / name).write_text("words")
    assert len(images.load(built_in("cat"), "sd", 8, tmp_path)) == CAT


# Colours


def display_p3() -> bytes:
    """An ICC profile with the primaries and white of Display P3 (SMPTE EG 432-1, D65 adapted to D50) and gamma 2.2."""
    import struct

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    def text(words: str) -> bytes:
        return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words.encode() + b"\0" + b"\0" * 78

    primaries = {
        "rXYZ": (0.51512, 0.24120, -0.00105),
        "gXYZ": (0.29198, 0.69225, 0.04189),
        "bXYZ": (0.15710, 0.06657, 0.78407),
    }
    tags = {name: b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in primaries.items()}
    tags |= {
        "wtpt": b"XYZ \0\0\0\0" + fixed(0.96420, 1.0, 0.82491),
        "desc": text("a wide one"),
        "cprt": b"text\0\0\0\0none\0",
    }
    tags |= {f"{c}TRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) for c in "rgb"}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name.encode() + struct.pack(">II", start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12s4s", 0, b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"\0" * 12, b"acsp")
    head = head.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.82491)
    whole = head.ljust(128, b"\0") + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


def in_srgb(colour: tuple[int, int, int]) -> np.ndarray:
    """A Display P3 colour of gamma 2.2 in sRGB, by the definitions: through XYZ (D50), clipped to what sRGB has."""
    p3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
    srgb = np.array(
        [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
    )  # IEC 61966-2-1
    linear = np.clip(np.linalg.solve(srgb, p3 @ (np.array(colour) / 255) ** 2.2), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("colour", [(200, 60, 60), (60, 180, 90), (90, 90, 200), (128, 128, 128), (255, 255, 255)])
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_colour_profile_is_brought_to_srgb(tmp_path: Path, colour: tuple, ending: str) -> None:
    how = {"png": {}, "jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}[ending]
    Image.new("RGB", (16, 16), colour).save(tmp_path / f"a.{ending}", icc_profile=display_p3(), **how)
    got = photographs.read(tmp_path, "rex", 16)[0].reshape(-1, 3).mean(0)
    assert np.abs(got - in_srgb(colour)).max() <= 2.5
    if len(set(colour)) > 1:
        assert np.abs(got - np.array(colour)).max() > 5  # what it was read as


def test_a_transparent_picture_and_a_palette_have_their_profiles_too(tmp_path: Path) -> None:
    colour = (200, 60, 60)
    plain = Image.new("RGB", (16, 16), colour)
    for name, image in (("a", plain.convert("RGBA")), ("b", plain.quantize(4))):
        image.save(tmp_path / f"{name}.png", icc_profile=display_p3())
    for got in photographs.read(tmp_path, "rex", 16):
        assert np.abs(got.reshape(-1, 3).mean(0) - in_srgb(colour)).max() <= 2.5


@pytest.mark.parametrize("profile", [b"", b"nonsense", display_p3()[:200], b"\0" * 500])
def test_a_broken_profile_does_not_fail_and_changes_nothing(tmp_path: Path, profile: bytes) -> None:
    Image.new("RGB", (16, 16), (200, 60, 60)).save(tmp_path / "a.png", icc_profile=profile)
    assert (photographs.read(tmp_path, "rex", 16) == np.array([200, 60, 60])).all()


def test_srgbs_own_profile_changes_no_pixel(tmp_path: Path) -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(photographs.read(tmp_path, "rex", 16)[0], pixels)
