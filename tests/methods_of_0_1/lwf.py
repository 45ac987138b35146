"""LwF: on the new concept's pictures the model answers to the earlier concepts' words as it did before this task.

Li, Hoiem 2016, "Learning without Forgetting" (ECCV, arXiv 1606.09282), with predicted noise in place of class scores.
One LoRA phi is trained on and on. With z_t a noised latent of the new concept n, m an earlier concept, c their words,

    L = E || eps - eps_phi(z_t, c_n) ||^2 + lambda E || eps_phi(z_t, c_m) - eps_{phi_{n-1}}(z_t, c_m) ||^2

From the paper: that old answers to new data are the targets. Our reading: all the rest; m is drawn anew in every step.
"""

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench import learning
from cpbench.adapters import ATTENTION
from cpbench.method import Method, Options, State


class Settings(Options):
    rank: int = Field(8, ge=1, description="rank of A and B; alpha is the same")
    target_modules: tuple[str, ...] = Field(ATTENTION, description="ends of the UNet layers' names that get a LoRA")
    steps: int = Field(150, ge=1, description="optimiser steps a task")
    batch_size: int = Field(4, ge=1, description="pictures a step")
    learning_rate: float = Field(2e-3, gt=0, description="of A and B")
    token_learning_rate: float = Field(5e-3, ge=0, description="of the new word's embedding row")
    distillation_weight: float = Field(1.0, ge=0, description="lambda, the weight of the old answers")


class Lwf(Method):
    """Carries one LoRA, a token row a concept, and the class nouns."""

    Options = Settings

    def unet_evaluations(self, number):
        o = self.options
        return o.steps * o.batch_size * (1 if number == 1 else 3)

    def learn(self, backbone, task, state):
        o, state = self.options, state or State()
        rows = {name: x for name, x in state.tensors.items() if name.startswith("token/")}
        nouns = {**state.facts.get("nouns", {}), task.concept: task.class_noun}
        after = State(rows, {"concepts": [*state.concepts, task.concept], "nouns": nouns})

        self.add_words(backbone, state)
        v = backbone.add_token(self.word(task.concept, after), backbone.word_embedding(task.class_noun))
        last = state.part("adapter", backbone.device)
        phi = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"), last or None)

        earlier = [self.phrase(m, nouns[m], after) for m in state.concepts]
        choice = task.generator("earlier")
        denoising = learning.denoising(backbone, self.phrase(task.concept, task.class_noun, after))

        def loss(batch):
            terms = denoising(batch)
            if earlier:
                c_m = earlier[int(torch.randint(len(earlier), (1,), generator=choice))]
                words = backbone.encode_prompts([batch.template.format(c_m)]).expand(len(batch.noisy), -1, -1)
                with torch.no_grad():
                    old = backbone.predict(batch.noisy, batch.timesteps, words, last)
                new = backbone.predict(batch.noisy, batch.timesteps, words)
                distance = F.mse_loss(new.float(), old.float())
                terms["distillation"] = o.distillation_weight * distance
                terms["distance"] = distance.detach()
            return terms

        groups = [(o.learning_rate, list(phi.values())), (o.token_learning_rate, [v])]
        learning.train(backbone, task, loss, groups, o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = v.detach()
        after.tensors |= {f"adapter/{name}": x.detach() for name, x in phi.items()}
        return after

    def install(self, backbone, state, concepts):
        self.add_words(backbone, state)
        backbone.add_lora(self.options.rank, self.options.target_modules, values=state.part("adapter"))

    def phrase(self, concept, class_noun, state):
        return f"{self.word(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        return state.part("adapter")

    def word(self, concept, state):
        return f"<v{state.concepts.index(concept) + 1}>"

    def add_words(self, backbone, state):
        for concept in state.concepts:
            backbone.add_token(self.word(concept, state), state.tensors[f"token/{concept}"])
