"""`cpbench describe`. Sequences and backbones are described without importing torch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from cpbench.cli.printing import LINE_WIDTH, print_list
from cpbench.fitted_table import FittedTable

if TYPE_CHECKING:
    from cpbench.concepts.sequences import Concept


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else LINE_WIDTH, highlight=False)


def method(name: str) -> None:
    """The docstring, then every option with its default and its value in the miniature's preset."""
    facts, console = method_facts(name), _console()
    for paragraph in facts["text"].split("\n\n"):
        equation = any(line.startswith(" ") for line in paragraph.splitlines())
        console.print(paragraph if equation else paragraph.replace("\n", " "), markup=False)
        console.print()
    if facts["options"]:
        console.print("options (--set key=value)")
        print_list(options_table(facts["options"]))


def options_table(options: list[dict[str, Any]]) -> FittedTable:
    """The options of `method_facts`, one per line."""
    table = FittedTable(box=None)
    table.add_column("key", no_wrap=True)
    for head in ("default", "miniature", "meaning"):
        table.add_column(head)
    for option in options:
        values = (_as_setting(option[place]) for place in ("default", "miniature"))
        table.add_row(option["key"], *map(Text, values), Text(option["meaning"]))
    return table


def method_facts(name: str) -> dict[str, Any]:
    """A method's name, docstring and options; "miniature" is an option's value in the preset, None where it has none."""
    from cpbench.registry import load_method, preset

    method_class = load_method(name)
    module = inspect.getmodule(method_class)
    tuned = preset("miniature", name)
    options = [
        {
            "key": key,
            "default": list(field.default) if isinstance(field.default, tuple) else field.default,
            "miniature": tuned.get(key),
            "meaning": field.description or "",
        }
        for key, field in method_class.Options.model_fields.items()
    ]
    text = inspect.cleandoc((module and module.__doc__) or method_class.__doc__ or "")
    return {"method": name, "text": text, "options": options}


def _as_setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def sequence(name: str) -> None:
    """The concepts in order, where their pictures come from, and what a run generates for each."""
    from cpbench.concepts import sequences

    seq, console = sequences.load(name), _console()
    # brackets in a user's file are no markup
    console.print(f"[bold]{seq.name}[/bold] version {seq.version}: {escape(seq.description)}")
    print_list(concepts_table(seq.concepts))
    for place, rendered in (("on the miniature", True), ("elsewhere", False)):
        settings = seq.evaluation.sampling(rendered)
        console.print(
            f"evaluation {place}: {settings.pictures_per_prompt} pictures per prompt, {settings.num_inference_steps} sampler steps, "
            f"guidance {settings.guidance_scale}"
        )
    for subject_type, prompts in seq.evaluation.prompts.items():
        console.print(f"  {subject_type}: " + "; ".join(prompts), markup=False)


def concepts_table(concepts: Iterable[Concept]) -> FittedTable:
    """The concepts of a sequence in order, one per line."""
    table = FittedTable(box=None, drop=("type", "on the miniature", "elsewhere"))
    for head in ("task", "concept"):
        table.add_column(head, no_wrap=True)
    for head in ("class noun", "type", "on the miniature", "elsewhere"):
        table.add_column(head)
    for t, c in enumerate(concepts, start=1):
        source = "drawn stand-in" if c.rendered else "photographs"
        table.add_row(str(t), c.name, Text(c.class_noun), c.subject_type, source, Text(c.images or "none"))
    return table


def sequence_facts(name: str) -> dict[str, Any]:
    """What `sequence` prints, for JSON."""
    from cpbench.concepts import sequences

    seq = sequences.load(name)
    concepts = [
        {
            "task": t,
            "name": c.name,
            "class_noun": c.class_noun,
            "subject_type": c.subject_type,
            "rendered": c.rendered,
            "images": c.images,
        }
        for t, c in enumerate(seq.concepts, start=1)
    ]
    sampling = {
        place: vars(seq.evaluation.sampling(rendered))
        for place, rendered in (("miniature", True), ("photographs", False))
    }
    evaluation = {"prompts": seq.evaluation.prompts, "sampling": sampling}
    heads = {"sequence": seq.name, "version": seq.version, "description": seq.description}
    return {**heads, "concepts": concepts, "evaluation": evaluation}


def backbone(name: str) -> None:
    """The miniature's model card; for a model of the hub, its repository and revision."""
    from cpbench.backbones import hub

    facts = backbone_facts(name)
    if facts["repository"]:
        page = f"https://huggingface.co/{facts['repository']} at {facts['revision']}"
        gate = "; accept it there, then `hf auth login`" if facts["gated"] else ""
        licence = f"licence of the weights: {facts['licence']}{gate}"
        _console().print(f"{name}: {facts['description']}\n{page}\n{licence}", markup=False)
        return
    _console().print((hub.MINIATURE / "README.md").read_text(), markup=False)


def backbone_facts(name: str) -> dict[str, Any]:
    """A built-in backbone's description, and its repository, revision, licence and gate on the hub; None for the miniature's."""
    from cpbench.backbones import hub
    from cpbench.backbones.options import BACKBONES

    built_in = hub.BUILT_IN.get(name)
    repository = {"repository": built_in.name, **built_in._asdict()} if built_in else {}
    keys = ("repository", "revision", "licence", "gated")
    return {"backbone": name, "description": BACKBONES[name], **{key: repository.get(key) for key in keys}}
