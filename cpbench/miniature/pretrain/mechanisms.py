"""Does the miniature learn a concept by the same mechanisms as Stable Diffusion, and as well?

On Stable Diffusion a new word alone (textual inversion) holds little of an individual, the keys and values of
cross-attention (Custom Diffusion) more, a LoRA on all attention or the whole UNet (DreamBooth) nearly all of it. A model
with another order would rank methods of continual personalization wrongly, so the card measures it: one concept at a
time, from the untouched model, without methods and sequences.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpbench.backbones import adapters
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.concepts import images, sequences
from cpbench.files import read_json, short_hash, write_json
from cpbench.learning import training
from cpbench.method import Task
from cpbench.metrics.cosines import cosine_self_pairs, mean_products
from cpbench.numbers import number

from ..world import LIVE, Identity, training_identity
from .exam import SPLIT
from .measures import share_of_the_way

NOUNS = ("dog", "cat", "backpack", "teapot", "sneaker", "vase", "toy", "stuffed animal", "clock", "boot")
SEEDS = (0, 1, 2)
BATCH_SIZE, RANK = 4, 8
EVERYTHING = ("",)


@dataclass(frozen=True)
class Mechanism:
    """What is trained besides the new word: weights of layers or a LoRA on them, by roles; with steps and rates.

    weights ("",) are all of the denoiser's.
    """

    steps: int
    token_learning_rate: float
    learning_rate: float = 0.0
    weights: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()


# Steps and rates were chosen on miniature-val6 and on one other individual of each noun.
MECHANISMS = {
    "token only": Mechanism(200, 2e-2),
    "K, V of cross-attention and token": Mechanism(300, 5e-3, 1e-3, weights=adapters.TEXT_KEYS_VALUES),
    "LoRA on all attention": Mechanism(300, 5e-3, 4e-3, lora=adapters.ATTENTION),
    "all weights": Mechanism(100, 5e-3, 2e-4, weights=EVERYTHING),
}


def learn(backbone, mechanism: Mechanism, task: Task) -> str:
    """Train the backbone in place, from pristine; the caller restores it. Returns the words for the concept."""
    phrase = f"<v1> {task.class_noun}"
    if mechanism.weights == EVERYTHING:
        names = [n for n, _ in backbone.denoiser.named_parameters()]
    else:
        layers = adapters.matching_modules(backbone.denoiser, mechanism.weights)
        names = [f"{n}.weight" for n in layers]
    row = backbone.add_token("<v1>", backbone.word_embedding(task.class_noun))
    trained = backbone.replace_weights({n: backbone.denoiser.get_parameter(n) for n in names})
    if mechanism.lora:
        trained |= backbone.add_lora(RANK, mechanism.lora, task.generator("lora"))
    groups = [(mechanism.token_learning_rate, [row])]
    groups += [(mechanism.learning_rate, list(trained.values()))] if trained else []
    training.train(
        backbone, task, training.denoising(backbone, phrase), groups, mechanism.steps, BATCH_SIZE, phase="mechanism"
    )
    return phrase


def pictures_of(backbone, words: str, task: Task) -> np.ndarray:
    """What the backbone generates for dreambench10's prompts, two pictures each."""
    evaluation = sequences.load("dreambench10").evaluation
    templates = evaluation.prompts["live" if task.class_noun in LIVE else "object"]
    requests = [SampleRequest(t.format(words), task.seed, task.concept, t, k) for t in templates for k in range(2)]
    return generate(backbone, requests, Sampler(evaluation.num_inference_steps, evaluation.guidance_scale))


def ceilings(dino, people: dict[str, Identity]) -> list[float]:
    """Mean cosine of each individual's references with each other."""
    return [cosine_self_pairs(dino.images(images.drawings(identity, name))) for name, identity in people.items()]


def scores(backbone, dino, mechanism: Mechanism | None, people: dict[str, Identity], seed: int) -> list[float]:
    """Mean cosine of each individual's generated pictures with its references; without a mechanism, from the class noun."""
    out = []
    for name, identity in people.items():
        real = images.drawings(identity, name)
        task = Task(1, name, identity.noun, real, seed)
        try:
            words = learn(backbone, mechanism, task) if mechanism else identity.noun
            generated = dino.images(pictures_of(backbone, words, task))
            out.append(float(mean_products(generated, dino.images(real)).mean()))
        finally:
            backbone.restore()
    return out


def measure(backbone, dino, work: Path, report=print) -> dict[str, float]:
    """Share of the way from row 0 to the references, by mechanism, over ten individuals and three seeds.

    Results are kept in `work`, by mechanism and seed, and reused for the same weights.
    """
    people = {f"{noun} 0": training_identity(noun, 0, SPLIT) for noun in NOUNS}
    weights = [backbone.weights_hash, dino.identity["weights_sha256"]]

    def measured(mechanism: Mechanism | None) -> np.ndarray:
        """(individuals x seeds,)"""
        out = []
        for seed in SEEDS:
            facts = {"weights": weights, "mechanism": repr(mechanism), "people": list(people), "seed": seed}
            file = work / "mechanisms" / f"{short_hash(facts)}.json"
            values = read_json(file)
            if values is None:
                values = scores(backbone, dino, mechanism, people, seed)
                write_json(file, values)
            out += values
        return np.array(out)

    start = measured(None)
    ceiling = np.tile(ceilings(dino, people), len(SEEDS))
    out = {}
    for name, mechanism in MECHANISMS.items():
        out[name] = share_of_the_way(measured(mechanism), start, ceiling)
        report(f"{name}: {number(out[name])}")
    return out
