"""A backbone from its files: what is loaded, in which precision, and what is refused."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpbench import torchvision_compat
from cpbench.backbones import hub, processes, untrusted, vocabulary
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.families import FAMILIES, family_named, family_of
from cpbench.backbones.families.family import Family
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.untrusted import check_part, check_pipeline, parts_of, read_json
from cpbench.errors import UserError, quoted

SMALL = 200_000_000  # weights of a denoiser below which bfloat16 saves nothing worth the rounding
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


def load(name: str, device: str = "cpu", loading: BackboneConfig | None = None) -> Backbone:
    """A backbone by its built-in name, hub id, or local diffusers folder; see `Loading` for the choices.

    Only safetensors are read and no code is run, unless `loading` says so, and never a safety checker. UserError for what
    cannot be had, is broken, or is of no family.
    """
    torchvision_compat.apply()
    import diffusers
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    chosen, what = loading or BackboneConfig(), f"backbone {name}"
    folder, revision = hub.folder_of(name, chosen.revision, loading=chosen)
    index = check_pipeline(folder, name, chosen)
    kind = index["_class_name"]
    if chosen.offload and device == "cpu":
        raise UserError("offload: moves networks off a GPU, and this run is on the CPU; leave out --offload")
    family = family_in(index)
    dtype = pick_dtype(chosen.dtype, device, lambda: denoiser_weights(folder, index, chosen))
    trusted = {"trust_remote_code": True} if chosen.trust_remote_code else {}
    if not chosen.vae and not (folder / "vae").is_dir():
        raise UserError(f"{what}: {folder.absolute() / 'vae'} is missing; fetch it again, or name a --vae")
    weights_hash = hub.hash_folder(folder, chosen)
    vae, vae_hash = load_vae(chosen.vae or str((folder / "vae").absolute()), dtype, chosen, family.float32_vae)
    if chosen.vae:
        weights_hash = hashlib.sha256(f"{weights_hash} {vae_hash}".encode()).hexdigest()
    with _quietly(), untrusted.loading(f"{what}: {folder}"):
        pipe = getattr(diffusers, kind if isinstance(kind, str) else "DiffusionPipeline").from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=None if chosen.allow_pickle else True,
            vae=vae,
            **load_networks(folder, index, dtype, chosen),
            **family.unread,
            **trusted,
        )
        known = family_of(pipe)
        _refuse_odd(pipe, known, what)
        pipe.set_progress_bar_config(disable=True)
        step = pipe.vae_scale_factor * known.smallest_side
        if chosen.resolution and chosen.resolution % step:
            raise UserError(f"{what}: resolution {chosen.resolution} must be a multiple of {step}")
        if chosen.gradient_checkpointing:
            getattr(pipe, family.denoiser).enable_gradient_checkpointing()
        if chosen.attention_slicing:
            pipe.enable_attention_slicing()
        backbone = Backbone(pipe, name, device, weights_hash, chosen.resolution, chosen.offload)
        with torch.no_grad():
            backbone.encode_prompts(["a"])  # what is wrong with a tokenizer shows when it is used
    backbone.facts = {"kind": kind, "revision": revision, "safety_checker": False, **chosen.model_dump()}
    return backbone


def load_networks(
    folder: Path, index: Mapping[str, Any], dtype: torch.dtype, loading: BackboneConfig
) -> dict[str, nn.Module]:
    """Denoiser and text encoders of a pipeline's folder, each from the file that its hash is of; not those with code of their own."""
    import diffusers
    import transformers

    found = {}
    for part, (library, kind) in parts_of(index).items():
        place = folder / part if (folder / part).is_dir() else folder
        if part in hub.NETWORKS and part != "vae" and library in ("diffusers", "transformers"):
            variant, _ = hub.variant_of(part, [f.name for f in place.iterdir()], f"backbone {folder}", folder, loading)
            found[part] = getattr(diffusers if library == "diffusers" else transformers, kind).from_pretrained(
                place,
                torch_dtype=dtype,
                local_files_only=True,
                use_safetensors=None if loading.allow_pickle else True,
                variant=variant,
            )
    return found


def family_in(index: Mapping[str, Any]) -> type[Family]:
    """The family that model_index.json names; the first one for a class of its own, which is told apart once it is loaded."""
    kind = index["_class_name"]
    return family_named(kind if isinstance(kind, str) else next(iter(FAMILIES)))


