"""Data perspective: DreamBooth as it is, but for what it is shown: structured prompts and a large, varied set of the class.

He et al. 2025, "A Data Perspective on Enhanced Identity Preservation for Fine-Tuning Text-to-Image Models" (WACV, arXiv
2311.04315). DreamBooth's loss, one picture of the concept and one of the set in every step,

    L = E || eps_Theta(z_t, c) - eps ||^2 + lambda E || eps_Theta(z_pr,t', c_pr) - eps' ||^2
    c = "a photo of a [V] {class}, {background}",   z_pr: drawn by the untouched model of c_pr, which are
        one half    "a photo of a {class}, {background}"                              in the format of c
        one half    "a {shape} {colour} {texture} {class}, {background}, {style}"     things
                    "a {colour} {class} {motion}, {background}, {style}"              what lives

From the paper (its abstract, reviews and figures): this idea, 2000 pictures, these slots, a more specific class and the
background of every training picture in c, captions that are dropped, crops, and up to five times DreamBooth's steps.
Our reading: the exact formats, phrases (`cpbench.learning.structured_prompts`, fixed, where the paper asks a language model),
guidance and steps of drawing, 1000 + 1000, lambda = 1, a tenth of the captions of training examples dropped, crops of
0.8 to 1 of a side, cut out and enlarged before they are encoded, a few a picture. What is behind the concept in a picture
is for the user to say (`captions`, and `classes` for more specific classes); else the untouched model itself
says which of the set's backgrounds explains the picture best (a diffusion classifier, Li et al. 2023). Backgrounds in
c_pr but not in c would not do: then a prompt without one means the concept, whatever [V] is. Which nouns live is a
list. A sequence is learned as by `dreambooth` (identifiers, weights or LoRA), but the set is the untouched model's, in all
tasks, and gone after each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from cpbench import learning
from cpbench.baselines import dreambooth
from cpbench.learning import Sampler, add_words, prior_preservation, weights_or_lora
from cpbench.learning import structured_prompts as structured
from cpbench.method import UserError


class DataPerspectiveOptions(dreambooth.DreamBoothOptions):
    prior_pictures: int = Field(2000, ge=0, description="pictures of the set, half formatted, half amplified; 0: none")
    steps: int = Field(5000, ge=1, description="optimiser steps a task")
    caption_dropout: float = Field(0.1, ge=0, le=1, description="how often a training example's words are left out")
    smallest_crop: float = Field(0.8, gt=0, le=1, description="sides of crops go from this to 1 of a picture's")
    crops: int = Field(8, ge=1, description="random crops of each picture, made once a task")
    captions: dict[str, tuple[str, ...]] = Field(
        {}, description="backgrounds of every concept's pictures, in their order: a list for each concept"
    )
    caption_samples: int = Field(
        100, ge=1, description="without captions: (picture, noise, timestep) draws to choose by"
    )
    classes: dict[str, str] = Field({}, description="more specific class of a concept: {dog: corgi dog}")


def cropped(images: np.ndarray, number: int, smallest: float, generator: torch.Generator) -> np.ndarray:
    """`number` random crops of each picture, enlarged to its size: uint8 (n number, h, w, 3), crops of one side by side."""
    out = []
    for picture in map(Image.fromarray, images):
        for scale, x, y in torch.rand(number, 3, generator=generator).tolist():
            side = smallest + scale * (1 - smallest)
            width, height = side * picture.width, side * picture.height
            left, top = x * (picture.width - width), y * (picture.height - height)
            box = (left, top, left + width, top + height)
            out.append(np.asarray(picture.resize(picture.size, Image.Resampling.BICUBIC, box)))
    return np.stack(out)


class DataPerspective(dreambooth.DreamBooth):
    """Carries what `dreambooth` does."""

    version = 1
    Options = DataPerspectiveOptions
    tested_against = "our reading"
    search = {
        "": {
            "learning_rate": {"log": (3e-05, 0.0003)},
            "prior_weight": {"choices": (0.1, 0.3, 1.0)},
            "prior_guidance_scale": {"choices": (1.0, 2.0, 4.0)},
        },
    }
    name = "dataperspective"

    def learn(self, backbone, task, state):
        o = self.options
        noun = o.classes.get(task.concept, task.class_noun)
        backgrounds = self.backgrounds(backbone, task, noun)
        of_class = self.class_term(backbone, task, noun)  # this too before the earlier state is there
        weights_or_lora.load_trainables(backbone, state, o)
        theta, group = weights_or_lora.init_trainables(backbone, task, o, o.train_text_encoder)
        V = backbone.random_embedding(task.generator("identifier"))
        after, _ = add_words(backbone, task, state, V, dreambooth.token_of)
        phrase = self.phrase(task.concept, task.class_noun, after)
        c = [structured.formatted(phrase, background) for background in backgrounds]
        crops = cropped(task.images, o.crops, o.smallest_crop, task.generator("crops"))
        drop = task.generator("dropout")

        def loss(batch):
            dropped = torch.rand(len(batch.picture_indices), generator=drop) < o.caption_dropout
            prompts = [
                "" if d else c[k // o.crops] for k, d in zip(batch.picture_indices.tolist(), dropped, strict=True)
            ]
            return {"denoising": learning.error(backbone, batch, backbone.encode_prompts(prompts))} | of_class()

        learning.train(backbone, replace(task, images=crops), loss, [group], o.steps, o.batch_size)
        after.tensors[f"token/{task.concept}"] = V
        after.tensors |= {k: v.detach() for k, v in theta.items()}
        return after

    def backgrounds(self, backbone, task, noun):
        """The background of each picture: told, or found by the untouched model."""
        o, n = self.options, len(task.images)
        if not o.captions:
            return structured.most_likely_background(backbone, task, noun, o.caption_samples)
        told = o.captions.get(task.concept, ())
        if len(told) != n:
            raise UserError(
                f"captions: concept {task.concept} has {n} pictures and {len(told)} captions; give each one"
            )
        return told

    def class_term(self, backbone, task, noun):
        """What the untouched model draws of both halves' prompts; a function that returns the term on it."""
        o = self.options
        if not (o.prior_pictures and o.prior_weight):
            return dict
        generator = task.generator("prompts")
        c_pr = structured.training_format(noun, (o.prior_pictures + 1) // 2, generator)
        c_pr += structured.augmented(noun, o.prior_pictures // 2, generator)
        sampler = Sampler(o.prior_inference_steps, o.prior_guidance_scale)
        images = prior_preservation.generate(backbone, task, c_pr, sampler)
        term = prior_preservation.denoising_term(backbone, task, images, c_pr, o.steps, o.batch_size)
        return lambda: {"prior": o.prior_weight * term()}

    def phrase(self, concept, class_noun, state):
        return super().phrase(concept, self.options.classes.get(concept, class_noun), state)
