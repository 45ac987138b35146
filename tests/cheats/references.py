"""A cheat: asks for, or carries in its state, the pictures that identity is scored against."""

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.base import Base
from cpbench.concepts import held_out
from cpbench.method import Options as Nothing
from cpbench.method import State, Task


class References(Base):
    class Options(Nothing):
        carry: bool = False

    def __init__(self, options) -> None:
        super().__init__(options)
        self.references = held_out.further_drawings("dog", 8)  # before anybody watches

    def learn(self, backbone: Backbone, task: Task, state: State) -> State:
        if not self.options.carry:
            held_out.further_drawings(task.concept, 8)
        after = super().learn(backbone, task, state)
        if not state.concepts:
            after.tensors["generated/replay"] = torch.from_numpy(self.references).float()
        return after
