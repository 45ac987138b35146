"""What is measured beyond the matrices, from pictures on disk, against the same worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import cpbench
from cpbench.concepts import held_out, images, sequences
from cpbench.files import read_json
from cpbench.judges.embeddings import Embeddings
from cpbench.judges.select import load_judges
from cpbench.metrics import distances
from cpbench.records import measures_table
from cpbench.records.folder import RunFolder, TaskFolder
from cpbench.records.measures_table import read_confusion
from cpbench.running import cells, measures, unrelated

OPTIONS = {"steps": 3, "batch_size": 1, "rank": 2, "learning_rate": 3e-2}  # of short_run


@pytest.fixture(scope="module")
def ran(short_run: Callable) -> Path:
    return short_run("seqlora")


def picture(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def value(table: pd.DataFrame, row: int, measure: str, concept: str) -> float:
    (found,) = table[(table["row"] == row) & (table["measure"] == measure) & (table["concept"] == concept)]["value"]
    return found


def test_they_are_those_of_the_pictures(ran: Path, short: Path) -> None:
    table, confusion = measures_table.read(ran), read_confusion(ran)
    dino = load_judges("miniature")["dino"]
    sequence = sequences.load(str(short))
    trained, real = (
        {name: dino.images(pictures) for name, pictures in part.items()}
        for part in held_out.load(sequence.concepts, "miniature", 64, None)
    )
    for t, learned in ((0, ("dog", "vase")), (1, ("dog",)), (2, ("dog", "vase"))):
        for concept in learned:
            files = sorted((ran / f"task-{t:02d}" / "pictures" / concept).glob("0*.png"))
            a, b = (dino.images(picture(f)[None])[0] for f in files)
            assert value(table, t, "DIV-dino", concept) == pytest.approx(1 - float(a @ b), abs=1e-4)
            nearest = [max(real, key=lambda name: float(np.mean(real[name] @ v))) for v in (a, b)]  # noqa: B023
            assert value(table, t, "identified", concept) == pytest.approx(nearest.count(concept) / 2)
            mine = confusion[(confusion["row"] == t) & (confusion["concept"] == concept)].set_index("nearest")["count"]
            assert mine.to_dict() == {name: nearest.count(name) for name in real}
            pairs = [float(x @ y) for i, x in enumerate(trained[concept]) for y in trained[concept][:i]]
            near = [max(float(v @ r) for r in trained[concept]) for v in (a, b)]
            assert value(table, t, "copied", concept) == sum(n > max(pairs) for n in near) / 2
        for noun in ("dog", "vase", "candle"):
            then, now = (
                dino.images(picture(ran / f"task-{s:02d}" / "prior" / noun / "00-0.png")[None])[0] for s in (0, t)
            )
            assert value(table, t, "moved", noun) == pytest.approx(1 - float(then @ now), abs=1e-4)
            if noun in learned and t:
                assert value(table, t, "pres", noun) == pytest.approx(float(np.mean(real[noun] @ now)), abs=1e-4)
                assert value(table, t, "pres_before", noun) == pytest.approx(
                    float(np.mean(real[noun] @ then)), abs=1e-4
                )
    assert value(table, 0, "moved", "dog") == 0 < value(table, 2, "moved", "candle")
    clip = load_judges("miniature")["clip"]
    for part, prompts in unrelated.prompts(sequence, True).items():
        for i, prompt in enumerate(prompts):
            files = [
                [ran / f"task-0{t}" / "unrelated" / part.replace(" ", "-") / f"{i:02d}-{k}.png" for k in (0, 1)]
                for t in (0, 2)
            ]
            before, now = (np.stack([picture(f) for f in row]) for row in files)
            moved = 1 - (dino.images(before) * dino.images(now)).sum(1)
            assert value(table, 2, "unrelated_moved", f"{part}: {prompt}") == pytest.approx(moved.mean(), abs=1e-4)
            change = (clip.images(now) - clip.images(before)) @ clip.texts([prompt])[0]
            assert value(table, 2, "unrelated_text", f"{part}: {prompt}") == pytest.approx(change.mean(), abs=1e-4)
            assert value(table, 0, "unrelated_moved", f"{part}: {prompt}") == 0
    assert set(table[table["measure"] == "pres"]["row"]) == {1, 2}


def test_the_record_has_the_means_of_the_last_row(ran: Path) -> None:
    table, kept = measures_table.read(ran), read_json(ran / "run.json")["measures"]
    last = table[table["row"] == 2]
    drift = {"moved", "pres", "pres_before", "unrelated_moved", "unrelated_text"}
    assert set(kept) == {"identified", "copied", "DIV-dino"} | drift
    for measure, mean in kept.items():
        assert mean == pytest.approx(last[last["measure"] == measure]["value"].mean(), abs=1e-5)


def test_embeddings_are_kept_by_content_and_made_again_where_the_file_is_broken(ran: Path, tmp_path: Path) -> None:
    judge = load_judges("miniature")["dino"]
    pictures = np.stack([picture(f) for f in sorted((ran / "task-00" / "pictures" / "dog").glob("0*.png"))])
    asked: list[int] = []
    plain = judge.images
    judge.images = lambda given: asked.append(len(given)) or plain(given)
    first = Embeddings(tmp_path, judge)
    vectors = first.images(pictures)
    first.save()
    again = Embeddings(tmp_path, judge)
    np.testing.assert_array_equal(again.images(pictures[::-1]), vectors[::-1])
    assert asked == [2]
    again.file.write_bytes(again.file.read_bytes()[:-3])
    np.testing.assert_allclose(Embeddings(tmp_path, judge).images(pictures), vectors, atol=1e-6)
    assert asked == [2, 2]


def test_a_run_keeps_the_embeddings_of_concepts_and_nouns(ran: Path) -> None:
    judge = load_judges("miniature")["dino"]
    judge.images = pytest.fail
    kept = Embeddings(RunFolder(ran).embeddings, judge)
    measured = [f for f in ran.glob("task-*/[pu]*/*/[0-9]*.png") if "+" not in f.parent.name]  # pairs are not
    assert len(measured) == 5 * 2 + 3 * 15 + 2 * 10 * 2
    for file in measured:
        kept.images(picture(file)[None])


@pytest.mark.parametrize("spoil", ["", "row,measure,concept,value\n1,moved,dog,0.1", "a,b\n1,2\n"])
def test_a_broken_table_is_none(spoil: str, tmp_path: Path) -> None:
    (tmp_path / "measures.csv").write_text(spoil)
    assert measures_table.read(tmp_path) is None and read_confusion(tmp_path) is None


def test_one_picture_a_prompt_has_no_diversity() -> None:
    one, two = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    for vectors, expected in (
        ({("a", 0): one, ("b", 0): two}, np.nan),
        ({("a", 0): one, ("a", 1): two, ("b", 0): one}, 1.0),
    ):
        name, value = measures.variety(dict.fromkeys(vectors, picture), vectors)
        assert name == "DIV-dino" and value == pytest.approx(expected, nan_ok=True)


def test_too_few_pictures_for_distances_between_sets_are_told_in_two_lines(
    ran: Path, capsys: pytest.CaptureFixture
) -> None:
    (ran / "run.json").unlink()  # to be finished again, from what is there
    cpbench.run(method="seqlora", sequence=str(ran.parents[5] / "short.yaml"), output=ran.parents[4], options=OPTIONS)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not measured")]
    need = "all 2 concepts pooled, are too few: it needs 50 per side"
    assert len(said) == 2
    assert said[0].startswith(f"not measured: A_mmd, CMMD, KID-dino: 16 and 4 pictures, {need}")
    assert said[1].startswith("not measured: F_mmd: 2 and 2 pictures, of one concept, are too few")
    assert not set(measures_table.read(ran)["measure"]) & {"A_mmd", "CMMD", "F_mmd", "KID-dino"}


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, sequences.Sequence, dict[str, np.ndarray]]:
    """A run's pictures over dreambench10: the world's own, but that the last model draws every concept as the last one."""
    folder, sequence = tmp_path_factory.mktemp("ten"), sequences.load("dreambench10")
    real = {c.name: images.load(c, "miniature", 64) for c in sequence.concepts}
    for t in range(11):
        for cell in cells.cells_of_row(sequence, t, 1):
            if cell.cell_type == "cell":
                who = sequence.concepts[-1].name if t == 10 else cell.name
                for template in cell.templates:
                    file = cells.picture_of(RunFolder(folder).task(t), cell, template, 0)
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(images.oracle(who, template, 0, 0)).save(file)
    return folder, sequence, real


def test_distances_between_sets_are_those_of_the_pictures_features(ten: tuple) -> None:
    folder, sequence, real = ten
    judges = {kind: Embeddings(folder, judge) for kind, judge in load_judges("miniature").items()}
    found = measures.measure(folder, sequence, list(range(11)), 1, real, judges)
    table = found.table[found.table["concept"] == ""].pivot(index="row", columns="measure", values="value")
    assert found.refused == {}

    def drawn(kind: str, t: int, concepts: list[str]) -> np.ndarray:
        files = [f for c in concepts for f in sorted((folder / f"task-{t:02d}" / "pictures" / c).glob("0*.png"))]
        return judges[kind].images(np.stack([picture(f) for f in files])).astype(float)

    names = [c.name for c in sequence.concepts]
    whole = {kind: judges[kind].images(np.concatenate([real[c] for c in names])).astype(float) for kind in judges}
    assert whole["clip"].shape[0] == 50  # of ten concepts, the least there must be
    assert set(table.index[table["A_mmd"].notna()]) == set(table.index[table["KID-dino"].notna()]) == {10}
    now = drawn("clip", 10, names)
    expected = 1000 * distances.polynomial_mmd(whole["clip"], now)
    assert table["A_mmd"][10] == pytest.approx(expected, rel=1e-3)
    assert table["CMMD"][10] == pytest.approx(1000 * distances.gaussian_mmd(whole["clip"], now), rel=1e-3)
    kid = distances.kernel_inception_distance(whole["dino"], drawn("dino", 10, names))
    assert table["KID-dino"][10] == pytest.approx(kid, rel=1e-3)
    # what was drawn right after learning, of the earlier concepts: from seven with eight pictures on
    assert set(table.index[table["F_mmd"].notna()]) == {8, 9, 10}
    assert abs(table["F_mmd"][8]) < 1e-6 and abs(table["F_mmd"][9]) < 1e-6  # the same pictures
    then = np.concatenate([drawn("clip", j, [c]) for j, c in enumerate(names[:-1], 1)])
    expected = 1000 * distances.polynomial_mmd(then, drawn("clip", 10, names[:-1]), paired=True)
    assert table["F_mmd"][10] == pytest.approx(expected, rel=1e-3) and expected > 1


def test_what_was_forgotten_is_not_told_of_rows_that_were_not_drawn(ten: tuple) -> None:
    folder, sequence, real = ten
    judges = {kind: Embeddings(folder, judge) for kind, judge in load_judges("miniature").items()}
    found = measures.measure(folder, sequence, [0, 5, 10], 1, real, judges)
    assert found.refused == {
        "F_mmd": "dog has no pictures from right after its own task; generate all rows, or set evaluation.diagonal=true"
    }
    assert measures.refusals(found.refused) == [
        "not measured: F_mmd: dog has no pictures from right after its own task; generate all rows, or set evaluation.diagonal=true"
    ]


def test_a_noun_with_other_characters_stays_in_the_folder() -> None:
    from cpbench.running.cells import Cell

    cell = Cell("prior", "../../etc/pass wd", (), ("x",), ("a {}",), 1)
    assert cells.picture_of(TaskFolder(Path("run")), cell, "a {}", 0) == Path("run/prior/etc-pass-wd/00-0.png")
