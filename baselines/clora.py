"""C-LoRA: one LoRA per task on the keys and values of cross-attention, penalised where earlier LoRAs changed the weights.

Smith et al. 2024, "Continual Diffusion: Continual Customization of Text-to-Image Diffusion with C-LoRA" (TMLR,
arXiv 2304.06027). W are the K and V projections of each cross-attention layer, t' the earlier tasks:

    W_t = W_init + sum_{t'<t} A_t' B_t' + A_t B_t                                         (Eq. 2)
    L = L_diff + lambda L_forget                                                          (Eq. 1)
    L_forget = sum over layers of || |sum_{t'<t} A_t' B_t'| * (A_t B_t) ||_F^2            (Eq. 3, * elementwise)

L_forget is a sum over elements, not a mean, which sets the scale of lambda. A_t, B_t and the embedding of one new word
are trained; everything else is frozen. From the paper: the layers, Eq. 1-3, the word's random start, and the prompt
without the class noun ("a photo of V*"; the templates around V* are the harness's, as for the other methods). We have
not read the original for rank (16), learning rates and lambda (1e6 to 1e8 on Stable Diffusion).
Our assumptions: A_t and B_t start as usual (A random, B zero), and the random word has the mean and spread of the
vocabulary. `use_class_noun` adds the noun to the prompt. No class pictures are generated for regularisation.

Jha et al. 2025 report that the penalty drives A_t B_t to zero from task 2 on, so that only the word represents the
concept. `log_norm` (log of the sum of |A_t B_t|) and `log_penalty` (log of L_forget) in the training curve show whether
it does. The loop clips the gradient of all trained parameters together, so that a large penalty also slows the word.
"""

from __future__ import annotations

from pydantic import Field

from cpbench.learning import (
    TEXT_KEYS_VALUES,
    LoraOptions,
    add_to_weights,
    add_tokens,
    forgetting,
    joined,
    learn_lora,
    past_loras,
    products,
    side_by_side,
    stacked,
    sum_of_products,
    token_of,
)
from cpbench.method import Method, UserError

TINY = 1e-30  # B starts at zero, and log(0) is not finite


class CLoraOptions(LoraOptions):
    rank: int = Field(16, ge=1, description="rank of each LoRA; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        TEXT_KEYS_VALUES, description="layers with a LoRA: roles, or endings of layer names"
    )
    steps: int = Field(1000, ge=1, description="optimiser steps per task")
    learning_rate: float = Field(5e-4, gt=0, description="learning rate of the LoRA factors")
    forgetting_weight: float = Field(1e8, ge=0, description="lambda, weight of L_forget")
    use_class_noun: bool = Field(False, description='prompt with "V* noun" instead of "V*"')


class CLora(Method):
    """The state holds the LoRA of each task and one token embedding per concept."""

    version = 1
    Options = CLoraOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.003, 0.03)},
            "forgetting_weight": {"log": (1.0, 10000.0)},
        },
        "use_class_noun=true": {
            "learning_rate": {"log": (0.003, 0.03)},
            "forgetting_weight": {"log": (10.0, 100000.0)},
        },
    }

    def check(self, backbone):
        if self.options.word == "none" and not self.options.use_class_noun:
            raise UserError(
                "word=none: without its word and without the class noun a concept has no name; add use_class_noun=true"
            )

    def learn(self, backbone, task, state):
        past = sum_of_products(past_loras(state, backbone.device))

        def penalty(batch, lora_parameters):
            current = products(lora_parameters)
            norm = joined(list(current.values())).detach().abs().sum()
            terms, logged = {}, {"log_norm": norm.clamp(min=TINY).log()}
            if past:
                L_forget = forgetting(past, current)
                terms["forgetting"] = self.options.forgetting_weight * L_forget
                logged["log_penalty"] = L_forget.detach().clamp(min=TINY).log()
            return terms, logged

        word = backbone.random_embedding(task.generator("word"))
        after, lora_parameters = learn_lora(self, backbone, task, state, penalty, word, past)
        return stacked(state, after, task.concept, lora_parameters)

    def install(self, backbone, state, concepts, prompts=()):
        add_to_weights(backbone, sum_of_products(past_loras(state, backbone.device)))
        add_tokens(backbone, state)

    def phrase(self, concept, class_noun, state):
        word = token_of(concept, state)
        return f"{word} {class_noun}".strip() if self.options.use_class_noun else word

    def lora(self, state, concepts):
        """sum_t A_t B_t as one LoRA."""
        return side_by_side(past_loras(state))
