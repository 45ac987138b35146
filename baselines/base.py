"""The untouched model, prompted with the class noun: the floor of every comparison."""

from __future__ import annotations

from cpbench.method import Method, Options, State


class Base(Method):
    """Row t equals row 0; the gains of all other methods are measured from it."""

    version = 1
    Options = Options
    tested_against = "our reading"

    def learn(self, backbone, task, state):
        return State({}, {"concepts": [*state.concepts, task.concept]})

    def install(self, backbone, state, concepts, prompts=()):
        pass

    def phrase(self, concept, class_noun, state):
        return class_noun

    def lora(self, state, concepts):
        return {}
