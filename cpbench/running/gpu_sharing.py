"""Several runs on one GPU: as many as its memory holds, by the peak of a short rehearsal of each kind of run.

A sweep rehearses in a process of its own, which leaves the GPU empty behind it; what it measured is remembered.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import yaml

from cpbench import config, remembered
from cpbench.output import say
from cpbench.records import machine
from cpbench.version import SCORES

if TYPE_CHECKING:
    from cpbench.running.prepare import Run

MARGIN = 1.25  # for the allocator's gaps, and for what a rehearsal of a few steps does not reach
CONTEXT_BYTES = 700_000_000  # that a process takes on a GPU before it allocates anything
MOST_RUNS = 8  # on one GPU: the processor must launch the kernels of all
TOPIC = "gpu-memory"
OF_ONE_RUN = ("seed", "order", "sequence", "output", "overlap")  # settings that do not change the memory, or hardly


@dataclass(frozen=True)
class Need:
    """The peak of a run's rehearsal, and the memory of the GPU that it was on, in bytes."""

    peak: int
    memory: int


def runs_that_fit(needs: Iterable[Need], most: int = MOST_RUNS) -> int:
    """How many runs may share a GPU, whichever of these they are: at least one, and at most `most`."""
    fits = (need.memory // (math.ceil(need.peak * MARGIN) + CONTEXT_BYTES) for need in needs)
    return max(1, min(most, *fits, MOST_RUNS))


def share_of(runs: int) -> float:
    """The share of a GPU that each of so many runs has, rounded down to Ray's four decimals: all of them fit."""
    return math.floor(10_000 / runs) / 10_000


def runs_per_gpu(
    all_settings: Iterable[Mapping[str, Any]], most: int, need_of: Callable[[dict[str, Any]], Need | None]
) -> int:
    """How many of these runs may share a GPU; one where a rehearsal fails. What is chosen, and why, is said in one line."""
    needs = []
    for settings in distinct(all_settings):
        need = need_of(settings)
        if need is None:
            say(f"GPU memory: {settings['method']} could not be rehearsed, so each run gets a GPU of its own")
            return 1
        needs.append(need)
    if not needs:
        return 1
    runs, largest = runs_that_fit(needs, most), max(needs, key=lambda need: need.peak / need.memory)
    say(
        f"GPU memory: a run takes up to {largest.peak / 1e9:.1f} of {largest.memory / 1e9:.1f} GB, so "
        + (f"{runs} runs share a GPU" if runs > 1 else "each run gets a GPU of its own")
    )
    return runs


def distinct(all_settings: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The settings of runs whose need of memory may differ, the first of each kind."""
    first: dict[str, dict[str, Any]] = {}
    for settings in all_settings:
        kind = {key: str(value) for key, value in settings.items() if key not in OF_ONE_RUN}
        first.setdefault(json.dumps(kind, sort_keys=True), dict(settings))
    return list(first.values())


def measured(settings: Mapping[str, Any]) -> Need:
    """The need of a run with these settings, rehearsed here, on the GPU that this process sees."""
    from cpbench.learning.weights_or_lora import device_memory
    from cpbench.running.plan import rehearsed_peak
    from cpbench.running.prepare import prepare

    run = prepare(*config.resolve(dict(settings)))
    return Need(rehearsed_peak(run), device_memory(run.backbone.device))


def measured_apart(settings: Mapping[str, Any]) -> Need | None:
    """The same in a process of its own, or as remembered; None if the run cannot be rehearsed."""
    values = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    key = {
        "settings": {name: value for name, value in values.items() if name not in OF_ONE_RUN},
        "machine": [platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES")],
        "code": [SCORES, machine.versions()],
    }
    key = json.loads(json.dumps(key, default=str))
    held = remembered.recall(TOPIC, key)
    with contextlib.suppress(TypeError):
        return Need(**held) if held is not None else _in_a_process(values, key)
    return _in_a_process(values, key)


def _in_a_process(settings: dict[str, Any], key: dict[str, Any]) -> Need | None:
    with TemporaryDirectory() as folder:
        job, answer = Path(folder) / "job.yaml", Path(folder) / "need.json"
        job.write_text(yaml.safe_dump(settings))
        subprocess.run(
            [sys.executable, "-m", "cpbench.running.gpu_sharing", job, answer], capture_output=True, check=False
        )
        if not answer.is_file():
            return None
        need = Need(**json.loads(answer.read_text()))
    remembered.remember(TOPIC, key, asdict(need))
    return need


def two_fit(run: Run) -> bool:
    """Whether a second process with this run's networks fits on its GPU beside the learning; if not, one line says so."""
    import torch

    from cpbench.running.memory import size_of
    from cpbench.running.plan import rehearsed_peak

    device = run.backbone.device
    needed = 2 * math.ceil(rehearsed_peak(run) * MARGIN) + CONTEXT_BYTES
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    if needed <= free:
        return True
    say(
        f"overlap: learning and a second process that generates would need {size_of(needed)} of {device}, which has "
        f"{size_of(free)} free; rows are generated after each task instead"
    )
    return False


def main(words: list[str]) -> None:
    """The process of one rehearsal: python -m cpbench.running.gpu_sharing JOB.yaml ANSWER.json."""
    from cpbench.running.orphans import exit_with_parent

    exit_with_parent(os.getppid())
    job, answer = map(Path, words)
    answer.write_text(json.dumps(asdict(measured(yaml.safe_load(job.read_text())))))


if __name__ == "__main__":
    main(sys.argv[1:])
