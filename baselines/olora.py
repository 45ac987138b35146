"""O-LoRA: one new LoRA per task, in directions that the earlier ones do not use.

Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning" (EMNLP findings, arXiv
2310.14152), as T2I-ConBench (arXiv 2505.16875) applied it to diffusion. A (r, in) and B (out, r) are of a layer, t' the
earlier tasks:

    W_t = W_init + sum_{t'<t} B_t' A_t' + B_t A_t
    L = L_denoise + lambda sum over layers, t' < t and entries of | B_t'^T B_t |                (side=B)
                                                          or of | A_t' A_t^T |                (side=A)

A_t, B_t and the embedding of one new word are trained; everything else is frozen, the earlier LoRAs too. Side B, the
default, is T2I-ConBench's: the columns of B_t, which the new LoRA writes, avoid those of earlier LoRAs; its lambda is
0.1. Side A is that of the original code (on language, lambda 0.5): the rows of A_t, which the LoRA reads. Both are sums
of absolute values. The original code also has lambda_2 times the L2 norm of the new LoRA, 0 in most of its scripts; it is
left out here, as in T2I-ConBench. Our assumptions: rank, layers and learning rates of the other baselines (T2I-ConBench: rank 16 with
alpha 32, 5e-6, on a transformer), the noun in the prompt, and a word that starts as the noun.

A smaller B_t (or A_t) also reduces the overlap, and the other factor can compensate. `overlap` in the training curve is
the sum without lambda; compare it with the scores.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from cpbench.baselines.clora import CLora
from cpbench.learning import (
    LoraOptions,
    joined,
    learn_lora,
    past_loras,
    phrase_of,
    side_by_side,
    stacked,
    sum_of_products,
)


class OLoraOptions(LoraOptions):
    orthogonality_weight: float = Field(0.1, ge=0, description="lambda, weight of the overlap, a sum")
    side: Literal["A", "B"] = Field(
        "B", description="factor whose overlap is penalised: B, what LoRAs write; A, what they read"
    )


def directions(factor: torch.Tensor, side: str) -> torch.Tensor:
    """The r directions of a factor as rows: A (r, in), or B's columns (r, out); those of a convolution are flattened."""
    return factor.flatten(1) if side == "A" else factor.flatten(1).T


def overlap(past: dict[str, torch.Tensor], current: dict[str, torch.Tensor], side: str) -> torch.Tensor:
    """sum | B_t'^T B_t | or sum | A_t' A_t^T | from LoRA parameters by name; past: all earlier LoRAs as one."""
    names = [name for name in current if name.endswith(f"lora_{side}")]
    products = [directions(past[name], side) @ directions(current[name], side).T for name in names]
    return joined(products).abs().sum()


class OLora(CLora):
    """The state holds the LoRA of each task and one token embedding per concept; installed as C-LoRA is."""

    version = 1
    Options = OLoraOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "orthogonality_weight": {"log": (0.003, 0.3)},
        },
    }

    def check(self, backbone):
        """A concept has its class noun, whatever its word is."""

    def learn(self, backbone, task, state):
        o = self.options
        loras = past_loras(state, backbone.device)
        past = side_by_side(loras)

        def penalty(batch, lora_parameters):
            if not past:
                return {}
            overlaps = overlap(past, lora_parameters, o.side)
            return {"orthogonality": o.orthogonality_weight * overlaps}, {"overlap": overlaps}

        after, lora_parameters = learn_lora(self, backbone, task, state, penalty, weight_deltas=sum_of_products(loras))
        return stacked(state, after, task.concept, lora_parameters)

    def phrase(self, concept, class_noun, state):
        return phrase_of(concept, class_noun, state)
