"""Data perspective: crops, captions and their dropout, and a set that the untouched model draws for every task."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import learners
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import Learned, MakeTask, learn, rows_stay, same

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.dataperspective import DataPerspective, DataPerspectiveOptions, cropped
from cpbench.errors import UserError
from cpbench.learning import prior_preservation, training, weights_or_lora
from cpbench.learning import structured_prompts as structured
from cpbench.method import State

KINDS = ("full", "lora")
PLACES = len(structured.BACKGROUNDS.split(","))
SET: dict[str, Any] = {"prior_pictures": 5, "prior_inference_steps": 2, "prior_guidance_scale": 4.0}
OPTIONS: dict[str, Any] = SET | {"learning_rate": 1e-3, "lora_learning_rate": 1e-2, "crops": 3, "caption_samples": 2}
TOLD = {"dog": ("by a lake", "on a sofa"), "vase": ("in a box", "at night")}
STILL: dict[str, Any] = {"learning_rate": 1e-12, "lora_learning_rate": 1e-12}


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> dict[str, list[Learned]]:
    return {kind: three_tasks(DataPerspective, adapter=kind, **OPTIONS) for kind in KINDS}


@pytest.fixture
def sets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], np.ndarray]]:
    """(hash of what is installed, prompts, pictures) of every set that is drawn."""
    noted: list[tuple[str, list[str], np.ndarray]] = []
    genuine = prior_preservation.generate

    def note(backbone: Backbone, task: object, prompts: list[str], *more: object) -> np.ndarray:
        noted.append((backbone.installed_hash(), prompts, genuine(backbone, task, prompts, *more)))
        return noted[-1][2]

    monkeypatch.setattr(prior_preservation, "generate", note)
    return noted


@pytest.fixture
def said(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompts of every call of the text encoder, but for those of drawing."""
    noted: list[list[str]] = []
    encode = tiny.encode_prompts
    monkeypatch.setattr(tiny, "encode_prompts", lambda texts: noted.append(texts) or encode(texts))
    return noted


