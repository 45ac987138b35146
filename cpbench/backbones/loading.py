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
from cpbench.backbones import hub, schedulers, untrusted, vocabulary
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.options import Loading
from cpbench.backbones.untrusted import NEVER_LOADED, PIPELINES, check_part, check_pipeline, parts_of, read_json
from cpbench.errors import UserError, quoted

SMALL = 200_000_000  # weights of a UNet below which bfloat16 saves nothing worth the rounding
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


def load(name: str, device: str = "cpu", loading: Loading | None = None) -> Backbone:
    """A backbone by its built-in name, hub id, or local diffusers folder; see `Loading` for the choices.

    Only safetensors are read and no code is run, unless `loading` says so, and never a safety checker. UserError for what
    cannot be had, is broken, or is no Stable Diffusion.
    """
    torchvision_compat.apply()
    import diffusers
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    chosen, what = loading or Loading(), f"backbone {name}"
    folder, revision = hub.folder_of(name, chosen.revision, loading=chosen)
    index = check_pipeline(folder, name, chosen)
    kind = index["_class_name"]
    if chosen.offload and device == "cpu":
        raise UserError("offload: moves networks off a GPU, and this run is on the CPU; leave out --offload")
    dtype = pick_dtype(chosen.dtype, device, lambda: unet_weights(folder, chosen))
    trusted = {"trust_remote_code": True} if chosen.trust_remote_code else {}
    without: dict[str, Any] = dict.fromkeys(NEVER_LOADED)
    if kind == PIPELINES[1]:
        del without["safety_checker"]
    else:
        without["requires_safety_checker"] = False
    if not chosen.vae and not (folder / "vae").is_dir():
        raise UserError(f"{what}: {folder.absolute() / 'vae'} is missing; fetch it again, or name a --vae")
    weights_hash = hub.hash_folder(folder, chosen)
    vae, vae_hash = load_vae(chosen.vae or str((folder / "vae").absolute()), dtype, chosen, kind == PIPELINES[1])
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
            **without,
            **trusted,
        )
        if not isinstance(pipe, tuple(getattr(diffusers, k) for k in PIPELINES)):
            raise TypeError(f"it is no {' or '.join(PIPELINES)}")
        _refuse_odd(pipe, what)
        pipe.set_progress_bar_config(disable=True)
        step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config.block_out_channels) - 1)
        if chosen.resolution and chosen.resolution % step:
            raise UserError(f"{what}: resolution {chosen.resolution} must be a multiple of {step}")
        if chosen.gradient_checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        if chosen.attention_slicing:
            pipe.enable_attention_slicing()
        backbone = Backbone(pipe, name, device, weights_hash, chosen.resolution, chosen.offload)
        with torch.no_grad():
            backbone.encode_prompts(["a"])  # what is wrong with a tokenizer shows when it is used
    backbone.facts = {"kind": kind, "revision": revision, "safety_checker": False, **chosen.model_dump()}
    return backbone


def load_networks(folder: Path, index: Mapping[str, Any], dtype: torch.dtype, loading: Loading) -> dict[str, nn.Module]:
    """UNet and text encoders of a pipeline's folder, each from the file that its hash is of; not those with code of their own."""
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


def _refuse_odd(pipe: Any, what: str) -> None:
    """TypeError, ValueError or UserError for what the libraries take from files in silence, and fail of when they draw."""

    def number(value: Any) -> bool:
        several = isinstance(value, list | tuple) and len(value) > 0
        return all(map(number, value)) if several else isinstance(value, int | float)

    for part in (pipe.unet, pipe.vae):
        if lacking := [name for name, tensor in part.named_parameters() if tensor.is_meta]:
            raise ValueError(f"the weights of {type(part).__name__} lack {lacking[0]} and {len(lacking) - 1} more")
        for key, declared in inspect.signature(type(part).__init__).parameters.items():
            kind, value = str(declared.annotation), part.config.get(key)
            left_out = value is None and ("None" in kind or "Optional" in kind)
            if ("int" in kind or "float" in kind) and not (number(value) or left_out):
                raise TypeError(f"{key} of {type(part).__name__} must be a number, not {quoted(value)}")
    if (side := pipe.unet.config.sample_size) is not None and (not isinstance(side, int) or side < 1):
        raise TypeError(f"sample_size of its UNet must be a whole number, not {quoted(side)}")
    for suffix in ("", "_2"):
        if (encoder := getattr(pipe, f"text_encoder{suffix}", None)) is not None:
            tokenizer = getattr(pipe, f"tokenizer{suffix}")
            most, longest = encoder.config.max_position_embeddings, tokenizer.model_max_length
            if not isinstance(longest, int) or not 0 < longest <= most:
                raise ValueError(f"model_max_length of its tokenizer{suffix} is not 1 to {most}")
            vocabulary.refuse_unmerged(tokenizer, what)
    _refuse_mismatch(pipe, what)
    schedulers.refuse(pipe.scheduler, what)


