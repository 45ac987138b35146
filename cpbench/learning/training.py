"""The training loop: cached latents, seeded batches, AdamW on the parameters that a method passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.errors import RulesError, UserError
from cpbench.learning import norms
from cpbench.method import Task
from cpbench.moved import old_attributes, renamed_keywords, warn_once

TEMPLATES = ("a photo of a {}", "a picture of a {}", "a {}")


@old_attributes(which="picture_indices")
@dataclass
class Batch:
    """The input of one step.

    latents, noise, noisy: (n, c, h, w), with noisy = z_t. timesteps: (n,). template: the prompt around a phrase, such
    as "a photo of a {}". picture_indices: (n,), the indices of the pictures in the task's images.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    noisy: torch.Tensor
    timesteps: torch.Tensor
    template: str
    picture_indices: torch.Tensor


Tensors = Mapping[str, torch.Tensor]
# Terms by name, all minimised; or (terms that are minimised, values that are only logged).
Terms = dict[str, torch.Tensor] | tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
Loss = Callable[[Batch], Terms]
MoreTerms = Callable[[], dict[str, torch.Tensor]]  # terms that do not depend on the batch
Penalty = Callable[[Batch, Tensors], Terms]
BeforeStep = Callable[[Batch, Tensors, dict[str, dict[str, torch.Tensor]]], None]
AfterStep = Callable[[Tensors, Tensors], None]
Group = tuple[float, Mapping[str, nn.Parameter] | Sequence[nn.Parameter]]


