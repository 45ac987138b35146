"""Semantic preservation: the embedding of a concept's phrase must stay close to that of its class noun.

Huang et al. 2025, "ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance" (ICLR, arXiv
2405.17532). For the words "<v> noun" of a concept,

    L_SP = 1 - cos( E("a photo of a <v> noun"), E("a photo of a noun") )

where E is the text model's pooled output: the hidden state at the end of text, after the final layer norm and before
any projection. Only the embedding of <v> gets a gradient. Any method that trains a word can add this term.

`spl_pool`: the released code pools at the largest token id, as a text config with `eos_token_id` 2 says (Stable Diffusion
1.5's), which is the modifier's and not the end of text. There L_SP is a hundred times larger (0.648 where it is 0.0054 at
the end), so that the scripts' lambda = 1 belongs to `largest-id`; the paper's equation says "the end". By default the
end is taken.
`spl_keep_position`: the released code replaces the hidden state of <v> after the position embeddings were added, so
that <v> has no position in L_SP. The paper's equation does not say so, and the UNet gets <v> with its position. By
default the position is kept; false does as the code does.
Our assumptions: for a pipeline with two text encoders (SDXL, SD3), L_SP is the mean over both. T5 and language models
have no pooled output: E is the mean of the last hidden states over the prompt's tokens. Their positions are relative,
so that `spl_keep_position=false` is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.vocabulary import Encoder, WordEncoders, is_clip
from cpbench.errors import UserError
from cpbench.method import POSITIVE, Options
from cpbench.moved import old_names

PROMPT = "a photo of a {}"


class SemanticPreservationOptions(Options):
    """Options of a method that trains a word."""

    spl_weight: float = Field(0.0, ge=0, description="lambda, weight of the semantic preservation loss; 0: off")
    spl_keep_position: bool = Field(
        True, description="keep the word's position embedding in this loss; false: as in ClassDiffusion's code"
    )
    spl_pool: Literal["end", "largest-id"] = Field(
        "end",
        description="where E is read: the end of text; or the largest token id, the word's, as in ClassDiffusion's code",
    )
    word_encoders: WordEncoders = Field(
        "all", description="text encoders that train the word, where there are several: clip, t5 or all"
    )

    only: ClassVar = dict.fromkeys(("spl_keep_position", "spl_pool"), {"spl_weight": POSITIVE})
    later: ClassVar = {"word_encoders": "all", "spl_pool": "end"}


def pooled(
    backbone: Backbone, encoder: Encoder, prompt: str, keep_position: bool = True, pool: str = "end"
) -> torch.Tensor:
    """E(prompt) (d,) of one of the pipeline's text encoders. keep_position: false drops the added words' positions.

    pool: "end", or "largest-id". UserError for keep_position=false with an encoder that has no position embeddings, and for
    pool="largest-id" with one that pools nowhere.
    """
    if not is_clip(encoder.model):
        if pool != "end":
            raise UserError(
                f"spl_pool=largest-id: the backbone's {encoder.tokenizer_name} is not CLIP's, and its text encoder does not pool "
                "at a token; leave the option out"
            )
        if not keep_position:
            raise UserError(
                f"spl_keep_position=false: the backbone's {encoder.tokenizer_name} is not CLIP's, and its text encoder adds no "
                "position embeddings; leave the option out"
            )
        with backbone.precision():
            hidden = backbone.vocabulary.outputs(encoder, [prompt], masked=True)[0][0].float()
        return hidden[backbone.vocabulary.mask(encoder, [prompt])[0].bool()].mean(0)
    ids = backbone.vocabulary.ids(encoder, [prompt])
    mask = ~backbone.vocabulary.added(encoder, ids).unsqueeze(-1)
    positions = encoder.text_model.embeddings.position_embedding
    hook = nullcontext() if keep_position else positions.register_forward_hook(lambda _, ids, output: output * mask)
    with hook, backbone.precision():
        output = encoder.text_model(ids)
        if pool == "largest-id":
            return output.last_hidden_state[0, int(ids[0].argmax())].float()
        return output.pooler_output[0].float()


def semantic_preservation_term(
    backbone: Backbone, phrase: str, class_noun: str, o: SemanticPreservationOptions
) -> Callable[[], dict[str, torch.Tensor]]:
    """A function to be called once per step: it returns {"semantic": lambda L_SP of `phrase`}, or {} if lambda is 0."""
    if not o.spl_weight:
        return dict
    encoders = backbone.vocabulary.encoders
    with torch.no_grad():  # it contains no trained word
        noun = [pooled(backbone, encoder, PROMPT.format(class_noun), pool=o.spl_pool) for encoder in encoders]

    def term() -> dict[str, torch.Tensor]:
        prompt, settings = PROMPT.format(phrase), (o.spl_keep_position, o.spl_pool)
        learned = [pooled(backbone, encoder, prompt, *settings) for encoder in encoders]
        L_SP = torch.stack([1 - F.cosine_similarity(a, b, dim=0) for a, b in zip(learned, noun, strict=True)]).mean()
        return {"semantic": o.spl_weight * L_SP}

    return term


__getattr__ = old_names(__name__)
