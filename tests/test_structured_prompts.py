"""Prompts with slots: each slot filled, nothing that lives woven, none of the test practised."""

from pathlib import Path

import pytest
import torch
import yaml

from cpbench.backbones.backbone import Backbone
from cpbench.concepts import sequences
from cpbench.learning import structured_prompts as structured

ROOT = Path(__file__).parent.parent / "tasks"
SLOTS = ("SHAPES", "COLOURS", "TEXTURES", "MOTIONS", "STYLES", "BACKGROUNDS")


def phrases(slot: str) -> list[str]:
    """The phrases of a slot, one by one: what stands between commas, with its line breaks mended."""
    return [" ".join(phrase.split()) for phrase in getattr(structured, slot).split(",")]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def evaluation_prompts() -> set[str]:
    """Every prompt that any sequence draws, in lower case."""
    found = set()
    for file in (ROOT / "prompts").glob("*.yaml"):
        found |= set(yaml.safe_load(file.read_text())["prompts"])
    for file in ROOT.glob("*.yaml"):
        for told in sequences.load(file.stem).evaluation.prompts.values():
            found |= set(told)
    assert len(found) > 100
    return {prompt.lower() for prompt in found}


def parts(prompt: str, noun: str) -> tuple[str, str, str]:
    """What stands before the noun, between it and the first comma, and after that."""
    before, _, rest = prompt.partition(f" {noun}")
    after, _, scene = rest.partition(", ")
    return before, after.strip(), scene


def test_a_thing_has_shape_colour_and_texture() -> None:
    seen: dict[str, set[str]] = {slot: set() for slot in SLOTS}
    for prompt in structured.augmented("toy vase", 400, seeded()):
        before, after, scene = parts(prompt, "toy vase")
        article, *adjectives = before.split()
        background, style = scene.split(", ")
        assert (article, after, len(adjectives)) == ("a", "", 3)
        for slot, phrase in zip(("SHAPES", "COLOURS", "TEXTURES"), adjectives, strict=True):
            seen[slot].add(phrase)
        seen["BACKGROUNDS"].add(background)
        seen["STYLES"].add(style)
    for slot in SLOTS:
        assert seen[slot] == (set(phrases(slot)) if slot != "MOTIONS" else set()), slot


def test_what_lives_has_a_colour_and_moves() -> None:
    seen: dict[str, set[str]] = {slot: set() for slot in ("COLOURS", "MOTIONS")}
    for prompt in structured.augmented("dog", 300, seeded()):
        before, after, scene = parts(prompt, "dog")
        article, colour = before.split()
        background, style = scene.split(", ")
        assert article == "a" and background in phrases("BACKGROUNDS") and style in phrases("STYLES")
        seen["COLOURS"].add(colour)
        seen["MOTIONS"].add(after)
    assert all(seen[slot] == set(phrases(slot)) for slot in seen)


def test_the_other_half_has_the_format_of_training_examples() -> None:
    found = structured.training_format("dog", 300, seeded())
    expected = {f"a photo of a dog, {background}" for background in phrases("BACKGROUNDS")}
    assert len(found) == 300 and set(found) == expected
    assert structured.formatted("<sks-1> dog", "by a lake") == "a photo of a <sks-1> dog, by a lake"


@pytest.mark.parametrize("make", [structured.training_format, structured.augmented])
def test_the_generator_alone_decides(make) -> None:
    assert make("cat", 20, seeded(3)) == make("cat", 20, seeded(3)) != make("cat", 20, seeded(4))


def test_which_nouns_of_all_sequences_live() -> None:
    told = {
        (c.class_noun, c.subject_type == "live") for f in ROOT.glob("*.yaml") for c in sequences.load(f.stem).concepts
    }
    assert len(told) > 20 and {noun for noun, live in told if live} == {"cat", "dog"}
    for noun, live in told:
        assert structured.is_live(noun) is live, noun
    assert structured.is_live("old Shetland Pony") is False and structured.is_live("welsh corgi dog")


def test_nothing_that_is_tested_is_practised() -> None:
    tested = evaluation_prompts()
    assert any("in the snow" in prompt for prompt in tested)
    for phrase in phrases("BACKGROUNDS") + phrases("STYLES"):
        assert not any(phrase in prompt for prompt in tested), phrase
    for phrase in phrases("SHAPES") + phrases("COLOURS") + phrases("TEXTURES"):
        assert not {f"a {phrase} {{}}", f"a {phrase} colored {{}}"} & tested, phrase
    for phrase in phrases("MOTIONS"):
        assert not {f"a {{}} {phrase}", f"a {{}} is {phrase}", f"a {phrase} {{}}"} & tested, phrase


def test_the_miniature_reads_the_longest_prompts_whole(miniature: Backbone) -> None:
    def tokens(text: str) -> int:
        return len(miniature.tokenizer(text, add_special_tokens=False).input_ids)

    longest = {slot: max(phrases(slot), key=tokens) for slot in SLOTS}
    thing = " ".join(longest[slot] for slot in ("SHAPES", "COLOURS", "TEXTURES"))
    scene = f"{longest['BACKGROUNDS']}, {longest['STYLES']}"
    for what in (f"a {thing} stuffed animal", f"a {longest['COLOURS']} dog {longest['MOTIONS']}"):
        assert tokens(f"{what}, {scene}") + 2 <= miniature.tokenizer.model_max_length
