"""Load a backbone from its files: which networks, in which precision, and what is refused."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cpbench import torchvision_compat
from cpbench.backbones import hub, processes, untrusted, vocabulary
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.cpu_memory import keep_freed_blocks
from cpbench.backbones.families import FAMILIES, family_named, family_of
from cpbench.backbones.families.family import Family
from cpbench.backbones.options import BackboneConfig
from cpbench.backbones.quantization import quantize
from cpbench.backbones.untrusted import check_part, check_pipeline, parts_of, read_json
from cpbench.errors import UserError, quoted
from cpbench.output import say

SMALL = 200_000_000  # weights of a denoiser; below this, bfloat16 saves too little for its rounding
FIRST_WITH_BFLOAT16 = (8, 0)  # CUDA's compute capability of Ampere
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderDC")


def load(name: str, device: str = "cpu", loading: BackboneConfig | None = None) -> Backbone:
    """Load a backbone by its built-in name, hub id or local diffusers folder. loading: see `BackboneConfig`.

    By default only safetensors are read and no code is run; a safety checker is never loaded. UserError for a backbone
    that is missing, broken, or of an unknown family.
    """
    torchvision_compat.apply()
    import diffusers
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    config, label = loading or BackboneConfig(), f"backbone {name}"
    folder, revision = hub.folder_of(name, config.revision, loading=config)
    index = check_pipeline(folder, name, config)
    pipeline_class = index["_class_name"]
    if config.offload and device == "cpu":
        raise UserError("offload: moves networks off a GPU, and this run is on the CPU; leave out --offload")
    if torch.device(device).type == "cpu":
        keep_freed_blocks()
    family = family_in(index)
    if config.t5 and not all((index.get(part) or [None])[0] and part in family.unread for part in untrusted.T5):
        raise UserError(f"{label}: has no third text encoder; leave out --t5")
    dtype = pick_dtype(config.dtype, device, lambda: denoiser_weights(folder, index, config))
    trusted = {"trust_remote_code": True} if config.trust_remote_code else {}
    if not config.vae and not (folder / "vae").is_dir():
        raise UserError(f"{label}: {folder.absolute() / 'vae'} is missing; fetch it again, or pass a --vae")
    weights_hash = hub.hash_folder(folder, config)
    _refuse_unknown_classes(index, config, label)
    vae_label = f"vae {config.vae}" if config.vae else f"{label}: its vae"
    vae_name = config.vae or str((folder / "vae").absolute())
    vae, vae_hash = load_vae(vae_name, dtype, config, family.float32_vae, vae_label)
    if config.vae:
        weights_hash = hashlib.sha256(f"{weights_hash} {vae_hash}".encode()).hexdigest()
    networks = load_networks(folder, index, dtype, config, label)
    with _quietly() as library_warnings, untrusted.loading(label, folder):
        pipe = getattr(
            diffusers, pipeline_class if isinstance(pipeline_class, str) else "DiffusionPipeline"
        ).from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=None if config.allow_pickle else True,
            vae=vae,
            **networks,
            **{part: None for part in family.unread if not (config.t5 and part in untrusted.T5)},
            **trusted,
        )
        loaded_family = family_of(pipe)
        _refuse_odd(pipe, loaded_family, label, vae_label, config.resolution)
        pipe.set_progress_bar_config(disable=True)
        step = pipe.vae_scale_factor * loaded_family.smallest_side
        if config.resolution and config.resolution % step:
            raise UserError(f"{label}: resolution {config.resolution} must be a multiple of {step}")
        if config.gradient_checkpointing:
            getattr(pipe, family.denoiser).enable_gradient_checkpointing()
        if config.attention_slicing:
            pipe.enable_attention_slicing()
        instructed = config.instruction == "default"
        if not instructed:
            if not hasattr(loaded_family, "instruct"):
                raise UserError(
                    f"{label}: {pipeline_class} has no instruction before its prompts; leave out --instruction"
                )
            weights_hash = hashlib.sha256(f"{weights_hash} without instruction".encode()).hexdigest()
        quantize(getattr(pipe, family.denoiser), config.quantization)
        for tokenizer in loaded_family.tokenizers:
            quantize(getattr(pipe, vocabulary.encoder_name(tokenizer)), config.text_encoder_quantization)
        if config.few_bits:
            weights_hash = hashlib.sha256(f"{weights_hash} with {config.few_bits}".encode()).hexdigest()
        backbone = Backbone(pipe, name, device, weights_hash, config.resolution, config.offload, instructed)
        with torch.no_grad():
            backbone.encode_prompts(["a"])  # errors of a tokenizer appear on use
    for note in old_settings(library_warnings, folder):
        say(f"note: {label}: {note}")
    backbone.facts = {"kind": pipeline_class, "revision": revision, "safety_checker": False, **config.model_dump()}
    return backbone


def load_networks(
    folder: Path, index: Mapping[str, Any], dtype: torch.dtype, loading: BackboneConfig, label: str
) -> dict[str, nn.Module]:
    """Denoiser and text encoders in a pipeline's folder, each from the hashed file; not parts with custom code.

    label: how the message of an error begins.
    """
    import diffusers
    import transformers

    networks = {}
    for part, (library, class_name) in parts_of(index, loading).items():
        place = folder / part if (folder / part).is_dir() else folder
        if part in hub.NETWORKS and part != "vae" and library in ("diffusers", "transformers"):
            variant, _ = hub.variant_of(part, [f.name for f in place.iterdir()], label, folder, loading)
            network_class = getattr(diffusers if library == "diffusers" else transformers, class_name)
            with _quietly(), untrusted.loading(f"{label}: its {part}", place):
                networks[part] = network_class.from_pretrained(
                    place,
                    torch_dtype=dtype,
                    local_files_only=True,
                    use_safetensors=None if loading.allow_pickle else True,
                    variant=variant,
                )
    return networks


def _refuse_unknown_classes(index: Mapping[str, Any], loading: BackboneConfig, label: str) -> None:
    """UserError for a part of a class that the installed library does not have."""
    for part, (library, class_name) in parts_of(index, loading).items():
        if library not in ("diffusers", "transformers") or (part == "vae" and loading.vae):
            continue
        module = importlib.import_module(library)
        if not class_name or not hasattr(module, class_name):
            hint = "name another one there, such as DDIMScheduler" if part == "scheduler" else "correct that file"
            raise UserError(
                f"{label}: its {part} is a {quoted(class_name)} by model_index.json, and {library} {module.__version__} has no "
                f"such class; {hint}, or upgrade {library}"
            )


def family_in(index: Mapping[str, Any]) -> type[Family]:
    """The family that model_index.json names; for a custom class the first one, until the loaded class is known."""
    pipeline_class = index["_class_name"]
    return family_named(pipeline_class if isinstance(pipeline_class, str) else next(iter(FAMILIES)))


def _refuse_odd(pipe: Any, family: Family, label: str, vae_label: str, resolution: int | None) -> None:
    """ValueError or UserError for file contents that the libraries load silently and that fail in sampling.

    label, vae_label: how messages about the pipeline and about its autoencoder begin.
    """

    def number(value: Any) -> bool:
        several = isinstance(value, list | tuple) and len(value) > 0
        if several:  # one of several lists may be empty, as that of a level without multiscale attention
            return all(number(item) or item in ([], ()) for item in value)
        return isinstance(value, int | float)

    denoiser = getattr(pipe, family.denoiser)
    for part, place in ((denoiser, f"{label}: its {family.denoiser}"), (pipe.vae, vae_label)):
        if unloaded := [name for name, tensor in part.named_parameters() if tensor.is_meta]:
            more = f" and {len(unloaded) - 1} more" if len(unloaded) > 1 else ""
            raise UserError(
                f"{place} lacks weights that its config.json asks for: {unloaded[0]}{more}; they are of two models; fetch it again"
            )
        for key, declared in inspect.signature(type(part).__init__).parameters.items():
            annotation, value = str(declared.annotation), part.config.get(key)
            is_empty = isinstance(value, list | tuple) and isinstance(declared.default, tuple) and not declared.default
            left_out = value is None and ("None" in annotation or "Optional" in annotation) or (is_empty and not value)
            if ("int" in annotation or "float" in annotation) and not (number(value) or left_out):
                raise UserError(
                    f"{place} has {key} {quoted(value)} in its config.json, which must be a number; fetch it again"
                )
    side = denoiser.config.get("sample_size")
    has_side = "sample_size" in inspect.signature(type(denoiser).__init__).parameters
    if has_side and not (type(side) is int and side > 0) and resolution is None:
        raise UserError(
            f"{label}: sample_size of its {family.denoiser} is {json.dumps(side)[:40]} in config.json, so the size of its "
            "pictures is not known; pass it with --resolution (in pixels), or write the side of a latent there"
        )
    for name in family.tokenizers:
        if (encoder := getattr(pipe, vocabulary.encoder_name(name), None)) is not None:
            tokenizer = getattr(pipe, name)
            if not vocabulary.is_clip(encoder):
                continue  # its positions are relative, and the family says how long a prompt is
            positions, longest = encoder.config.max_position_embeddings, tokenizer.model_max_length
            if not isinstance(longest, int) or not 0 < longest <= positions:
                raise ValueError(f"model_max_length of its {name} is not 1 to {positions}")
            vocabulary.refuse_unmerged(tokenizer, label)
    family.refuse_mismatch(label)
    processes.refuse(pipe.scheduler, label, family.density)


def old_settings(library_warnings: Iterable[warnings.WarningMessage], folder: Path) -> Iterator[str]:
    """A line per setting of an old pipeline that diffusers replaces when it loads it. library_warnings: Python's, of loading it."""
    texts = [str(warning.message) for warning in library_warnings]
    for key, used, file in (
        ("steps_offset", 1, "scheduler/scheduler_config.json"),
        ("clip_sample", False, "scheduler/scheduler_config.json"),
        ("sample_size", 64, "unet/config.json"),
    ):
        if any(f"`{key}`" in text and "configuration file" in text for text in texts):
            place = folder / file if (folder / file).is_file() else folder / Path(file).name
            value = read_json(place, "backbone").get(key)
            yield (
                f"diffusers takes {key} for {json.dumps(used)}, not {json.dumps(value)}, since {file} is of an old version; "
                f"write {json.dumps(used)} there if that is right"
            )


