"""The tools for method files: the training loop, LoRA, words, losses. With `cpbench.method` it is all that they import.

`fisher`, `diffusion_classifier`, `functional`, `norms`, `prior_preservation`, `structured_prompts` and
`weights_or_lora` are modules; everything else is a function, class or constant.
"""

from cpbench.backbones.adapters import (
    ATTENTION,
    TEXT_ATTENTION,
    TEXT_KEYS_VALUES,
    AdapterType,
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
from cpbench.backbones.quantization import dense
from cpbench.backbones.sampling import Sampler
from cpbench.learning import (
    diffusion_classifier,
    fisher,
    functional,
    layer_inputs,
    norms,
    prior_preservation,
    structured_prompts,
    weights_or_lora,
)
from cpbench.learning.class_preservation import ClassPreservationOptions, class_preservation_term
from cpbench.learning.encoded_prompts import encoded, encoding_once
from cpbench.learning.flat import joined
from cpbench.learning.lora import LoraOptions, forgetting, learn_lora, past_loras, stacked
from cpbench.learning.prior_preservation import PriorOptions, prior_preservation_term
from cpbench.learning.semantic_preservation import SemanticPreservationOptions, semantic_preservation_term
from cpbench.learning.step_log import StepLog
from cpbench.learning.training import (
    TEMPLATES,
    Batch,
    Loss,
    TeacherTerm,
    Terms,
    batches,
    denoising,
    denoising_terms,
    error,
    train,
)
from cpbench.learning.weights_or_lora import WeightsOrLoraOptions
from cpbench.learning.words import add_fixed_word, add_tokens, add_words, phrase_of, token_of
from cpbench.moved import old_names

__all__ = [
    "ATTENTION",
    "TEMPLATES",
    "TEXT_ATTENTION",
    "TEXT_KEYS_VALUES",
    "AdapterType",
    "Backbone",
    "Batch",
    "ClassPreservationOptions",
    "LoraOptions",
    "Loss",
    "PriorOptions",
    "Sampler",
    "SemanticPreservationOptions",
    "StepLog",
    "TeacherTerm",
    "Terms",
    "WeightsOrLoraOptions",
    "add_fixed_word",
    "add_to_weights",
    "add_tokens",
    "add_words",
    "batches",
    "class_preservation_term",
    "denoising",
    "denoising_terms",
    "dense",
    "diffusion_classifier",
    "dora_weights",
    "encoded",
    "encoding_once",
    "error",
    "fisher",
    "forgetting",
    "functional",
    "joined",
    "layer_inputs",
    "learn_lora",
    "matching_modules",
    "norms",
    "past_loras",
    "phrase_of",
    "prior_preservation",
    "prior_preservation_term",
    "products",
    "refuse_convolutions",
    "semantic_preservation_term",
    "side_by_side",
    "stacked",
    "structured_prompts",
    "sum_of_products",
    "token_of",
    "train",
    "vera_as_lora",
    "weights_or_lora",
]


__getattr__ = old_names(__name__)
