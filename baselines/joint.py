"""Joint: learns from the pictures of all concepts so far, as if they had come together. The ceiling for one model.

D_k are the pictures of concept k, c_k its prompt. One LoRA and the words of all concepts are trained on

    L = 1/n sum_{k <= n} E_{D_k} || eps - eps_theta(z_t, t, c_k) ||^2          after task n

Each step's batch is of one random concept. Unlike all other methods it keeps the earlier pictures, in its state, and
tables mark it for this. By default (`restart`) each task learns from the untouched model with n times the steps, so
that each concept gets as many steps as in other methods, at 1 + ... + N times the cost. Otherwise it continues with
`steps`: full replay. `isolated` minus `joint` is the cost of one LoRA for all concepts; `joint` minus `seqlora` is the
cost of learning them one after the other. Layers and learning rates are those of `seqlora`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field

from cpbench import learning
from cpbench.baselines.seqlora import SequentialLora
from cpbench.learning import (
    LoraOptions,
    add_fixed_word,
    add_tokens,
    class_preservation_term,
    semantic_preservation_term,
)
from cpbench.method import State


class JointOptions(LoraOptions):
    restart: bool = Field(
        True, description="learn from the untouched model, with steps x n in task n; false: continue, with steps"
    )


class Joint(SequentialLora):
    """The state holds the LoRA, one token embedding per concept, and the pictures of all concepts."""

    version = 1
    Options = JointOptions
    sees_earlier_data = True
    tested_against = "our reading"

    def learn(self, backbone, task, state):
        o = self.options
        nouns = {**state.facts.get("nouns", {}), task.concept: task.class_noun}
        pictures = {k: v.numpy() for k, v in state.tensors_of("pictures").items()} | {task.concept: task.images}
        values, embeddings = ({}, {}) if o.restart else (state.tensors_of("adapter"), state.tensors_of("token"))
        words = {}
        if o.word == "learned":
            starts = {f"token/{k}": embeddings.get(k, backbone.word_embedding(noun)) for k, noun in nouns.items()}
            after = State(starts, {"concepts": [*state.concepts, task.concept], "nouns": nouns})
            add_tokens(backbone, after)
            words = dict(zip(after.concepts, backbone.token_embeddings.values(), strict=True))
        else:
            after = add_fixed_word(backbone, task, state, o.word)
            after.facts["nouns"] = nouns
        lora_parameters = backbone.add_lora(o.rank, o.target_modules, task.generator("lora"), values or None)

        steps, choice = o.steps * (len(nouns) if o.restart else 1), task.generator("concepts")
        phrases = {k: self.phrase(k, noun, after) for k, noun in nouns.items()}
        preservation = {
            k: semantic_preservation_term(backbone, phrases[k], noun, o) if words else dict for k, noun in nouns.items()
        }
        classes = {k: class_preservation_term(backbone, noun, o) for k, noun in nouns.items()}
        losses = {k: learning.denoising(backbone, phrases[k], preservation[k], classes[k]) for k in nouns}
        phase = (
            "train" if o.restart else f"train {task.number}"
        )  # else each task would repeat the last one's draws of them
        earlier = {
            k: learning.batches(backbone, replace(task, concept=k, images=pictures[k]), steps, o.batch_size, phase)
            for k in state.concepts
        }

        def loss(batch):
            k = after.concepts[int(torch.randint(len(nouns), (1,), generator=choice))]
            return losses[k](next(earlier[k]) if k in earlier else batch)

        groups = [(o.learning_rate, list(lora_parameters.values())), (o.token_learning_rate, list(words.values()))]
        learning.train(backbone, task, loss, groups, steps, o.batch_size)
        after.tensors |= {f"token/{k}": embedding.detach() for k, embedding in words.items()}
        after.tensors |= {f"adapter/{k}": v.detach() for k, v in lora_parameters.items()}
        after.tensors |= {f"pictures/{k}": torch.tensor(v) for k, v in pictures.items()}
        return after
