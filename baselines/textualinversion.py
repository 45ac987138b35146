"""Textual Inversion: one new word per concept; the weights stay frozen.

Gal et al. 2023, "An Image is Worth One Word: Personalizing Text-to-Image Generation using Textual Inversion" (ICLR,
arXiv 2208.01618). Only v*, the embedding of a new noun S*, is trained:

    v* = argmin_v E || eps - eps_theta(z_t, t, c("a photo of a S*")) ||^2                  (Eq. 2)

v starts as the class noun's embedding. From the paper and DreamBench++'s settings: this equation, one picture per step,
3000 steps at 5e-4. Our assumptions: the templates around S* are the harness's, as for the other methods; concepts are
learned separately, and only the words that a prompt needs are added to the vocabulary, so that the pictures of a
concept are the same after each task. Forgetting is therefore zero: a reference for the other methods' figures.

`direction_only` is DTI ("Directional Textual Inversion", ICLR 2026, arXiv 2512.13672): in each text encoder v = m u with
|u| = 1 and m the mean norm of its table's rows, and only the direction u moves, with mu the class noun's direction:

    g <- dL/du;   g <- g - (u.g) u - kappa (mu - (u.mu) u);   g <- g / |g|;   u <- (u - eta g) / |u - eta g|

kappa = 1e-4. From the paper: these equations, the prior -kappa mu, and m. Our reading: plain steps without AdamW and
clipping, and eta = 5e-3 throughout.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from cpbench import learning
from cpbench.learning import SemanticPreservationOptions, semantic_preservation_term, token_of
from cpbench.method import Method, RecipeOptions, State

KAPPA = 1e-4
TOKEN = "token"  # the embedding's name among the trained parameters


class TextualInversionOptions(SemanticPreservationOptions, RecipeOptions):
    steps: int = Field(3000, ge=1, description="optimiser steps per task")
    batch_size: int = Field(1, ge=1, description="pictures per step; a task takes steps x batch_size UNet evaluations")
    token_learning_rate: float = Field(5e-4, gt=0, description="learning rate of v, the new word's embedding")
    direction_only: bool = Field(False, description="DTI: v keeps the table's mean norm, and only its direction moves")
    direction_learning_rate: float = Field(5e-3, gt=0, description="eta, length of DTI's steps on the unit sphere")

    only: ClassVar = {
        "token_learning_rate": {"direction_only": (False,)},
        "direction_learning_rate": {"direction_only": (True,)},
    }
    later: ClassVar = {"direction_only": False, "direction_learning_rate": 5e-3}


class Sphere:
    """DTI's steps. start: the first v, the class noun's direction at the norm m of each encoder's table."""

    def __init__(self, backbone, noun, o):
        self.eta, self.start, self.parts = o.direction_learning_rate, noun.clone(), []
        for encoder in backbone.vocabulary.encoders:
            if o.word_encoders in ("all", encoder.kind):
                mu = noun[encoder.part] / noun[encoder.part].norm()
                m = encoder.entries.norm(dim=1).mean()
                self.start[encoder.part] = m * mu
                self.parts.append((encoder.part, m, mu))

    def hooks(self, v):
        """Of `learning.train`: AdamW moves nothing, and after each of its steps v moves by the gradient before it."""
        gradient = {}

        def before_step(batch, terms, gradients):
            gradient["g"] = torch.stack([term[TOKEN] for term in gradients.values() if TOKEN in term]).sum(0)

        def after_step(before, after):
            if not torch.isfinite(gradient["g"]).all():  # float16, whose scaler leaves this step out as well
                return
            with torch.no_grad():
                v.copy_(self.moved(v.detach(), gradient["g"]))

        return {
            "before_step": before_step,
            "after_step": after_step,
            "moving": lambda name, m: torch.zeros_like(m).bool(),
        }

    def moved(self, v, dv):
        """v after one step; dv is dL/dv."""
        out = v.clone()
        for part, m, mu in self.parts:
            u, g = v[part] / v[part].norm(), m * dv[part]
            g = g - (u @ g) * u - KAPPA * (mu - (u @ mu) * u)
            g = g / g.norm().clamp(min=torch.finfo(g.dtype).tiny)
            u = u - self.eta * g
            out[part] = m * u / u.norm()
        return out


class TextualInversion(Method):
    """The state holds one token embedding per concept."""

    version = 1
    Options = TextualInversionOptions
    tested_against = "equation only"
    search = {
        "": {
            "token_learning_rate": {"log": (0.0001, 0.02)},
        },
        "direction_only=true": {"direction_learning_rate": {"log": (0.001, 0.05)}},
    }

    def learn(self, backbone, task, state):
        o = self.options
        after = State(dict(state.tensors), {**state.facts, "concepts": [*state.concepts, task.concept]})
        word = token_of(task.concept, after)
        start = backbone.word_embedding(task.class_noun)
        sphere = Sphere(backbone, start, o) if o.direction_only else None
        v = backbone.add_token(word, sphere.start if sphere else start, o.word_encoders)
        loss = learning.denoising(backbone, word, semantic_preservation_term(backbone, word, task.class_noun, o))
        hooks = sphere.hooks(v) if sphere else {}
        learning.train(backbone, task, loss, [(o.token_learning_rate, {TOKEN: v})], o.steps, o.batch_size, **hooks)
        after.tensors[f"token/{task.concept}"] = v.detach()
        return after

    def install(self, backbone, state, concepts, prompts=()):
        for concept in concepts:
            backbone.add_token(token_of(concept, state), state.tensors[f"token/{concept}"])

    def phrase(self, concept, class_noun, state):
        return token_of(concept, state)

    def lora(self, state, concepts):
        return {}
