"""New sequences: what is written, that it loads and runs, what is warned of, and what is refused in one line."""

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

import cpbench
from cpbench.concepts import images, new_sequence, sequences
from cpbench.concepts.new_sequence import guess_subject_type, legal_name, names_of, parse, report_lines, write
from cpbench.errors import UserError
from cpbench.files import FILE_NAME

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth" / "dataset"
there = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason=f"DreamBooth's photographs are not in {PHOTOGRAPHS}")


def complaint(*args: object) -> str:
    with pytest.raises(UserError) as caught:
        write(*args)
    line = str(caught.value)
    assert line.strip() and len(line.splitlines()) == 1
    return line


def scene(seed: int, w: int = 400, h: int = 300) -> Image.Image:
    """Coloured discs, elsewhere for every seed."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (w, h), tuple(rng.integers(0, 256, 3).tolist()))
    brush = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y, r = (rng.random(3) * (w, h, h / 3)).tolist()
        brush.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return picture


def photos(folder: Path, n: int = 4, seed: int = 0) -> Path:
    folder.mkdir(parents=True)
    for k in range(n):
        scene(100 * seed + k).save(folder / f"{k}.jpg", quality=90)
    return folder


@pytest.fixture
def rex_and_mug(tmp_path: Path) -> list[str]:
    return [f"{photos(tmp_path / 'photos' / 'rex')}:dog", f"{photos(tmp_path / 'photos' / 'mug', seed=1)}:mug"]


# What is written


def test_folders_become_a_sequence(tmp_path: Path, rex_and_mug: list[str]) -> None:
    written = write(tmp_path / "my.yaml", rex_and_mug)
    assert written.path == tmp_path / "my.yaml" and written.fresh and written.warnings == ()
    seq = sequences.load(tmp_path / "my.yaml")
    assert seq == written.sequence and seq.name == "my" and seq.version == 1
    assert [(c.name, c.class_noun, c.subject_type, c.rendered) for c in seq.concepts] == [
        ("rex", "dog", "live", False),
        ("mug", "mug", "object", False),
    ]
    assert [c.images for c in seq.concepts] == [str(tmp_path / "photos" / n) for n in ("rex", "mug")]
    assert all(len(c.prompts) == 25 for c in seq.concepts) and written.counts == {"rex": 4, "mug": 4}
    test, theirs = seq.evaluation, sequences.load("dreambench10").evaluation
    assert test.prompts == theirs.prompts
    assert test.sampling(rendered=False) == theirs.sampling(rendered=False)  # as DreamBench's photographs
    for concept in seq.concepts:
        assert images.load(concept, "sd15", 64).shape == (4, 64, 64, 3)


def test_folders_below_the_file_are_relative_and_others_absolute(tmp_path: Path, rex_and_mug: list[str]) -> None:
    (tmp_path / "here").mkdir()
    inside = photos(tmp_path / "here" / "deep" / "cup", seed=2)
    write(tmp_path / "here" / "my.yaml", [rex_and_mug[0], f"{inside}:cup"])
    said = yaml.safe_load((tmp_path / "here" / "my.yaml").read_text())["concepts"]
    assert [c["images"]["folder"] for c in said] == [str(tmp_path / "photos" / "rex"), "deep/cup"]
    (tmp_path / "here").rename(tmp_path / "there")  # the file and what is below it move together
    assert sequences.load(tmp_path / "there" / "my.yaml").concepts[1].images == str(tmp_path / "there" / "deep" / "cup")


def test_a_folder_that_is_a_link_is_named_as_what_it_leads_to(tmp_path: Path, rex_and_mug: list[str]) -> None:
    """A sequence may not lead anywhere by links; the user who names one may."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "photos").symlink_to(tmp_path / "photos")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "max").symlink_to(tmp_path / "photos" / "mug")
    written = write(tmp_path / "here" / "my.yaml", [f"{tmp_path}/here/photos/rex:dog", f"{tmp_path}/there/max:mug"])
    assert [c.name for c in written.sequence.concepts] == ["rex", "max"]
    assert [c.images for c in written.sequence.concepts] == [
        os.path.realpath(tmp_path / "photos" / n) for n in ("rex", "mug")
    ]
    for concept in sequences.load(written.path).concepts:
        assert len(images.load(concept, "sd15", 32)) == 4


