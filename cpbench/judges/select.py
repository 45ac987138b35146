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
    """The judges of a run, by kind: those asked for, else those in the backbone's own folder, else DreamBooth's.

    clip, dino: a published name, a .safetensors file of its architecture, or a folder in open_clip's or timm's format.
    The preprocessings: what to change of the judges' own; clip_activation: gelu or quickgelu, for a file that does not say.
    """
    from cpbench.backbones.backbone import MINIATURE
    from cpbench.judges import published

    own = (MINIATURE if is_miniature(backbone_name) else Path(backbone_name)) / "judges"
    found = {}
    for judge_type, asked, words in (("clip", clip, clip_preprocessing), ("dino", dino, dino_preprocessing)):
        wanted = asked or (str(own / judge_type) if os.path.isdir(own / judge_type) else published.USUAL[judge_type])
        folder = Path(os.path.expanduser(wanted))
        activation = clip_activation if judge_type == "clip" else None
        if not os.path.isdir(folder):
            found[judge_type] = published.load(judge_type, wanted, device, words, activation)
        elif activation:
            raise UserError(f"--clip-activation {activation}: {folder} says itself which it has; leave it out")
        else:
            found[judge_type] = {"clip": load_clip, "dino": load_dino}[judge_type](folder, device, words)
    return found
