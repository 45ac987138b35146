"""Prompts with slots, for pictures of a class that show it in many forms, places and styles.

He et al. 2025, "A Data Perspective on Enhanced Identity Preservation for Fine-Tuning Text-to-Image Models" (WACV, arXiv
2311.04315), name the slots (shape, colour, texture, motion, background, style) and had a language model fill them. Our
reading: the phrases below, and how they are put together. None of them is a prompt, or a place, that a sequence of
`tasks/` is tested by: a regularisation set must not practise the test.
"""

from __future__ import annotations

import torch

from cpbench.backbones.backbone import Backbone
from cpbench.learning import diffusion_classifier as dc
from cpbench.learning import training
from cpbench.method import Task
from cpbench.moved import old_names

# What may stand in a slot, phrases between commas
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
    return [phrase.strip() for phrase in slot.split(",")]


def is_live(noun: str) -> bool:
    """Whether a class noun ("dog", "white cat") is of something that lives."""
    return noun.lower().split()[-1] in phrases_of(LIVE)


def formatted(prompt_embeds: str, background: str) -> str:
    """A training example's prompt."""
    return f"a photo of a {prompt_embeds}, {background}"


def training_format(noun: str, n: int, generator: torch.Generator) -> list[str]:
    """n prompts in the format of the training examples', without identifier: "a photo of a dog, by a lake"."""
    return [formatted(noun, pick(BACKGROUNDS, generator)) for _ in range(n)]


def augmented(noun: str, n: int, generator: torch.Generator) -> list[str]:
    """n prompts with every slot filled: "a tall blue woven vase, under a tree, ink drawing".

    What lives has a motion in place of shape and texture: "a brown dog sitting, by a window, mosaic".
    """
    prompts = []
    for _ in range(n):
        if is_live(noun):
            what = f"{pick(COLOURS, generator)} {noun} {pick(MOTIONS, generator)}"
        else:
            what = " ".join(pick(slot, generator) for slot in (SHAPES, COLOURS, TEXTURES)) + f" {noun}"
        prompts.append(f"a {what}, {pick(BACKGROUNDS, generator)}, {pick(STYLES, generator)}")
    return prompts


def pick(slot: str, generator: torch.Generator) -> str:
    phrases = phrases_of(slot)
    return phrases[int(torch.randint(len(phrases), (1,), generator=generator))]


@torch.no_grad()
def most_likely_background(backbone: Backbone, task: Task, noun: str, samples: int) -> list[str]:
    """For each of the task's pictures the background under which the model, as it stands, tells its noise best."""
    backgrounds = phrases_of(BACKGROUNDS)
    prompts = [formatted(noun, background) for background in backgrounds]
    e = torch.zeros(len(task.images), len(backgrounds))
    for batch in training.batches(backbone, task, samples, 1, "captions", ("{}",)):
        e[batch.picture_indices] += dc.errors(dc.predicted_noise(backbone, batch, prompts), batch.noise).cpu()
    return [backgrounds[k] for k in e.argmin(1).tolist()]


__getattr__ = old_names(__name__)
