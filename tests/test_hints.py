"""A hint is true: every command that is quoted exists, and an answer speaks the language of who asked."""

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

import cpbench
from cpbench.cli.options import cli
from cpbench.errors import LISTED, MOST_LISTED, SYNONYMS, UserError, as_arguments, did_you_mean
from cpbench.registry import built_in_methods, load_method

ROOT = Path(__file__).resolve().parents[1]
QUOTED = re.compile(r"`(cpbench [^`]+)`")
# what an expression in a message may stand for; any other stands for a name
VALUES = {"noun": LISTED, "key": ("method", "sequence")}


# Every command that is quoted


def texts_of(file: Path) -> Iterator[str]:
    """Every text of a Python file, with NAME for each expression in it, or with all that the expression may stand for."""
    tree = ast.parse(file.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            variants = [""]
            for part in node.values:
                choices = [part.value] if isinstance(part, ast.Constant) else values_of(part)
                variants = [text + choice for text in variants for choice in choices]
            yield from variants


def values_of(part: ast.expr) -> tuple[str, ...]:
    assert isinstance(part, ast.FormattedValue)
    return VALUES.get(ast.unparse(part.value), ("NAME",))


def quoted_commands() -> set[tuple[str, str]]:
    """(file, command) of all messages, help texts, docstrings and pages."""
    commands = set()
    for top in ("cpbench", "baselines"):
        for file in (ROOT / top).rglob("*.py"):
            name = file.relative_to(ROOT).as_posix()
            for text in texts_of(file):
                commands |= {(name, command) for command in QUOTED.findall(text)}
                commands |= {(name, command) for command in re.findall(r"^Example: (cpbench .*)$", text, re.MULTILINE)}
                commands |= {(name, command) for command in re.findall(r"^ +(cpbench [a-z-]+ .*)$", text, re.MULTILINE)}
                commands |= {(name, command) for command in re.findall(r"^next: (cpbench .*)$", text, re.MULTILINE)}
    for file in [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "tasks").rglob("*.yaml"),
    ]:
        name, text = file.relative_to(ROOT).as_posix(), file.read_text()
        blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
        commands |= {(name, line.strip()) for line in blocks.splitlines() if line.strip().startswith("cpbench ")}
        commands |= {(name, command) for command in QUOTED.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))}
    return commands


COMMANDS = sorted(
    {
        (file, " ".join(part.split()))
        for file, line in quoted_commands()
        for part in re.split(r"&&|;| \| ", line)  # a line of a shell may hold several
        if part.strip().startswith("cpbench ")
    }
)


def test_there_are_quoted_commands_of_every_kind() -> None:
    files = {file for file, _ in COMMANDS}
    assert {"cpbench/errors.py", "cpbench/config.py", "cpbench/cli/run.py", "README.md", "docs/running.md"} <= files
    assert ("cpbench/errors.py", "cpbench list backbones") in COMMANDS
    assert any(
        command.startswith("cpbench report") for file, command in COMMANDS if file == "cpbench/running/runner.py"
    )


@pytest.mark.parametrize(("file", "command"), COMMANDS)
def test_a_quoted_command_exists(file: str, command: str) -> None:
    _, *words = shlex.split(command, comments=True)
    if words in (["--help"], ["--version"]):
        return
    verb, *words = words
    assert verb in cli.commands, f"{file} quotes a command that does not exist: {command}"
    if words:
        cli.commands[verb].make_context(verb, words)  # click's UsageError for a wrong word


def test_the_check_finds_a_command_that_does_not_exist() -> None:
    with pytest.raises(click.UsageError):
        cli.commands["list"].make_context("list", shlex.split("dcscore options"))
    with pytest.raises(click.UsageError):
        cli.commands["run"].make_context("run", shlex.split("--methd dcscore"))


@pytest.mark.parametrize("noun", ["key", "grid", "method dcscore option", "concept", *LISTED])
@pytest.mark.parametrize("count", [1, MOST_LISTED, MOST_LISTED + 1, 40])
def test_an_unknown_name_is_answered_by_commands_that_exist(noun: str, count: int) -> None:
    line = str(did_you_mean("zzz", [f"name{k}" for k in range(count)], noun))
    assert "name0" in line or f"`cpbench list {noun}s`" in line
    for command in QUOTED.findall(line):
        verb, *words = shlex.split(command)[1:]
        cli.commands[verb].make_context(verb, words)


# What other programs call it


def test_synonyms_answer_with_names_that_exist() -> None:
    from cpbench.backbones.options import BackboneConfig
    from cpbench.config import EvaluationChoices, RunConfig

    fields = {name for model in (RunConfig, BackboneConfig, EvaluationChoices) for name in model.model_fields}
    options = {name for method in built_in_methods() for name in load_method(method).Options.model_fields}
    for name in SYNONYMS:
        ending = name.lstrip("*")
        assert any(known == name or (name != ending and known.endswith(ending)) for known in fields | options), name


