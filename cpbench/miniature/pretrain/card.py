"""The model card, docs/miniature.md: what the miniatures and their judges can do, measured on what no training has seen."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from cpbench.backbones import backbone as backbones
from cpbench.backbones import loading
from cpbench.backbones.hub import MINIATURE
from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.backbones.sampling import generate as sample
from cpbench.files import prepare_folder, read_json, write_atomically, write_json
from cpbench.judges import identity
from cpbench.judges import judge as judges
from cpbench.judges.local import load_clip, load_dino
from cpbench.miniature import EMBEDDED, FLOW, NAME, flow_folder
from cpbench.records.reading import finished_runs

from ..world import LIVE, NOUNS, SUBJECTS, Setting, render, seeded
from ..world.places import PLACES
from ..world.sheets import save, sheet
from . import classifier, clip, crosscheck, data, dino, exam, flow, measures, mechanisms, unet, vae
from .card_rows import SHARE, Figures, table
from .stages import RECIPES, Workshop

FIGURES = "figures.json"  # beside the card's pictures: what was measured, and of which weights


@dataclass
class Subject:
    """What is measured: an embedded backbone and the judges, and the training's work folder."""

    name: str
    backbone: backbones.Backbone
    clip: judges.Judge
    dino: judges.Judge
    work: Path
    report: Callable[[str], None]

    @property
    def shop(self) -> Workshop:
        return Workshop(self.work, "cpu", self.report)


def autoencoder(subject: Subject) -> Figures:
    """Held-out pictures after the autoencoder, and after a PCA with as many numbers for every 4 x 4 pixels."""
    held_out = data.load(subject.work, 512, exam.SPLIT, report=subject.report).images
    training = data.load(subject.work, 2048, "pca", report=subject.report).images
    rebuilt = vae.rebuild(subject.backbone.vae, held_out, "cpu")
    error = float(((rebuilt.astype(np.float32) - held_out) / 127.5).__pow__(2).mean())
    pca = measures.pca_error(np.array(training), np.array(held_out), 4, vae.CONFIG["latent_channels"])
    return {"psnr": measures.psnr(error), "pca psnr": measures.psnr(pca)}


def untouched_model(subject: Subject) -> Figures:
    """What the classifier reads in the model's answers to every question, and in the world's own."""
    reader = subject.shop.classifier()
    questions, pictures = exam.answered_by_the_world(2)
    figures = {f"drawings {k}": v for k, v in classifier.read(reader, pictures, questions).items()}
    questions, pictures = exam.answered_by_the_model(subject.backbone, 2)
    return figures | classifier.read(reader, pictures, questions)


def likeness(subject: Subject) -> Figures:
    """KID (Binkowski et al. 2018) by torchmetrics, on features of the DINO judge, of 1024 pictures of held-out captions."""
    from torchmetrics.image.kid import KernelInceptionDistance

    class Features(torch.nn.Module):
        num_features = dino.MODEL_ARGS["num_classes"]

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(subject.dino.images(pictures.permute(0, 2, 3, 1).byte().numpy()))

    n = 1024
    both = data.load(subject.work, 2 * n, exam.SPLIT, report=subject.report)
    requests = [SampleRequest(c, 0, "likeness", c, k) for k, c in enumerate(both.captions[:n])]
    model = sample(subject.backbone, requests, Sampler(batch_size=48))

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        kid = KernelInceptionDistance(feature=Features(), subsets=50, subset_size=500)
        for pictures, real in ((a, True), (b, False)):
            kid.update(torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2), real=real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return float(kid.compute()[0])

    figures = {"kid": distance(both.images[n:], model), "kid drawings": distance(both.images[n:], both.images[:n])}
    return figures | {"kid multiple": figures["kid"] / figures["kid drawings"]}


def judges_quality(subject: Subject) -> Figures:
    """Each judge on clean pictures of everyone held out, and on the same pictures after the autoencoder."""
    people = exam.gallery(exam.held_out())
    questions, renderings = exam.answered_by_the_world(4)
    texts = subject.clip.texts([f"a photo of {q.prompt}" for q in exam.QUESTIONS])
    figures: Figures = {}
    for suffix in ("", " autoencoded"):
        pictures = [vae.rebuild(subject.backbone.vae, p, "cpu") if suffix else p for p in (people.pictures, renderings)]
        vectors = subject.dino.images(pictures[0])
        figures[f"1-nearest-neighbour{suffix}"] = measures.nearest_neighbour(vectors, people.individual)
        figures[f"AUC{suffix}"] = measures.identity_auc(vectors, people.noun, people.individual, people.place)
        vectors = subject.clip.images(pictures[1])
        right = {
            a: measures.zero_shot(vectors, texts, exam.labels(exam.QUESTIONS, a), exam.labels(questions, a))
            for a in exam.ASPECTS
        }
        figures |= {f"clip {a}{suffix}": v for a, v in right.items()}
        counts = {a: int((exam.labels(questions, a) >= 0).sum()) for a in ("outfit", "finish")}
        figures[f"clip attribute{suffix}"] = sum(right[a] * n for a, n in counts.items()) / sum(counts.values())
    return figures


