"""The stages of pretraining, in the order that they need each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from . import assemble, clip, data, dino, unet, vae
from .tokenizer import save_tokenizer

PICTURES = 49_152  # drawn for the autoencoder and the judges
ENCODED = 24_576  # of them, encoded for the denoiser
REBUILT = 6_144  # of them, passed through the autoencoder for the judges
PARTS = ("vae", "clip", "unet", "dino")


class Workshop:
    """The work folder and what the stages make in it. Every stage is resumed, or returns at once when done."""

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

    def rebuilt(self) -> np.ndarray:
        file = self.work / f"rebuilt-{REBUILT}.npy"
        if not file.exists():
            model = self.autoencoder()
            with torch.no_grad():
                parts = [
                    model(vae.to_tensor(self.pictures.images[i : i + 64]).to(self.device)).sample
                    for i in range(0, REBUILT, 64)
                ]
            np.save(
                file,
                np.concatenate(
                    [((p.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy() for p in parts]
                ),
            )
        return np.load(file)

    def text_encoder(self):
        return clip.train_text_encoder(
            self.tokenizer, self.pictures, self.work, self.device, self.report
        ).text_model.eval()

    def latents(self) -> tuple[np.ndarray, np.ndarray, float, data.Pictures]:
        """(means, standard deviations, scaling factor, the pictures they belong to)."""
        some = replace(self.pictures, images=self.pictures.images[:ENCODED], captions=self.pictures.captions[:ENCODED])
        mean, std = vae.latents(self.autoencoder(), some, self.work, self.device, self.report)
        m, s = mean[:4096].astype(np.float32), std[:4096].astype(np.float32)
        return mean, std, float(1 / np.sqrt(m.var() + (s**2).mean())), some

    def denoiser(self):
        mean, std, scaling, some = self.latents()
        return unet.train_unet(
            self.text_encoder(),
            self.tokenizer,
            (mean, std),
            scaling,
            some,
            self.work,
            self.device,
            self.report,
        )

    def clip_judge(self):
        return clip.train_judge(self.tokenizer, self.pictures, self.rebuilt(), self.work, self.device, self.report)

    def dino_judge(self):
        return dino.train_dino(self.pictures, self.rebuilt(), self.work, self.device, self.report)


def pretrain(parts: tuple[str, ...], work: Path, output: Path, device: str, report=print) -> None:
    """Train the named parts (all if none is named), then assemble whatever is complete into `output`."""
    shop = Workshop(work, device, report)
    parts = parts or PARTS
    if "vae" in parts:
        shop.autoencoder(finished=True)
    if "clip" in parts:
        shop.text_encoder()
        shop.clip_judge()
    if "dino" in parts:
        shop.dino_judge()
    if "unet" in parts:
        shop.denoiser()
    done = {f.stem for f in work.glob("*.pt") if is_done(f)}
    if {"vae", "vae-decoder", "clip-text", "unet"} <= done:
        assemble.save_pipeline(
            output,
            shop.autoencoder(finished=True),
            shop.denoiser(),
            shop.text_encoder(),
            work / "tokenizer",
            shop.latents()[2],
        )
        report(f"wrote the generator to {output}")
    if "clip-judge" in done:
        assemble.save_clip_judge(output / "judges" / "clip", shop.clip_judge(), len(shop.tokenizer))
        report(f"wrote the CLIP judge to {output / 'judges' / 'clip'}")
    if "dino" in done:
        assemble.save_dino_judge(output / "judges" / "dino", shop.dino_judge())
        report(f"wrote the DINO judge to {output / 'judges' / 'dino'}")
    missing = [n for n in ("vae", "vae-decoder", "clip-text", "unet", "clip-judge", "dino") if n not in done]
    if missing:
        report(f"not trained yet in {work}: {', '.join(missing)}; what needs them was left as it was")


RECIPES = {
    "vae": vae.ENCODER,
    "vae-decoder": vae.DECODER,
    "clip-text": clip.TEXT,
    "clip-judge": clip.JUDGE,
    "unet": unet.RECIPE,
    "dino": dino.RECIPE,
}


def is_done(checkpoint: Path) -> bool:
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    return saved["step"] >= RECIPES[checkpoint.stem].steps
