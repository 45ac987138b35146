"""Orthogonal Adaptation: each concept's LoRA reads a part of a layer's input that no other concept's reads; their sum is the model.

Po et al. 2024, "Orthogonal Adaptation for Modular Customization of Diffusion Models" (CVPR, arXiv 2312.02432). With
B_t (in, r) fixed and A_t (out, r) trained from 0, each concept from the untouched model,

    Delta W_t = A_t B_t^T,    B_t^T B_j = 0,    W = W_0 + sum_t Delta W_t

so that concept t's inputs in the span of B_t are untouched by the others. From the paper: these equations, that B_t are
columns of a random orthogonal basis Q of each layer, and the merge by sum. There each user draws r random columns of
one shared Q (`basis=shared-random`), which overlap by chance; here, by default, task t takes the next r columns that no
task has used, so that B_t^T B_j = 0 exactly. A layer whose width has no r unused columns left goes on with another Q: of
48 inputs and r = 8 after task 6. `facts["overlap"]` has, for each layer, the largest and the mean |B_t^T B_j| of the last
task with all before it. Q is of a Gaussian matrix over the layer's inputs (in k k of a convolution), seeded by (seed,
"basis", layer, its number). Rank and rate are not known; ours are searched. The state holds only the sum.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, add_to_weights, add_tokens, learn_lora, matching_modules, products
from cpbench.method import UserError


class OrthoAdaptOptions(LoraOptions):
    basis: Literal["disjoint", "shared-random"] = Field(
        "disjoint", description="columns of B: those that no earlier task has used, or random ones of one basis"
    )


class OrthoAdapt(SequentialLora):
    """The state holds sum_t A_t B_t^T of each adapted layer and one token embedding per concept."""

    version = 1
    Options = OrthoAdaptOptions
    tested_against = "equation only"
    search = {"": {"learning_rate": {"log": (0.0008, 0.005)}, "token_learning_rate": {"log": (0.001, 0.02)}}}

    def check(self, backbone):
        try:
            all_widths = widths(backbone, self.options.target_modules)
        except ValueError:  # a target that no layer has, which is refused with the run's other settings
            return
        narrow = {n: w for n, w in all_widths.items() if w < self.options.rank}
        if narrow:
            name, width = next(iter(narrow.items()))
            raise UserError(
                f"method orthoadapt: rank {self.options.rank} is more than the {width} inputs of {name}; lower rank, or choose "
                "other target_modules"
            )

    def learn(self, backbone, task, state):
        o, start, overlap = self.options, {}, {}
        for layer, width in widths(backbone, o.target_modules).items():
            *earlier, B = self.columns(task, layer, width)
            W = backbone.denoiser.get_parameter(f"{layer}.weight")
            start[f"{layer}.lora_A"] = B.T.reshape(o.rank, *W.shape[1:])  # peft's name of the side that reads
            start[f"{layer}.lora_B"] = torch.zeros(len(W), o.rank, *[1] * (W.ndim - 2))
            if earlier:
                cosines = torch.cat([(B.T @ b).abs() for b in earlier])
                overlap[layer] = [float(cosines.max()), float(cosines.mean())]
        after, lora_parameters = learn_lora(
            self, backbone, task, state, init=start, trained=lambda name: name.endswith("lora_B")
        )
        D = state.tensors_of("weights", backbone.device)
        for layer, product in products(lora_parameters).items():
            after.tensors[f"weights/{layer}"] = product.detach() + D.get(layer, 0)
        after.facts["overlap"] = overlap
        return after

    def columns(self, task, layer, width):
        """B_1, ..., B_t (width, r) of a layer."""
        r, sets = self.options.rank, width // self.options.rank
        if self.options.basis == "shared-random":
            Q = orthogonal(task, layer, 0, width, width)
            draws = [task.shared_generator("columns", layer, j) for j in range(1, task.number + 1)]
            return [Q[:, torch.randperm(width, generator=draw)[:r]] for draw in draws]
        Q = [orthogonal(task, layer, k, width, sets * r) for k in range((task.number - 1) // sets + 1)]
        return [Q[j // sets][:, j % sets * r : (j % sets + 1) * r] for j in range(task.number)]

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, state.tensors_of("weights", backbone.device))
        add_tokens(backbone, state)

    def lora(self, state, concepts):
        return None


def orthogonal(task, layer: str, k: int, width: int, columns: int) -> torch.Tensor:
    """The first columns (width, columns) of Q, the k-th orthogonal basis of a layer's inputs."""
    gaussian = torch.randn(width, width, generator=task.shared_generator("basis", layer, k))
    return torch.linalg.qr(gaussian[:, :columns])[0]


def widths(backbone, target_modules) -> dict[str, int]:
    """The number of inputs of each adapted layer, in k k of a convolution."""
    names = matching_modules(backbone.denoiser, target_modules)
    return {name: backbone.denoiser.get_parameter(f"{name}.weight").shape[1:].numel() for name in names}
