"""Published judges, from the hub or a file: OpenAI's CLIP by open_clip, Meta's DINO and DINOv2 by timm.

CLIP is loaded into open_clip's "-quickgelu" architectures: OpenAI trained with that activation, and the plain ones
would silently accept the same weights and score every picture wrongly. DINO is Caron et al. 2021's ViT-S/16, whose class
token DreamBooth (Ruiz et al. 2023) introduced as the measure of identity; DINOv2 (Oquab et al. 2023) is an option.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpbench import torchvision_compat
from cpbench.backbones import hub
from cpbench.backbones.untrusted import PICKLES, check_safetensors, loading, read_json
from cpbench.errors import UserError, did_you_mean
from cpbench.judges.judge import (
    CLASS_TOKEN,
    PAIR_RULE,
    TEXT_RULE,
    Judge,
    Preprocessing,
    changed_preprocessing,
    open_clip_preprocessing,
    timm_preprocessing,
    tokenizer_hash,
)

CLIP = Preprocessing(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Published:
    """One published encoder: its architecture, the place of its weights, and a weight whose shape identifies the architecture."""

    judge_type: str  # clip or dino
    architecture: str
    repository: str
    file: str
    preprocessing: Preprocessing
    known_by: str
    shape: tuple[int, ...]


PUBLISHED = {
    "clip-vit-b-32": Published(
        "clip",
        "ViT-B-32-quickgelu",
        "timm/vit_base_patch32_clip_224.openai",
        "open_clip_model.safetensors",
        CLIP,
        "visual.conv1.weight",
        (768, 3, 32, 32),
    ),
    "clip-vit-l-14": Published(
        "clip",
        "ViT-L-14-quickgelu",
        "timm/vit_large_patch14_clip_224.openai",
        "open_clip_model.safetensors",
        CLIP,
        "visual.conv1.weight",
        (1024, 3, 14, 14),
    ),
    "dino-vit-s-16": Published(
        "dino",
        "vit_small_patch16_224.dino",
        "timm/vit_small_patch16_224.dino",
        "model.safetensors",
        DINO,
        "patch_embed.proj.weight",
        (384, 3, 16, 16),
    ),
    "dinov2-vit-s-14": Published(
        "dino",
        "vit_small_patch14_dinov2.lvd142m",
        "timm/vit_small_patch14_dinov2.lvd142m",
        "model.safetensors",
        DINO,
        "patch_embed.proj.weight",
        (384, 3, 14, 14),
    ),
}
FORMAT = {"clip": "open_clip", "dino": "timm"}
RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, as in transformers' configs
USUAL = {"clip": "clip-vit-b-32", "dino": "dino-vit-s-16"}  # as in DreamBooth


def of_type(judge_type: str) -> dict[str, Published]:
    return {name: p for name, p in PUBLISHED.items() if p.judge_type == judge_type}


def load(
    judge_type: str,
    name_or_file: str,
    device: str = "cpu",
    preprocessing: str | None = None,
    activation: str | None = None,
) -> Judge:
    """A judge, by its published name or from a safetensors file in a published architecture.

    A file is the published judge if it equals the one in the hub's cache; otherwise its weights are unknown.
    preprocessing: changes to the judge's own, see `identity.preprocessing_settings`; activation: gelu or quickgelu, for
    unknown CLIP weights without a config. UserError if there is no such name or file, the file does not fit, or the hub
    cannot be reached.
    """
    path = Path(os.path.expanduser(name_or_file))
    if path.suffix in PICKLES:
        raise UserError(
            f"judge {name_or_file}: pickled weights can run any code when they are loaded; convert them to .safetensors and pass that file"
        )
    if path.suffix == ".safetensors":
        name, shapes = _likely(judge_type, path)
        weights = hub.file_hash(path)
        revision = next((r for r, blob in cached(name) if hub.file_hash(blob) == weights), None)
        if revision is None:
            _check_shapes(name, shapes, path)
            return _unknown(name, path, weights, device, preprocessing, activation)
        source = f"a file equal to that of {PUBLISHED[name].repository}, revision {revision}"
    elif name_or_file in of_type(judge_type):
        name, path = name_or_file, _download(name_or_file)
        weights, source = hub.file_hash(path), f"{PUBLISHED[name_or_file].repository}, revision {path.parent.name}"
    else:
        raise did_you_mean(
            name_or_file,
            of_type(judge_type),
            f"{judge_type} judge",
            "You can also pass a .safetensors file or a judge's folder.",
        )
    judge = PUBLISHED[name]
    if judge_type == "clip" and activation == "gelu":
        raise UserError(f"--clip-activation gelu: {name} was trained with quickgelu; leave it out")
    facts = {"model": f"{name} ({judge.architecture})", "source": source, "preprocessing_from": "as published"}
    return _judge(judge, judge.architecture, path, weights, judge.preprocessing, preprocessing, facts, device)


def cached(name: str) -> list[tuple[str, Path]]:
    """(revision, file) of a published judge's weights, for each revision in the hub's cache."""
    from huggingface_hub import constants

    judge = PUBLISHED[name]
    folder = Path(constants.HF_HUB_CACHE, f"models--{judge.repository.replace('/', '--')}", "snapshots")
    return [(file.parent.name, file) for file in sorted(folder.glob(f"*/{judge.file}")) if file.is_file()]


Shapes = dict[str, tuple[int, ...]]  # of weights, by their names


def _likely(judge_type: str, path: Path) -> tuple[str, Shapes]:
    """(name of the published judge whose architecture these weights may have, their shapes)."""
    from safetensors import safe_open

    if not os.path.isfile(path):
        raise UserError(f"judge {path}: there is no such file; check the path")
    check_safetensors(path, "judge")
    with safe_open(path, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    for name, judge in of_type(judge_type).items():
        if shapes.get(judge.known_by) == judge.shape:
            return name, shapes
    raise UserError(
        f"judge {path}: its architecture is not that of a known {judge_type} judge ({', '.join(of_type(judge_type))}); pass one of these"
    )


def _check_shapes(name: str, shapes: Shapes, path: Path) -> None:
    """UserError unless the weights have exactly the names and shapes of the architecture."""
    needed, judge_type = _shapes(name), PUBLISHED[name].judge_type
    for key in sorted(needed.keys() | shapes.keys()):
        has, wants = shapes.get(key), needed.get(key)
        # timm interpolates positions (1, 1 + n * n, width) to other numbers of patches
        other_size = key == "pos_embed" and has and len(has) == 3 and has[-1] == wants[-1] and _is_grid(has[1] - 1)
        if has == wants or other_size:
            continue
        problem = "is not part of it" if wants is None else "is missing" if has is None else f"is {has}, not {wants}"
        raise UserError(
            f"judge {path}: does not fit the architecture of {name}: {key} {problem}; "
            f"pass a folder in {FORMAT[judge_type]}'s format with a config"
        )


def _is_grid(patches: int) -> bool:
    return patches > 0 and math.isqrt(patches) ** 2 == patches


def _shapes(name: str) -> Shapes:
    """The shapes of an architecture's weights by name, without allocating them."""
    import torch

    torchvision_compat.apply()
    judge = PUBLISHED[name]
    with torch.device("meta"):
        if judge.judge_type == "clip":
            import open_clip

            model = open_clip.create_model(judge.architecture, load_weights=False, device="meta")
        else:
            import timm

            model = timm.create_model(judge.architecture, pretrained=False, num_classes=0)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


