"""SI: one LoRA, fine-tuned sequentially; entries whose changes lowered the loss more are penalised more.

Zenke, Poole, Ganguli 2017, "Continual Learning Through Synaptic Intelligence" (ICML, arXiv 1703.04200). theta are the
entries of A and B of each layer, theta*_{t-1} their values after the last task. In each step g = dL_denoise / dtheta
before the step, and theta' is the value after it:

    omega += -g (theta' - theta)                                     (their Eq. 3: the path integral of the gradient)
    Omega += max(omega, 0) / ((theta*_t - theta*_{t-1})^2 + xi)      (Eq. 5), at the end of a task, which resets omega
    L = L_denoise + c sum_j Omega_j (theta_j - theta*_{t-1,j})^2     (Eq. 4)

From the paper: these equations, and g of the task's own loss only. From its authors' code: xi = 1e-3, and omega clipped
at 0. Our assumptions: theta are a LoRA's factors, as in the other sequential methods (in the first task theta*_0 is the
start of A and B); g is the gradient before clipping, while the step is AdamW's. Words are not penalised, since earlier
words do not change. Published values of c belong to other losses and sizes; ours is searched.
"""

from __future__ import annotations

import torch
from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, fisher, learn_lora

XI = 1e-3


class SiOptions(LoraOptions):
    si_weight: float = Field(1e-2, ge=0, description="c, weight of the penalty, a sum")


class SynapticIntelligence(SequentialLora):
    """The state holds the LoRA, one token embedding per concept, and Omega."""

    version = 1
    Options = SiOptions
    tested_against = "equation only"
    search = {"": {"learning_rate": {"log": (8e-4, 5e-3)}, "si_weight": {"log": (1e-4, 1.0)}}}

    def learn(self, backbone, task, state):
        start = state.tensors_of("adapter", backbone.device)  # theta*_{t-1}; in the first task the start of the LoRA
        Omega = state.tensors_of("fisher", backbone.device)
        omega, g = {}, {}

        def penalty(batch, theta):
            for name, entries in {} if start else theta.items():
                start[name] = entries.detach().clone()
            if not Omega:
                return {}
            held = {name: entries for name, entries in theta.items() if name in Omega}
            return {"si": self.options.si_weight * fisher.weighted_distance(Omega, held, start)}

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