@pytest.fixture
def by_picture(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The prompt of every picture in every step."""
    noted: list[list[str]] = []
    encode = training.encoded
    monkeypatch.setattr(training, "encoded", lambda backbone, texts: noted.append(texts) or encode(backbone, texts))
    return noted


# Crops


def slopes(size: int) -> np.ndarray:
    """A picture whose red is its place along x, and green along y: 0 to 255 from the first pixel's centre to the last's."""
    place = np.linspace(0, 255, size)
    red, green = np.meshgrid(place, place)
    return np.stack([red, green, np.zeros_like(red)], -1).round().astype(np.uint8)


@given(st.integers(0, 200), st.floats(0.3, 1.0))
def test_crops_are_squares_within_the_picture(seed: int, smallest: float) -> None:
    size, number = 64, 6
    found = cropped(slopes(size)[None], number, smallest, torch.Generator().manual_seed(seed)).astype(float)
    assert found.shape == (number, size, size, 3)
    inner = found[:, 8:-8, 8:-8]  # at the edges pixels beyond are missed
    per_pixel = 255 / (size - 1)
    across, down = (np.diff(inner[..., c], axis=a).mean((1, 2)) / per_pixel for c, a in ((0, 2), (1, 1)))
    np.testing.assert_allclose(across, down, atol=0.02)  # side of the crop / side of the picture
    assert (across > smallest - 0.02).all() and (across < 1.02).all()
    assert found.min() >= 0 and found.max() <= 255 and not found[..., 2].any()


def test_crops_differ_and_reach_from_edge_to_edge() -> None:
    found = cropped(slopes(64)[None], 300, 0.5, torch.Generator().manual_seed(0)).astype(float)
    first, last = found[:, 32, 0, 0], found[:, 32, -1, 0]
    assert first.min() < 3 and last.max() > 252 and first.max() > 100 and last.min() < 155
    assert abs(np.corrcoef(first, found[:, 0, 32, 1])[0, 1]) < 0.5  # x and y are drawn apart
    assert len({tuple(f.reshape(-1)[:99]) for f in found}) > 250


def test_crops_of_one_picture_lie_together_and_all_of_it_is_itself() -> None:
    pictures = np.stack([np.full((8, 8, 3), level, np.uint8) for level in (10, 90, 200)])
    found = cropped(pictures, 4, 0.7, torch.Generator().manual_seed(0))
    assert [int(f.mean()) for f in found] == [10] * 4 + [90] * 4 + [200] * 4
    whole = cropped(slopes(16)[None], 2, 1.0, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(whole[0], slopes(16))


# The set


@pytest.mark.parametrize("kind", KINDS)
def test_the_set_is_drawn_by_the_untouched_model(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], sets: list, kind: str
) -> None:
    pristine = tiny.installed_hash()
    after = learn(DataPerspective, tiny, make_task, 2, three[kind][0].state, adapter=kind, **OPTIONS)
    alone = learn(DataPerspective, tiny, make_task, 2, None, adapter=kind, **OPTIONS)
    (first, prompts, pictures), (second, _, again) = sets
    assert first == second == pristine
    np.testing.assert_array_equal(pictures, again)
    assert not same(after.state.tensors, alone.state.tensors)  # although what is learned goes on
    assert len(pictures) == len(prompts) == 5


def test_half_of_it_is_formatted_and_half_amplified(tiny: Backbone, make_task: MakeTask, sets: list) -> None:
    learn(DataPerspective, tiny, make_task, 2, None, adapter="lora", **OPTIONS)
    learn(DataPerspective, tiny, make_task, 3, None, adapter="lora", **OPTIONS)
    for (_, prompts, _), concept, noun in zip(sets, ("vase", "dog2"), ("vase", "dog"), strict=True):
        g = make_task(tiny, concept).generator("prompts")
        assert prompts[:3] == structured.training_format(noun, 3, g)
        assert prompts[3:] == structured.augmented(noun, 2, g)
        assert all(p.startswith(f"a photo of a {noun}, ") for p in prompts[:3])
        assert not any("<" in p for p in prompts)  # no identifier


def test_every_step_has_as_many_of_the_set_each_under_its_prompt(
    tiny: Backbone, make_task: MakeTask, sets: list, by_picture: list[list[str]]
) -> None:
    """In the first step, when the model is still the untouched one: picture by picture."""
    curve = learn(DataPerspective, tiny, make_task, 1, None, adapter="lora", prior_weight=0.5, **OPTIONS).curve
    _, prompts, pictures = sets[0]
    (first, *_) = training.batches(tiny, replace(make_task(tiny), images=pictures), 3, 2, "prior")
    errors = []
    for k, which in enumerate(first.picture_indices.tolist()):
        with torch.no_grad():
            guess = tiny.predict(
                first.noisy[k : k + 1], first.timesteps[k : k + 1], tiny.encode_prompts([prompts[which]])
            )
        errors.append(float((guess - first.noise[k]).square().mean()))
    assert curve[0]["prior"] == pytest.approx(0.5 * np.mean(errors), rel=1e-4)
    assert all(f["loss"] == pytest.approx(f["denoising"] + f["prior"], rel=1e-6) for f in curve)
    assert [len(texts) for texts in by_picture] == [2 + 2] * 3  # of the concept and of the set
    assert all(set(texts[2:]) <= set(prompts) and not set(texts[:2]) & set(prompts) for texts in by_picture)


@pytest.mark.parametrize("without", [{"prior_pictures": 0}, {"prior_weight": 0}])
def test_without_a_set_nothing_is_drawn(tiny: Backbone, make_task: MakeTask, sets: list, without: dict) -> None:
    learned = learn(DataPerspective, tiny, make_task, 1, None, adapter="lora", **OPTIONS | without)
    assert sets == [] and learned.evaluations == 2 * PLACES + 3 * 2
    assert all("prior" not in figures for figures in learned.curve)


# Training examples


def first_error(backbone: Backbone, make_task: MakeTask, state: State, prompts: list[str], **options: Any) -> float:
    """The first step's denoising error, with the words that belong to each picture, before anything has moved."""
    task, o = make_task(backbone), DataPerspectiveOptions(**options)
    crops = cropped(task.images, o.crops, o.smallest_crop, task.generator("crops"))
    (first, *_) = training.batches(backbone, replace(task, images=crops), 3, 4, "train")
    backbone.add_token("<sks-1>", state.tensors["token/dog"])
    errors = []
    for k, which in enumerate(first.picture_indices.tolist()):
        words = backbone.encode_prompts([prompts[which // o.crops]])
        guess = backbone.predict(first.noisy[k : k + 1], first.timesteps[k : k + 1], words)
        errors.append(float((guess.detach() - first.noise[k]).square().mean()))
    backbone.restore()
    return float(np.mean(errors))


@pytest.mark.parametrize(
    ("dropout", "prompts"),
    [
        (0.0, ["a photo of a <sks-1> dog, by a lake", "a photo of a <sks-1> dog, on a sofa"]),
        (1.0, ["", ""]),
    ],
)
def test_each_crop_is_learned_under_its_pictures_caption(
    tiny: Backbone, make_task: MakeTask, dropout: float, prompts: list[str]
) -> None:
    options: dict[str, Any] = {
        "caption_dropout": dropout,
        "captions": TOLD,
        "crops": 3,
        "adapter": "lora",
        "prior_pictures": 0,
    }
    learned = learn(DataPerspective, tiny, make_task, 1, None, batch_size=4, **options)
    assert learned.evaluations == 3 * 4  # nothing is asked of the model
    expected = first_error(tiny, make_task, learned.state, prompts, **options)
    assert learned.curve[0]["denoising"] == pytest.approx(expected, rel=1e-5)
    for others in (["a vase"] * 2, ["a vase", prompts[1]], [*reversed(prompts)]):  # it is told apart from these
        if others != prompts:
            other = first_error(tiny, make_task, learned.state, others, **options)
            assert other != pytest.approx(expected, rel=3e-5)


def test_a_share_of_the_captions_is_left_out(tiny: Backbone, make_task: MakeTask, by_picture: list[list[str]]) -> None:
    chosen = {"adapter": "lora", "prior_pictures": 0, "steps": 20, "batch_size": 10, "captions": TOLD}
    learn(DataPerspective, tiny, make_task, 1, None, caption_dropout=0.3, **chosen)
    texts = [text for step in by_picture for text in step]
    assert set(texts) == {"", *(f"a photo of a <sks-1> dog, {place}" for place in TOLD["dog"])} and len(texts) == 200
    assert 60 - 4 * 6.5 < texts.count("") < 60 + 4 * 6.5  # four standard deviations
    assert any("" in step and len(set(step)) > 1 for step in by_picture)  # drawn for each picture


@pytest.mark.parametrize("captions", [{"dog": ("by a lake",)}, {"dog": ("a", "b", "c")}, {"vase": ("a", "b")}])
def test_captions_must_be_one_a_picture_and_for_all_concepts(
    tiny: Backbone, make_task: MakeTask, captions: dict[str, tuple[str, ...]]
) -> None:
    with pytest.raises(UserError, match=r"captions: concept dog has 2 pictures and \d captions"):
        learn(DataPerspective, tiny, make_task, 1, None, captions=captions, **OPTIONS)


def test_without_captions_the_untouched_model_chooses(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], said: list[list[str]]
) -> None:
    """In task 2 as in task 1: the least sum of errors, one picture and one place at a time."""
    chosen = OPTIONS | {"adapter": "lora", "caption_samples": 6, "caption_dropout": 0.0, "steps": 6}
    learn(DataPerspective, tiny, make_task, 2, three["lora"][0].state, **chosen)
    learned = {p for call in said for p in call if "<sks-2>" in p}
    task, places = make_task(tiny, "vase"), [" ".join(p.split()) for p in structured.BACKGROUNDS.split(",")]
    errors = np.zeros((2, len(places)))
    for batch in training.batches(tiny, task, 6, 1, "captions"):
        for k, place in enumerate(places):
            with torch.no_grad():
                words = tiny.encode_prompts([f"a photo of a vase, {place}"])
                guess = tiny.predict(batch.noisy, batch.timesteps, words)
            errors[int(batch.picture_indices), k] += float((guess - batch.noise).square().mean())
    assert errors.min() > 0  # both pictures were looked at
    assert learned == {f"a photo of a <sks-2> vase, {places[k]}" for k in errors.argmin(1)}


def test_a_class_may_be_told_more_specifically(
    tiny: Backbone, make_task: MakeTask, sets: list, said: list[list[str]], by_picture: list[list[str]]
) -> None:
    chosen = OPTIONS | {"adapter": "lora", "classes": {"dog": "corgi dog"}, "caption_dropout": 0.0}
    state = learn(DataPerspective, tiny, make_task, 1, None, **chosen).state
    ((_, prompts, _),) = sets
    assert all(" corgi dog" in p for p in prompts)
    assert all(p.startswith("a photo of a corgi dog, ") for p in said[0])  # the choice of captions
    assert all(p.startswith("a photo of a <sks-1> corgi dog, ") for step in by_picture for p in step[:2])
    method = DataPerspective(DataPerspectiveOptions(classes={"dog": "corgi dog"}))
    assert method.phrase("dog", "dog", state) == "<sks-1> corgi dog"
    assert DataPerspective().phrase("dog", "dog", state) == "<sks-1> dog"


# What is learned and carried


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_one_model_and_frozen_identifiers(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], kind: str
) -> None:
    if kind == "full":
        expected = {f"weights/{n}" for n, _ in tiny.denoiser.named_parameters()}
        size = sum(p.numel() for p in tiny.denoiser.parameters())
    else:
        factors = tiny.add_lora(2, learners.TARGETS, torch.Generator())
        expected, size = {f"adapter/{n}" for n in factors}, sum(p.numel() for p in factors.values())
        tiny.restore()
    for number, learned in enumerate(three[kind], 1):
        seen = learners.CONCEPTS[:number]
        assert learned.state.tensors.keys() == expected | {f"token/{c}" for c in seen}
        assert learned.trained == size
        row = learned.state.tensors[f"token/{seen[-1]}"]
        assert torch.equal(row, tiny.random_embedding(make_task(tiny, seen[-1]).generator("identifier")))
    rows_stay(three[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_task_2_goes_on_from_task_1(
    tiny: Backbone, make_task: MakeTask, three: dict[str, list[Learned]], kind: str
) -> None:
    before = three[kind][0].state
    after = learn(DataPerspective, tiny, make_task, 2, before, adapter=kind, **OPTIONS | STILL).state
    for name, tensor in before.tensors.items():
        torch.testing.assert_close(after.tensors[name], tensor, atol=1e-7, rtol=0)
    for name, tensor in three[kind][1].state.tensors.items():  # and with a rate it moves on
        assert name.startswith("token/") or not torch.equal(tensor, before.tensors[name]), name


def test_drawing_is_counted(three: dict[str, list[Learned]]) -> None:
    """5 pictures by 2 sampler steps with guidance; 2 draws of every place; 3 steps of 2 pictures and 2 of the set."""
    for kind in KINDS:
        assert [learned.evaluations for learned in three[kind]] == [20 + 2 * 16 + 6 + 6] * 3


def test_all_weights_are_refused_where_they_do_not_fit(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_or_lora, "device_memory", lambda device: 1)
    with pytest.raises(UserError, match="method dataperspective: .* use --set adapter=lora"):
        DataPerspective().check(tiny)
    DataPerspective(DataPerspectiveOptions(adapter="lora")).check(tiny)
