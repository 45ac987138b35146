"""The model card: what the miniature can do, measured on individuals and pictures that pretraining never saw."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch

from ..world import LIVE, NOUNS, SUBJECTS, Identity, Setting, draw, seeded, subject, training_identity
from ..world.places import PLACES
from . import data, vae
from .stages import RECIPES

SPLIT = "validation"  # individuals of no other split
PEOPLE = 12  # individuals a class noun
SEEN_PLACES = tuple(PLACES)[:6]


def psnr(error: float) -> float:
    """Decibels of a mean squared error on a scale of -1 to 1."""
    return float(10 * np.log10(4 / error))


def pca_error(train: np.ndarray, test: np.ndarray, patch: int, components: int) -> float:
    """Mean squared error of `test` rebuilt from the leading components of `train`'s patches; uint8 (n, 64, 64, 3)."""

    def cut(images: np.ndarray) -> np.ndarray:
        n, k = len(images), 64 // patch
        x = images.astype(np.float32) / 127.5 - 1
        return x.reshape(n, k, patch, k, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * 3)

    a, b = cut(train), cut(test)
    mean = a.mean(0)
    _, vectors = np.linalg.eigh((a - mean).T @ (a - mean))
    basis = vectors[:, -components:]
    rest = (b - mean) - (b - mean) @ basis @ basis.T
    return float((rest**2).mean())


Portraits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def portraits(people: list[tuple[str, Identity]], places: tuple[str, ...]) -> Portraits:
    """(pictures, class number, individual number, place number) of named individuals, one picture a place."""
    rows = [
        (draw(who, Setting(place), seeded("portrait", name, place)), NOUNS.index(who.noun), i, p)
        for i, (name, who) in enumerate(people)
        for p, place in enumerate(places)
    ]
    pictures, *labels = zip(*rows, strict=True)
    return np.stack(pictures), *(np.array(v) for v in labels)


def crowd() -> list[tuple[str, Identity]]:
    """Held-out individuals, PEOPLE of each class noun."""
    return [(f"{noun} {k}", training_identity(noun, k, SPLIT)) for noun, k in product(NOUNS, range(PEOPLE))]