@contextmanager
def _quietly() -> Iterator[list[warnings.WarningMessage]]:
    """A context that silences the libraries' messages about unusual files; cpbench reports what matters.

    Returns Python's warnings in it, which are not shown.
    """
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    libraries = (logging, transformers_logging)
    before = [module.get_verbosity() for module in libraries]
    try:
        for library in libraries:
            library.set_verbosity(library.CRITICAL)
        with warnings.catch_warnings(record=True) as library_warnings:
            warnings.simplefilter("always")
            yield library_warnings
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)


def pick_dtype(dtype: str, device: str, weights: Callable[[], int]) -> torch.dtype:
    """The precision for a setting. "auto" is bfloat16 for a denoiser of `SMALL` weights or more on a CUDA device that supports
    it without emulation, else float32, so that a small model has the same scores as on a CPU. weights: returns the
    number of weights; called only if needed.
    """
    if dtype != "auto":
        return getattr(torch, dtype)
    computes = device.startswith("cuda") and computes_bfloat16(device)
    return torch.bfloat16 if computes and weights() >= SMALL else torch.float32


def computes_bfloat16(device: str) -> bool:
    """Whether this CUDA device computes in bfloat16 itself. Older ones, such as T4 and V100, emulate it, which is slow."""
    if torch.version.hip:
        return torch.cuda.is_bf16_supported()
    return torch.cuda.get_device_capability(device) >= FIRST_WITH_BFLOAT16


