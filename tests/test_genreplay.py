"""Deep generative replay: what is drawn, by which model, and the second term on it."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import learners
import numpy as np
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask, learn, rows_stay

from cpbench.backbones import sampling
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.baselines.genreplay import GenerativeReplay
from cpbench.baselines.seqlora import SequentialLora
from cpbench.files import seed_of
from cpbench.learning import prior_preservation, training
from cpbench.learning.lora import LoraOptions
from cpbench.method import State

REPLAY: dict[str, Any] = {"replay_pictures": 2, "replay_inference_steps": 2, "replay_guidance_scale": 4.0}
OPTIONS: dict[str, Any] = REPLAY | {"replay_weight": 0.5}
SAID = ("a photo of a {}", "a picture of a {}", "a {}")


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(GenerativeReplay, **OPTIONS)


def prompts_before(number: int, pictures: int = 2) -> list[str]:
    """Of what is drawn before a task: templates in turn, for every earlier concept."""
    phrases = ("<v1> dog", "<v2> vase", "<v3> dog")[: number - 1]
    return [SAID[k % 3].format(phrase) for phrase in phrases for k in range(pictures)]


def drawn_by(backbone: Backbone, state: State, concept: str, prompts: list[str]) -> np.ndarray:
    """Pictures of the model that a task left, through its own installation as plain `seqlora`."""
    seed = seed_of(0, "replay", concept)
    with backbone.installed(SequentialLora(LoraOptions(rank=2)), state, ()):
        wanted = [SampleRequest(p, seed, concept, p, k) for k, p in enumerate(prompts)]
        return sampling.generate(backbone, wanted, Sampler(2, 4.0))


@pytest.mark.parametrize("number", [2, 3])
def test_the_last_model_draws_every_earlier_concept(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    noted = []
    genuine = prior_preservation.generate
    monkeypatch.setattr(
        prior_preservation, "generate", lambda *args: noted.append((args[2], found := genuine(*args))) or found
    )
    learn(GenerativeReplay, tiny, make_task, number, three[number - 2].state, **OPTIONS)
    ((prompts, pictures),) = noted
    assert prompts == prompts_before(number) and len(prompts) == 2 * (number - 1)
    expected = drawn_by(tiny, three[number - 2].state, CONCEPTS[number - 1], prompts)
    np.testing.assert_array_equal(pictures, expected)
    if number == 3:  # the untouched model, or the one before, draws other pictures
        assert not np.array_equal(drawn_by(tiny, three[0].state, "dog2", prompts[:1]), expected[:1])


def test_their_templates_take_turns(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    prompts: list[str] = []
    encode = tiny.encode_prompts
    tiny.encode_prompts = lambda texts: prompts.extend(texts) or encode(texts)
    try:
        learn(GenerativeReplay, tiny, make_task, 2, three[0].state, **OPTIONS | {"replay_pictures": 5, "steps": 12})
    finally:
        del tiny.encode_prompts
    assert {p for p in prompts if "<v1>" in p} == set(prompts_before(2, 5)) == {s.format("<v1> dog") for s in SAID}


@pytest.mark.parametrize("number", [2, 3])
def test_the_second_term_is_the_error_on_drawn_pictures_under_their_own_words(
    tiny: Backbone, make_task: MakeTask, three: list[Learned], number: int
) -> None:
    """In the first step, when the model is still the last task's: picture by picture."""
    before, task = three[number - 2].state, make_task(tiny, CONCEPTS[number - 1], number)
    curve = learn(GenerativeReplay, tiny, make_task, number, before, **OPTIONS).curve
    prompts = prompts_before(number)
    pictures = drawn_by(tiny, before, task.concept, prompts)
    with tiny.installed(SequentialLora(LoraOptions(rank=2)), before, ()), torch.no_grad():
        first = next(training.batches(tiny, replace(task, images=pictures), 3, 2, "replay"))
        errors = []
        for k in range(2):
            words = tiny.encode_prompts([prompts[int(first.picture_indices[k])]])
            guess = tiny.predict(first.noisy[k : k + 1], first.timesteps[k : k + 1], words)
            errors.append(float((guess - first.noise[k]).square().mean()))
    assert curve[0]["replay"] == pytest.approx(0.5 * np.mean(errors), rel=1e-4)
    for figures in curve:
        assert figures["loss"] == pytest.approx(figures["denoising"] + figures["replay"], rel=1e-6)


def test_without_anything_to_replay_it_is_seqlora(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    first = learn(SequentialLora, tiny, make_task, 1, None)
    assert learners.same(first.state.tensors, three[0].state.tensors)
    assert [f["loss"] for f in first.curve] == [f["loss"] for f in three[0].curve]
    second = learn(SequentialLora, tiny, make_task, 2, first.state)
    weightless = learn(GenerativeReplay, tiny, make_task, 2, three[0].state, **OPTIONS | {"replay_weight": 1e-12})
    for name, tensor in second.state.tensors.items():
        torch.testing.assert_close(weightless.state.tensors[name], tensor)
    replayed = three[1].state.tensors_of("adapter")
    assert all(not torch.allclose(replayed[k], v, atol=1e-5) for k, v in second.state.tensors_of("adapter").items())


def test_it_carries_what_seqlora_does_and_no_picture(tiny: Backbone, three: list[Learned]) -> None:
    tiny.add_lora(2, learners.TARGETS, torch.Generator())
    for number, learned in enumerate(three, 1):
        seen = CONCEPTS[:number]
        expected = {f"adapter/{k}" for k in tiny.lora_parameters} | {f"token/{c}" for c in seen}
        assert learned.state.tensors.keys() == expected
        assert learned.state.facts == {
            "concepts": list(seen),
            "nouns": dict(zip(seen, ("dog", "vase", "dog"), strict=False)),
        }
    rows_stay(three)
    for before, after in itertools.pairwise(three):
        assert not any(torch.equal(after.state.tensors[k], v) for k, v in before.state.tensors.items() if "lora_" in k)


def test_drawing_is_counted(three: list[Learned]) -> None:
    """3 steps of 2 pictures, twice from task 2 on; 2 pictures a concept, 2 sampler steps, doubled by guidance."""
    assert [learned.evaluations for learned in three] == [6, 12 + 8, 12 + 16]


def test_without_guidance_it_costs_half(tiny: Backbone, make_task: MakeTask, three: list[Learned]) -> None:
    found = learn(GenerativeReplay, tiny, make_task, 2, three[0].state, **OPTIONS | {"replay_guidance_scale": 1.0})
    assert found.evaluations == 12 + 4