def _refuse_mismatch(pipe: Any, what: str) -> None:
    """UserError, in one line, for parts that are whole and do not fit together, and for inputs that no prompt fills."""
    import diffusers

    xl = isinstance(pipe, getattr(diffusers, PIPELINES[1]))
    unet, vae = pipe.unet.config, pipe.vae.config
    needed = ("text_encoder", "tokenizer", *(("text_encoder_2", "tokenizer_2") if xl else ()))
    if lacking := [part for part in needed if getattr(pipe, part, None) is None]:
        raise UserError(
            f"{what}: has no {lacking[0]}; {type(pipe).__name__} draws from prompts with {' and '.join(needed)}"
        )
    latents = vae.latent_channels
    if unet.out_channels == 2 * unet.in_channels:
        raise UserError(
            f"{what}: its UNet predicts a variance beside the noise ({unet.out_channels} channels for {unet.in_channels}); "
            "methods learn the noise alone"
        )
    if unet.in_channels == 2 * latents + 1:
        raise UserError(
            f"{what}: its UNet is for inpainting ({unet.in_channels} input channels, where a latent has {latents}); "
            "take a pipeline that draws from text alone"
        )
    if not unet.in_channels == unet.out_channels == latents:
        raise UserError(
            f"{what}: its VAE's latents have {latents} channels, and its UNet reads {unet.in_channels} and predicts "
            f"{unet.out_channels}; name a --vae that fits"
        )
    for key in ("latents_mean", "latents_std"):
        if (given := vae.get(key)) is not None and (not isinstance(given, list | tuple) or len(given) != latents):
            raise UserError(f"{what}: {key} of its VAE must have {latents} numbers; fetch it again")
    if unet.time_cond_proj_dim is not None:
        raise UserError(
            f"{what}: its UNet takes guidance as an input, as those distilled into a few steps do (time_cond_proj_dim); "
            "methods do not train that; take the model it was distilled from"
        )
    if unet.class_embed_type is not None or unet.num_class_embeds is not None:
        raise UserError(
            f"{what}: its UNet wants a class label beside the words; take a pipeline that draws from text alone"
        )
    if unet.addition_embed_type != ("text_time" if xl else None) or unet.encoder_hid_dim_type is not None:
        given = unet.encoder_hid_dim_type or unet.addition_embed_type
        raise UserError(
            f"{what}: its UNet wants {quoted(given)} beside the words, which {type(pipe).__name__} does not give"
        )
    widths = [pipe.text_encoder.config.hidden_size, *([pipe.text_encoder_2.config.hidden_size] if xl else [])]
    wanted = unet.cross_attention_dim
    if any(width != sum(widths) for width in (wanted if isinstance(wanted, list | tuple) else [wanted])):
        raise UserError(
            f"{what}: its text encoder{'s give' if xl else ' gives'} hidden states of {' + '.join(map(str, widths))}, and its "
            f"UNet reads {wanted}; the parts are of two models"
        )
    if xl:
        given = unet.addition_time_embed_dim * 6 + pipe.text_encoder_2.config.projection_dim
        if given != unet.projection_class_embeddings_input_dim:
            raise UserError(
                f"{what}: its UNet wants {unet.projection_class_embeddings_input_dim} numbers for sizes and the pooled words, "
                f"and its text_encoder_2 makes it {given}; the parts are of two models"
            )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what diffusers prints of odd files, which is said in one line if it matters."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def pick_dtype(wanted: str, device: str, weights: Callable[[], int]) -> torch.dtype:
    """The precision asked for. "auto" is bfloat16 for a UNet of `SMALL` weights or more on a CUDA device that has it (and
    does not only emulate it), else float32: so a small model's scores are those of a CPU. `weights` is called if it matters.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    on_cuda = device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if on_cuda and weights() >= SMALL else torch.float32


def dtype_of(name: str, device: str, loading: Loading) -> torch.dtype:
    """The precision in which `load` would load a backbone's networks, which it does not load."""
    return pick_dtype(
        loading.dtype, device, lambda: unet_weights(hub.folder_of(name, loading.revision, loading=loading)[0], loading)
    )


def unet_weights(folder: Path, loading: Loading) -> int:
    """How many weights a pipeline's UNet has: by the headers of its safetensors, or, of a pickle, by its config."""
    place = folder / "unet" if (folder / "unet").is_dir() else folder
    there = [f.name for f in place.iterdir()]
    inner = "unet/" if place != folder else ""
    files = hub.files_of_network(inner, "unet", there, f"backbone {folder}", folder, loading)
    kept = [folder / f for f in files if f.endswith(".safetensors")]
    if kept:
        return sum(hub.weights_in(file) for file in kept)
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(place))
    return sum(p.numel() for p in unet.parameters())


def load_vae(name: str, dtype: torch.dtype, loading: Loading | None = None, xl: bool = False) -> tuple[nn.Module, str]:
    """An autoencoder by hub id or folder, usual or tiny (TAESD's kind), and its hash.

    One that overflows in half precision, as SDXL's, says so in its config (force_upcast), and is loaded in float32. `xl`: it
    is for SDXL, whose pipeline takes the usual kind for such a one if the config is silent.
    """
    import diffusers

    chosen = loading or Loading()
    folder, _ = hub.folder_of(name, None, "vae", chosen)
    check_part(folder, f"vae {name}", chosen)
    config = read_json(folder / untrusted.INDEX["vae"], f"vae {name}")
    if (kind := config.get("_class_name")) not in AUTOENCODERS:
        raise UserError(f"vae {name}: is a {quoted(kind)}; one of {', '.join(AUTOENCODERS)} is needed")
    with _quietly(), untrusted.loading(f"vae {name}: {folder}"):
        vae = getattr(diffusers, kind).from_pretrained(
            folder,
            torch_dtype=torch.float32 if config.get("force_upcast", xl and kind == AUTOENCODERS[0]) else dtype,
            local_files_only=True,
            use_safetensors=None if chosen.allow_pickle else True,
            variant=hub.variant_of("vae", [f.name for f in folder.iterdir()], f"vae {name}", folder, chosen)[0],
        )
    return vae, hub.hash_folder(folder, chosen)
