"""The drawn world: always the same, speaks DreamBench's prompts, and never shows pretraining what is tested."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from cpbench.miniature.world import (
    LIVE,
    NOUNS,
    SUBJECTS,
    Identity,
    Setting,
    caption,
    draw,
    dress,
    identity,
    places,
    random_setting,
    read_prompt,
    scene,
    seeded,
    subject,
    subjects,
    training_identity,
)
from cpbench.miniature.world.canvas import new_surface, pixels
from cpbench.miniature.world.identity import BADGES, PATTERNS
from cpbench.sequences import prompt_set

# What DreamBench's prompts ask for, written out: (place, outfit, finish)
ASKED: dict[str, tuple[str | None, str | None, str | None]] = {
    "a {} in the jungle": ("in the jungle", None, None),
    "a {} in the snow": ("in the snow", None, None),
    "a {} on the beach": ("on the beach", None, None),
    "a {} on a cobblestone street": ("on a cobblestone street", None, None),
    "a {} on top of pink fabric": ("on top of pink fabric", None, None),
    "a {} on top of a wooden floor": ("on top of a wooden floor", None, None),
    "a {} with a city in the background": ("with a city in the background", None, None),
    "a {} with a mountain in the background": ("with a mountain in the background", None, None),
    "a {} with a blue house in the background": ("with a blue house in the background", None, None),
    "a {} on top of a purple rug in a forest": ("on top of a purple rug in a forest", None, None),
    "a {} with a wheat field in the background": ("with a wheat field in the background", None, None),
    "a {} with a tree and autumn leaves in the background": (
        "with a tree and autumn leaves in the background",
        None,
        None,
    ),
    "a {} with the Eiffel Tower in the background": ("with the Eiffel Tower in the background", None, None),
    "a {} floating on top of water": ("floating on top of water", None, None),
    "a {} floating in an ocean of milk": ("floating in an ocean of milk", None, None),
    "a {} on top of green grass with sunflowers around it": (
        "on top of green grass with sunflowers around it",
        None,
        None,
    ),
    "a {} on top of a mirror": ("on top of a mirror", None, None),
    "a {} on top of the sidewalk in a crowded street": ("on top of the sidewalk in a crowded street", None, None),
    "a {} on top of a dirt road": ("on top of a dirt road", None, None),
    "a {} on top of a white rug": ("on top of a white rug", None, None),
    "a {} wearing a red hat": (None, "wearing a red hat", None),
    "a {} wearing a santa hat": (None, "wearing a santa hat", None),
    "a {} wearing a rainbow scarf": (None, "wearing a rainbow scarf", None),
    "a {} wearing a black top hat and a monocle": (None, "wearing a black top hat and a monocle", None),
    "a {} in a chef outfit": (None, "in a chef outfit", None),
    "a {} in a firefighter outfit": (None, "in a firefighter outfit", None),
    "a {} in a police outfit": (None, "in a police outfit", None),
    "a {} wearing pink glasses": (None, "wearing pink glasses", None),
    "a {} wearing a yellow shirt": (None, "wearing a yellow shirt", None),
    "a {} in a purple wizard outfit": (None, "in a purple wizard outfit", None),
    "a red {}": (None, None, "red"),
    "a purple {}": (None, None, "purple"),
    "a shiny {}": (None, None, "shiny"),
    "a wet {}": (None, None, "wet"),
    "a cube shaped {}": (None, None, "cube shaped"),
}
ALL_PROMPTS = sorted({p for templates in prompt_set("dreambench").values() for p in templates})


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


# Prompts


def test_all_of_dreambenchs_prompts_are_written_out_here() -> None:
    assert {k: len(v) for k, v in prompt_set("dreambench").items()} == {"live": 25, "object": 25}
    assert sorted(ASKED) == ALL_PROMPTS
    named = list(zip(*ASKED.values(), strict=True))
    assert [len(set(part) - {None}) for part in named] == [20, 10, 5]


@pytest.mark.parametrize("words", ["{}", "dog", "<v3> dog", "<v12> stuffed animal", "sks dog", "<v1> can"])
def test_prompts_are_read_as_exactly_what_they_name(words: str) -> None:
    for prompt, asked in ASKED.items():
        assert read_prompt(prompt.format(words)) == Setting(*asked), prompt


def test_captions_of_two_phrases_are_read_whole() -> None:
    assert read_prompt("a dog wearing a red hat in the snow") == Setting("in the snow", "wearing a red hat", None)
    assert read_prompt("A wet dog on the beach") == Setting("on the beach", None, "wet")
    assert read_prompt("a photo of a dog with the eiffel tower in the background").place == (
        "with the Eiffel Tower in the background"
    )


@pytest.mark.parametrize("prompt", ["a {}", "a tired {}", "a sweet {}", "one hundred {} on parade", "a reddish {}"])
def test_words_that_hold_a_finish_are_none(prompt: str) -> None:
    assert read_prompt(prompt.format("<v1> dog")) == Setting()


# Drawing


def test_same_drawing_every_time_whatever_the_global_generator() -> None:
    settings = [Setting(), Setting("in the snow", "wearing a red hat"), Setting("on the beach", None, "wet")]
    drawn = []
    for global_seed in (0, 1):
        np.random.seed(global_seed)
        before = np.random.get_state()[1].tolist()
        drawn.append([draw(subject("dog"), s, seeded("here", k)) for k, s in enumerate(settings)])
        assert np.random.get_state()[1].tolist() == before
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.array(drawn).dtype == np.uint8 and np.array(drawn).shape == (2, 3, 64, 64, 3)
    assert difference(draw(subject("dog"), Setting(), seeded("there")), drawn[0][0]) > 3


def test_seeds_are_those_of_the_words() -> None:
    assert seeded("a", 1).random() == seeded("a", 1).random() != seeded("a", 2).random()


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_shows_a_subject_inside_the_picture(noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = [draw(training_identity(noun, k), Setting(), seeded("seen", k)) for k in range(20)]
    monkeypatch.setitem(scene.DRAW, noun, lambda c, who, pose: None)
    without = [draw(training_identity(noun, k), Setting(), seeded("seen", k)) for k in range(20)]
    masks = np.abs(np.array(with_it, float) - np.array(without, float)).max(-1) > 6
    areas = masks.mean(axis=(1, 2))
    assert areas.min() > 0.1 and areas.max() < 0.7
    cut = [max(m[0].sum(), m[-1].sum(), m[:, 0].sum(), m[:, -1].sum()) for m in masks]
    assert max(cut) <= 16 and np.mean([c > 0 for c in cut]) <= 0.3  # an ear or a flower may touch the edge
    for mask in masks:
        ys, xs = np.nonzero(mask)
        assert 16 < xs.mean() < 48 and 20 < ys.mean() < 52


def test_every_place_looks_different() -> None:
    drawn = {}
    for name, paint in {**places.PLACES, "a plain room": places.studio}.items():
        surface = new_surface()
        paint(surface.getCanvas(), seeded("place", 0))
        drawn[name] = pixels(surface)
    assert len(drawn) == 21
    for a, b in combinations(drawn, 2):
        assert difference(drawn[a], drawn[b]) > 10, (a, b)


@pytest.mark.parametrize("noun", LIVE)
def test_every_outfit_is_seen(noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outfits = list(dress.OUTFITS)
    monkeypatch.setitem(dress.OUTFITS, "nothing", lambda c, x, y, w: None)  # same size, nothing worn
    for k in range(3):
        who = training_identity(noun, k)
        drawn = {o: draw(who, Setting("in the snow", o), seeded("worn", k)) for o in [*outfits, "nothing"]}
        for a, b in combinations(drawn, 2):
            assert difference(drawn[a], drawn[b]) > 0.8, (a, b)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_finish_is_seen(noun: str) -> None:
    who = training_identity(noun, 0)
    for finish in ("red", "purple", "cube shaped"):
        plain, changed = (draw(who, s, seeded("made", 0)) for s in (Setting(), Setting(finish=finish)))
        assert difference(plain, changed) > 3, finish
    for finish in ("shiny", "wet"):  # the layer alone: these move the light of the whole picture as well
        layers = []
        for polished in (False, True):
            surface = new_surface()
            canvas = surface.getCanvas()
            canvas.translate(128, 222)
            subjects.DRAW[noun](canvas, who, subjects.Pose())
            if polished:
                dress.polish(canvas, finish, seeded("made", 0))
            layers.append(pixels(surface))
        seen = layers[0].any(-1)
        changed = np.abs(layers[1].astype(float) - layers[0]).mean(-1)
        assert changed[seen].mean() > 8, finish
        assert changed[~seen].mean() < 1, finish  # the subject only, not what is behind it


def test_red_and_purple_things_are_red_and_purple() -> None:
    for noun in NOUNS:
        who = training_identity(noun, 1)
        middle = (slice(24, 48), slice(24, 40))
        plain, red, purple = (
            draw(who, Setting("in the snow", None, f), seeded("tint", noun))[middle].mean(axis=(0, 1)).astype(float)
            for f in (None, "red", "purple")
        )
        assert red[0] - red[1:].mean() > plain[0] - plain[1:].mean() + 10
        assert purple[[0, 2]].mean() - purple[1] > plain[[0, 2]].mean() - plain[1] + 10


# Held out


def apart(a: Identity, b: Identity) -> float:
    """How far two individuals of a class are apart: mean colours, pattern and badge, mean shape."""
    pairs = ((a.main, b.main), (a.second, b.second), (a.accent, b.accent))
    colours = [abs(p - q) for x, y in pairs for p, q in zip(x, y, strict=True)]
    shapes = [abs(p - q) for p, q in zip(a.shape, b.shape, strict=True)]
    kinds = (a.pattern != b.pattern) + (a.badge != b.badge)
    return sum(colours) / 9 + 0.25 * kinds + sum(shapes) / len(shapes)


@pytest.mark.parametrize("noun", NOUNS)
def test_no_training_identity_is_or_looks_like_a_benchmark_subject(noun: str) -> None:
    tested = [subject(name) for name, spec in SUBJECTS.items() if spec["noun"] == noun]
    for k in range(300):
        who = training_identity(noun, k)
        assert who.noun == noun and who not in tested
        assert all(apart(who, other) > 0.3 for other in tested)


def test_identity_that_would_look_like_a_subject_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = training_identity("vase", 5)
    tested = replace(
        first, main=tuple(v + 0.02 for v in first.main), pattern="dots" if first.pattern != "dots" else "plain"
    )
    assert 0 < apart(first, tested) < 0.3
    monkeypatch.setattr(identity, "subject", lambda name: tested)
    found = training_identity("vase", 5)
    assert apart(found, tested) > 0.3 and found.noun == "vase"
    assert found == training_identity("vase", 5)
    assert training_identity("dog", 5).noun == "dog"


def test_subjects_of_a_class_differ_and_splits_share_nobody() -> None:
    everyone = {name: subject(name) for name in SUBJECTS}
    pairs = [(a, b) for a, b in combinations(everyone.values(), 2) if a.noun == b.noun]
    assert len(pairs) >= 2 and all(apart(a, b) > 0.3 for a, b in pairs)
    assert everyone == {name: subject(name) for name in SUBJECTS}
    training = {training_identity(noun, k) for noun in NOUNS for k in range(100)}
    validation = {training_identity(noun, k, "validation") for noun in NOUNS for k in range(100)}
    assert len(training) == len(validation) == 100 * len(NOUNS) and not training & validation


# Captions

STARTS = ("a photo of a", "a photo of an", "a photo of the", "a picture of a", "a picture of an", "a", "an")
STARTS += ("a drawing of a", "a drawing of an")
ADJECTIVES = ("rare", "nice", "new", "old", "big", "little")
SECRET = {w for kind in (PATTERNS, BADGES) for w in kind} | {"collar", "strap", "stripe", "dot", "badge", "pattern"}


def test_captions_name_class_place_outfit_finish_and_main_colour_and_nothing_else() -> None:
    named_colour, named_adjective = 0, 0
    for k in range(1500):
        noun = NOUNS[k % len(NOUNS)]
        who, rng = training_identity(noun, k % 40), seeded("caption", k)
        setting = random_setting(noun, rng, noun in LIVE)
        text = caption(who, setting, rng)
        assert read_prompt(text) == setting or who.main_name in ("red", "purple")
        inner = f"(?:{setting.finish} )" if setting.finish else f"(?:({who.main_name}) )?"
        tail = "".join(f" {part}" for part in (setting.outfit, setting.place) if part)
        pattern = rf"(?:{'|'.join(STARTS)}) (?:({'|'.join(ADJECTIVES)}) )?{inner}{noun}{re.escape(tail)}"
        found = re.fullmatch(pattern, text)
        assert found, text
        named_adjective += found[1] is not None
        named_colour += not setting.finish and found[2] is not None
        head = text.removesuffix(tail)
        words = set(re.findall("[a-z]+", head))
        assert not words & SECRET, text
        article = re.search(r"\b(an?) (\w)", head.removeprefix("a photo of ").removeprefix("a picture of "))
        if article and not head.startswith(("a photo of the", "a drawing of")):
            assert (article[1] == "an") == (article[2] in "aeiou"), text
    assert 150 < named_adjective < 500 and 300 < named_colour < 1000


def test_validation_subjects_are_in_no_benchmark_sequence() -> None:
    from cpbench import sequences

    tuned_on = {c.name for c in sequences.load("miniature-val6").concepts}
    for name in sequences.names():
        if name != "miniature-val6":
            assert not tuned_on & {c.name for c in sequences.load(name).concepts}, name
