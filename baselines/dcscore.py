"""DC scores: EWC and double distillation, guided by the model's own scores as a classifier of its concepts.

Jha et al. 2025, "Mining Your Own Secrets: Diffusion Classifier Scores for Continual Personalization of Text-to-Image
Diffusion Models" (ICLR, arXiv 2410.00700). LoRA_n starts from LoRA_{n-1}; each concept has its own word V_n. P is the
diffusion classifier over a set S of concepts: c^0 (pretrained) and learned ones. H is cross-entropy, |.|^2 a mean over
a latent.

EWC     L = L_denoise(c^n) + lambda/2 sum_j F_bar_{n-1,j} (phi_j - phi*_{n-1,j})^2, phi the entries of all A and B;
        F_bar is an online Fisher, F_n = E (dL_FIM / dphi)^2 on task n's pictures after it is learned.
EWC DC  L_FIM = e_n + w_dc [ H(1_n, P) - sum_{i in N} H(1_i, P) ] (their Eq. 5), S = {c^0, c^n, some past concepts},
        |S| <= k, N the past concepts in S. Plain EWC is w_dc = 0.
DSC     after learning, from teacher 1 (the new LoRA_n) and teacher 2 (a random past LoRA_m), S = {c^0, c^m, c^n}:
        w_n [ |eps_S(c^n) - eps_T1(c^n)|^2 + |eps_S(c^m) - eps_T2(c^m)|^2 ] + w_d [ H(P_T1, P_S) + H(P_T2, P_S) ]
        with the same EWC penalty if the variant has one. `dsc_candidates=all`: S has all learned concepts.

From the paper (figures of its project page): this procedure, the terms of L_FIM, the four terms of DSC, one noise and
one timestep shared by all candidates, x_t noised from the current task's picture, k = 5. Not published, hence our assumptions: all weights and learning rates, rank
and layers, tau, c^0 = the bare class noun, the class noun as V_n's start, F_n scaled to mean 1 before it is added, a
Fisher of A and B separately, a new m in each step, and summed negatives, as the
figure's arrows suggest. Their sum outweighs e_n more with each task; averaged, the bracket is (e_n - mean_{i in N} e_i)
/ tau, without normaliser and c^0.

`adapter`: phi can also be the vectors of VeRA (one of the paper's baselines, alone and with EWC and EWC DC; A and B
come from the run's seed, so that they are the same in all tasks), or A, B and magnitudes of DoRA (our addition); see
cpbench/backbones/adapters.py. The default rates and rank are for LoRA; VeRA's few vectors need higher rates, which the
user has to set.

`dc_error`, `temperature`: on a flow, where the paper has no figures, the presets take the velocity's error in the place of
the noise's, and tau = the median spread of e over five nouns on the pristine model (our assumptions).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench import learning
from cpbench.learning import LoraOptions, add_tokens, learn_lora, phrase_of
from cpbench.learning import diffusion_classifier as dc
from cpbench.learning import fisher as ewc
from cpbench.method import Method

WITH_EWC = ("ewc", "ewc-dc", "dsc-ewc", "dsc-ewc-dc")
WITH_DC = ("ewc-dc", "dsc-ewc-dc")
WITH_DSC = ("dsc", "dsc-ewc", "dsc-ewc-dc")


class DCScoreOptions(LoraOptions):
    variant: Literal["ewc", "ewc-dc", "dsc", "dsc-ewc", "dsc-ewc-dc"] = Field(
        "dsc-ewc-dc", description="protection: ewc, ewc-dc (Fisher of DC scores), dsc, dsc-ewc or dsc-ewc-dc"
    )
    adapter: learning.AdapterType = Field(
        "lora", description="trained adapter: lora, vera (linear layers only) or dora"
    )
    steps: int = Field(1000, ge=1, description="optimiser steps per task, before consolidation")
    ewc_weight: float = Field(
        1e-2, ge=0, description="lambda, weight of the EWC penalty, a sum over entries; F has mean 1"
    )
    fisher_decay: float = Field(1.0, ge=0, le=1, description="decay of the online Fisher per task")
    fisher_samples: int = Field(500, ge=1, description="(picture, noise, timestep) samples for F_n")
    candidates: int = Field(5, ge=2, description="k, number of concepts in the Fisher's classifier")
    dc_weight: float = Field(
        0.01, ge=0, description="w_dc, weight of DC scores in L_FIM; the errors' gradient is scaled by w_dc / tau"
    )
    negatives: Literal["summed", "averaged"] = Field(
        "summed", description="sum or average H of the past concepts in L_FIM"
    )
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        0.01, description="tau, temperature of the classifier; auto: measured on the pristine model before task 1"
    )
    dc_error: dc.ErrorOf = Field(
        "epsilon", description="what the errors e are of; velocity: of a flow's own prediction"
    )
    reduction: dc.Reduction = Field(
        "mean", description="reduction of errors over a latent; with sum, tau and w_dc act as if divided by its size"
    )
    null_prompt: str | None = Field(
        "{noun}", description="prompt of the pretrained concept c^0 ({noun}: class noun); empty: no c^0"
    )
    dsc_steps: int = Field(250, ge=1, description="optimiser steps of DSC")
    dsc_learning_rate: float = Field(2e-5, gt=0, description="learning rate of the LoRA factors in DSC")
    dsc_candidates: Literal["pair", "all"] = Field(
        "pair", description="S of DSC's scores: c^0, c^m and c^n; all: c^0 and every learned concept"
    )
    noise_weight: float = Field(1.0, ge=0, description="w_n, weight of DSC's two terms on predicted noise")
    score_weight: float = Field(0.1, ge=0, description="w_d, weight of DSC's two terms on DC scores")

    only: ClassVar = {
        **dict.fromkeys(("ewc_weight", "fisher_decay", "fisher_samples"), {"variant": WITH_EWC}),
        **dict.fromkeys(("candidates", "dc_weight", "negatives"), {"variant": WITH_DC}),
        **dict.fromkeys(("temperature", "null_prompt"), {"variant": (*WITH_DSC, "ewc-dc")}),
        **dict.fromkeys(
            ("dsc_steps", "dsc_learning_rate", "dsc_candidates", "noise_weight", "score_weight"), {"variant": WITH_DSC}
        ),
    }
    later: ClassVar = {"dc_error": "epsilon", "dsc_candidates": "pair"}


def fisher_loss(e: torch.Tensor, n_past: int, w_dc: float, tau: float, negatives: str) -> torch.Tensor:
    """L_FIM, a mean over pictures, from errors e (n, k): the last column is of c^n, the n_past before it are of N."""
    h = -dc.log_scores(e, tau)  # H(1_i, P) of each candidate (n, k)
    negative = h[:, -1 - n_past : -1].sum(1) / (max(n_past, 1) if negatives == "averaged" else 1)
    return (e[:, -1] + w_dc * (h[:, -1] - negative)).mean()


def distillation(student, teacher, index: int, noise: torch.Tensor, tau: float, reduction: str):
    """|eps_S - eps_T|^2 for the concept at `index`, and H(P_T, P_S), from predicted noises (k, n, c, h, w) or velocities."""
    P_S, P_T = (dc.log_scores(dc.errors(x, noise, reduction), tau) for x in (student, teacher))
    return F.mse_loss(student[index], teacher[index]), dc.cross_entropy(P_T, P_S)


class DCScore(Method):
    """The state holds the LoRAs (all for DSC, else the last), the online Fisher and one token embedding per concept."""

    version = 1
    Options = DCScoreOptions
    tested_against = "our reading"
    search = {
        "": {
            "ewc_weight": {"log": (2e-05, 0.002)},
            "noise_weight": {"choices": (1.0, 10.0)},
            "dsc_learning_rate": {"log": (0.0002, 0.002)},
        },
        "variant=ewc": {
            "ewc_weight": {"log": (2e-05, 0.02)},
        },
        "variant=ewc-dc": {
            "ewc_weight": {"log": (2e-05, 0.02)},
        },
    }

    def check(self, backbone):
        dc.refuse_velocity(backbone, self.options.dc_error)
        if self.options.adapter == "vera":
            learning.refuse_convolutions("dcscore", backbone.denoiser, self.options.target_modules)

    def learn(self, backbone, task, state):
        o = self.options
        carried = slice(None) if "dsc" in o.variant else slice(-1, None)  # the LoRAs that the state keeps
        pool = {m: state.tensors_of(f"adapter/{m}", backbone.device) for m in state.concepts[carried]}
        anchor = pool[state.concepts[-1]] if pool else None
        F_bar = state.tensors_of("fisher", backbone.device)
        tau = self.temperature(backbone, task, state)

        def penalty(batch, phi):
            return {"ewc": o.ewc_weight * ewc.penalty(F_bar, phi, anchor)} if F_bar else {}

        after, phi = learn_lora(self, backbone, task, state, penalty, init=anchor, adapter_type=o.adapter)
        after.facts["nouns"] = {**state.facts.get("nouns", {}), task.concept: task.class_noun}
        if tau != o.temperature:
            after.facts["temperature"] = tau
        if "dsc" in o.variant and pool:
            self.consolidate(backbone, task, after, phi, pool, penalty, tau)
        if "ewc" in o.variant:
            F_bar = ewc.online(F_bar, self.fisher(backbone, task, after, phi, tau), o.fisher_decay)
        pool[task.concept] = {k: x.detach() for k, x in phi.items()}
        after.tensors |= {f"fisher/{k}": x for k, x in F_bar.items()}
        after.tensors |= {f"adapter/{m}/{k}": x for m in after.concepts[carried] for k, x in pool[m].items()}
        return after

    def temperature(self, backbone, task, state):
        """tau, measured once for a run where it is to be."""
        o = self.options
        if o.temperature != "auto" or "temperature" in o.without_effect():
            return o.temperature
        return state.facts.get("temperature") or dc.measured_temperature(backbone, task, o.dc_error, o.reduction)

    def phrases(self, task, state, past):
        """The candidates S: c^0, the past concepts, and last the current one."""
        null_prompt = [self.options.null_prompt.replace("{noun}", task.class_noun)] if self.options.null_prompt else []
        return null_prompt + [self.phrase(m, state.facts["nouns"][m], state) for m in (*past, task.concept)]

    def consolidate(self, backbone, task, state, phi, pool, penalty, tau):
        o, choice = self.options, task.generator("teachers")
        first = {k: x.detach().clone() for k, x in phi.items()}

        def loss(batch):
            m = list(pool)[int(torch.randint(len(pool), (1,), generator=choice))]
            past_candidates = [m] if o.dsc_candidates == "pair" else list(pool)
            S, terms = self.phrases(task, state, past_candidates), penalty(batch, phi)
            of_past = past_candidates.index(m) - len(past_candidates) - 1  # its place, from the end of S
            student = dc.predicted_noise(backbone, batch, S, error=o.dc_error)
            target = dc.target(backbone, batch, o.dc_error)
            for name, teacher_lora, index in (("current", first, -1), ("past", pool[m], of_past)):
                with torch.no_grad():
                    teacher = dc.predicted_noise(backbone, batch, S, teacher_lora, o.dc_error)
                noise, scores = distillation(student, teacher, index, target, tau, o.reduction)
                terms |= {f"noise_{name}": o.noise_weight * noise, f"scores_{name}": o.score_weight * scores}
            return terms

        learning.train(
            backbone, task, loss, [(o.dsc_learning_rate, list(phi.values()))], o.dsc_steps, o.batch_size, "dsc"
        )

    def fisher(self, backbone, task, state, phi, tau):
        o, choice, learned = self.options, task.generator("candidates"), state.concepts[:-1]
        with_dc = o.variant.endswith("dc")
        n_past = min(len(learned), o.candidates - 1 - bool(o.null_prompt))
        backbone.train_only(phi.values())

        def losses(numbered):
            sample, batch = numbered
            past = [learned[i] for i in torch.randperm(len(learned), generator=choice)[:n_past].tolist()]
            S = self.phrases(task, state, past) if with_dc else self.phrases(task, state, [])[-1:]
            predicted = dc.predicted_noise(backbone, batch, S, error=o.dc_error)
            e = dc.errors(predicted, dc.target(backbone, batch, o.dc_error), o.reduction)
            values, figures = [e[:, -1].mean()], {}
            if with_dc:
                values.insert(0, fisher_loss(e, n_past, o.dc_weight, tau, o.negatives))
                log_p = dc.log_scores(e.detach(), tau)
                figures = {"entropy": dc.cross_entropy(log_p, log_p), "p_n": log_p[:, -1].exp()}
            log.add(sample, {"loss": values[0], **figures})
            return values

        samples = enumerate(learning.batches(backbone, task, o.fisher_samples, 1, "fisher"))
        with learning.encoding_once(backbone), learning.StepLog(task, "fisher") as log:
            F_n, *plain = ewc.estimate(map(losses, samples), phi, backbone.dtype)
        if plain:  # near 1: DC scores changed nothing
            task.log(o.fisher_samples, phase="fisher", cosine_to_plain=ewc.cosine(F_n, plain[0]))
        return F_n

    def install(self, backbone, state, concepts, prompts=()):
        lora = self.lora(state, concepts)
        if lora is None:
            latest = state.tensors_of(f"adapter/{state.concepts[-1]}", backbone.device)
            backbone.replace_weights(learning.dora_weights(backbone.denoiser, latest))
        add_tokens(backbone, state)
        if lora is not None:
            backbone.add_lora(self.options.rank, self.options.target_modules, values=lora)

    def phrase(self, concept, class_noun, state):
        return phrase_of(concept, class_noun, state)

    def lora(self, state, concepts):
        latest = state.tensors_of(f"adapter/{state.concepts[-1]}")
        if self.options.adapter == "vera":
            return learning.vera_as_lora(latest, **state.facts["vera"])
        return latest if self.options.adapter == "lora" else None  # DoRA's change of the weights has full rank