# Unknown weights


def _unknown(
    name: str, path: Path, weights: str, device: str, preprocessing: str | None, activation: str | None
) -> Judge:
    """Unknown weights in a published judge's architecture, with the configs in the same folder."""
    judge, architecture = PUBLISHED[name], PUBLISHED[name].architecture
    with loading(f"judge {path}"):
        if judge.judge_type == "clip":
            architecture = _clip_architecture(judge, path, activation)
        else:
            _check_timm(judge, path)
        preprocessing_of_file, config_name = _preprocessing_beside(judge, path)
    facts = {
        "model": f"unknown weights in the architecture of {name} ({architecture})",
        "source": "a file",
        "preprocessing_from": config_name or "the architecture's published one, for there is no config beside the file",
    }
    return _judge(
        judge, architecture, path, weights, preprocessing_of_file or judge.preprocessing, preprocessing, facts, device
    )


def _beside(path: Path, name: str) -> dict[str, Any]:
    """A config in the file's folder; {} if there is none."""
    file = path.parent / name
    return read_json(file, f"judge {path}") if file.is_file() else {}


def _clip_architecture(judge: Published, path: Path, activation: str | None) -> str:
    """open_clip's name of the architecture, which depends on the activation. UserError if that is unknown, or a config differs."""
    import open_clip

    model_cfg = _beside(path, "open_clip_config.json").get("model_cfg")
    config_activation = None
    if isinstance(model_cfg, dict):
        reference = open_clip.get_model_config(judge.architecture)
        if _differs(model_cfg, reference):
            raise UserError(
                f"judge {path}: open_clip_config.json in its folder has another architecture; pass the folder instead"
            )
        config_activation = "quickgelu" if model_cfg.get("quick_gelu") else "gelu"
    elif (config := _beside(path, "config.json")).get("model_type") == "clip":  # transformers' own config
        towers = [config.get(f"{tower}_config") or {} for tower in ("text", "vision")]
        acts = {tower.get("hidden_act", "quick_gelu") for tower in towers}
        config_activation = {"quick_gelu": "quickgelu", "gelu": "gelu"}.get(acts.pop()) if len(acts) == 1 else None
    if (activation or config_activation) is None:
        raise UserError(
            f"judge {path}: its weights fit two activations, gelu and quickgelu, and it is not known with which they were "
            "trained; put its open_clip_config.json into its folder, or pass --clip-activation gelu or quickgelu"
        )
    plain = judge.architecture.removesuffix("-quickgelu")
    return plain if (activation or config_activation) == "gelu" else judge.architecture


