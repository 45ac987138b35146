"""The training loop: cached latents, seeded batches, AdamW on the parameters that a method passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.memory_format import channels_last
from cpbench.errors import RulesError
from cpbench.learning import norms, step_log
from cpbench.learning.encoded_prompts import encoded, encoding_once
from cpbench.learning.optimizer import Optimizer
from cpbench.learning.step_log import StepLog
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
Penalty = Callable[[Batch, Tensors], Terms]
BeforeStep = Callable[[Batch, Tensors, dict[str, dict[str, torch.Tensor]]], None]
AfterStep = Callable[[Tensors, Tensors], None]
Moving = Callable[[str, torch.Tensor], torch.Tensor]
Group = tuple[float, Mapping[str, nn.Parameter] | Sequence[nn.Parameter]]


class Latents:
    """A concept's latents and those of its mirrored pictures: encoded once, sampled from the posterior in each step."""

    def __init__(self, backbone: Backbone, task: Task):
        self.pictures = len(task.images)
        both_ways = [task.images, task.images[:, :, ::-1]] if task.recipe.mirrored_pictures else [task.images]
        pairs = [backbone.encode_images(images) for images in both_ways]
        self.mean, self.std = (torch.cat(part) for part in zip(*pairs, strict=True))

    def sample(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """n latents (n, c, h, w) of random pictures, and the indices (n,) of these pictures, mirrored or not."""
        picture_indices = torch.randint(len(self.mean), (n,), generator=generator)
        noise = torch.randn(self.mean[picture_indices].shape, generator=generator).to(self.mean)
        return self.mean[picture_indices] + self.std[picture_indices] * noise, picture_indices % self.pictures


@dataclass(frozen=True)
class ErrorTerm:
    """A term of the loss: the denoising error on further pictures, times `weight`.

    Called without arguments it returns {name: error}. `denoising` computes it in the same call of the denoiser as the
    concept's own. batches: one per step. prompts: prompts[k] is the prompt of picture k.
    """

    backbone: Backbone
    name: str
    weight: float
    batches: Iterator[Batch]
    prompts: Sequence[str]

    def inputs(self, batch: Batch | None = None) -> tuple[Batch, list[str]]:
        """The next batch, and the prompt of each of its pictures, whatever the concept's own batch is."""
        batch = next(self.batches)
        return batch, [self.prompts[k] for k in batch.picture_indices.tolist()]

    def value(self, prediction: torch.Tensor, batch: Batch, prompts: Sequence[str]) -> torch.Tensor:
        """The error, a scalar, of the denoiser's prediction for `inputs`."""
        return _error(self.backbone, batch, prediction)

    def __call__(self) -> dict[str, torch.Tensor]:
        batch, prompts = self.inputs()
        (prediction,) = predictions(self.backbone, [(batch, prompts)])
        return {self.name: self.weight * self.value(prediction, batch, prompts)}


@dataclass(frozen=True)
class TeacherTerm:
    """A term of the loss: the mean squared distance to a frozen teacher's predictions, times `weight`.

    On the concept's own batch with another phrase in its template, in the same call of the denoiser as the concept's
    own. phrase: called once a step. teacher: its prediction for a batch and its prompts, without gradient.
    """

    backbone: Backbone
    name: str
    weight: float
    phrase: Callable[[], str]
    teacher: Callable[[Batch, Sequence[str]], torch.Tensor]

    def inputs(self, batch: Batch) -> tuple[Batch, list[str]]:
        """The batch itself, and its prompts with the phrase."""
        return batch, [batch.template.format(self.phrase())] * len(batch.noisy)

    def value(self, prediction: torch.Tensor, batch: Batch, prompts: Sequence[str]) -> torch.Tensor:
        """The distance, a scalar, of the denoiser's prediction for `inputs`."""
        with torch.no_grad():
            target = self.teacher(batch, prompts).float()
        return F.mse_loss(prediction, target)


OneCallTerm = ErrorTerm | TeacherTerm
MoreTerms = Callable[[], dict[str, torch.Tensor]] | TeacherTerm  # further terms of the loss, see `denoising`


def denoising(backbone: Backbone, phrase: str, *more: MoreTerms) -> Loss:
    """The usual denoising loss with a phrase in the prompt (Rombach et al. 2022, eq. 3), as a function of a batch.

    more: functions that return further terms; each is called once per step. An `ErrorTerm` or a `TeacherTerm` is computed
    in the same call of the denoiser.
    """

    def loss(batch: Batch) -> dict[str, torch.Tensor]:
        return denoising_terms(backbone, batch, [batch.template.format(phrase)] * len(batch.noisy), more)

    return loss


def denoising_terms(
    backbone: Backbone, batch: Batch, prompts: Sequence[str], more: Sequence[MoreTerms] = ()
) -> dict[str, torch.Tensor]:
    """{"denoising": the error on the batch, one prompt per picture} and the terms of `more`, as `denoising` takes them."""
    together = [term for term in more if isinstance(term, OneCallTerm)]
    parts = [term.inputs(batch) for term in together]
    first, *further = predictions(backbone, [(batch, prompts), *parts])
    terms = {"denoising": _error(backbone, batch, first)}
    for term, prediction, part in zip(together, further, parts, strict=True):
        terms[term.name] = term.weight * term.value(prediction, *part)
    for more_terms in more:
        if not isinstance(more_terms, OneCallTerm):
            terms |= more_terms()
    return terms


def predictions(backbone: Backbone, parts: Sequence[tuple[Batch, Sequence[str]]]) -> tuple[torch.Tensor, ...]:
    """The denoiser's predictions, float32, for each (batch, prompts of its pictures), by one call on all."""
    prompt_embeds = encoded(backbone, [prompt for _, prompts in parts for prompt in prompts])
    if len(parts) == 1:  # nothing is copied in every step of most methods
        batch, _ = parts[0]
        return (backbone.predict(batch.noisy, batch.timesteps, prompt_embeds).float(),)
    noisy, timesteps = (torch.cat([getattr(batch, key) for batch, _ in parts]) for key in ("noisy", "timesteps"))
    return backbone.predict(noisy, timesteps, prompt_embeds).float().split([len(batch.noisy) for batch, _ in parts])


@renamed_keywords(words="prompt_embeds")
def error(backbone: Backbone, batch: Batch, prompt_embeds: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the denoiser's prediction, weighted by timestep where the process has weights; a scalar.

    prompt_embeds: (n, tokens, d), one prompt per picture of the batch.
    """
    return _error(backbone, batch, backbone.predict(batch.noisy, batch.timesteps, prompt_embeds).float())


def _error(backbone: Backbone, batch: Batch, prediction: torch.Tensor) -> torch.Tensor:
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
        t = process.times(shares(batch_size, generator, task.recipe.stratified_times)).to(z.device)
        noise = torch.randn(z.shape, generator=generator).to(z)
        template = templates[int(torch.randint(len(templates), (1,), generator=generator))]
        yield Batch(z, noise, process.noised(z, noise, t), t, template, picture_indices)


def shares(n: int, generator: torch.Generator, stratified: bool) -> torch.Tensor:
    """n shares of all times, in [0, 1): one of each of n equal strata, so that small batches see all noise levels.

    Not `stratified`: each is drawn alone.
    """
    if not stratified:
        return torch.rand(n, generator=generator)
    return (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n


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
    moving: Moving | None = None,
) -> None:
    """Minimise the sum of the terms of `loss` and `penalty` over batches of the concept's pictures.

    groups: (learning rate, parameters) pairs. Parameters are a dict by name or a list, which gets the backbone's names;
    no other parameter changes. The gradient of all parameters together is clipped to norm 1. A method has five hooks:

    loss(batch), penalty(batch, parameters): return the terms to minimise by name, or a pair: (terms to minimise, values
        that are only logged).
    before_step(batch, terms, gradients): gradients[term][parameter] as autograd returned them, before clipping, for
        each minimised term. The hook may change them; the step uses their sum.
    after_step(before, after): the parameters by name before and after the step, for reading only.
    moving(name, m): which entries (bool) of a parameter the step moves, from AdamW's first moment m after the step; the
        others stay where they are, while their moments move as well.

    Each step logs the terms and the gradient's norm to the task's log under the name `phase`, and every tenth step and
    the last also `norms.trained_norms`. The log is written, and the loss is checked, in these steps: UserError for a
    loss that was not finite in one of the steps since. While the loop runs, parameters are views into one vector, see
    `flat`. Prompts without a trained word are encoded once.
    Raises RulesError for a parameter that belongs to the backbone itself or is named twice, and for a term to minimise
    without a gradient.
    """
    named = [(rate, _named(backbone, group, place)) for place, (rate, group) in enumerate(groups) if group]
    trained = {name: p for _, group in named for name, p in group.items()}
    parameters = [p for _, group in named for p in group.values()]
    if len({id(p) for p in parameters}) < len(parameters):
        raise RulesError("it trains a parameter twice; name it in one group")
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
    # float16 gradients would underflow without scaling; in other precisions this does nothing
    scaler = torch.amp.GradScaler(backbone.device.type, enabled=backbone.dtype == torch.float16)
    log = StepLog(task, phase)
    in_use, trains_norms = channels_last(backbone.denoiser), _trains_group_norms(backbone.denoiser, parameters)
    with Optimizer(named, backbone.dtype, task.recipe.weight_decay) as optimizer, encoding_once(backbone), in_use, log:
        for step, batch in enumerate(batches(backbone, task, steps, batch_size, phase, templates)):
            optimizer.begin_step()
            also = [batch.noisy.requires_grad_()] if trains_norms else []
            terms, logged = parted(loss(batch))
            if penalty is not None:
                penalty_terms, penalty_logged = parted(penalty(batch, trained))
                terms, logged = terms | penalty_terms, logged | penalty_logged
            total = torch.stack(list(terms.values())).sum()
            if before_step is None:
                optimizer.receive([_scaled_gradients(total, trained, scaler, retain_graph=False, also=also)])
            else:
                gradients = {name: _gradients(term, trained, scaler, also) for name, term in terms.items()}
                before_step(batch, terms, gradients)
                scale = scaler.get_scale() if scaler.is_enabled() else 1.0
                optimizer.receive(list(gradients.values()), scale, keep=True)
            scaler.unscale_(optimizer.adamw)
            norm = optimizer.clip()
            before = optimizer.values() if after_step is not None or moving is not None else {}
            optimizer.step(scaler)
            if moving is not None:
                optimizer.put_back(before, moving)
            if after_step is not None:
                after_step(before, {name: p.detach() for name, p in trained.items()})
            has_norms = step % step_log.PERIOD == 0 or step == steps - 1
            values = norms.trained_norms(backbone) if has_norms else {}
            log.add(step, {"loss": total, "gradient_norm": norm, **terms, **logged, **values})


def _trains_group_norms(denoiser: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a GroupNorm is trained. In its backward pass in channels_last torch 2.13 crashes unless its input's gradient is
    asked for as well; then the loop asks for that of the latents."""
    of_norms = (p for module in denoiser.modules() if isinstance(module, nn.GroupNorm) for p in module.parameters())
    trained = {id(p) for p in parameters}
    return any(id(p) in trained for p in of_norms)


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


def _gradients(
    term: torch.Tensor, trained: Mapping[str, nn.Parameter], scaler: Any, also: Sequence[torch.Tensor] = ()
) -> dict[str, torch.Tensor]:
    """d term / d parameter for the parameters that the term depends on, without the scaling for float16."""
    gradients = _scaled_gradients(term, trained, scaler, retain_graph=True, also=also)
    if not scaler.is_enabled():
        return gradients
    return {name: g / scaler.get_scale() for name, g in gradients.items()}


def _scaled_gradients(
    loss: torch.Tensor,
    trained: Mapping[str, nn.Parameter],
    scaler: Any,
    retain_graph: bool,
    also: Sequence[torch.Tensor] = (),
) -> dict[str, torch.Tensor]:
    """d loss / d parameter for the parameters that the loss depends on, scaled for float16; computed of `also` as well."""
    scaled, parameters = scaler.scale(loss), [*trained.values(), *also]
    gradients = torch.autograd.grad(scaled, parameters, retain_graph=retain_graph, allow_unused=True)
    return {name: g for name, g in zip(trained, gradients, strict=False) if g is not None}
