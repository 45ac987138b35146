"""The local files and folders in a recorded configuration: written as absolute paths, and found again from any folder.

They are the method's file, the sequence's file, the backbone, the autoencoder, the judges and the photographs. A run's hash
is over their contents and not over their paths. Records of cpbench 0.1 hold paths as the user typed them; these are
looked up in the current folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cpbench.backbones import hub
from cpbench.backbones.untrusted import INDEX
from cpbench.concepts import images, sequences
from cpbench.errors import UserError
from cpbench.miniature import is_miniature
from cpbench.records.record import Record

JUDGES = ("clip", "dino")
NOUNS = {
    "method": "its method's file",
    "sequence": "its sequence's file",
    "backbone": "its backbone's folder",
    "vae": "its autoencoder's folder",
    "clip": "its CLIP judge",
    "dino": "its DINO judge",
    "data": "its photographs' folder",
}


# Writing


def absolute_paths(config: Mapping[str, Any], concepts: Iterable[sequences.Concept] = ()) -> dict[str, str]:
    """The local files and folders in a configuration, as absolute paths, by the name of their setting.

    config: a `RunConfig` as JSON; concepts: the run's. If their photographs are found without --data, by CPBENCH_DATA or
    in the current folder, that folder is `data`.
    """
    backbone, vae = config["backbone"], config["loading"]["vae"]
    paths = {
        "method": config["method"] if config["method"].endswith(".py") else None,
        "sequence": None if config["sequence"] in sequences.names() else config["sequence"],
        "backbone": backbone if not is_miniature(backbone) and _exists(backbone, INDEX["backbone"]) else None,
        "vae": vae if vae and _exists(vae, INDEX["vae"]) else None,
        **{judge: config[judge] for judge in JUDGES if config[judge] and _exists(config[judge])},
        "data": _data_folder(config, concepts),
    }
    absolute = {name: os.path.abspath(os.path.expanduser(path)) for name, path in paths.items() if path is not None}
    return {name: path for name, path in absolute.items() if path.isprintable()}  # what else no record may hold


def _exists(*parts: str) -> bool:
    return os.path.exists(os.path.join(os.path.expanduser(parts[0]), *parts[1:]))


def _data_folder(config: Mapping[str, Any], concepts: Iterable[sequences.Concept]) -> str | None:
    """The folder in which relative folders of photographs were looked up; None for the hub, or if there are none."""
    photographed = [c.images for c in concepts if c.images and not images.is_rendered(c, config["backbone"])]
    relative = [folder for folder in photographed if not os.path.isabs(folder)]
    if not (relative or config["data"]):
        return None
    folder = config["data"] or os.environ.get("CPBENCH_DATA") or Path(relative[0]).parts[0]
    return None if folder == "hub" else folder


def with_paths(config: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """The configuration, as JSON, with these paths in place of those that it has."""
    out = dict(config) | {name: path for name, path in paths.items() if name != "vae"}
    return out | ({"loading": config["loading"] | {"vae": paths["vae"]}} if "vae" in paths else {})


# Reading


def local_paths(record: Record) -> dict[str, str]:
    """The local files and folders in a record's configuration, as they are written there, by the name of their setting."""
    config = record.config.as_json()
    vae = record.config.loading.get("vae")
    paths = {
        "method": config.get("method") if str(config.get("method")).endswith(".py") else None,
        "sequence": path if _is_file(path := config.get("sequence", "")) else None,
        "backbone": config["backbone"] if _is_local_backbone(record) else None,
        "data": config.get("data") if config.get("data") != "hub" else None,
        **{name: path for name, path in (("vae", vae), *((j, config.get(j)) for j in JUDGES)) if _is_path(path)},
    }
    return {name: path for name, path in paths.items() if isinstance(path, str) and path}


def _is_local_backbone(record: Record) -> bool:
    """Whether the backbone was a folder: one of the hub has its commit in the record."""
    name = record.config.backbone
    if is_miniature(name) or name in hub.BUILT_IN or record.backbone.get("revision") is not None:
        return False
    return "revision" in record.backbone or not hub.HUB_ID.fullmatch(name)


def _is_file(sequence: str) -> bool:
    """Whether a sequence is a file and not a name; a package that added a name may be gone."""
    if sequence in sequences.names():
        return False
    return sequence.endswith((".yaml", ".yml")) or os.path.basename(sequence) != sequence or _exists(sequence)


def _is_path(text: object) -> bool:
    return isinstance(text, str) and (
        os.path.isabs(text) or text.startswith(("~", ".")) or text.endswith(".safetensors") or _exists(text)
    )


def existing_paths(record: Record, folder: Path) -> dict[str, str]:
    """The local paths of a record that exist today, absolute, by name.

    A path is looked up where it was; then, if the run's folder was moved, at the same place relative to the folder.
    """
    paths = {}
    for name, path in local_paths(record).items():
        places = [os.path.abspath(os.path.expanduser(path))]
        if record.folder and os.path.isabs(path):
            places.append(os.path.abspath(os.path.join(folder, os.path.relpath(path, record.folder))))
        if existing := next((place for place in places if os.path.exists(place)), None):
            paths[name] = existing
    return paths


def config_today(record: Record, folder: Path) -> dict[str, Any]:
    """The recorded configuration as JSON, with the paths that are found. A `data` that is gone is left out."""
    config, paths = record.config.as_json(), existing_paths(record, folder)
    is_gone = "data" in local_paths(record) and "data" not in paths
    return with_paths(config | ({"data": None} if is_gone else {}), paths)


def refuse_missing(record: Record, folder: Path, names: Iterable[str]) -> None:
    """UserError, in one line, if one of these settings is a local file or folder that is not there."""
    paths, existing = local_paths(record), existing_paths(record, folder)
    for name in names:
        if name not in paths or name in existing:
            continue
        key = f"config.loading.{name}" if name == "vae" else f"config.{name}"
        if os.path.isabs(paths[name]):
            reason, hint = "is not there any more", f"put it back, or write where it is now in {key} of its run.json"
        else:
            reason = f"is not in {os.getcwd()}, and its run.json does not say in which folder the run was started"
            hint = f"start from that folder, or write the absolute path in {key} of its run.json"
        raise UserError(f"run {folder}: {NOUNS[name]}, {paths[name]}, {reason}; {hint}")
