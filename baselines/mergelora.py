"""One LoRA per concept, learned from the untouched model, and all of them merged into the weights after every task.

    Delta_i = B_i A_i,   W = W_0 + weight merge(Delta_1, ..., Delta_t)

`merge` is one of

    sum      sum_i Delta_i                                        task arithmetic (Ilharco et al. 2023, arXiv 2212.04089)
    average  1/t sum_i Delta_i                                                                        "FedAvg", "LoRA-M"
    ties     of each Delta_i the largest `density` of the entries; of these, entry by entry, the sum of those that have
             the sign of their sum, divided by their number                       (Yadav et al. 2023, arXiv 2306.01708)
    dare     1/t sum_i Delta_i m_i / density, with m_i 1 for a random `density` of the entries, else 0
                                                                                      (Yu et al. 2024, arXiv 2311.03099)
    fusion   D (S + ridge)^-1,   S = sum_i X_i^T X_i / n_i,   D = sum_i Delta_i X_i^T X_i / n_i
             with X_i (n_i, in) the inputs of the layer for concept i: gradient fusion, argmin_W sum_i 1/n_i || X_i (W -
             W_0 - Delta_i)^T ||^2                                       (Gu et al. 2023, Mix-of-Show, arXiv 2305.18292)

Nothing is trained after a concept's own LoRA: what is lost is lost in merging. All merges act on the dense Delta_i of
each layer, an (out, in) matrix, or (out, in k k) of a convolution; peft's `add_weighted_adapter` prunes and merges A and
B apart, which mixes A_i with B_j. Ties and dare are peft's functions on the Delta_i; dare draws from a generator seeded by
(seed, "dare", task, layer). The state holds the merged change of the weights, and what the next merge needs: all LoRAs,
or S and D, which do not grow with the number of concepts.

Fusion as in the official code: first keys and values of the text, with X the states of the learned word and the end of
"photo of a {c}" and "{c}"; then, with these fused, all other layers, with X of 20 unguided sampler steps of one picture
of "photo of a {c}" under Delta_i. There L-BFGS minimises from W_0 (`solver=lbfgs`), which tends to the closed form
without ridge. Our assumptions: the ridge, 1e-4 of the mean of S's diagonal; convolutions other than 1 x 1, which that code
has no case for, are unfolded; X_i is weighted by 1/n_i; earlier concepts are not sampled again under later fusions, so
that no X is carried. In joint attention no layer reads the prompt alone: all are of the second sort. With a rare word or none (`word`) X of the
first sort has the ends alone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from cpbench.baselines.isolated import Isolated
from cpbench.learning import (
    TEXT_KEYS_VALUES,
    LoraOptions,
    add_to_weights,
    add_tokens,
    layer_inputs,
    learn_lora,
    matching_modules,
    products,
    stacked,
)

RIDGE = 1e-4  # of the mean of S's diagonal
SAMPLER_STEPS = 20


class MergeLoraOptions(LoraOptions):
    merge: Literal["sum", "average", "ties", "dare", "fusion"] = Field(
        "sum", description="how the LoRAs are merged: sum, average, ties, dare or fusion"
    )
    density: float = Field(0.5, gt=0, le=1, description="share of each LoRA's entries that ties and dare keep")
    weight: float = Field(1.0, gt=0, description="factor of what is merged")
    solver: Literal["closed-form", "lbfgs"] = Field(
        "closed-form", description="how fusion is solved; lbfgs: as in Mix-of-Show's code"
    )

    only: ClassVar = {"density": {"merge": ("ties", "dare")}, "solver": {"merge": ("fusion",)}}


class MergeLora(Isolated):
    """The state holds one token embedding per concept, the merged change of each layer's weights, and LoRAs or sums."""

    version = 1
    Options = MergeLoraOptions
    tested_against = "official code's behaviour"
    search = {
        "": {"learning_rate": {"log": (8e-4, 5e-3)}, "weight": {"log": (0.5, 2.0)}},
        "merge=average": {"weight": {"log": (1.0, 4.0)}},
        "merge=ties": {"weight": {"log": (0.5, 2.0)}, "density": {"choices": (0.2, 0.5, 0.8)}},
        "merge=dare": {"weight": {"log": (1.0, 4.0)}},
        "merge=fusion": {"learning_rate": {"log": (8e-4, 5e-3)}, "weight": {"log": (0.5, 2.0)}},
    }

    def learn(self, backbone, task, state):
        after, lora_parameters = learn_lora(self, backbone, task, state)  # the earlier words are added, but not used
        if self.options.merge == "fusion":
            Delta = {layer: product.detach() for layer, product in products(lora_parameters).items()}
            merged = self.fused(backbone, task, state, after, Delta)
        else:
            after = stacked(state, after, task.concept, lora_parameters)
            loras = [after.tensors_of(f"adapter/{c}", backbone.device) for c in after.concepts]
            layers = [name.removesuffix(".lora_A") for name in loras[0] if name.endswith(".lora_A")]
            merged = {layer: self.merged(layer, [product_of(A_B, layer) for A_B in loras], task) for layer in layers}
        after.tensors |= {f"weights/{layer}": self.options.weight * Delta for layer, Delta in merged.items()}
        return after

    @torch.no_grad()
    def merged(self, layer, Deltas, task):
        """merge(Delta_1, ..., Delta_t) of one layer, in the shape of its W."""
        # with it come all of transformers' models: not where a method is only described
        from peft.utils import merge_utils

        o, rows = self.options, [Delta.flatten(1) for Delta in Deltas]
        w = torch.ones(len(rows), device=rows[0].device)
        if o.merge in ("average", "dare"):
            w /= len(rows)
        if o.merge == "ties":
            out = merge_utils.ties(rows, w, o.density)
        elif o.merge == "dare":
            with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
                seed = task.shared_generator("dare", task.number, layer).initial_seed()
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed those of GPUs as well
                out = merge_utils.dare_linear([row.cpu() for row in rows], w.cpu(), o.density).to(rows[0])
        else:
            out = merge_utils.task_arithmetic(rows, w)
        return out.view_as(Deltas[0])

    @torch.no_grad()
    def fused(self, backbone, task, state, after, Delta):
        """The fused change of each layer; the new concept's X is added to S and D of `after`."""
        S, D = (state.tensors_of(f"anchor/{name}", backbone.device) for name in "SD")
        phrase = self.phrase(task.concept, task.class_noun, after)
        backbone.restore()
        add_tokens(backbone, after)
        X = layer_inputs.word_states(backbone, [f"photo of a {phrase}", phrase])
        of_text = [] if X is None else [n for n in matching_modules(backbone.denoiser, TEXT_KEYS_VALUES) if n in Delta]
        further_layers = [layer for layer in Delta if layer not in of_text]
        for layer in of_text:
            add_to_sums(S, D, layer, X.T @ X / len(X), Delta[layer])
        fused = {layer: self.solved(S[layer], D[layer]).view_as(Delta[layer]) for layer in of_text}
        add_to_weights(backbone, fused | {layer: Delta[layer] for layer in further_layers})
        squares, n = (
            {layer: torch.zeros((), device=backbone.device) for layer in further_layers},
            dict.fromkeys(further_layers, 0),
        )

        def receive(layer, X):
            squares[layer] = squares[layer] + X.T @ X
            n[layer] += len(X)

        prompt = f"photo of a {phrase}"
        layer_inputs.while_generating(backbone, task, prompt, SAMPLER_STEPS, "fusion", further_layers, receive)
        for layer in (layer for layer in further_layers if n[layer]):
            add_to_sums(S, D, layer, squares[layer] / n[layer], Delta[layer])
            fused[layer] = self.solved(S[layer], D[layer]).view_as(Delta[layer])
        after.tensors |= {f"anchor/S/{layer}": value for layer, value in S.items()}
        after.tensors |= {f"anchor/D/{layer}": value for layer, value in D.items()}
        return fused

    def solved(self, S, D):
        """argmin of `misfit` over (out, in)."""
        if self.options.solver == "lbfgs":
            return minimised(S, D)
        S, wide = S.cpu().double(), D.cpu().double()  # MPS has no float64
        ridge = RIDGE * S.diagonal().mean().clamp(min=torch.finfo(S.dtype).tiny)
        return torch.linalg.solve(S + ridge * torch.eye(len(S), dtype=S.dtype), wide.T).T.to(D)

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, state.tensors_of("weights", backbone.device))
        add_tokens(backbone, state)

    def lora(self, state, concepts):
        return None


