"""The backbone: a diffusers pipeline that methods may change and that is put back, bit for bit, after each use."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cpbench import adapters, audit, torchvision_cure
from cpbench.config import BACKBONES
from cpbench.errors import UserError, near

MINIATURE = Path(__file__).parent / "miniature" / "weights"


class Backbone:
    """A Stable Diffusion pipeline with its parts at hand.

    Methods change it only through `add_lora`, `add_token` and `replace_weights`; `restore` undoes them all, and refuses any
    other change. `unet_evaluations` counts every picture that went through the UNet, in training and in drawing;
    `trainable_parameters` is what the last task trained.
    """

    def __init__(self, pipe: Any, name: str, device: str = "cpu", weights_hash: str = ""):
        self.pipe, self.name, self.device, self.weights_hash = (
            pipe.to(device),
            name,
            torch.device(device),
            weights_hash,
        )
        self.unet: nn.Module = pipe.unet.requires_grad_(False).eval()
        self.vae: nn.Module = pipe.vae.requires_grad_(False).eval()
        self.text_encoder: nn.Module = pipe.text_encoder.requires_grad_(False).eval()
        self._tokenizer = pipe.tokenizer
        # a text config whose eos_token_id is not the tokenizer's pools at the wrong place (METHODS.md 0.7)
        self.text_encoder.config.eos_token_id = self._tokenizer.eos_token_id
        self._text_model.eos_token_id = self._tokenizer.eos_token_id
        self._originals: dict[str, nn.Module] = {}
        self._table: nn.Module = self._embeddings.token_embedding
        self.rows: adapters.TokenRows | None = None
        self.factors: dict[str, nn.Parameter] = {}
        self.weights: dict[str, nn.Parameter] = {}
        self.unet_evaluations = 0
        self.trainable_parameters = 0
        self.unet.register_forward_pre_hook(self._count, with_kwargs=True)
        # tensors themselves, with torch's count of their in-place changes
        self._pristine = {name: (tensor, tensor._version) for name, tensor in self._tensors()}

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for part in ("unet", "vae", "text_encoder"):
            root = getattr(self, part)
            for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
                yield f"{part}.{name}", tensor

    def _count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.unet_evaluations += len(args[0] if args else kwargs["sample"])

    @property
    def _text_model(self) -> nn.Module:
        return getattr(self.text_encoder, "text_model", self.text_encoder)

    @property
    def _embeddings(self) -> nn.Module:
        return self._text_model.embeddings

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one picture's latent."""
        size = self.unet.config.sample_size
        return self.unet.config.in_channels, size, size

    @property
    def picture_size(self) -> int:
        return self.unet.config.sample_size * self.pipe.vae_scale_factor

    # What a method may change, and the way back

    def add_lora(
        self,
        rank: int,
        target_modules: Iterable[str],
        generator: torch.Generator | None = None,
        values: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, nn.Parameter]:
        """LoRA on the UNet's layers whose names end with `target_modules`; see `adapters.add_lora`."""
        if self._originals:
            raise RuntimeError("this backbone carries a LoRA already: restore() it first")
        found = adapters.matching_modules(self.unet, target_modules)
        self._originals = {n: self.unet.get_submodule(n) for n in found}
        self.factors = adapters.add_lora(self.unet, found, rank, generator, values)
        return self.factors

    def add_token(self, token: str, value: torch.Tensor) -> nn.Parameter:
        """A new word `token` with the embedding `value` (d,). Returns its row, a parameter of its own."""
        if self.rows is None:
            self.rows = adapters.TokenRows(self._table)
            self._embeddings.token_embedding = self.rows
            self.pipe.tokenizer = copy.deepcopy(self._tokenizer)
        known = len(self.tokenizer(token, add_special_tokens=False).input_ids) == 1  # "dog" is "dog</w>" in there
        if known or self.tokenizer.add_tokens(token) != 1:
            raise ValueError(f"the word {token!r} is in the vocabulary already")
        ids = self.tokenizer(token, add_special_tokens=False).input_ids
        expected = self._table.num_embeddings + len(self.rows.order)
        if ids != [expected]:
            raise RuntimeError(f"the word {token!r} became tokens {ids}, not the one new token {expected}")
        return self.rows.add(token.strip("<>"), value)

    def replace_weights(self, values: Mapping[str, torch.Tensor]) -> dict[str, nn.Parameter]:
        """The UNet's parameters of these names become new ones with these values; the originals wait for `restore`.

        Call it before `add_lora`, which gives layers new names. Returns the new parameters, which ask for gradients.
        """
        if self._originals:
            raise RuntimeError("replace_weights comes before add_lora: a layer with a LoRA has another name")
        for name, value in values.items():
            original = self.unet.get_parameter(name)
            if value.shape != original.shape:
                raise ValueError(f"{name} is {tuple(original.shape)}, and its new value {tuple(value.shape)}")
            self.weights[name] = nn.Parameter(value.detach().to(original, copy=True))
            adapters.set_parameter(self.unet, name, self.weights[name])
        return {name: self.weights[name] for name in values}

    def word_embedding(self, word: str) -> torch.Tensor:
        """Mean embedding (d,) of a word's tokens in the pristine table."""
        ids = self._tokenizer(word, add_special_tokens=False).input_ids
        return self._table.weight[ids].detach().mean(0).clone()

    def random_embedding(self, generator: torch.Generator) -> torch.Tensor:
        """An embedding (d,) that means nothing: normal, with the mean and spread of the vocabulary's entries."""
        table = self._table.weight.detach()
        drawn = torch.randn(table.shape[1], generator=generator).to(table)
        return table.mean(0) + table.std(0) * drawn

    def train_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """Of all that was put in, let these alone ask for gradients; what is as it was loaded never does."""
        wanted = {id(p) for p in parameters}
        rows = {} if self.rows is None else self.rows.rows
        for parameter in (*rows.values(), *self.factors.values(), *self.weights.values()):
            parameter.requires_grad_(id(parameter) in wanted)

    def restore(self) -> None:
        """Put every module that was touched back: parameters, module types and tokenizer as they were loaded."""
        adapters.remove_lora(self.unet, self._originals)
        self._originals, self.factors = {}, {}
        for name in self.weights:
            adapters.set_parameter(self.unet, name, self._pristine[f"unet.{name}"][0])
        self.weights = {}
        if self.rows is not None:
            self._embeddings.token_embedding = self._table
            self.pipe.tokenizer = self._tokenizer
            self.rows = None
        self._refuse_changes()

    def _refuse_changes(self) -> None:
        """RulesError if a method changed, replaced, added or removed a tensor other than by the functions above."""
        now = dict(self._tensors())
        odd = [n for n, (tensor, _) in self._pristine.items() if now.get(n) is not tensor]
        self._refuse(self._changed_in_place() + odd + [n for n in now if n not in self._pristine])

    def _changed_in_place(self) -> list[str]:
        return [n for n, (tensor, version) in self._pristine.items() if tensor._version != version]

    def _refuse(self, odd: list[str]) -> None:
        if odd:
            raise audit.RulesError(
                f"it changed {odd[0]} by itself; methods change the backbone by add_lora, add_token and replace_weights only"
            )

    @contextmanager
    def installed(self, method: Any, state: Any, concepts: tuple[str, ...]) -> Iterator[None]:
        """The backbone as `method` readies it to draw `concepts`; pristine again on the way out."""
        try:
            if state is not None:
                method.install(self, state, concepts)
                self._refuse(self._changed_in_place())  # or its pictures would be kept under the pristine weights' key
            yield
        finally:
            self.restore()

    def installed_hash(self) -> str:
        """SHA-256 of the backbone's weights and of everything put into it: equal hashes draw equal pictures."""
        digest = hashlib.sha256(self.weights_hash.encode())
        parts: dict[str, torch.Tensor] = {f"lora/{k}": v for k, v in self.factors.items()}
        parts |= {f"weight/{k}": v for k, v in self.weights.items()}
        if self.rows is not None:
            parts |= {f"token/{k}": v for k, v in self.rows.rows.items()}
        for key in sorted(parts):
            digest.update(key.encode())
            digest.update(memoryview(parts[key].detach().float().cpu().contiguous().numpy()).cast("B"))
        return digest.hexdigest()

    # Pictures, latents and words

    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        words: torch.Tensor,
        factors: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The UNet's output (n, c, h, w); with `factors`, as if the LoRA's A and B were these (a frozen teacher's, say)."""
        if factors is None:
            return self.unet(noisy, timesteps, words).sample
        values = {adapters.inner_name(k): v for k, v in factors.items()}
        return torch.func.functional_call(self.unet, values, (noisy, timesteps, words)).sample

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Hidden states (n, tokens, d) of the prompts, with gradients to token rows that ask for them."""
        ids = self.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=self._tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        return self.text_encoder(ids.to(self.device))[0]

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of uint8 (n, h, w, 3) images, in the UNet's scale."""
        x = (
            torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device, self.vae.dtype) / 127.5
            - 1
        )
        posterior = self.vae.encode(x).latent_dist
        factor = self.vae.config.scaling_factor
        shift = self.vae.config.shift_factor or 0.0
        return (posterior.mean - shift) * factor, posterior.std * factor


