"""The one training loop: cached latents, seeded batches, AdamW over the tensors a method names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.errors import RulesError, UserError
from cpbench.learning import norms
from cpbench.method import Task

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}")


@dataclass
class Batch:
    """What one step sees. latents, noise, noisy: (n, c, h, w); timesteps: (n,); template: the prompt around a phrase;
    which: (n,) the pictures they come from, by their place in the task's images.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor
    template: str
    which: torch.Tensor


Loss = Callable[[Batch], dict[str, torch.Tensor]]
Terms = Callable[[], dict[str, torch.Tensor]]  # those of a loss that do not look at the batch


class Latents:
    """A concept's latents with their mirror images, encoded once; every step draws fresh ones from the posterior."""

    def __init__(self, backbone: Backbone, task: Task):
        mirrored = task.images[:, :, ::-1]
        pairs = [backbone.encode_images(images) for images in (task.images, mirrored)]
        self.mean, self.std = (torch.cat(part) for part in zip(*pairs, strict=True))

    def draw(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(latents (n, c, h, w), the pictures (n,) they are of, mirrored or not)."""
        which = torch.randint(len(self.mean), (n,), generator=generator)
        fresh = torch.randn(self.mean[which].shape, generator=generator).to(self.mean)
        return self.mean[which] + self.std[which] * fresh, which % (len(self.mean) // 2)


def denoising(backbone: Backbone, phrase: str, *more: Terms) -> Loss:
    """The usual loss: mean squared error of what the denoiser predicts under the words `phrase` (Rombach et al. 2022, eq. 3).

    Each of `more` is called once a step, and its terms go beside this one.
    """

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        words = backbone.encode_prompts([batch.template.format(phrase)]).expand(len(batch.noisy), -1, -1)
        terms = {"denoising": error(backbone, batch, words)}
        for also in more:
            terms |= also()
        return terms

    return loss


def error(backbone: Backbone, batch: Batch, words: torch.Tensor) -> torch.Tensor:
    """Mean squared error of what the denoiser predicts under words (n, tokens, d), one of them a picture, by its time's weight."""
    guess = backbone.predict(batch.noisy, batch.timesteps, words).float()
    target = backbone.process.target(batch.latents, batch.noise, batch.timesteps).float()
    weight = backbone.process.weight(batch.timesteps)
    if weight is None:
        return F.mse_loss(guess, target)
    return (weight.view(-1, *[1] * (guess.ndim - 1)) * (guess - target).square()).mean()


def batches(
    backbone: Backbone, task: Task, steps: int, batch_size: int, phase: str, templates: Sequence[str] = TEMPLATES
) -> Iterator[Batch]:
    """`steps` batches of the concept's noised latents: a function of (seed, phase, concept) alone."""
    latents, process = Latents(backbone, task), backbone.process
    generator = task.generator(phase)
    for _ in range(steps):
        z, which = latents.draw(batch_size, generator)
        # one time from each of batch_size equal strata, so that small batches see all noise levels
        strata = (
            torch.randperm(batch_size, generator=generator) + torch.rand(batch_size, generator=generator)
        ) / batch_size
        t = process.times(strata).to(z.device)
        noise = torch.randn(z.shape, generator=generator).to(z)
        template = templates[int(torch.randint(len(templates), (1,), generator=generator))]
        yield Batch(z, noise, process.noised(z, noise, t), t, template, which)


def train(
    backbone: Backbone,
    task: Task,
    loss: Loss,
    groups: Sequence[tuple[float, Sequence[nn.Parameter]]],
    steps: int,
    batch_size: int,
    phase: str = "train",
    templates: Sequence[str] = TEMPLATES,
) -> None:
    """Minimise the sum of the terms of `loss` over batches of the concept's pictures.

    groups: (learning rate, parameters) pairs; nothing else moves. Terms that need no gradient are logged, not added.
    Figures of each step go to the task's log, under the name of this phase: the terms, the gradient's norm, and after the
    step those of what is trained (`norms.of_trained`). The gradient of all
    groups together is clipped to norm 1. Raises RulesError for a parameter of the backbone's own: no method may move it.
    """
    parameters = [p for _, group in groups for p in group]
    backbone.train_only(parameters)
    if not all(p.requires_grad for p in parameters):
        raise RulesError(
            "it trains a parameter that is as it was loaded; put a copy in by replace_weights, and train that"
        )
    backbone.trainable_parameters = max(backbone.trainable_parameters, sum(p.numel() for p in parameters))
    optimizer = torch.optim.AdamW([{"params": list(group), "lr": rate} for rate, group in groups], weight_decay=0.0)
    # gradients in float16 vanish unless they are scaled up; in other precisions this does nothing
    scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.dtype == torch.float16)
    for step, batch in enumerate(batches(backbone, task, steps, batch_size, phase, templates)):
        terms = loss(batch)
        total = torch.stack([v for v in terms.values() if v.requires_grad]).sum()
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(total).backward()
        if not torch.isfinite(total):
            raise UserError(
                f"concept {task.concept}: the loss is {float(total.detach())} at step {step}; lower the learning rate"
            )
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        figures = {"loss": total, "gradient_norm": norm, **terms, **norms.of_trained(backbone)}
        task.log(step, phase=phase, **{k: float(v.detach()) for k, v in figures.items()})
