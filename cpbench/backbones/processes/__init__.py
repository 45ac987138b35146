"""How noise comes into latents and goes out again: one `process.Process` each, found by a pipeline's scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpbench.backbones.processes.process import Process


def process_of(scheduler: Any) -> Process:
    """The process of a pipeline's scheduler."""
    from cpbench.backbones.processes.diffusion import Diffusion

    return Diffusion(scheduler)


def refuse(scheduler: Any, what: str) -> None:
    """UserError, in one line that begins with `what`, for a scheduler of no process that methods can train on."""
    from cpbench.backbones.processes import diffusion

    diffusion.refuse(scheduler, what)