def product_of(lora_parameters, layer):
    """Delta of one layer: of all at once the dense changes of many concepts would not fit a GPU."""
    return products({f"{layer}.lora_{side}": lora_parameters[f"{layer}.lora_{side}"] for side in "AB"})[layer]


def add_to_sums(S, D, layer, square, Delta):
    """S += X^T X / n and D += Delta X^T X / n of a layer."""
    S[layer] = S.get(layer, 0) + square
    D[layer] = D.get(layer, 0) + Delta.flatten(1) @ square


def misfit(Delta, S, D):
    """sum_i 1/n_i || X_i (Delta - Delta_i)^T ||^2 of Delta (out, in), but for a constant."""
    return ((Delta @ S) * Delta).sum() - 2 * (D * Delta).sum()


def minimised(S, D):
    """argmin of `misfit` by L-BFGS from 0, with Mix-of-Show's settings."""
    with torch.enable_grad():
        Delta = torch.zeros_like(D, requires_grad=True)
        solver = torch.optim.LBFGS([Delta], lr=1, max_iter=500, history_size=25, line_search_fn="strong_wolfe")

        def closure():
            solver.zero_grad()
            loss = misfit(Delta, S, D)
            loss.backward()
            return loss

        solver.step(closure)
    return Delta.detach()
