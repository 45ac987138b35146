"""Wall time of whole runs against another checkout of cpbench: one core, one thread each, interleaved.

    git worktree add ../before <commit>; make -C ../before setup
    .venv/bin/python benchmarks/against_checkout.py ../before --python ../before/.venv/bin/python

Runs one method over one sequence from both, without the cache of pictures and embeddings, and prints medians of the whole
and of learning, sampling and judging (their run.json), ratios (other / this), and a last line of JSON.
--compile is passed to this checkout, which has a side for each, as in `--compile off --compile on`; compile once
before, so that its compiler's cache is full.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
import timing

from cpbench.numbers import number


@click.command(help=__doc__)
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--python", type=click.Path(exists=True, path_type=Path), help="Its Python.  [default: its .venv's]")
@click.option("--method", default="seqlora", show_default=True)
@click.option("--sequence", default="dreambench10", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Passed to both. Repeatable.")
@click.option("--repeats", default=1, show_default=True)
@click.option("--compile", "choices", type=click.Choice(["auto", "on", "off"]), multiple=True, help="Repeatable.")
def main(
    checkout: Path,
    python: Path | None,
    method: str,
    sequence: str,
    settings: tuple[str, ...],
    repeats: int,
    choices: tuple[str, ...],
) -> None:
    other = str((python or checkout / ".venv/bin/python").absolute()), checkout.resolve(), []
    mine = {f"this, {choice}": (sys.executable, timing.ROOT, timing.compile_flags(choice)) for choice in choices}
    sides = {"other": other} | (mine or {"this": (sys.executable, timing.ROOT, [])})
    timing.pin()
    stages: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    command = ["run", "--method", method, "--sequence", sequence, "--no-overlap", "--device", "cpu"]
    command += [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as work:

        def run(side: str) -> float:
            interpreter, checkout_folder, flags = sides[side]
            output = Path(tempfile.mkdtemp(dir=work))
            seconds = timing.cpbench(*command, *flags, "--output", output, python=interpreter, folder=checkout_folder)
            stages[side].append(timing.stage_seconds(timing.run_record(output)))
            click.echo(f"{side}: {seconds:.0f} seconds", err=True)
            return seconds

        whole = timing.medians(timing.interleaved({side: lambda side=side: run(side) for side in sides}, repeats))
    seconds = {
        side: {"whole": whole[side]} | timing.medians({s: [r[s] for r in stages[side]] for s in stages[side][0]})
        for side in sides
    }
    ratios = {s: {stage: seconds["other"][stage] / seconds[s][stage] for stage in seconds[s]} for s in sides}
    rows = [
        [stage, *(f"{seconds[s][stage]:.1f}" for s in sides), *(number(ratios[s][stage], 2) for s in list(sides)[1:])]
        for stage in seconds["other"]
    ]
    click.echo(f"{timing.where()}; seconds; {method} over {sequence} {' '.join(settings)}, {repeats} repetitions\n")
    click.echo(timing.table(["", *sides, *(f"other / {side}" for side in list(sides)[1:])], rows))
    click.echo(json.dumps({"seconds": seconds, "ratios": ratios, "where": timing.where()}))


if __name__ == "__main__":
    main()
