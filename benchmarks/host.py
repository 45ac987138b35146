"""Seconds of a short run outside learning, generating and judging, and until its first line.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/host.py [--repeat 3] [--before FOLDER]

Each repeat runs `cpbench run` on quick3, three tasks of 20 steps, in a process of its own with an empty picture cache, and takes
the seconds of the three stages from run.json. FOLDER is a checkout of another commit, whose runs alternate with this one's, for
example one made by `git worktree add FOLDER COMMIT`. Minimum and median are printed, in seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = ["run", "--method", "seqlora", "--sequence", "quick3", "--set", "steps=20", "--no-overlap", "--output"]
STAGES = ("learning", "generation", "judging")


def measure(checkout: Path) -> dict[str, float]:
    """Seconds of one run by the code in a checkout."""
    with tempfile.TemporaryDirectory() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "cpbench", *RUN, output], cwd=checkout, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        seconds = {"first line": time.perf_counter() - began}
        process.stdout.read()
        if process.wait():
            sys.exit(f"{checkout}: the run failed with exit code {process.returncode}")
        seconds["whole run"] = time.perf_counter() - began
        (record,) = Path(output).glob("*/*/*/*/*/run.json")
        costs = json.loads(record.read_text())["costs"].values()
    stages = {stage: sum(cost.get(f"{stage}_seconds") or 0.0 for cost in costs) for stage in STAGES}
    return seconds | stages | {"outside": seconds["whole run"] - sum(stages.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3, help="runs per checkout")
    parser.add_argument("--before", type=Path, help="checkout of another commit, to compare with")
    arguments = parser.parse_args()
    checkouts = {"here": Path(__file__).resolve().parents[1]}
    if arguments.before is not None:
        checkouts["before"] = arguments.before.resolve()
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(arguments.repeat):
        for name, checkout in checkouts.items():
            runs[name].append(measure(checkout))
    print(f"{'':12}" + "".join(f"{name + ' min':>14}{'median':>9}" for name in checkouts))
    for part in runs["here"][0]:
        figures = ([run[part] for run in runs[name]] for name in checkouts)
        print(f"{part:12}" + "".join(f"{min(f):14.1f}{statistics.median(f):9.1f}" for f in figures))


if __name__ == "__main__":
    main()
