"""CIDM: one LoRA per task, kept away from the earlier ones; all LoRAs are mixed, with weights from word similarity.

Dong et al. 2024, "How to Continually Adapt Text-to-Image Diffusion Models for Flexible Customization?" (NeurIPS, arXiv
2410.17594; code: CIFC). U_t, or B_t, is the up weight (out, r) of task t's LoRA in a layer; t' are the earlier tasks:

    L = L_denoise + 0.1 mean over layers and t' < t of [ mean | U_t U_t'^T | + mean (U_t - 1)^2 ]      consolidation
    W = W_init + 0.8 sum_t w_t A_t B_t,   w_t = s_t^4 / sum_t' s_t'^4                                 aggregation
    s_t = mean over the two words v of task t of   max over the positions p of the prompt of   cos(v, p)

From the paper and its code: the loss as released (its second term, which `ones_penalty=false` leaves out, prevents U
from vanishing), rank 4 on the linear layers of cross-attention, the learning rates, two words per concept (a random one
and one that starts as the noun) which alone stand for the concept ("a photo of <v1a> <v1b>"), and the mixing weights
w_t.
Left out: layer-wise words (one embedding per cross-attention layer; here one for all layers, so that w_t is the same in
each), the linear decay of learning rates, weight decay 0.01, the stop for words of norm 0.55, attention regularisation
and noise offset (both 0.01), and regions with boxes. 200 to 300 repeats of a picture correspond to `steps`.
`mixing=released`, the default, is the code's: v and p are the text encoder's states, v at the words of "<v1a> <v1b>" alone, p
at all positions of the prompt that is drawn. The mixture is another for each prompt: a run installs it prompt by prompt,
and there is nothing to export. `mixing=rows` is our reading, prepared for concepts and not for a prompt: v and p are
token embeddings, p of the words of the concepts in the prompt, and the scale is 1.
Our assumptions: each LoRA is learned on the untouched model with its own two words (the code has one per token of the
noun). Weights add up to one for any prompt. Where no prompt is known, `released` takes the concepts' words for it; without
concepts each task gets 1/T, as in `rows`, so that plain prompts show what everything learned does to the rest of the
model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench import learning
from cpbench.learning import (
    TEXT_ATTENTION,
    LoraOptions,
    class_preservation_term,
    layer_inputs,
    past_loras,
    semantic_preservation_term,
    side_by_side,
    stacked,
)
from cpbench.method import Method, NotDefined, State, UserError

POWER = 4
SCALE = 0.8  # of the LoRAs, as released


class CidmOptions(LoraOptions):
    rank: int = Field(4, ge=1, description="rank of each LoRA; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        TEXT_ATTENTION, description="layers with a LoRA: roles, or endings of layer names"
    )
    steps: int = Field(1000, ge=1, description="optimiser steps per task")
    token_learning_rate: float = Field(1e-3, ge=0, description="learning rate of the new words' embeddings")
    consolidation_weight: float = Field(
        0.1, ge=0, description="weight of the consolidation loss, a mean over layers and tasks"
    )
    ones_penalty: bool = Field(True, description="also penalise the distance of U_t from ones, as released")
    mixing: Literal["released", "rows"] = Field(
        "released",
        description="released: weights from the text encoder's states of each prompt; rows: from the words' embeddings",
    )


def consolidation(
    lora_parameters: Mapping[str, torch.Tensor], past: Sequence[Mapping[str, torch.Tensor]], ones_penalty: bool
) -> torch.Tensor:
    """mean over layers and t' of mean |U_t U_t'^T| (+ mean (U_t - 1)^2), from LoRA parameters by name."""
    overlaps, ones = [], []
    for name in (k for k in lora_parameters if k.endswith("lora_B")):
        U = lora_parameters[name].flatten(1)
        overlaps += [(U @ earlier[name].flatten(1).T).abs().mean() for earlier in past]
        ones.append((U - 1).square().mean())
    loss = torch.stack(overlaps).mean()
    return loss + torch.stack(ones).mean() if ones_penalty else loss


def shares(words: Mapping[str, torch.Tensor], p: torch.Tensor | None) -> dict[str, float]:
    """w_t of each concept from its words (2, d), for a prompt's p (n, d); equal without a prompt."""
    if p is None:
        return dict.fromkeys(words, 1 / len(words))
    p = F.normalize(p, dim=1)
    s = torch.stack([(F.normalize(v, dim=1) @ p.T).amax(1).mean() for v in words.values()]) ** POWER
    return dict(zip(words, (s / s.sum()).tolist(), strict=True))


