"""Devices: which one a run gets, which GPUs a sweep may hand to its runs, and how many threads a small model gets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from cpbench.errors import UserError, did_you_mean
from cpbench.output import say

if TYPE_CHECKING:
    from cpbench.backbones.backbone import Backbone

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SMALL = 200_000_000  # weights of a denoiser; below this, its tensors are too small to be shared among threads
FEW_THREADS = 1


def pick_device(device: str) -> str:
    """The device, or the best available one for "auto". UserError for one that is not available."""
    is_available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(device_type for device_type in ("cuda", "mps", "cpu") if is_available[device_type])
    device_type, _, index = device.partition(":")
    if device_type not in is_available:
        raise did_you_mean(device, is_available, "device")
    if index and not (device_type == "cuda" and index.isdigit() and int(index) < torch.cuda.device_count()):
        raise UserError(f"device {device}: this machine has no such device; leave out ':{index}'")
    if not is_available[device_type]:
        raise UserError(
            f"device {device}: torch finds no such device on this machine; use --device cpu, or leave --device out"
        )
    return device


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: numbers, or UUIDs of GPUs or MIG slices.

    Without the variable they are numbered from 0. CUDA ignores everything after the first name that is not valid.
    """
    count, value = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return [str(n) for n in range(count)]
    return [name.strip() for name in value.split(",")][:count]


@contextmanager
def few_threads(backbone: Backbone) -> Iterator[None]:
    """Within this context a small model on the CPU computes with FEW_THREADS, unless the user chose a number of threads.

    The tensors of a small model are too small to be worth sharing: on cores that other processes use, threads that wait for
    each other take many times longer than one thread. A choice is one of THREAD_VARIABLES, or `torch.set_num_threads` with
    another number than torch's own.
    """
    threads = torch.get_num_threads()
    if backbone.device.type != "cpu" or threads <= FEW_THREADS or _is_chosen(threads) or weights_of(backbone) >= SMALL:
        yield
        return
    say(
        f"threads: {FEW_THREADS} instead of {threads}, since the model is small; set OMP_NUM_THREADS to choose another number"
    )
    torch.set_num_threads(FEW_THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _is_chosen(threads: int) -> bool:
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    by_default = {cores, os.cpu_count(), psutil.cpu_count(logical=False)}
    return any(os.environ.get(name) for name in THREAD_VARIABLES) or threads not in by_default


def weights_of(backbone: Backbone) -> int:
    """The number of weights of the denoiser."""
    return sum(p.numel() for p in backbone.denoiser.parameters())
