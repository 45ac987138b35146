"""A LoRA and a word a concept, as the sequential methods train them."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from pydantic import Field

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.files import seed_of
from cpbench.learning import training
from cpbench.learning.semantic_preservation import SemanticPreservationOptions, semantic_preservation_term
from cpbench.method import Method, State, Task
from cpbench.moved import old_names, renamed_keywords, warn_once

TOKEN = "token"  # what the new word's embedding is called among the parameters


class LoraOptions(SemanticPreservationOptions):
    rank: int = Field(8, ge=1, description="rank of A and B; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        adapters.ATTENTION, description="layers that get a LoRA: roles, or ends of their names"
    )
    steps: int = Field(500, ge=1, description="optimiser steps a task")
    batch_size: int = Field(1, ge=1, description="pictures a step; steps x batch_size UNet evaluations a task")
    learning_rate: float = Field(1e-4, gt=0, description="of A and B")
    token_learning_rate: float = Field(5e-4, ge=0, description="of the new word's embedding row")


def token_of(concept: str, state: State) -> str:
    """The word made for a concept: <v1>, <v2>, ... in the order of learning."""
    return f"<v{state.concepts.index(concept) + 1}>"


def add_tokens(backbone, state: State, token_of: Callable[[str, State], str] = token_of) -> None:
    """Put the words of all concepts in `state` back, in their order, so that they get their ids."""
    rows = state.tensors_of("token")
    for concept in state.concepts:
        backbone.add_token(token_of(concept, state), rows[concept])


def add_words(backbone, task, state: State, start, token_of: Callable[[str, State], str] = token_of):
    """The earlier concepts' words and a new one with the embedding `start` (d,).

    Returns the state to be filled, with the earlier rows as they were, and the new word's row.
    """
    add_tokens(backbone, state, token_of)
    rows = {k: v for k, v in state.tensors.items() if k.startswith("token/")}
    after = State(rows, {**state.facts, "concepts": [*state.concepts, task.concept]})
    return after, backbone.add_token(token_of(task.concept, after), start)


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
) -> tuple[State, dict[str, torch.Tensor]]:
    """A task as most methods do it: train one LoRA and one new word by the denoising loss and what is added to it.

    penalty, before_step, after_step: see `training.train`; the penalty's parameters are the LoRA's alone. start: the word's
    embedding, else its class noun's; weight_deltas: changes of the frozen weights, by layer; init: the LoRA to begin with,
    else a new one; kind: that of `adapters.add_lora`. Returns the state to be filled, with all words in it, and the LoRA's
    parameters, which stay in the denoiser.
    """
    penalty = _with_batch(penalty)
    o, seed = method.options, seed_of(task.seed, "vera")  # one for all tasks of a run
    adapters.add_to_weights(backbone, weight_deltas or {})
    start = backbone.word_embedding(task.class_noun) if start is None else start
    after, row = add_words(backbone, task, state, start)
    lora_parameters = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"), init, adapter_type, seed)
    if adapter_type == "vera":
        after.facts["vera"] = adapters.vera_facts(backbone.denoiser, lora_parameters, seed)
    phrase = method.phrase(task.concept, task.class_noun, after)
    preservation = semantic_preservation_term(backbone, phrase, task.class_noun, o)

    def penalties(batch: training.Batch, parameters: training.Tensors) -> training.Terms:
        terms = penalty(batch, lora_parameters) if penalty else {}
        if isinstance(terms, tuple):
            minimised, logged = terms
            return minimised | preservation(), logged
        return terms | preservation()

    groups = [(o.learning_rate, lora_parameters), (o.token_learning_rate, {TOKEN: row})]
    loss = training.denoising(backbone, phrase)
    hooks = {"penalty": penalties, "before_step": before_step, "after_step": after_step}
    training.train(backbone, task, loss, groups, o.steps, o.batch_size, **hooks)
    after.tensors[f"token/{task.concept}"] = row.detach()
    return after, lora_parameters


def _with_batch(penalty: Callable | None) -> training.Penalty | None:
    """The penalty, called as penalty(batch, parameters): in cpbench 0.1 it had the parameters alone."""
    if penalty is None or len(inspect.signature(penalty).parameters) != 1:
        return penalty
    warn_once("penalty(parameters)", "penalty(batch, parameters)")
    return lambda batch, parameters: penalty(parameters)


def forgetting(past: dict[str, torch.Tensor], now: dict[str, torch.Tensor]) -> torch.Tensor:
    """L_forget (Eq. 3) from the products' past sum and the current ones, by layer."""
    return torch.stack([(past[layer].abs() * product).square().sum() for layer, product in now.items()]).sum()


def past_loras(state: State, device: torch.device | str = "cpu") -> list[dict[str, torch.Tensor]]:
    """A_t', B_t' of all earlier tasks, in their order."""
    return [state.tensors_of(f"adapter/{concept}", device) for concept in state.concepts]


def stacked(state: State, after: State, concept: str, lora_parameters: dict[str, torch.Tensor]) -> State:
    """`after` with the LoRAs of `state` and, beside them, the one just trained."""
    after.tensors |= {k: v for k, v in state.tensors.items() if k.startswith("adapter/")}
    after.tensors |= {f"adapter/{concept}/{k}": v.detach() for k, v in lora_parameters.items()}
    return after


__getattr__ = old_names(__name__)