def mechanisms_quality(subject: Subject) -> Figures:
    return mechanisms.measure(subject.backbone, subject.dino, subject.work, subject.report)


def samplers(subject: Subject) -> Figures:
    """What the classifier reads in the untouched model's pictures, one of every fourth question, by steps and guidance."""
    reader = subject.shop.classifier()
    figures: Figures = {}
    for steps, guidance in SAMPLERS:
        sampler = Sampler(steps, guidance, batch_size=48)
        questions, answers = exam.answered_by_the_model(subject.backbone, 1, sampler=sampler, stride=4)
        named = classifier.read(reader, answers, questions)
        figures |= {f"{aspect} {steps} {guidance:g}": share for aspect, share in named.items()}
    return figures


SAMPLERS = tuple(itertools.product((5, 10, 20), (2.0, 4.0, 6.0)))
BY_WEIGHTS = {
    NAME: (autoencoder, untouched_model, likeness, judges_quality, mechanisms_quality),
    FLOW: (untouched_model, samplers, likeness, mechanisms_quality),
}


def measured_runs(subject: Subject, runs: Path) -> Figures:
    """From runs over dreambench10: what isolated learns, whether it follows prompts, what seqlora forgets."""
    figures: Figures = {}
    for folder, record in finished_runs(runs / "dreambench10" / subject.name):
        is_usual = not record.changed and (record.config.seed, record.config.order) == (0, 0)
        if not is_usual or record.facts.backbone != subject.backbone.weights_hash:
            continue
        by_dino = record.figures["dino"]
        if record.facts.method == "isolated":
            figures["gap closed"] = by_dino["gap_closed"]
            clip_t = pd.read_csv(folder / "matrix-clip_t.csv", index_col=0)
            figures["prompts followed"] = float(clip_t.iloc[-1].mean() / clip_t.iloc[0].mean())
        elif record.facts.method == "seqlora":
            figures["share lost"] = by_dino["share_lost"]
    return figures


def cross_checked(subject: Subject, runs: Path) -> Figures:
    """Rank correlation of the DINO score with other judges', over all cells of all finished runs."""
    cells = crosscheck.cells(runs)
    if not cells:
        return {}
    dino_scores = crosscheck.scores(subject.dino, cells)
    second = crosscheck.second_judge(subject.shop.second_judge(), clip.MEAN, clip.STD)
    figures = {
        "cells": float(len(cells)),
        "second": crosscheck.rank_correlation(dino_scores, crosscheck.scores(second, cells)),
    }
    if (imagenet := crosscheck.imagenet_judge()) is not None:
        figures["imagenet"] = crosscheck.rank_correlation(dino_scores, crosscheck.scores(imagenet, cells))
    return figures


BY_RUNS = {NAME: (measured_runs, cross_checked), FLOW: (measured_runs,)}


def measure(subject: Subject, runs: Path, file: Path) -> Figures:
    """Every figure. `file` keeps those of each model by part, with its weights' hashes: a part is written when it is measured, and
    measured again when the weights are others.
    """
    record, weights = read_json(file) or {}, weights_of(subject)
    if record.get(subject.name, {}).get("weights") != weights:
        record[subject.name] = {"weights": weights, "parts": {}}
    parts = record[subject.name]["parts"]
    for part in BY_WEIGHTS[subject.name]:
        if part.__name__ not in parts:
            subject.report(f"measuring {subject.name}: {part.__name__.replace('_', ' ')}")
            parts[part.__name__] = part(subject)
            write_json(file, record)
    for part in BY_RUNS[subject.name]:
        if figures := part(subject, runs):  # else the runs are not here, and those of before stand
            parts[part.__name__] = figures
    write_json(file, record)
    return {name: figure for figures in parts.values() for name, figure in figures.items()}


def weights_of(subject: Subject) -> dict[str, str]:
    """What a figure depends on: hashes of the backbone's weights and of the judges'."""
    judged = {judge.name: judge.identity["weights_sha256"] for judge in (subject.clip, subject.dino)}
    return {"backbone": subject.backbone.weights_hash, **judged}


