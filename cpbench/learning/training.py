"""The one training loop: cached latents, seeded batches, AdamW over the tensors a method names."""

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
from cpbench.moved import old_attribute, renamed_keywords, warn_once

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
    picture_indices: torch.Tensor

    which = old_attribute("Batch.which", "picture_indices")  # of cpbench 0.1, until 0.3


Tensors = Mapping[str, torch.Tensor]
# Terms by name, all minimised; or (terms that are minimised, numbers that are only logged).
Terms = dict[str, torch.Tensor] | tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]
Loss = Callable[[Batch], Terms]
MoreTerms = Callable[[], dict[str, torch.Tensor]]  # those that do not look at the batch
Penalty = Callable[[Batch, Tensors], Terms]
BeforeStep = Callable[[Batch, Tensors, dict[str, dict[str, torch.Tensor]]], None]
AfterStep = Callable[[Tensors, Tensors], None]
Group = tuple[float, Mapping[str, nn.Parameter] | Sequence[nn.Parameter]]


class Latents:
    """A concept's latents with their mirror images, encoded once; every step draws fresh ones from the posterior."""

    def __init__(self, backbone: Backbone, task: Task):
        mirrored = task.images[:, :, ::-1]
        pairs = [backbone.encode_images(images) for images in (task.images, mirrored)]
        self.mean, self.std = (torch.cat(part) for part in zip(*pairs, strict=True))

    def sample(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(latents (n, c, h, w), the pictures (n,) they are of, mirrored or not)."""
        picture_indices = torch.randint(len(self.mean), (n,), generator=generator)
        fresh = torch.randn(self.mean[picture_indices].shape, generator=generator).to(self.mean)
        return self.mean[picture_indices] + self.std[picture_indices] * fresh, picture_indices % (len(self.mean) // 2)


def denoising(backbone: Backbone, phrase: str, *more: MoreTerms) -> Loss:
    """The usual loss: mean squared error of what the denoiser predicts under the words `phrase` (Rombach et al. 2022, eq. 3).

    Each of `more` is called once a step, and its terms go beside this one.
    """

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        prompt_embeds = backbone.encode_prompts([batch.template.format(phrase)]).expand(len(batch.noisy), -1, -1)
        terms = {"denoising": error(backbone, batch, prompt_embeds)}
        for also in more:
            terms |= also()
        return terms

    return loss


@renamed_keywords(words="prompt_embeds")
def error(backbone: Backbone, batch: Batch, prompt_embeds: torch.Tensor) -> torch.Tensor:
    """Mean squared error of what the denoiser predicts under words (n, tokens, d), one of them a picture, by its time's weight."""
    guess = backbone.predict(batch.noisy, batch.timesteps, prompt_embeds).float()
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
    """Minimise the sum of the terms of `loss`, and of `penalty`, over batches of the concept's pictures.

    groups: (learning rate, parameters), by name or in a row, then called as the backbone calls them; nothing else moves. The
    gradient of all together is clipped to norm 1. A method may enter at four places:

    loss(batch), penalty(batch, parameters): terms to minimise, or a pair of those and of what is only logged.
    before_step(batch, terms, gradients): gradients[term][parameter] as autograd gave them, before clipping, of every term
        that is minimised; they may be changed, and what stands there afterwards is added up. Made only where it is asked for.
    after_step(before, after): the parameters by name as they were before the step, and as they are; they may be read.

    Figures of each step go to the task's log, under the name of this phase: the terms, the gradient's norm, and after the
    step those of what is trained (`norms.of_trained`). RulesError for a parameter of the backbone's own, which no method may
    move, and for a term to minimise that asks for no gradient.
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
    # gradients in float16 vanish unless they are scaled up; in other precisions this does nothing
    scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.dtype == torch.float16)
    for step, batch in enumerate(batches(backbone, task, steps, batch_size, phase, templates)):
        terms, logged = parted(loss(batch))
        if penalty is not None:
            more, numbers = parted(penalty(batch, trained))
            terms, logged = terms | more, logged | numbers
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
    """The same calls of the method where only evaluations of the denoiser are counted: no gradients, and nothing moves."""
    for parameter in trained.values():
        parameter.requires_grad_(False)
    now = {name: p.detach() for name, p in trained.items()}
    for batch in steps:
        given = [loss(batch), *([penalty(batch, trained)] if penalty else [])]
        terms = {name: term for it in given for name, term in (it[0] if isinstance(it, tuple) else it).items()}
        if before_step is not None:
            before_step(batch, terms, {term: {k: torch.zeros_like(p) for k, p in now.items()} for term in terms})
        if after_step is not None:
            after_step(now, now)
    for parameter in trained.values():
        parameter.requires_grad_(True)


def _named(backbone: Backbone, group: Mapping[str, nn.Parameter] | Sequence[nn.Parameter], place: int) -> dict:
    """A group's parameters by name: its own, the backbone's for a LoRA, weight or word, or what place it has."""
    if isinstance(group, Mapping):
        return dict(group)
    known = {
        id(p): name
        for of in (backbone.lora_parameters, backbone.weights, backbone.token_embeddings)
        for name, p in of.items()
    }
    return {known.get(id(p), f"{place}.{k}"): p for k, p in enumerate(group)}


def parted(given: Terms) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """(terms that are minimised, what is only logged). RulesError for a term of a pair that has no gradient."""
    if isinstance(given, tuple):
        terms, logged = given
        if flat := [name for name, term in terms.items() if not term.requires_grad]:
            raise RulesError(
                f"its term {flat[0]!r} is to be minimised and asks for no gradient; return it in the second dict, of what "
                "is only logged"
            )
        return terms, logged
    logged = {name: term for name, term in given.items() if not term.requires_grad}
    if logged:  # as in cpbench 0.1
        warn_once("a term without gradient in one dict with the others", "(terms to minimise, what is only logged)")
    return {name: term for name, term in given.items() if name not in logged}, logged


def _gradients(term: torch.Tensor, trained: Mapping[str, nn.Parameter], scaler: Any) -> dict[str, torch.Tensor]:
    """d term / d parameter of those that the term depends on, with the scale of float16 taken off again."""
    found = torch.autograd.grad(scaler.scale(term), list(trained.values()), retain_graph=True, allow_unused=True)
    return {name: g / scaler.get_scale() for name, g in zip(trained, found, strict=True) if g is not None}


def _add_up(gradients: Mapping[str, Tensors], trained: Mapping[str, nn.Parameter], scaler: Any) -> None:
    """The sum of all terms' gradients into each parameter, scaled as the optimiser's step expects them."""
    for name, parameter in trained.items():
        parts = [of_term[name] for of_term in gradients.values() if name in of_term]
        parameter.grad = torch.stack(parts).sum(0) * scaler.get_scale() if parts else None
