"""After equal times of training, does the transformer draw what is asked for as the UNet does? Asked before the long training.

    python -m cpbench.miniature.pretrain.flow_race --work .train

Each denoiser is trained anew, by its own recipe shortened to so many steps, twenty minutes of one core where a step of the
UNet takes twice as long. A classifier (`cpbench pretrain checks` trains it) reads what 256 pictures show, in ten steps.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cpbench.backbones import loading
from cpbench.backbones.hub import MINIATURE
from cpbench.backbones.sampling import Sampler
from cpbench.files import read_json, write_json
from cpbench.numbers import number

from .. import flow_folder
from . import assemble, classifier, exam, flow, unet
from .stages import Workshop

STEPS = {"unet": 460, "flow": 960}
STRIDE = 2  # of the exam's questions: 256 of them are asked
ASPECTS = ("class", "place", "finish")


def shortened(recipe: Any, name: str, steps: int) -> Any:
    """The recipe with so many steps; its warm-up is a tenth of them at most."""
    return replace(recipe, name=name, steps=steps, warmup=min(recipe.warmup, steps // 10))


def trained(denoiser: str, inputs: tuple, work: Path, folder: Path, report=print) -> None:
    """Write a pipeline with the denoiser of this name to `folder`."""
    text_encoder, tokenizer, latents, scaling, captions = inputs
    steps, place = STEPS[denoiser], work / "race"
    if denoiser == "flow":
        recipe = shortened(flow.STAGES[0], "race-flow", steps)
        model = flow.train_stage(
            recipe, None, text_encoder, tokenizer, latents, scaling, captions, place, "cpu", report
        )
        with tempfile.TemporaryDirectory() as weights:
            flow.save(model, Path(weights), 1)
            flow_folder.write(MINIATURE, Path(weights), folder)
        return
    share = unet.LAST.steps / (unet.FIRST.steps + unet.LAST.steps)
    last = round(share * steps)
    recipes = (shortened(unet.FIRST, "race-unet", steps - last), shortened(unet.LAST, "race-unet-last", last))
    model = unet.train_unet(text_encoder, tokenizer, latents, scaling, captions, place, "cpu", report, recipes)
    from diffusers import AutoencoderKL

    autoencoder = AutoencoderKL.from_pretrained(MINIATURE / "vae")
    assemble.save_pipeline(folder, autoencoder, model, text_encoder, MINIATURE / "tokenizer", scaling)


def named_right(denoiser: str, work: Path, report=print) -> dict[str, float]:
    """By aspect, the share of pictures that show what they were asked for; remembered in `work`."""
    file = work / "race" / f"{denoiser}.json"
    if (remembered := read_json(file)) is not None:
        return remembered
    reader = Workshop(work, "cpu", report).classifier()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pipeline"
        trained(denoiser, flow.materials(work, MINIATURE, "cpu", report), work, folder, report)
        backbone = loading.load(str(folder))
        sampler = Sampler(10, 4.0, batch_size=48)
        questions, pictures = exam.answered_by_the_model(backbone, 1, sampler=sampler, stride=STRIDE)
        answers = classifier.read(reader, pictures[:256], questions[:256])
    shares = {aspect: answers[aspect] for aspect in ASPECTS}
    write_json(file, shares)
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".train"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for denoiser in STEPS:
        shares = named_right(denoiser, arguments.work)
        print(f"{denoiser}: " + ", ".join(f"{aspect} {number(share)}" for aspect, share in shares.items()), flush=True)


if __name__ == "__main__":
    main()