@pytest.mark.parametrize(
    ("method", "key", "answer"),
    [
        ("seqlora", "lr", "'learning_rate'"),
        ("seqlora", "epochs", "'steps'"),
        ("seqlora", "max-train-steps", "'steps'"),
        ("ewc", "lambda", "did you mean 'ewc_weight'"),
        ("si", "lambda", "did you mean 'si_weight'"),
        ("seqlora", "lora_r", "'rank'"),
        ("seqlora", "evaluation.cfg", "'guidance_scale'"),
    ],
)
def test_the_words_of_other_programs_are_understood(call: Callable, method: str, key: str, answer: str) -> None:
    code, _, line = call("run", "--method", method, "--sequence", "quick3", "--set", f"{key}=3")
    assert code == 2 and answer in line, line


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["run", "--method", "ewc", "--lr", "3"], "--set learning_rate=VALUE"),
        (["run", "--method", "ewc", "--lambda=3"], "--set ewc_weight=VALUE"),
        (["run", "--method=clora", "--forgetting-weight", "3"], "--set forgetting_weight=VALUE"),
        (["sweep", "--methods", "ewc,seqlora", "--epochs", "4"], "--set steps=VALUE"),
        (["plan", "--cfg", "3"], "--set evaluation.guidance_scale=VALUE"),
        (["run", "--model", "sd15"], "did you mean --backbone?"),
        (["run", "--dataset", "quick3"], "did you mean --sequence?"),
        (["run", "--sede", "3"], "'--seed'"),
        (["list", "--foo"], "the options are --output, --json"),
    ],
)
def test_an_option_that_is_a_setting_is_answered_with_set(call: Callable, words: list[str], answer: str) -> None:
    code, _, line = call(*words)
    assert code == 2 and answer in line and len(line.splitlines()) == 1, line


# From Python


@pytest.mark.parametrize(
    ("settings", "answer"),
    [
        ({}, "method is missing"),
        ({"method": "base"}, "sequence is missing"),
        ({"method": "base", "sequence": "cifc10"}, 'backbone="miniature"'),
        ({"method": "ewc", "sequence": "quick3", "lr": 1}, "'lr': is a setting of the method; put it under options, as {learning_rate"),
        ({"method": "ewc", "sequence": "quick3", "steps": 1}, "put it under options, as {steps"),
        ({"method": "ewc", "sequence": "quick3", "guidance_scale": 1}, "put it under evaluation, as {guidance_scale"),
        ({"method": "ewc", "sequence": "quick3", "model": "sd15"}, "did you mean 'backbone'"),
        ({"method": "ewc", "sequence": "quick3", "sede": 1}, "did you mean 'seed'"),
        ({"method": "ewc", "sequence": "quick3", "resolution": 96}, "leave out resolution"),
    ],
)  # fmt: skip
def test_errors_from_python_speak_of_arguments(settings: dict[str, object], answer: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        cpbench.run(**settings, output=tmp_path)
    line = str(error.value)
    assert answer in line and "--" not in line, line


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("leave out --resolution", "leave out resolution"),
        ("pass --allow-pickle", "pass allow_pickle=True"),
        ("try --dtype float32", 'try dtype="float32"'),
        ("use --no-overlap", "use overlap=False"),
        ("with `--data FOLDER`, or `--data hub`", 'with `data=FOLDER`, or `data="hub"`'),
        ("use --set adapter=lora", 'use options={"adapter": "lora"}'),
        ("use --set 'target_modules=[attention, feed_forward]'", 'use options={"target_modules": ["attention", "feed_forward"]}'),
        ("(--set evaluation.num_inference_steps=10)", '(evaluation={"num_inference_steps": 10})'),
        ("for CLIP use --clip", "for CLIP use clip"),
    ],
)  # fmt: skip
def test_a_flag_becomes_an_argument(message: str, arguments: str) -> None:
    assert as_arguments(message) == arguments


def test_every_flag_in_a_message_is_a_flag_of_some_command() -> None:
    """Messages of UserErrors: a flag that was renamed, or never was, is no advice."""
    flags = {flag for command in cli.commands.values() for p in command.params for flag in [*p.opts, *p.secondary_opts]}
    flags |= {"--help", "--version"}
    wrong = []
    for file in (ROOT / "cpbench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("UserError", "did_you_mean", "say"):
                for argument in node.args:
                    for text in (
                        n.value for n in ast.walk(argument) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                    ):
                        words = re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", re.sub(r"`(?!cpbench)[^`]*`", "", text))
                        wrong += [f"{file.name}: {flag}" for flag in words if flag not in flags]
    assert wrong == []
