"""DreamBooth: the whole model learns a rare identifier, while pictures of the class that it drew itself hold the class.

Ruiz et al. 2023, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (CVPR, arXiv
2208.12242). Over Theta, the weights of the UNet (and, with `train_text_encoder`, of the text encoder),

    L = E || eps_Theta(z_t, c) - eps ||^2 + lambda E || eps_Theta(z_pr,t', c_pr) - eps' ||^2                  (Eq. 2)
    c = "a [V] {class}",  c_pr = "a {class}",  z_pr: pictures that the model draws of c_pr before it learns

From the paper: this (written there for a model that predicts x), lambda = 1, 1000 pictures of the class, 1000 steps at
5e-6 on Stable Diffusion. It learns one concept only. Our reading of a sequence: task t starts from what task t-1 left,
and that model draws z_pr, so what it has lost of the class by then is not held; the pictures are gone after the task.
[V] is a word of its own for every concept, <sks-1>, <sks-2>, ..., not a rare word of the vocabulary (the paper takes one,
and "sks" is the usual one): a vocabulary may not have enough of them, and the next one may mean something. Its embedding
is random, with the mean and spread of the vocabulary, and stays as it is. `adapter=lora` trains a LoRA in place of Theta
and goes on with it, at a rate of its own. `adapter=full` carries all of Theta: 3.4 GB on Stable Diffusion, written after
every task. Token tables are never trained.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cpbench import adapters, learning
from cpbench.baselines.seqlora import add_tokens, add_words
from cpbench.cost import refuse_full_training
from cpbench.errors import UserError
from cpbench.method import Method, State
from cpbench.regularisation import Prior, prior, prior_evaluations

TEMPLATES = ("a {}",)


class Settings(Prior):
    adapter: Literal["full", "lora"] = Field("full", description="what is trained: full, the whole UNet; lora, a LoRA")
    train_text_encoder: bool = Field(False, description="with adapter=full: the text encoder's weights as well")
    steps: int = Field(1000, ge=1, description="optimiser steps a task")
    batch_size: int = Field(1, ge=1, description="pictures of the concept a step, and as many of the class")
    learning_rate: float = Field(5e-6, gt=0, description="of Theta with adapter=full")
    lora_learning_rate: float = Field(1e-4, gt=0, description="of A and B with adapter=lora")
    rank: int = Field(8, ge=1, description="rank of A and B with adapter=lora; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        adapters.ATTENTION, description="ends of the UNet layers' names that get a LoRA with adapter=lora"
    )


def token_of(concept: str, state: State) -> str:
    """The identifier made for a concept: <sks-1>, <sks-2>, ... in the order of learning."""
    return f"<sks-{state.concepts.index(concept) + 1}>"


def whole(backbone, with_words: bool):
    """Theta by the names of `replace_weights`: the UNet's weights, and the text encoders' but for their token tables."""
    theta = dict(backbone.unet.named_parameters())
    tables = {id(encoder.table.weight) for encoder in backbone.vocabulary.encoders}
    for part, encoder in backbone.vocabulary.named_encoders() if with_words else ():
        theta |= {f"{part}.{name}": p for name, p in encoder.named_parameters() if id(p) not in tables}
    return theta


class DreamBooth(Method):
    """Carries the identifiers' rows and either all weights that are trained or one LoRA."""

    Options = Settings

    def unet_evaluations(self, number):
        o = self.options
        return o.steps * o.batch_size + prior_evaluations(o, o.steps, o.batch_size)

    def check(self, backbone):
        o = self.options
        if o.adapter == "full":
            refuse_full_training("dreambooth", backbone, "use --set adapter=lora")
        elif o.train_text_encoder:
            raise UserError("method dreambooth: train_text_encoder needs adapter=full; leave one of the two out")

    def learn(self, backbone, task, state):
        o, state = self.options, state or State()
        self.install_model(backbone, state)
        if o.adapter == "full":
            kind, rate = "weights", o.learning_rate
            theta = backbone.weights or backbone.replace_weights(whole(backbone, o.train_text_encoder))
        else:
            kind, rate = "adapter", o.lora_learning_rate
            theta = backbone.factors or backbone.add_lora(o.rank, o.target_modules, task.generator("lora"))
        V = backbone.random_embedding(task.generator("identifier"))
        after, _ = add_words(backbone, task, state, V, token_of)
        of_class = prior(backbone, task, f"a {task.class_noun}", o, o.steps, o.batch_size)
        loss = learning.denoising(backbone, self.phrase(task.concept, task.class_noun, after), of_class)
        learning.train(backbone, task, loss, [(rate, list(theta.values()))], o.steps, o.batch_size, templates=TEMPLATES)
        after.tensors[f"token/{task.concept}"] = V
        after.tensors |= {f"{kind}/{k}": v.detach() for k, v in theta.items()}
        return after

    def install(self, backbone, state, concepts):
        self.install_model(backbone, state)
        add_tokens(backbone, state, token_of)

    def install_model(self, backbone, state):
        """Theta, or A and B, as task t-1 left them; nothing before the first task."""
        if weights := state.part("weights"):
            backbone.replace_weights(weights)
        if factors := state.part("adapter"):
            backbone.add_lora(self.options.rank, self.options.target_modules, values=factors)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        return state.part("adapter") if self.options.adapter == "lora" else None
