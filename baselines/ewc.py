"""EWC: one LoRA, fine-tuned sequentially; entries with larger Fisher values for earlier concepts are penalised more.

Kirkpatrick et al. 2017 (elastic weight consolidation) with the plain Fisher of the denoising loss L_denoise: "LoRA
EWC" of Jha et al. 2025 (ICLR, arXiv 2410.00700), and one LoRA with a Fisher of its product, EWC-LoRA (arXiv
2602.17559). phi are the weighted entries, phi*_k their values after task k:

    fisher=online    L = L_denoise + lambda/2 sum_j F_bar_j (phi_j - phi*_{t-1,j})^2, F_bar_t = gamma F_bar_{t-1} + F_t
    fisher=per-task  L = L_denoise + lambda/2 sum_{k<t} sum_j F_k,j (phi_j - phi*_k,j)^2
    fisher=batch     one of the two, as `anchors` says, with F_t the mean of squared gradients of whole batches
    space=factors    phi: the entries of A and B of each layer
    space=product    phi: the entries of Delta W = A B, with a Fisher as large as the layers themselves
    F_t = E (dL_denoise / dphi)^2 on task t's pictures, one picture per sample, after the task is learned

From the papers: these equations, and that LoRA_t starts from LoRA_{t-1}. Kirkpatrick's sum over tasks has one anchor
per task; the online form (Schwarz et al. 2018) has only the last. Our assumptions: F_t is scaled to mean 1
(`cpbench.learning.fisher`), without which lambda would depend on the loss's scale (published values range from 1e-4 to
1e7). Words are not penalised, since earlier words do not change. EWC-LoRA's code starts each task with a new A and B
next to the sum of the earlier ones and penalises their product; here phi is the one product. T2I-ConBench trains all
weights, with a mean of the F_k. `fisher=batch anchors=each normalise=false` is the penalty of ContinualHyper's baseline
(its code: 200 batches of 2 pictures, F_k as it comes, lambda searched: 1e5); a batch's gradient is a mean, so that the
gradients of its pictures cancel, and F is smaller.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from cpbench import learning
from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import LoraOptions, learn_lora, matching_modules, products
from cpbench.learning import fisher as ewc


class EwcOptions(LoraOptions):
    fisher: Literal["online", "per-task", "batch"] = Field(
        "online",
        description="online: one running Fisher, anchored at the last LoRA; per-task: one Fisher and anchor per task; batch: as "
        "`anchors` says, of whole batches' gradients",
    )
    anchors: Literal["last", "each"] = Field("last", description="of fisher=batch: last as online, each as per-task")
    normalise: bool = Field(True, description="scale each F_t to mean 1; false: lambda weights the Fisher as it comes")
    space: Literal["factors", "product"] = Field(
        "factors", description="penalised entries: factors, those of A and B; product, those of A B"
    )
    ewc_weight: float = Field(1e-2, ge=0, description="lambda, weight of the penalty, a sum over entries; F has mean 1")
    fisher_decay: float = Field(1.0, ge=0, le=1, description="gamma, decay of the online Fisher per task")
    fisher_samples: int = Field(
        200, ge=1, description="(picture, noise, timestep) samples for F_t; of fisher=batch the number of batches"
    )

    only: ClassVar = {"fisher_decay": {"fisher": ("online", "batch")}, "anchors": {"fisher": ("batch",)}}
    later: ClassVar = {"anchors": "last", "normalise": True}

    @property
    def keeps_each(self) -> bool:
        """Whether the state keeps each task's Fisher and anchor."""
        return self.fisher == "per-task" or (self.fisher == "batch" and self.anchors == "each")


class Ewc(SequentialLora):
    """The state holds the LoRA, one token embedding per concept and the Fisher, or each task's Fisher and LoRA."""

    version = 1
    Options = EwcOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "ewc_weight": {"log": (0.0002, 0.02)},
        },
    }

    def learn(self, backbone, task, state):
        o = self.options
        last = state.tensors_of("adapter", backbone.device)
        anchored = [(F, self.phi(anchor)) for F, anchor in self.fishers(state, last, backbone.device)]

        def penalty(batch, lora_parameters):
            at = self.phi(lora_parameters)
            terms = [ewc.penalty(F, at, anchor) for F, anchor in anchored]
            return {"ewc": o.ewc_weight * torch.stack(terms).sum()} if anchored else {}

        weighed = copied_weights(backbone, o.target_modules) if o.space == "product" else {}
        after, lora_parameters = learn_lora(self, backbone, task, state, penalty, init=last or None)
        F_t = fisher_of(
            backbone, task, self.phrase(task.concept, task.class_noun, after), weighed or lora_parameters, o
        )
        if not o.keeps_each:
            F_bar = ewc.online(state.tensors_of("fisher", backbone.device), F_t, o.fisher_decay, o.normalise)
            after.tensors |= {f"fisher/{k}": v for k, v in F_bar.items()}
        else:
            after.tensors |= {k: v for k, v in state.tensors.items() if k.startswith(("fisher/", "anchor/"))}
            after.tensors |= {f"anchor/{state.concepts[-1]}/{k}": v for k, v in last.items()}
            after.tensors |= {
                f"fisher/{task.concept}/{k}": v for k, v in ewc.online(None, F_t, normalise=o.normalise).items()
            }
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in lora_parameters.items()}
        return after

    def phi(self, lora_parameters):
        """The penalised entries: A and B by name, or their products by layer."""
        return products(lora_parameters) if self.options.space == "product" else lora_parameters

    def fishers(self, state, last, device):
        """(F, LoRA that it is anchored at) for each term; the last LoRA needs no copy as an anchor."""
        if not self.options.keeps_each:
            return [(state.tensors_of("fisher", device), last)] if last else []
        return [
            (state.tensors_of(f"fisher/{k}", device), state.tensors_of(f"anchor/{k}", device) or last)
            for k in state.concepts
        ]


def copied_weights(backbone, target_modules) -> dict[str, torch.Tensor]:
    """W of each adapted layer as a new parameter: dL/dW = dL/d(A B), since a layer's weight is W + A B."""
    layers = matching_modules(backbone.denoiser, target_modules)
    copies = backbone.replace_weights({f"{n}.weight": backbone.denoiser.get_parameter(f"{n}.weight") for n in layers})
    return {n: copies[f"{n}.weight"] for n in layers}


def fisher_of(backbone, task, phrase: str, phi: dict[str, torch.Tensor], options: EwcOptions):
    """F_t = E (dL_denoise / dphi)^2, means over samples of one picture each, or of a batch."""
    denoise = learning.denoising(backbone, phrase)
    backbone.train_only(phi.values())

    def losses(numbered):
        sample, batch = numbered
        e = denoise(batch)["denoising"]
        log.add(sample, {"loss": e})
        return [e]

    size = options.batch_size if options.fisher == "batch" else 1
    samples = enumerate(learning.batches(backbone, task, options.fisher_samples, size, "fisher"))
    with learning.encoding_once(backbone), learning.StepLog(task, "fisher") as log:
        (F_t,) = ewc.estimate(map(losses, samples), phi, backbone.dtype)
    return F_t
