"""What a number was computed on: the processor, its threads or the GPU and its libraries. Recorded for every task."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from cpbench.records import machine

PACKAGES = ("torch", "diffusers", "transformers", "peft", "open_clip_torch", "timm", "numpy", "skia-python")


@functools.cache
def processor() -> str:
    """The kind of processor: its maker and the instructions that torch uses, which decide the last bits of a sum."""
    import torch

    maker = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        maker = next(line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    except (OSError, StopIteration):  # no Linux, or no x86
        pass
    return f"{maker} {torch.backends.cpu.get_cpu_capability()}"


def computes_on(device: Any) -> dict[str, Any]:
    """What decides the bits of what `device` computes, its driver and libraries apart: equal facts, equal bits."""
    import torch

    device = torch.device(device)
    if device.type != "cuda":
        return {"device": device.type, "processor": processor(), "threads": torch.get_num_threads()}
    return {
        "device": "cuda",
        "processor": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
    }


def facts(device: Any) -> dict[str, Any]:
    """All of it, as it is recorded: with the driver, the threads and the libraries' versions."""
    import torch

    conditions = computes_on(device) | {"threads": torch.get_num_threads(), "versions": machine.versions()}
    return conditions | ({"driver": driver()} if conditions["device"] == "cuda" else {})


def differences(made_on: list[dict[str, Any]]) -> str:
    """A line that says which tasks were computed under other conditions than which; "" where all were under the same.

    made_on: the facts of `facts`, each with the tasks that were learned ("learning") and the rows made ("row") under them.
    """
    if len(made_on) < 2:
        return ""
    differing = [k for k in made_on[0] if len({json.dumps(facts.get(k), sort_keys=True) for facts in made_on}) > 1]
    parts = []
    for facts in made_on:
        stages = [
            f"{noun} {', '.join(map(str, facts[key]))}"
            for key, noun in (("learning", "tasks"), ("row", "rows"))
            if facts[key]
        ]
        values = [f"{k} {_differing(k, facts, made_on)}" for k in differing if k not in ("learning", "row")]
        parts.append(f"{' and '.join(stages)} with {', '.join(values)}")
    return f"tasks were computed under different conditions, so no single run gives the same bytes again: {'; '.join(parts)}"


def _differing(key: str, facts: dict[str, Any], made_on: list[dict[str, Any]]) -> Any:
    """The value; of libraries' versions only those that differ."""
    value = facts.get(key)
    if not isinstance(value, dict):
        return value
    return {k: v for k, v in value.items() if any((other.get(key) or {}).get(k) != v for other in made_on)}


@functools.cache
def driver() -> str | None:
    """The NVIDIA driver's version; None where nvidia-smi does not say."""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.split("\n")[0].strip() or None


def set_deterministic() -> None:
    """Ask CUDA for the same bits at every call: deterministic algorithms, cuBLAS's fixed workspace, no TF32.

    Before the first call to cuBLAS of this process, which reads its setting once.
    """
    import os

    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def versions() -> dict[str, str]:
    """By name, of those libraries of PACKAGES that are installed, and of cpbench."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    """Read once: every picture's key has them, and those of a process do not change."""
    by_name = {}
    for name in ("cpbench", *PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            by_name[name] = metadata.version(name)
    return by_name


def commit() -> str | None:
    """The checkout's commit, with "+" if its code has changes; None outside a checkout. Presets are recorded as options."""
    but = [":(top)", ":(top,exclude)baselines/presets"]
    folder = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10)
        if head.returncode:
            return None
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno", "--", *but], cwd=folder, capture_output=True, text=True, timeout=10
        ).stdout
        return head.stdout.strip() + ("+" if dirty.strip() else "")
    except (OSError, subprocess.TimeoutExpired):
        return None
