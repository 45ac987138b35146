"""list, describe, doctor, world."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpbench.cli.options import cli
from cpbench.errors import UserError, quoted


@cli.command()
@click.option("--data", help="Folder with the photographs, or hub.  [default: $CPBENCH_DATA, or data/]")
def doctor(data: str | None) -> None:
    """Check the installation. Packages, devices, weights and photographs, and what to do about those that are missing."""
    from rich.console import Console
    from rich.table import Table

    from cpbench.cli.doctor import findings

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for f in findings(data):
        table.add_row(
            "[green]ok[/green]" if f.good else "[yellow]--[/yellow]",
            f.subject,
            f.state if f.good else f"{f.state}: {f.advice}",
        )
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


@cli.command("list")
@click.argument(
    "noun", metavar="{methods|sequences|backbones}", type=click.Choice(["methods", "sequences", "backbones"])
)
def list_(noun: str) -> None:
    """List methods, sequences or backbones."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, words in _known(noun).items():
        table.add_row(f"[bold]{name}[/bold]", words)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _known(noun: str) -> dict[str, str]:
    if noun == "methods":
        from cpbench.backbones.options import BACKBONES
        from cpbench.registry import built_in_methods, method_names, summary_of

        built_in = built_in_methods()
        return {n: summary_of(n) if n in built_in else "(added by an installed package)" for n in method_names()}
    if noun == "sequences":
        from cpbench.concepts import sequences

        return sequences.descriptions()
    from cpbench.backbones.options import BACKBONES
    from cpbench.registry import built_in_methods, method_names, summary_of

    return BACKBONES


@cli.command()
@click.argument("name")
def describe(name: str) -> None:
    """Show a method, sequence or backbone. For a method: its equations, its options and their presets."""
    from cpbench.cli import describing
    from cpbench.concepts import sequences
    from cpbench.errors import did_you_mean
    from cpbench.registry import method_names

    if name in method_names() or name.endswith(".py"):
        describing.method(name)
    elif name in sequences.names() or name.endswith((".yaml", ".yml")):
        describing.sequence(name)
    elif name in _known("backbones"):
        describing.backbone(name)
    else:
        everything = [*method_names(), *sequences.names(), *_known("backbones")]
        raise did_you_mean(
            name,
            everything,
            "method, sequence or backbone",
            "`cpbench list methods` (sequences, backbones) shows them.",
        )


@cli.command(epilog='Example: cpbench world "a dog in the snow" --subject dog2 --count 8 --output dog.png')
@click.argument("caption", required=False)
@click.option("--subject", help="Subject to render.  [default: unnamed individuals of the caption's class]")
@click.option(
    "--count", type=click.IntRange(1, 400), default=8, show_default=True, help="Number of pictures of a caption."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of poses, lights and individuals."
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the sheets, or PNG file for a caption.  [default: sheets, or caption.png]",
)
def world(caption: str | None, subject: str | None, count: int, seed: int, output: Path | None) -> None:
    """Render the miniature's world. As contact sheets, or one caption.

    Without a caption, subjects.png, places.png, outfits.png, finishes.png and individuals.png go to the output folder.
    """
    if caption is None and subject is not None:
        raise UserError(f'--subject {subject} needs a caption: cpbench world "a dog in the snow" --subject {subject}')
    from cpbench.miniature.world import sheets

    if caption is None:
        for path in sheets.write_sheets(output or Path("sheets")):
            click.echo(path)
        return
    target = output or Path("caption.png")
    sheets.write_caption(caption, target, subject, count, seed)
    if parts := sheets.unread_in(caption, subject):
        click.echo(
            f"note: not in the picture: {', '.join(map(quoted, parts))}; a picture shows a class noun, and at most one place, "
            "one outfit and one finish (`cpbench world` shows them all)",
            err=True,
        )
    click.echo(target)
