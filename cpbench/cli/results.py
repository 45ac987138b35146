"""Commands on finished runs: report, compare, leaderboard, score, classify, clean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cpbench.cli import candidates
from cpbench.cli.options import JUDGING, RUN, TRUST, _numbered, cli, with_options
from cpbench.cli.printing import AS_JSON
from cpbench.errors import UserError

if TYPE_CHECKING:
    from cpbench.leaderboard.groups import Group


@cli.command(epilog="Example: cpbench clean --output results/runs --dry-run")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Parent of the run folders.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be removed; remove nothing.")
def clean(output: Path, dry_run: bool) -> None:
    """Clean the picture cache. Pictures that no run uses and half-written files are removed; the rest is summed up."""
    from cpbench.running.cleaning import clean as remove

    for line in remove(output, dry_run):
        click.echo(line)


@cli.command(epilog="Example: cpbench leaderboard results/runs --concept dog")
@click.argument("results", required=False, metavar="[RESULTS]", type=click.Path(path_type=Path))
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path),
    help="Folder to search for finished runs; the same as RESULTS.  [default: results]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for leaderboard.md, .html, .csv and .json.  [default: the results folder]",
)
@click.option("--concept", help="Concept to show.  [default: the first of each sequence]")
@click.option(
    "--rank-by",
    type=click.Choice(["over-tasks", "final", "dino-at-90", "dino-at-95", "dino-area"]),
    default="over-tasks",
    show_default=True,
    help="Score of the ranks: DINO since each concept was learned, after the last task, or at equal text.",
)
@click.option(
    "--methods",
    help="Show only these rows, named as in the table and separated by commas; ranks are those of the whole table.",
)
@click.option("--chart", is_flag=True, help="Also draw each table as a chart.")
@AS_JSON
def leaderboard(
    results: Path | None,
    folder: Path | None,
    output: Path | None,
    concept: str | None,
    rank_by: str,
    methods: str | None,
    chart: bool,
    as_json: bool,
) -> None:
    """Make the leaderboard of finished runs. As Markdown, an HTML page to sort and filter, CSV and JSON.

    Runs that are not comparable get separate tables. A picture shows one concept as each method generates it.
    """
    if results and folder:
        raise UserError(f"leaderboard: two results folders are given, {results} and --results {folder}; pass one")
    from cpbench.cli.printing import print_json
    from cpbench.leaderboard.board import write
    from cpbench.leaderboard.pairs import RANKING_SCORES

    folder = results or folder or Path("results")
    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    content = write(folder, output or folder, concept, not as_json, RANKING_SCORES[rank_by], names, chart)
    if as_json:
        print_json(content)


@cli.command(epilog="Example: cpbench report results/runs/quick3/miniature/seqlora --plots")
@click.argument(
    "runs",
    nargs=-1,
    required=True,
    metavar="RUN...",
    type=click.Path(path_type=Path),
    shell_complete=candidates.runs,
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="File of the page.  [default: report.html in the run folder; for several runs, in results]",
)
@click.option("--plots", is_flag=True, help="Also write the plots as PNG and SVG, in a folder beside the page.")
def report(runs: tuple[Path, ...], output: Path | None, plots: bool) -> None:
    """Write a run's report. One HTML file with pictures, matrices, curves and cost; several runs are shown side by side."""
    from cpbench.report.page import write

    for path in write(runs, output, plots):
        click.echo(path)


@cli.command(
    epilog="Example: cpbench compare results/runs/quick3/miniature/seqlora results/runs/quick3/miniature/dcscore"
)
@click.argument("names", nargs=-1, metavar="[A B]", shell_complete=candidates.runs)
@click.option("--all", "all_pairs", is_flag=True, help="Compare all methods of a table with each other.")
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Folder to search for finished runs of the methods.",
)
@click.option("--sequence", help="Sequence of the methods' runs.  [default: every one]")
@click.option("--backbone", help="Backbone of the methods' runs.  [default: every one]")
@AS_JSON
def compare(
    names: tuple[str, ...], all_pairs: bool, folder: Path, sequence: str | None, backbone: str | None, as_json: bool
) -> None:
    """Test whether two runs differ, or two methods over all their seeds and orders.

    Pictures are paired by concept, prompt and noise; interval and p value are over concepts. A and B are both a run's folder,
    or both a method as the leaderboard names it.
    """
    if all_pairs and names:
        raise UserError("compare: --all takes no names; leave out one of them")
    if not all_pairs and len(names) != 2:
        raise UserError("compare: name two runs or two methods, or pass --all")
    if all_pairs:
        _compare_all(folder, sequence, backbone, as_json)
    elif any(Path(name).exists() for name in names):
        _compare_runs(Path(names[0]), Path(names[1]), as_json)
    else:
        _compare_methods(names[0], names[1], folder, sequence, backbone, as_json)


def _compare_runs(one: Path, other: Path, as_json: bool) -> None:
    from cpbench.cli.printing import print_json, print_tables
    from cpbench.output import say
    from cpbench.report.paired_runs import (
        compare_runs,
        comparison_facts,
        comparison_table,
        figure_table,
        unpaired_notes,
    )

    runs, row, comparisons, notes = compare_runs(one, other)
    if min(comparison.concepts for comparison in comparisons.values()) < 6:
        notes = [
            *notes,
            "With fewer than six concepts the sign-flip test cannot give p below 0.05: trust no verdict of so few.",
        ]
    if as_json:
        print_json(comparison_facts(runs, row, comparisons) | {"notes": [*unpaired_notes(comparisons), *notes]})
        return
    print_tables(comparison_table(runs, row, comparisons), figure_table(runs, row))
    for line in [*unpaired_notes(comparisons), *notes]:
        say(line)


