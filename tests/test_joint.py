"""Joint: whose pictures and words each step has, what it carries of them, and that no other method may."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import learners
import numpy as np
import pytest
import torch
from learners import CONCEPTS, Learned, MakeTask, change, layers, learn, product

import cpbench
from cpbench.backbones.backbone import Backbone
from cpbench.baselines.joint import Joint, JointOptions
from cpbench.baselines.seqlora import SequentialLora
from cpbench.errors import RulesError
from cpbench.learning import training
from cpbench.method import State

Three = Callable[[bool], list[Learned]]
SEQUENCE = """
name: small
version: 1
images: {drawn: true}
concepts: [{name: dog, class_noun: dog, kind: live}, {name: vase, class_noun: vase, kind: object}]
evaluation: {live: ["a {} in the snow"], object: ["a {} in the snow"], pictures_per_prompt: 1, num_inference_steps: 2}
"""
CHEAT = """
import torch

from cpbench.baselines.base import Base


class Hoarder(Base):
    def learn(self, backbone, task, state):
        after = super().learn(backbone, task, state)
        after.tensors = {f"pictures/{task.concept}": torch.zeros(3, dtype=torch.uint8)}
        return after
"""


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> Three:
    return lambda restart: three_tasks(Joint, restart=restart)


# What a step sees


@pytest.mark.parametrize("restart", [True, False])
def test_every_batch_is_of_one_concept_with_its_own_words(
    tiny: Backbone, make_task: MakeTask, three: Three, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    """Latents are drawn without their deviation here, so that each is a picture's own or its mirror image's."""
    before = three(restart)[1].state
    genuine, predictions = tiny.encode_images, training.predictions
    monkeypatch.setattr(tiny, "encode_images", lambda images: (genuine(images)[0], 0 * genuine(images)[1]))
    means = {}
    for number, concept in enumerate(CONCEPTS, 1):
        images = make_task(tiny, concept, number).images
        means[concept] = torch.cat([genuine(x)[0] for x in (images, images[:, :, ::-1])])
    seen: list[tuple[str, str]] = []

    def note(backbone: Backbone, parts: list[tuple[training.Batch, list[str]]]) -> list[torch.Tensor]:
        ((batch, prompts),) = parts
        whose = [{c for c, mean in means.items() if any(torch.equal(z, m) for m in mean)} for z in batch.latents]
        (concept,) = set.intersection(*whose)
        (prompt,) = set(prompts)
        seen.append((concept, prompt))
        return predictions(backbone, parts)

    monkeypatch.setattr(training, "predictions", note)
    learn(Joint, tiny, make_task, 3, before, restart=restart, steps=20)
    assert len(seen) == 20 * (3 if restart else 1)
    phrases = {"dog": "<v1> dog", "vase": "<v2> vase", "dog2": "<v3> dog"}
    for concept, prompt in seen:
        assert prompt in {template.format(phrases[concept]) for template in training.TEMPLATES}
    counts = [sum(c == concept for c, _ in seen) for concept in CONCEPTS]
    assert min(counts) > 0.5 * len(seen) / 3  # each has its turn


def test_two_batches_of_a_concept_differ(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    losses = [f["denoising"] for f in learn(Joint, tiny, make_task, 3, three(True)[1].state, steps=10).curve]
    assert len(set(losses)) == 30


# What is learned


def test_its_first_task_is_that_of_seqlora(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    other = learn(SequentialLora, tiny, make_task, 1, None).state
    for restart in (True, False):
        first = three(restart)[0].state
        assert all(torch.equal(first.tensors[k], v) for k, v in other.tensors.items())


def test_it_restarts_from_the_untouched_model(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    """Of an earlier state it takes pictures and nouns; what it went on from, if it goes on, is LoRA and words too."""
    for restart in (True, False):
        state = three(restart)[1].state
        other = {k: v if k.startswith("pictures/") else v + 0.1 for k, v in state.tensors.items()}
        again = learn(Joint, tiny, make_task, 3, State(other, state.facts), restart=restart).state
        assert learners.same(again.tensors, three(restart)[2].state.tensors) is restart


def test_without_restart_it_goes_on(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    still = {"learning_rate": 1e-9, "token_learning_rate": 0, "steps": 1}
    for restart in (True, False):
        before = three(restart)[1]
        after = learn(Joint, tiny, make_task, 3, before.state, restart=restart, **still)
        near = all(torch.allclose(after.factors[k], v, atol=1e-7) for k, v in before.factors.items())
        assert near is not restart
        for concept, noun in (("dog", "dog"), ("vase", "vase")):
            start = tiny.word_embedding(noun) if restart else before.state.tensors[f"token/{concept}"]
            assert torch.equal(after.state.tensors[f"token/{concept}"], start)
        assert torch.equal(after.state.tensors["token/dog2"], tiny.word_embedding("dog"))


def test_all_words_are_learned(tiny: Backbone, make_task: MakeTask, three: Three) -> None:
    learned = learn(Joint, tiny, make_task, 3, three(False)[1].state, restart=False, steps=12)
    before = three(False)[1].state
    for concept in ("dog", "vase"):
        assert not torch.equal(learned.state.tensors[f"token/{concept}"], before.tensors[f"token/{concept}"])
    assert not torch.equal(learned.state.tensors["token/dog2"], tiny.word_embedding("dog"))
    assert learned.trained == sum(v.numel() for v in learned.factors.values()) + 3 * 16


@pytest.mark.parametrize(("restart", "expected"), [(True, [6, 12, 18]), (False, [6, 6, 6])])
def test_a_restart_costs_more_with_every_task(three: Three, restart: bool, expected: list[int]) -> None:
    assert [x.evaluations for x in three(restart)] == expected
    assert [x.curve[-1]["step"] + 1 for x in three(restart)] == [n // 2 for n in expected]


# What is carried


@pytest.mark.parametrize("restart", [True, False])
def test_it_carries_the_pictures_of_all_concepts(
    tiny: Backbone, make_task: MakeTask, three: Three, tmp_path: Path, restart: bool
) -> None:
    sides = {f"adapter/{n}.{side}" for n in layers(tiny) for side in ("lora_A", "lora_B")}
    for number, learned in enumerate(three(restart), 1):
        expected = sides | {f"{kind}/{c}" for kind in ("token", "pictures") for c in CONCEPTS[:number]}
        assert learned.state.tensors.keys() == expected
    state = three(restart)[2].state
    state.save(tmp_path)
    loaded = State.load(tmp_path)
    for number, concept in enumerate(CONCEPTS, 1):
        kept = loaded.tensors[f"pictures/{concept}"]
        assert kept.dtype == torch.uint8
        np.testing.assert_array_equal(kept.numpy(), make_task(tiny, concept, number).images)
    assert loaded.bytes_by_type()["pictures"] == 3 * 2 * 32 * 32 * 3
    assert loaded.facts == {"concepts": list(CONCEPTS), "nouns": {"dog": "dog", "vase": "vase", "dog2": "dog"}}


def test_one_model_is_installed_for_all(tiny: Backbone, three: Three) -> None:
    learned, method = three(True)[2], Joint(JointOptions(rank=2))
    for concepts in ((), ("dog",), ("dog2", "vase")):
        found = change(tiny, method, learned.state, concepts)
        for n in layers(tiny):
            np.testing.assert_allclose(found[n], product(learned.factors, n), atol=1e-5)
    assert [method.phrase(c, "thing", learned.state) for c in CONCEPTS] == ["<v1> thing", "<v2> thing", "<v3> thing"]


# In a run


def run(folder: Path, method: str, **options: Any) -> dict[str, Any]:
    (folder / "small.yaml").write_text(SEQUENCE)
    return cpbench.run(method=method, sequence=str(folder / "small.yaml"), output=folder / "out", options=options)


def test_a_run_says_that_earlier_data_was_seen(tmp_path: Path) -> None:
    done = run(tmp_path, "joint", rank=2, steps=2, batch_size=2, target_modules=["to_v"])
    record = json.loads((done["folder"] / "run.json").read_text())
    assert record["status"] == "finished" and record["sees_earlier_data"] is True
    assert [record["costs"][t]["learning_evaluations"] for t in ("1", "2")] == [4, 8]
    assert record["costs"]["2"]["state_bytes"]["pictures"] > record["costs"]["1"]["state_bytes"]["pictures"]


def test_pictures_in_the_state_of_any_other_method_are_refused(tmp_path: Path) -> None:
    """Whatever they show: these are blank, and the search for known pictures would pass them."""
    (tmp_path / "hoarder.py").write_text(CHEAT)
    with pytest.raises(RulesError, match="pictures/dog.*sees_earlier_data"):
        run(tmp_path, str(tmp_path / "hoarder.py"))
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "failed"
    assert not list(tmp_path.rglob("task-01/state.json"))
    (tmp_path / "hoarder.py").write_text(CHEAT.replace("Base):", "Base):\n    sees_earlier_data = True\n"))
    assert run(tmp_path, str(tmp_path / "hoarder.py"))["folder"].is_dir()