def _differs(config: dict[str, Any], reference: dict[str, Any]) -> bool:
    """Whether an open_clip config differs from the architecture's, apart from the activation."""
    for key, value in config.items():
        if key == "quick_gelu" or value is None:
            continue
        if isinstance(value, dict) and isinstance(reference.get(key), dict):
            if _differs(value, reference[key]):
                return True
        elif reference.get(key) != value:
            return True
    return False


def _check_timm(judge: Published, path: Path) -> None:
    config = _beside(path, "config.json")
    named = config.get("architecture")
    if named is not None and (
        str(named).partition(".")[0] != judge.architecture.partition(".")[0] or config.get("model_args")
    ):
        raise UserError(f"judge {path}: config.json in its folder has another architecture; pass the folder instead")


def _preprocessing_beside(judge: Published, path: Path) -> tuple[Preprocessing | None, str]:
    """(preprocessing in the first config in the file's folder that has one, that config's name); (None, "") without any."""
    if judge.judge_type == "clip" and "preprocess_cfg" in (config := _beside(path, "open_clip_config.json")):
        return open_clip_preprocessing(config), "open_clip_config.json"
    if judge.judge_type == "dino" and "pretrained_cfg" in (config := _beside(path, "config.json")):
        return timm_preprocessing(config["pretrained_cfg"]), "config.json"
    if "image_mean" in (config := _beside(path, "preprocessor_config.json")):
        return _transformers_preprocessing(config), "preprocessor_config.json"
    return None, ""


def _transformers_preprocessing(config: dict[str, Any]) -> Preprocessing:
    """The preprocessing in a preprocessor_config.json. ValueError, KeyError or TypeError if it is not supported."""
    size, crop = config["size"], config["crop_size"]
    if isinstance(size, dict):
        size = size["shortest_edge"]
    if isinstance(crop, dict):
        if crop["height"] != crop["width"]:
            raise ValueError("its crop_size is not square")
        crop = crop["height"]
    for step in ("do_resize", "do_center_crop", "do_normalize", "do_rescale"):
        if not config.get(step, True):
            raise ValueError(f"{step} is false")
    interpolation = RESAMPLE[config.get("resample", 3)]
    return Preprocessing.of(crop, config["image_mean"], config["image_std"], size, interpolation)


# Loading


def _download(name: str) -> Path:
    """The file of the weights in the hub's cache, downloaded if necessary."""
    from huggingface_hub import hf_hub_download

    judge = PUBLISHED[name]
    try:
        return Path(hf_hub_download(judge.repository, judge.file))
    except Exception as error:  # offline, no such revision, a full disk: the hub's errors have many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"judge {name}: {judge.file} of {judge.repository} is not in the hub's cache and cannot be downloaded ({reason}); "
            f"connect once, or pass --{judge.judge_type} FILE.safetensors"
        ) from None


def _judge(
    judge: Published,
    architecture: str,
    path: Path,
    weights: str,
    default: Preprocessing,
    words: str | None,
    facts: dict[str, str],
    device: str,
) -> Judge:
    torchvision_compat.apply()
    # DINO's positions are interpolated to any number of patches
    sizes = judge.shape[-1] if judge.judge_type == "dino" else None
    pre = changed_preprocessing(default, words, judge.judge_type, f"judge {path}", sizes)
    if pre != default:
        facts = facts | {"preprocessing_from": f"--{judge.judge_type}-preprocessing"}
    identity = {
        **facts,
        "architecture": architecture,
        "weights_sha256": weights,
        "preprocessing": pre.words,
        "pair_rule": PAIR_RULE,
    }
    with loading(f"judge {path}"):
        if judge.judge_type == "clip":
            return _clip(architecture, path, pre, identity, device)
        return _dino(architecture, path, pre, identity, device)


def _clip(architecture: str, path: Path, pre: Preprocessing, identity: dict[str, Any], device: str) -> Judge:
    import open_clip

    model = open_clip.create_model(architecture, pretrained=str(path), precision="fp32")
    tokenizer = open_clip.get_tokenizer(architecture)
    identity |= {
        "library": f"open_clip {open_clip.__version__}",
        "tokenizer": tokenizer_hash(tokenizer),
        "text_rule": TEXT_RULE,
        "clip_t": "plain cosine of picture and prompt",
    }
    gelu = model.visual.transformer.resblocks[0].mlp.gelu
    identity["activation"] = type(gelu).__name__
    return Judge("clip", model.to(device).eval(), pre, identity, tokenizer)


def _dino(architecture: str, path: Path, pre: Preprocessing, identity: dict[str, Any], device: str) -> Judge:
    import timm

    model = timm.create_model(
        architecture,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        num_classes=0,
        img_size=pre.crop,  # DINOv2's position embeddings are for 518 pixels: interpolated, as its authors do
    )
    identity |= {"library": f"timm {timm.__version__}", "feature": CLASS_TOKEN}
    return Judge("dino", model.to(device).eval(), pre, identity)
