"""Checks of pipelines from unknown sources: code, pickles and broken files are refused with a one-line message."""

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

INDEX = {"backbone": "model_index.json", "vae": "config.json"}  # the file that describes a folder
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
LIBRARIES = ("diffusers", "transformers", None)  # that a pipeline's parts come from; None: the part is left out
NEVER_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
T5 = ("text_encoder_3", "tokenizer_3")  # of Stable Diffusion 3, which is often used without: loaded on request
SHARDS_INDEX = re.compile(r".*\.safetensors\.index(\.[\w-]+)?\.json")
OTHER_SHAPE = re.compile(  # diffusers' message
    r"because (?P<tensor>\S+) expected shape torch\.Size\((?P<config>\[[\d, ]*\])\), "
    r"but got torch\.Size\((?P<weights>\[[\d, ]*\])\)"
)
MOST_REASON = 300  # characters
MOST_JSON = 2**25  # bytes; vocabularies have 1 to 4 million
TRUST = "read the code, and if you trust it, pass --trust-remote-code"


def parts_of(index: Mapping[str, Any], loading: BackboneConfig) -> dict[str, list[str | None]]:
    """[library, class] of each part in a pipeline's index, except parts that are not loaded."""
    left_out = ("_class_name", *NEVER_LOADED, *(() if loading.t5 else T5))
    return {k: v for k, v in index.items() if isinstance(v, list) and k not in left_out}


def check_index(index: Mapping[str, Any], label: str, loading: BackboneConfig) -> None:
    """UserError for a model_index.json of an unknown pipeline class, or with custom code."""
    for part, value in parts_of(index, loading).items():
        if len(value) != 2 or not all(v is None or isinstance(v, str) for v in value):
            raise UserError(f"{label}: {INDEX['backbone']}: {part} must be [library, class], not {quoted(value)}")
        if value[0] not in LIBRARIES and not loading.trust_remote_code:
            raise UserError(f"{label}: its {part} is Python code of its own ({quoted(value[0])}); {TRUST}")
    pipeline_class = index.get("_class_name")
    if isinstance(pipeline_class, list) and not loading.trust_remote_code:
        raise UserError(f"{label}: is a pipeline with Python code of its own ({quoted(pipeline_class[:1])}); {TRUST}")
    if pipeline_class not in tuple(FAMILIES) and not isinstance(
        pipeline_class, list
    ):  # a list: a class of its own, and the user trusts it
        raise UserError(f"{label}: is a {quoted(pipeline_class)}; cpbench personalizes {' and '.join(FAMILIES)}")


def check_pipeline(folder: Path, name: str, loading: BackboneConfig) -> dict[str, Any]:
    """The content of model_index.json. UserError for code, pickled weights and broken files in the pipeline."""
    label = f"backbone {name}"
    index = read_json(folder / INDEX["backbone"], label)
    check_index(index, label, loading)
    parts = {k: v for k, v in parts_of(index, loading).items() if not (k == "vae" and loading.vae)}
    _files_without_code(folder, label, loading)
    # a part without a folder has its files next to the index
    places = [folder / part if os.path.isdir(folder / part) else folder for part, value in parts.items() if value[0]]
    for place in dict.fromkeys(places):
        check_part(place, label, loading)
    return index


def check_part(folder: Path, label: str, loading: BackboneConfig) -> None:
    """UserError for code, pickled weights and broken files in a folder, without its subfolders."""
    files = _files_without_code(folder, label, loading)
    for file in files:
        if file.name == "adapter_config.json":  # transformers would load the model that it names instead
            raise UserError(f"{label}: {file} names another model to load; merge the adapter, and remove it")
        if file.suffix == ".json":
            content = read_json(file, label, mapping=file.name.endswith("config.json"))
            if file.name == "config.json" and "transformers_weights" in content:  # of any name, in place of the usual
                raise UserError(
                    f"{label}: {file} names a file of weights by itself (transformers_weights); take it out"
                )
            if names_code(content) and not loading.trust_remote_code:
                raise UserError(f"{label}: {file} names Python code to run; {TRUST}")
            if SHARDS_INDEX.fullmatch(file.name):
                _check_shards(content, file, label)
        if file.suffix == ".safetensors":
            check_safetensors(file, label)
    pickles = [f for f in files if f.suffix in PICKLES]
    if pickles and not loading.allow_pickle and not any(f.suffix == ".safetensors" for f in files):
        raise UserError(f"{label}: {_pickled(str(pickles[0]))}")


