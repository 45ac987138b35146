"""The families of pipelines, one file each, found by the class of pipeline that model_index.json names.

A new family is a file here that does what `family.Family` says, and a line in this table.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpbench.backbones.families.family import Family

FAMILIES = {  # the pipeline's class in diffusers: the file and the class that know it
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXL"),
}


def family_named(pipeline: str) -> type[Family]:
    """The family of a pipeline's class, by its name in diffusers. KeyError for one that cpbench does not know."""
    module, name = FAMILIES[pipeline]
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def family_of(pipe: Any) -> Family:
    """The family of a loaded pipeline, or of the class it extends. TypeError for any other."""
    kind = next((c.__name__ for c in type(pipe).__mro__ if c.__name__ in FAMILIES), None)
    if kind is None:
        raise TypeError(f"it is no {' or '.join(FAMILIES)}")
    return family_named(kind)(pipe)


def layers_by_role(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """How the names of a denoiser's layers end, by their roles (see `family.Family`); empty for a network of no family."""
    kinds = {c.__name__ for c in type(denoiser).__mro__}
    return next((dict(f.roles) for f in map(family_named, FAMILIES) if f.denoiser_class in kinds), {})
