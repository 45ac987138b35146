"""run, plan, sweep, tune."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpbench.cli.options import ONE_RUN, SHARED, _listed, _numbered, cli, with_options


@cli.command(epilog="Example: cpbench run --method seqlora --sequence dreambench10 --set steps=50 --seed 1")
@with_options(*ONE_RUN, *SHARED)
def run(settings: tuple[str, ...], config: Path | None, **given: object) -> None:
    """Run one method over one sequence; go on where a stopped run left off."""
    from cpbench.config import resolve

    resolved = resolve(given, config, settings)
    from cpbench.running.runner import execute

    execute(*resolved)


@cli.command(epilog="Example: cpbench plan --method dcscore --sequence dreambench10 --backbone sd15")
@with_options(*ONE_RUN, *SHARED)
def plan(settings: tuple[str, ...], config: Path | None, **given: object) -> None:
    """Say what a run would cost on this machine, before it is spent: steps, pictures, disk, memory and time."""
    from cpbench.config import resolve

    resolved = resolve(given, config, settings)
    from cpbench.running.plan import plan as rehearse
    from cpbench.running.plan import plan_lines
    from cpbench.running.prepare import prepare

    run = prepare(*resolved)
    for what, how_much in [*plan_lines(rehearse(run)), *(("note", note) for note in run.notes)]:
        click.echo(f"{what:9} {how_much}")


@cli.command(
    epilog="Example: cpbench sweep --methods seqlora,'dcscore variant=ewc' --sequences dreambench10 --seeds 0,1,2"
)
@click.option("--grid", help="Built-in name (bench, bench-quick) or YAML file with any of the next five.")
@click.option("--methods", multiple=True, callback=_listed, help="A comma between; settings behind a method's name.")
@click.option("--sequences", multiple=True, callback=_listed, help="A comma between.")
@click.option("--backbones", multiple=True, callback=_listed, help="A comma between.  [default: miniature]")
@click.option("--seeds", multiple=True, callback=_numbered, help="A comma between.  [default: 0]")
@click.option("--orders", multiple=True, callback=_numbered, help="A comma between.  [default: 0]")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What runs it.")
@click.option("--address", help="Of a Ray cluster; auto: this machine's.  [default: a new one here]")
@click.option("--jobs", type=click.IntRange(min=1), help="Runs at a time, here.  [default: as many as fit]")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of a run.")
@click.option(
    "--gpus-per-run",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="0.5: two runs share a GPU.",
)
@click.option("--copy-to", help="fsspec URL that finished run folders are copied to, e.g. s3://bucket/runs.")
@click.option("--dry-run", is_flag=True, help="Say what would run, what is done, and the cost; do nothing.")
@with_options(*SHARED)
def sweep(grid: str | None, config: Path | None, settings: tuple[str, ...], dry_run: bool, **given: object) -> None:
    """Run many: methods x sequences x backbones x seeds x orders, one process a run.

    What is finished is left alone, what was stopped goes on; one run's failure stops no other.
    """
    from cpbench.running import sweep

    axes = {axis: given.pop(axis) for axis in sweep.AXES}
    how = {name: given.pop(name) for name in ("engine", "address", "jobs", "threads", "gpus_per_run", "copy_to")}
    wanted, output = sweep.grid_from(grid, axes, config, settings, given)
    if dry_run:
        for line in sweep.dry_run(wanted, output):
            click.echo(line)
        return
    sys.exit(sweep.start(wanted, output, **how))


@cli.command(epilog="Example: cpbench tune --method 'dcscore variant=ewc' --budget 4")
@click.option("--method", "words", required=True, help="A method; settings behind it make it a variant.")
@click.option("--budget", type=click.IntRange(min=1), default=4, show_default=True, help="Trials.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("results/tune"), show_default=True, help="Study and runs."
)
def tune(words: str, budget: int, output: Path) -> None:
    """Search for a method's settings on miniature-val6, and write the best into its preset."""
    from cpbench.running.tune import tune as search

    for key, value in search(words, budget, output).items():
        click.echo(f"{key:9} {value}")
