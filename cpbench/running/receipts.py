"""Receipts of finished runs: a run that is asked for again is recognised in a second, without loading a model.

A receipt is kept, among what is remembered of earlier processes, once a run was found to be finished in the full way, or has
just finished. It holds for one request (the command line's settings, with the environment and the libraries' versions) as long as
none of the files that the run's identity and results depend on has changed: cpbench's own, the sequence, the photographs, the
backbone, the judges, and the run folder. What it cannot hold for is checked in the full way: models and judges of the hub, which
may have a newer revision; methods, sequences and judges of the user's files or of packages; photographs that are searched for in
several places; a precision that depends on the GPU.

Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpbench import remembered
from cpbench.backbones import hub
from cpbench.concepts import sequences
from cpbench.errors import UserError
from cpbench.files import file_hash
from cpbench.miniature import is_miniature
from cpbench.records import machine
from cpbench.records.folder import RunFolder
from cpbench.records.reading import read
from cpbench.registry import baselines_folder, built_in_methods

if TYPE_CHECKING:
    from cpbench.config import RunConfig
    from cpbench.running.prepare import Run

TOPIC = "finished-runs"
PACKAGE = Path(__file__).parents[1]
VARIABLES = ("CPBENCH_DATA", "CUDA_VISIBLE_DEVICES")
MOST_FILES = 20_000
SETTLED_SECONDS = (
    2.0  # a file written later than this before the process began may be written again with the same times
)


def finished_folder(request: RunConfig) -> Path | None:
    """The folder of the finished run that is asked for; None if that is not known without loading anything."""
    inputs = input_files(request)
    receipt = remembered.recall(TOPIC, key_of(request)) if inputs is not None else None
    if not isinstance(receipt, dict) or receipt.get("inputs") != digest_of(inputs):
        return None
    folder = Path(str(receipt.get("folder")))
    results = results_of(folder)
    if results is None or receipt.get("results") != digest_of(results):
        return None
    try:
        record = read(folder)
    except UserError:
        return None
    return folder if record.is_finished and record.files == shown_files(RunFolder(folder)) != {} else None


def keep(request: RunConfig, inputs: dict[str, list[int]] | None, run: Run) -> None:
    """Keep a receipt of a finished run. inputs: the `input_files` before anything was read."""
    from cpbench.backbones.loading import SMALL
    from cpbench.running.devices import weights_of

    depends_on_device = run.config.loading.dtype == "auto" and weights_of(run.backbone) >= SMALL
    folder = run.folder.absolute()
    results = results_of(folder)
    if inputs is None or results is None or depends_on_device or not _are_settled(inputs):
        return
    receipt = {"inputs": digest_of(inputs), "results": digest_of(results), "folder": str(folder)}
    remembered.remember(TOPIC, key_of(request), receipt)


def key_of(request: RunConfig) -> dict[str, Any]:
    return {
        "request": request.model_dump(mode="json"),
        "folder": os.getcwd(),
        "environment": {name: os.environ.get(name) for name in VARIABLES},
        "versions": {**machine.versions(), "python": platform.python_version()},
    }


def input_files(request: RunConfig) -> dict[str, list[int]] | None:
    """The `status_of` all files that decide what is asked for; None if they are not all known, see above."""
    loading = request.loading
    if request.method not in built_in_methods() or request.judges or loading.trust_remote_code:
        return None
    places = [PACKAGE, *(Path(str(folder)) for folder in (baselines_folder(), sequences.tasks_folder()))]
    parts = [backbone_folder(request.backbone), Path(loading.vae) if loading.vae else None]
    for place, is_used in zip(parts, (True, loading.vae is not None), strict=True):
        if is_used and (place is None or not place.is_dir()):
            return None
    places += filter(None, parts)
    judges = (hub.MINIATURE if is_miniature(request.backbone) else Path(request.backbone)) / "judges"
    for judge_type, choice in (("clip", request.clip), ("dino", request.dino)):
        judge = Path(os.path.expanduser(choice)) if choice else judges / judge_type
        if not judge.is_dir():
            return None
        places.append(judge)
    pictures = picture_folders(request)
    return None if pictures is None else status_of([*places, *pictures])


def backbone_folder(name: str) -> Path | None:
    """The folder of a local backbone, without asking the hub; None for one of the hub."""
    folder = hub.embedded(name) if is_miniature(name) else Path(os.path.expanduser(name))
    return folder if folder.is_dir() else None


def picture_folders(request: RunConfig) -> list[Path] | None:
    """The sequence's file, if it is one, and the folders of its photographs; None if they are searched for, or it is a package's."""
    file = Path(os.path.expanduser(request.sequence))
    is_file = request.sequence.endswith((".yaml", ".yml")) and file.is_file()
    if not is_file and request.sequence not in sequences.built_in_names():
        return None
    places = [file] if is_file else []
    for concept in sequences.load(request.sequence).concepts:
        if concept.rendered and is_miniature(request.backbone):
            continue
        if concept.images is None or not os.path.isabs(concept.images):
            return None
        places.append(Path(concept.images))
    return places


def finished_line(folder: Path) -> str:
    """What is said of a run that is finished already, and what to do next."""
    return f"finished already: {folder} (delete the folder to run it again); next: cpbench report {shlex.quote(str(folder))}"


def shown_files(at: RunFolder) -> dict[str, str]:
    """SHA-256, by file name, of the tables and pictures beside run.json: scores, matrices, measures, grid."""
    return {file.name: file_hash(file) for file in at.shown()}


def results_of(folder: Path) -> dict[str, list[int]] | None:
    """The `status_of` the files that a run wrote, without those that other commands add: they change nothing of it."""
    run = RunFolder(folder)
    additions = {run.report, run.embeddings, run.classifier, run.all_scored}
    try:
        places = [path for path in folder.iterdir() if path not in additions and not path.name.startswith(".")]
    except OSError:
        return None
    return status_of(places)


def status_of(places: Iterable[Path]) -> dict[str, list[int]] | None:
    """By path size, times and inode of every file in these places, files or folders; None if one is missing.

    Hidden files and Python's caches are left out. A change of a file's content changes its time of last change.
    """
    status: dict[str, list[int]] = {}
    try:
        for path in (file for place in places for file in _files_of(place)):
            entry = os.stat(path)
            status[path] = [entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns, entry.st_ino]
            if len(status) > MOST_FILES:
                return None
    except OSError:
        return None
    return status


def _files_of(place: Path) -> Iterable[str]:
    if not os.path.isdir(place):
        yield str(place)
        return
    for folder, folders, files in os.walk(place, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (os.path.join(folder, name) for name in files if not name.startswith("."))


def digest_of(status: dict[str, list[int]]) -> str:
    return hashlib.sha256(json.dumps(status, sort_keys=True).encode()).hexdigest()


def _are_settled(status: dict[str, list[int]]) -> bool:
    """Whether all files were last changed before this process began, so that it has read what they hold now."""
    import psutil

    began = psutil.Process().create_time()
    latest = max((max(mtime, ctime) for _, mtime, ctime, _ in status.values()), default=0)
    return latest / 1e9 < began - SETTLED_SECONDS
