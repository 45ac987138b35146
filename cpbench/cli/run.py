"""run, plan, sweep, tune."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpbench.cli.options import ONE_RUN, SHARED, _listed, _numbered, cli, with_options


@cli.command(epilog="Example: cpbench run --method seqlora --sequence dreambench10 --set steps=50 --seed 1")
@with_options(*ONE_RUN, *SHARED)
def run(settings: tuple[str, ...], config: Path | None, **values: object) -> None:
    """Run one method over one sequence. A stopped run is resumed after its last whole task."""
    from cpbench.config import requested, resolved
    from cpbench.running import receipts

    request = requested(values, config, settings)
    if folder := receipts.finished_folder(request):
        click.echo(receipts.finished_line(folder))
        return
    method = resolved(request)
    from cpbench.running.runner import execute

    execute(*method, request=request)


@cli.command(epilog="Example: cpbench plan --method dcscore --sequence dreambench10 --backbone sd15")
@with_options(*ONE_RUN, *SHARED)
def plan(settings: tuple[str, ...], config: Path | None, **values: object) -> None:
    """Estimate a run's cost. Steps, pictures, disk space, memory and time, on this machine."""
    from cpbench.config import resolve

    resolved = resolve(values, config, settings)
    from cpbench.running.plan import plan as rehearse
    from cpbench.running.plan import plan_lines
    from cpbench.running.prepare import prepare

    run = prepare(*resolved)
    for name, text in [*plan_lines(rehearse(run)), *(("note", note) for note in run.notes)]:
        click.echo(f"{name:9} {text}")


@cli.command(
    epilog="Example: cpbench sweep --methods seqlora,'dcscore variant=ewc' --sequences dreambench10 --seeds 0,1,2"
)
@click.option("--grid", help="Built-in name (bench, bench-quick) or YAML file with any of the next five options.")
@click.option(
    "--methods",
    multiple=True,
    callback=_listed,
    help="Comma-separated; settings follow a method's name, as in 'dcscore variant=ewc'.",
)
@click.option("--sequences", multiple=True, callback=_listed, help="Comma-separated.")
@click.option("--backbones", multiple=True, callback=_listed, help="Comma-separated.  [default: miniature]")
@click.option("--seeds", multiple=True, callback=_numbered, help="Comma-separated.  [default: 0]")
@click.option("--orders", multiple=True, callback=_numbered, help="Comma-separated.  [default: 0]")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Run here, or on a Ray cluster.",
)
@click.option("--address", help="Address of the Ray cluster; auto: this machine's.  [default: a new cluster here]")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time on this machine.  [default: as many as fit]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads per run.")
@click.option(
    "--gpus-per-run",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of a GPU per run; with 0.5, two runs share one.",
)
@click.option("--copy-to", help="Copy finished run folders to this fsspec URL, e.g. s3://bucket/runs.")
@click.option("--dry-run", is_flag=True, help="Print what would run, what is finished, and the cost; run nothing.")
@with_options(*SHARED)
def sweep(grid: str | None, config: Path | None, settings: tuple[str, ...], dry_run: bool, **values: object) -> None:
    """Run many configurations. One process per run: methods x sequences x backbones x seeds x orders.

    Finished runs are skipped, stopped ones resumed; a run that fails does not stop the others.
    """
    from cpbench.running import sweep

    axes = {axis: values.pop(axis) for axis in sweep.AXES}
    engine_options = {
        name: values.pop(name) for name in ("engine", "address", "jobs", "threads", "gpus_per_run", "copy_to")
    }
    jobs, output = sweep.grid_from(grid, axes, config, settings, values)
    if dry_run:
        for line in sweep.dry_run(jobs, output):
            click.echo(line)
        return
    sys.exit(sweep.start(jobs, output, **engine_options))


@cli.command(epilog="Example: cpbench tune --method 'dcscore variant=ewc' --budget 4")
@click.option("--method", "words", required=True, help="Method to tune; settings that follow it make it a variant.")
@click.option("--budget", type=click.IntRange(min=1), default=4, show_default=True, help="Number of trials.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("results/tune"),
    show_default=True,
    help="Folder of the study and its runs.",
)
def tune(words: str, budget: int, output: Path) -> None:
    """Tune a method's options. The search is on miniature-val6; the best options go into the method's preset."""
    from cpbench.running.tune import tune as search

    for key, value in search(words, budget, output).items():
        click.echo(f"{key:9} {value}")
