"""Textual Inversion: one new word per concept; the weights stay frozen.

Gal et al. 2023, "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (ICLR,
arXiv 2208.01618). Only v*, the embedding of a new noun S*, is trained:

    v* = argmin_v E || eps - eps_theta(z_t, t, c("a photo of a S*")) ||^2                  (Eq. 2)

v starts as the class noun's embedding. From the paper and DreamBench++'s settings: this equation, one picture per step,
3000 steps at 5e-4. Our assumptions: the templates around S* are the harness's, as for the other methods; concepts are
learned separately, and only the words that a prompt needs are added to the vocabulary, so that the pictures of a
concept are the same after each task. Forgetting is therefore zero: a reference for the other methods' figures.
"""

from __future__ import annotations

from pydantic import Field

from cpbench import learning
from cpbench.learning import SemanticPreservationOptions, semantic_preservation_term, token_of
from cpbench.method import Method, State


class TextualInversionOptions(SemanticPreservationOptions):
    steps: int = Field(3000, ge=1, description="optimiser steps per task")
    batch_size: int = Field(1, ge=1, description="pictures per step; a task takes steps x batch_size UNet evaluations")
    token_learning_rate: float = Field(5e-4, gt=0, description="learning rate of v, the new word's embedding")


class TextualInversion(Method):
    """The state holds one token embedding per concept."""

    version = 1
    Options = TextualInversionOptions
    tested_against = "equation only"
    search = {
        "": {
            "token_learning_rate": {"log": (0.0001, 0.02)},
        },
    }

    def learn(self, backbone, task, state):
        o = self.options
        after = State(dict(state.tensors), {**state.facts, "concepts": [*state.concepts, task.concept]})
        word = token_of(task.concept, after)
        v = backbone.add_token(word, backbone.word_embedding(task.class_noun), o.word_encoders)
        loss = learning.denoising(backbone, word, semantic_preservation_term(backbone, word, task.class_noun, o))
        learning.train(backbone, task, loss, [(o.token_learning_rate, [v])], o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = v.detach()
        return after

    def install(self, backbone, state, concepts, prompts=()):
        for concept in concepts:
            backbone.add_token(token_of(concept, state), state.tensors[f"token/{concept}"])

    def phrase(self, concept, class_noun, state):
        return token_of(concept, state)

    def lora(self, state, concepts):
        return {}
