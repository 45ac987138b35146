"""Semantic preservation: the words for a concept must not drift away from its class noun.

Huang et al. 2025, "ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance" (ICLR, arXiv
2405.17532). For the words "<v> noun" of a concept,

    L_SP = 1 - cos( E("a photo of a <v> noun"), E("a photo of a noun") )

where E is the text model's pooled output: the hidden state at the end of text, after the final layer norm and before any
projection. Only the embedding of <v> gets a gradient. It is a term that any method that trains a word can add.

`spl_keep_position`: the released code writes <v>'s embedding over the hidden state at its place after the position
embeddings were added, so that in L_SP alone <v> has no position. That is not in the paper's equation, and E would be of
other words than those that the UNet gets; so the default keeps the position, and false does as the code does.
Our reading: a pipeline with two text encoders (SDXL) has two E, and L_SP is the mean over both.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.vocabulary import Encoder
from cpbench.learning import training
from cpbench.method import POSITIVE, Options
from cpbench.moved import old_names

PROMPT = "a photo of a {}"


class SemanticPreservationOptions(Options):
    """Options of a method that trains a word."""

    spl_weight: float = Field(0.0, ge=0, description="lambda of the semantic preservation loss; 0: without it")
    spl_keep_position: bool = Field(
        True, description="the word keeps its position embedding in that loss; false: as in ClassDiffusion's code"
    )

    only: ClassVar = {"spl_keep_position": {"spl_weight": POSITIVE}}


def pooled(backbone: Backbone, encoder: Encoder, prompt: str, keep_position: bool = True) -> torch.Tensor:
    """E(prompt) (d,) by one of the pipeline's text encoders."""
    ids = backbone.vocabulary.ids(encoder, [prompt])
    known = ~backbone.vocabulary.added(encoder, ids).unsqueeze(-1)
    positions = encoder.text_model.embeddings.position_embedding
    dropped = nullcontext() if keep_position else positions.register_forward_hook(lambda _, ids, found: found * known)
    with dropped, backbone.precision():
        return encoder.text_model(ids).pooler_output[0].float()


def semantic_preservation_term(
    backbone: Backbone, phrase: str, class_noun: str, o: SemanticPreservationOptions
) -> training.MoreTerms:
    """A function that returns lambda L_SP of the words `phrase`, once for each step of training."""
    if not o.spl_weight:
        return dict
    encoders = backbone.vocabulary.encoders
    with torch.no_grad():  # nothing that is trained is in it
        noun = [pooled(backbone, encoder, PROMPT.format(class_noun)) for encoder in encoders]

    def term() -> dict[str, torch.Tensor]:
        own = [pooled(backbone, encoder, PROMPT.format(phrase), o.spl_keep_position) for encoder in encoders]
        L_SP = torch.stack([1 - F.cosine_similarity(a, b, dim=0) for a, b in zip(own, noun, strict=True)]).mean()
        return {"semantic": o.spl_weight * L_SP}

    return term


__getattr__ = old_names(__name__)
