"""A cheat: opens a picture of a folder that is not its concept's."""

from pathlib import Path

from PIL import Image

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.base import Base
from cpbench.method import Options as Nothing
from cpbench.method import State, Task


class OtherFolder(Base):
    class Options(Nothing):
        folder: str

    def learn(self, backbone: Backbone, task: Task, state: State | None) -> State:
        for file in sorted(Path(self.options.folder).glob("*.png")):
            Image.open(file).load()
        return super().learn(backbone, task, state)
