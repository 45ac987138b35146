"""Noise processes, one `process.Process` each, by the class of a pipeline's scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpbench.backbones.processes.process import Process


def process_of(scheduler: Any) -> Process:
    """The process of a pipeline's scheduler."""
    from cpbench.backbones.processes.diffusion import Diffusion

    return Diffusion(scheduler)


def refuse(scheduler: Any, label: str) -> None:
    """UserError, which begins with `label`, for a scheduler without a process that methods can train on."""
    from cpbench.backbones.processes import diffusion

    diffusion.refuse(scheduler, label)
