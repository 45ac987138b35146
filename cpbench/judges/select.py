"""The judges of a run."""

from __future__ import annotations

import os
from pathlib import Path

from cpbench.errors import UserError
from cpbench.judges.judge import Judge
from cpbench.judges.local import load_clip, load_dino
from cpbench.miniature import is_miniature


def load_judges(
    backbone_name: str,
    clip: str | None = None,
    dino: str | None = None,
    device: str = "cpu",
    clip_preprocessing: str | None = None,
    dino_preprocessing: str | None = None,
    clip_activation: str | None = None,
) -> dict[str, Judge]:
    """The judges of a run, by type: those given, else those in the backbone's own folder, else DreamBooth's.

    clip, dino: a published name, a .safetensors file of its architecture, or a folder in open_clip's or timm's format.
    clip_preprocessing, dino_preprocessing: changes to the judges' own; clip_activation: gelu or quickgelu, for a file without
    a config.
    """
    from cpbench.backbones.backbone import MINIATURE
    from cpbench.judges import published

    own_folder = (MINIATURE if is_miniature(backbone_name) else Path(os.path.expanduser(backbone_name))) / "judges"
    judges = {}
    for judge_type, choice, words in (("clip", clip, clip_preprocessing), ("dino", dino, dino_preprocessing)):
        name_or_path = choice or (
            str(own_folder / judge_type) if os.path.isdir(own_folder / judge_type) else published.USUAL[judge_type]
        )
        folder = Path(os.path.expanduser(name_or_path))
        activation = clip_activation if judge_type == "clip" else None
        if not os.path.isdir(folder):
            judges[judge_type] = published.load(judge_type, name_or_path, device, words, activation)
        elif activation:
            raise UserError(f"--clip-activation {activation}: the config in {folder} has the activation; leave it out")
        else:
            judges[judge_type] = {"clip": load_clip, "dino": load_dino}[judge_type](folder, device, words)
    return judges
