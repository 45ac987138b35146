"""Two-stage rare token: stage 1 learns a new adjective, stage 2 the weights, with the adjective frozen.

Zeng, Suganuma, Okatani, "An Improved Method for Personalizing Diffusion Models". Both stages minimise

    L = E || eps - eps_Theta(z_t, t, tau(y)) ||^2,   y = "a photo of <rare> {class}"

Stage 1 trains v_rare, the embedding of one new word that starts as the word "rare" (100 steps at 5e-4, for the coarse
appearance only). Stage 2 trains the weights Theta of the whole UNet (200 to 400 steps at 5e-6), with v_rare and the
text encoder tau frozen. No class pictures are generated for prior preservation. All of this is from the paper, on
Stable Diffusion 2.1, which learns a single concept. Our assumptions: task t starts from the result of task t-1, with a
new word <rare-t>; `adapter=lora` trains one LoRA in stage 2 instead of Theta, with its own learning rate, and continues
it in each task. With `adapter=full` the state holds all of Theta: 3.4 GB on Stable Diffusion, written after each task.
"""

from __future__ import annotations

from pydantic import Field

from cpbench import learning
from cpbench.learning import (
    SemanticPreservationOptions,
    WeightsOrLoraOptions,
    add_tokens,
    add_words,
    class_preservation_term,
    semantic_preservation_term,
    weights_or_lora,
)
from cpbench.method import Method, State

TEMPLATES = ("a photo of {}",)


class RareTokenOptions(WeightsOrLoraOptions, SemanticPreservationOptions):
    token_steps: int = Field(100, ge=0, description="optimiser steps of stage 1")
    token_learning_rate: float = Field(5e-4, gt=0, description="learning rate of v_rare, stage 1")
    steps: int = Field(400, ge=1, description="optimiser steps of stage 2")
    batch_size: int = Field(1, ge=1, description="pictures per step, both stages")


def token_of(concept: str, state: State) -> str:
    """The adjective of a concept: <rare-1>, <rare-2>, ... in the order of learning."""
    return f"<rare-{state.concepts.index(concept) + 1}>"


class RareToken(Method):
    """The state holds the token embeddings, and all weights of the UNet or one LoRA."""

    version = 1
    Options = RareTokenOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (3e-05, 0.0003)},
            "token_learning_rate": {"log": (0.001, 0.02)},
        },
        "adapter=lora": {
            "lora_learning_rate": {"log": (0.0003, 0.003)},
            "token_learning_rate": {"log": (0.001, 0.02)},
        },
    }

    def check(self, backbone):
        weights_or_lora.refuse_if_too_large("raretoken", self.options, backbone)

    def learn(self, backbone, task, state):
        o = self.options
        weights_or_lora.load_trainables(backbone, state, o)
        after, v_rare = add_words(backbone, task, state, backbone.word_embedding("rare"), token_of, o.word_encoders)
        phrase = self.phrase(task.concept, task.class_noun, after)
        stage_1 = [(o.token_learning_rate, [v_rare])]
        loss = learning.denoising(backbone, phrase, semantic_preservation_term(backbone, phrase, task.class_noun, o))
        learning.train(backbone, task, loss, stage_1, o.token_steps, o.batch_size, "stage 1", TEMPLATES)

        theta, stage_2 = weights_or_lora.init_trainables(backbone, task, o)
        loss = learning.denoising(backbone, phrase, class_preservation_term(backbone, task.class_noun, o))
        learning.train(backbone, task, loss, [stage_2], o.steps, o.batch_size, "stage 2", TEMPLATES)
        after.tensors[f"token/{task.concept}"] = v_rare.detach()
        after.tensors |= {k: v.detach() for k, v in theta.items()}
        return after

    def install(self, backbone, state, concepts, prompts=()):
        add_tokens(backbone, state, token_of)
        weights_or_lora.load_trainables(backbone, state, self.options)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        return weights_or_lora.lora(state, self.options)
