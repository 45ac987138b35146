"""The model card, docs/miniature.md: what the miniature and its judges can do, measured on what no training has seen."""

from __future__ import annotations

import json
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
from cpbench.files import prepare_folder, read_json, short_hash, write_atomically, write_json
from cpbench.judges import identity
from cpbench.judges import judge as judges
from cpbench.judges.local import load_clip, load_dino

from ..world import LIVE, NOUNS, SUBJECTS, Setting, render, seeded
from ..world.places import PLACES
from ..world.sheets import save, sheet
from . import classifier, clip, crosscheck, data, dino, exam, measures, mechanisms, unet, vae
from .stages import RECIPES, Workshop

Figures = dict[str, float]


@dataclass
class Subject:
    """What is measured: the weights' folder, the backbone and judges in it, and the training's work folder."""

    folder: Path
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

    from cpbench.backbones.sampling import Sampler, SampleRequest
    from cpbench.backbones.sampling import generate as sample

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


CHECKED_BY_WEIGHTS = (autoencoder, untouched_model, likeness, judges_quality, mechanisms_quality)


def measured_runs(subject: Subject, runs: Path) -> Figures:
    """From runs over dreambench10: what isolated learns, whether it follows prompts, what seqlora forgets."""
    figures: Figures = {}
    for record in sorted(runs.glob("dreambench10/miniature/*/*/order0-seed0/run.json")):
        facts = json.loads(record.read_text())
        if (
            facts["status"] != "finished"
            or facts["changed"]
            or facts["facts"]["backbone"] != subject.backbone.weights_hash
        ):
            continue
        if facts["facts"]["method"] == "isolated":
            figures["gap closed"] = facts["summary"]["dino"]["gap_closed"]
            clip_t = pd.read_csv(record.parent / "matrix-clip_t.csv", index_col=0)
            figures["prompts followed"] = float(clip_t.iloc[-1].mean() / clip_t.iloc[0].mean())
        elif facts["facts"]["method"] == "seqlora":
            figures["share lost"] = facts["summary"]["dino"]["share_lost"]
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


def measure(subject: Subject, runs: Path) -> Figures:
    """Every figure; those that depend on the weights alone are kept in the work folder until these change."""
    figures: Figures = {}
    for part in CHECKED_BY_WEIGHTS:
        facts = {"part": part.__name__, "weights": subject.backbone.weights_hash, **judges_identity(subject)}
        file = subject.work / "card" / f"{part.__name__}-{short_hash(facts)}.json"
        values = read_json(file)
        if values is None:
            subject.report(f"measuring: {part.__name__.replace('_', ' ')}")
            values = part(subject)
            write_json(file, values)
        figures |= values
    return figures | measured_runs(subject, runs) | cross_checked(subject, runs)


def judges_identity(subject: Subject) -> dict[str, str]:
    return {judge.name: judge.identity["weights_sha256"] for judge in (subject.clip, subject.dino)}


@dataclass(frozen=True)
class Row:
    """One line of the card: name, procedure, aim in words, the figures it needs, their format, the aim as a test."""

    name: str
    procedure: str
    aim: str
    needs: tuple[str, ...]
    format: str
    meets: Callable[..., bool] | None = None
    reason: str = ""  # for missing the aim


