"""One LoRA and one token a concept, each learned from the untouched model: the ceiling of what can be learned.

Nothing is forgotten, since nothing is shared; the price is a state that grows with the sequence, and that no picture
can show two concepts. Loss and layers are those of `seqlora`: with the same rates, what separates the two is forgetting alone.
"""

from __future__ import annotations

from cpbench.learning import LoraOptions, learn_lora, stacked, token_of
from cpbench.method import Method, NotDefined


class Isolated(Method):
    """Carries A, B and a token row for every concept learned so far."""

    version = 1
    Options = LoraOptions
    tested_against = "our reading"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "token_learning_rate": {"log": (0.001, 0.02)},
        },
    }

    def learn(self, backbone, task, state):
        after, factors = learn_lora(self, backbone, task, state)  # earlier words are there, and unused
        return stacked(state, after, task.concept, factors)

    def install(self, backbone, state, concepts, prompts=()):
        values, o = self.lora(state, concepts), self.options
        for concept in concepts:
            backbone.add_token(token_of(concept, state), state.tensors[f"token/{concept}"])
            backbone.add_lora(o.rank, o.target_modules, values=values)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        if len(concepts) > 1:
            raise NotDefined("isolated has one LoRA a concept and no way to use two at once")
        return state.tensors_of(f"adapter/{concepts[0]}") if concepts else {}
