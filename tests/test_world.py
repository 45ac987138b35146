"""The drawn world: always the same, speaks DreamBench's prompts, and never shows pretraining what is tested."""

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import skia
from PIL import Image

from cpbench.cli import main
from cpbench.concepts.sequences import prompt_set
from cpbench.miniature.world import (
    LIVE,
    NEAR,
    NOUNS,
    SUBJECTS,
    VARIANTS,
    Identity,
    Setting,
    caption,
    cast,
    distance,
    finishes,
    outfits,
    places,
    random_setting,
    read_prompt,
    render,
    sample_identity,
    scene,
    seeded,
    subject,
    training_identity,
    unread,
    vocabulary,
)
from cpbench.miniature.world.canvas import COLORS, new_surface, pixels
from cpbench.miniature.world.cast import DREAMBENCH, LONG, VALIDATION
from cpbench.miniature.world.pose import Frame, Pose

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
FIFTEEN = {
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker", "dog", "toy", "boot", "glasses",
    "cartoon", "teapot", "vase",
}  # fmt: skip


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


def painted(place: places.Place, *words: object) -> np.ndarray:
    """A place without a subject."""
    surface = new_surface()
    list(place.paint(surface.getCanvas(), seeded("place", *words)) or ())
    return pixels(surface)


def alone(who: Identity, pose: Pose) -> np.ndarray:
    """An individual on black, with nothing but its pose to move it."""
    surface = new_surface()
    canvas = surface.getCanvas()
    canvas.translate(128, 222)
    kind = VARIANTS[who.noun][who.variant]
    canvas.scale(kind.scale, kind.scale)
    list(kind.render(canvas, who, pose) or ())
    return pixels(surface)


# Prompts


def test_all_of_dreambenchs_prompts_are_written_out_here() -> None:
    assert {k: len(v) for k, v in prompt_set("dreambench").items()} == {"live": 25, "object": 25}
    assert sorted(ASKED) == ALL_PROMPTS
    named = list(zip(*ASKED.values(), strict=True))
    assert [len(set(part) - {None}) for part in named] == [20, 10, 5]
    known = (places.PLACES, outfits.OUTFITS, finishes.FINISHES)
    assert [set(part) - {None} for part in named] == [set(k) for k in known]


@pytest.mark.parametrize("words", ["{}", "dog", "<v3> dog", "<v12> stuffed animal", "sks dog", "<v1> can", "glasses"])
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


@pytest.mark.parametrize(
    ("name", "kind"), [("dog6", "live"), ("cat", "live"), ("teapot", "object"), ("rc_car", "object")]
)
def test_every_prompt_changes_the_picture_in_its_own_way(name: str, kind: str) -> None:
    drawn = {
        p: render(subject(name), read_prompt(p), seeded("asked", name))
        for p in ("a {}", *prompt_set("dreambench")[kind])
    }
    assert len(drawn) == 26
    for a, b in combinations(drawn, 2):
        assert difference(drawn[a], drawn[b]) > 2, (a, b)


@pytest.mark.parametrize("words", ["{}", "photo of a {}", "the {}"])
def test_of_dreambenchs_prompts_every_word_is_read(words: str) -> None:
    for prompt in ALL_PROMPTS:
        assert unread(prompt.replace("{}", "dog"), "dog") == [], prompt
        assert unread(prompt) == [], prompt


def test_of_the_worlds_own_wordings_every_word_is_read() -> None:
    for wordings in (p.words for p in (*places.PLACES.values(), *outfits.OUTFITS.values())):
        for wording in wordings:
            assert unread(f"A photo of a dog {wording}", "dog") == [], wording
    for finish, wordings in finishes.FINISHES.items():
        for wording in wordings:
            assert read_prompt(wording).finish != finish or unread(wording.format("dog"), "dog") == [], wording


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a dog on the moon", ["on the moon"]),
        ("a dog in the snow on the moon", ["on the moon"]),
        ("a dog on the beach and in the snow", ["in the snow"]),
        ("a big dog in the snow", ["big"]),
        ("a dog and a cat in the snow", ["cat"]),
        ("a wet red dog", ["wet"]),
        ("a dog wearing a red hat and boots", ["boots"]),
        ("an oil painting of a dog", ["oil painting of"]),
        ("a photo of a dog, in the snow, and wearing a red hat", []),
        ("", []),
    ],
)
def test_words_that_no_picture_shows_are_told_apart(prompt: str, parts: list[str]) -> None:
    assert unread(prompt, "dog") == parts


