"""Prompts with slots, for class pictures with many forms, places and styles.

He et al. 2025, "A Data Perspective on Enhanced Identity Preservation for Fine-Tuning Text-to-Image Models" (WACV, arXiv
2311.04315), name the slots (shape, colour, texture, motion, background, style) and use a language model to fill them.
Our assumptions: the phrases below and their order. No test prompt and no place of a sequence in `tasks/` is among them,
since a regularisation set must not train on the test.
"""

from __future__ import annotations

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.learning import diffusion_classifier as dc
from cpbench.learning import training
from cpbench.learning.encoded_prompts import encoding_once
from cpbench.method import Task
from cpbench.moved import old_names

# The phrases for each slot, separated by commas
SHAPES = "round, square, long, tall, flat, small, big, thin, wide, low"
COLOURS = "green, blue, yellow, pink, brown, black, white, gray, teal, golden"
TEXTURES = "soft, smooth, rough, wooden, stone, glass, metal, striped, dotted, woven"
MOTIONS = "sitting, standing, walking, resting, playing, eating, looking up, turning around"
STYLES = "pencil drawing, ink drawing, sketch, pastel drawing, cartoon, comic, mosaic, stained glass"
BACKGROUNDS = """under a tree, by a lake, in a field of flowers, in a garden, on a sidewalk, on a stone floor,
in front of a white wall, in a sunny room, in a kitchen, on a wet road, among autumn leaves, on the sand near the ocean,
in front of a red house, on a gray sofa, in a park at night, by a window"""
LIVE = """bird, cat, chicken, cow, deer, dog, duck, elephant, fish, fox, frog, goat, hamster, horse,
kitten, lion, monkey, mouse, panda, parrot, penguin, person, pig, pigeon, puppy, rabbit, sheep, squirrel, tiger, turtle, wolf"""


def phrases_of(slot: str) -> list[str]:
    """The phrases of a slot."""
    return [phrase.strip() for phrase in slot.split(",")]


def is_live(noun: str) -> bool:
    """Whether a class noun ("dog", "white cat") means a living thing."""
    return noun.lower().split()[-1] in phrases_of(LIVE)


def formatted(prompt_embeds: str, background: str) -> str:
    """The prompt of a training picture: "a photo of a <words>, <background>"."""
    return f"a photo of a {prompt_embeds}, {background}"


def training_format(noun: str, n: int, generator: torch.Generator) -> list[str]:
    """n prompts in the format of the training pictures, without identifier: "a photo of a dog, by a lake"."""
    return [formatted(noun, pick(BACKGROUNDS, generator)) for _ in range(n)]


def augmented(noun: str, n: int, generator: torch.Generator) -> list[str]:
    """n prompts with all slots filled: "a tall blue woven vase, under a tree, ink drawing".

    A living thing has a motion in place of shape and texture: "a brown dog sitting, by a window, mosaic".
    """
    prompts = []
    for _ in range(n):
        if is_live(noun):
            description = f"{pick(COLOURS, generator)} {noun} {pick(MOTIONS, generator)}"
        else:
            description = " ".join(pick(slot, generator) for slot in (SHAPES, COLOURS, TEXTURES)) + f" {noun}"
        prompts.append(f"a {description}, {pick(BACKGROUNDS, generator)}, {pick(STYLES, generator)}")
    return prompts


def pick(slot: str, generator: torch.Generator) -> str:
    """A random phrase of a slot."""
    phrases = phrases_of(slot)
    return phrases[int(torch.randint(len(phrases), (1,), generator=generator))]


@torch.no_grad()
def most_likely_background(backbone: Backbone, task: Task, noun: str, samples: int) -> list[str]:
    """For each of the task's pictures the background with the smallest denoising error in the prompt.

    samples: (picture, noise, timestep) samples over all pictures together.
    """
    backgrounds = phrases_of(BACKGROUNDS)
    prompts = [formatted(noun, background) for background in backgrounds]
    e = torch.zeros(len(task.images), len(backgrounds))
    with encoding_once(backbone):
        for batch in training.batches(backbone, task, samples, 1, "captions", ("{}",)):
            e[batch.picture_indices] += dc.errors(dc.predicted_noise(backbone, batch, prompts), batch.noise).cpu()
    return [backgrounds[k] for k in e.argmin(1).tolist()]


__getattr__ = old_names(__name__)
