"""`cpbench describe`. Sequences and backbones are described without importing torch."""

from __future__ import annotations

import inspect
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def method(name: str) -> None:
    """The docstring, then every option with its default and its value in the miniature's preset."""
    from cpbench.registry import load_method, preset

    method_class, console = load_method(name), _console()
    module = inspect.getmodule(method_class)
    for paragraph in inspect.cleandoc(module.__doc__ or method_class.__doc__ or "").split("\n\n"):
        equation = any(line.startswith(" ") for line in paragraph.splitlines())
        console.print(paragraph if equation else paragraph.replace("\n", " "), markup=False)
        console.print()
    tuned = preset("miniature", name)
    if method_class.Options.model_fields:
        table = Table(title="options (--set key=value)", title_justify="left", box=None)
        for head in ("key", "default", "miniature", "meaning"):
            table.add_column(head)
        for key, field in method_class.Options.model_fields.items():
            default = field.default if not isinstance(field.default, tuple) else ", ".join(field.default)
            preset_value = tuned.get(key, "")
            preset_text = ", ".join(preset_value) if isinstance(preset_value, list) else str(preset_value)
            table.add_row(key, str(default), preset_text, field.description or "")
        console.print(table)


def sequence(name: str) -> None:
    """The concepts in order, where their pictures come from, and what a run generates for each."""
    from cpbench.concepts import sequences

    seq, console = sequences.load(name), _console()
    test = seq.evaluation
    # brackets in a user's file are no markup
    console.print(f"[bold]{seq.name}[/bold] version {seq.version}: {escape(seq.description)}")
    table = Table(box=None)
    for head in ("task", "concept", "class noun", "type", "on the miniature", "elsewhere"):
        table.add_column(head)
    for t, c in enumerate(seq.concepts, start=1):
        table.add_row(
            str(t),
            c.name,
            escape(c.class_noun),
            c.subject_type,
            "drawn stand-in" if c.rendered else "photographs",
            escape(c.images or "none"),
        )
    console.print(table)
    for place, rendered in (("on the miniature", True), ("elsewhere", False)):
        settings = test.sampling(rendered)
        console.print(
            f"evaluation {place}: {settings.pictures_per_prompt} pictures per prompt, {settings.num_inference_steps} sampler steps, "
            f"guidance {settings.guidance_scale}"
        )
    for subject_type, prompts in test.prompts.items():
        console.print(f"  {subject_type}: " + "; ".join(prompts), markup=False)


def backbone(name: str) -> None:
    """The miniature's model card; for a model of the hub, its repository and revision."""
    from cpbench.backbones import hub
    from cpbench.backbones.options import BACKBONES

    if name in hub.BUILT_IN:
        repository, revision = hub.BUILT_IN[name]
        _console().print(f"{name}: {BACKBONES[name]}\nhttps://huggingface.co/{repository} at {revision}", markup=False)
        return
    _console().print((hub.MINIATURE / "README.md").read_text(), markup=False)
