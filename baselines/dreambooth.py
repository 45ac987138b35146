"""DreamBooth: the whole model learns a rare identifier; class pictures that it generated itself preserve the class.

Ruiz et al. 2023, "DreamBooth: Fine Tuning Text-to-Image Diffusion Models for Subject-Driven Generation" (CVPR, arXiv
2208.12242). Theta, the weights of the UNet (and, with `train_text_encoder`, of the text encoder), is trained on

    L = E || eps_Theta(z_t, c) - eps ||^2 + lambda E || eps_Theta(z_pr,t', c_pr) - eps' ||^2                  (Eq. 2)
    c = "a [V] {class}",  c_pr = "a {class}",  z_pr: pictures of c_pr that the model generates before it learns

From the paper: these equations (written there for a model that predicts x), lambda = 1, 1000 class pictures, and 1000
steps at 5e-6 on Stable Diffusion. The paper learns a single concept. Our assumptions for a sequence: task t starts from
the result of task t-1, and that model generates z_pr, so that what it has forgotten of the class is not restored; the
pictures are deleted after the task. [V] is a new word per concept, <sks-1>, <sks-2>, ..., and not a rare word of the
vocabulary as in the paper ("sks" is the usual one), since a vocabulary may not have enough of them, and the next one
may have a meaning. Its embedding is random, with the mean and spread of the vocabulary, and is not trained.
`adapter=lora` trains one LoRA in place of Theta, with its own learning rate, and continues it in each task. With
`adapter=full` the state holds all of Theta: 3.4 GB on Stable Diffusion, written after each task. Token tables are never
trained.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cpbench import learning
from cpbench.learning import (
    ClassPreservationOptions,
    PriorOptions,
    WeightsOrLoraOptions,
    add_tokens,
    add_words,
    class_preservation_term,
    prior_preservation_term,
    weights_or_lora,
)
from cpbench.method import Method, RecipeOptions, State, UserError

TEMPLATES = ("a {}",)


class DreamBoothOptions(WeightsOrLoraOptions, PriorOptions):
    train_text_encoder: bool = Field(False, description="also train the text encoder's weights (adapter=full)")
    steps: int = Field(1000, ge=1, description="optimiser steps per task")
    batch_size: int = Field(1, ge=1, description="pictures of the concept per step, and as many of the class")

    only: ClassVar = {"train_text_encoder": {"adapter": ("full",)}}


class WholeModelOptions(PriorOptions, ClassPreservationOptions, RecipeOptions):
    """Options of a method that trains all weights as DreamBooth does, as in T2I-ConBench."""

    steps: int = Field(500, ge=1, description="optimiser steps per task")
    batch_size: int = Field(1, ge=1, description="pictures of the concept per step, and as many of the class")
    learning_rate: float = Field(5e-6, gt=0, description="learning rate of the weights")
    prior_weight: float = Field(
        0.02, ge=0, description="weight of the denoising term on class pictures; 0: none are generated"
    )

    adapter: ClassVar = "full"
    train_text_encoder: ClassVar = False


def token_of(concept: str, state: State) -> str:
    """The identifier of a concept: <sks-1>, <sks-2>, ... in the order of learning."""
    return f"<sks-{state.concepts.index(concept) + 1}>"


class DreamBooth(Method):
    """The state holds the identifiers' embeddings, and all trained weights or one LoRA."""

    version = 1
    Options = DreamBoothOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (3e-05, 0.0003)},
            "prior_weight": {"choices": (0.1, 0.3, 1.0)},
            "prior_guidance_scale": {"choices": (1.0, 2.0, 4.0)},
        },
    }
    name = "dreambooth"

    def check(self, backbone):
        if self.options.adapter == "lora" and self.options.train_text_encoder:
            raise UserError(f"method {self.name}: train_text_encoder needs adapter=full; leave one of the two out")
        weights_or_lora.refuse_if_too_large(self.name, self.options, backbone)

    def learn(self, backbone, task, state):
        o = self.options
        weights_or_lora.load_trainables(backbone, state, o)
        theta, group = weights_or_lora.init_trainables(backbone, task, o, o.train_text_encoder)
        V = backbone.random_embedding(task.generator("identifier"))
        after, _ = add_words(backbone, task, state, V, token_of)
        of_class = prior_preservation_term(backbone, task, f"a {task.class_noun}", o, o.steps, o.batch_size)
        untouched = class_preservation_term(backbone, task.class_noun, o)
        loss = learning.denoising(backbone, self.phrase(task.concept, task.class_noun, after), of_class, untouched)
        group, hooks = self.train_only(task, theta, group)
        learning.train(backbone, task, loss, [group], o.steps, o.batch_size, templates=TEMPLATES, **hooks)
        after.tensors[f"token/{task.concept}"] = V
        after.tensors |= {k: v.detach() for k, v in theta.items()}
        return after

    def train_only(self, task, theta, group):
        """(the group for `train`, its hooks): of theta, the trainables by name, what is trained, and how it moves."""
        return group, {}

    def install(self, backbone, state, concepts, prompts=()):
        weights_or_lora.load_trainables(backbone, state, self.options)
        add_tokens(backbone, state, token_of)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        return weights_or_lora.lora(state, self.options)
