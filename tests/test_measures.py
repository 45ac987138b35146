"""What is measured beyond the matrices, from pictures on disk, against the same worked out by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cpbench import images, measures, sequences
from cpbench.embeddings import Embeddings
from cpbench.judges import load_for
from cpbench.results import read_json


@pytest.fixture(scope="module")
def ran(short_run: Callable) -> Path:
    return short_run("seqlora")


def picture(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def value(table: pd.DataFrame, row: int, measure: str, concept: str) -> float:
    (found,) = table[(table["row"] == row) & (table["measure"] == measure) & (table["concept"] == concept)]["value"]
    return found


def test_they_are_those_of_the_pictures(ran: Path, short: Path) -> None:
    table, confusion = measures.read(ran), measures.read_confusion(ran)
    dino = load_for("miniature")["dino"]
    sequence = sequences.load(str(short))
    real = {c.name: dino.images(images.load(c, "miniature", 64)) for c in sequence.concepts}
    for t, learned in ((0, ("dog", "vase")), (1, ("dog",)), (2, ("dog", "vase"))):
        for concept in learned:
            files = sorted((ran / f"task-{t:02d}" / "pictures" / concept).glob("0*.png"))
            a, b = (dino.images(picture(f)[None])[0] for f in files)
            assert value(table, t, "diversity", concept) == pytest.approx(1 - float(a @ b), abs=1e-4)
            nearest = [max(real, key=lambda name: float(np.mean(real[name] @ v))) for v in (a, b)]  # noqa: B023
            assert value(table, t, "identified", concept) == pytest.approx(nearest.count(concept) / 2)
            mine = confusion[(confusion["row"] == t) & (confusion["concept"] == concept)].set_index("nearest")["count"]
            assert mine.to_dict() == {name: nearest.count(name) for name in real}
            pairs = [float(x @ y) for i, x in enumerate(real[concept]) for y in real[concept][:i]]
            near = [max(float(v @ r) for r in real[concept]) for v in (a, b)]
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
    assert set(table[table["measure"] == "pres"]["row"]) == {1, 2}


def test_the_record_has_the_means_of_the_last_row(ran: Path) -> None:
    table, kept = measures.read(ran), read_json(ran / "run.json")["measures"]
    last = table[table["row"] == 2]
    assert set(kept) == {"identified", "copied", "diversity", "moved", "pres", "pres_before"}
    for measure, mean in kept.items():
        assert mean == pytest.approx(last[last["measure"] == measure]["value"].mean(), abs=1e-5)


def test_embeddings_are_kept_by_content_and_made_again_where_the_file_is_broken(ran: Path, tmp_path: Path) -> None:
    judge = load_for("miniature")["dino"]
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
    judge = load_for("miniature")["dino"]
    judge.images = pytest.fail
    kept = Embeddings(ran, judge)
    measured = [f for f in ran.glob("task-*/p*/*/[0-9]*.png") if "+" not in f.parent.name]  # pairs are not
    assert len(measured) == 5 * 2 + 3 * 15
    for file in measured:
        kept.images(picture(file)[None])


@pytest.mark.parametrize("spoil", ["", "row,measure,concept,value\n1,moved,dog,0.1", "a,b\n1,2\n"])
def test_a_broken_table_is_none(spoil: str, tmp_path: Path) -> None:
    (tmp_path / "measures.csv").write_text(spoil)
    assert measures.read(tmp_path) is None and measures.read_confusion(tmp_path) is None


def test_one_picture_a_prompt_has_no_diversity() -> None:
    one, two = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert np.isnan(measures.variety({("a", 0): one, ("b", 0): two}))
    assert measures.variety({("a", 0): one, ("a", 1): two, ("b", 0): one}) == 1.0


def test_a_noun_with_other_characters_stays_in_the_folder() -> None:
    from cpbench.cells import Cell

    cell = Cell("prior", "../../etc/pass wd", (), ("x",), ("a {}",), 1)
    assert measures.folder_of(Path("run"), cell) == Path("run/prior/etc-pass-wd")