# Drawing


def test_same_drawing_every_time_whatever_the_global_generator() -> None:
    settings = [Setting(), Setting("in the snow", "wearing a red hat"), Setting("on the beach", None, "wet")]
    drawn = []
    for global_seed in (0, 1):
        np.random.seed(global_seed)
        before = np.random.get_state()[1].tolist()
        drawn.append([render(subject("dog"), s, seeded("here", k)) for k, s in enumerate(settings)])
        assert np.random.get_state()[1].tolist() == before
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.array(drawn).dtype == np.uint8 and np.array(drawn).shape == (2, 3, 64, 64, 3)
    assert difference(render(subject("dog"), Setting(), seeded("there")), drawn[0][0]) > 3


def test_seeds_are_those_of_the_words() -> None:
    assert seeded("a", 1).random() == seeded("a", 1).random() != seeded("a", 2).random()


def test_every_subject_is_drawn_alike_twice_and_unlike_all_others_of_its_class() -> None:
    drawn = {name: render(subject(name), Setting(), seeded("alike")) for name in SUBJECTS}
    for name in SUBJECTS:
        np.testing.assert_array_equal(render(subject(name), Setting(), seeded("alike")), drawn[name])
    pairs = [(a, b) for a, b in combinations(drawn, 2) if SUBJECTS[a]["noun"] == SUBJECTS[b]["noun"]]
    assert len(pairs) > 100
    for a, b in pairs:
        assert difference(drawn[a], drawn[b]) > 3, (a, b)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_shows_a_big_subject_inside_the_picture(noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    people = [training_identity(noun, k) for k in range(24)]
    with_it = [render(who, Setting(), seeded("seen", k)) for k, who in enumerate(people)]
    nobody = {name: replace(kind, render=lambda c, who, pose: None) for name, kind in VARIANTS[noun].items()}
    monkeypatch.setitem(scene.VARIANTS, noun, nobody)
    without = [render(who, Setting(), seeded("seen", k)) for k, who in enumerate(people)]
    masks = np.abs(np.array(with_it, float) - np.array(without, float)).max(-1) > 6
    areas = masks.mean(axis=(1, 2))
    assert areas.min() > 0.1 and areas.max() < 0.6
    cut = [max(m[0].sum(), m[-1].sum(), m[:, 0].sum(), m[:, -1].sum()) for m in masks]
    assert max(cut) <= 12 and np.mean([c > 0 for c in cut]) <= 0.3  # an ear or a tail may touch the edge
    extents = []
    for mask in masks:
        ys, xs = np.nonzero(mask)
        assert 16 < xs.mean() < 48 and 20 < ys.mean() < 52
        extents.append(max(np.ptp(xs), np.ptp(ys)) + 1)
    assert 0.55 * 64 < np.mean(extents) < 0.78 * 64


@pytest.mark.parametrize(
    "kind", [k for kinds in VARIANTS.values() for k in kinds.values()], ids=lambda k: f"{k.noun}-{k.name}"
)
@pytest.mark.slow
def test_every_attribute_of_every_kind_is_seen(kind) -> None:
    """A choice nobody sees would only seem to make the space of identities larger."""
    hidden = {"badge": 0, "pattern": 0} | dict.fromkeys((*kind.parts, *kind.sizes), 0)
    tried = 15
    for k in range(tried):
        who = sample_identity(kind.noun, seeded("seen", kind.noun, kind.name, k), {"variant": kind.name})
        plain = alone(who, Pose(open_mouth=True))
        for name, choices in {"badge": kind.badges, "pattern": kind.patterns}.items():
            other = next((c for c in choices if c != getattr(who, name)), None)
            if other is None:
                hidden.pop(name, None)
            else:
                hidden[name] += (alone(replace(who, **{name: other}), Pose(open_mouth=True)) == plain).all()
        for name, choices in kind.parts.items():
            rest = [c for c in dict.fromkeys(choices) if c != who[name]]
            parts = tuple((n, rest[k % len(rest)] if n == name else v) for n, v in who.parts)
            hidden[name] += (alone(replace(who, parts=parts), Pose(open_mouth=True)) == plain).all()
        for name in kind.sizes:
            sizes = tuple((n, (v + 0.5) % 1 if n == name else v) for n, v in who.sizes)
            hidden[name] += (alone(replace(who, sizes=sizes), Pose(open_mouth=True)) == plain).all()
    assert {name: n for name, n in hidden.items() if n > 0.8 * tried} == {}


def test_poses_move_everyone() -> None:
    for noun in NOUNS:
        for name in VARIANTS[noun]:
            who = sample_identity(noun, seeded("pose", noun, name), {"variant": name})
            assert difference(alone(who, Pose(swing=-1, turn=-1)), alone(who, Pose(swing=1, turn=1))) > 0.2, (
                noun,
                name,
            )


def test_letters_can_be_read_in_mirrored_drawings() -> None:
    spec = {"variant": "daypack", "badge": "letter", "pattern": "plain"}
    turned = 0
    for k in range(12):
        who = sample_identity("backpack", seeded("letter", k), spec)
        turned += (alone(who, Pose()) != alone(who, Pose(mirrored=True))).any()
        flipped = alone(replace(who, badge="star"), Pose())
        assert (flipped == alone(replace(who, badge="star"), Pose(mirrored=True))).all()
    assert 3 <= turned <= 12  # A, X and H look the same either way


def test_every_place_looks_different() -> None:
    drawn = {name: painted(place, 0) for name, place in places.PLACES.items()}
    drawn["a plain room"] = painted(places.Place(places.studio, ("in a plain room",)), 0)
    assert len(drawn) == 21
    for a, b in combinations(drawn, 2):
        assert difference(drawn[a], drawn[b]) > 10, (a, b)
    for name, place in places.PLACES.items():
        assert difference(drawn[name], painted(place, 1)) > 0.3, name  # no two pictures of a place are the same


def test_what_floats_is_under_water_and_mirrors_reflect(monkeypatch: pytest.MonkeyPatch) -> None:
    who = subject("red_cartoon")
    red = {}
    for where in (
        "floating on top of water",
        "floating in an ocean of milk",
        "on top of a mirror",
        "on top of a white rug",
    ):
        below = render(who, Setting(where), seeded("below")).astype(float)[54:]
        red[where] = ((below[..., 0] - below[..., 1:].max(-1)) > 60).sum()
    assert red["floating on top of water"] == red["floating in an ocean of milk"] == 0
    assert red["on top of a mirror"] > red["on top of a white rug"]


@pytest.mark.parametrize("noun", LIVE)
def test_every_outfit_is_seen(noun: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(c: skia.Canvas, f: Frame) -> Iterator[None]:
        yield

    names = list(outfits.OUTFITS)
    monkeypatch.setitem(outfits.OUTFITS, "nothing", outfits.Outfit(nothing, ("nothing",)))  # same size, nothing worn
    for k in range(3):
        who = training_identity(noun, k)
        drawn = {o: render(who, Setting("in the snow", o), seeded("worn", k)) for o in [*names, "nothing"]}
        for a, b in combinations(drawn, 2):
            assert difference(drawn[a], drawn[b]) > 0.8, (a, b)


def test_things_can_be_dressed_as_well() -> None:
    for name in ("teapot", "grey_sloth_plushie", "rc_car"):
        plain, dressed = (render(subject(name), Setting(None, o), seeded("hat")) for o in (None, "wearing a red hat"))
        assert difference(plain, dressed) > 3


@pytest.mark.parametrize("noun", NOUNS)
def test_every_finish_is_seen(noun: str) -> None:
    who = training_identity(noun, 0)
    for finish in ("red", "purple", "cube shaped"):
        plain, changed = (render(who, s, seeded("made", 0)) for s in (Setting(), Setting(finish=finish)))
        assert difference(plain, changed) > 3, finish
    for finish in ("shiny", "wet"):  # the layer alone: these move the light of the whole picture as well
        layers = []
        for polished in (None, finish):
            surface = new_surface()
            canvas = surface.getCanvas()
            canvas.translate(128, 222)
            canvas.drawPicture(scene.record(who, Setting(finish=polished), Pose(), seeded("made", 0)))
            layers.append(pixels(surface))
        seen = layers[0].any(-1)
        changed = np.abs(layers[1].astype(float) - layers[0]).mean(-1)
        assert changed[seen].mean() > 6, finish
        assert changed[~seen].mean() < 1, finish  # the subject only, not what is behind it


def test_red_and_purple_things_are_red_and_purple() -> None:
    for noun in NOUNS:
        who = training_identity(noun, 1)
        seen = alone(who, Pose()).any(-1)
        for finish, strong, weak in (("red", (0,), (1, 2)), ("purple", (0, 2), (1,))):
            surface = new_surface()
            canvas = surface.getCanvas()
            canvas.translate(128, 222)
            canvas.drawPicture(scene.record(who, Setting(finish=finish), Pose(), seeded("tint")))
            r = pixels(surface)[seen].astype(float)
            assert (r[:, strong].mean(1) > r[:, weak].mean(1) + 20).mean() > 0.9, (noun, finish)


# Identities and who is held out


def test_the_cast() -> None:
    assert len(DREAMBENCH) == 30 and {spec["noun"] for spec in DREAMBENCH.values()} == FIFTEEN == set(NOUNS)
    assert set(LIVE) == {"dog", "cat"}
    assert sum(spec["noun"] in LIVE for spec in DREAMBENCH.values()) == 9
    assert len(VALIDATION) == 6 and len(LONG) == 50 and {spec["noun"] for spec in LONG.values()} == FIFTEEN
    assert len(SUBJECTS) == 86  # no name twice


@pytest.mark.parametrize("noun", NOUNS)
@pytest.mark.slow
def test_every_noun_has_far_more_individuals_than_pretraining_sees(noun: str) -> None:
    assert sum(kind.looks() for kind in VARIANTS[noun].values()) > 1_000_000
    drawn = {
        render(sample_identity(noun, seeded("many", noun, k)), Setting(), seeded("one pose")).tobytes()
        for k in range(100)
    }
    assert len(drawn) == 100


def test_wrong_attributes_of_a_stand_in_are_refused() -> None:
    for wrong in ({"ears": "square"}, {"wings": "two"}, {"pattern": "tartan"}):
        with pytest.raises(ValueError, match="|".join(wrong)):
            sample_identity("dog", seeded("wrong"), wrong)


def test_distance_counts_what_one_sees() -> None:
    a, b = training_identity("dog", 0), training_identity("dog", 1)
    assert distance(a, a) == 0 and distance(a, b) == distance(b, a) > NEAR
    assert distance(a, training_identity("cat", 0)) == 1
    duck, robot = (sample_identity("toy", seeded("toy"), {"variant": kind}) for kind in ("duck", "robot"))
    assert distance(duck, robot) == 1
    tanned = replace(a, main=tuple(0.9 * v for v in a.main))
    assert 0 < distance(a, tanned) < 0.1
    collared = replace(a, parts=tuple((n, "bow" if n == "neckwear" else v) for n, v in a.parts), badge="star")
    assert distance(a, tanned) < distance(a, replace(collared, main=tanned.main)) < NEAR
    strangers = [distance(*pair) for pair in pairwise(sample_identity("dog", seeded("far", k)) for k in range(200))]
    assert np.mean(strangers) > 0.6 and np.mean([d > NEAR for d in strangers]) > 0.97


def test_subjects_of_all_sequences_look_like_no_other() -> None:
    everyone = {name: subject(name) for name in SUBJECTS}
    for (a, one), (b, other) in combinations(everyone.items(), 2):
        assert distance(one, other) > NEAR, (a, b)


@pytest.mark.parametrize("noun", NOUNS)
def test_no_training_identity_is_or_looks_like_a_subject(noun: str) -> None:
    tested = [subject(name) for name, spec in SUBJECTS.items() if spec["noun"] == noun]
    assert tested
    for k in range(300):
        who = training_identity(noun, k)
        assert who.noun == noun and who not in tested
        assert min(distance(who, other) for other in tested) > NEAR


def test_identity_that_would_look_like_a_subject_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = training_identity("vase", 5)
    tested = replace(
        first, main=tuple(0.95 * v for v in first.main), pattern="dots" if first.pattern != "dots" else "plain"
    )
    assert 0 < distance(first, tested) < NEAR
    monkeypatch.setattr(cast, "subject", lambda name: tested)
    found = training_identity("vase", 5)
    assert distance(found, tested) > NEAR and found.noun == "vase" and found != first
    assert found == training_identity("vase", 5)
    assert training_identity("dog", 5).noun == "dog"


def test_splits_share_nobody() -> None:
    splits = ("pretraining", "validation", "sheets")
    everyone = [{training_identity(noun, k, split) for noun in NOUNS for k in range(60)} for split in splits]
    assert [len(people) for people in everyone] == [60 * len(NOUNS)] * 3
    assert len(set.union(*everyone)) == 3 * 60 * len(NOUNS)


def test_published_individuals_stay_who_they_are() -> None:
    """Fails when an individual changed: then raise the versions of the sequences it is in, and the digest here."""
    facts = []
    for name in SUBJECTS:
        who = subject(name)
        colors = [round(v, 3) for color in (who.main, who.second, who.accent, who.trim) for v in color]
        sizes = [(n, round(v, 3)) for n, v in who.sizes]
        facts.append((name, who.noun, who.variant, who.main_name, colors, who.pattern, who.badge, who.parts, sizes))
    assert hashlib.sha256(repr(facts).encode()).hexdigest()[:16] == "9af4b331c47d1a57"


def test_validation_subjects_are_in_no_benchmark_sequence() -> None:
    from cpbench.concepts import sequences

    tuned_on = {c.name for c in sequences.load("miniature-val6").concepts}
    assert tuned_on == set(VALIDATION)
    for name in sequences.names():
        concepts = sequences.load(name).concepts
        assert all(SUBJECTS[c.name]["noun"] == c.class_noun for c in concepts if c.rendered), name
        if name != "miniature-val6":
            assert not tuned_on & {c.name for c in concepts}, name


# Captions

WORDINGS = {
    "place": {n: p.words for n, p in places.PLACES.items()},
    "outfit": {n: o.words for n, o in outfits.OUTFITS.items()},
}


@pytest.mark.parametrize("what", WORDINGS)
def test_every_wording_is_read_as_what_it_says(what: str) -> None:
    for name, words in WORDINGS[what].items():
        assert words[0] == name and len(set(words)) == len(words) > 2
        for wording in words:
            assert read_prompt(f"a photo of a dog {wording}") == Setting(**{what: name}), wording


def test_captions_name_class_place_outfit_finish_and_main_colour_and_nothing_else() -> None:
    plain = {"a", "an", "the", "photo", "picture", "drawing", "painting", "image", "of"}
    adjectives = {"rare", "nice", "new", "old", "big", "little", "cute", "lovely"}
    named = {"colour": 0, "adjective": 0, "own words": 0, "other words": 0}
    n = 2000
    for k in range(n):
        noun = NOUNS[k % len(NOUNS)]
        who, rng = training_identity(noun, k % 40), seeded("caption", k)
        setting = random_setting(noun, rng, noun in LIVE)
        text = caption(who, setting, rng)
        assert noun in text
        read = read_prompt(text)
        assert read == setting or (
            setting.finish is None and replace(read, finish=None) == setting and read.finish == who.main_name
        )
        head = text
        for part, wordings in (("outfit", WORDINGS["outfit"]), ("place", WORDINGS["place"])):
            if name := getattr(setting, part):
                wording = max((w for w in wordings[name] if f" {w}" in head), key=len)
                named["own words" if wording == name else "other words"] += 1
                head = head.replace(f" {wording}", "", 1)
        said = set(re.findall("[a-z]+", head.lower())) - plain - set(noun.split())
        if setting.finish:
            templates = " ".join(finishes.FINISHES[setting.finish])
            said -= set(re.findall("[a-z]+", templates))
        else:
            named["colour"] += who.main_name in said
            said -= {who.main_name}
        named["adjective"] += bool(said & adjectives)
        assert not said - adjectives, text
        for article, letter in re.findall(r"\b(an?) ([a-z])", text):
            assert (article == "an") == (letter in "aeiou"), text
    assert 0.1 * n < named["adjective"] < 0.3 * n and 0.25 * n < named["colour"] < 0.6 * n
    assert 0.4 < named["own words"] / (named["own words"] + named["other words"]) < 0.7


def test_every_word_of_captions_and_prompts_is_in_the_vocabulary() -> None:
    from cpbench.miniature.pretrain.tokenizer import CLASS_NOUNS, words

    known = set(words())
    assert vocabulary() <= known
    assert {w for noun in CLASS_NOUNS for w in noun.split()} <= known and {"rare", "sks"} <= known
    assert {w for p in ALL_PROMPTS for w in re.findall("[a-z]+", p.lower())} <= known
    assert set(COLORS) <= known and set(CLASS_NOUNS) == FIFTEEN
    for k in range(500):
        noun = NOUNS[k % len(NOUNS)]
        rng = seeded("words", k)
        text = caption(training_identity(noun, k % 5), random_setting(noun, rng, noun in LIVE), rng)
        assert set(re.findall("[a-z]+", text.lower())) <= known, text


# cpbench world


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """world(words) -> (exit code, stdout, stderr), started in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cpbench", "world", *words])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def test_sheets_are_written_into_a_new_folder(world, tmp_path: Path) -> None:
    assert world("--output", "deep/sheets")[0] == 0
    sheets = {f.stem: Image.open(f) for f in (tmp_path / "deep" / "sheets").iterdir()}
    assert set(sheets) == {"subjects", "places", "outfits", "finishes", "individuals"}
    for name, sheet in sheets.items():
        assert sheet.width > 800 and np.asarray(sheet.convert("RGB")).std() > 20, name
        assert (tmp_path / "deep" / "sheets" / f"{name}.png").stat().st_size < 300_000  # docs/ keeps them


def test_captions_are_drawn_of_a_subject_or_of_strangers(world, tmp_path: Path) -> None:
    asked = ("a dog in the snow", "--count", "3", "--output")
    for name, more in {
        "a": ("--subject", "dog2"),
        "b": ("--subject", "dog2"),
        "c": ("--subject", "dog3"),
        "d": (),
        "e": ("--seed", "1"),
    }.items():
        code, out, _ = world(*asked, f"{name}.png", *more)
        assert code == 0 and out.strip() == f"{name}.png"
    drawn = {f.stem: np.asarray(Image.open(f).convert("RGB")) for f in tmp_path.glob("*.png")}
    np.testing.assert_array_equal(drawn["a"], drawn["b"])
    for one, other in combinations("acde", 2):
        assert drawn[one].shape == drawn[other].shape and difference(drawn[one], drawn[other]) > 3
    assert drawn["a"].shape[1] > 3 * 64 * 2


def test_words_that_are_not_understood_are_told(world, tmp_path: Path) -> None:
    code, out, said = world("a big dog on the moon", "--count", "1")
    assert code == 0 and out.strip() == "caption.png" and (tmp_path / "caption.png").exists()
    assert len(said.splitlines()) == 1 and said.startswith("note: not in the picture: 'big', 'on the moon';")
    assert (
        "'a cat'" not in (said := world("a cat in the snow", "--subject", "dog2", "--count", "1")[2])
        and "'cat'" in said
    )
    assert world("a dog in the snow", "--subject", "dog2", "--count", "1")[2] == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a dog in the snow", "--subject", "dgo2"), "did you mean 'dog2'"),
        (("a dog in the snow", "--subject", "xyzzy"), "unknown subject 'xyzzy'"),
        (("a sheep in the snow",), "contains no class noun of the world"),
        (("a dog", "--output", "dog.jpg"), ".png"),
        (("--subject", "dog2"), "needs a caption"),
        (("a dog", "--count", "0"), "count"),
    ],
)
def test_wrong_words_get_one_line_and_exit_code_2(world, tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    code, out, said = world(*words)
    assert code == 2 and not out and len(said.splitlines()) == 1 and says in said
    assert not list(tmp_path.iterdir())
