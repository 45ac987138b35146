"""L2: one LoRA trained on and on, held where the last task left the weights, all of them alike.

The L2-norm baseline of T2I-ConBench (arXiv 2505.16875). With W the weights that are adapted, W_{t-1} what they were
after the last task,

    L = L_denoise + lambda || W - W_{t-1} ||_F^2,    W = W_init + A B

summed over layers and entries, not averaged. From its code: this, and lambda = 0.001. There all weights of a
transformer are trained; here, as in the other sequential methods, A and B of chosen layers are (our reading), and
since the distance is that of the product, lambda weighs the same quantity. It is `ewc space=product` with F = 1: the
gap between the two is what the Fisher knows.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, learn_lora, products


class L2Options(LoraOptions):
    distance_weight: float = Field(1e-3, ge=0, description="lambda, the weight of the squared distance, a sum")


def distance(now: dict[str, torch.Tensor], last: dict[str, torch.Tensor]) -> torch.Tensor:
    """|| W - W_{t-1} ||_F^2 from products A B by layer."""
    return torch.stack([(now[layer] - product).square().sum() for layer, product in last.items()]).sum()


class L2(SequentialLora):
    """Carries the LoRA and a token row a concept."""

    version = 1
    Options = L2Options
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "distance_weight": {"log": (0.0003, 0.03)},
        },
    }

    def learn(self, backbone, task, state):
        values = state.tensors_of("adapter", backbone.device)
        last = products(values)

        def penalty(batch, factors):
            return {"distance": self.options.distance_weight * distance(products(factors), last)} if last else {}

        after, factors = learn_lora(self, backbone, task, state, penalty, init=values or None)
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in factors.items()}
        return after
