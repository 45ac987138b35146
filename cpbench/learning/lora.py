"""One LoRA and one new word per concept, as the sequential methods train them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Self, cast

import torch
from pydantic import Field, model_validator
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.files import seed_of
from cpbench.learning import training
from cpbench.learning.class_preservation import ClassPreservationOptions, class_preservation_term
from cpbench.learning.flat import joined
from cpbench.learning.semantic_preservation import SemanticPreservationOptions, semantic_preservation_term
from cpbench.learning.words import WordOptions, add_fixed_word, add_words
from cpbench.method import Method, RecipeOptions, State, Task
from cpbench.moved import old_names, renamed_keywords, warn_once

TOKEN = "token"  # the name of the new word's embedding among the parameters


class LoraOptions(SemanticPreservationOptions, ClassPreservationOptions, RecipeOptions, WordOptions):
    """Options of a method that trains a LoRA and a word."""

    rank: int = Field(8, ge=1, description="rank of the LoRA; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        adapters.ATTENTION, description="layers with a LoRA: roles, or endings of layer names"
    )
    steps: int = Field(500, ge=1, description="optimiser steps per task")
    batch_size: int = Field(1, ge=1, description="pictures per step; a task takes steps x batch_size UNet evaluations")
    learning_rate: float = Field(1e-4, gt=0, description="learning rate of the LoRA factors")
    token_learning_rate: float = Field(5e-4, ge=0, description="learning rate of the new word's embedding")

    @model_validator(mode="after")
    def _refuse_to_learn_and_hold_one_prompt(self) -> Self:
        if self.word == "none" and self.dop_weight:
            raise ValueError(
                "dop_weight: with word=none the class noun's prompt is the concept's own; leave one of them out"
            )
        return self


@renamed_keywords(protect="penalty", changes="weight_deltas", values="init", kind="adapter_type")
def learn_lora(
    method: Method,
    backbone: Backbone,
    task: Task,
    state: State,
    penalty: training.Penalty | None = None,
    start: torch.Tensor | None = None,
    weight_deltas: dict[str, torch.Tensor] | None = None,
    init: dict[str, torch.Tensor] | None = None,
    adapter_type: adapters.AdapterType = "lora",
    before_step: training.BeforeStep | None = None,
    after_step: training.AfterStep | None = None,
    more: training.MoreTerms = dict,
    trained: Callable[[str], bool] = lambda name: True,
) -> tuple[State, dict[str, torch.Tensor]]:
    """Learn a task as most methods do: train one LoRA and one new word on the denoising loss plus a penalty.

    method: its options must have the fields of `LoraOptions`. penalty, before_step, after_step: see `training.train`;
    the penalty's parameters are those of the LoRA only. start: the new word's first embedding (d,); the default is its
    class noun's. weight_deltas: what is added to the frozen weights, by layer. init: the LoRA to start with, by name;
    the default is a new one. adapter_type: "lora", "vera" or "dora", see `adapters.add_lora`. more: further terms, see
    `training.denoising`. trained: whether the LoRA's parameter with this name is trained, or stays as it starts.

    Returns (the next state, which so far holds all words and facts; the LoRA's parameters by name, still in the
    denoiser).
    """
    penalty = _with_batch(penalty)
    o = cast(LoraOptions, method.options)
    seed = seed_of(task.seed, "vera")  # the same for all tasks of a run
    adapters.add_to_weights(backbone, weight_deltas or {})
    start = backbone.word_embedding(task.class_noun) if start is None else start
    trained_word: dict[str, nn.Parameter] = {}
    if o.word == "learned":
        after, embedding = add_words(backbone, task, state, start, word_encoders=o.word_encoders)
        trained_word = {TOKEN: embedding}
    else:
        after = add_fixed_word(backbone, task, state, o.word)
    lora_parameters = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"), init, adapter_type, seed)
    if adapter_type == "vera":
        after.facts["vera"] = adapters.vera_facts(backbone.denoiser, lora_parameters, seed)
    phrase = method.phrase(task.concept, task.class_noun, after)
    preservation = semantic_preservation_term(backbone, phrase, task.class_noun, o) if trained_word else dict

    def penalties(batch: training.Batch, parameters: training.Tensors) -> training.Terms:
        terms = penalty(batch, lora_parameters) if penalty else {}
        if isinstance(terms, tuple):
            minimised, logged = terms
            return minimised | preservation(), logged
        return terms | preservation()

    moving = {name: parameter for name, parameter in lora_parameters.items() if trained(name)}
    groups = [(o.learning_rate, moving), (o.token_learning_rate, trained_word)]
    loss = training.denoising(backbone, phrase, more, class_preservation_term(backbone, task.class_noun, o))
    training.train(
        backbone,
        task,
        loss,
        groups,
        o.steps,
        o.batch_size,
        penalty=penalties,
        before_step=before_step,
        after_step=after_step,
    )
    after.tensors |= {f"token/{task.concept}": embedding.detach() for embedding in trained_word.values()}
    return after, lora_parameters


def _with_batch(penalty: Callable | None) -> training.Penalty | None:
    """The penalty, called as penalty(batch, parameters): in cpbench 0.1 it had the parameters alone."""
    if penalty is None or len(inspect.signature(penalty).parameters) != 1:
        return penalty
    warn_once("penalty(parameters)", "penalty(batch, parameters)")
    return lambda batch, parameters: penalty(parameters)


def forgetting(past: dict[str, torch.Tensor], products: dict[str, torch.Tensor]) -> torch.Tensor:
    """L_forget of C-LoRA (Eq. 3): || |past| * products ||_F^2, summed over layers.

    past: the sum of the earlier tasks' A B by layer. products: the current A B by layer.
    """
    return (joined([past[layer] for layer in products]).abs() * joined(list(products.values()))).square().sum()


def past_loras(state: State, device: torch.device | str = "cpu") -> list[dict[str, torch.Tensor]]:
    """The LoRAs of all earlier tasks in order, each by name "layer.lora_A", of a state made by `stacked`."""
    return [state.tensors_of(f"adapter/{concept}", device) for concept in state.concepts]


def stacked(state: State, after: State, concept: str, lora_parameters: dict[str, torch.Tensor]) -> State:
    """`after` with the earlier LoRAs of `state` and the newly trained one, under "adapter/<concept>/"."""
    after.tensors |= {k: v for k, v in state.tensors.items() if k.startswith("adapter/")}
    after.tensors |= {f"adapter/{concept}/{k}": v.detach() for k, v in lora_parameters.items()}
    return after


__getattr__ = old_names(__name__)
