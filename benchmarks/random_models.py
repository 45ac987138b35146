"""A small SDXL and two judges of the published architectures, with random weights, for timing: no score of theirs means anything.

    .venv/bin/python benchmarks/random_models.py FOLDER

writes pipeline/ (SDXL's published configuration with widths divided by ten, 128 pixels), and CLIP ViT-B/32 and DINO
ViT-S/16 twice: clip/ and dino/ in transformers' format, clip.safetensors and dino.safetensors in open_clip's and timm's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch
from safetensors.torch import save_file

from cpbench import torchvision_compat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def build(folder: Path) -> None:
    """Write all of them into the folder. The same weights each time."""
    torchvision_compat.apply()
    import architectures
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPProcessor,
        CLIPTokenizer,
        ViTConfig,
        ViTModel,
    )

    architectures.build("sdxl", folder, small=True)
    judge_files(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig()).save_pretrained(folder / "clip")  # its defaults are ViT-B/32
        dino_config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
        ViTModel(dino_config, add_pooling_layer=False).save_pretrained(folder / "dino")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77)
    CLIPProcessor(CLIPImageProcessor(), tokenizer).save_pretrained(folder / "clip")


def judge_files(folder: Path) -> dict[str, Path]:
    """Write clip.safetensors and dino.safetensors in open_clip's and timm's format; returns the files by judge."""
    torchvision_compat.apply()
    import open_clip
    import timm

    from cpbench.judges.published import PUBLISHED, USUAL

    files = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.create_model(PUBLISHED[USUAL["clip"]].architecture, load_weights=False)
        dino = timm.create_model(PUBLISHED[USUAL["dino"]].architecture, pretrained=False, num_classes=0)
        for name, judge in (("clip", clip), ("dino", dino)):
            files[name] = folder / f"{name}.safetensors"
            save_file({k: v.detach().clone().contiguous() for k, v in judge.state_dict().items()}, files[name])
    return files


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    build(folder)


if __name__ == "__main__":
    main()
