"""Deep generative replay (replays pictures that it generated): what the model still draws of earlier concepts, it keeps.

Shin et al. 2017, "Continual Learning with Deep Generative Replay" (NeurIPS, arXiv 1705.08690), with the diffusion model as both
generator and learner; a baseline of C-LoRA (Smith et al. 2024). Before task t the model that task t-1 left draws
pictures x' of every earlier concept m, by its words y_m; then, on from that model,

    L = E || eps - eps_theta(z_t, t, c(y_t)) ||^2 + lambda E_{m < t} || eps' - eps_theta(z'_t', t', c(y_m)) ||^2

Shin et al. weigh the two by r and 1 - r, which is lambda = (1 - r) / r. LoRA, words and loss of the new concept are those of
`seqlora`. Our reading: all the rest: an equal number of pictures for every earlier concept, drawn anew by every task
(so that errors of drawing add up: a copy of a copy), one of the harness's prompts for each, in turn, by which it is
also learned; as many of them a step as of the new concept; words of earlier concepts stay as they are. Guidance is
low, since it sharpens every copy of a copy: on the miniature, with 4, colours burn out within five tasks. No picture that
was given is kept, and none that was drawn outlives its task.
"""

from __future__ import annotations

from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import TEMPLATES, LoraOptions, Sampler, learn_lora, prior_preservation


class GenerativeReplayOptions(LoraOptions):
    replay_pictures: int = Field(20, ge=1, description="pictures drawn of every earlier concept, before each task")
    replay_weight: float = Field(1.0, gt=0, description="lambda, of the denoising term on them")
    replay_inference_steps: int = Field(50, ge=1, description="sampler steps of these pictures")
    replay_guidance_scale: float = Field(2.0, ge=0, description="guidance of these pictures")


class GenerativeReplay(SequentialLora):
    """Carries what `seqlora` does, and the class nouns, to ask for earlier concepts by."""

    version = 1
    Options = GenerativeReplayOptions
    tested_against = "our reading"
    replays = "generated"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "replay_weight": {"choices": (0.5, 1.0, 2.0)},
            "replay_guidance_scale": {"choices": (1.0, 2.0, 4.0)},
        },
    }

    @property
    def sampler(self):
        return Sampler(self.options.replay_inference_steps, self.options.replay_guidance_scale)

    def learn(self, backbone, task, state):
        nouns = state.facts.get("nouns", {})
        replay = self.replay(backbone, task, state, nouns) if state.concepts else dict
        last = state.tensors_of("adapter", backbone.device) or None
        after, factors = learn_lora(self, backbone, task, state, lambda batch, factors: replay(), init=last)
        after.facts["nouns"] = {**nouns, task.concept: task.class_noun}
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in factors.items()}
        return after

    def replay(self, backbone, task, state, nouns):
        """What the last task's model draws of all that it knows; a function that returns the term on it."""
        o = self.options
        phrases = [self.phrase(concept, nouns[concept], state) for concept in state.concepts]
        prompts = [TEMPLATES[k % len(TEMPLATES)].format(y) for y in phrases for k in range(o.replay_pictures)]
        with backbone.installed(self, state, ()):
            images = prior_preservation.generate(backbone, task, prompts, self.sampler, "replay")
        term = prior_preservation.denoising_term(backbone, task, images, prompts, o.steps, o.batch_size, "replay")
        return lambda: {"replay": o.replay_weight * term()}
