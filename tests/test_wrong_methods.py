"""What somebody who writes a first method gets wrong is told in one line, before anything is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

SEQUENCE = """
name: short
version: 1
images: {drawn: true}
concepts: [{name: dog, class_noun: dog, kind: live}]
evaluation: {live: ["a {} in the snow"], pictures_per_prompt: 1, num_inference_steps: 1}
"""
HEAD = """
import torch
from cpbench.method import Method, Options, State


class Mine(Method):
    Options = Options
"""
LEARN = """
    def learn(self, backbone, task, state):
        return State({"token/dog": backbone.word_embedding("dog")}, {"concepts": ["dog"]})
"""
INSTALL = """
    def install(self, backbone, state, concepts):
        backbone.add_token("<v1>", state.tensors["token/dog"])
"""
PHRASE = """
    def phrase(self, concept, class_noun, state):
        return "<v1> dog"
"""
RIGHT = HEAD + LEARN + INSTALL + PHRASE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RIGHT.replace("    Options = Options\n", ""), "Mine does not define its options; give it `Options = <your options class>`"),
        (HEAD + LEARN + PHRASE, "Mine lacks install; see docs/adding-a-method.md"),
        (HEAD + "    pass", "Mine lacks learn and install and phrase"),
        (RIGHT + "\n\nclass Other(Mine):\n    pass\n", "must define one subclass of cpbench.method.Method, but defines 2: Mine, Other"),
        ("x = 1", "must define one subclass of cpbench.method.Method, but defines 0"),
        (RIGHT.replace("import torch", "import torch\nimport nonesuch"), "mine.py, line 3: cannot be imported (ModuleNotFoundError"),
        (RIGHT.replace("return State(", "return State(("), "mine.py, line 10: cannot be imported (SyntaxError"),
        (RIGHT.replace("return State(", "State("), "learn must return a cpbench.method.State, but returned None"),
        (RIGHT.replace(', {"concepts": ["dog"]}', ""), "whose facts['concepts'] is []; make it ['dog']"),
        (RIGHT.replace('{"token/dog"', '{"word/dog"'), "returned a tensor called 'word/dog'; begin it with one of adapter,"),
        (RIGHT.replace('return "<v1> dog"', "pass"), "phrase returned None; it must return text"),
        (RIGHT.replace('"<v1> dog"', '"<v9> dog"'), "its phrase '<v9> dog' has the word <v9>, which install does not add"),
    ],
)  # fmt: skip
def test_it_is_told_in_one_line(text: str, told: str, call: Callable, tmp_path: Path) -> None:
    code, _, said = run(call, text, tmp_path)
    assert code == 2 and len(said.splitlines()) == 1, said
    assert said.startswith(f"cpbench: method {tmp_path / 'mine.py'}") and told in said


def test_the_right_one_runs(call: Callable, tmp_path: Path) -> None:
    assert run(call, RIGHT, tmp_path)[0] == 0


def test_a_forgotten_ending_is_pointed_out(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(RIGHT)
    code, _, said = call("run", "--method", "./mine", "--sequence", "quick3")
    assert code == 2 and "There is a file ./mine.py; add the ending" in said


def run(call: Callable, text: str, folder: Path) -> tuple[int, str, str]:
    (folder / "mine.py").write_text(text)
    (folder / "short.yaml").write_text(SEQUENCE)
    words = ("--method", folder / "mine.py", "--sequence", folder / "short.yaml", "--output", folder / "out")
    return call("run", *words)
