"""O-LoRA: a new LoRA a task, in directions that the earlier ones do not use.

Wang et al. 2023, "Orthogonal Subspace Learning for Language Model Continual Learning" (EMNLP findings, arXiv
2310.14152), as T2I-ConBench (arXiv 2505.16875) brought it to diffusion. With A (r, in) and B (out, r) of a layer, t'
the earlier tasks,

    W_t = W_init + sum_{t'<t} B_t' A_t' + B_t A_t
    L = L_denoise + lambda sum over layers, t' < t and entries of | B_t'^T B_t |                (side=B)
                                                          or of | A_t' A_t^T |                (side=A)

A_t, B_t and the embedding of one new word are trained, all else is frozen, the earlier LoRAs too. Side B, the
default, is T2I-ConBench's: columns of B_t are what the new LoRA writes, and are kept off what earlier ones write; its
lambda is 0.1. Side A is that of the first authors' code (on language, lambda 0.5): rows of A_t are what it reads.
Either sum is one of absolute values. Our reading: rank, layers and rates of the other baselines (T2I-ConBench: rank
16 with alpha 32, 5e-6, on a transformer), the noun in the prompt, and a word that starts as it.

Overlaps shrink with B_t (or A_t) as well, and the other factor can make up for it: `overlap` in the training curve is
the sum without lambda, to be read beside the scores.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from cpbench.baselines.clora import CLora
from cpbench.learning import LoraOptions, learn_lora, past_loras, side_by_side, stacked, sum_of_products, token_of


class OLoraOptions(LoraOptions):
    orthogonality_weight: float = Field(0.1, ge=0, description="lambda, the weight of the overlap, a sum")
    side: Literal["A", "B"] = Field("B", description="whose overlap: B, what LoRAs write; A, what they read")


def directions(factor: torch.Tensor, side: str) -> torch.Tensor:
    """The r directions of a factor as rows: A's (r, in), B's columns (r, out); a convolution's are flat."""
    return factor.flatten(1) if side == "A" else factor.flatten(1).T


def overlap(past: dict[str, torch.Tensor], now: dict[str, torch.Tensor], side: str) -> torch.Tensor:
    """sum | B_t'^T B_t | or sum | A_t' A_t^T | from factors by name, the earlier LoRAs' side by side."""
    names = [name for name in now if name.endswith(f"lora_{side}")]
    products = [directions(past[name], side) @ directions(now[name], side).T for name in names]
    return torch.stack([product.abs().sum() for product in products]).sum()


class OLora(CLora):
    """Carries A and B of every task, and a token row a concept; installed, and exported, as C-LoRA is."""

    version = 1
    Options = OLoraOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "orthogonality_weight": {"log": (0.003, 0.3)},
        },
    }

    def learn(self, backbone, task, state):
        o = self.options
        loras = past_loras(state, backbone.device)
        past = side_by_side(loras)

        def penalty(batch, factors):
            if not past:
                return {}
            found = overlap(past, factors, o.side)
            return {"orthogonality": o.orthogonality_weight * found}, {"overlap": found}

        after, factors = learn_lora(self, backbone, task, state, penalty, weight_deltas=sum_of_products(loras))
        return stacked(state, after, task.concept, factors)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"
