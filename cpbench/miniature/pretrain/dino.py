"""The DINO judge: a small vision transformer trained with DINO's loss (Caron et al. 2021, eq. 1-4 and algorithm 1), with the two
changes of DINOv2 (Oquab et al. 2023) that make it learn in few steps: the teacher's scores are balanced over a batch by
Sinkhorn-Knopp instead of a running centre, and the KoLeo term spreads the embeddings of a batch.

The views are four drawings of one training individual in other poses, places and lights; each learns the targets
that the teacher gives the mean scores of the other three. That is much stronger
supervision than real DINO's two crops of one picture, and the model card says so. Drawings whose finish hides the
identity (red, purple, cube shaped) are not used as views.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import data
from .loop import Recipe, train
from .vae import to_tensor

# An XCiT (El-Nouby et al. 2021), the vision transformer with a convolutional stem that DINO was also published on: with
# the plain ViT's linear patches the same steps left the 1-nearest-neighbour accuracy three times lower.
ARCHITECTURE = "xcit_nano_12_p8_224"
MODEL_ARGS = {"img_size": 64, "embed_dim": 192, "depth": 5, "num_heads": 4, "cls_attn_layers": 1, "num_classes": 128}
FIRST = Recipe("dino", steps=2400, batch=24, lr=1.5e-3, seed=33, warmup=40, weight_decay=0.04, clip=3.0)
LAST = replace(FIRST, name="dino-last", steps=500, batch=48, lr=4e-4, seed=35)  # more to tell apart in a batch
SECOND = replace(FIRST, name="dino-second", steps=1600, seed=34)  # the second judge, with individuals of its own
PROTOTYPES = 4096
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.03
KOLEO_WEIGHT = 0.5
VIEWS = 4  # a batch is `batch` individuals in so many views,
OF_A_CLASS = 4  # so many of each class noun: individuals of one class are the ones that are hard to tell apart
TEACHER_MOMENTUM = (
    0.9  # at the start; half a cosine takes it to 1 at the end. Low: a thousand steps leave no time to lag
)
HIDING = ("red", "purple", "cube shaped")


class Network(nn.Module):
    """The class token, projected to the judge's embedding by one linear layer, and the prototypes it is compared with.

    DINO's head has three layers and is thrown away: what it learns to ignore (crops, colours) is of use elsewhere. Here
    the loss asks exactly what the judge is for, so what the prototypes see is the embedding, and no layer may stand
    between them: behind a three-layer head the class token named 75 % of held-out individuals, the head's output 90 %.
    """

    def __init__(self) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(ARCHITECTURE, pretrained=False, **MODEL_ARGS)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(PROTOTYPES, MODEL_ARGS["num_classes"]), dim=1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(embedding (n, d), its cosines with the prototypes (n, k)) of pictures (n, 3, 64, 64)."""
        embedding = self.backbone(x)
        return embedding, F.normalize(embedding, dim=1) @ F.normalize(self.prototypes, dim=1).T


@torch.no_grad()
def sinkhorn(scores: torch.Tensor, iterations: int = 3) -> torch.Tensor:
    """Targets (n, k) from the teacher's scores (n, k): each row sums to 1, each prototype is used about equally."""
    q = torch.exp((scores - scores.max()) / TEACHER_TEMPERATURE)
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True).clamp(min=1e-12) / q.shape[1]
        q = q / q.sum(1, keepdim=True).clamp(min=1e-12) / q.shape[0]
    return q * q.shape[0]


def dino_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the teacher's balanced targets with the student, every view against the others.

    `student` and `teacher` are (v, n, k) prototype scores of v views of n individuals; a view's target comes from the
    mean of the teacher's scores of the other v - 1 views.
    """
    v, n, k = teacher.shape
    other_views = (teacher.sum(0, keepdim=True) - teacher) / (v - 1)
    target = sinkhorn(other_views.reshape(v * n, k)).view(v, n, k)
    return -(target * F.log_softmax(student / STUDENT_TEMPERATURE, dim=-1)).sum(-1).mean()


def koleo(embedding: torch.Tensor) -> torch.Tensor:
    """-mean log distance of each unit vector (n, d) to its nearest neighbour: small when they are spread."""
    unit = F.normalize(embedding, dim=1)
    cosine = unit @ unit.T - 2 * torch.eye(len(unit), device=unit.device)
    nearest = unit[cosine.argmax(1)]
    return -torch.log((unit - nearest).norm(dim=1) + 1e-8).mean()


def views(pictures: data.Pictures) -> dict[str, list[np.ndarray]]:
    """By class noun, for each individual the numbers of its pictures that show its identity; at least VIEWS each."""
    out: dict[str, list[np.ndarray]] = {}
    for group in np.arange(len(pictures.images)).reshape(-1, data.VIEWS):
        indices = [k for k in group if pictures.finishes[k] not in HIDING]
        if len(indices) >= VIEWS:
            out.setdefault(pictures.nouns[group[0]], []).append(np.array(indices))
    return out


class Both(nn.Module):
    """Student and teacher as one module, so that one checkpoint holds both."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Network()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)


def train_dino(
    pictures: data.Pictures, work: Path, device: str, report=print, recipes: tuple[Recipe, ...] = (FIRST, LAST)
) -> nn.Module:
    """The teacher's timm backbone, after each of the recipes in turn."""
    torch.manual_seed(recipes[0].seed)
    both, people = Both().to(device), views(pictures)
    for recipe in recipes:
        learn(both, pictures.images, people, recipe, work, device, report)
    return both.teacher.backbone.eval()


def learn(both: Both, images: np.ndarray, people: dict, recipe: Recipe, work: Path, device: str, report=print) -> None:
    """One recipe's steps; `people` as from `views`."""
    n = recipe.batch

    def step(i, rng, noise):
        nouns = rng.choice(list(people), n // OF_A_CLASS, replace=False)
        some = [people[c][k] for c in nouns for k in rng.choice(len(people[c]), OF_A_CLASS, replace=False)]
        indices = np.stack([rng.choice(p, VIEWS, replace=False) for p in some], axis=1)
        x = to_tensor(images[indices.reshape(-1)]).to(device)
        with torch.no_grad():
            _, taught = both.teacher(x)
        embedding, scores = both.student(x)
        spread = torch.stack([koleo(view) for view in embedding.view(VIEWS, n, -1)]).mean()
        loss = dino_loss(scores.view(VIEWS, n, -1), taught.view(VIEWS, n, -1)) + KOLEO_WEIGHT * spread
        unit = F.normalize(embedding.detach(), dim=1)
        match = (unit[:n] @ unit[n : 2 * n].T).argmax(1).eq(torch.arange(n, device=device)).float().mean()
        return loss, {"match": float(match), "koleo": float(spread.detach())}

    @torch.no_grad()
    def follow(i: int) -> None:
        momentum = 1 - (1 - TEACHER_MOMENTUM) * (np.cos(np.pi * i / recipe.steps) + 1) / 2
        for slow, fast in zip(both.teacher.parameters(), both.student.parameters(), strict=True):
            slow.lerp_(fast, float(1 - momentum))
        for slow, fast in zip(both.teacher.buffers(), both.student.buffers(), strict=True):
            slow.copy_(fast)  # batch normalisation's running statistics

    train(both, step, recipe, work, after_step=follow, report=report)
