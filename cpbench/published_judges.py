"""The judges of the literature, from the hub or a file: OpenAI's CLIP by open_clip, Meta's DINO and DINOv2 by timm.

CLIP is loaded into open_clip's "-quickgelu" architectures: OpenAI trained with that activation, and the plain ones would
take the same weights without a word and score every picture wrongly. DINO is Caron et al. 2021's ViT-S/16, whose class
token DreamBooth (Ruiz et al. 2023) introduced as the measure of a subject; DINOv2 (Oquab et al. 2023) is an option.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cpbench import hub, torchvision_cure
from cpbench.errors import UserError, near
from cpbench.judges import PAIR_RULE, TEXT_RULE, Judge, Preprocessing

CLIP = Preprocessing(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DINO = Preprocessing(256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Published:
    """One published encoder: whose architecture, where its weights lie, and the weight by whose shape a file is known."""

    kind: str  # clip or dino
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
USUAL = {"clip": "clip-vit-b-32", "dino": "dino-vit-s-16"}  # those of DreamBooth


def of_kind(kind: str) -> dict[str, Published]:
    return {name: p for name, p in PUBLISHED.items() if p.kind == kind}


def load(kind: str, wanted: str, device: str = "cpu") -> Judge:
    """A judge by its published name, or from a safetensors file of one, told by its weights' shapes.

    UserError where there is no such name or file, or the hub is out of reach.
    """
    path = Path(os.path.expanduser(wanted))
    if path.suffix in hub.PICKLES:
        raise UserError(
            f"judge {wanted}: pickled weights can run any code when they are loaded; convert them to .safetensors and name that file"
        )
    if path.suffix == ".safetensors":
        name = _recognised(kind, path)
    elif wanted in of_kind(kind):
        name, path = wanted, _download(wanted)
    else:
        raise near(wanted, of_kind(kind), f"{kind} judge", "A .safetensors file or a judge's folder does as well.")
    return _judge(name, path, device)


def _recognised(kind: str, path: Path) -> str:
    """The name of the published judge whose weights this file holds."""
    from safetensors import safe_open

    if not os.path.isfile(path):
        raise UserError(f"judge {path}: there is no such file; check the path")
    hub.check_safetensors(path, "judge")
    with safe_open(path, framework="pt") as file:
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    for name, published in of_kind(kind).items():
        if shapes.get(published.known_by) == published.shape:
            return name
    raise UserError(
        f"judge {path}: holds no {kind} judge that is known ({', '.join(of_kind(kind))}); name one of these"
    )


def _download(name: str) -> Path:
    """The weights' file in the hub's cache, fetched if it is not there."""
    from huggingface_hub import hf_hub_download

    it = PUBLISHED[name]
    try:
        return Path(hf_hub_download(it.repository, it.file))
    except Exception as error:  # offline, no such revision, a full disk: the hub's own errors have many types
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"judge {name}: {it.file} of {it.repository} is not in the hub's cache and cannot be fetched ({reason}); "
            f"connect once, or pass --{it.kind} FILE.safetensors"
        ) from None


def _judge(name: str, path: Path, device: str) -> Judge:
    torchvision_cure.apply()
    with hub.loading(f"judge {path}"):
        return _loaded(name, path, device)


def _loaded(name: str, path: Path, device: str) -> Judge:
    it = PUBLISHED[name]
    identity = {
        "model": f"{name} ({it.architecture})",
        "weights_sha256": hub.file_hash(path),
        "preprocessing": it.preprocessing.words,
        "pair_rule": PAIR_RULE,
    }
    if it.kind == "clip":
        import open_clip

        model = open_clip.create_model(it.architecture, pretrained=str(path), precision="fp32")
        identity |= {
            "library": f"open_clip {open_clip.__version__}",
            "activation": type(model.visual.transformer.resblocks[0].mlp.gelu).__name__,
            "text_rule": TEXT_RULE,
            "clip_t": "plain cosine of picture and prompt",
        }
        return Judge(
            "clip", model.to(device).eval(), it.preprocessing, identity, open_clip.get_tokenizer(it.architecture)
        )
    import timm

    model = timm.create_model(
        it.architecture,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path)},
        num_classes=0,
        img_size=it.preprocessing.crop,  # DINOv2's position embeddings are for 518 pixels: interpolated, as its authors do
    )
    identity |= {"library": f"timm {timm.__version__}", "feature": "class token after the final norm"}
    return Judge("dino", model.to(device).eval(), it.preprocessing, identity)
