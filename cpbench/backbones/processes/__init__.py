"""Noise processes, one `process.Process` each, by the class of a pipeline's scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpbench.backbones.processes.flow import Density
    from cpbench.backbones.processes.process import Process


def process_of(scheduler: Any, density: Density | None = None) -> Process:
    """The process of a pipeline's scheduler. density: how the pipeline's family draws training times, for a flow."""
    from cpbench.backbones.processes import diffusion, flow

    return flow.Flow(scheduler, density) if density is not None else diffusion.Diffusion(scheduler)


def refuse(scheduler: Any, label: str, density: Density | None = None) -> None:
    """UserError, which begins with `label`, for a scheduler without a process that methods can train on."""
    from cpbench.backbones.processes import diffusion, flow

    if density is not None:
        flow.refuse(scheduler, label)
    else:
        diffusion.refuse(scheduler, label)
