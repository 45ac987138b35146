"""One LoRA and one token a concept, each learned from the untouched model: the ceiling of what can be learned.

Nothing is forgotten, since nothing is shared; the price is a state that grows with the sequence, and that no picture
can show two concepts. Loss, layers and settings are those of `seqlora`, so the gap between the two is forgetting alone.
"""

from __future__ import annotations

from cpbench import learning
from cpbench.baselines.seqlora import LoraSettings, token_of
from cpbench.method import Method, NotDefined, State
from cpbench.semantic_preservation import semantic


class Isolated(Method):
    """Carries A, B and a token row for every concept learned so far."""

    Options = LoraSettings

    def learn(self, backbone, task, state):
        o = self.options
        state = state or State({}, {"concepts": []})
        after = State(dict(state.tensors), {**state.facts, "concepts": [*state.concepts, task.concept]})
        row = backbone.add_token(token_of(task.concept, after), backbone.word_embedding(task.class_noun))
        factors = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"))
        groups = [(o.learning_rate, list(factors.values())), (o.token_learning_rate, [row])]
        phrase = self.phrase(task.concept, task.class_noun, after)
        loss = learning.denoising(backbone, phrase, semantic(backbone, phrase, task.class_noun, o))
        learning.train(backbone, task, loss, groups, o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = row.detach()
        after.tensors |= {f"adapter/{task.concept}/{k}": v.detach() for k, v in factors.items()}
        return after

    def install(self, backbone, state, concepts):
        values, o = self.lora(state, concepts), self.options
        for concept in concepts:
            backbone.add_token(token_of(concept, state), state.tensors[f"token/{concept}"])
            backbone.add_lora(o.rank, o.target_modules, values=values)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"

    def lora(self, state, concepts):
        if len(concepts) > 1:
            raise NotDefined("isolated has one LoRA a concept and no way to use two at once")
        return state.part(f"adapter/{concepts[0]}") if concepts else {}
