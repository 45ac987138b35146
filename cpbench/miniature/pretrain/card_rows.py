"""The rows of the model card's table: what is measured, how, the aim, and a column for each miniature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cpbench.miniature import NAME

from . import exam, mechanisms

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One line of the card: name, procedure, aim in words, the figures it needs, their format, the aim as a test.

    reasons: for missing the aim, by model. is_shared: the parts that it measures are the same in both models.
    """

    name: str
    procedure: str
    aim: str
    needs: tuple[str, ...]
    format: str
    meets: Callable[..., bool] | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    is_shared: bool = False


SHARE, DB = "{:.1%}", "{:.1f} dB"
CLEAN = ("1-nearest-neighbour", "AUC", "clip class", "clip place", "clip attribute")
SMALL_THINGS = (
    "outfits that cover the body are generated (chef, firefighter, police, wizard, shirt), those two latents wide are not: a santa "
    "hat becomes a red hat, glasses a hat's brim, monocle and scarf are missing"
)
MORE_STEPS = "it still rises with the number of steps; here there are 300, twice as many as in the methods' presets"
ROWS = (
    Row("autoencoder", "PSNR of 512 held-out pictures, and of a PCA with as many numbers per patch", "at least 28 dB, 2 dB over the PCA", ("psnr", "pca psnr"), f"{DB}, PCA {DB}", lambda a, b: a >= 28 and a >= b + 2, is_shared=True),
    Row("base model, class", "recognised in its pictures by a classifier that was trained on drawings, independent of the judges", "95 %", ("class", "drawings class"), f"{SHARE} (drawings {SHARE})", lambda a, _: a >= 0.95),
    *(
        Row(f"base model, {aspect}", "the same, for what the prompt asks for", "90 %", (aspect, f"drawings {aspect}"), f"{SHARE} (drawings {SHARE})", lambda a, _: a >= 0.9, {NAME: short})
        for aspect, short in (("place", ""), ("outfit", SMALL_THINGS), ("finish", ""))
    ),
    Row("base model, likeness", "KID, features of the DINO judge, of 1024 pictures of held-out captions to other held-out drawings, as a multiple of that of drawings to drawings", "reported", ("kid multiple", "kid", "kid drawings"), "{:.1f} ({:.1e} to {:.1e})"),
    Row("DINO judge, identity", f"1-nearest-neighbour accuracy in one gallery of all held-out individuals, in {len(exam.GALLERY_PLACES)} places", "97 %", ("1-nearest-neighbour",), SHARE, lambda a: a >= 0.97, is_shared=True),
    Row("DINO judge, background", "AUC of \"same subject, other place\" over \"other subject of the class, same place\"", "0.95", ("AUC",), "{:.3f}", lambda a: a >= 0.95, is_shared=True),
    Row("CLIP judge", "zero-shot class / place / attribute of held-out drawings", "97 / 95 / 90 %", ("clip class", "clip place", "clip attribute"), f"{SHARE} / {SHARE} / {SHARE}", lambda c, p, a: c >= 0.97 and p >= 0.95 and a >= 0.9, {NAME: "a toy is any of seven types of thing, and dogs and cats in clothes or cubes are confused"}, is_shared=True),
    Row("judges, autoencoded", "the five figures above on the same pictures after the autoencoder", "within 3 points", tuple(f"{k} autoencoded" for k in CLEAN) + CLEAN, f"{SHARE}; {{:.3f}}; {SHARE} / {SHARE} / {SHARE}", lambda *v: max(abs(a - b) for a, b in zip(v[:5], v[5:], strict=True)) <= 0.03, is_shared=True),
    Row("cross-check", "Spearman's correlation, over the cells of finished runs, of the DINO score with a second DINO judge's (other seed, other individuals)", "0.9", ("second", "cells"), "{:.3f} over {:.0f} cells", lambda a, _: a >= 0.9, is_shared=True),
    Row("cross-check, ImageNet", "the same with an ImageNet network (efficientnet-lite0, pictures enlarged to 224)", "reported", ("imagenet",), "{:.3f}", is_shared=True),
    *(
        Row(f"mechanism: {name}", "share of the way from row 0 to the references in DINO; 10 held-out individuals, 3 seeds, one at a time", aim, tuple(mechanisms.MECHANISMS), f"{{{i}:.1%}}", met, {NAME: MORE_STEPS})
        for i, (name, aim, met) in enumerate(
            (
                ("token only", "lowest, under 60 %", lambda t, kv, lora, full: t < 0.6 and t < min(kv, lora, full)),
                ("K, V of cross-attention and token", "60 %", lambda t, kv, lora, full: kv >= 0.6),
                ("LoRA on all attention", "80 %", lambda t, kv, lora, full: lora >= 0.8),
                ("all weights", "LoRA less 5 points", lambda t, kv, lora, full: full >= lora - 0.05),
            )
        )
    ),
    Row("personalization", "isolated on dreambench10, seed 0: share of the way from row 0 to the real pictures in DINO", "80 %", ("gap closed",), SHARE, lambda a: a >= 0.8),
    Row("prompt following", "CLIP-T of isolated as a share of the untouched model's with the class noun", "90 %", ("prompts followed",), SHARE, lambda a: a >= 0.9),
    Row("forgetting", "seqlora on dreambench10, seed 0: share of its gain over row 0 that is lost at the end", "large, reported", ("share lost",), SHARE),
)  # fmt: skip


def table(figures: Mapping[str, Figures]) -> list[str]:
    """The card's table in Markdown, of each model's figures; those that are missing are said to be."""
    heads = [f" {name} | |" for name in figures]
    lines = ["| what | how | aim |" + "".join(heads), "|---|---|---|" + "--:|---|" * len(heads)]
    for row in ROWS:
        line = f"| {row.name} | {row.procedure} | {row.aim} |"
        for name, values in figures.items():
            if row.is_shared and name != NAME:
                line += f" as {NAME} | |"
            elif any(n not in values for n in row.needs):
                line += " not measured | |"
            else:
                line += f" {row.format.format(*(values[n] for n in row.needs))} | {verdict(row, name, values)} |"
        lines.append(line)
    return lines


def verdict(row: Row, name: str, values: Figures) -> str:
    """Whether the aim is met: "met", "short" with the reason if one is known, or nothing where there is no aim."""
    if row.meets is None:
        return ""
    if row.meets(*(values[n] for n in row.needs)):
        return "met"
    return f"short: {row.reasons[name]}" if row.reasons.get(name) else "short"
