"""The denoiser evaluations that learning takes, counted by running the method on a backbone that computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cpbench import own_modules, remembered
from cpbench.backbones.backbone import Backbone
from cpbench.method import Method, Options, State, Task
from cpbench.moved import renamed_keywords
from cpbench.records.record import Cost

if TYPE_CHECKING:
    from cpbench.backbones.sampling import Sampler
    from cpbench.running.prepare import Run

TOPIC = "evaluations"
WORTH_SAYING = 0.01  # relative difference from the counted number above which a run is reported


class CountingBackbone(Backbone):
    """A backbone with the same interface that only counts: its predictions are zeros of the right shape, with a gradient.

    It shares its modules with the backbone it is made from: LoRAs, tokens and weights are put into those modules, and
    `restore` removes them. Use only one of the two at a time.
    """

    computes = False

    def __init__(self, backbone: Backbone):
        vars(self).update(vars(backbone))
        self._originals, self.lora_parameters, self.weights, self.facts = {}, {}, {}, {}
        self.unet_evaluations = 0
        self._anchor = nn.Parameter(torch.zeros((), device=backbone.device))
        with torch.no_grad():
            self._prompt_shape = backbone.encode_prompts(["a"]).shape[1:]

    @renamed_keywords(words="prompt_embeds", factors="lora_parameters")
    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompt_embeds: torch.Tensor,
        lora_parameters: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        self.unet_evaluations += len(noisy)
        return torch.zeros_like(noisy) + self._anchor

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(prompts), *self._prompt_shape, device=self.device)

    def encode_images(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        zeros = torch.zeros(len(images), *self.latent_shape, device=self.device)
        return zeros, zeros.clone()

    def decode_latents(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pictures = torch.zeros((len(latents), self.picture_size, self.picture_size, 3), dtype=torch.uint8)
        return pictures, torch.tensor(True)

    def sample_latents(self, prompts: list[str], latents: torch.Tensor, sampler: Sampler) -> torch.Tensor:
        a_step = self.family.evaluations_a_step(sampler.guidance_scale)
        self.unet_evaluations += len(prompts) * sampler.num_inference_steps * a_step
        return latents


def count(method: type[Method], options: Options, tasks: list[Task], backbone: Backbone) -> list[int]:
    """Evaluations of each task's learning. Raises what the method raises."""
    counting, state, counts = CountingBackbone(backbone), State(), []
    backbone.restore()
    try:
        for task in tasks:
            before = counting.unet_evaluations
            state = method(options).learn(counting, task, state)
            counting.restore()
            counts.append(counting.unet_evaluations - before)
    finally:
        counting.restore()
    return counts


def learning_counts(run: Run) -> list[int] | None:
    """Evaluations of each task's learning, counted now or remembered; None if the method fails on the counting backbone.

    Such a method's own error is raised when the run reaches it.
    """
    pictures = {name: len(images) for name, images in run.images.items()}
    key = key_of(run.method_class, run.config.options, run.config.backbone, pictures)
    if (counts := remembered_counts(key)) is not None:
        return counts
    # blank pictures: a method may not see a concept before its task
    tasks = [
        replace(task, images=np.zeros_like(task.images))
        for task in map(run.task, range(1, len(run.sequence.concepts) + 1))
    ]
    try:
        counts = count(run.method_class, run.options, tasks, run.backbone)
    except Exception:  # a user's method may raise anything
        return None
    remembered.remember(TOPIC, key, counts)
    return counts


def key_of(method: type[Method], options: dict[str, Any], backbone: str, pictures: Mapping[str, int]) -> dict[str, Any]:
    """Everything the counts depend on: the method's code and options, the backbone, and each task's number of pictures."""
    return {
        "code": own_modules.identity(method),
        "method": f"{method.__module__}.{method.__qualname__}",
        "options": options,
        "backbone": backbone,
        "pictures": list(pictures.values()),
    }


def remembered_counts(key: dict[str, Any]) -> list[int] | None:
    """The remembered counts; None if there are none."""
    counts = remembered.recall(TOPIC, key)
    is_valid = isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
    return counts if is_valid and len(counts) == len(key["pictures"]) else None


def difference(counts: list[int] | None, costs: Mapping[int, Cost]) -> str:
    """A note for a run whose number of evaluations differs from the counted one, else ""."""
    took = sum(cost.learning_evaluations for cost in costs.values())
    counted = sum(counts or [])
    if counts is None or abs(took - counted) <= WORTH_SAYING * max(took, counted):
        return ""
    return (
        f"note: learning took {took:,} evaluations, but {counted:,} were counted beforehand: the number depends on the "
        "backbone's predictions, or changes from run to run"
    )