def dtype_of(name: str, device: str, loading: BackboneConfig) -> torch.dtype:
    """The precision in which `load` would load a backbone's networks, without loading them."""

    def weights() -> int:
        folder, _ = hub.folder_of(name, loading.revision, loading=loading)
        index = read_json(folder / untrusted.INDEX["backbone"], f"backbone {name}")
        return denoiser_weights(folder, index, loading)

    return pick_dtype(loading.dtype, device, weights)


def denoiser_weights(folder: Path, index: Mapping[str, Any], loading: BackboneConfig) -> int:
    """Number of weights of a pipeline's denoiser, from the headers of its safetensors, or for a pickle from its config."""
    family = family_in(index)
    part = family.denoiser
    place = folder / part if (folder / part).is_dir() else folder
    names = [f.name for f in place.iterdir()]
    inner = f"{part}/" if place != folder else ""
    files = hub.files_of_network(inner, part, names, f"backbone {folder}", folder, loading)
    safetensors = [folder / f for f in files if f.endswith(".safetensors")]
    if safetensors:
        return sum(hub.weights_in(file) for file in safetensors)
    import diffusers

    denoiser_class = getattr(diffusers, family.denoiser_class)
    with torch.device("meta"):
        denoiser = denoiser_class.from_config(denoiser_class.load_config(place))
    return sum(p.numel() for p in denoiser.parameters())


def load_vae(
    name: str,
    dtype: torch.dtype,
    loading: BackboneConfig | None = None,
    in_float32: bool = False,
    label: str | None = None,
) -> tuple[nn.Module, str]:
    """An autoencoder, usual or tiny (TAESD), by hub id or folder, and its hash. label: how the message of an error begins.

    It is loaded in float32 if its config has force_upcast, as SDXL's has, since it overflows in half precision.
    in_float32: the default of force_upcast for the usual class (see `Family.float32_vae`).
    """
    import diffusers

    config, label = loading or BackboneConfig(), label or f"vae {name}"
    folder, _ = hub.folder_of(name, None, "vae", config)
    check_part(folder, label, config)
    vae_config = read_json(folder / untrusted.INDEX["vae"], label)
    if (class_name := vae_config.get("_class_name")) not in AUTOENCODERS:
        raise UserError(
            f"{label} is a {quoted(class_name)}; one of {', '.join(AUTOENCODERS)} is needed; pass one with --vae"
        )
    variant, _ = hub.variant_of("vae", [f.name for f in folder.iterdir()], label, folder, config)
    with _quietly(), untrusted.loading(label, folder):
        vae = getattr(diffusers, class_name).from_pretrained(
            folder,
            torch_dtype=torch.float32
            if vae_config.get("force_upcast", in_float32 and class_name == AUTOENCODERS[0])
            else dtype,
            local_files_only=True,
            use_safetensors=None if config.allow_pickle else True,
            variant=variant,
        )
    return vae, hub.hash_folder(folder, config)
