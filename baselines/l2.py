"""L2: one LoRA, fine-tuned sequentially; the squared distance from the last task's weights is penalised equally for all.

The L2-norm baseline of T2I-ConBench (arXiv 2505.16875). W are the adapted weights, W_{t-1} their values after the last
task:

    L = L_denoise + lambda || W - W_{t-1} ||_F^2,    W = W_init + A B

a sum over layers and entries, not a mean. From its code: this equation, and lambda = 0.001. There all weights of a
transformer are trained. Here, as in the other sequential methods, A and B of some layers are (our assumption); since
the distance is that of the product, lambda weights the same quantity. This is `ewc space=product` with F = 1 and twice the
lambda, since EWC's is halved: the two differ by what the Fisher information contributes.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, joined, learn_lora, products


class L2Options(LoraOptions):
    distance_weight: float = Field(1e-3, ge=0, description="lambda, weight of the squared distance, a sum")


def distance(current: dict[str, torch.Tensor], last: dict[str, torch.Tensor]) -> torch.Tensor:
    """|| W - W_{t-1} ||_F^2 from products A B by layer."""
    W, fixed = (joined([products_of[layer] for layer in last]) for products_of in (current, last))
    return (W - fixed).square().sum()


class L2(SequentialLora):
    """The state holds the LoRA and one token embedding per concept."""

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

        def penalty(batch, lora_parameters):
            return (
                {"distance": self.options.distance_weight * distance(products(lora_parameters), last)} if last else {}
            )

        after, lora_parameters = learn_lora(self, backbone, task, state, penalty, init=values or None)
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in lora_parameters.items()}
        return after
