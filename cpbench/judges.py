"""Judges: CLIP (open_clip) and DINO (timm) encoders with explicit preprocessing, and who they are."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from cpbench import hub, torchvision_cure
from cpbench.errors import UserError

TEXT_RULE = "the words for the concept are replaced by its class noun"
PAIR_RULE = "mean cosine over all pairs (drawn, real)"
MOST_PIXELS = 4096  # a side
PROJECTED = "projected class token"  # a DINO's config.json that says so under "feature" ends in its embedding


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize` (bicubic, PIL), crop the middle `crop`, then (x - mean) / std."""

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @staticmethod
    def of(size: Any, mean: Any, std: Any) -> Preprocessing:
        """From a config's values. TypeError or ValueError for what is no size and no colours."""
        if not isinstance(size, int) or not 0 < size <= MOST_PIXELS or len(mean) != 3 or len(std) != 3:
            raise ValueError(f"no preprocessing: {size}, {mean}, {std}")
        return Preprocessing(size, size, tuple(map(float, mean)), tuple(map(float, std)))

    @property
    def words(self) -> str:
        return f"resize {self.resize} bicubic, centre crop {self.crop}, mean {self.mean}, std {self.std}"

    def __call__(self, images: list[np.ndarray] | np.ndarray) -> torch.Tensor:
        """uint8 pictures (h, w, 3), of any sizes -> float (n, 3, crop, crop)."""
        return torch.stack([self.one(np.asarray(i)) for i in images])

    def one(self, image: np.ndarray) -> torch.Tensor:
        h, w = image.shape[:2]
        if min(h, w) != self.resize:
            size = (
                int(w * self.resize / min(h, w)),
                int(h * self.resize / min(h, w)),
            )  # cut off, as torchvision's
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
        top, left = (round((side - self.crop) / 2) for side in image.shape[:2])  # half to even, as torchvision's
        x = (
            torch.from_numpy(np.array(image[top : top + self.crop, left : left + self.crop])).permute(2, 0, 1).float()
            / 255
        )
        return (x - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)


def content_key(picture: np.ndarray) -> str:
    """SHA-256 of a picture's shape and pixels."""
    picture = np.asarray(picture)
    return hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()


MOST_KEPT = 4096  # embeddings a judge remembers


@dataclass
class Judge:
    """An encoder to unit vectors. `identity` says which: model, weights' hash, preprocessing, rules."""

    name: str
    model: torch.nn.Module
    preprocessing: Preprocessing
    identity: dict[str, Any]
    tokenizer: Any = None
    _seen: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def images(self, pictures: np.ndarray | list[np.ndarray], batch_size: int = 64) -> np.ndarray:
        """Unit vectors (n, d); a picture among the last thousands that were met is not encoded again."""
        keys = [content_key(picture) for picture in pictures]
        found = {k: self._seen.pop(k) for k in dict.fromkeys(keys) if k in self._seen}
        new = [i for i, k in enumerate(keys) if k not in found]
        for at in range(0, len(new), batch_size):
            part = new[at : at + batch_size]
            x = self.preprocessing([pictures[i] for i in part])
            encode = getattr(self.model, "encode_image", self.model)
            x = x.to(self.device)
            for i, v in zip(part, F.normalize(encode(x).float(), dim=-1).cpu().numpy(), strict=True):
                found[keys[i]] = v.copy()  # of its own: a row of the batch would hold all of it
        self._seen |= found  # which puts what was used last at the end
        for oldest in list(self._seen)[:-MOST_KEPT]:
            del self._seen[oldest]
        return np.stack([found[k] for k in keys])

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> np.ndarray:
        """Unit vectors (n, d) of the prompts; only CLIP reads."""
        if self.tokenizer is None:
            raise TypeError(f"judge {self.name} has no text encoder")
        tokens = self.tokenizer(prompts).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1).cpu().numpy()


