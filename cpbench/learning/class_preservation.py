"""Differential output preservation: on the class noun's prompt the model must predict what the untouched model predicts.

An option of ai-toolkit (its default since 2026), prior preservation without pictures. For the batch's own z_t and t, in
the template of its prompt,

    L_class = mean (eps_theta(z_t, t, c("a photo of a {noun}")) - eps_0(z_t, t, c("a photo of a {noun}")))^2

with eps_0 the model as it was loaded, without anything the method put in. Where a model predicts v or a velocity, eps
stands for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field

from cpbench.backbones.backbone import Backbone
from cpbench.learning import training
from cpbench.method import Options


class ClassPreservationOptions(Options):
    """Options of a method that trains an adapter or weights."""

    dop_weight: float = Field(
        0.0, ge=0, description="weight of the distance to the untouched model on the class noun's prompt; 0: off"
    )

    later: ClassVar = {"dop_weight": 0.0}


def class_preservation_term(
    backbone: Backbone,
    class_noun: str,
    o: ClassPreservationOptions,
    weight_deltas: dict[str, torch.Tensor] | None = None,
) -> training.MoreTerms:
    """A term for `training.denoising`: {"class": dop_weight L_class}, or none if the weight is 0.

    weight_deltas: those of `functional.adding`, if the method uses it; the untouched model is without them, too.
    """
    if not o.dop_weight:
        return dict
    prompt_embeds: dict[str, torch.Tensor] = {}
    deltas = {} if weight_deltas is None else weight_deltas

    def eps_0(batch: training.Batch, prompts: Sequence[str]) -> torch.Tensor:
        aside = dict(deltas)
        deltas.clear()
        try:
            with backbone.untouched():
                for prompt in set(prompts) - prompt_embeds.keys():
                    prompt_embeds[prompt] = backbone.encode_anew([prompt])[0]
                embeds = torch.stack([prompt_embeds[prompt] for prompt in prompts])
                return backbone.predict(batch.noisy, batch.timesteps, embeds)
        finally:
            deltas.update(aside)

    return training.TeacherTerm(backbone, "class", o.dop_weight, lambda: class_noun, eps_0)
