"""The second miniature as a folder that diffusers loads: its own denoiser, and the first's autoencoder and text encoder.

The package has the autoencoder and the text encoder once. In Stable Diffusion 3's format the text encoder stands there
twice, with a projection, which is the identity. What is written depends on the given files alone, so that its hash is
the same everywhere.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from cpbench import remembered
from cpbench.files import file_hash, read_json, write_json

PARTS = {
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": [None, None],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SCHEDULER = {"num_train_timesteps": 1000, "shift": 3.0}
SOURCES = ("transformer", "vae", "text_encoder", "tokenizer")  # below the weights' folder


@functools.cache
def assembled(weights: Path) -> Path:
    """The pipeline's folder, put together at its first use: in the user's cache, or without one for this process alone.

    weights: the first miniature's folder, with the transformer in it.
    """
    if base := remembered.folder():
        try:
            return _in_cache(weights, base / "miniature-flow")
        except OSError:  # nothing depends on the cache
            pass
    temporary = Path(tempfile.mkdtemp(prefix="cpbench-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    write(weights, weights / "transformer", temporary / "miniature-flow")
    return temporary / "miniature-flow"


def _in_cache(weights: Path, base: Path) -> Path:
    key = _key(weights)
    folder, listed = base / key, base / f"{key}.json"
    base.mkdir(parents=True, exist_ok=True)
    with FileLock(base / "assembly.lock"):  # the runs of a sweep begin together
        sizes = read_json(listed)
        if sizes is None or sizes != _sizes(folder):  # it is new, or something has cleaned the cache in part
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=base) as work:
                write(weights, weights / "transformer", Path(work) / "pipeline")
                (Path(work) / "pipeline").rename(folder)
            write_json(listed, _sizes(folder))
    return folder


def _key(weights: Path) -> str:
    """A name for what this file writes of these weights."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(f for part in SOURCES for f in (weights / part).rglob("*") if f.is_file()):
        digest.update(f"{file.relative_to(weights).as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()[:16]


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files in a folder, by their names below it."""
    return {f.relative_to(folder).as_posix(): f.stat().st_size for f in folder.rglob("*") if f.is_file()}


def write(weights: Path, transformer: Path, folder: Path, shift: float = SCHEDULER["shift"]) -> None:
    """Write the pipeline into `folder`, which must not exist.

    weights: the first miniature's folder. transformer: the folder of the denoiser.
    """
    folder.mkdir(parents=True)
    _write_json(folder / "model_index.json", {"_class_name": "StableDiffusion3Pipeline", **PARTS})
    scheduler = {"_class_name": PARTS["scheduler"][1], **SCHEDULER, "shift": shift}
    _write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    shutil.copytree(transformer, folder / "transformer")
    shutil.copytree(weights / "vae", folder / "vae")
    vae = json.loads((weights / "vae" / "config.json").read_text())
    _write_json(folder / "vae" / "config.json", vae | {"shift_factor": 0.0})  # the pipeline subtracts it
    for number in ("", "_2"):
        shutil.copytree(weights / "tokenizer", folder / f"tokenizer{number}")
        _write_text_encoder(weights / "text_encoder", folder / f"text_encoder{number}")


def _write_text_encoder(source: Path, target: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    config = json.loads((source / "config.json").read_text())
    tensors = load_file(source / "model.safetensors")
    prefix = "" if any(name.startswith("text_model.") for name in tensors) else "text_model."
    tensors = {f"{prefix}{name}": tensor for name, tensor in tensors.items()}
    tensors["text_projection.weight"] = torch.eye(config["hidden_size"], dtype=torch.float16)
    changed = {"architectures": [PARTS["text_encoder"][1]], "projection_dim": config["hidden_size"]}
    _write_json(target / "config.json", config | changed)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _write_json(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")
