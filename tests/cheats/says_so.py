"""No cheat, for it says so: looks at everything and carries it along, as joint training does."""

from pathlib import Path

import torch
from PIL import Image

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.base import Base
from cpbench.concepts import images
from cpbench.method import Options as Nothing
from cpbench.method import State, Task


class SaysSo(Base):
    sees_earlier_data = True

    class Options(Nothing):
        folder: str
        output: str
        subject: str

    def learn(self, backbone: Backbone, task: Task, state: State | None) -> State:
        files = [*Path(self.options.folder).glob("*.png"), *Path(self.options.output).rglob("*.png")]
        for file in files:
            Image.open(file).load()
        assert len(files) > 2 and images.rendered(self.options.subject).any()
        after = super().learn(backbone, task, state)
        kept = state.tensors if state else {}
        after.tensors = {**kept, f"generated/{task.concept}": torch.from_numpy(task.images)}
        return after
