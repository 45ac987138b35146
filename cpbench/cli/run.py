"""run, plan, sweep, tune."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cpbench.cli import candidates
from cpbench.cli.options import ONE_RUN, SHARED, _listed, _numbered, cli, with_options
from cpbench.cli.printing import AS_JSON
from cpbench.errors import UserError
from cpbench.miniature import EMBEDDED


class ShareOfGpu(click.ParamType):
    """A number above 0 and up to 1, or "auto"."""

    name = "share"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "auto|FLOAT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        return "auto" if value == "auto" else click.FloatRange(0, 1, min_open=True).convert(value, param, ctx)


@cli.command(epilog="Example: cpbench run --method seqlora --sequence dreambench10 --set steps=50 --seed 1")
@with_options(*ONE_RUN, *SHARED)
@click.option("--verbose", "-v", is_flag=True, help="Print the tables after every task, not only after the last.")
def run(settings: tuple[str, ...], config: Path | None, verbose: bool, **values: object) -> None:
    """Run one method over one sequence. A stopped run is resumed after its last whole task."""
    from cpbench.config import requested, resolved
    from cpbench.output import say
    from cpbench.running import collector, receipts

    request = requested(values, config, settings)
    if folder := receipts.finished_folder(request):
        click.echo(receipts.finished_line(folder))
        return
    say(f"{Path(request.method).stem} on {request.sequence}: loading torch and the models")  # may take half a minute
    with collector.paused():
        method = resolved(request)
        from cpbench.running.runner import execute

    execute(*method, request=request, verbose=verbose)


@cli.command(epilog="Example: cpbench plan --method dcscore --sequence dreambench10 --backbone sd15")
@with_options(*ONE_RUN, *SHARED)
@AS_JSON
def plan(settings: tuple[str, ...], config: Path | None, as_json: bool, **values: object) -> None:
    """Estimate a run's cost. Steps, pictures, disk space, memory and time, on this machine."""
    from dataclasses import asdict

    from cpbench.cli.printing import print_json
    from cpbench.config import resolve

    resolved = resolve(values, config, settings)
    from cpbench.running.plan import plan as rehearse
    from cpbench.running.plan import plan_lines
    from cpbench.running.prepare import prepare

    run = prepare(*resolved)
    estimate = rehearse(run)
    if as_json:
        print_json(asdict(estimate) | {"notes": run.notes})
        return
    for name, text in [*plan_lines(estimate), *(("note", note) for note in run.notes)]:
        click.echo(f"{name:9} {text}")


@cli.command(
    epilog="Example: cpbench sweep --methods seqlora,'dcscore variant=ewc' --sequences dreambench10 --seeds 0,1,2"
)
@click.option("--grid", help="Built-in name (bench, bench-quick) or YAML file with any of the next five options.")
@click.option(
    "--methods",
    multiple=True,
    shell_complete=candidates.methods,
    callback=_listed,
    help="Comma-separated; settings follow a method's name, as in 'dcscore variant=ewc'.",
)
@click.option(
    "--sequences", multiple=True, shell_complete=candidates.sequences, callback=_listed, help="Comma-separated."
)
@click.option(
    "--backbones",
    multiple=True,
    shell_complete=candidates.backbones,
    callback=_listed,
    help="Comma-separated.  [default: miniature]",
)
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
    type=ShareOfGpu(),
    default=1.0,
    show_default=True,
    help="Share of a GPU per run: with 0.5, two runs share one; auto: as many as its memory holds, by a short rehearsal.",
)
@click.option("--copy-to", help="Copy finished run folders to this fsspec URL, e.g. s3://bucket/runs.")
@click.option("--dry-run", is_flag=True, help="Print what would run, what is finished, and the cost; run nothing.")
@with_options(*SHARED)
@AS_JSON
def sweep(
    grid: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **values: object,
) -> None:
    """Run many configurations. One process per run: methods x sequences x backbones x seeds x orders.

    Finished runs are skipped, stopped ones resumed; a run that fails does not stop the others.
    """
    from cpbench.cli.printing import print_json, print_list
    from cpbench.running import sweep

    if as_json and not dry_run:
        raise UserError(
            "sweep: --json goes with --dry-run; afterwards, `cpbench list runs --json` has what the runs came to"
        )
    axes = {axis: values.pop(axis) for axis in sweep.AXES}
    engine_options = {
        name: values.pop(name) for name in ("engine", "address", "jobs", "threads", "gpus_per_run", "copy_to")
    }
    jobs, output = sweep.grid_from(grid, axes, config, settings, values)
    if dry_run:
        estimates = sweep.estimate_jobs(jobs, output)
        if as_json:
            print_json(sweep.dry_run_facts(estimates))
            return
        print_list(sweep.dry_run_table(estimates))
        click.echo(sweep.dry_run_total(estimates))
        return
    sys.exit(sweep.start(jobs, output, **engine_options))


@cli.command(epilog="Example: cpbench tune --method 'dcscore variant=ewc' --budget 4")
@click.option(
    "--method",
    "words",
    required=True,
    shell_complete=candidates.methods,
    help="Method to tune; settings that follow it make it a variant.",
)
@click.option(
    "--backbone",
    type=click.Choice(EMBEDDED),
    default=EMBEDDED[0],
    show_default=True,
    help="Embedded backbone to tune on.",
)
@click.option("--budget", type=click.IntRange(min=1), default=4, show_default=True, help="Number of trials.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("results/tune"),
    show_default=True,
    help="Folder of the study and its runs.",
)
def tune(words: str, backbone: str, budget: int, output: Path) -> None:
    """Tune a method's options. The search is on miniature-val6; the best options go into the method's preset."""
    from cpbench.running.tune import tune as search

    for key, value in search(words, budget, output, backbone=backbone).items():
        click.echo(f"{key:9} {value}")
