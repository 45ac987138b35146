"""Judges in local folders: the user's own, and the miniature's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cpbench import torchvision_compat
from cpbench.backbones import hub
from cpbench.backbones.untrusted import PICKLES, check_safetensors, loading, names_code, read_json
from cpbench.errors import UserError
from cpbench.judges.judge import (
    CLASS_TOKEN,
    PAIR_RULE,
    TEXT_RULE,
    TIMM_ARCHITECTURE,
    Judge,
    changed_preprocessing,
    content_hash,
    open_clip_preprocessing,
    timm_preprocessing,
    tokenizer_hash,
)

PROJECTED = "projected class token"  # a DINO with this "feature" in its config.json ends in its embedding


def _recorded(folder: Path, file: str) -> dict[str, Any]:
    path = folder / file
    if not path.is_file():
        hint = "pass a folder that holds the judge's weights"
        if pickles := sorted(f.name for f in folder.iterdir() if f.suffix in PICKLES):
            hint = f"convert {pickles[0]} to it, since pickled weights can run any code when they are loaded"
        raise UserError(f"judge {folder}: {file} is missing; {hint}")
    check_safetensors(path, f"judge {folder}")
    for config in sorted(folder.glob("*.json")):
        if names_code(read_json(config, f"judge {folder}", mapping=False)):
            raise UserError(
                f"judge {folder}: {config} refers to Python code, which judges must not contain; pass another judge"
            )
    return {"weights_sha256": hub.file_hash(path)}


def load_clip(folder: Path, device: str = "cpu", preprocessing: str | None = None) -> Judge:
    """A CLIP in open_clip's format from a local folder, its preprocessing from the folder's own config.

    preprocessing: changes to it, see `identity.preprocessing_settings`.
    """
    torchvision_compat.apply()
    import open_clip

    facts = _recorded(folder, "open_clip_model.safetensors")
    config = read_json(folder / "open_clip_config.json", f"judge {folder}")
    with loading(f"judge {folder}", folder):
        text = config["model_cfg"]["text_cfg"]
        if "hf_model_name" in text:  # open_clip would download it from the hub, and run its code
            raise UserError(f"judge {folder}: needs another model of the hub; pass a complete CLIP")
        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        default = open_clip_preprocessing(config)
        pre = changed_preprocessing(default, preprocessing, "clip", f"judge {folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
        settings = {k: text[k] for k in ("tokenizer_kwargs", "tokenizer_mode") if text.get(k)}
        facts["tokenizer"] = tokenizer_hash(tokenizer, folder, settings)
    identity = {
        "library": f"open_clip {open_clip.__version__}",
        "model": folder.name,
        **facts,
        "architecture": content_hash(config["model_cfg"]),
        "preprocessing": pre.words,
        "preprocessing_from": "open_clip_config.json" if pre == default else "--clip-preprocessing",
        "text_rule": TEXT_RULE,
        "pair_rule": PAIR_RULE,
        "clip_t": "plain cosine of picture and prompt",
    }
    return Judge("clip", model.float().to(device).eval(), pre, identity, tokenizer)


def load_dino(folder: Path, device: str = "cpu", preprocessing: str | None = None) -> Judge:
    """A ViT in timm's format from a local folder; the class token is the embedding.

    With `"feature": "projected class token"` in the folder's config.json, it is the output of the model's last layer.
    preprocessing: changes to the folder's own, see `identity.preprocessing_settings`.
    """
    torchvision_compat.apply()
    import timm

    facts = _recorded(folder, "model.safetensors")
    config = read_json(folder / "config.json", f"judge {folder}")
    projected = config.get("feature") == PROJECTED
    last_layer = {} if projected else {"num_classes": 0}
    with loading(f"judge {folder}", folder):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, **last_layer).eval()
        default = timm_preprocessing(model.pretrained_cfg)
        pre = changed_preprocessing(default, preprocessing, "dino", f"judge {folder}")
    pooled = getattr(model, "global_pool", "token")
    identity = {
        "library": f"timm {timm.__version__}",
        "model": folder.name,
        **facts,
        "architecture": content_hash({k: config.get(k) for k in TIMM_ARCHITECTURE}),
        "preprocessing": pre.words,
        "preprocessing_from": "config.json" if pre == default else "--dino-preprocessing",
        "feature": PROJECTED if projected else CLASS_TOKEN if pooled == "token" else f"pooled by {pooled or 'nothing'}",
        "pair_rule": PAIR_RULE,
    }
    return Judge("dino", model.to(device), pre, identity)
