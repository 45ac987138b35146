"""CIDM (keeps every LoRA and mixes them): a LoRA a task, kept off the earlier ones, with shares by likeness of words.

Dong et al. 2024, "How to Continually Adapt Text-to-Image Diffusion Models for Flexible Customization?" (NeurIPS, arXiv
2410.17594; code: CIFC). With B_t, or U_t, the up weight (out, r) of task t's LoRA in a layer, t' the earlier tasks,

    L = L_denoise + 0.1 mean over layers and t' < t of [ mean | U_t U_t'^T | + mean (U_t - 1)^2 ]      consolidation
    W = W_init + sum_t w_t A_t B_t,   w_t = s_t^4 / sum_t' s_t'^4                                     aggregation
    s_t = mean over the two words v of task t of   max over the words p of the prompt of   cos(v, p)

From the paper and its code: the loss as released (the second term keeps U from vanishing; `ones_penalty` false leaves it out),
rank 4 on the linear layers of cross-attention, rates, a random word beside the noun's, which stand for the concept
alone ("a photo of <v1a> <v1b>"), and the elastic shares in drawing.
Left out: layer-wise words (an embedding for every cross-attention layer: here one for all, so the shares are the
same in every layer), the loop's linear decay, weight decay 0.01, the stop of words of norm 0.55, attention
regularisation and noise offset (both 0.01), regions with boxes; 200 to 300 repeats of a picture are `steps`.
Our reading: every LoRA is learned on the untouched model, from its own two words (the code has one for every token of
the noun). The model is readied for concepts, not for one prompt, so p runs over the words of the installed concepts, and
other words of a prompt have no say; v and p are embedding rows, where the code compares the text encoder's states of
the same words. A plain prompt has none of them and nothing tells the tasks apart: since shares add up to one whatever
the prompt, every task gets 1/T, and plain prompts show what all that was learned does to the rest of the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench import learning
from cpbench.learning import TEXT_ATTENTION, LoraOptions, past_loras, semantic_preservation_term, side_by_side, stacked
from cpbench.method import Method, State

POWER = 4


class CidmOptions(LoraOptions):
    rank: int = Field(4, ge=1, description="rank of A_t and B_t; alpha is the same")
    target_modules: tuple[str, ...] = Field(TEXT_ATTENTION, description="the layers W: roles, or ends of their names")
    steps: int = Field(1000, ge=1, description="optimiser steps a task")
    token_learning_rate: float = Field(1e-3, ge=0, description="of the new words' embedding rows")
    consolidation_weight: float = Field(
        0.1, ge=0, description="of the consolidation loss, a mean over layers and tasks"
    )
    ones_penalty: bool = Field(True, description="the consolidation loss draws U_t towards ones as well, as released")


def consolidation(
    now: Mapping[str, torch.Tensor], past: Sequence[Mapping[str, torch.Tensor]], ones_penalty: bool
) -> torch.Tensor:
    """mean over layers and t' of mean |U_t U_t'^T| (+ mean (U_t - 1)^2), from the factors by name."""
    overlaps, ones = [], []
    for name in (k for k in now if k.endswith("lora_B")):
        U = now[name].flatten(1)
        overlaps += [(U @ earlier[name].flatten(1).T).abs().mean() for earlier in past]
        ones.append((U - 1).square().mean())
    loss = torch.stack(overlaps).mean()
    return loss + torch.stack(ones).mean() if ones_penalty else loss


def shares(words: Mapping[str, torch.Tensor], prompt: Sequence[str]) -> dict[str, float]:
    """w_t of every concept, from its words (2, d), for a prompt with the words of some of them; equal for one with none."""
    if not prompt:
        return dict.fromkeys(words, 1 / len(words))
    p = F.normalize(torch.cat([words[concept] for concept in prompt]), dim=1)
    s = torch.stack([(F.normalize(v, dim=1) @ p.T).amax(1).mean() for v in words.values()]) ** POWER
    return dict(zip(words, (s / s.sum()).tolist(), strict=True))


def words_of(concept: str, state: State) -> tuple[str, str]:
    """The two words made for a concept: <v1a> <v1b>, <v2a> <v2b>, ... in the order of learning."""
    number = state.concepts.index(concept) + 1
    return f"<v{number}a>", f"<v{number}b>"


class Cidm(Method):
    """Carries A and B of every task and two token rows a concept."""

    version = 1
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
        rows = {k: v for k, v in state.tensors.items() if k.startswith("token/")}
        after = State(rows, {"concepts": [*state.concepts, task.concept]})
        past = past_loras(state, backbone.device)
        start = (backbone.random_embedding(task.generator("word")), backbone.word_embedding(task.class_noun))
        v = [backbone.add_token(*pair) for pair in zip(words_of(task.concept, after), start, strict=True)]
        factors = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"))

        def consolidate():
            if not past:
                return {}
            return {"consolidation": o.consolidation_weight * consolidation(factors, past, o.ones_penalty)}

        phrase = self.phrase(task.concept, task.class_noun, after)
        loss = learning.denoising(
            backbone, phrase, consolidate, semantic_preservation_term(backbone, phrase, task.class_noun, o)
        )
        groups = [(o.learning_rate, list(factors.values())), (o.token_learning_rate, v)]
        learning.train(backbone, task, loss, groups, o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = torch.stack(v).detach()
        return stacked(state, after, task.concept, factors)

    def install(self, backbone, state, concepts, prompts=()):
        for concept in state.concepts:
            for word, row in zip(words_of(concept, state), state.tensors[f"token/{concept}"], strict=True):
                backbone.add_token(word, row)
        rank = self.options.rank * len(state.concepts)
        backbone.add_lora(rank, self.options.target_modules, values=self.lora(state, concepts))

    def phrase(self, concept, class_noun, state):
        return " ".join(words_of(concept, state))

    def lora(self, state, concepts):
        """sum_t w_t A_t B_t as one product."""
        w = shares({concept: state.tensors[f"token/{concept}"] for concept in state.concepts}, concepts)
        scales = [{"lora_A": 1.0, "lora_B": w[concept]} for concept in state.concepts]
        loras = zip(scales, past_loras(state), strict=True)
        return side_by_side([{k: s[k.rpartition(".")[2]] * v for k, v in lora.items()} for s, lora in loras])
