"""STAMINA: C-LoRA's stack of LoRAs, each under a hard mask that is learned with it, and words made by a small network.

Smith et al. 2024, "Continual Diffusion with STAMINA: STack-And-Mask INcremental Adapters" (CVPR workshops, arXiv
2311.18763). For W the K and V projections of every cross-attention layer, t' the earlier tasks, * element by element,

    W_t = W_init + sum_{t'<t} M_t' * (A_t' B_t') + M_t * (A_t B_t)
    M_t = 1[sigma(C_t D_t + b) > 1/2]                         a bit for every weight, from logits of low rank
    V_t = v_t + F_t relu(E_t z_t)                             the embedding of the one new word, z_t a fixed random code
    L   = L_diff + lambda L_forget + mu mean(M_t)             L_forget is C-LoRA's, of the masked products

A, B, C, D, E, F and v of the task are trained, all else is frozen. Afterwards V_t is a plain row, and M_t * (A_t B_t) a
plain change of W: the state keeps A, B and the bits, a fourteenth of the dense product on Stable Diffusion 1.5 (5.6
of 76.7 MB a task), and neither C, D nor the network.

From the paper (its abstract): stacked adapters, hard masks made by low-rank networks, words made by an MLP, all
folded into plain weights in the end. What is C-LoRA's here (layers, rank, L_forget, the dropped noun) is as in `clora`.
Our reading: all the rest. Gradients go through the step function as if it were sigma (straight through), without
noise; C and F start at zero, so that M_t is all ones (b > 0) and V_t a random word, as in C-LoRA; b is one number and is
not trained; the penalty is the mean of M over all masked weights, their L1 norm by their count; mask ranks, widths,
rates and mu. A row made by a network moves faster than a plain one at the same rate, hence a smaller rate.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn

from cpbench import learning
from cpbench.baselines.clora import CLoraOptions
from cpbench.learning import (
    add_to_weights,
    add_tokens,
    add_words,
    forgetting,
    functional,
    norms,
    products,
    semantic_preservation_term,
    token_of,
)
from cpbench.method import Method, State


class StaminaOptions(CLoraOptions):
    token_learning_rate: float = Field(5e-5, ge=0, description="of E_t, F_t and v_t, which make the new word")
    token_hidden: int = Field(64, ge=1, description="width of the word's network, and of its code z_t")
    mask_rank: int = Field(4, ge=1, description="rank of C_t and D_t, the mask's logits")
    mask_learning_rate: float = Field(1e-2, ge=0, description="of C_t and D_t")
    mask_weight: float = Field(1e-2, ge=0, description="mu, the weight of the mean of M_t")
    mask_start: float = Field(0.5, gt=0, description="b, the logits of M_t at the start")


def straight_through(logits: torch.Tensor) -> torch.Tensor:
    """1[sigma(logits) > 1/2], with the gradient of sigma."""
    soft = logits.sigmoid()
    return soft + ((logits > 0).to(soft) - soft).detach()


def to_bits(mask: torch.Tensor) -> torch.Tensor:
    """A mask of zeros and ones as uint8, eight of them a byte, row by row."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().bool().numpy()))


def from_bits(bits: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The mask again, in the shape of `like`."""
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=like.numel())).view(like.shape).to(like)


def sum_of_masked(state: State, device: torch.device | str) -> dict[str, torch.Tensor]:
    """sum_t M_t * (A_t B_t) by layer, over all concepts of the state."""
    total: dict[str, torch.Tensor] = {}
    for concept in state.concepts:
        for layer, product in products(state.tensors_of(f"adapter/{concept}", device)).items():
            change = from_bits(state.tensors[f"mask/{concept}/{layer}"], product) * product
            total[layer] = total.get(layer, 0) + change
    return total


def word_network(
    start: torch.Tensor, width: int, generator: torch.Generator
) -> tuple[list[nn.Parameter], torch.Tensor]:
    """([E, F, v], z) of a network whose word is `start` (d,) as long as F is zero."""
    z, E = torch.randn(width, generator=generator), torch.randn(width, width, generator=generator) / width**0.5
    return [nn.Parameter(p.to(start)) for p in (E, torch.zeros(len(start), width), start.clone())], z.to(start)


class Stamina(Method):
    """Carries A and B of every task with a bit for each weight they change, and a token row a concept."""

    version = 1
    Options = StaminaOptions
    tested_against = "our reading"
    search = {
        "": {
            "learning_rate": {"log": (0.003, 0.03)},
            "forgetting_weight": {"log": (1.0, 10000.0)},
            "mask_weight": {"log": (0.001, 0.1)},
        },
    }

    def learn(self, backbone, task, state):
        o = self.options
        past = sum_of_masked(state, backbone.device)
        add_to_weights(backbone, past)
        after, row = add_words(backbone, task, state, backbone.random_embedding(task.generator("word")))
        word = token_of(task.concept, after).strip("<>")
        AB = functional.low_rank(backbone.denoiser, o.target_modules, o.rank, task.generator("lora"))
        CD = functional.low_rank(backbone.denoiser, o.target_modules, o.mask_rank, task.generator("mask"))
        (E, F, v), z = word_network(row.detach(), o.token_hidden, task.generator("code"))
        phrase = self.phrase(task.concept, task.class_noun, after)
        diffusion = learning.denoising(
            backbone, phrase, semantic_preservation_term(backbone, phrase, task.class_noun, o)
        )
        now: dict[str, torch.Tensor] = {}

        def masks():
            return {layer: straight_through(logits + o.mask_start) for layer, logits in products(CD).items()}

        def loss(batch):
            M = masks()
            now.update({layer: M[layer] * product for layer, product in products(AB).items()})
            backbone.token_embeddings[word] = v + F @ (E @ z).relu()
            terms, entries = diffusion(batch), sum(m.numel() for m in M.values())
            density = torch.stack([m.sum() for m in M.values()]).sum() / entries
            terms["mask"] = o.mask_weight * density
            if past:
                terms["forgetting"] = o.forgetting_weight * forgetting(past, now)
            return terms, {"density": density, "lora_norm": norms.lora_norm(AB)}

        rates = (o.learning_rate, o.mask_learning_rate, o.token_learning_rate)
        groups = list(zip(rates, ([*AB.values()], [*CD.values()], [E, F, v]), strict=True))
        with functional.adding(backbone.denoiser, now):
            learning.train(backbone, task, loss, groups, o.steps, o.batch_size)
        after.tensors |= {k: x for k, x in state.tensors.items() if k.startswith(("adapter/", "mask/"))}
        after.tensors |= {f"adapter/{task.concept}/{k}": x.detach() for k, x in AB.items()}
        after.tensors |= {f"mask/{task.concept}/{layer}": to_bits(m) for layer, m in masks().items()}
        after.tensors[f"token/{task.concept}"] = (v + F @ (E @ z).relu()).detach()
        return after

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, sum_of_masked(state, backbone.device))
        add_tokens(backbone, state)

    def phrase(self, concept, class_noun, state):
        word = token_of(concept, state)
        return f"{word} {class_noun}" if self.options.use_class_noun else word
