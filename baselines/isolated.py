"""One LoRA and one token per concept, each learned from the untouched model: the ceiling of what can be learned.

Nothing is forgotten, since concepts share no weights. The costs: the state grows with the sequence, and no picture can
show two concepts. Loss and layers are those of `seqlora`: at the same learning rates, the two differ only by
forgetting.
"""

from __future__ import annotations

from cpbench.learning import LoraOptions, add_tokens, learn_lora, phrase_of, stacked
from cpbench.method import Method, NotDefined


class Isolated(Method):
    """The state holds one LoRA and one token embedding per concept."""

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
        after, lora_parameters = learn_lora(self, backbone, task, state)  # the earlier words are added, but not used
        return stacked(state, after, task.concept, lora_parameters)

    def install(self, backbone, state, concepts, prompts=()):
        lora_parameters, o = self.lora(state, concepts), self.options
        add_tokens(backbone, state, concepts=concepts)
        for _ in concepts:
            backbone.add_lora(o.rank, o.target_modules, values=lora_parameters)

    def phrase(self, concept, class_noun, state):
        return phrase_of(concept, class_noun, state)

    def lora(self, state, concepts):
        if len(concepts) > 1:
            raise NotDefined("isolated has one LoRA per concept and cannot use two at once")
        return state.tensors_of(f"adapter/{concepts[0]}") if concepts else {}