class Latents:
    """A concept's latents and those of its mirrored pictures: encoded once, sampled from the posterior in each step."""

    def __init__(self, backbone: Backbone, task: Task):
        mirrored = task.images[:, :, ::-1]
        pairs = [backbone.encode_images(images) for images in (task.images, mirrored)]
        self.mean, self.std = (torch.cat(part) for part in zip(*pairs, strict=True))

    def sample(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """n latents (n, c, h, w) of random pictures, and the indices (n,) of these pictures, mirrored or not."""
        picture_indices = torch.randint(len(self.mean), (n,), generator=generator)
        noise = torch.randn(self.mean[picture_indices].shape, generator=generator).to(self.mean)
        return self.mean[picture_indices] + self.std[picture_indices] * noise, picture_indices % (len(self.mean) // 2)


def denoising(backbone: Backbone, phrase: str, *more: MoreTerms) -> Loss:
    """The usual denoising loss with a phrase in the prompt (Rombach et al. 2022, eq. 3), as a function of a batch.

    more: functions that return further terms; each is called once per step.
    """

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        prompt_embeds = backbone.encode_prompts([batch.template.format(phrase)]).expand(len(batch.noisy), -1, -1)
        terms = {"denoising": error(backbone, batch, prompt_embeds)}
        for more_terms in more:
            terms |= more_terms()
        return terms

    return loss


@renamed_keywords(words="prompt_embeds")
def error(backbone: Backbone, batch: Batch, prompt_embeds: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the denoiser's prediction, weighted by timestep where the process has weights; a scalar.

    prompt_embeds: (n, tokens, d), one prompt per picture of the batch.
    """
    prediction = backbone.predict(batch.noisy, batch.timesteps, prompt_embeds).float()
    target = backbone.process.target(batch.latents, batch.noise, batch.timesteps).float()
    weight = backbone.process.weight(batch.timesteps)
    if weight is None:
        return F.mse_loss(prediction, target)
    return (weight.view(-1, *[1] * (prediction.ndim - 1)) * (prediction - target).square()).mean()


def batches(
    backbone: Backbone, task: Task, steps: int, batch_size: int, phase: str, templates: Sequence[str] = TEMPLATES
) -> Iterator[Batch]:
    """Yield `steps` batches of the concept's noised latents. They depend only on the seed, the phase and the concept."""
    latents, process = Latents(backbone, task), backbone.process
    generator = task.generator(phase)
    for _ in range(steps):
        z, picture_indices = latents.sample(batch_size, generator)
        # one time from each of batch_size equal strata, so that small batches see all noise levels
        strata = (
            torch.randperm(batch_size, generator=generator) + torch.rand(batch_size, generator=generator)
        ) / batch_size
        t = process.times(strata).to(z.device)
        noise = torch.randn(z.shape, generator=generator).to(z)
        template = templates[int(torch.randint(len(templates), (1,), generator=generator))]
        yield Batch(z, noise, process.noised(z, noise, t), t, template, picture_indices)


def train(
    backbone: Backbone,
    task: Task,
    loss: Loss,
    groups: Sequence[Group],
    steps: int,
    batch_size: int,
    phase: str = "train",
    templates: Sequence[str] = TEMPLATES,
    penalty: Penalty | None = None,
    before_step: BeforeStep | None = None,
    after_step: AfterStep | None = None,
) -> None:
    """Minimise the sum of the terms of `loss` and `penalty` over batches of the concept's pictures.

    groups: (learning rate, parameters) pairs. Parameters are a dict by name or a list, which gets the backbone's names;
    no other parameter changes. The gradient of all parameters together is clipped to norm 1. A method has four hooks:

    loss(batch), penalty(batch, parameters): return the terms to minimise by name, or a pair: (terms to minimise, values
        that are only logged).
    before_step(batch, terms, gradients): gradients[term][parameter] as autograd returned them, before clipping, for
        each minimised term. The hook may change them; the step uses their sum.
    after_step(before, after): the parameters by name before and after the step, for reading only.

    Each step logs the terms, the gradient's norm and `norms.trained_norms` to the task's log under the name `phase`.
    Raises RulesError for a parameter that belongs to the backbone itself, and for a term to minimise without a
    gradient.
    """
    named = [(rate, _named(backbone, group, place)) for place, (rate, group) in enumerate(groups)]
    trained = {name: p for _, group in named for name, p in group.items()}
    parameters = [p for _, group in named for p in group.values()]
    if not backbone.computes:
        _counted(
            batches(backbone, task, steps, batch_size, phase, templates),
            trained,
            loss,
            penalty,
            before_step,
            after_step,
        )
        return
    backbone.train_only(parameters)
    if not all(p.requires_grad for p in parameters):
        raise RulesError(
            "it trains a parameter that is as it was loaded; put a copy in by replace_weights, and train that"
        )
    backbone.trainable_parameters = max(backbone.trainable_parameters, sum(p.numel() for p in parameters))
    optimizer = torch.optim.AdamW(
        [{"params": list(group.values()), "lr": rate} for rate, group in named], weight_decay=0.0
    )
    # float16 gradients would underflow without scaling; in other precisions this does nothing
    scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.dtype == torch.float16)
    for step, batch in enumerate(batches(backbone, task, steps, batch_size, phase, templates)):
        terms, logged = parted(loss(batch))
        if penalty is not None:
            penalty_terms, penalty_logged = parted(penalty(batch, trained))
            terms, logged = terms | penalty_terms, logged | penalty_logged
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        if before_step is None:
            scaler.scale(total).backward()
        else:
            gradients = {name: _gradients(term, trained, scaler) for name, term in terms.items()}
            before_step(batch, terms, gradients)
            _add_up(gradients, trained, scaler)
        if not torch.isfinite(total):
            raise UserError(
                f"concept {task.concept}: the loss is {float(total.detach())} at step {step}; lower the learning rate"
            )
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        before = {name: p.detach().clone() for name, p in trained.items()} if after_step is not None else {}
        scaler.step(optimizer)
        scaler.update()
        if after_step is not None:
            after_step(before, {name: p.detach() for name, p in trained.items()})
        figures = {"loss": total, "gradient_norm": norm, **terms, **logged, **norms.trained_norms(backbone)}
        task.log(step, phase=phase, **{k: float(v.detach()) for k, v in figures.items()})


def _counted(
    steps: Iterator[Batch],
    trained: Mapping[str, nn.Parameter],
    loss: Loss,
    penalty: Penalty | None,
    before_step: BeforeStep | None,
    after_step: AfterStep | None,
) -> None:
    """The loop on a counting backbone: the same calls of the method, but no gradients and no steps."""
    for parameter in trained.values():
        parameter.requires_grad_(False)
    values = {name: p.detach() for name, p in trained.items()}
    for batch in steps:
        returned = [loss(batch), *([penalty(batch, trained)] if penalty else [])]
        terms = {k: term for part in returned for k, term in (part[0] if isinstance(part, tuple) else part).items()}
        if before_step is not None:
            before_step(batch, terms, {term: {k: torch.zeros_like(p) for k, p in values.items()} for term in terms})
        if after_step is not None:
            after_step(values, values)
    for parameter in trained.values():
        parameter.requires_grad_(True)


def _named(backbone: Backbone, group: Mapping[str, nn.Parameter] | Sequence[nn.Parameter], place: int) -> dict:
    """A group's parameters by name: the names of the dict, else the backbone's, else "<place of the group>.<place>"."""
    if isinstance(group, Mapping):
        return dict(group)
    names = {
        id(p): name
        for tensors in (backbone.lora_parameters, backbone.weights, backbone.token_embeddings)
        for name, p in tensors.items()
    }
    return {names.get(id(p), f"{place}.{k}"): p for k, p in enumerate(group)}


def parted(terms: Terms) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(terms that are minimised, values that are only logged). RulesError for a minimised term without a gradient."""
    if isinstance(terms, tuple):
        minimised, logged = terms
        if flat := [name for name, term in minimised.items() if not term.requires_grad]:
            raise RulesError(
                f"its term {flat[0]!r} is to be minimised and has no gradient; return it in the second dict, with the values "
                "that are only logged"
            )
        return minimised, logged
    logged = {name: term for name, term in terms.items() if not term.requires_grad}
    if logged:  # as in cpbench 0.1
        warn_once(
            "a term without gradient in one dict with the others", "(terms to minimise, values that are only logged)"
        )
    return {name: term for name, term in terms.items() if name not in logged}, logged


def _gradients(term: torch.Tensor, trained: Mapping[str, nn.Parameter], scaler: Any) -> dict[str, torch.Tensor]:
    """d term / d parameter for the parameters that the term depends on, without the scaling for float16."""
    gradients = torch.autograd.grad(scaler.scale(term), list(trained.values()), retain_graph=True, allow_unused=True)
    return {name: g / scaler.get_scale() for name, g in zip(trained, gradients, strict=True) if g is not None}


def _add_up(gradients: Mapping[str, Tensors], trained: Mapping[str, nn.Parameter], scaler: Any) -> None:
    """Set each parameter's gradient to the sum over terms, scaled as the optimiser's step expects it."""
    for name, parameter in trained.items():
        parts = [by_name[name] for by_name in gradients.values() if name in by_name]
        parameter.grad = torch.stack(parts).sum(0) * scaler.get_scale() if parts else None
