"""The families of pipelines, one file each, by the pipeline class in model_index.json.

A new family is a file that implements `family.Family`, and a line in FAMILIES and in PRESETS.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpbench.backbones.families.family import Family

FAMILIES = {  # pipeline class in diffusers: (file, class) of its family
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3"),
    "PixArtAlphaPipeline": ("pixart", "PixArt"),
    "PixArtSigmaPipeline": ("pixart", "PixArt"),
    "SanaPipeline": ("sana", "Sana"),
    "FluxPipeline": ("flux", "Flux"),
}
PRESETS = {  # pipeline class: the file of methods' settings in baselines/presets, without its ending
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sd",
    "StableDiffusion3Pipeline": "sd3",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
    "SanaPipeline": "sana",
    "FluxPipeline": "flux",
}


def family_named(pipeline: str) -> type[Family]:
    """The family of a pipeline's class, by its name in diffusers. KeyError for an unknown class."""
    module, name = FAMILIES[pipeline]
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def family_of(pipe: Any) -> Family:
    """The family of a loaded pipeline, by its class or a base class. TypeError if there is none."""
    pipeline_class = next((c.__name__ for c in type(pipe).__mro__ if c.__name__ in FAMILIES), None)
    if pipeline_class is None:
        raise TypeError(f"it is no {' or '.join(FAMILIES)}")
    return family_named(pipeline_class)(pipe)


def layers_by_role(denoiser: Any) -> dict[str, tuple[str, ...]]:
    """The endings of a denoiser's layer names by role (see `family.Family`); empty for an unknown network."""
    class_names = {c.__name__ for c in type(denoiser).__mro__}
    return next((dict(f.roles) for f in map(family_named, FAMILIES) if f.denoiser_class in class_names), {})