def fingerprint(backbone: Backbone) -> dict[str, str]:
    """Names, module types and bits of all parameters and buffers, and the tokenizer's length: what `restore` restores."""
    facts = {"tokenizer": str(len(backbone.tokenizer))}
    for part in ("unet", "vae", "text_encoder"):
        root = getattr(backbone, part)
        facts |= {f"{part}.{n}": type(m).__qualname__ for n, m in root.named_modules()}
        for n, t in [*root.named_parameters(), *root.named_buffers()]:
            bits = hashlib.sha256(t.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            facts[f"{part}.{n}:"] = f"{bits} {t.requires_grad}"
    return facts


def hash_folder(folder: Path) -> str:
    """SHA-256 over the names and bytes of a pipeline's files: weights, configs and vocabularies; not its judges'."""
    digest = hashlib.sha256()
    for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.suffix != ".md"):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(("judges/", ".")):
            digest.update(name.encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def load(name: str, device: str = "cpu") -> Backbone:
    """A built-in backbone by name, or a local diffusers folder. UserError for anything else."""
    torchvision_cure.apply()
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    folder = MINIATURE if name == "miniature" else Path(name)
    if not (folder / "model_index.json").is_file():
        if folder.exists():
            raise UserError(f"backbone {name}: not a diffusers folder (no model_index.json in it)")
        raise near(name, BACKBONES, "backbone", "A local diffusers folder does as well.")
    kind = json.loads((folder / "model_index.json").read_text()).get("_class_name")
    if kind != "StableDiffusionPipeline":
        raise UserError(f"backbone {name}: is a {kind}; this version personalizes StableDiffusionPipeline folders only")
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return Backbone(pipe, name, device, hash_folder(folder))
