"""What to answer for an option that a command does not have: the option of the same meaning, or how a setting is passed."""

from __future__ import annotations

import click

from cpbench.errors import UserError, did_you_mean, synonyms

COMMON_OPTIONS = ("learning_rate", "steps", "batch_size", "rank")  # of nearly all methods, where none is named


def unknown_option(error: click.NoSuchOption, words: list[str]) -> str:
    """The message for an option that click does not know.

    words: the command line. Methods have options, and the evaluation settings, that are passed by --set.
    """
    command = error.ctx.command if error.ctx else None
    flags = [flag for p in (command.params if command else []) for flag in p.opts if flag.startswith("--")]
    name = error.option_name.lstrip("-").replace("-", "_")
    settings = _settings(words) if "--set" in flags else []
    if similar := synonyms(name, [flag[2:].replace("-", "_") for flag in flags]):
        return f"unknown option {error.option_name}: did you mean --{similar[0].replace('_', '-')}?"
    names = [key.rpartition(".")[2] for key in settings]
    meant = [key for key in (name, *synonyms(name, names)) if key in names]
    if meant:
        key = settings[names.index(meant[0])]
        owner = "a setting of the evaluation" if "." in key else "an option of the method"
        return f"unknown option {error.option_name}: {meant[0]} is {owner}; pass it with --set {key}=VALUE"
    return str(did_you_mean(error.option_name, flags, "option")).rstrip(".")


def _settings(words: list[str]) -> list[str]:
    """What --set takes: the options of the method that the words name, and the settings of the evaluation."""
    from cpbench.config import EvaluationChoices
    from cpbench.registry import load_method

    methods = [b for a, b in zip(words, words[1:], strict=False) if a in ("--method", "--methods")]
    methods += [word.partition("=")[2] for word in words if word.startswith(("--method=", "--methods="))]
    options: list[str] = []
    for method in methods:
        try:
            options += load_method(method.split(",")[0].split()[0]).Options.model_fields
        except (UserError, IndexError):  # the method is another mistake; this one is answered first
            continue
    return [*(options or COMMON_OPTIONS), *(f"evaluation.{key}" for key in EvaluationChoices.model_fields)]
