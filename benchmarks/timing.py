"""What the benchmarks against others share: one pinned core, one thread, interleaved repetitions, medians."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def pin(core: int | None = None) -> int:
    """Pin this process, and those that it starts, to one core and one thread; returns the core.

    The default is the last core that the process may use.
    """
    if not hasattr(os, "sched_setaffinity"):  # macOS and Windows
        os.environ |= ONE_THREAD
        return -1
    chosen_core = max(os.sched_getaffinity(0)) if core is None else core
    os.sched_setaffinity(0, {chosen_core})
    os.environ |= ONE_THREAD
    return chosen_core


def interleaved(work: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, called in turn `repeats` times, so that a slow hour slows all of them.

    A piece that returns a number has measured itself, and that number counts instead.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            start = time.perf_counter()
            measured = call()
            elapsed = time.perf_counter() - start
            seconds[name].append(measured if isinstance(measured, float) else elapsed)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each name's repetitions."""
    return {name: median(values) for name, values in seconds.items()}


def execute(command: Sequence[str | Path], folder: Path = ROOT, **environment: str) -> float:
    """Run a program offline and return its seconds. RuntimeError with the end of what it printed if it fails."""
    start = time.perf_counter()
    process = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **OFFLINE, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - start
    if process.returncode:
        end = "\n".join(process.stdout.splitlines()[-20:])
        raise RuntimeError(f"{command[0]} {command[1]} ... failed with code {process.returncode}:\n{end}")
    return seconds


def cpbench(*arguments: str | Path, python: str | Path = sys.executable, folder: Path = ROOT) -> float:
    """Run `cpbench ...` without its cache and return its seconds."""
    return execute([python, "-m", "cpbench", *arguments], folder, CPBENCH_CACHE="")


def where() -> str:
    """The processor and the date, as tables name them."""
    return f"{processor()}, {date.today().isoformat()}"


def processor() -> str:
    """The processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def run_record(output: Path) -> dict:
    """run.json of the only run below this folder."""
    (file,) = output.rglob("run.json")
    return json.loads(file.read_text())


def stage_seconds(record: dict, untouched: bool = True) -> dict[str, float]:
    """Seconds of learning, sampling and judging in a run's record; with or without the row of the untouched model."""
    costs = [cost for task_index, cost in record["costs"].items() if untouched or task_index != "0"]
    stages = {"learning": "learning_seconds", "sampling": "generation_seconds", "judging": "judging_seconds"}
    return {stage: sum(cost.get(key, 0.0) for cost in costs) for stage, key in stages.items()}


def compile_flags(choice: str | None, python: str | Path = sys.executable, folder: Path = ROOT) -> list[str]:
    """["--compile", choice], or [] where none is chosen. RuntimeError where that checkout's `cpbench run` cannot compile."""
    if choice is None:
        return []
    help_text = subprocess.run([python, "-m", "cpbench", "run", "--help"], cwd=folder, capture_output=True, text=True)
    if "--compile" not in help_text.stdout:
        raise RuntimeError(f"{folder}: its `cpbench run` has no --compile; leave the option out")
    return ["--compile", choice]