def _refuse_odd(pipe: Any, family: Family, what: str) -> None:
    """TypeError, ValueError or UserError for what the libraries take from files in silence, and fail of when they draw."""

    def number(value: Any) -> bool:
        several = isinstance(value, list | tuple) and len(value) > 0
        return all(map(number, value)) if several else isinstance(value, int | float)

    denoiser = getattr(pipe, family.denoiser)
    for part in (denoiser, pipe.vae):
        if lacking := [name for name, tensor in part.named_parameters() if tensor.is_meta]:
            raise ValueError(f"the weights of {type(part).__name__} lack {lacking[0]} and {len(lacking) - 1} more")
        for key, declared in inspect.signature(type(part).__init__).parameters.items():
            kind, value = str(declared.annotation), part.config.get(key)
            left_out = value is None and ("None" in kind or "Optional" in kind)
            if ("int" in kind or "float" in kind) and not (number(value) or left_out):
                raise TypeError(f"{key} of {type(part).__name__} must be a number, not {quoted(value)}")
    if (side := denoiser.config.sample_size) is not None and (not isinstance(side, int) or side < 1):
        raise TypeError(f"sample_size of its {family.denoiser} must be a whole number, not {quoted(side)}")
    for name in family.tokenizers:
        if (encoder := getattr(pipe, vocabulary.encoder_name(name), None)) is not None:
            tokenizer = getattr(pipe, name)
            most, longest = encoder.config.max_position_embeddings, tokenizer.model_max_length
            if not isinstance(longest, int) or not 0 < longest <= most:
                raise ValueError(f"model_max_length of its {name} is not 1 to {most}")
            vocabulary.refuse_unmerged(tokenizer, what)
    family.refuse_mismatch(what)
    processes.refuse(pipe.scheduler, what)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the libraries print of odd files, which is said in one line if it matters."""
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    libraries = (logging, transformers_logging)
    before = [it.get_verbosity() for it in libraries]
    try:
        for library in libraries:
            library.set_verbosity(library.CRITICAL)
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)


def pick_dtype(wanted: str, device: str, weights: Callable[[], int]) -> torch.dtype:
    """The precision asked for. "auto" is bfloat16 for a denoiser of `SMALL` weights or more on a CUDA device that has it (and
    does not only emulate it), else float32: so a small model's scores are those of a CPU. `weights` is called if it matters.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    on_cuda = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if on_cuda and weights() >= SMALL else torch.float32


def dtype_of(name: str, device: str, loading: BackboneConfig) -> torch.dtype:
    """The precision in which `load` would load a backbone's networks, which it does not load."""

    def weights() -> int:
        folder, _ = hub.folder_of(name, loading.revision, loading=loading)
        index = read_json(folder / untrusted.INDEX["backbone"], f"backbone {name}")
        return denoiser_weights(folder, index, loading)

    return pick_dtype(loading.dtype, device, weights)


def denoiser_weights(folder: Path, index: Mapping[str, Any], loading: BackboneConfig) -> int:
    """How many weights a pipeline's denoiser has: by the headers of its safetensors, or, of a pickle, by its config."""
    family = family_in(index)
    part = family.denoiser
    place = folder / part if (folder / part).is_dir() else folder
    there = [f.name for f in place.iterdir()]
    inner = f"{part}/" if place != folder else ""
    files = hub.files_of_network(inner, part, there, f"backbone {folder}", folder, loading)
    kept = [folder / f for f in files if f.endswith(".safetensors")]
    if kept:
        return sum(hub.weights_in(file) for file in kept)
    import diffusers

    kind = getattr(diffusers, family.denoiser_class)
    with torch.device("meta"):
        denoiser = kind.from_config(kind.load_config(place))
    return sum(p.numel() for p in denoiser.parameters())


def load_vae(
    name: str, dtype: torch.dtype, loading: BackboneConfig | None = None, in_float32: bool = False
) -> tuple[nn.Module, str]:
    """An autoencoder by hub id or folder, usual or tiny (TAESD's kind), and its hash.

    One that overflows in half precision, as SDXL's, says so in its config (force_upcast), and is loaded in float32.
    in_float32: so is the usual kind if its config is silent (see `Family.float32_vae`).
    """
    import diffusers

    chosen = loading or BackboneConfig()
    folder, _ = hub.folder_of(name, None, "vae", chosen)
    check_part(folder, f"vae {name}", chosen)
    config = read_json(folder / untrusted.INDEX["vae"], f"vae {name}")
    if (kind := config.get("_class_name")) not in AUTOENCODERS:
        raise UserError(f"vae {name}: is a {quoted(kind)}; one of {', '.join(AUTOENCODERS)} is needed")
    with _quietly(), untrusted.loading(f"vae {name}: {folder}"):
        vae = getattr(diffusers, kind).from_pretrained(
            folder,
            torch_dtype=torch.float32 if config.get("force_upcast", in_float32 and kind == AUTOENCODERS[0]) else dtype,
            local_files_only=True,
            use_safetensors=None if chosen.allow_pickle else True,
            variant=hub.variant_of("vae", [f.name for f in folder.iterdir()], f"vae {name}", folder, chosen)[0],
        )
    return vae, hub.hash_folder(folder, chosen)