SHARE, DB = "{:.1%}", "{:.1f} dB"
CLEAN = ("1-nearest-neighbour", "AUC", "clip class", "clip place", "clip attribute")
SMALL_THINGS = (
    "outfits that cover the body are generated (chef, firefighter, police, wizard, shirt), those two latents wide are not: a santa "
    "hat becomes a red hat, glasses a hat's brim, monocle and scarf are missing"
)
MORE_STEPS = "it still rises with the number of steps; here there are 300, twice as many as in the methods' presets"
ROWS = (
    Row("autoencoder", "PSNR of 512 held-out pictures, and of a PCA with as many numbers per patch", "at least 28 dB, 2 dB over the PCA", ("psnr", "pca psnr"), f"{DB}, PCA {DB}", lambda a, b: a >= 28 and a >= b + 2),
    Row("base model, class", "recognised in its pictures by a classifier that was trained on drawings, independent of the judges", "95 %", ("class", "drawings class"), f"{SHARE} (drawings {SHARE})", lambda a, _: a >= 0.95),
    *(
        Row(f"base model, {aspect}", "the same, for what the prompt asks for", "90 %", (aspect, f"drawings {aspect}"), f"{SHARE} (drawings {SHARE})", lambda a, _: a >= 0.9, short)
        for aspect, short in (("place", ""), ("outfit", SMALL_THINGS), ("finish", ""))
    ),
    Row("base model, likeness", "KID, features of the DINO judge, of 1024 pictures of held-out captions to other held-out drawings, as a multiple of that of drawings to drawings", "reported", ("kid multiple", "kid", "kid drawings"), "{:.1f} ({:.1e} to {:.1e})"),
    Row("DINO judge, identity", f"1-nearest-neighbour accuracy in one gallery of all held-out individuals, in {len(exam.GALLERY_PLACES)} places", "97 %", ("1-nearest-neighbour",), SHARE, lambda a: a >= 0.97),
    Row("DINO judge, background", "AUC of \"same subject, other place\" over \"other subject of the class, same place\"", "0.95", ("AUC",), "{:.3f}", lambda a: a >= 0.95),
    Row("CLIP judge", "zero-shot class / place / attribute of held-out drawings", "97 / 95 / 90 %", ("clip class", "clip place", "clip attribute"), f"{SHARE} / {SHARE} / {SHARE}", lambda c, p, a: c >= 0.97 and p >= 0.95 and a >= 0.9, "a toy is any of seven types of thing, and dogs and cats in clothes or cubes are confused"),
    Row("judges, autoencoded", "the five figures above on the same pictures after the autoencoder", "within 3 points", tuple(f"{k} autoencoded" for k in CLEAN) + CLEAN, f"{SHARE}; {{:.3f}}; {SHARE} / {SHARE} / {SHARE}", lambda *v: max(abs(a - b) for a, b in zip(v[:5], v[5:], strict=True)) <= 0.03),
    Row("cross-check", "Spearman's correlation, over the cells of finished runs, of the DINO score with a second DINO judge's (other seed, other individuals)", "0.9", ("second", "cells"), "{:.3f} over {:.0f} cells", lambda a, _: a >= 0.9),
    Row("cross-check, ImageNet", "the same with an ImageNet network (efficientnet-lite0, pictures enlarged to 224)", "reported", ("imagenet",), "{:.3f}"),
    *(
        Row(f"mechanism: {name}", "share of the way from row 0 to the references in DINO; 10 held-out individuals, 3 seeds, one at a time", aim, tuple(mechanisms.MECHANISMS), f"{{{i}:.1%}}", met, MORE_STEPS)
        for i, (name, aim, met) in enumerate(
            (
                ("token only", "lowest, under 60 %", lambda t, kv, lora, full: t < 0.6 and t < min(kv, lora, full)),
                ("K, V of cross-attention and token", "60 %", lambda t, kv, lora, full: kv >= 0.6),
                ("LoRA on all attention", "80 %", lambda t, kv, lora, full: lora >= 0.8),
                ("full UNet", "LoRA less 5 points", lambda t, kv, lora, full: full >= lora - 0.05),
            )
        )
    ),
    Row("personalization", "isolated on dreambench10, seed 0: share of the way from row 0 to the real pictures in DINO", "80 %", ("gap closed",), SHARE, lambda a: a >= 0.8),
    Row("prompt following", "CLIP-T of isolated as a share of the untouched model's with the class noun", "90 %", ("prompts followed",), SHARE, lambda a: a >= 0.9),
    Row("forgetting", "seqlora on dreambench10, seed 0: share of its gain over row 0 that is lost at the end", "large, reported", ("share lost",), SHARE),
)  # fmt: skip


def table(figures: Figures) -> list[str]:
    """The card's table in Markdown; figures that are missing are said to be."""
    lines = ["| what | how | aim | measured | |", "|---|---|---|--:|---|"]
    for row in ROWS:
        if any(n not in figures for n in row.needs):
            lines.append(f"| {row.name} | {row.procedure} | {row.aim} | not measured | |")
            continue
        values = [figures[n] for n in row.needs]
        verdict = (
            ""
            if row.meets is None
            else "met"
            if row.meets(*values)
            else f"short{': ' + row.reason if row.reason else ''}"
        )
        lines.append(f"| {row.name} | {row.procedure} | {row.aim} | {row.format.format(*values)} | {verdict} |")
    return lines


