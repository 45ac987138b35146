"""Prompts without any learned word: what they ask for is asked for nowhere else, and where they are generated."""

import pytest

from cpbench.concepts import sequences
from cpbench.miniature.world import NOUNS, read_prompt
from cpbench.running import cells, unrelated

WITH_NOUNS = [
    name
    for name in ("quick3", "dreambench10", "dreambench30", "miniature50")
    if sequences.load(name).evaluation.class_noun_prompts
]


@pytest.mark.parametrize("name", WITH_NOUNS)
def test_ten_prompts_in_settings_that_no_evaluation_prompt_has(name: str) -> None:
    sequence = sequences.load(name)
    parts = unrelated.prompts(sequence, True)
    texts = [text for prompts in parts.values() for text in prompts]
    assert len(set(texts)) == len(texts) == 10 and not any("{" in text or "<" in text for text in texts)
    test = sequence.evaluation
    asked = [read_prompt(t) for t in [*(t for ts in test.prompts.values() for t in ts), *test.multi_concept_prompts]]
    for text in texts:
        setting = read_prompt(text)
        assert setting.place or setting.finish or setting.outfit
        for part in ("place", "outfit", "finish"):
            value = getattr(setting, part)
            assert value is None or value not in {getattr(a, part) for a in asked}
    own = {c.class_noun for c in sequence.concepts}
    nouns = {part: {noun for t in parts[part] for noun in NOUNS if f" {noun} " in f"{t} "} for part in parts}
    assert nouns["own nouns"] <= own
    if "other nouns" in parts:
        assert not nouns["other nouns"] & own and len(parts["other nouns"]) == min(5, len(set(NOUNS) - own))


def test_they_do_not_depend_on_the_order_of_learning() -> None:
    sequence = sequences.load("dreambench10")
    assert unrelated.prompts(sequences.ordered(sequence, 1), True) == unrelated.prompts(sequence, True)


def test_other_backbones_get_pefts_prompts_too() -> None:
    sequence = sequences.load("quick3")
    drawn, photographed = (unrelated.prompts(sequence, d) for d in (True, False))
    assert set(photographed) - set(drawn) == {"peft"} and len(photographed["peft"]) == 10


def test_a_sequence_without_plain_nouns_has_none() -> None:
    assert unrelated.prompts(sequences.load("miniature-val6"), True) == {}


def test_they_are_in_the_first_and_the_last_row_with_two_pictures_each_and_no_concept() -> None:
    sequence = sequences.load("quick3")
    for t in range(4):
        of_row = [c for c in cells.cells_of_row(sequence, t, 1, are_drawn=True) if c.cell_type == "unrelated"]
        assert sum(cell.pictures for cell in of_row) == (20 if t in (0, 3) else 0) and not any(
            cell.learned for cell in of_row
        )
