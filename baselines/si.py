"""SI: one LoRA trained on and on, held the more where moving its entries has lowered the loss.

Zenke, Poole, Ganguli 2017, "Continual Learning Through Synaptic Intelligence" (ICML, arXiv 1703.04200). With theta the
entries of A and B of every layer, theta*_{t-1} what they were after the last task, and in every step g = dL_denoise / dtheta
before, theta' after it:

    omega += -g (theta' - theta)                                     (their Eq. 3: the path integral of the gradient)
    Omega += max(omega, 0) / ((theta*_t - theta*_{t-1})^2 + xi)      (Eq. 5), at the end of a task, where omega starts again
    L = L_denoise + c sum_j Omega_j (theta_j - theta*_{t-1,j})^2     (Eq. 4)

From the paper: these equations, and g of the task's own loss alone. From its authors' code: xi = 1e-3, and omega clipped at
0. Our reading: theta are a LoRA's factors, as in the other sequential methods (in the first task theta*_0 is what A and B
start from); g is the gradient before it is clipped, while the step is AdamW's. Words are not held, since earlier ones do
not move. Published values of c go with other losses and sizes; ours is searched.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, learn_lora

XI = 1e-3


class SiOptions(LoraOptions):
    si_weight: float = Field(1e-2, ge=0, description="c, the weight of the penalty, a sum")


class SynapticIntelligence(SequentialLora):
    """Carries the LoRA, a token row a concept, and Omega."""

    version = 1
    Options = SiOptions
    tested_against = "equation only"
    search = {"": {"learning_rate": {"log": (8e-4, 5e-3)}, "si_weight": {"log": (1e-4, 1.0)}}}

    def learn(self, backbone, task, state):
        start = state.tensors_of(
            "adapter", backbone.device
        )  # theta*_{t-1}; before the first task what the LoRA begins with
        Omega = state.tensors_of("fisher", backbone.device)
        omega, g = {}, {}

        def penalty(batch, theta):
            for name, entries in {} if start else theta.items():
                start[name] = entries.detach().clone()
            if not Omega:
                return {}
            terms = [(Omega[name] * (theta[name] - start[name]).square()).sum() for name in Omega]
            return {"si": self.options.si_weight * torch.stack(terms).sum()}

        def before_step(batch, terms, gradients):
            g.update(gradients["denoising"])

        def after_step(before, after):
            accumulate(omega, {name: g[name] for name in start if name in g}, before, after)

        hooks = {"before_step": before_step, "after_step": after_step}
        after, theta = learn_lora(self, backbone, task, state, penalty, init=dict(start) or None, **hooks)
        importance = consolidated(Omega, omega, {k: v.detach() for k, v in theta.items()}, start)
        after.tensors |= {f"fisher/{name}": value for name, value in importance.items()}
        after.tensors |= {f"adapter/{name}": value.detach() for name, value in theta.items()}
        return after


def accumulate(omega: dict, g: dict, before: dict, after: dict) -> None:
    """omega += -g (theta' - theta) for the entries that have a gradient."""
    for name, gradient in g.items():
        omega[name] = omega.get(name, 0) - gradient * (after[name] - before[name])


def consolidated(Omega: dict, omega: dict, end: dict, start: dict) -> dict[str, torch.Tensor]:
    """Omega + max(omega, 0) / ((theta*_t - theta*_{t-1})^2 + xi), by name."""
    return {
        name: Omega.get(name, 0) + omega[name].clamp(min=0) / ((end[name] - start[name]).square() + XI)
        for name in omega
    }