def words_of(concept: str, state: State) -> tuple[str, str]:
    """The two words of a concept: <v1a> <v1b>, <v2a> <v2b>, ... in the order of learning."""
    number = state.concepts.index(concept) + 1
    return f"<v{number}a>", f"<v{number}b>"


class Cidm(Method):
    """The state holds the LoRA of each task and two token embeddings per concept."""

    version = 2
    Options = CidmOptions
    tested_against = "official code's behaviour"
    search = {
        "": {
            "learning_rate": {"log": (0.001, 0.02)},
            "consolidation_weight": {"log": (0.01, 1.0)},
        },
    }

    def learn(self, backbone, task, state):
        o = self.options
        embeddings = {k: v for k, v in state.tensors.items() if k.startswith("token/")}
        after = State(embeddings, {"concepts": [*state.concepts, task.concept]})
        past = past_loras(state, backbone.device)
        start = (backbone.random_embedding(task.generator("word")), backbone.word_embedding(task.class_noun))
        words = words_of(task.concept, after)
        v = [backbone.add_token(word, row, o.word_encoders) for word, row in zip(words, start, strict=True)]
        lora_parameters = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"))

        def consolidate():
            if not past:
                return {}
            return {"consolidation": o.consolidation_weight * consolidation(lora_parameters, past, o.ones_penalty)}

        phrase = self.phrase(task.concept, task.class_noun, after)
        loss = learning.denoising(
            backbone,
            phrase,
            consolidate,
            semantic_preservation_term(backbone, phrase, task.class_noun, o),
            class_preservation_term(backbone, task.class_noun, o),
        )
        groups = [(o.learning_rate, list(lora_parameters.values())), (o.token_learning_rate, v)]
        learning.train(backbone, task, loss, groups, o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = torch.stack(v).detach()
        return stacked(state, after, task.concept, lora_parameters)

    @property
    def per_prompt(self):
        return self.options.mixing == "released"

    def check(self, backbone):
        if self.options.word != "learned":
            raise UserError(
                f"word={self.options.word}: cidm mixes its LoRAs by the words that it learns; leave the option out"
            )
        if self.per_prompt and backbone.attended(backbone.encode_prompts(["a"])) is None:
            raise UserError(
                "mixing=released: the backbone has joint attention of text and picture, in which no layer reads the prompt "
                "alone; use mixing=rows"
            )

    def install(self, backbone, state, concepts, prompts=()):
        for concept in state.concepts:
            for word, embedding in zip(words_of(concept, state), state.tensors[f"token/{concept}"], strict=True):
                backbone.add_token(word, embedding)
        w, scale = shares_of_rows(state, concepts), 1.0
        if self.per_prompt:
            w, scale = shares_of_states(backbone, state, concepts, prompts), SCALE
        rank = self.options.rank * len(state.concepts)
        backbone.add_lora(rank, self.options.target_modules, values=mixed(state, w, scale))

    def phrase(self, concept, class_noun, state):
        return " ".join(words_of(concept, state))

    def lora(self, state, concepts):
        if self.per_prompt:
            raise NotDefined("cidm mixing=released has another LoRA for each prompt")
        return mixed(state, shares_of_rows(state, concepts), 1.0)


def shares_of_rows(state: State, concepts: Sequence[str]) -> dict[str, float]:
    """w_t from token embeddings, for a prompt with the words of these concepts."""
    words = state.tensors_of("token")
    return shares(
        {concept: words[concept] for concept in state.concepts},
        torch.cat([words[concept] for concept in concepts]) if concepts else None,
    )


@torch.no_grad()
def shares_of_states(backbone, state: State, concepts: Sequence[str], prompts: Sequence[str]) -> dict[str, float]:
    """w_t from the text encoder's states, for the prompt, or else for one of the concepts' words alone."""
    words_alone = {concept: " ".join(words_of(concept, state)) for concept in state.concepts}
    prompts = list(prompts) or ([" ".join(words_alone[concept] for concept in concepts)] if concepts else [])
    words = {c: layer_inputs.word_states(backbone, [text], with_end=False) for c, text in words_alone.items()}
    p = backbone.attended(backbone.encode_prompts(prompts))[0].float() if prompts else None
    return shares(words, p)


def mixed(state: State, w: Mapping[str, float], scale: float) -> dict[str, torch.Tensor]:
    """scale sum_t w_t A_t B_t as one LoRA."""
    scales = [{"lora_A": 1.0, "lora_B": scale * w[concept]} for concept in state.concepts]
    loras = zip(scales, past_loras(state), strict=True)
    return side_by_side([{k: s[k.rpartition(".")[2]] * v for k, v in lora.items()} for s, lora in loras])
