"""Two learned concepts in one picture: which pairs, what is drawn of them, and how it is scored."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from cpbench.concepts import held_out, sequences
from cpbench.errors import UserError
from cpbench.files import read_json
from cpbench.judges.select import load_judges
from cpbench.metrics.multi_concept import summary as pair_summary
from cpbench.metrics.scores import SCORES
from cpbench.records import terminal
from cpbench.records.tables import read_scores
from cpbench.running import multi_concept


@pytest.fixture
def of(tmp_path: Path) -> Callable[..., sequences.Sequence]:
    """of(class nouns, compositions): a sequence of concepts c0, c1, ..."""
    return lambda *words: written(tmp_path / "x.yaml", *words)


def written(file: Path, nouns: str, compositions: str = '["a {} and a {}"]') -> sequences.Sequence:
    listed = "\n".join(f"  - {{name: c{k}, class_noun: {n}, kind: live}}" for k, n in enumerate(nouns.split()))
    text = "name: x\nversion: 1\nimages: {folder: '{name}'}\nconcepts:\n" + listed
    text += "\nevaluation:\n  live: ['a {} in the snow']\n"
    file.write_text(text + (f"  compositions: {compositions}\n" if compositions else ""))
    return sequences.load(str(file))


@pytest.mark.parametrize(
    ("nouns", "expected"),
    [
        ("dog", []),
        ("dog cat", [(0, 1)]),
        ("dog dog", []),
        ("dog cat dog", [(0, 1), (1, 2)]),
        ("dog cat dog vase", [(1, 3)]),
        ("a b c d e f g h", [(0, 4), (1, 5), (2, 6)]),
    ],
)
def test_pairs_are_an_earlier_and_a_later_concept_of_other_classes(of: Callable, nouns: str, expected: list) -> None:
    found = multi_concept.concept_pairs(of(nouns))
    assert [(a.name, b.name) for a, b in found] == [(f"c{i}", f"c{j}") for i, j in expected]
    assert multi_concept.concept_pairs(of(nouns, "")) == []


@pytest.mark.parametrize("template", ["a {}", "a {} {} {}", "a {} and a {name}", "nothing"])
def test_a_composition_has_two_slots(of: Callable, template: str) -> None:
    with pytest.raises(UserError, match="must contain {} twice, for two concepts, and no other brace"):
        of("dog cat", f"['{template}']")


def test_compositions_are_part_of_what_moves_a_score(of: Callable) -> None:
    assert sequences.content_hash(of("dog cat")) != sequences.content_hash(of("dog cat", "['a {} by a {}']"))
    assert sequences.content_hash(of("dog cat")) != sequences.content_hash(of("dog cat", ""))


def test_a_run_draws_them_first_and_last_and_scores_them_by_both(short_run: Callable, short: Path) -> None:
    folder = short_run("seqlora")
    scores = read_scores(folder / "scores.csv")
    pair = scores[scores["kind"] == "pair"]
    assert set(pair["row"]) == {0, 2} and set(pair["concept"]) == {"dog+vase"}
    assert len(pair) == 2 * 2 * len(multi_concept.pair_metrics(SCORES.values()))

    judges = load_judges("miniature", None, None, "cpu")
    seq = sequences.load(str(short))
    for row in (0, 2):
        files = sorted((folder / f"task-{row:02d}" / "pictures" / "dog+vase").glob("*.png"))
        pictures = [np.asarray(Image.open(f)) for f in files]
        assert len(pictures) == 2
        drawn = pair[pair["row"] == row].set_index(["metric", "index"])["value"]
        for place, concept in zip(("first", "second"), seq.concepts, strict=True):
            real = judges["dino"].images(held_out.further_drawings(concept.name, 8))
            for k, picture in enumerate(pictures):
                mine = judges["dino"].images(picture[None])[0]
                expected = np.mean([float(mine @ r) for r in real])
                assert drawn[f"dino_{place}", k] == pytest.approx(expected, abs=1e-4)
        texts = ["a photo of a dog and a vase", "a photo of a dog", "a photo of a vase"]
        words = judges["clip"].texts(texts)
        for k, picture in enumerate(pictures):
            likeness = words @ judges["clip"].images(picture[None])[0]
            assert drawn["both", k] == float(likeness[0] > max(likeness[1:]))


def test_the_summary_is_the_means(short_run: Callable) -> None:
    folder = short_run("seqlora")
    table = read_scores(folder / "scores.csv")
    kept = read_json(folder / "run.json")["multi_concept"]
    assert set(kept) == {"0", "2"}
    for row, figures in kept.items():
        part = table[(table["kind"] == "pair") & (table["row"] == int(row))]
        both = part[part["metric"].isin(("dino_first", "dino_second"))]["value"].mean()
        assert figures["dino"] == pytest.approx(both) and set(figures) == {"dino", "clip_i", "clip_t", "both"}
    assert pair_summary(table[table["kind"] != "pair"]) == {}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal.run_tables(folder, ["dog", "vase"], 2)[-1])
    shown = console.export_text()
    assert "two concepts in one picture" in shown and f"{kept['2']['dino']:.3f}" in shown


def test_a_pair_counts_as_much_as_another() -> None:
    rows = [(0, "pair", "a+b", "p", k, "both", 1.0) for k in range(9)] + [(0, "pair", "c+d", "p", 0, "both", 0.0)]
    table = pd.DataFrame(rows, columns=["row", "kind", "concept", "prompt", "index", "metric", "value"])
    assert pair_summary(table) == {"0": {"both": 0.5}}


def test_a_method_that_cannot_is_not_defined_and_never_zero(short_run: Callable) -> None:
    folder = short_run("isolated")
    pair = (scores := read_scores(folder / "scores.csv"))[scores["kind"] == "pair"]
    assert pair[pair["row"] == 2]["value"].isna().all() and pair[pair["row"] == 0]["value"].notna().all()
    assert read_json(folder / "run.json")["status"] == "finished"
