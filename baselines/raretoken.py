"""Two-stage rare token: first a new adjective is learned, then the weights, with the adjective frozen.

Zeng, Suganuma, Okatani, "An Improved Method for Personalizing Diffusion Models". Both stages minimise

    L = E || eps - eps_Theta(z_t, t, tau(y)) ||^2,   y = "a photo of <rare> {class}"

stage 1 over v_rare, the embedding of one new word that starts as the word "rare" (100 steps at 5e-4: coarse looks
only); stage 2 over the weights Theta of the whole UNet (200 to 400 steps at 5e-6), with v_rare and the text encoder tau
frozen. No pictures of the class are generated for prior preservation. All of this is the paper's, on Stable Diffusion
2.1. Our reading, since the paper learns one concept only: task t starts from what task t-1 left, with a new word
<rare-t>; `adapter=lora` trains a LoRA in stage 2 instead of Theta, at a rate of its own, and goes on with it.
`adapter=full` carries all of Theta from task to task: 3.4 GB on Stable Diffusion, written after every task.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cpbench import adapters, learning
from cpbench.baselines.seqlora import add_tokens, add_words
from cpbench.cost import refuse_full_training
from cpbench.method import Method, Options, State

TEMPLATES = ("a photo of {}",)


class Settings(Options):
    adapter: Literal["full", "lora"] = Field(
        "full", description="what stage 2 trains: full, the whole UNet; lora, a LoRA on it"
    )
    token_steps: int = Field(100, ge=0, description="optimiser steps of stage 1")
    token_learning_rate: float = Field(5e-4, gt=0, description="of v_rare, stage 1")
    steps: int = Field(400, ge=1, description="optimiser steps of stage 2")
    learning_rate: float = Field(5e-6, gt=0, description="of the UNet's weights, stage 2 with adapter=full")
    lora_learning_rate: float = Field(1e-4, gt=0, description="of A and B, stage 2 with adapter=lora")
    batch_size: int = Field(1, ge=1, description="pictures a step, both stages")
    rank: int = Field(8, ge=1, description="rank of A and B with adapter=lora; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        adapters.ATTENTION, description="ends of the UNet layers' names that get a LoRA with adapter=lora"
    )


def token_of(concept: str, state: State) -> str:
    """The adjective made for a concept: <rare-1>, <rare-2>, ... in the order of learning."""
    return f"<rare-{state.concepts.index(concept) + 1}>"


class RareToken(Method):
    """Carries the token rows and either all of the UNet's weights or one LoRA."""

    Options = Settings

    def unet_evaluations(self, number):
        o = self.options
        return (o.token_steps + o.steps) * o.batch_size

    def check(self, backbone):
        if self.options.adapter == "full":
            refuse_full_training("raretoken", backbone, "use --set adapter=lora")

    def learn(self, backbone, task, state):
        o, state = self.options, state or State()
        self.install_weights(backbone, state)
        after, v_rare = add_words(backbone, task, state, backbone.word_embedding("rare"), token_of)
        loss = learning.denoising(backbone, self.phrase(task.concept, task.class_noun, after))
        stage_1 = [(o.token_learning_rate, [v_rare])]
        learning.train(backbone, task, loss, stage_1, o.token_steps, o.batch_size, "stage 1", TEMPLATES)

        if o.adapter == "full":
            theta = backbone.weights or backbone.replace_weights(dict(backbone.unet.named_parameters()))
            kind, rate = "weights", o.learning_rate
        else:
            theta = backbone.factors or backbone.add_lora(o.rank, o.target_modules, task.generator("lora"))
            kind, rate = "adapter", o.lora_learning_rate
        stage_2 = [(rate, list(theta.values()))]
        learning.train(backbone, task, loss, stage_2, o.steps, o.batch_size, "stage 2", TEMPLATES)
        after.tensors[f"token/{task.concept}"] = v_rare.detach()
        after.tensors |= {f"{kind}/{k}": v.detach() for k, v in theta.items()}
        return after

    def install(self, backbone, state, concepts):
        add_tokens(backbone, state, token_of)
        self.install_weights(backbone, state)

    def install_weights(self, backbone, state):
        """What stage 2 left: all of Theta, or A and B; nothing before the first task."""
        o = self.options
        if state.concepts and o.adapter == "full":
            theta = state.part("weights")
            backbone.replace_weights({name: theta[name] for name, _ in backbone.unet.named_parameters()})
        elif state.concepts:
            backbone.add_lora(o.rank, o.target_modules, values=state.part("adapter"))

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        return state.part("adapter") if self.options.adapter == "lora" else None