def test_relative_and_home_folders_are_understood(tmp_path: Path, rex_and_mug: list[str], monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path / "photos")
    written = write("~/my.yaml", ["~/photos/rex:dog", "mug: big  mug "])
    assert written.path == tmp_path / "my.yaml"
    assert [c.class_noun for c in written.sequence.concepts] == ["dog", "big mug"]
    assert [Path(c.images) for c in written.sequence.concepts] == [tmp_path / "photos" / n for n in ("rex", "mug")]


def test_what_the_comments_promise_can_be_edited(tmp_path: Path, rex_and_mug: list[str]) -> None:
    """Another kind, and prompts of one's own, as the comment shows them."""
    file = write(tmp_path / "my.yaml", rex_and_mug).path
    text = file.read_text()
    file.write_text(text.replace("kind: object", "kind: live"))
    assert [c.subject_type for c in sequences.load(file).concepts] == ["live", "live"]
    own = 'prompts: {live: ["a {} in the snow"], object: ["a {} in the snow"]}'
    assert '{live: ["a {} in the snow", ...], object: [...]}' in text
    start, end = text.index("prompts:"), text.index("\n", text.index("prompts:"))
    short = text[:start] + own + text[end : text.index("evaluation:")]
    file.write_text(short + 'evaluation: {live: ["a {} in the snow"], object: ["a {} in the snow"]}\n')
    assert sequences.load(file).concepts[0].prompts == ("a {} in the snow",)
    names = [line.partition(":")[0] for line in text.splitlines() if line and line[0] not in "# "]
    assert names == ["name", "version", "description", "prompts", "concepts", "evaluation"]


@pytest.mark.parametrize(
    "folder",
    [
        "on",
        "123",
        "2024-01-01",
        "~rex",
        "~",
        "# rex",
        "rex: the dog",
        "{rex}",
        "[rex, mug]",
        "'rex'",
        "Café été",
        "犬",
        "null",
    ],
)
def test_folders_of_any_name_are_found_again(tmp_path: Path, folder: str) -> None:
    photos(tmp_path / folder)
    written = write(tmp_path / "my.yaml", [f"{tmp_path / folder}:dog"])
    (concept,) = written.sequence.concepts
    assert Path(concept.images) == tmp_path / folder and FILE_NAME.fullmatch(concept.name)
    assert images.load(concept, "sd15", 8).shape == (4, 8, 8, 3)


def test_the_same_again_changes_nothing_and_other_content_is_not_overwritten(
    tmp_path: Path, rex_and_mug: list[str]
) -> None:
    file = write(tmp_path / "my.yaml", rex_and_mug).path
    before = file.read_bytes(), file.stat().st_mtime_ns
    again = write(file, rex_and_mug)
    assert not again.fresh and report_lines(again)[0] == f"unchanged: {file}"
    assert str(file) in (line := complaint(file, rex_and_mug[:1])) and "other content" in line
    assert before == (file.read_bytes(), file.stat().st_mtime_ns)
    (tmp_path / "folder.yaml").mkdir()
    assert "folder.yaml" in complaint(tmp_path / "folder.yaml", rex_and_mug)


def test_report_says_what_was_read_and_how_to_go_on(tmp_path: Path, rex_and_mug: list[str]) -> None:
    home = tmp_path / "my things"
    home.mkdir()
    (tmp_path / "photos" / "mug" / "3.jpg").unlink()
    (tmp_path / "photos" / "mug" / "2.jpg").unlink()
    lines = report_lines(write(home / "my.yaml", rex_and_mug))
    assert lines[0] == f"wrote {home / 'my.yaml'}"
    assert lines[1].split()[:5] == ["rex", "dog", "live", "4", "pictures"]
    assert lines[2].split()[:5] == ["mug", "mug", "object", "2", "pictures"]
    assert lines[3].startswith("warning: mug: 2 pictures")
    assert lines[-1] == f"  cpbench run --method isolated --sequence '{home / 'my.yaml'}' --backbone sd15"


def test_a_new_sequence_runs(tmp_path: Path) -> None:
    """From folders of pictures to a retention matrix, on the miniature; its words do not include `mug`."""
    for name in ("dog", "vase"):
        (tmp_path / name).mkdir()
        for k, picture in enumerate(images.rendered(name)):
            Image.fromarray(picture).resize((300, 260)).save(tmp_path / name / f"{k}.png")
    written = write(tmp_path / "my.yaml", [f"{tmp_path / 'dog'}:dog", f"{tmp_path / 'vase'}:mug"])
    done = cpbench.run(
        method="isolated",
        sequence=str(written.path),
        backbone="miniature",
        output=tmp_path / "runs",
        options={"steps": 1},
        evaluation={"num_inference_steps": 1, "pictures_per_prompt": 1},
    )
    matrix = done["matrices"]["dino"]
    assert list(matrix.columns) == ["dog", "vase"] and matrix.iloc[-1].notna().all()


