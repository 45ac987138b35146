"""LoRACLR: one LoRA per concept, and one change of the weights that answers to each concept's inputs as its LoRA does.

Simsar et al. 2025, "LoRACLR: Contrastive Adaptation for Customization of Diffusion Models" (CVPR, arXiv 2412.09622).
Delta_i = B_i A_i are learned from the untouched model, each alone. With X_i the inputs of a layer for concept i,

    Y_i = X_i (W_0 + Delta_i)^T,   Yhat_i = X_i (W_0 + Delta)^T,   d_p = |Y_i - Yhat_i|,   d_n = min_{j != i} |Y_i - Yhat_j|
    L = 1/t sum_i (d_p^2 + max(0, m - d_n)^2) + lambda || Delta ||_F^2          summed over layers, minimised over Delta

From the paper: these equations, m = 0.5, lambda = 1e-3, and the learning rate 1e-4. Our reading: || is the root mean
square over tokens and channels; Delta starts from the average of the Delta_i; 1,000 steps of Adam after each task (with
one concept Delta is Delta_1); X_i are 256 rows of the inputs during 20 unguided sampler steps of one picture of "photo of
a {c}" under Delta_i, the same rows for each concept, so that d_n compares equal places. These rows are carried, in
float16, beside all LoRAs: they are of a generated picture, not of a given one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench.baselines.isolated import Isolated
from cpbench.learning import LoraOptions, add_to_weights, add_tokens, dense, layer_inputs, learn_lora, products, stacked

SAMPLER_STEPS = 20
ROWS = 256


class LoraClrOptions(LoraOptions):
    margin: float = Field(0.5, ge=0, description="m, the distance that outputs of two concepts are held apart")
    merge_weight: float = Field(1e-3, ge=0, description="lambda, weight of the squared norm of the merged change")
    merge_steps: int = Field(1000, ge=1, description="steps of merging, after each task")
    merge_learning_rate: float = Field(1e-4, gt=0, description="learning rate of merging")


class LoraClr(Isolated):
    """The state holds one LoRA, one token embedding and rows of inputs per concept, and the merged change of the weights."""

    version = 1
    Options = LoraClrOptions
    tested_against = "our reading"
    search = {
        "": {"learning_rate": {"log": (8e-4, 5e-3)}, "merge_learning_rate": {"log": (1e-5, 1e-3)}},
    }

    def learn(self, backbone, task, state):
        after, lora_parameters = learn_lora(self, backbone, task, state)  # the earlier words are added, but not used
        after = stacked(state, after, task.concept, lora_parameters)
        after.tensors |= {k: v for k, v in state.tensors.items() if k.startswith("generated/")}
        Delta = {layer: product.detach() for layer, product in products(lora_parameters).items()}
        for layer, X in self.inputs(backbone, task, after, Delta).items():
            after.tensors[f"generated/{task.concept}/{layer}"] = X.half()
        backbone.restore()
        Deltas = [products(after.tensors_of(f"adapter/{concept}", backbone.device)) for concept in after.concepts]
        inputs = [after.tensors_of(f"generated/{concept}", backbone.device) for concept in after.concepts]
        for layer in Delta:
            W_0 = dense(backbone.denoiser.get_parameter(f"{layer}.weight")).detach().flatten(1).float()
            stack = torch.stack([lora[layer].flatten(1) for lora in Deltas])
            X = torch.stack([rows[layer].float() for rows in inputs]) if layer in inputs[0] else None
            one = stack[0] if len(stack) == 1 or X is None else self.contrasted(W_0, stack, X)
            after.tensors[f"weights/{layer}"] = one.view_as(Delta[layer])
        return after

    def inputs(self, backbone, task, after, Delta):
        """X (ROWS, in) of each layer, by the model with Delta."""
        parts: dict[str, list[torch.Tensor]] = {}
        backbone.restore()
        add_to_weights(backbone, Delta)
        add_tokens(backbone, after)
        prompt = f"photo of a {self.phrase(task.concept, task.class_noun, after)}"

        def receive(layer, X):
            # as many of each input, so that not all rows of 20 steps are in memory; a prompt is read once a picture
            order = torch.randperm(len(X), generator=task.shared_generator("rows", layer, len(parts.get(layer, []))))
            parts.setdefault(layer, []).append(X[order[:ROWS].to(X.device)])

        layer_inputs.while_generating(backbone, task, prompt, SAMPLER_STEPS, "loraclr", list(Delta), receive)
        return {layer: torch.cat([X[: -(-ROWS // len(Xs))] for X in Xs])[:ROWS] for layer, Xs in parts.items()}

    def contrasted(self, W_0, Deltas, X):
        """Delta (out, in) of one layer. Deltas (t, out, in); X (t, n, in)."""
        o = self.options
        Y = X @ (W_0 + Deltas).mT
        with torch.enable_grad():
            Delta = Deltas.mean(0).clone().requires_grad_()
            adam = torch.optim.Adam([Delta], o.merge_learning_rate)
            for _ in range(o.merge_steps):
                adam.zero_grad()
                (contrast(Y, X @ (W_0 + Delta).T, o.margin) + o.merge_weight * Delta.square().sum()).backward()
                adam.step()
        return Delta.detach()

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, state.tensors_of("weights", backbone.device))
        add_tokens(backbone, state)

    def lora(self, state, concepts):
        return None


def contrast(Y: torch.Tensor, Yhat: torch.Tensor, m: float) -> torch.Tensor:
    """1/t sum_i (d_p^2 + max(0, m - d_n)^2) of outputs (t, n, out)."""
    d = torch.cdist(Y.flatten(1), Yhat.flatten(1), compute_mode="donot_use_mm_for_euclid_dist") / Y[0].numel() ** 0.5
    itself = torch.eye(len(d), dtype=torch.bool, device=d.device)
    d_n = d.masked_fill(itself, torch.inf).min(1).values
    return ((Y - Yhat).square().mean((1, 2)) + F.relu(m - d_n).square()).mean()
