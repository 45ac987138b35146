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
MODEL_ARGS = {"img_size": 64, "embed_dim": 128, "depth": 5, "num_heads": 4, "cls_attn_layers": 1, "num_classes": 0}
RECIPE = Recipe("dino", steps=600, batch=36, lr=1e-3, seed=33, warmup=40, weight_decay=0.04, clip=3.0)
PROTOTYPES = 1024
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.03
KOLEO_WEIGHT = 0.1
VIEWS = 4  # a batch is `batch` individuals in so many views
TEACHER_MOMENTUM = (
    0.9  # at the start; half a cosine takes it to 1 at the end. Low: a thousand steps leave no time to lag
)
HIDING = ("red", "purple", "cube shaped")


class Head(nn.Module):
    """DINO's projection head: three layers, a unit-length bottleneck, then unit-length prototypes."""

    def __init__(self, width: int, hidden: int = 512, bottleneck: int = 128):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(F.normalize(torch.randn(PROTOTYPES, bottleneck), dim=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.mlp(x), dim=1) @ F.normalize(self.prototypes, dim=1).T


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        import timm

        self.backbone = timm.create_model(ARCHITECTURE, pretrained=False, **MODEL_ARGS)
        self.head = Head(MODEL_ARGS["embed_dim"])

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(class token (n, d), prototype scores (n, k)) of pictures (n, 3, 64, 64)."""
        token = self.backbone(x)
        return token, self.head(token)


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
    others = (teacher.sum(0, keepdim=True) - teacher) / (v - 1)
    target = sinkhorn(others.reshape(v * n, k)).view(v, n, k)
    return -(target * F.log_softmax(student / STUDENT_TEMPERATURE, dim=-1)).sum(-1).mean()


def koleo(token: torch.Tensor) -> torch.Tensor:
    """-mean log distance of each unit vector (n, d) to its nearest neighbour: small when they are spread."""
    unit = F.normalize(token, dim=1)
    cosine = unit @ unit.T - 2 * torch.eye(len(unit), device=unit.device)
    nearest = unit[cosine.argmax(1)]
    return -torch.log((unit - nearest).norm(dim=1) + 1e-8).mean()


def views(pictures: data.Pictures) -> list[np.ndarray]:
    """For each individual, the numbers of its pictures that show its identity; at least VIEWS each."""
    groups = np.arange(len(pictures.images)).reshape(-1, data.VIEWS)
    shown = np.array([f not in HIDING for f in pictures.finishes]).reshape(groups.shape)
    return [g[s] for g, s in zip(groups, shown, strict=True) if s.sum() >= VIEWS]


def train_dino(pictures: data.Pictures, rebuilt: np.ndarray, work: Path, device: str, report=print) -> nn.Module:
    """Returns the teacher's timm backbone; `rebuilt` holds pictures after the autoencoder: half of the views use them."""
    torch.manual_seed(RECIPE.seed)
    student = Network().to(device)
    pairs = views(pictures)

    class Both(nn.Module):  # one module, so that the checkpoint holds student and teacher
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = student, copy.deepcopy(student).requires_grad_(False)

    both, n = Both(), RECIPE.batch

    def step(i, rng, noise):
        people = [pairs[k] for k in rng.choice(len(pairs), n, replace=False)]
        chosen = np.stack([rng.choice(p, VIEWS, replace=False) for p in people], axis=1)
        images = [
            rebuilt[k] if k < len(rebuilt) and rng.random() < 0.5 else pictures.images[k] for k in chosen.reshape(-1)
        ]
        x = to_tensor(np.stack(images)).to(device)
        with torch.no_grad():
            _, taught = both.teacher(x)
        token, scores = both.student(x)
        spread = torch.stack([koleo(view) for view in token.view(VIEWS, n, -1)]).mean()
        loss = dino_loss(scores.view(VIEWS, n, -1), taught.view(VIEWS, n, -1)) + KOLEO_WEIGHT * spread
        unit = F.normalize(token.detach(), dim=1)
        match = (unit[:n] @ unit[n : 2 * n].T).argmax(1).eq(torch.arange(n, device=device)).float().mean()
        return loss, {"match": float(match), "koleo": float(spread.detach())}

    @torch.no_grad()
    def follow(i: int) -> None:
        momentum = 1 - (1 - TEACHER_MOMENTUM) * (np.cos(np.pi * i / RECIPE.steps) + 1) / 2
        for slow, fast in zip(both.teacher.parameters(), both.student.parameters(), strict=True):
            slow.lerp_(fast, float(1 - momentum))
        for slow, fast in zip(both.teacher.buffers(), both.student.buffers(), strict=True):
            slow.copy_(fast)  # batch normalisation's running statistics

    train(both, step, RECIPE, work, after_step=follow, report=report)
    return both.teacher.backbone.eval()