def _recorded(folder: Path, file: str) -> dict[str, Any]:
    path = folder / file
    if not path.is_file():
        hint = "name a folder that holds the judge's weights"
        if pickles := sorted(f.name for f in folder.iterdir() if f.suffix in hub.PICKLES):
            hint = f"convert {pickles[0]} to it: pickled weights can run any code when they are loaded"
        raise UserError(f"judge {folder}: {file} is missing; {hint}")
    hub.check_safetensors(path, f"judge {folder}")
    for config in sorted(folder.glob("*.json")):
        if hub.names_code(hub.read_json(config, f"judge {folder}", mapping=False)):
            raise UserError(
                f"judge {folder}: {config} names Python code, and no judge may bring any; name another judge"
            )
    return {"weights_sha256": hub.file_hash(path)}


def load_clip(folder: Path, device: str = "cpu") -> Judge:
    """A CLIP in open_clip's format from a local folder, its preprocessing from the folder's own config."""
    torchvision_cure.apply()
    import open_clip

    facts = _recorded(folder, "open_clip_model.safetensors")
    config = hub.read_json(folder / "open_clip_config.json", f"judge {folder}")
    with hub.loading(f"judge {folder}"):
        if "hf_model_name" in config["model_cfg"]["text_cfg"]:  # then open_clip asks the hub for it, and runs its code
            raise UserError(f"judge {folder}: builds on another model of the hub; name a CLIP that is whole")
        model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        size = config["model_cfg"]["vision_cfg"]["image_size"]
        cfg = config["preprocess_cfg"]
        pre = Preprocessing.of(size, cfg["mean"], cfg["std"])
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    identity = {
        "library": f"open_clip {open_clip.__version__}",
        "model": folder.name,
        **facts,
        "preprocessing": pre.words,
        "text_rule": TEXT_RULE,
        "pair_rule": PAIR_RULE,
        "clip_t": "plain cosine of picture and prompt",
    }
    return Judge("clip", model.float().to(device).eval(), pre, identity, tokenizer)


def load_dino(folder: Path, device: str = "cpu") -> Judge:
    """A ViT in timm's format from a local folder; the class token is the embedding.

    Where the folder's config.json says `"feature": "projected class token"`, it is the output of the model's last layer.
    """
    torchvision_cure.apply()
    import timm

    facts = _recorded(folder, "model.safetensors")
    projected = hub.read_json(folder / "config.json", f"judge {folder}").get("feature") == PROJECTED
    last_layer = {} if projected else {"num_classes": 0}
    with hub.loading(f"judge {folder}"):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, **last_layer).eval()
        cfg = model.pretrained_cfg
        pre = Preprocessing.of(cfg["input_size"][-1], cfg["mean"], cfg["std"])
    identity = {
        "library": f"timm {timm.__version__}",
        "model": folder.name,
        **facts,
        "preprocessing": pre.words,
        "feature": PROJECTED if projected else "class token after the final norm",
        "pair_rule": PAIR_RULE,
    }
    return Judge("dino", model.to(device), pre, identity)


def load_for(
    backbone_name: str, clip: str | None = None, dino: str | None = None, device: str = "cpu"
) -> dict[str, Judge]:
    """The judges of a run, by kind: those asked for, else those in the backbone's own folder, else DreamBooth's.

    clip, dino: a published name, a .safetensors file of one, or a folder in open_clip's or timm's format.
    """
    from cpbench import published_judges
    from cpbench.backbones import MINIATURE

    own = (MINIATURE if backbone_name == "miniature" else Path(backbone_name)) / "judges"
    found = {}
    for kind, asked, load in (("clip", clip, load_clip), ("dino", dino, load_dino)):
        wanted = asked or (str(own / kind) if os.path.isdir(own / kind) else published_judges.USUAL[kind])
        folder = Path(os.path.expanduser(wanted))
        found[kind] = load(folder, device) if os.path.isdir(folder) else published_judges.load(kind, wanted, device)
    return found