def pictures(subject: Subject, folder: Path) -> None:
    """NAME.png: what the untouched model draws for some prompts; autoencoder.png: drawings, and rebuilt."""
    prompts = [q.prompt for q in exam.QUESTIONS[:: len(exam.QUESTIONS) // 47]][:48]
    generated = sample(subject.backbone, [SampleRequest(p, 0, "card", p, 0) for p in prompts], Sampler(batch_size=48))
    save(sheet(list(zip(prompts, generated, strict=True)), 8), folder / f"{subject.name}.png")
    people = [(n, render(w, Setting(), seeded("card", n))) for n, w in list(exam.held_out().items())[:24]]
    rebuilt = vae.rebuild(subject.backbone.vae, np.stack([p for _, p in people]), "cpu")
    pairs = [pair for (n, p), r in zip(people, rebuilt, strict=True) for pair in ((n, p), ("rebuilt", r))]
    save(sheet(pairs, 12), folder / "autoencoder.png")


def write_card(work: Path, page: Path, runs: Path, report: Callable[[str], None] = print) -> None:
    """Measure, and write the page, its pictures and figures in a folder of its name beside it, and the weights' README.md.

    Figures of weights that have not changed since are taken from there: to measure all of them takes hours.
    """
    beside = page.with_suffix("")
    prepare_folder(beside)
    clip_judge, dino_judge = (f(MINIATURE / "judges" / n) for f, n in ((load_clip, "clip"), (load_dino, "dino")))
    subjects = {name: Subject(name, loading.load(name), clip_judge, dino_judge, work, report) for name in EMBEDDED}
    figures = {}
    for name, subject in subjects.items():
        figures[name] = measure(subject, runs, beside / FIGURES)
        pictures(subject, beside)
    text = "\n".join(lines(subjects, figures, beside.name)) + "\n"
    write_atomically(page, text.encode())
    alone = re.sub(r"!\[.*\n\n", "", text).replace("[a drawn world](world.md)", "a drawn world")
    write_atomically(MINIATURE / "README.md", alone.encode())  # goes with the weights, without pictures
    report(f"wrote {page}")


def gflop(backbone: backbones.Backbone) -> float:
    """Billions of floating-point operations (a multiplication and an addition are two) for one latent."""
    words = backbone.encode_prompts(["a dog"])
    latent = torch.zeros(1, *backbone.latent_shape, dtype=words.dtype, device=words.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.predict(latent, backbone.process.evenly(1).to(words.device), words)
    return counter.get_total_flops() / 1e9


def lines(subjects: dict[str, Subject], figures: dict[str, Figures], beside: str) -> list[str]:
    sizes = {f.parent.name: f.stat().st_size / 1e6 for f in sorted(MINIATURE.glob("**/*.safetensors"))}
    first, second = (subjects[name].backbone for name in EMBEDDED)
    weights = {
        name: sum(p.numel() for p in b.denoiser.parameters()) / 1e6
        for name, b in zip(EMBEDDED, (first, second), strict=True)
    }
    return [
        "# The miniatures",
        "",
        "Two small latent models of [a drawn world](world.md), in diffusers' own formats, and their two judges. They exist so that",
        "methods of continual personalization can be run, tested and compared on a laptop in minutes. `miniature` is a diffusion",
        "model with a UNet, in Stable Diffusion's format; `miniature-flow` has the same autoencoder, text encoder and judges, and in",
        "the UNet's place a transformer with flow matching, in Stable Diffusion 3's.",
        "",
        *unfinished(flow.stage_of(MINIATURE / "transformer")),
        f"They generate {len(NOUNS)} class nouns ({', '.join(NOUNS)}) in {len(PLACES)} places, 64 x 64 pixels; {' and '.join(f'{n}s' for n in LIVE)} wear",
        f"{len(exam.ASPECTS['outfit'])} outfits, and anything can be {', '.join(exam.ASPECTS['finish'])}. The subjects of all sequences, "
        f"{len(SUBJECTS)} of them, and all",
        "that look like them were held out of their training and the judges'.",
        "",
        f"Weights, float16: {', '.join(f'{n} {s:.1f} MB' for n, s in sizes.items())}; {sum(sizes.values()):.1f} MB in all. An",
        f"evaluation for one picture is {gflop(first):.2f} GFLOP by the UNet, {gflop(second):.2f} by the transformer; a picture of the world takes a few",
        "milliseconds to render (`python benchmarks/world.py`).",
        "",
        *(line for name in EMBEDDED for line in (f"![Pictures by the untouched {name}]({beside}/{name}.png)", "")),
        "## Measured",
        "",
        "On individuals and pictures that no training has seen. Made by",
        "",
        "```console",
        f"cpbench pretrain checks && make bench BACKBONES={','.join(EMBEDDED)} && cpbench pretrain --card",
        "```",
        "",
        *table(figures),
        "",
        "This table tests what the harness stands on: where a model or a judge is weak, scores of methods on the miniatures say",
        f"little. {identity.caveat({'weights_sha256': weights} for weights in identity.OF_THE_MINIATURE)}",
        "",
        "![Drawings of held-out subjects and the same after the autoencoder](" + beside + "/autoencoder.png)",
        "",
        "### Steps and guidance",
        "",
        "Class, place, outfit and finish named right in `miniature-flow`'s pictures, one of every fourth question, by the number of the",
        "solver's steps and the guidance. The sequences' own are those of `miniature`: 10 steps, guidance 4.",
        "",
        *by_sampler(figures[FLOW]),
        "",
        "## The second miniature with plain diffusers",
        "",
        "`cpbench export-miniature flow FOLDER` writes its folder, which diffusers loads. Its prompts have no tokens of T5, so that the",
        "pipeline must be told to put none in their place: with its own default it would attend to 256 tokens of zeros, which it has",
        "never seen.",
        "",
        "```python",
        "from diffusers import StableDiffusion3Pipeline",
        "",
        'pipe = StableDiffusion3Pipeline.from_pretrained("FOLDER", text_encoder_3=None, tokenizer_3=None)',
        'pipe("a dog in the snow", num_inference_steps=10, guidance_scale=4.0, max_sequence_length=0).images[0].save("dog.png")',
        "```",
        "",
        "## Training",
        "",
        "```console",
        "cpbench pretrain --all && cpbench pretrain flow",
        "```",
        "",
        "| part | what | steps | batch | peak rate | seed |",
        "|---|---|--:|--:|--:|--:|",
        *(
            f"| {r.name} | {WHAT.get(r.name, MORE_STAGES)} | {r.steps} | {r.batch} | {r.lr:g} | {r.seed} |"
            for r in (*RECIPES.values(), *flow.STAGES)
        ),
        "",
        "The weights that ship were trained in 8.8 hours on one core with one thread, rendering included, next to another job. There",
        "was no GPU, so the time on a GPU is not known.",
        "",
        f"The first denoiser is a UNet of {weights[NAME]:.1f} million weights with cross-attention at every level,",
        f"min-SNR weights (gamma {unet.MIN_SNR_GAMMA:g}) and one caption in {1 / unet.DROP_CAPTION:.0f} dropped. The CLIP judge is {'a ResNet' if isinstance(clip.judge_config(2)['vision_cfg']['layers'], list) else 'a ViT'} of CLIP's",
        "kind; it shares neither weights nor seed with the generator's text encoder. The DINO judge is an XCiT. The views of its",
        f"loss are {dino.VIEWS} drawings of one training individual in different poses, places and lights: much stronger supervision than",
        "real DINO's crops of one picture. Every second training picture of the judges passed through the autoencoder.",
        "",
        f"The second is an MMDiT (Esser et al. 2024) of {weights[FLOW]:.1f} million weights: {flow.CONFIG['num_layers']} blocks of width {flow.CONFIG['caption_projection_dim']}, patches of {flow.CONFIG['patch_size']} x {flow.CONFIG['patch_size']} latents. Times are",
        f"logit-normal with shift {flow_folder.SCHEDULER['shift']:g}, in pretraining and in learning; one caption in {1 / unet.DROP_CAPTION:.0f} was dropped. Each of its stages began with the",
        "averaged weights of the one before, in half precision, with fresh moments.",
    ]


def unfinished(stage: int) -> list[str]:
    """What is to be known of a transformer whose training has not ended."""
    stages = len(flow.STAGES)
    return (
        [
            f"**The transformer here has gone through {stage} of {stages} stages of its training: scores on it are no results yet.**",
            "",
        ]
        if stage < stages
        else []
    )


def by_sampler(figures: Figures) -> list[str]:
    """A table of `samplers`, one line for each number of steps and guidance."""
    rows = ["| steps | guidance | class | place | outfit | finish |", "|--:|--:|--:|--:|--:|--:|"]
    for steps, guidance in SAMPLERS:
        shares = [figures.get(f"{aspect} {steps} {guidance:g}") for aspect in exam.ASPECTS]
        cells = ["not measured" if share is None else SHARE.format(share) for share in shares]
        rows.append(f"| {steps} | {guidance:g} | {' | '.join(cells)} |")
    return rows


MORE_STAGES = "the transformer, continued"
WHAT = {
    "flow-1": "the second miniature's transformer",
    "vae": "autoencoder, both halves",
    "vae-decoder": "its decoder, continued",
    "clip-text": "the generator's text encoder, as half of a CLIP",
    "clip-judge": "CLIP judge",
    "unet": "denoiser, with Stable Diffusion's noise schedule",
    "unet-last": "the denoiser, continued, with its own noise schedule",
    "dino": "DINO judge",
    "dino-last": "the DINO judge, continued",
    "dino-second": "second DINO judge, a check, not shipped",
    "classifier": "classifier for the table above, not shipped",
}