def nearest_neighbour(vectors: np.ndarray, who: np.ndarray) -> float:
    """Share of pictures whose nearest other picture shows the same individual; vectors (n, d) of unit length."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    return float((who[similar.argmax(1)] == who).mean())


def identity_auc(vectors: np.ndarray, kind: np.ndarray, who: np.ndarray, place: np.ndarray) -> float:
    """AUC of "same individual, other place" over "another of the same class, same place" by cosine."""
    similar = vectors @ vectors.T
    upper = np.triu(np.ones_like(similar, dtype=bool), 1)
    same = upper & (who[:, None] == who) & (place[:, None] != place)
    other = upper & (who[:, None] != who) & (kind[:, None] == kind) & (place[:, None] == place)
    positive, negative = similar[same], np.sort(similar[other])
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def judged_quality(judges: dict) -> dict[str, float]:
    """How well the judges tell held-out individuals apart, and how well CLIP reads class and place."""
    out = {}
    galleries = {
        "the sequences' subjects": portraits([(name, subject(name)) for name in SUBJECTS], tuple(PLACES)),
        "a crowd": portraits(crowd(), SEEN_PLACES),
    }
    for name, judge in judges.items():
        for which, (pictures, kind, who, place) in galleries.items():
            vectors = judge.images(pictures)
            out[f"{name}, {which}: 1-nearest-neighbour"] = nearest_neighbour(vectors, who)
            out[f"{name}, {which}: AUC"] = identity_auc(vectors, kind, who, place)
    pictures, kind, _, place = galleries["a crowd"]
    clip = judges["clip"]
    texts = clip.texts([f"a photo of a {noun} {p}" for noun, p in product(NOUNS, SEEN_PLACES)])
    best = (clip.images(pictures) @ texts.T).argmax(1)
    out["clip reads the class"] = float((best // len(SEEN_PLACES) == kind).mean())
    out["clip reads the place"] = float((best % len(SEEN_PLACES) == place).mean())
    return out


def drawn_quality(backbone, judges: dict, seed: int = 0) -> dict[str, float]:
    """How often CLIP finds the asked class and place among all of them in the untouched model's pictures."""
    from cpbench.sampling import Sampler, Wanted, draw

    wanted = [
        Wanted(f"a {noun} {p}", seed, "card", f"{noun} {p}", k) for noun in NOUNS for p in SEEN_PLACES for k in range(2)
    ]
    clip = judges["clip"]
    texts = clip.texts([f"a photo of a {noun} {p}" for noun, p in product(NOUNS, SEEN_PLACES)])
    best = (clip.images(draw(backbone, wanted, Sampler(batch_size=48))) @ texts.T).argmax(1)
    asked = np.repeat(np.arange(len(NOUNS) * len(SEEN_PLACES)), 2)
    n = len(SEEN_PLACES)
    return {"class": float((best // n == asked // n).mean()), "place": float((best % n == asked % n).mean())}


@torch.no_grad()
def measure(folder: Path) -> dict[str, float]:
    """Every figure of the card."""
    from cpbench import backbones, judges

    backbone = backbones.load("miniature" if folder == backbones.MINIATURE else str(folder))
    theirs = {
        "clip": judges.load_clip(folder / "judges" / "clip"),
        "dino": judges.load_dino(folder / "judges" / "dino"),
    }

    def pictures(split: str, n: int) -> np.ndarray:
        return np.stack(
            [draw(who, setting, rng) for who, setting, _, rng in (data.describe_picture(i, split, 0) for i in range(n))]
        )

    held_out, training = pictures(SPLIT, 256), pictures("pretraining", 1024)
    error = 0.0
    for i in range(0, len(held_out), 32):
        x = vae.to_tensor(held_out[i : i + 32])
        y = backbone.vae.decode(backbone.vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error += float((y - x).square().mean()) * len(x) / len(held_out)
    # as many components as there are latent numbers for a 4 x 4 patch
    pca = pca_error(training, held_out, 4, vae.CONFIG["latent_channels"])
    drawn = drawn_quality(backbone, theirs)
    return {
        "autoencoder PSNR (dB)": psnr(error),
        "PCA of the same size PSNR (dB)": psnr(pca),
        **judged_quality(theirs),
        "untouched model, class named right by the CLIP judge": drawn["class"],
        "untouched model, place named right by the CLIP judge": drawn["place"],
    }


def write_card(folder: Path) -> None:
    """README.md in the weights' folder: what it is, how it was trained, what was measured."""
    figures = measure(folder)
    sizes = {p.parent.name: p.stat().st_size / 1e6 for p in sorted(folder.glob("**/*.safetensors"))}
    lines = [
        "# The miniature",
        "",
        "A small latent diffusion model of a drawn world, in diffusers' own format, and its two judges. It exists so that",
        "methods of continual personalization can be run, tested and compared on a laptop in minutes.",
        f"It draws {len(NOUNS)} class nouns ({', '.join(NOUNS)}; {', '.join(LIVE)} wear outfits) in {len(PLACES)} places, 64 x 64 pixels.",
        "Individuals of the benchmark sequences, and all that resemble them, were held out of pretraining.",
        "",
        f"Weights: {', '.join(f'{n} {s:.1f} MB' for n, s in sizes.items())} (float16 safetensors).",
        "",
        "## Measured on held-out individuals (`cpbench pretrain --card`)",
        "",
        "| what | value |",
        "|---|--:|",
        *(f"| {name} | {value:.3f} |" for name, value in figures.items()),
        "",
        f"The sequences' subjects: all {len(SUBJECTS)} of them, in {len(PLACES)} places each. A crowd: {PEOPLE} individuals of each class",
        f"noun in {len(SEEN_PLACES)} places each. 1-nearest-neighbour: all pictures in one gallery, the picture itself left out.",
        "AUC: same individual in another place over another individual of the class in the same place.",
        "The CLIP judge reads class and place among all pairs of them; it shares no weights with the generator's text encoder.",
        "",
        "## Training (`cpbench pretrain`)",
        "",
        "| part | steps | batch | peak rate | seed |",
        "|---|--:|--:|--:|--:|",
        *(f"| {r.name} | {r.steps} | {r.batch} | {r.lr:g} | {r.seed} |" for r in RECIPES.values()),
        "",
        "The DINO judge is an XCiT. The views of its loss are four drawings of one training individual in other poses,",
        "places and lights: much stronger supervision than real DINO's crops of one picture. Of the judges' training pictures",
        "that were also rebuilt by the autoencoder, half were shown rebuilt.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
