"""What the README shows works: its commands parse, its method runs, the files it names are there."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from cpbench import config
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.cli.options import cli
from cpbench.method import State
from cpbench.registry import load_method

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
CONSOLES = "\n".join(re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL))
INLINE = re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
COMMANDS = re.findall(r"^cpbench ([a-z-]+)(.*)", CONSOLES, re.MULTILINE) + re.findall(
    r"`cpbench ([a-z-]+)([^`]*)`", INLINE
)


def test_there_are_commands() -> None:
    assert {"run", "plan", "doctor", "leaderboard", "new-sequence", "sample", "export"} <= {
        verb for verb, _ in COMMANDS
    }


@pytest.mark.parametrize(("verb", "rest"), COMMANDS)
def test_commands_are_understood(verb: str, rest: str) -> None:
    """By click, which knows every verb, flag and choice; `resolve` knows names and options."""
    command = cli.commands[verb]
    context = command.make_context(verb, shlex.split(rest, comments=True))
    given = context.params
    if verb in ("run", "plan") and given["sequence"] and not str(given["method"]).endswith(".py"):
        settings, chosen = given.pop("settings"), given.pop("config")
        config.resolve(given, chosen, settings)


def test_the_method_it_shows_learns_and_draws(tiny: Backbone, make_task, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code.count("\n") < 20
    (tmp_path / "mine.py").write_text(code)
    kind = load_method(str(tmp_path / "mine.py"))
    options, state = kind.Options(steps=2, batch_size=1), State()
    for number, concept in enumerate(("dog", "backpack"), 1):
        state = kind(options).learn(tiny, make_task(tiny, concept, number), state)
        tiny.restore()
    assert set(state.tensors) == {"token/dog", "token/backpack"}
    with tiny.installed(kind(options), state, ("dog",)):
        assert list(tiny.token_embeddings) == ["v1", "v2"]
        words = kind(options).phrase("dog", "dog", state)
        assert generate(tiny, [SampleRequest(f"a {words}", 0, "dog", "a {}", 0)], Sampler(1, 1.0)).std() > 0
    start = tiny.word_embedding("dog")
    assert not torch.equal(state.tensors["token/dog"], start)


def test_links_lead_somewhere() -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT)]
    assert links and [link for link in links if "://" not in link and not (ROOT / link).exists()] == []