# What is warned of


@pytest.mark.parametrize(("n", "warned"), [(1, True), (2, True), (3, False), (20, False), (21, True)])
def test_unusual_numbers_of_pictures_are_warned_of(tmp_path: Path, n: int, warned: bool) -> None:
    written = write(tmp_path / "my.yaml", [f"{photos(tmp_path / 'rex', n)}:dog"])
    assert [w.startswith(f"rex: {n} picture") for w in written.warnings] == [True] * warned


def test_small_pictures_are_named_with_their_size(tmp_path: Path) -> None:
    folder = photos(tmp_path / "rex")
    scene(7, 255, 900).save(folder / "slim.png")
    scene(8, 256, 256).save(folder / "enough.png")
    (warning,) = write(tmp_path / "my.yaml", [f"{folder}:dog"]).warnings
    assert "rex" in warning and "slim.png (255 x 900)" in warning and "enough" not in warning


@pytest.mark.parametrize("how", ["bytes", "pixels", "saved again", "half as large", "brighter", "turned by EXIF"])
def test_copies_are_named(tmp_path: Path, how: str) -> None:
    folder = photos(tmp_path / "rex")
    first, copy = Image.open(folder / "0.jpg"), folder / "copy.jpg"
    if how == "bytes":
        copy.write_bytes((folder / "0.jpg").read_bytes())
    elif how == "pixels":
        first.save(copy := folder / "copy.png")
    elif how == "saved again":
        first.save(copy, quality=40)
    elif how == "half as large":
        scene(0, 1200, 900).save(folder / "0.jpg")
        scene(0, 1200, 900).resize((600, 450)).save(copy)
    elif how == "brighter":
        ImageEnhance.Brightness(first).enhance(1.1).save(copy)
    else:
        exif = Image.Exif()
        exif[274] = 8
        first.rotate(-90, expand=True).save(copy, exif=exif, quality=95)
    (warning,) = write(tmp_path / "my.yaml", [f"{folder}:dog"]).warnings
    assert "0.jpg" in warning and copy.name in warning
    assert ("nearly" in warning) == (how not in ("bytes", "pixels"))


def test_a_picture_in_two_concepts_is_named(tmp_path: Path, rex_and_mug: list[str]) -> None:
    scene(0).save(tmp_path / "photos" / "mug" / "again.jpg", quality=90)
    (warning,) = write(tmp_path / "my.yaml", rex_and_mug).warnings
    assert "mug: again.jpg" in warning and "0.jpg of rex" in warning


@there
def test_real_photographs_raise_no_false_alarm(tmp_path: Path) -> None:
    """Of DreamBooth's 158 no two are copies, and none is small; the nearest are four drawings of one character."""
    names = sorted(f.name for f in PHOTOGRAPHS.iterdir() if f.is_dir())
    assert len(names) == 30
    written = write(tmp_path / "all.yaml", [f"{PHOTOGRAPHS / n}:{n.replace('_', ' ')}" for n in names])
    assert written.warnings == () and sum(written.counts.values()) == 158


@there
def test_copies_of_real_photographs_are_found(tmp_path: Path) -> None:
    """Saved again with quality 40, and half as large: found of 9 in 10 at least."""
    hashes = {f: new_sequence.average_hash(Image.open(f)) for f in sorted(PHOTOGRAPHS.glob("*/*.jpg"))}
    for change in ("saved again", "half as large"):
        found = 0
        for file, original in hashes.items():
            picture = Image.open(file)
            if change == "saved again":
                picture.save(tmp_path / "copy.jpg", quality=40)
                picture = Image.open(tmp_path / "copy.jpg")
            else:
                picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.BICUBIC)
            found += (new_sequence.average_hash(picture) ^ original).bit_count() <= new_sequence.NEARLY
        assert found >= 0.9 * len(hashes)


# What is refused


