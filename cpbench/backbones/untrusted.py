"""Pipelines that may come from anybody: code, pickles and broken files in them are refused, in one line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpbench.backbones.families import FAMILIES
from cpbench.backbones.options import BackboneConfig
from cpbench.errors import UserError, quoted

INDEX = {"backbone": "model_index.json", "vae": "config.json"}  # the file that says what a folder holds
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
LIBRARIES = ("diffusers", "transformers", None)  # that a pipeline's parts come from; None: the part is left out
NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
SHARDS_INDEX = re.compile(r".*\.safetensors\.index(\.[\w-]+)?\.json")
MOST_JSON = 2**25  # bytes; vocabularies have 1 to 4 million
TRUST = "read the code, and if you trust it, pass --trust-remote-code"


def parts_of(index: Mapping[str, Any]) -> dict[str, list[str | None]]:
    """[library, class] of every part that a pipeline's index names and that is loaded at all."""
    return {k: v for k, v in index.items() if isinstance(v, list) and k not in ("_class_name", *NEVER_LOADED)}


def check_index(index: Mapping[str, Any], what: str, loading: BackboneConfig) -> None:
    """UserError, in one line, for a model_index.json of another kind of pipeline, and for one with code of its own."""
    for part, value in parts_of(index).items():
        if len(value) != 2 or not all(v is None or isinstance(v, str) for v in value):
            raise UserError(f"{what}: {INDEX['backbone']}: {part} must be [library, class], not {quoted(value)}")
        if value[0] not in LIBRARIES and not loading.trust_remote_code:
            raise UserError(f"{what}: its {part} is Python code of its own ({quoted(value[0])}); {TRUST}")
    kind = index.get("_class_name")
    if isinstance(kind, list) and not loading.trust_remote_code:
        raise UserError(f"{what}: is a pipeline with Python code of its own ({quoted(kind[:1])}); {TRUST}")
    if kind not in tuple(FAMILIES) and not isinstance(kind, list):  # a list: a class of its own, and the user trusts it
        raise UserError(f"{what}: is a {quoted(kind)}; cpbench personalizes {' and '.join(FAMILIES)}")


def check_pipeline(folder: Path, name: str, loading: BackboneConfig) -> dict[str, Any]:
    """What model_index.json says. UserError, in one line, for code, pickled weights and broken files in the pipeline."""
    what = f"backbone {name}"
    index = read_json(folder / INDEX["backbone"], what)
    check_index(index, what, loading)
    parts = {k: v for k, v in parts_of(index).items() if not (k == "vae" and loading.vae)}
    _files_without_code(folder, what, loading)
    # what has no folder of its own is looked for beside the index
    places = [folder / part if os.path.isdir(folder / part) else folder for part, value in parts.items() if value[0]]
    for place in dict.fromkeys(places):
        check_part(place, what, loading)
    return index


def check_part(folder: Path, what: str, loading: BackboneConfig) -> None:
    """UserError, in one line, for code, pickled weights and broken files among those beside each other in a folder."""
    files = _files_without_code(folder, what, loading)
    for file in files:
        if file.name == "adapter_config.json":  # transformers would load the model that it names instead
            raise UserError(f"{what}: {file} names another model to load; merge the adapter, and remove it")
        if file.suffix == ".json":
            held = read_json(file, what, mapping=file.name.endswith("config.json"))
            if file.name == "config.json" and "transformers_weights" in held:  # of any name, in place of the usual
                raise UserError(f"{what}: {file} names a file of weights by itself (transformers_weights); take it out")
            if names_code(held) and not loading.trust_remote_code:
                raise UserError(f"{what}: {file} names Python code to run; {TRUST}")
            if SHARDS_INDEX.fullmatch(file.name):
                _check_shards(held, file, what)
        if file.suffix == ".safetensors":
            check_safetensors(file, what)
    pickles = [f for f in files if f.suffix in PICKLES]
    if pickles and not loading.allow_pickle and not any(f.suffix == ".safetensors" for f in files):
        raise UserError(f"{what}: {_pickled(str(pickles[0]))}")


def _files_without_code(folder: Path, what: str, loading: BackboneConfig) -> list[Path]:
    try:
        files = sorted(f for f in folder.iterdir() if not f.name.startswith("."))
    except OSError as error:
        raise UserError(f"{what}: {folder} cannot be read ({error.strerror}); check the folder") from None
    # any of them: diffusers may import unet/diffusers.py in place of the library, and a None.py beside the index
    code = [f for f in files if f.suffix == ".py"]
    if code and not loading.trust_remote_code:
        raise UserError(f"{what}: holds Python code, {code[0]}; {TRUST}, else remove it")
    return files


def names_code(config: Any) -> bool:
    """Whether a config names a Python file, or a kernel of the hub, for itself or a part of it."""
    every = [config, *config.values()] if isinstance(config, dict) else []
    return any(
        "auto_map" in c or any("/" in str(v) for k, v in c.items() if k.endswith("attn_implementation"))
        for c in every
        if isinstance(c, dict)
    )


def _pickled(thing: str) -> str:
    return (
        f"{thing} would have to be unpickled, which can run any code that is hidden in it; convert it to safetensors, or, "
        "if you trust where it is from, pass --allow-pickle"
    )


def _check_shards(held: Any, file: Path, what: str) -> None:
    shards = held.get("weight_map") if isinstance(held, dict) else None
    for shard in shards.values() if isinstance(shards, dict) else [None]:
        if not isinstance(shard, str) or "/" in shard or not shard.endswith(".safetensors"):
            raise UserError(f"{what}: {file} must name safetensors beside it, not {quoted(shard)}; fetch it again")


def check_safetensors(file: Path, what: str) -> None:
    """UserError, in one line, for a file that is not whole; its header says how long it must be."""
    from safetensors import SafetensorError, safe_open

    try:
        if not file.is_file():
            raise OSError("it is no file")
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{what}: {file} cannot be read as safetensors ({error}); fetch it again") from None


@contextmanager
def loading(what: str) -> Iterator[None]:
    """UserError, in one line, for whatever libraries raise of files that may come from anybody."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(
            f"{what}: cannot be loaded ({type(error).__name__}: {reason}); mend it, or fetch it again"
        ) from error


def read_json(file: Path, what: str, mapping: bool = True) -> Any:
    """A JSON file's content. UserError, in one line that begins with `what`, if it is not whole, or not a mapping."""
    try:
        if not file.is_file():
            raise OSError("there is no such file")
        if file.stat().st_size > MOST_JSON:
            raise ValueError("it is far too large")
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what}: {file} cannot be read as JSON ({reason}); fetch it again") from None
    if mapping and not isinstance(held, dict):
        raise UserError(f"{what}: {file} must hold a mapping, not {quoted(held)}; fetch it again")
    return held
