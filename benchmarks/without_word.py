"""seqlora without a new word, as the scripts of others train: a LoRA alone, with the fixed word "sks" in every prompt.

    cpbench run --method benchmarks/without_word.py ...

It shows what the learned word costs, whose gradient passes through every key and value and all text encoders. It cannot
tell two concepts of one class noun apart.
"""

from __future__ import annotations

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import denoising, train
from cpbench.method import State


class WithoutWord(SequentialLora):
    def learn(self, backbone, task, state):
        o = self.options
        init = state.tensors_of("adapter") or None
        lora_parameters = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"), init)
        loss = denoising(backbone, self.phrase(task.concept, task.class_noun, state))
        train(backbone, task, loss, [(o.learning_rate, lora_parameters)], o.steps, o.batch_size)
        tensors = {f"adapter/{name}": parameter.detach() for name, parameter in lora_parameters.items()}
        return State(tensors, {**state.facts, "concepts": [*state.concepts, task.concept]})

    def install(self, backbone, state, concepts, prompts=()):
        backbone.add_lora(self.options.rank, self.options.target_modules, values=state.tensors_of("adapter"))

    def phrase(self, concept, class_noun, state):
        return f"sks {class_noun}"
