"""LwF: one LoRA, fine-tuned sequentially; on an earlier concept's prompt it must predict what the last model predicted.

Li and Hoiem 2016, "Learning without Forgetting" (ECCV, arXiv 1606.09282), for a denoiser as in ContinualHyper's
baselines. theta_{t-1} is the LoRA after the last task, frozen; from task 2 on

    L = L_denoise + lambda E_{j < t} mean (eps_theta(z_t, t, c(y_j)) - eps_{theta_{t-1}}(z_t, t, c(y_j)))^2

on the same z_t and t, pictures of the new concept: no earlier data is needed. In each step one earlier concept j is
drawn, and y_j is its phrase in the step's own template. From the released code: these equations, and lambda = 10 at rank
4 on the attention of Stable Diffusion 1.5, 800 steps of 2 pictures at 1e-4, words at 1e-3. Our assumptions: the words
of earlier concepts do not change, as in the other sequential methods; where a model predicts v or a velocity, eps stands
for that. lambda is searched from 10.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import TEXT_ATTENTION, LoraOptions, TeacherTerm, encoded, learn_lora


class LwfOptions(LoraOptions):
    rank: int = Field(4, ge=1, description="rank of the LoRA; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        TEXT_ATTENTION, description="layers with a LoRA: roles, or endings of layer names"
    )
    steps: int = Field(800, ge=1, description="optimiser steps per task")
    batch_size: int = Field(2, ge=1, description="pictures per step; from task 2 on each takes three UNet evaluations")
    token_learning_rate: float = Field(1e-3, ge=0, description="learning rate of the new word's embedding")
    lwf_weight: float = Field(10.0, ge=0, description="lambda, weight of the distance to the last model's predictions")


class LearningWithoutForgetting(SequentialLora):
    """The state is that of `seqlora`, plus the class nouns for the phrases of earlier concepts."""

    version = 1
    Options = LwfOptions
    tested_against = "official code's behaviour"
    search = {"": {"learning_rate": {"log": (0.0008, 0.005)}, "lwf_weight": {"log": (1.0, 100.0)}}}

    def learn(self, backbone, task, state):
        theta_before = state.tensors_of("adapter", backbone.device)
        more = self.distillation(backbone, task, state, theta_before) if theta_before else dict
        after, theta = learn_lora(self, backbone, task, state, init=theta_before or None, more=more)
        after.facts["nouns"] = {**state.facts.get("nouns", {}), task.concept: task.class_noun}
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in theta.items()}
        return after

    def distillation(self, backbone, task, state, theta_before):
        """The second term of L."""
        phrases = [self.phrase(concept, noun, state) for concept, noun in state.facts["nouns"].items()]
        generator = task.generator("lwf")

        def y_j() -> str:
            return phrases[int(torch.randint(len(phrases), (1,), generator=generator))]

        def eps_before(batch, prompts):
            return backbone.predict(batch.noisy, batch.timesteps, encoded(backbone, prompts), theta_before)

        return TeacherTerm(backbone, "lwf", self.options.lwf_weight, y_j, eps_before)
