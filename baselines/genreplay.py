"""Deep generative replay: the model replays pictures of earlier concepts that it generated itself.

Shin et al. 2017, "Continual Learning with Deep Generative Replay" (NeurIPS, arXiv 1705.08690), with the diffusion model
as generator and learner; a baseline of C-LoRA (Smith et al. 2024). Before task t the model of task t-1 generates
pictures x' of each earlier concept m with its phrase y_m. Then the same model is trained on

    L = E || eps - eps_theta(z_t, t, c(y_t)) ||^2 + lambda E_{m < t} || eps' - eps_theta(z'_t', t', c(y_m)) ||^2

Shin et al. weight the two terms by r and 1 - r, which is lambda = (1 - r) / r. LoRA, words and loss of the new concept
are those of `seqlora`. Everything else is our assumption: as many pictures for each earlier concept, generated again in
each task (so that errors accumulate, like copies of copies); one of the harness's prompts for each picture, in turn,
which is also its training prompt; as many replayed pictures per step as new ones; earlier words do not change. The
guidance scale is low, since guidance sharpens each copy of a copy: on the miniature, with 4, colours saturate within
five tasks. No real picture is kept, and generated ones are deleted after the task.
"""

from __future__ import annotations

from pydantic import Field

from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import TEMPLATES, LoraOptions, Sampler, learn_lora, prior_preservation


class GenerativeReplayOptions(LoraOptions):
    replay_pictures: int = Field(20, ge=1, description="pictures per earlier concept, generated before each task")
    replay_weight: float = Field(1.0, gt=0, description="lambda, weight of the denoising term on replayed pictures")
    replay_inference_steps: int = Field(50, ge=1, description="sampler steps for replayed pictures")
    replay_guidance_scale: float = Field(2.0, ge=0, description="guidance scale for replayed pictures")


class GenerativeReplay(SequentialLora):
    """The state is that of `seqlora`, plus the class nouns for the prompts of earlier concepts."""

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
        after, lora_parameters = learn_lora(self, backbone, task, state, init=last, more=replay)
        after.facts["nouns"] = {**nouns, task.concept: task.class_noun}
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in lora_parameters.items()}
        return after

    def replay(self, backbone, task, state, nouns):
        """Generate pictures with the last task's model; returns the term on them."""
        o = self.options
        phrases = [self.phrase(concept, nouns[concept], state) for concept in state.concepts]
        prompts = [TEMPLATES[k % len(TEMPLATES)].format(y) for y in phrases for k in range(o.replay_pictures)]
        with backbone.installed(self, state, ()):
            images = prior_preservation.generate(backbone, task, prompts, self.sampler, "replay")
        return prior_preservation.error_term(
            backbone, task, images, prompts, o.steps, o.batch_size, "replay", "replay", o.replay_weight
        )
