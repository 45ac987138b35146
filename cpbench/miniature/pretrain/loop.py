"""The pretraining loop: seeded steps, warm-up and cosine decay, averaged weights, and a checkpoint to resume from.

Step i samples its batch from a generator seeded with (name, seed, i), so a run that is killed and restarted sees the same
batches as one that is not.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from cpbench.errors import UserError

from ..world import seeded

TELL_EVERY_SECONDS = 10.0

StepFunction = Callable[[int, np.random.Generator, torch.Generator], tuple[torch.Tensor, dict[str, float]]]


@dataclass
class Recipe:
    """The settings of a training: written into its checkpoint, and compared before resuming from one."""

    name: str
    steps: int
    batch: int
    lr: float
    seed: int = 0
    warmup: int = 100
    weight_decay: float = 0.01
    ema: float = 0.999
    clip: float = 1.0
    final: float = 0.02  # the rate at the end, as a share of lr
    extra: dict = field(default_factory=dict)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then half a cosine down to the final share of the peak."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    along = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.final + (1 - recipe.final) * 0.5 * (1 + math.cos(math.pi * along)))


class Average:
    """Exponential moving average of weights, with a warm-up so that early averages follow fast."""

    def __init__(self, model: torch.nn.Module, decay: float):
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        for k, v in model.state_dict().items():
            if v.is_floating_point():
                self.shadow[k].lerp_(v, 1 - decay)
            else:
                self.shadow[k].copy_(v)


def save_atomically(obj: object, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    torch.save(obj, temporary)
    os.replace(temporary, path)


def save_array(array: np.ndarray, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npy")
    np.save(temporary, array)
    os.replace(temporary, path)


def train(
    model: torch.nn.Module,
    step_function: StepFunction,
    recipe: Recipe,
    work: Path,
    after_step: Callable[[int], None] | None = None,
    report=print,
    every_seconds: float = 60.0,
) -> dict[str, torch.Tensor]:
    """Train `model` for `recipe.steps` steps and return its averaged weights.

    `step_function(step, numpy generator, torch generator)` returns (loss, figures to log). The checkpoint in
    `work/<name>.pt` is written once a minute and at the end; a finished training returns at once.
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{recipe.name}.pt"
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.99))
    average, start = Average(model, recipe.ema), 0
    if path.exists():
        saved = torch.load(path, weights_only=True, map_location=trained[0].device)
        if saved["recipe"] != (facts := asdict(recipe)):
            other = ", ".join(
                f"{k} {saved['recipe'].get(k)} there, {v} here" for k, v in facts.items() if saved["recipe"].get(k) != v
            )
            raise UserError(
                f"{path}: comes from another recipe ({other}); remove it, or pass another folder with --work"
            )
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        average.shadow, start = saved["average"], saved["step"]
        if start < recipe.steps:
            report(f"{recipe.name}: resumes at step {start} of {recipe.steps}")

    def checkpoint(step: int) -> None:
        save_atomically(
            {
                "step": step,
                "recipe": asdict(recipe),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average.shadow,
            },
            path,
        )

    model.train()
    start_time = saved_at = reported_at = time.monotonic()
    figures: dict[str, float] = {}
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        noise = torch.Generator().manual_seed(int(seeded(recipe.name, recipe.seed, step, "noise").integers(2**62)))
        loss, logged = step_function(step, seeded(recipe.name, recipe.seed, step), noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimizer.step()
        average.update(model, step)
        if after_step:
            after_step(step)
        for key, value in {"loss": float(loss.detach()), **logged}.items():
            figures[key] = 0.98 * figures.get(key, value) + 0.02 * value
        clock = time.monotonic()
        if clock - reported_at > TELL_EVERY_SECONDS or step + 1 == recipe.steps:
            pace = (clock - start_time) / (step + 1 - start)
            minutes_left = (recipe.steps - step - 1) * pace / 60
            summary = "  ".join(f"{k} {v:.4f}" for k, v in figures.items())
            report(
                f"{recipe.name}: step {step + 1} of {recipe.steps}  {summary}  {pace:.2f} s a step, {minutes_left:.0f} min left"
            )
            reported_at = clock
        if clock - saved_at > every_seconds:
            checkpoint(step + 1)
            saved_at = clock
    if start < recipe.steps:
        checkpoint(recipe.steps)
    model.eval()
    return average.shadow
