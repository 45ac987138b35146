"""The stages of pretraining, in the order of their dependencies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from . import assemble, classifier, clip, data, dino, flow, loop, unet, vae
from .tokenizer import save_tokenizer

PICTURES = 98_304
SECOND_PICTURES = 49_152  # for the second judge
PARTS = ("vae", "clip", "unet", "dino", "checks")
FLOW = "flow"  # not one of PARTS: it stands on the finished first miniature


class Workshop:
    """The work folder and the results of the stages in it. A stage is resumed, or returns at once if it is finished."""

    def __init__(self, work: Path, device: str, report=print):
        from transformers import CLIPTokenizer

        self.work, self.device, self.report = work, device, report
        save_tokenizer(work / "tokenizer")
        self.tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
        self.pictures = data.load(work, PICTURES, report=report)

    def autoencoder(self, finished: bool = False):
        """The autoencoder after its first stage, or with its decoder `finished` (latents are the same)."""
        model = vae.train_vae(self.pictures, self.work, self.device, self.report).eval()
        return (
            vae.train_decoder(model, self.pictures, self.work, self.device, self.report).eval() if finished else model
        )

    def half_rebuilt(self, pictures: data.Pictures, name: str) -> data.Pictures:
        """The training pictures of judges: every second one has passed through the finished autoencoder."""
        file = self.work / f"{name}.npy"
        if not file.exists():
            images, model = np.array(pictures.images), self.autoencoder(finished=True)
            for i in range(0, len(images), 512):
                images[i : i + 512 : 2] = vae.rebuild(model, images[i : i + 512 : 2], self.device)
                if i % 8192 == 0:
                    self.report(f"passed {i} of {len(images)} pictures through the autoencoder")
            loop.save_array(images, file)
        return replace(pictures, images=np.load(file, mmap_mode="r"))

    def for_judges(self) -> data.Pictures:
        return self.half_rebuilt(self.pictures, "for-judges")

    def text_encoder(self):
        return clip.train_text_encoder(
            self.tokenizer, self.pictures, self.work, self.device, self.report
        ).text_model.eval()

    def latents(self) -> tuple[np.ndarray, np.ndarray, float]:
        """(means, standard deviations, scaling factor) of all pictures' latents."""
        mean, std = vae.latents(self.autoencoder(), self.pictures, self.work, self.device, self.report)
        m, s = mean[:4096].astype(np.float32), std[:4096].astype(np.float32)
        return mean, std, float(1 / np.sqrt(m.var() + (s**2).mean()))

    def denoiser(self):
        *latents, scaling = self.latents()
        words, captions = self.text_encoder(), self.pictures.captions
        return unet.train_unet(words, self.tokenizer, latents, scaling, captions, self.work, self.device, self.report)

    def clip_judge(self):
        return clip.train_judge(self.tokenizer, self.for_judges(), self.work, self.device, self.report)

    def dino_judge(self):
        return dino.train_dino(self.for_judges(), self.work, self.device, self.report)

    def second_judge(self):
        """A DINO judge with another seed, trained on other individuals: a check of the first, not shipped."""
        other_pictures = data.load(self.work, SECOND_PICTURES, "second", report=self.report)
        pictures = self.half_rebuilt(other_pictures, "for-second-judge")
        return dino.train_dino(pictures, self.work, self.device, self.report, recipes=(dino.SECOND,))

    def classifier(self):
        """The classifier of the untouched model's pictures, for the card: not shipped."""
        return classifier.train_classifier(self.pictures, self.work, self.device, self.report)


def pretrain(parts: tuple[str, ...], work: Path, output: Path, device: str, report=print) -> None:
    """Train these parts, in the order of PARTS, then assemble the complete models in `output`."""
    shop = Workshop(work, device, report)
    if "vae" in parts:
        shop.autoencoder(finished=True)
    if "clip" in parts:
        shop.text_encoder()
        shop.clip_judge()
    if "dino" in parts:
        shop.dino_judge()
    if "unet" in parts:
        shop.denoiser()
    if "checks" in parts:
        shop.classifier()
        shop.second_judge()
    finished = {name for name in RECIPES if is_done(work / f"{name}.pt")}
    if {"vae", "vae-decoder", "clip-text", "unet", "unet-last"} <= finished:
        assemble.save_pipeline(
            output,
            shop.autoencoder(finished=True),
            shop.denoiser(),
            shop.text_encoder(),
            work / "tokenizer",
            shop.latents()[2],
        )
        report(f"wrote the generator to {output}")
    if "clip-judge" in finished:
        assemble.save_clip_judge(output / "judges" / "clip", shop.clip_judge(), len(shop.tokenizer))
        report(f"wrote the CLIP judge to {output / 'judges' / 'clip'}")
    if {"dino", "dino-last"} <= finished:
        assemble.save_dino_judge(output / "judges" / "dino", shop.dino_judge())
        report(f"wrote the DINO judge to {output / 'judges' / 'dino'}")
    unfinished = [
        n
        for n in ("vae", "vae-decoder", "clip-text", "unet", "unet-last", "clip-judge", "dino", "dino-last")
        if n not in finished
    ]
    if unfinished:
        report(f"not trained yet in {work}: {', '.join(unfinished)}; models that need them were left unchanged")


def pretrain_flow(work: Path, output: Path, device: str, report=print) -> None:
    """Train the stages that the transformer in `output` lacks, each on the models in `output`; its file names its stage."""
    for number in range(flow.stage_of(output / "transformer") + 1, len(flow.STAGES) + 1):
        recipe = flow.STAGES[number - 1]
        start = flow.weights_of(output / "transformer") if number > 1 else None
        trained = flow.train_stage(recipe, start, *flow.materials(work, output, device, report), work, device, report)
        flow.save(trained, output / "transformer", number)
        report(f"wrote stage {number} of {len(flow.STAGES)} to {output / 'transformer'}")


RECIPES = {
    "vae": vae.ENCODER,
    "vae-decoder": vae.DECODER,
    "clip-text": clip.TEXT,
    "clip-judge": clip.JUDGE,
    "unet": unet.FIRST,
    "unet-last": unet.LAST,
    "dino": dino.FIRST,
    "dino-last": dino.LAST,
    "dino-second": dino.SECOND,
    "classifier": classifier.RECIPE,
}


def is_done(checkpoint: Path) -> bool:
    if not checkpoint.exists():
        return False
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    return saved["step"] >= RECIPES[checkpoint.stem].steps
