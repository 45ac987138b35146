"""What `cpbench describe` prints. Sequences and backbones are described without importing torch."""

from __future__ import annotations

import inspect
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def method(name: str) -> None:
    """Docstring, then every option with its default and the miniature's preset."""
    from cpbench.registry import load_method, preset

    found, console = load_method(name), _console()
    module = inspect.getmodule(found)
    for paragraph in inspect.cleandoc(module.__doc__ or found.__doc__ or "").split("\n\n"):
        equation = any(line.startswith(" ") for line in paragraph.splitlines())
        console.print(paragraph if equation else paragraph.replace("\n", " "), markup=False)
        console.print()
    tuned = preset("miniature", name)
    if found.Options.model_fields:
        table = Table(title="options (--set key=value)", title_justify="left", box=None)
        for head in ("key", "default", "miniature", "what"):
            table.add_column(head)
        for key, field in found.Options.model_fields.items():
            default = field.default if not isinstance(field.default, tuple) else ", ".join(field.default)
            preset_value = tuned.get(key, "")
            shown = ", ".join(preset_value) if isinstance(preset_value, list) else str(preset_value)
            table.add_row(key, str(default), shown, field.description or "")
        console.print(table)


def sequence(name: str) -> None:
    """Concepts in order, what a run draws of each, and where the pictures come from."""
    from cpbench.concepts import sequences

    found, console = sequences.load(name), _console()
    test = found.evaluation
    # what stands in brackets in somebody's file is not for rich to read
    console.print(f"[bold]{found.name}[/bold] version {found.version}: {escape(found.description)}")
    table = Table(box=None)
    for head in ("task", "concept", "class noun", "kind", "on the miniature", "elsewhere"):
        table.add_column(head)
    for t, c in enumerate(found.concepts, start=1):
        table.add_row(
            str(t),
            c.name,
            escape(c.class_noun),
            c.subject_type,
            "drawn stand-in" if c.rendered else "photographs",
            escape(c.images or "none"),
        )
    console.print(table)
    for where, drawn in (("on the miniature", True), ("elsewhere", False)):
        how = test.sampling(drawn)
        console.print(
            f"evaluation {where}: {how.pictures_per_prompt} pictures a prompt, {how.num_inference_steps} sampler steps, "
            f"guidance {how.guidance_scale}"
        )
    for kind, prompts in test.prompts.items():
        console.print(f"  {kind}: " + "; ".join(prompts), markup=False)


def backbone(name: str) -> None:
    """The miniature's card; of the hub's models where they come from."""
    from cpbench.backbones import hub
    from cpbench.backbones.options import BACKBONES

    if name in hub.BUILT_IN:
        repository, revision = hub.BUILT_IN[name]
        _console().print(f"{name}: {BACKBONES[name]}\nhttps://huggingface.co/{repository} at {revision}", markup=False)
        return
    _console().print((hub.MINIATURE / "README.md").read_text(), markup=False)
