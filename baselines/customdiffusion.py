"""Custom Diffusion: cross-attention's keys and values and one word per concept, fine-tuned sequentially or merged.

Kumari et al. 2023, "Multi-Concept Customization of Text-to-Image Diffusion" (CVPR, arXiv 2212.04488). W, the K and V
matrices of each cross-attention layer, and v, the embedding of a word <v> before the noun, are trained on

    L = E || eps - eps_theta(z_t, t, c("photo of a <v> {class}")) ||^2 + lambda E || the same on class pictures ||^2

merge=none: task t starts from the result of task t-1. merge=closed-form: each concept is learned from the untouched
model, and the weights for all concepts are, in each layer,

    W = argmin_W || W C_reg^T - W_0 C_reg^T ||_F   with   W C^T = V^T
      = W_0 + v^T d,   d = C (C_reg^T C_reg)^-1,   v^T = (V^T - W_0 C^T) (d C^T)^-1                   (Eqs. 4 and 5)

C_reg holds the text embeddings of captions. C holds those of "<v> {class}" and "photo of a <v> {class}" for each
concept, from <v> to the end of text, and V their products with the concept's own weights.

From the paper and its code: these equations, the rare piece that v starts from (row 42170 of CLIP's table, "ktn" inside of
a word), 200 class pictures with lambda = 1, two
pictures of the concept and two of the class per step, 500 steps on one GPU at 4e-5 (1e-5, scaled by the batch, and by 2
with class pictures). Left out: weight decay (0.01), and resizing of pictures, which the harness does for all methods or
for none.
Our assumptions: captions are encoded from the first learned word or else the first word; the untouched model generates
the class pictures in each task; a ridge is added to C_reg^T C_reg, since CAPTIONS, also ours, may not give it full
rank; with more constraints than columns of W, the pseudo-inverse minimises the residual (where the words of two
concepts hardly differ yet, W becomes large to separate them); for merging, the state holds only (C, V) of each concept,
a hundredth of its W on Stable Diffusion; the merged weights serve all prompts.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from cpbench import learning
from cpbench.learning import (
    ClassPreservationOptions,
    PriorOptions,
    SemanticPreservationOptions,
    add_tokens,
    add_words,
    class_preservation_term,
    prior_preservation_term,
    semantic_preservation_term,
    token_of,
)
from cpbench.method import Method, RecipeOptions, State, UserError

THINGS = "dog, cat, backpack, teapot, vase, bowl, can, sneaker, boot, toy, clock, candle, house, tree, person, mountain"
SCENES = """a photo of a {}; a {} in the snow; a red {} on top of a wooden floor; a {} floating on water at sunset
a picture of a {} on the beach with mountains in the background; a shiny {} under the trees in the autumn forest
people walk behind a white {} in the city street; the painting of a small {} near the blue ocean
a big green {} and a yellow vase; one black {} in the room, among purple flowers; a soft pink {} on a rug, seen in a mirror
a dog wearing glasses and a hat next to the old {}; drawing of an orange {} in the middle of the road"""
CAPTIONS = [s.format(thing) for thing in THINGS.split(", ") for s in SCENES.replace("\n", "; ").split("; ")]
RIDGE = 1e-4  # of the mean of C_reg^T C_reg's diagonal
FEW = 32  # captions per call of the text encoder


class CustomDiffusionOptions(PriorOptions, SemanticPreservationOptions, ClassPreservationOptions, RecipeOptions):
    merge: Literal["none", "closed-form"] = Field(
        "none", description="none: fine-tune sequentially; closed-form: learn each concept alone, then merge"
    )
    steps: int = Field(500, ge=1, description="optimiser steps per task")
    batch_size: int = Field(2, ge=1, description="pictures of the concept per step, and as many of the class")
    learning_rate: float = Field(4e-5, gt=0, description="learning rate of the K and V matrices")
    token_learning_rate: float = Field(4e-5, ge=0, description="learning rate of v, the new word's embedding")
    initializer: str = Field(
        "ktn", min_length=1, description="the piece of the vocabulary, or word, that v starts from"
    )
    prior_pictures: int = Field(200, ge=0, description="class pictures, generated before learning; 0: none")
    prior_guidance_scale: float = Field(6.0, ge=0, description="guidance scale for class pictures")


def pristine(backbone) -> dict[str, torch.Tensor]:
    """W_0 of each layer by its parameter's name, float32."""
    names = [f"{layer}.weight" for layer in learning.matching_modules(backbone.denoiser, learning.TEXT_KEYS_VALUES)]
    return {name: learning.dense(backbone.denoiser.get_parameter(name)).detach().float() for name in names}


