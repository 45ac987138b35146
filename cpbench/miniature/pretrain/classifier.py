"""A classifier of drawn pictures, independent of the judges, for pictures of the untouched model.

A small ResNet (timm) with one head per aspect: class, place, outfit, finish. It sees only the world's own pictures, never
one from the autoencoder or the model, and shares neither weights, loss nor seed with a judge.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..world import read_prompt
from . import data
from .exam import ASPECTS, Question
from .loop import Recipe, train
from .vae import to_tensor

ARCHITECTURE = "resnet10t"
MODEL_ARGS = {"channels": (32, 64, 128, 256), "stem_width": 16, "num_classes": 0}
RECIPE = Recipe("classifier", steps=1500, batch=96, lr=2e-3, seed=44, ema=0.99)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model(ARCHITECTURE, pretrained=False, **MODEL_ARGS)
        # one more answer for none of them
        self.heads = nn.ModuleDict({a: nn.Linear(self.trunk.num_features, len(w) + 1) for a, w in ASPECTS.items()})

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scores (n, answers) by aspect of pictures (n, 3, 64, 64); the last answer is "none"."""
        features = self.trunk(x)
        return {aspect: head(features) for aspect, head in self.heads.items()}


def truth(pictures: data.Pictures) -> dict[str, np.ndarray]:
    """The labels of the training pictures, by aspect; the index after the last means none."""
    numbers: dict[str, list[int]] = {aspect: [] for aspect in ASPECTS}
    for noun, caption, finish in zip(pictures.nouns, pictures.captions, pictures.finishes, strict=True):
        setting = read_prompt(caption)
        answers = {"class": noun, "place": setting.place, "outfit": setting.outfit, "finish": finish}
        for aspect, words in ASPECTS.items():
            numbers[aspect].append(words.index(answers[aspect]) if answers[aspect] else len(words))
    return {aspect: np.array(n) for aspect, n in numbers.items()}


def train_classifier(pictures: data.Pictures, work: Path, device: str, report=print) -> Classifier:
    torch.manual_seed(RECIPE.seed)
    model = Classifier().to(device, memory_format=torch.channels_last)
    target = truth(pictures)

    def step(i, rng, noise):
        indices = np.sort(rng.choice(len(pictures.images), RECIPE.batch, replace=False))
        scores = model(to_tensor(pictures.images[indices]).to(device))
        labels = {a: torch.from_numpy(target[a][indices]).to(device) for a in ASPECTS}
        loss = torch.stack([F.cross_entropy(scores[a], labels[a]) for a in ASPECTS]).sum()
        return loss, {a: float((scores[a].argmax(1) == labels[a]).float().mean()) for a in ASPECTS}

    model.load_state_dict(train(model, step, RECIPE, work, report=report))
    return model.eval()


@torch.no_grad()
def read(model: Classifier, pictures: np.ndarray, questions: tuple[Question, ...]) -> dict[str, float]:
    """By aspect, the share of pictures that show what their question asks for; questions without that aspect are left out."""
    scores = [model(to_tensor(part)) for part in np.split(pictures, range(128, len(pictures), 128))]
    out = {}
    for aspect in ASPECTS:
        labels = np.array([q.label(aspect) for q in questions])
        answers = torch.cat([s[aspect] for s in scores]).argmax(1).numpy()
        out[aspect] = float((answers == labels)[labels >= 0].mean())
    return out