def _files_without_code(folder: Path, label: str, loading: BackboneConfig) -> list[Path]:
    try:
        files = sorted(f for f in folder.iterdir() if not f.name.startswith("."))
    except OSError as error:
        raise UserError(f"{label}: {folder} cannot be read ({error.strerror}); check the folder") from None
    # any of them: diffusers may import unet/diffusers.py in place of the library, and a None.py next to the index
    code = [f for f in files if f.suffix == ".py"]
    if code and not loading.trust_remote_code:
        raise UserError(f"{label}: holds Python code, {code[0]}; {TRUST}, else remove it")
    return files


def names_code(config: Any) -> bool:
    """Whether a config names a Python file, or a kernel of the hub, for itself or a part of it."""
    configs = [config, *config.values()] if isinstance(config, dict) else []
    return any(
        "auto_map" in c or any("/" in str(v) for k, v in c.items() if k.endswith("attn_implementation"))
        for c in configs
        if isinstance(c, dict)
    )


def _pickled(thing: str) -> str:
    return (
        f"{thing} would have to be unpickled, which can run any code that is hidden in it; convert it to safetensors, or, "
        "if you trust where it is from, pass --allow-pickle"
    )


def _check_shards(content: Any, file: Path, label: str) -> None:
    shards = content.get("weight_map") if isinstance(content, dict) else None
    for shard in shards.values() if isinstance(shards, dict) else [None]:
        if not isinstance(shard, str) or "/" in shard or not shard.endswith(".safetensors"):
            raise UserError(f"{label}: {file} must name safetensors in its folder, not {quoted(shard)}; fetch it again")


def check_safetensors(file: Path, label: str) -> None:
    """UserError for an incomplete file; the header has the expected length."""
    from safetensors import SafetensorError, safe_open

    try:
        if not file.is_file():
            raise OSError("it is no file")
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{label}: {file} cannot be read as safetensors ({error}); fetch it again") from None


@contextmanager
def loading(label: str, folder: Path | None = None) -> Iterator[None]:
    """A context that turns the libraries' errors about files into a UserError.

    label: how the message begins, "backbone NAME" or "backbone NAME: its PART"; folder: that of the files, which the
    message names once.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        is_named = folder is None or str(folder) in label or str(folder.parent) in label
        place = "" if is_named else f" from {folder}"
        colon = "" if label.rpartition(": ")[2].startswith("its ") else ":"
        reason = _reason(error, folder)
        raise UserError(f"{label}{colon} cannot be loaded{place} ({reason}); fix it, or fetch it again") from error


def _reason(error: Exception, folder: Path | None) -> str:
    """A library's error in one short line: without advice about the library's own arguments, and without the folder."""
    text = str(error).strip()
    if shapes := OTHER_SHAPE.search(text):
        weights, config = shapes["weights"], shapes["config"]
        return f"{shapes['tensor']} has the shape {weights} in its weights, and {config} by its config.json"
    if "ignore_mismatched_sizes" in text:  # transformers, which prints which ones
        return "tensors have other shapes in its weights than its config.json says"
    line = text.partition("\n")[0]
    for place in () if folder is None else (str(folder.absolute()), str(folder)):
        line = line.replace(f"{place}{os.sep}", "").replace(f" in directory {place}", "").replace(place, "its folder")
    return f"{type(error).__name__}: {line[:MOST_REASON]}"


def read_json(file: Path, label: str, mapping: bool = True) -> Any:
    """A JSON file's content. UserError, which begins with `label`, if it is incomplete, or not a mapping."""
    try:
        if not file.is_file():
            raise OSError("there is no such file")
        if file.stat().st_size > MOST_JSON:
            raise ValueError("it is far too large")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{label}: {file} cannot be read as JSON ({reason}); fetch it again") from None
    if mapping and not isinstance(content, dict):
        raise UserError(f"{label}: {file} must hold a mapping, not {quoted(content)}; fetch it again")
    return content
