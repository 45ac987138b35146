"""One LoRA, fine-tuned sequentially, plus one token per concept: nothing protects the earlier concepts.

Task t starts from the LoRA of task t-1 and minimises the plain denoising loss (Rombach et al. 2022, eq. 3)

    L = E || eps - eps_theta(z_t, t, c("a photo of a <v_t> noun")) ||^2

over A and B of each adapted layer, W = W_0 + A B with alpha = rank (Hu et al. 2021), and over the embedding of <v_t>.
The embeddings of earlier words do not change. This is the sequential LoRA baseline of C-LoRA, DC scores and
continual-lora. The token's start at the class noun's embedding is the usual one (Custom Diffusion starts from a rare
word); learning rates and layers are ours, in the presets. `spl_weight` adds ClassDiffusion's semantic preservation
loss.
"""

from __future__ import annotations

from cpbench.learning import LoraOptions, add_tokens, learn_lora, phrase_of
from cpbench.method import Method


class SequentialLora(Method):
    """The floor among the methods that learn: full plasticity, no protection."""

    version = 1
    Options = LoraOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.0008, 0.005)},
            "token_learning_rate": {"log": (0.001, 0.02)},
        },
    }

    def learn(self, backbone, task, state):
        after, lora_parameters = learn_lora(self, backbone, task, state, init=state.tensors_of("adapter") or None)
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in lora_parameters.items()}
        return after

    def install(self, backbone, state, concepts, prompts=()):
        add_tokens(backbone, state)
        backbone.add_lora(self.options.rank, self.options.target_modules, values=state.tensors_of("adapter"))

    def phrase(self, concept, class_noun, state):
        return phrase_of(concept, class_noun, state)

    def lora(self, state, concepts):
        return state.tensors_of("adapter")
