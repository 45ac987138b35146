"""The figures of a loop's steps, read from the device ten steps at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from cpbench.errors import UserError
from cpbench.method import Task

PERIOD = 10  # steps; reading a figure makes the host wait for the device, and norms cost as much as a penalty


@dataclass
class StepLog:
    """A context in which the figures of steps are noted; they stay on the device until some are written together.

    They go to the task's log under the name `phase`: in every tenth step, and at the end. An interrupt writes nothing.
    """

    task: Task
    phase: str
    waiting: list[tuple[int, list[str], torch.Tensor]] = field(default_factory=list)

    def add(self, step: int, figures: Mapping[str, torch.Tensor]) -> None:
        """Note the figures of a step, scalars by name; one is called "loss".

        UserError for a loss that was not finite in this or an earlier step, when it is written.
        """
        device = figures["loss"].device
        scalars = [figure.detach().reshape(()).to(device, torch.float32) for figure in figures.values()]
        self.waiting.append((step, list(figures), torch.stack(scalars)))
        if step % PERIOD == 0:
            self.write()

    def write(self) -> None:
        """Log the steps that wait. UserError at the first whose loss is not finite; it is not logged."""
        waiting, self.waiting = self.waiting, []
        values = iter(torch.cat([vector for _, _, vector in waiting]).tolist() if waiting else [])
        for step, names, _ in waiting:
            figures = {name: next(values) for name in names}
            if not math.isfinite(figures["loss"]):
                raise UserError(
                    f"concept {self.task.concept}: the loss is {figures['loss']} at step {step}; lower the learning rate"
                )
            self.task.log(step, phase=self.phase, **figures)

    def __enter__(self) -> StepLog:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *error: object) -> None:
        if error_type is None or issubclass(error_type, Exception):
            self.write()  # a loss that is not finite explains an error in a later step
