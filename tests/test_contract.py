"""What methods are promised: an empty state first, prompts where they ask for them, options that count or are told of."""

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import Field

import cpbench
from cpbench import moved
from cpbench.backbones.backbone import Backbone
from cpbench.config import resolve
from cpbench.errors import UserError
from cpbench.finished import export, load
from cpbench.method import POSITIVE, Options
from cpbench.records.folder import RunFolder
from cpbench.registry import built_in_methods, load_method
from cpbench.running.prepare import prepare

BY_PROMPT = """
import torch

from cpbench.method import Method, Options, State


class ByPrompt(Method):
    Options = Options

    @property
    def per_prompt(self):
        return True

    def learn(self, backbone, task, state):
        assert isinstance(state, State) and len(state.concepts) == task.number - 1
        return State({}, {"concepts": [*state.concepts, task.concept]})

    def install(self, backbone, state, concepts, prompts):
        (prompt,) = prompts
        assert "{}" not in prompt and (not concepts or "<" not in prompt)
        with open(__file__ + ".said", "a") as file:
            print(concepts, prompt, sep="|", file=file)
        bias = backbone.denoiser.get_parameter("conv_out.bias")
        backbone.replace_weights({"conv_out.bias": bias + len(prompt) / 100})

    def phrase(self, concept, class_noun, state):
        return f"my {class_noun}"
"""
SEQUENCE = """
name: short
version: 1
images: {drawn: true}
concepts: [{name: dog, class_noun: dog, kind: live}, {name: vase, class_noun: vase, kind: object}]
evaluation:
  live: ["a {} in the snow", "a {} on the beach"]
  object: ["a {} in the snow"]
  pictures_per_prompt: 1
  num_inference_steps: 1
  prior: ["a photo of a {}"]
"""


def test_a_method_that_depends_on_the_prompt_is_installed_once_for_each(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(BY_PROMPT)
    (tmp_path / "short.yaml").write_text(SEQUENCE)
    folder = cpbench.run(
        method=str(tmp_path / "mine.py"), sequence=str(tmp_path / "short.yaml"), output=tmp_path / "out"
    )["folder"]
    said = (tmp_path / "mine.py.said").read_text().splitlines()
    dog, vase = (
        ["('dog',)|a my dog in the snow", "('dog',)|a my dog on the beach"],
        ["('vase',)|a my vase in the snow"],
    )
    assert [line for line in said if not line.startswith("()")] == [
        *dog,
        *dog,
        *vase,
    ]  # rows 1 and 2; row 0 is untouched
    plain = [line for line in said if line.startswith("()")]
    nouns = [line for line in plain if line.startswith("()|a photo of a")]
    assert len(nouns) == len(set(nouns)) * 2 and "()|a photo of a teapot" in nouns
    unrelated = [line for line in plain if line not in nouns]  # in the last row, and in row 0, which is untouched
    assert len(unrelated) == len(set(unrelated)) == 10
    first, second = (RunFolder(folder).task(t).pictures("dog") / "00-0.png" for t in (0, 1))
    assert first.read_bytes() != second.read_bytes()

    it = load.open_run(folder, None, "cpu", trust_remote_code=True)
    one, other = (load.sample(it, prompt, 1, 0, 1, None) for prompt in ("a {dog}", "a {dog}!!!!!!!!!!!!!!"))
    assert (one != other).any() and (tmp_path / "mine.py.said").read_text().splitlines()[
        -1
    ] == "('dog',)|a my dog!!!!!!!!!!!!!!"
    with pytest.raises(UserError, match="installed for each prompt separately, so it cannot be exported to files"):
        export.export(it, tmp_path / "exported")


def test_an_install_of_0_1_is_called_as_it_was_and_told_of_once(tiny: Backbone) -> None:
    class Old:
        def install(self, backbone: Backbone, state: object, concepts: tuple[str, ...]) -> None:
            seen.append(concepts)

    seen: list[tuple[str, ...]] = []
    moved._warned.discard("install(backbone, state, concepts)")
    with (
        pytest.warns(DeprecationWarning, match="install\\(backbone, state, concepts, prompts\\)"),
        tiny.installed(Old(), 1, ("dog",)),
    ):
        pass
    assert seen == [("dog",)]


# Options


class Some(Options):
    adapter: str = "full"
    rank: int = 8
    only: ClassVar = {"rank": {"adapter": ("lora", "dora")}}


class More(Some):
    weight: float = 0.0
    schedule: str = "flat"
    only: ClassVar = {"schedule": {"weight": POSITIVE, "adapter": ("full",)}}


def test_options_without_effect_are_named_with_what_makes_them_so() -> None:
    assert More().without_effect() == {"rank": "adapter=full", "schedule": "weight=0.0"}
    assert More(weight=0.5).without_effect() == {"rank": "adapter=full"}
    assert More(weight=0.5, adapter="dora").without_effect() == {"schedule": "adapter=dora"}


@pytest.mark.parametrize("name", built_in_methods())
def test_what_a_methods_options_name_is_an_option(name: str) -> None:
    kind = load_method(name).Options
    for table in (vars(it).get("only", {}) for it in kind.__mro__):
        for option, conditions in table.items():
            assert {option, *conditions} <= kind.model_fields.keys()
    kind().without_effect()


def test_one_that_was_set_and_has_no_effect_is_a_note_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(SEQUENCE)
    given = {"method": "raretoken", "sequence": str(tmp_path / "short.yaml"), "output": tmp_path}
    notes = [prepare(*resolve(given | {"options": o})).notes for o in ({"rank": 4}, {}, {"rank": 4, "adapter": "lora"})]
    assert notes[0] == ["rank has no effect with adapter=full; leave it out"] and notes[1:] == [[], []]


CHANGES = {  # of options that count alone: two values that learn something else, and what else is set
    "fisher_decay": ("ewc", 0.2, {"fisher_samples": 1}),
    "negatives": ("dcscore", "averaged", {"variant": "ewc-dc", "fisher_samples": 1}),
}


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_that_counts_changes_what_is_learned(option: str, tiny: Backbone, make_task) -> None:
    import learners

    name, value, more = CHANGES[option]
    kind = load_method(name)
    plain, changed = (learners.tasks(kind, tiny, make_task, **more | extra) for extra in ({}, {option: value}))
    fishers = [{k: v for k, v in it[-1].state.tensors.items() if k.startswith("fisher/")} for it in (plain, changed)]
    assert any(not torch.equal(fishers[0][k], fishers[1][k]) for k in fishers[0])


class Odd(Options):
    steps: int = Field(3, ge=1)


def test_unknown_options_are_not_accepted() -> None:
    with pytest.raises(ValueError, match="rank"):
        Odd(rank=4)
