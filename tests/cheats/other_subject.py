"""A cheat: asks the drawn world for a subject by name."""

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.base import Base
from cpbench.concepts import images
from cpbench.method import Options as Nothing
from cpbench.method import State, Task


class OtherSubject(Base):
    class Options(Nothing):
        subject: str

    def learn(self, backbone: Backbone, task: Task, state: State | None) -> State:
        assert images.rendered(self.options.subject).any()
        return super().learn(backbone, task, state)
