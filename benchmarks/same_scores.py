"""Whether a change of the arithmetic moved scores: the same runs from two checkouts of cpbench, compared.

    .venv/bin/python benchmarks/same_scores.py ../before --output same-scores

Runs four methods over dreambench10 from both checkouts into the folders `before` and `after` of --output (a finished run is
skipped, a stopped one resumed), and compares each method's two runs. The change passes if no pair differs by `cpbench
compare` in any score at 5 % for all comparisons together (Holm 1979: of twelve that are each made at 5 % one or more differs by
chance in 46 of 100 changes), and the 95 % interval of the mean difference in DINO after the last task (after - before), over
all (method, concept) cells together, lies within +-0.1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path

import click
import numpy as np
import timing
from numpy.typing import ArrayLike
from scipy import stats

METHODS = ("seqlora", "ewc", "dcscore", "raretoken")
MOST = 0.1  # that the interval may reach on either side
LEVEL = 0.95


def interval(differences: ArrayLike) -> tuple[float, float]:
    """Student's 95 % interval of the mean of paired differences (n,), n > 1."""
    d = np.asarray(differences, dtype=np.float64)
    half = stats.t.ppf((1 + LEVEL) / 2, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    return float(d.mean() - half), float(d.mean() + half)


def differences(before: Mapping[Hashable, float], after: Mapping[Hashable, float]) -> list[float]:
    """after - before of every cell, in the order of `before`. ValueError if their cells are not the same."""
    if before.keys() != after.keys():
        raise ValueError(f"cells exist on one side only: {sorted(map(str, before.keys() ^ after.keys()))}")
    return [after[cell] - before[cell] for cell in before]


def within(low: float, high: float, most: float = MOST) -> bool:
    """Whether an interval lies within +-most; not where it is NaN."""
    return -most <= low and high <= most


def holm(p: Mapping[str, float], level: float = 1 - LEVEL) -> list[str]:
    """The comparisons that differ at this level for all together, the smallest p first."""
    differing = []
    for k, name in enumerate(sorted(p, key=p.__getitem__)):
        if not p[name] * (len(p) - k) <= level:
            break
        differing.append(name)
    return differing


def concept_scores(folder: Path, metric: str = "dino") -> dict[str, float]:
    """A run's mean score of each concept after the last task."""
    from cpbench.records import tables

    scores = tables.read_scores(folder / "scores.csv")
    assert scores is not None, f"{folder}: its scores.csv cannot be read"
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == metric)]
    return cells[cells["row"] == cells["row"].max()].groupby("concept")["value"].mean().to_dict()


def run(
    method: str, sequence: str, python: Path | str, checkout: Path, output: Path, settings: tuple[str, ...]
) -> Path:
    """Run a method from a checkout, unless it is finished. Returns the run's folder."""
    flags = [word for setting in settings for word in ("--set", setting)]
    timing.cpbench(
        *("run", "--method", method, "--sequence", sequence, "--device", "cpu", "--no-overlap"),
        *(*flags, "--output", output / method),
        python=python,
        folder=checkout,
    )
    (record,) = (output / method).rglob("run.json")
    return record.parent


@click.command(help=__doc__)
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--python", type=click.Path(exists=True, path_type=Path), help="Its Python.  [default: its .venv's]")
@click.option("--output", required=True, type=click.Path(path_type=Path))
@click.option("--method", "methods", multiple=True, default=METHODS, show_default=True, help="Repeatable.")
@click.option("--sequence", default="dreambench10", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Passed to all runs. Repeatable.")
def main(
    checkout: Path,
    python: Path | None,
    output: Path,
    methods: tuple[str, ...],
    sequence: str,
    settings: tuple[str, ...],
) -> None:
    from cpbench.metrics.scores import title_of
    from cpbench.numbers import number
    from cpbench.report.paired_runs import compare_runs

    output, other = output.absolute(), (python or checkout / ".venv/bin/python").absolute()
    timing.pin()
    cells: dict[str, dict[tuple[str, str], float]] = {"before": {}, "after": {}}
    p = {}
    for method in methods:
        folders = {
            "before": run(method, sequence, other, checkout.resolve(), output / "before", settings),
            "after": run(method, sequence, sys.executable, timing.ROOT, output / "after", settings),
        }
        for side, folder in folders.items():
            cells[side] |= {(method, concept): score for concept, score in concept_scores(folder).items()}
        _, row, comparisons, _ = compare_runs(folders["after"], folders["before"])
        for metric, comparison in comparisons.items():
            text = (
                f"{number(comparison.low, sign=True)} to {number(comparison.high, sign=True)}, p {number(comparison.p)}"
            )
            verdict = "differs alone" if comparison.is_significant else "no difference shown"
            click.echo(f"{method}, {title_of(metric)} after task {row}: {text}; {verdict}")
            p[f"{method} {metric}"] = comparison.p
    moved = holm(p)
    changes = differences(cells["before"], cells["after"])
    low, high = interval(changes)
    passed = not moved and within(low, high)
    click.echo(
        f"DINO over {len(changes)} cells, after - before: {number(float(np.mean(changes)), sign=True)}, 95 % interval "
        f"{number(low, sign=True)} to {number(high, sign=True)}; {timing.where()}"
    )
    click.echo(json.dumps({"passed": passed, "moved": moved, "low": low, "high": high, "cells": len(changes)}))
    if not passed:
        raise click.ClickException("scores moved: " + (", ".join(moved) or "the interval is too wide or not around 0"))


if __name__ == "__main__":
    main()
