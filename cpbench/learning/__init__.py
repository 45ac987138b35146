"""The tools that method files use, and the only door to them beside `cpbench.method`.

Whole modules: `fisher`, `diffusion_classifier`, `functional`, `norms`, `prior_preservation`, `structured_prompts`,
`weights_or_lora`. All else by name.
"""

from cpbench.backbones.adapters import (
    ATTENTION,
    TEXT_ATTENTION,
    TEXT_KEYS_VALUES,
    Kind,
    add_to_weights,
    dora_weights,
    matching_modules,
    products,
    refuse_convolutions,
    side_by_side,
    sum_of_products,
    vera_as_lora,
)
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler
from cpbench.learning import (
    diffusion_classifier,
    fisher,
    functional,
    norms,
    prior_preservation,
    structured_prompts,
    weights_or_lora,
)
from cpbench.learning.lora import (
    Settings,
    add_tokens,
    add_words,
    forgetting,
    learn_lora,
    past_loras,
    stacked,
    token_of,
)
from cpbench.learning.prior_preservation import Prior, prior
from cpbench.learning.semantic_preservation import Preservation, semantic
from cpbench.learning.training import TEMPLATES, Batch, Loss, Terms, batches, denoising, error, train
from cpbench.learning.weights_or_lora import WeightsOrLora

__all__ = [
    "ATTENTION",
    "TEMPLATES",
    "TEXT_ATTENTION",
    "TEXT_KEYS_VALUES",
    "Backbone",
    "Batch",
    "Kind",
    "Loss",
    "Preservation",
    "Prior",
    "Sampler",
    "Settings",
    "Terms",
    "WeightsOrLora",
    "add_to_weights",
    "add_tokens",
    "add_words",
    "batches",
    "denoising",
    "diffusion_classifier",
    "dora_weights",
    "error",
    "fisher",
    "forgetting",
    "functional",
    "learn_lora",
    "matching_modules",
    "norms",
    "past_loras",
    "prior",
    "prior_preservation",
    "products",
    "refuse_convolutions",
    "semantic",
    "side_by_side",
    "stacked",
    "structured_prompts",
    "sum_of_products",
    "token_of",
    "train",
    "vera_as_lora",
    "weights_or_lora",
]


def __getattr__(name: str) -> object:
    if name == "noise_scheduler":  # of cpbench 0.1
        from cpbench.learning import old_names
        from cpbench.moved import warn_once

        warn_once("cpbench.learning.noise_scheduler", "backbone.process")
        return old_names.noise_scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