@torch.no_grad()
def text_embeddings(backbone, prompts: list[str]) -> torch.Tensor:
    """The prompts' text embeddings (s, d), each from the first learned word, or else the first word, to the end of text."""
    states_of_prompts, vocabulary = [], backbone.vocabulary
    encoder = vocabulary.encoders[0]
    for few in (prompts[i : i + FEW] for i in range(0, len(prompts), FEW)):
        hidden = backbone.attended(backbone.encode_prompts(few))
        tokens = zip(vocabulary.ids(encoder, few), vocabulary.mask(encoder, few), hidden, strict=True)
        for ids, mask, states in tokens:
            before = len(ids) - len(states)  # tokens of an instruction, which have no states
            learned = vocabulary.added(encoder, ids).nonzero()
            begin = int(learned[0]) - before if len(learned) else int(ids[0] == encoder.tokenizer.bos_token_id)
            states_of_prompts.append(states[begin : int(mask.nonzero()[-1]) - before + 1].float())
    return torch.cat(states_of_prompts)


def closed_form(W_0: torch.Tensor, G: torch.Tensor, C: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """W (out, d) nearest to W_0 on captions, G = C_reg^T C_reg, with W C^T = V^T for C (s, d) and V (s, out)."""
    d = torch.linalg.solve(G, C.T).T
    v_T = (V.T - W_0 @ C.T) @ torch.linalg.pinv(d @ C.T, hermitian=True)
    return W_0 + v_T @ d


def merged(backbone, state: State) -> dict[str, torch.Tensor]:
    """W of each layer for all concepts of the state; W_0 before the first task."""
    W_0 = pristine(backbone)
    if not state.concepts:
        return W_0
    C_reg = text_embeddings(backbone, CAPTIONS).cpu().double()  # MPS has no float64
    G = C_reg.T @ C_reg
    G += RIDGE * G.diagonal().mean() * torch.eye(len(G), dtype=G.dtype)
    constraints = [state.tensors_of(f"anchor/{concept}") for concept in state.concepts]
    C = torch.cat([constraint["C"] for constraint in constraints]).double()
    V = {name: torch.cat([constraint[name] for constraint in constraints]).double() for name in W_0}
    return {name: closed_form(W.cpu().double(), G, C, V[name]).to(W) for name, W in W_0.items()}


class CustomDiffusion(Method):
    """The state holds one token embedding per concept, and the changes of K and V, or (C, V) per concept for merging."""

    version = 2
    Options = CustomDiffusionOptions
    tested_against = "equation only"
    search = {
        "": {
            "learning_rate": {"log": (0.0003, 0.003)},
            "token_learning_rate": {"log": (0.001, 0.02)},
            "prior_weight": {"choices": (0.1, 0.3, 1.0)},
            "prior_guidance_scale": {"choices": (1.0, 2.0, 4.0)},
        },
    }
    templates = ("photo of a {}",)

    def check(self, backbone):
        if self.options.merge == "closed-form" and backbone.attended(backbone.encode_prompts(["a"])) is None:
            raise UserError(
                "merge=closed-form: the backbone has joint attention of text and picture, in which keys and values of a prompt "
                "are not one matrix times the prompt; use merge=none"
            )

    def learn(self, backbone, task, state):
        o = self.options
        of_class = prior_preservation_term(backbone, task, f"photo of a {task.class_noun}", o, o.steps, o.batch_size)
        W_0, change = pristine(backbone), state.tensors_of("weights", backbone.device)
        W = backbone.replace_weights({name: w + change.get(name, 0) for name, w in W_0.items()})
        after, v = add_words(
            backbone, task, state, backbone.piece_embedding(o.initializer), word_encoders=o.word_encoders
        )
        phrase = self.phrase(task.concept, task.class_noun, after)
        loss = learning.denoising(
            backbone,
            phrase,
            of_class,
            semantic_preservation_term(backbone, phrase, task.class_noun, o),
            class_preservation_term(backbone, task.class_noun, o),
        )
        groups = [(o.learning_rate, list(W.values())), (o.token_learning_rate, [v])]
        learning.train(backbone, task, loss, groups, o.steps, o.batch_size, templates=self.templates)
        after.tensors[f"token/{task.concept}"] = v.detach()
        if o.merge == "none":
            after.tensors |= {f"weights/{name}": w.detach() - W_0[name] for name, w in W.items()}
        else:
            C = text_embeddings(backbone, [phrase, f"photo of a {phrase}"])
            after.tensors |= {k: x for k, x in state.tensors.items() if k.startswith("anchor/")}
            after.tensors[f"anchor/{task.concept}/C"] = C
            after.tensors |= {f"anchor/{task.concept}/{name}": C @ w.detach().T for name, w in W.items()}
        return after

    def install(self, backbone, state, concepts, prompts=()):
        if self.options.merge == "none":
            change = state.tensors_of("weights", backbone.device)
            W = {name: w + change[name] for name, w in pristine(backbone).items()}
        else:
            W = merged(backbone, state)
        backbone.replace_weights(W)
        add_tokens(backbone, state)

    def phrase(self, concept, class_noun, state):
        return f"{token_of(concept, state)} {class_noun}"
