"""References that no method learns from: the world's further drawings, and photographs that are kept from learning."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cpbench.concepts import held_out, images, sequences
from cpbench.config import resolve
from cpbench.errors import ReplayError, UserError
from cpbench.judges.select import load_judges
from cpbench.records.reading import read
from cpbench.records.tables import read_scores
from cpbench.running import audit, prepare


def concept(name: str, folder: Path | None = None) -> sequences.Concept:
    return sequences.Concept(name, "dog", "live", ("a {}",), str(folder) if folder else None, folder is None)


@pytest.fixture
def photographed(tmp_path: Path) -> list[sequences.Concept]:
    """Two concepts of 6 and 4 photographs, each of two colours of its own."""
    for name, n in (("rex", 6), ("cup", 4)):
        (tmp_path / name).mkdir()
        for k in range(n):
            picture = np.full((16, 16, 3), 10 * k + (100 if name == "cup" else 0), np.uint8)
            picture[:8] += 3
            Image.fromarray(picture).save(tmp_path / name / f"{k}.png")
    return [concept("rex", tmp_path / "rex"), concept("cup", tmp_path / "cup")]


@pytest.mark.parametrize("name", ["dog", "val_vase"])
def test_further_drawings_are_of_the_same_individual_and_other_pictures(name: str) -> None:
    training, further = images.rendered(name), held_out.further_drawings(name, 8)
    assert further.shape == (8, 64, 64, 3) and further.dtype == np.uint8
    np.testing.assert_array_equal(further, held_out.further_drawings(name, 8))
    for picture in further:
        assert all((picture != trained).mean() > 0.2 for trained in training)
    dino = load_judges("miniature")["dino"]
    other = "cat" if name == "dog" else "vase"
    own, strange = (dino.images(held_out.further_drawings(n, 8)) for n in (name, other))
    trained = dino.images(training)
    assert (own @ trained.T).mean() > (strange @ trained.T).mean() + 0.05


def test_a_drawn_concept_has_eight_and_a_photographed_one_none_unless_asked(
    photographed: list[sequences.Concept],
) -> None:
    training, references = held_out.load([concept("dog")], "miniature", 64, None)
    np.testing.assert_array_equal(training["dog"], images.rendered("dog"))
    assert len(references["dog"]) == 8 and held_out.number_to_learn(concept("dog"), "miniature", None) == 5
    training, references = held_out.load([concept("dog")], "miniature", 64, 0)
    assert references["dog"] is training["dog"]
    training, references = held_out.load(photographed, "sd15", 16, None)
    assert all(references[c.name] is training[c.name] for c in photographed)


def test_the_last_photographs_are_kept_from_learning(photographed: list[sequences.Concept]) -> None:
    rex = photographed[:1]
    everything = images.load(rex[0], "sd15", 16)
    training, references = held_out.load(rex, "sd15", 16, 2)
    np.testing.assert_array_equal(training["rex"], everything[:4])
    np.testing.assert_array_equal(references["rex"], everything[4:])
    assert held_out.number_to_learn(rex[0], "sd15", 2) == 4
    assert training["rex"].base is None and references["rex"].base is None  # no view leads from one to the other
    folder = Path(rex[0].images)
    assert held_out.files(rex[0], "sd15", 2) == [folder / "4.png", folder / "5.png"]
    assert held_out.files(rex[0], "sd15", None) == [] == held_out.files(concept("dog"), "miniature", None)
    with audit.learning_only("rex", held_out.files(rex[0], "sd15", 2), folder / "runs"):
        Image.open(folder / "3.png").load()
        with pytest.raises(ReplayError, match="identity is scored against"):
            Image.open(folder / "4.png").load()


def test_too_few_photographs_are_refused_with_who_has_enough(photographed: list[sequences.Concept]) -> None:
    with pytest.raises(UserError) as line:
        held_out.load(photographed, "sd15", 16, 2)
    assert str(line.value) == (
        "evaluation.held_out=2: needs 5 photographs of each concept, and cup has 4; use a sequence of the others (rex)"
    )
    with pytest.raises(UserError, match="and rex has 6, cup has 4; hold out fewer"):
        held_out.load(photographed, "sd15", 16, 4)
    held_out.load(photographed, "sd15", 16, 1)


def test_no_method_is_given_a_reference(short: Path, tmp_path: Path) -> None:
    run = prepare.prepare(*resolve({"method": "seqlora", "sequence": str(short), "output": tmp_path}))
    for name in run.concepts:
        assert not any((run.images[name] == r).all(axis=(1, 2, 3)).any() for r in run.references[name])


def test_a_run_says_which_references_it_has(short: Path, short_run: Callable, tmp_path: Path) -> None:
    import cpbench

    settings = {"steps": 3, "batch_size": 1, "rank": 2, "learning_rate": 3e-2}
    ran = short_run("seqlora")
    assert read(ran).references == "held-out"
    against_training = cpbench.run(
        method="seqlora", sequence=str(short), output=tmp_path, options=settings, evaluation={"held_out": 0}
    )
    record = read(Path(against_training["folder"]))
    assert record.references == "training" and record.hash != read(ran).hash
    held, trained = (read_scores(Path(folder) / "scores.csv") for folder in (ran, against_training["folder"]))
    keys = ["row", "kind", "concept", "prompt", "index", "metric"]
    moved = (held.set_index(keys)["value"] - trained.set_index(keys)["value"]).abs().groupby("metric").max()
    assert moved["dino"] > 1e-3 and moved["clip_t"] == 0
