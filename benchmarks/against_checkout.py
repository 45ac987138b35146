"""Wall time of whole runs against another checkout of cpbench: one core, one thread each, interleaved.

    git worktree add ../before <commit>; make -C ../before setup
    .venv/bin/python benchmarks/against_checkout.py ../before --python ../before/.venv/bin/python

Runs one method over one sequence from both, without the cache of pictures and embeddings, and prints medians of the whole
and of learning, sampling and judging (their run.json), ratios (other / this), and a last line of JSON.
--compile is passed to this checkout; compile once before, so that its compiler's cache is full.
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
@click.option("--compile", "compile_choice", type=click.Choice(["auto", "on", "off"]), help="Passed to this checkout.")
def main(
    checkout: Path,
    python: Path | None,
    method: str,
    sequence: str,
    settings: tuple[str, ...],
    repeats: int,
    compile_choice: str | None,
) -> None:
    pythons = {"other": str((python or checkout / ".venv/bin/python").absolute()), "this": sys.executable}
    folders = {"other": checkout.resolve(), "this": timing.ROOT}
    flags = {"other": [], "this": timing.compile_flags(compile_choice)}
    timing.pin()
    stages: dict[str, list[dict[str, float]]] = {"other": [], "this": []}
    command = ["run", "--method", method, "--sequence", sequence, "--no-overlap", "--device", "cpu"]
    command += [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as work:

        def run(side: str) -> float:
            output = Path(tempfile.mkdtemp(dir=work))
            arguments = [*command, *flags[side], "--output", output]
            seconds = timing.cpbench(*arguments, python=pythons[side], folder=folders[side])
            stages[side].append(timing.stage_seconds(timing.run_record(output)))
            return seconds

        whole = timing.medians(
            timing.interleaved({side: lambda side=side: run(side) for side in ("other", "this")}, repeats)
        )
    seconds = {
        side: {"whole": whole[side]} | timing.medians({s: [r[s] for r in stages[side]] for s in stages[side][0]})
        for side in ("other", "this")
    }
    ratios = {stage: seconds["other"][stage] / seconds["this"][stage] for stage in seconds["this"]}
    rows = [[s, f"{seconds['other'][s]:.1f}", f"{seconds['this'][s]:.1f}", number(ratios[s], 2)] for s in ratios]
    click.echo(f"{timing.where()}; seconds; {method} over {sequence} {' '.join(settings)}, {repeats} repetitions\n")
    click.echo(timing.table(["", "other", "this", "other / this"], rows))
    click.echo(json.dumps({"seconds": seconds, "ratios": ratios, "where": timing.where()}))


if __name__ == "__main__":
    main()