def _compare_methods(
    one: str, other: str, folder: Path, sequence: str | None, backbone: str | None, as_json: bool
) -> None:
    from cpbench.cli.printing import print_json, print_tables
    from cpbench.leaderboard import compared_methods
    from cpbench.output import say

    groups = compared_methods.groups_of(folder, sequence, backbone)
    compared = compared_methods.compare_methods(groups, one, other)
    pairs = [pair for _, comparisons in compared for pair in comparisons.values()]
    if as_json:
        tables = [compared_methods.as_json(group, comparisons) for group, comparisons in compared]
        print_json({"methods": [one, other], "tables": tables, "notes": compared_methods.notes(pairs, True)})
        return
    print_tables(*(compared_methods.method_table(group, part, one, other) for group, part in compared))
    for line in compared_methods.notes(pairs, True):
        say(line)


def _row_name(group: Group, i: int) -> str:
    """The method of a row, with its settings' hash if another row has the same."""
    row = group.rows[i]
    is_alone = [other.method for other in group.rows].count(row.method) == 1
    return row.method if is_alone else f"{row.method} [{row.hash}]"


def _compare_all(folder: Path, sequence: str | None, backbone: str | None, as_json: bool) -> None:
    from cpbench.cli.printing import print_json
    from cpbench.leaderboard import compared_methods
    from cpbench.output import say

    groups = [group for group in compared_methods.groups_of(folder, sequence, backbone) if group.pairs]
    if not groups:
        raise UserError(
            f"results folder {folder}: no table has two methods to compare; run another over the same sequence"
        )
    pairs = [pair for group in groups for pair in group.pairs.values()]
    if as_json:
        tables = [
            compared_methods.as_json(
                group,
                {f"{_row_name(group, i)} - {_row_name(group, j)}": pair for (i, j), pair in group.pairs.items()},
            )
            for group in groups
        ]
        print_json({"tables": tables, "notes": compared_methods.notes(pairs, False)})
        return
    for group in groups:
        for line in compared_methods.all_lines(group):
            if line != "```":
                click.echo(line)
        click.echo()
    for line in compared_methods.notes(pairs, False):
        say(line)


@cli.command(epilog="Example: cpbench score results/runs/quick3/sd15/seqlora --judge clip-vit-l-14")
@RUN
@click.option(
    "--judge",
    "names",
    multiple=True,
    help="Published judge (at most one CLIP and one DINO), or a judge of an installed package. Repeatable.",
)
@click.option("--clip", help="CLIP judge: published name, .safetensors file or folder.")
@click.option("--dino", help="DINO judge, given likewise.")
@with_options(*JUDGING)
@click.option("--data", help="Folder with the photographs, or hub.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@AS_JSON
def score(
    run_: Path,
    names: tuple[str, ...],
    clip: str | None,
    dino: str | None,
    data: str | None,
    device: str,
    as_json: bool,
    **preprocessing: str | None,
) -> None:
    """Rescore a run's pictures. Other judges score the saved pictures; nothing is generated. Results go to RUN/scored."""
    from cpbench.cli.printing import by_row, print_json, print_tables
    from cpbench.finished.scoring import judges_by_type, rescore
    from cpbench.records.terminal import run_figures, run_matrices, run_tables
    from cpbench.running.prepare import pick_device

    named, added = judges_by_type(names)
    folder, concepts, last = rescore(
        run_,
        clip or named.get("clip"),
        dino or named.get("dino"),
        data,
        pick_device(device),
        **preprocessing,
        added=added,
    )
    if as_json:
        matrices = {name: by_row(matrix) for name, matrix in run_matrices(folder, concepts).items()}
        print_json({"folder": folder, "matrices": matrices, "figures": run_figures(folder, concepts, last)})
        return
    print_tables(*run_tables(folder, concepts, last))
    click.echo(folder)


@cli.command(epilog="Example: cpbench classify results/runs/quick3/miniature/seqlora --rows 0,1,3")
@RUN
@click.option(
    "--rows", multiple=True, callback=_numbered, help="Rows to classify, e.g. 0,5,10.  [default: all with a state]"
)
@click.option(
    "--draws",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    help="Noise samples, each at its own timestep, per picture.",
)
@click.option("--data", help="Folder with the photographs, or hub.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda or mps.")
@with_options(*TRUST)
@AS_JSON
def classify(
    run_: Path,
    rows: list[int] | None,
    draws: int,
    data: str | None,
    device: str,
    as_json: bool,
    **trusted: bool | None,
) -> None:
    """Classify real pictures with the model itself. The result is a retention matrix that needs no judge.

    A picture is assigned to the concept whose prompt best predicts the noise added to it (diffusion classifier). Results
    go to RUN/classifier; rows that exist are kept.
    """
    from cpbench.cli.printing import by_row, print_json, print_tables
    from cpbench.finished import classifier_matrix

    result = classifier_matrix.classify(run_, rows, draws, data, device, **trusted)
    if as_json:
        facts = {"folder": result.folder, "matrix": by_row(result.matrix), "rows_without_state": result.left_out}
        figures = classifier_matrix.classifier_figures(result.matrix)
        evaluations = {"evaluations": result.spent[0], "evaluations_in_all": result.spent[1]}
        print_json(facts | {"figures": figures} | evaluations)
        return
    print_tables(*classifier_matrix.tables(result.matrix))
    if result.left_out:
        click.echo(f"left out: {classifier_matrix.states_of_rows(result.left_out)} not on disk")
    click.echo(f"chance: 1 / concepts of the row; UNet evaluations: {result.spent[0]} now, {result.spent[1]} in all")
    click.echo(result.folder)