def pictures(subject: Subject, folder: Path) -> None:
    """model.png: what the untouched model draws for some prompts; autoencoder.png: drawings, and rebuilt."""
    from cpbench.backbones.sampling import Sampler, SampleRequest
    from cpbench.backbones.sampling import generate as sample

    prompts = [q.prompt for q in exam.QUESTIONS[:: len(exam.QUESTIONS) // 47]][:48]
    generated = sample(subject.backbone, [SampleRequest(p, 0, "card", p, 0) for p in prompts], Sampler(batch_size=48))
    save(sheet(list(zip(prompts, generated, strict=True)), 8), folder / "model.png")
    people = [(n, render(w, Setting(), seeded("card", n))) for n, w in list(exam.held_out().items())[:24]]
    rebuilt = vae.rebuild(subject.backbone.vae, np.stack([p for _, p in people]), "cpu")
    pairs = [pair for (n, p), r in zip(people, rebuilt, strict=True) for pair in ((n, p), ("rebuilt", r))]
    save(sheet(pairs, 12), folder / "autoencoder.png")


def write_card(folder: Path, work: Path, page: Path, runs: Path, report: Callable[[str], None] = print) -> None:
    """Measure, and write the page, its pictures in a folder of its name beside it, and the README.md of the weights."""
    backbone = loading.load("miniature" if folder == backbones.MINIATURE else str(folder))
    clip_judge, dino_judge = (f(folder / "judges" / n) for f, n in ((load_clip, "clip"), (load_dino, "dino")))
    subject = Subject(folder, backbone, clip_judge, dino_judge, work, report)
    figures = measure(subject, runs)
    beside = page.with_suffix("")
    prepare_folder(beside)
    pictures(subject, beside)
    text = "\n".join(lines(subject, figures, beside.name)) + "\n"
    write_atomically(page, text.encode())
    alone = re.sub(r"!\[.*\n\n", "", text).replace("[a drawn world](world.md)", "a drawn world")
    write_atomically(folder / "README.md", alone.encode())  # goes with the weights, without pictures
    report(f"wrote {page}")


def unet_gflop(backbone: backbones.Backbone) -> float:
    """Billions of floating-point operations (a multiplication and an addition are two) for one latent."""
    words = backbone.encode_prompts(["a dog"])
    latent = torch.zeros(1, *backbone.latent_shape, dtype=words.dtype, device=words.device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.predict(latent, torch.zeros(1, dtype=torch.long, device=words.device), words)
    return counter.get_total_flops() / 1e9


def lines(subject: Subject, figures: Figures, beside: str) -> list[str]:
    sizes = {f.parent.name: f.stat().st_size / 1e6 for f in sorted(subject.folder.glob("**/*.safetensors"))}
    return [
        "# The miniature",
        "",
        "A small latent diffusion model of [a drawn world](world.md), in diffusers' own format, and its two judges. It exists",
        "so that methods of continual personalization can be run, tested and compared on a laptop in minutes.",
        "",
        f"It generates {len(NOUNS)} class nouns ({', '.join(NOUNS)}) in {len(PLACES)} places, 64 x 64 pixels; {' and '.join(f'{n}s' for n in LIVE)} wear",
        f"{len(exam.ASPECTS['outfit'])} outfits, and anything can be {', '.join(exam.ASPECTS['finish'])}. The subjects of all sequences, "
        f"{len(SUBJECTS)} of them, and all",
        "that look like them were held out of its training and its judges'.",
        "",
        f"Weights, float16: {', '.join(f'{n} {s:.1f} MB' for n, s in sizes.items())}; {sum(sizes.values()):.1f} MB in all. An",
        f"evaluation of the UNet for one picture is {unet_gflop(subject.backbone):.2f} GFLOP; a picture of the world takes a few milliseconds to render",
        "(`python benchmarks/world.py`).",
        "",
        "![Pictures by the untouched model](" + beside + "/model.png)",
        "",
        "## Measured",
        "",
        "On individuals and pictures that no training has seen. Made by",
        "",
        "```console",
        "cpbench pretrain checks && make bench && cpbench pretrain --card",
        "```",
        "",
        *table(figures),
        "",
        "This table tests what the harness stands on: where the model or a judge is weak, scores of methods on the miniature say",
        f"little. {identity.caveat({'weights_sha256': weights} for weights in identity.OF_THE_MINIATURE)}",
        "",
        "![Drawings of held-out subjects and the same after the autoencoder](" + beside + "/autoencoder.png)",
        "",
        "## Training",
        "",
        "```console",
        "cpbench pretrain --all",
        "```",
        "",
        "| part | what | steps | batch | peak rate | seed |",
        "|---|---|--:|--:|--:|--:|",
        *(f"| {r.name} | {WHAT[r.name]} | {r.steps} | {r.batch} | {r.lr:g} | {r.seed} |" for r in RECIPES.values()),
        "",
        "The weights that ship were trained in 8.8 hours on one core with one thread, rendering included, next to another job. There",
        "was no GPU, so the time on a GPU is not known.",
        "",
        f"The denoiser is a UNet of {sum(p.numel() for p in subject.backbone.denoiser.parameters()) / 1e6:.1f} million weights with cross-attention at every level,",
        f"min-SNR weights (gamma {unet.MIN_SNR_GAMMA:g}) and one caption in {1 / unet.DROP_CAPTION:.0f} dropped. The CLIP judge is {'a ResNet' if isinstance(clip.judge_config(2)['vision_cfg']['layers'], list) else 'a ViT'} of CLIP's",
        "kind; it shares neither weights nor seed with the generator's text encoder. The DINO judge is an XCiT. The views of its",
        f"loss are {dino.VIEWS} drawings of one training individual in different poses, places and lights: much stronger supervision than",
        "real DINO's crops of one picture. Every second training picture of the judges passed through the autoencoder.",
    ]


WHAT = {
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
