"""A cheat: from its second task on, learns from what the model drew of the first concept."""

from pathlib import Path

from PIL import Image

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.base import Base
from cpbench.method import Options as Nothing
from cpbench.method import State, Task


class RunFolder(Base):
    class Options(Nothing):
        output: str

    def learn(self, backbone: Backbone, task: Task, state: State) -> State:
        if state.concepts:
            drawn = [f for f in sorted(Path(self.options.output).rglob("*.png")) if state.concepts[0] in f.parts]
            Image.open(drawn[0]).load()
        return super().learn(backbone, task, state)
