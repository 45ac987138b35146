"""What is done with finished runs' results: report, compare, leaderboard, score, classify, clean."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpbench.cli.options import JUDGING, RUN, TRUST, _numbered, cli, with_options
from cpbench.errors import UserError


@cli.command(epilog="Example: cpbench clean --output results/runs --dry-run")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Where run folders are.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
def clean(output: Path, dry_run: bool) -> None:
    """Say what the cache of pictures holds, and remove what no run names and what stopped processes left half written."""
    from cpbench.running.cleaning import clean as remove

    for line in remove(output, dry_run):
        click.echo(line)


@cli.command()
@click.argument("where", required=False, metavar="[RESULTS]", type=click.Path(path_type=Path))
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path),
    help="Where finished runs are looked for; the same as RESULTS.  [default: results]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Where leaderboard.md, .html, .csv and .json go.  [default: the results folder]",
)
@click.option("--concept", help="Of which concept each method's pictures are shown.  [default: a sequence's first]")
def leaderboard(where: Path | None, folder: Path | None, output: Path | None, concept: str | None) -> None:
    """Make the leaderboard from finished runs: Markdown, an HTML page to sort and filter, CSV and JSON.

    Runs that cannot be compared are in tables of their own. A picture shows one concept by every method.
    """
    if where and folder:
        raise UserError(f"leaderboard: two results folders, {where} and --results {folder}; name one")
    from cpbench.leaderboard.board import write

    folder = where or folder or Path("results")
    write(folder, output or folder, concept)


@cli.command(epilog="Example: cpbench report results/runs/quick3/miniature/seqlora --plots")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The page's file.  [default: report.html in the run's folder; of several, in results]",
)
@click.option("--plots", is_flag=True, help="Write the plots as PNG and SVG too, in a folder beside the page.")
def report(runs: tuple[Path, ...], output: Path | None, plots: bool) -> None:
    """Write one page of a run that opens anywhere: pictures, matrices, curves, cost; of several runs, side by side."""
    from cpbench.report.page import write

    for path in write(runs, output, plots):
        click.echo(path)


@cli.command(
    epilog="Example: cpbench compare results/runs/quick3/miniature/seqlora results/runs/quick3/miniature/dcscore"
)
@click.argument("one", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN", type=click.Path(path_type=Path))
def compare(one: Path, other: Path) -> None:
    """Say whether two runs differ: paired by concept, prompt and noise, with an interval and a p value over concepts."""
    from rich.console import Console

    from cpbench.report.paired_runs import compare_runs, comparison_table, unpaired_notes

    runs, row, found, notes = compare_runs(one, other)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(comparison_table(runs, row, found))
    for line in [*unpaired_notes(found), *notes]:
        console.print(line, markup=False)
    if min(it.concepts for it in found.values()) < 6:
        console.print("With fewer than six concepts no difference can be shown: p cannot fall below 0.05.")


@cli.command(epilog="Example: cpbench score results/runs/quick3/sd15/seqlora --judge clip-vit-l-14")
@RUN
@click.option(
    "--judge", "names", multiple=True, help="A published judge, once for each kind, or one of an installed package."
)
@click.option("--clip", help="CLIP judge: published name, .safetensors file or folder.")
@click.option("--dino", help="DINO judge, likewise.")
@with_options(*JUDGING)
@click.option("--data", help="Where photographs are: a folder, or hub.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
def score(
    run_: Path,
    names: tuple[str, ...],
    clip: str | None,
    dino: str | None,
    data: str | None,
    device: str,
    **preprocessing: str | None,
) -> None:
    """Judge a run's saved pictures again, by other judges; nothing is drawn. What comes out is in RUN/scored."""
    from rich.console import Console

    from cpbench.finished.scoring import again, kinds_of
    from cpbench.records.terminal import run_tables
    from cpbench.running.prepare import pick_device

    named, added = kinds_of(names)
    folder, concepts, last = again(
        run_,
        clip or named.get("clip"),
        dino or named.get("dino"),
        data,
        pick_device(device),
        **preprocessing,
        added=added,
    )
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in run_tables(folder, concepts, last):
        console.print(table)
    click.echo(folder)


@cli.command(epilog="Example: cpbench classify results/runs/quick3/miniature/seqlora --rows 0,1,3")
@RUN
@click.option("--rows", multiple=True, callback=_numbered, help="Which rows, e.g. 0,5,10.  [default: all with a state]")
@click.option(
    "--draws", type=click.IntRange(1, 1000), default=4, show_default=True, help="Noises and timesteps a picture."
)
@click.option("--data", help="Where photographs are: a folder, or hub.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@with_options(*TRUST)
def classify(
    run_: Path, rows: list[int] | None, draws: int, data: str | None, device: str, **trusted: bool | None
) -> None:
    """Ask the model itself which concept each real picture shows: a retention matrix without a judge.

    A picture is of the concept whose words best predict the noise put on it. What comes out is in RUN/classifier; rows
    that are there already stay.
    """
    from rich.console import Console

    from cpbench.finished import classifier_matrix

    done = classifier_matrix.classify(run_, rows, draws, data, device, **trusted)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    for table in classifier_matrix.tables(done.matrix):
        console.print(table)
    if done.left_out:
        click.echo(f"left out: {classifier_matrix.said(done.left_out)} not on disk")
    click.echo(f"chance: one in the concepts of a row; UNet evaluations: {done.spent[0]} now, {done.spent[1]} in all")
    click.echo(done.folder)
