"""What a row has: concepts, pairs, plain nouns; and that plain nouns are drawn by whatever the model has become."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cpbench.concepts import sequences
from cpbench.files import read_json
from cpbench.miniature import world
from cpbench.records.tables import read_scores
from cpbench.running import cells, rows

SHORT = """
name: short
version: 1
images: {drawn: true}
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: vase, class_noun: vase, kind: object}
evaluation:
  live: ["a {} in the snow", "a {} on the beach"]
  object: ["a {} in the snow"]
  pictures_per_prompt: 2
  num_inference_steps: 1
  prior: ["a photo of a {}", "a {} in the snow"]
  compositions: ["a {} and a {}"]
"""


@pytest.fixture
def two(tmp_path: Path) -> sequences.Sequence:
    (tmp_path / "two.yaml").write_text(SHORT)
    return sequences.load(str(tmp_path / "two.yaml"))


def test_the_nouns_are_dreambenchs() -> None:
    assert sorted(cells.NOUNS) == sorted(world.NOUNS) and len(set(cells.NOUNS)) == 15


def test_rows_have_what_was_learned_pairs_at_both_ends_and_all_nouns(two: sequences.Sequence) -> None:
    made = [cells.cells_of_row(two, t, 2) for t in range(3)]
    for cell_names, row in zip((["dog", "vase"], ["dog"], ["dog", "vase"]), made, strict=True):
        assert [c.name for c in row if c.cell_type == "cell"] == cell_names
    assert [[c.name for c in row if c.cell_type == "pair"] for row in made] == [["dog+vase"], [], ["dog+vase"]]
    for row in made:
        assert {c.name for c in row if c.cell_type == "prior"} == set(cells.NOUNS)
        counts = {(c.name, c.cell_type): c.pictures for c in row}
        assert counts["dog", "cell"] == 4 and counts["dog", "prior"] == 2 and counts.get(("dog+vase", "pair"), 2) == 2
        assert all(len(c.samples) == c.pictures == len(set(c.samples)) for c in row)


def test_nouns_that_a_sequence_has_beyond_dreambenchs_are_asked_for_as_well(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        SHORT.replace("drawn: true", "folder: '{name}'").replace("class_noun: dog", "class_noun: red panda")
    )
    names = [c.name for c in cells.cells_of_row(sequences.load(str(file)), 1, 1) if c.cell_type == "prior"]
    assert names[0] == "red panda" and sorted(names[1:]) == sorted(cells.NOUNS)


def test_without_the_key_no_noun_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("".join(line for line in SHORT.splitlines(True) if "prior" not in line and "comp" not in line))
    assert {c.cell_type for c in cells.cells_of_row(sequences.load(str(file)), 0, 1)} == {"cell"}


def test_the_upper_triangle_is_asked_for_by_class_nouns(two: sequences.Sequence) -> None:
    made = [cells.cells_of_row(two, t, 2, forward_transfer_cells=True, are_drawn=True) for t in range(3)]
    assert [[c.name for c in row if c.cell_type == "unlearned"] for row in made] == [[], ["vase"], []]
    (cell,) = (c for c in made[1] if c.cell_type == "unlearned")
    assert cell.nouns == ("vase",) and not cell.learned and cell.pictures == 2
    assert [c for c in made[1] if c.cell_type != "unlearned"] == cells.cells_of_row(two, 1, 2, are_drawn=True)


def test_plain_nouns_are_drawn_at_once(two: sequences.Sequence) -> None:
    row = cells.cells_of_row(two, 1, 2, forward_transfer_cells=True, are_drawn=True)
    groups = rows.generation_groups(row)
    assert [[cell.name for cell in group] for group in groups[:-1]] == [["dog"], ["vase"]]
    assert groups[-1] == row[2:] and len(groups[-1]) == 15
    groups = rows.generation_groups(cells.cells_of_row(two, 2, 2, are_drawn=True))
    assert [cell.name for cell in groups[-1]] == ["own nouns", "other nouns"]
    assert rows.generation_groups(row[:1]) == [row[:1]]


def test_forward_transfer_is_of_its_cells_when_they_are_generated(short_run: Callable) -> None:
    run = short_run("seqlora", {"forward_transfer_cells": True})
    scores, record = read_scores(run / "scores.csv"), read_json(run / "run.json")
    dino = scores[(scores["metric"] == "dino") & (scores["concept"] == "vase")].groupby(["row", "kind"])["value"].mean()
    moved = dino[1, "unlearned"] - dino[0, "cell"]
    assert record["figures"]["dino"]["forward_transfer"] == pytest.approx(moved, abs=1e-5)
    assert moved != 0 and record["facts"]["upper_triangle"] is True
    plain = read_scores(short_run("seqlora") / "scores.csv")
    both = scores[scores["kind"] != "unlearned"].reset_index(drop=True)
    assert both.equals(plain)  # it changes nothing of what is drawn without it
    assert read_json(short_run("seqlora") / "run.json")["figures"]["dino"]["forward_transfer"] is None


def test_a_model_that_changed_draws_other_nouns_and_one_that_did_not_the_same(short_run: Callable) -> None:
    for run, same in ((short_run("base"), True), (short_run("seqlora"), False)):
        scores = read_scores(run / "scores.csv")
        prior = scores[scores["kind"] == "prior"]
        assert set(prior["metric"]) == {"clip_t"} and len(prior) == 3 * 15
        folders = [run / f"task-{t:02d}" / "prior" for t in (0, 2)]
        files = [{f.relative_to(top): f.read_bytes() for f in top.rglob("*.png")} for top in folders]
        assert len(files[0]) == 15 and files[0].keys() == files[1].keys()
        assert (files[0] == files[1]) == same