def test_bad_folders_and_pictures_are_refused_and_nothing_is_written(tmp_path: Path, rex_and_mug: list[str]) -> None:
    target = tmp_path / "out" / "my.yaml"
    target.parent.mkdir()
    gone = tmp_path / "photos" / "gone"
    assert str(gone) in complaint(target, [*rex_and_mug, f"{gone}:cat"])
    gone.mkdir()
    assert str(gone) in (line := complaint(target, [*rex_and_mug, f"{gone}:cat"])) and "no pictures" in line
    assert "twice" in complaint(target, [*rex_and_mug, rex_and_mug[0].replace("dog", "cat")])
    os.symlink(tmp_path / "photos" / "rex", tmp_path / "link")
    assert "twice" in complaint(target, [*rex_and_mug, f"{tmp_path / 'link'}:dog"])
    (tmp_path / "photos" / "rex" / "bad.png").write_text("words")
    assert "bad.png" in complaint(target, rex_and_mug)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("my", ".yaml"),
        ("photos/rex:dog", ".yaml"),
        ("dreambench10.yaml", "built-in"),
        ("???.yaml", "letters"),
        ("gone/my.yaml", "gone"),
    ],
)
def test_bad_targets_are_refused(tmp_path: Path, rex_and_mug: list[str], target: str, said: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert said in complaint(tmp_path / target, rex_and_mug)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["rex ", "a\tb", "{name}"])
def test_folders_that_yaml_cannot_name_are_refused(tmp_path: Path, name: str) -> None:
    photos(tmp_path / name)
    assert "rename it" in complaint(tmp_path / "my.yaml", [f"{tmp_path / name}:dog"])


def test_no_concepts_are_refused(tmp_path: Path) -> None:
    assert "~/photos/rex:dog" in complaint(tmp_path / "my.yaml", [])


# Words


@pytest.mark.parametrize(
    "item", ["", ":", "rex", "rex:", ":dog", "rex: ", "C:\\photos\\rex", "rex:/a", "rex:do{}g", "a:!"]
)
def test_items_of_another_form_are_refused(item: str) -> None:
    with pytest.raises(UserError, match="FOLDER:CLASS NOUN") as caught:
        parse(item)
    assert len(str(caught.value).splitlines()) == 1


NOUNS = st.from_regex(r"[A-Za-z][A-Za-z'-]{0,9}( [A-Za-z'-]{1,9}){0,2}", fullmatch=True)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30), NOUNS)
def test_any_folder_may_hold_colons(folder: str, noun: str) -> None:
    found, word = parse(f"/photos/{folder}:{noun}")
    assert found == Path(os.path.abspath(f"/photos/{folder}")) and word == noun


@given(st.text(max_size=60))
def test_items_are_read_or_refused_in_one_line(item: str) -> None:
    try:
        folder, noun = parse(item)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert folder.is_absolute() and noun and noun.isprintable() and noun == noun.strip()


@given(st.text(max_size=300))
def test_names_are_legal_or_nothing_is_left(text: str) -> None:
    name = legal_name(text)
    assert name == "" or (FILE_NAME.fullmatch(name) and len(name) <= 64 and legal_name(name) == name)


def test_long_names_are_cut_and_stay_legal() -> None:
    assert legal_name("a" * 300) == "a" * 64 and legal_name("a" * 63 + "-b") == "a" * 63


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,40}[A-Za-z0-9]", fullmatch=True))
def test_names_that_are_legal_stay(name: str) -> None:
    assert legal_name(name) == name


@given(
    st.lists(st.tuples(st.text(st.sampled_from("aAé-2_ 犬"), max_size=4), st.sampled_from(["dog", "犬"])), max_size=8)
)
def test_no_two_concepts_have_one_name(parts: list[tuple[str, str]]) -> None:
    names = names_of([(Path("/", folder), noun) for folder, noun in parts])
    assert len({n.lower() for n in names}) == len(parts) and all(FILE_NAME.fullmatch(n) for n in names)


@pytest.mark.parametrize(
    ("noun", "kind"),
    [
        ("dog", "live"),
        ("Dog", "live"),
        ("golden retriever", "live"),
        ("person", "live"),
        ("stuffed animal", "object"),
        ("rubber duck", "object"),
        ("dog bowl", "object"),
        ("teapot", "object"),
    ],
)
def test_kinds_are_guessed_from_the_last_word(noun: str, kind: str) -> None:
    assert guess_subject_type(noun) == kind


def test_guesses_agree_with_dreambench() -> None:
    for concept in sequences.load("dreambench30").concepts:
        assert guess_subject_type(concept.class_noun) == concept.subject_type, concept.class_noun
