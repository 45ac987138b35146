"""`cpbench doctor`: which packages, devices, weights and photographs are at hand, and how to get those that are not."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cpbench import torchvision_compat
from cpbench.backbones import hub, untrusted
from cpbench.concepts import photographs, sequences
from cpbench.errors import UserError
from cpbench.judges import published
from cpbench.miniature import EMBEDDED
from cpbench.records import machine
from cpbench.records.machine import PACKAGES


@dataclass(frozen=True)
class Finding:
    """One line of the report. advice: what to do if it is not good."""

    subject: str
    state: str
    good: bool = True
    advice: str = ""


def findings(data: str | None = None) -> Iterator[Finding]:
    yield from installed()
    yield from devices()
    yield from weights()
    yield pictures(data)


def installed() -> Iterator[Finding]:
    yield Finding("python", platform.python_version())
    versions = machine.versions()
    for name in ("cpbench", *PACKAGES):
        yield Finding(name, versions.get(name, "missing"), name in versions, "pip install cpbench")
    yield torchvision()


def torchvision() -> Finding:
    """Whether torchvision loads by itself, or only within cpbench."""
    import torch

    if not torchvision_compat.apply():
        return Finding("torchvision", "loads")
    build = "cpu" if torch.version.cuda is None else f"cu{torch.version.cuda.replace('.', '')}"
    release = metadata.version("torchvision").partition("+")[0]
    install = f"pip install --force-reinstall --no-deps torchvision=={release} --index-url https://download.pytorch.org/whl/{build}"
    advice = (
        "a script of your own that imports diffusers, open_clip or timm must begin with `from cpbench import "
        f"torchvision_compat; torchvision_compat.apply()`, or install the build for this torch: `{install}`"
    )
    return Finding("torchvision", "its C extension does not load; cpbench works around that", False, advice)


def devices() -> Iterator[Finding]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    yield Finding("cpu", f"{os.cpu_count()} cores, {memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB free")
    for n in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(n)
        name = torch.cuda.get_device_name(n)
        yield Finding(f"cuda:{n}", f"{name}, {total / 1e9:.0f} GB, {free / 1e9:.0f} GB free")
    if not torch.cuda.is_available():
        built = "torch is a CPU build" if torch.version.cuda is None else "no device or no driver"
        yield Finding(
            "cuda", f"none ({built})", False, "for Stable Diffusion, use a GPU machine with a CUDA build of torch"
        )
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple's GPU")


def weights() -> Iterator[Finding]:
    """The miniature's weights, and those in the hub's cache. Nothing is downloaded."""
    from huggingface_hub import constants, try_to_load_from_cache

    offline = constants.HF_HUB_OFFLINE
    yield Finding("hub", "offline (HF_HUB_OFFLINE)" if offline else f"{constants.ENDPOINT}, used when needed")
    for name in EMBEDDED:
        yield Finding(f"backbone {name}", f"in the package, {hub.hash_folder(hub.embedded(name))[:8]}")
    for name, repository in hub.BUILT_IN.items():
        index = try_to_load_from_cache(repository.name, untrusted.INDEX["backbone"], revision=repository.revision)
        partly = isinstance(index, str)
        whole = partly and hub.is_whole(Path(index).parent)
        otherwise = "or pass a local diffusers folder"
        if repository.gated:
            otherwise += f"; gated: accept its licence at huggingface.co/{repository.name}, then run `hf auth login`"
        yield _cached(f"backbone {name}", repository.name, whole, offline, otherwise, partly)
    yield Finding("judges' revisions", "not pinned: the current ones are used, and recorded by hash")
    for name, judge in published.PUBLISHED.items():
        if revisions := [f"{r[:8]} (weights {hub.file_hash(file)[:8]})" for r, file in published.cached(name)]:
            yield Finding(f"judge {name}", f"in the hub's cache, revision {', '.join(revisions)}")
        else:
            otherwise = f"or pass --{judge.judge_type} FILE.safetensors"
            yield _cached(f"judge {name}", judge.repository, False, offline, otherwise)


def _cached(name: str, repository: str, cached: bool, offline: bool, otherwise: str, partly: bool = False) -> Finding:
    if cached:
        return Finding(name, "in the hub's cache")
    advice = f"run `hf download {repository}` while connected" if offline else "downloaded on first use"
    return Finding(name, f"{'in part' if partly else 'not'} in the hub's cache", False, f"{advice}, {otherwise}")


def pictures(data: str | None) -> Finding:
    """The photographs of DreamBooth's thirty subjects."""
    concepts = sequences.load("dreambench30").concepts
    try:
        folders = [photographs.folder_of(c, data) for c in concepts]
        for folder, concept in zip(folders, concepts, strict=True):
            photographs.check(folder, concept)
    except UserError as error:
        return Finding("photographs of DreamBooth", "not found", False, str(error))
    return Finding("photographs of DreamBooth", f"all {len(concepts)} subjects in {Path(folders[0]).parent}")
