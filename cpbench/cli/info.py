"""list, describe, doctor, world."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpbench.cli import candidates
from cpbench.cli.options import cli
from cpbench.cli.printing import AS_JSON
from cpbench.errors import UserError, quoted

if TYPE_CHECKING:
    from cpbench.cli.doctor import Finding
    from cpbench.fitted_table import FittedTable


@cli.command()
@click.option("--data", help="Folder with the photographs, or hub.  [default: $CPBENCH_DATA, or data/]")
@AS_JSON
def doctor(data: str | None, as_json: bool) -> None:
    """Check the installation. Packages, devices, weights and photographs, and what to do about those that are missing."""
    from dataclasses import asdict

    from cpbench.cli.doctor import findings
    from cpbench.cli.printing import print_json, print_list

    if as_json:
        print_json([asdict(finding) | {"advice": "" if finding.good else finding.advice} for finding in findings(data)])
        return
    print_list(findings_table(findings(data)))


def findings_table(findings: Iterable[Finding]) -> FittedTable:
    """A line per finding of doctor: whether it is good, its subject, its state, and what to do about it."""
    from rich.text import Text

    from cpbench.fitted_table import FittedTable

    table = FittedTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    for is_sign in (True, False, False):
        table.add_column(no_wrap=is_sign)
    for f in findings:
        sign = "[green]ok[/green]" if f.good else "[yellow]--[/yellow]"
        table.add_row(sign, Text(f.subject), Text(f.state if f.good else f"{f.state}: {f.advice}"))
    return table


NOUNS = ("methods", "sequences", "backbones", "runs")


@cli.command("list", epilog="Example: cpbench list runs --output results/runs")
@click.argument("noun", metavar=f"{{{'|'.join(NOUNS)}}}", type=click.Choice(NOUNS))
@click.option(
    "--output", type=click.Path(path_type=Path), help="For runs: the folder they are in.  [default: results/runs]"
)
@AS_JSON
def list_(noun: str, output: Path | None, as_json: bool) -> None:
    """List methods, sequences, backbones or runs."""
    from cpbench.cli.printing import print_json, print_list

    if noun == "runs":
        _list_runs(output, as_json)
        return
    if output:
        raise UserError(f"list {noun}: --output is for runs only; leave it out")
    if as_json:
        print_json([{"name": name, "description": words} for name, words in _known(noun).items()])
        return
    print_list(names_table(_known(noun)))


def names_table(descriptions: dict[str, str]) -> FittedTable:
    """A line per name, with its description."""
    from rich.text import Text

    from cpbench.fitted_table import FittedTable

    table = FittedTable(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, words in descriptions.items():
        table.add_row(name, Text(words))
    return table


def _list_runs(output: Path | None, as_json: bool) -> None:
    from cpbench.cli.printing import print_json, print_list
    from cpbench.config import DEFAULT_OUTPUT
    from cpbench.output import say
    from cpbench.records.runs import runs_in, runs_table

    folder = output or DEFAULT_OUTPUT
    if output and not output.is_dir():
        raise UserError(f"list runs: there is no folder {output}; pass the --output of the runs")
    runs = runs_in(folder)
    if as_json:
        print_json(runs)
    elif runs:
        print_list(runs_table(runs))
    else:
        say(f"no runs in {folder}; `cpbench run` makes one, --output names another folder")


def _known(noun: str) -> dict[str, str]:
    if noun == "methods":
        from cpbench.registry import built_in_methods, method_names, summary_of

        built_in = built_in_methods()
        return {n: summary_of(n) if n in built_in else "(added by an installed package)" for n in method_names()}
    if noun == "sequences":
        from cpbench.concepts import sequences

        return sequences.descriptions()
    from cpbench.backbones.options import BACKBONES

    return BACKBONES


@cli.command(epilog="Example: cpbench describe dcscore")
@click.argument("name", shell_complete=candidates.described)
@AS_JSON
def describe(name: str, as_json: bool) -> None:
    """Show a method, sequence or backbone. For a method: its equations, its options and their presets."""
    from cpbench.cli import describing
    from cpbench.cli.printing import print_json
    from cpbench.concepts import sequences
    from cpbench.errors import did_you_mean
    from cpbench.registry import method_names

    if name in method_names() or name.endswith(".py"):
        show, facts = describing.method, describing.method_facts
    elif name in sequences.names() or name.endswith((".yaml", ".yml")):
        show, facts = describing.sequence, describing.sequence_facts
    elif name in _known("backbones"):
        show, facts = describing.backbone, describing.backbone_facts
    else:
        everything = [*method_names(), *sequences.names(), *_known("backbones")]
        raise did_you_mean(
            name,
            everything,
            "method, sequence or backbone",
            "`cpbench list methods`, `cpbench list sequences` and `cpbench list backbones` show them.",
        )
    if as_json:
        print_json(facts(name))
    else:
        show(name)


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
