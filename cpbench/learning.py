"""The one training loop: cached latents, seeded batches, AdamW over the tensors a method names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones import Backbone
from cpbench.errors import UserError
from cpbench.method import Task

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}")


@dataclass
class Batch:
    """What one step sees. latents, noise, noisy: (n, c, h, w); timesteps: (n,); prompt: the words of all n."""

    latents: torch.Tensor
    noise: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor
    prompt: str


class Latents:
    """A concept's latents with their mirror images, encoded once; every step draws fresh ones from the posterior."""

    def __init__(self, backbone: Backbone, task: Task):
        mirrored = task.images[:, :, ::-1]
        pairs = [backbone.encode_images(images) for images in (task.images, mirrored)]
        self.mean, self.std = (torch.cat(part) for part in zip(*pairs, strict=True))

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        which = torch.randint(len(self.mean), (n,), generator=generator)
        return self.mean[which] + self.std[which] * torch.randn(self.mean[which].shape, generator=generator).to(
            self.mean
        )


def noise_scheduler(backbone: Backbone):
    """The training scheduler that belongs to the pipeline's sampling scheduler."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(backbone.pipe.scheduler.config)


def target(scheduler, batch: Batch) -> torch.Tensor:
    """What the UNet should predict, by the pipeline's prediction type."""
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return batch.noise
    if kind == "v_prediction":
        return scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    return batch.latents


def train(
    backbone: Backbone,
    task: Task,
    phrase: str,
    groups: Sequence[tuple[float, Sequence[nn.Parameter]]],
    steps: int,
    batch_size: int,
    purpose: str = "train",
    penalty: Callable[[], dict[str, torch.Tensor]] | None = None,
) -> None:
    """Minimise the denoising error of the concept's pictures under `phrase`, plus the terms of `penalty`.

    groups: (learning rate, parameters) pairs; nothing else moves. Figures of each step go to the task's log.
    """
    latents = Latents(backbone, task)
    scheduler = noise_scheduler(backbone)
    generator = task.generator(purpose)
    parameters = [p for _, group in groups for p in group]
    backbone.trainable_parameters = max(backbone.trainable_parameters, sum(p.numel() for p in parameters))
    optimizer = torch.optim.AdamW([{"params": list(group), "lr": rate} for rate, group in groups], weight_decay=0.0)
    for step in range(steps):
        z = latents.draw(batch_size, generator)
        # one timestep from each of batch_size equal strata, so that small batches see all noise levels
        strata = (
            torch.randperm(batch_size, generator=generator) + torch.rand(batch_size, generator=generator)
        ) / batch_size
        t = (strata * scheduler.config.num_train_timesteps).long()
        t = t.clamp(max=scheduler.config.num_train_timesteps - 1).to(z.device)  # rounding may reach the end
        noise = torch.randn(z.shape, generator=generator).to(z)
        prompt = TEMPLATES[int(torch.randint(len(TEMPLATES), (1,), generator=generator))].format(phrase)
        batch = Batch(z, noise, scheduler.add_noise(z, noise, t), t, prompt)
        words = backbone.encode_prompts([prompt]).expand(batch_size, -1, -1)
        guess = backbone.unet(batch.noisy, t, words).sample
        terms = {"denoising": F.mse_loss(guess.float(), target(scheduler, batch).float())}
        if penalty is not None:
            terms |= penalty()
        loss = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not torch.isfinite(loss):
            raise UserError(
                f"concept {task.concept}: the loss is {float(loss.detach())} at step {step}; lower the learning rate"
            )
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        task.log(
            step,
            loss=float(loss.detach()),
            gradient_norm=float(norm),
            **{k: float(v.detach()) for k, v in terms.items()},
        )
