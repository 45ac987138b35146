"""The backbone: a diffusers pipeline that methods may change and that is put back, bit for bit, after each use."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.families import family_of
from cpbench.backbones.hub import MINIATURE as MINIATURE
from cpbench.backbones.hub import hash_folder as hash_folder
from cpbench.backbones.processes import process_of
from cpbench.backbones.processes.process import Process
from cpbench.backbones.untrusted import loading
from cpbench.backbones.vocabulary import Vocabulary
from cpbench.errors import RulesError
from cpbench.moved import old_attribute, renamed_keywords, warn_once

if TYPE_CHECKING:
    from cpbench.backbones.sampling import Sampler

MEGAPIXEL = 2**20


class Backbone:
    """A diffusers pipeline with its parts at hand: its denoiser, autoencoder and vocabulary, its family and process.

    Methods change it only through `add_lora`, `add_token` and `replace_weights`; `restore` undoes them all, and refuses any
    other change. `unet_evaluations` counts every picture that went through the denoiser, in training and in drawing;
    `trainable_parameters` is what the last task trained. `offload`: see `drawing`.
    """

    computes: ClassVar[bool] = True  # whether what it predicts means anything

    def __init__(
        self,
        pipe: Any,
        name: str,
        device: str = "cpu",
        weights_hash: str = "",
        picture_size: int | None = None,
        offload: bool = False,
    ):
        self.offload = offload
        self.pipe, self.name, self.device, self.weights_hash = pipe, name, torch.device(device), weights_hash
        self.family = family_of(pipe)
        self.picture_size = picture_size or self.family.picture_size
        self.denoiser: nn.Module = getattr(pipe, self.family.denoiser)
        self.dtype = self.denoiser.dtype
        self.vae: nn.Module = pipe.vae
        self.vocabulary = Vocabulary(pipe, self.family.tokenizers)
        self._process = process_of(pipe.scheduler)
        for _, part in self.parts():
            part.requires_grad_(False).eval().to(device)
        self._originals: dict[str, nn.Module] = {}
        self.lora_parameters: dict[str, nn.Parameter] = {}
        self.weights: dict[str, nn.Parameter] = {}
        self.unet_evaluations = 0
        self.trainable_parameters = 0
        self.facts: dict[str, Any] = {}
        self.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        # tensors themselves, with torch's count of their in-place changes
        self._pristine = {name: (tensor, tensor._version) for name, tensor in self._tensors()}

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The pipeline's networks by name: the denoiser, vae, and the text encoders."""
        yield self.family.denoiser, self.denoiser
        yield "vae", self.vae
        yield from self.vocabulary.named_encoders()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for part, root in self.parts():
            for name, tensor in [*root.named_parameters(), *root.named_buffers()]:
                yield f"{part}.{name}", tensor

    def _count(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self.unet_evaluations += len(args[0] if args else kwargs["sample"])

    @property
    def process(self) -> Process:
        """How noise comes in, by the pipeline's scheduler."""
        if self._process.own is not self.pipe.scheduler:
            self._process = process_of(self.pipe.scheduler)
        return self._process

    # of cpbench 0.1, until 0.3
    unet = old_attribute("Backbone.unet", "denoiser")
    rows = old_attribute("Backbone.rows", "token_embeddings")
    factors = old_attribute("Backbone.factors", "lora_parameters")

    @property
    def text_encoder(self) -> nn.Module:
        return self.pipe.text_encoder

    @property
    def tokenizer(self) -> Any:
        return self.pipe.tokenizer

    @property
    def token_embeddings(self) -> dict[str, nn.Parameter]:
        """The embeddings (d,) of the words that were added, by word without its brackets: {"v1": ...}."""
        return self.vocabulary.token_embeddings

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one picture's latent: (channels, height, width)."""
        return self.family.latent_shape(self.picture_size)

    @contextmanager
    def precision(self) -> Iterator[None]:
        """Mixed precision where the backbone is not in float32: what methods train is, and stays, in float32."""
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            yield

    @contextmanager
    def generating(self) -> Iterator[None]:
        """In float32 LoRAs are merged (`adapters.merged`); in lower precision W + A B would lose what A B has. With `offload`, networks wait in main memory while another
        draws (diffusers' enable_model_cpu_offload)."""
        if not self.offload:
            can = self.dtype == torch.float32 and adapters.is_lora(self.lora_parameters)
            with adapters.merged(self.denoiser, self._originals, self.lora_parameters) if can else nullcontext():
                yield
            return
        moved = [(m, n, b) for _, part in self.parts() for m in part.modules() for n, b in m._buffers.items()]
        self.pipe.enable_model_cpu_offload(device=self.device)
        try:
            yield
        finally:
            self.pipe.remove_all_hooks()
            self.pipe.to(self.device)
            for module, name, buffer in moved:  # moving makes new tensors of buffers, and `restore` looks for the old
                module._buffers[name] = buffer

    @torch.no_grad()
    def check(self, num_inference_steps: int) -> None:
        """UserError, in one line, for parts that do not work together: so that it shows before anything is spent.

        The solver's steps are set; one word is added, one latent noised, one call made of the denoiser, one picture encoded
        and decoded, the smallest that it takes. No picture is drawn, no generator moved, the backbone pristine after.
        """
        evaluations, what = self.unet_evaluations, f"backbone {self.name}"
        scale, side = self.pipe.vae_scale_factor, self.family.smallest_side
        try:
            with loading(what):
                self.process.solver(num_inference_steps)
                self.add_token("<v1>", self.word_embedding("a"))
                prompt_embeds = self.encode_prompts(["a photo of a <v1>"])
                grey = np.full((1, side * scale, side * scale, 3), 127, np.uint8)
                mean, _ = self.encode_images(grey)
                if mean.shape != (1, *self.family.latent_shape(side * scale)):
                    raise ValueError(f"a picture's latent is {tuple(mean.shape)}, and not 1/{scale} of the picture")
                t = self.process.evenly(1).to(self.device)
                noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0)).to(mean)
                predicted = self.predict(self.process.noised(mean, noise, t), t, prompt_embeds)
                if predicted.shape != mean.shape:
                    raise ValueError(
                        f"the {self.family.denoiser} predicts {tuple(predicted.shape)} of latents {tuple(mean.shape)}"
                    )
                pictures = self.decode_latents(mean)
                if pictures.shape != grey.shape:
                    raise ValueError(f"a decoded picture is {pictures.shape}, and not {grey.shape}")
                for found, part in ((predicted, self.family.denoiser), (torch.from_numpy(pictures), "vae")):
                    if not found.isfinite().all():
                        raise ValueError(
                            f"what its {part} gives is no number (NaN) in {self.dtype}; try --dtype float32"
                        )
        finally:
            self.restore()
            self.unet_evaluations = evaluations

    # What a method may change, and the way back

    @renamed_keywords(kind="adapter_type")
    def add_lora(
        self,
        rank: int,
        target_modules: Iterable[str],
        generator: torch.Generator | None = None,
        values: Mapping[str, torch.Tensor] | None = None,
        adapter_type: adapters.AdapterType = "lora",
        seed: int = 0,
    ) -> dict[str, nn.Parameter]:
        """LoRA, or a relative of it, on the denoiser's layers of these roles or endings of names; see `adapters.add_lora`."""
        if self._originals:
            raise RuntimeError("this backbone carries a LoRA already: restore() it first")
        found = adapters.matching_modules(self.denoiser, target_modules)
        self._originals = {n: self.denoiser.get_submodule(n) for n in found}
        self.lora_parameters = adapters.add_lora(self.denoiser, found, rank, generator, values, adapter_type, seed)
        return self.lora_parameters

    def add_token(self, token: str, value: torch.Tensor) -> nn.Parameter:
        """A new word `token` with the embedding `value` (d,). Returns its row, a parameter of its own."""
        return self.vocabulary.add(token, value)

    def replace_weights(self, values: Mapping[str, torch.Tensor]) -> dict[str, nn.Parameter]:
        """The parameters of these names become new ones with these values; the originals wait for `restore`.

        Names are the denoiser's; with "text_encoder." or "text_encoder_2." before them, that part's. Call it before `add_lora`
        and `add_token`, which give layers new names. Returns the new parameters, which ask for gradients.
        """
        if self._originals:
            raise RuntimeError("replace_weights comes before add_lora: a layer with a LoRA has another name")
        for name, value in values.items():
            root, own = self._part_of(name)
            original = root.get_parameter(own)
            if value.shape != original.shape:
                raise ValueError(f"{name} is {tuple(original.shape)}, and its new value {tuple(value.shape)}")
            self.weights[name] = nn.Parameter(value.detach().to(original.device, torch.float32, copy=True))
            adapters.put_at(root, own, self.weights[name])
        return {name: self.weights[name] for name in values}

    def _part_of(self, name: str) -> tuple[nn.Module, str]:
        """The network that a name of `replace_weights` belongs to, and the parameter's name in it."""
        part, _, own = name.partition(".")
        encoders = dict(self.vocabulary.named_encoders())
        return (encoders[part], own) if part in encoders else (self.denoiser, name)

    def as_loaded(self, name: str) -> nn.Parameter:
        """The parameter that a name of `replace_weights` stood for before anything was put in."""
        own = self._part_of(name)[0] is self.denoiser
        return self._pristine[f"{self.family.denoiser}.{name}" if own else name][0]

    def word_embedding(self, word: str) -> torch.Tensor:
        """Mean embedding (d,) of a word's tokens in the pristine table."""
        return self.vocabulary.embedding(word)

    def random_embedding(self, generator: torch.Generator) -> torch.Tensor:
        """An embedding (d,) that means nothing: normal, with the mean and spread of the vocabulary's entries."""
        return self.vocabulary.random_embedding(generator)

    def train_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """Of all that was put in, let these alone ask for gradients; what is as it was loaded never does."""
        wanted = {id(p) for p in parameters}
        for parameter in (*self.token_embeddings.values(), *self.lora_parameters.values(), *self.weights.values()):
            parameter.requires_grad_(id(parameter) in wanted)

    def restore(self) -> None:
        """Put every module that was touched back: parameters, module types and tokenizer as they were loaded."""
        adapters.remove_lora(self.denoiser, self._originals)
        self._originals, self.lora_parameters = {}, {}
        self.vocabulary.restore()
        for name in self.weights:
            root, own = self._part_of(name)
            adapters.put_at(root, own, self.as_loaded(name))
        self.weights = {}
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
            raise RulesError(
                f"it changed {odd[0]} by itself; methods change the backbone by add_lora, add_token and replace_weights only"
            )

    @contextmanager
    def installed(
        self, method: Any, state: Any, concepts: tuple[str, ...], prompts: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """The backbone as `method` readies it to draw `concepts` (see `Method.install`); pristine again on the way out.

        The untouched model where there is no state.
        """
        try:
            if state is not None:
                if _takes_prompts(method.install):
                    method.install(self, state, concepts, prompts)
                else:
                    method.install(self, state, concepts)
                self._refuse(self._changed_in_place())  # or its pictures would be kept under the pristine weights' key
            yield
        finally:
            self.restore()

    def installed_hash(self) -> str:
        """SHA-256 of the backbone's weights and of everything put into it: equal hashes draw equal pictures."""
        digest = hashlib.sha256(self.weights_hash.encode())
        parts: dict[str, torch.Tensor] = {f"lora/{k}": v for k, v in self.lora_parameters.items()}
        parts |= {f"weight/{k}": v for k, v in self.weights.items()}
        parts |= {f"token/{k}": v for k, v in self.token_embeddings.items()}
        own = self.family.denoiser
        # VeRA's projections are the only buffers that come in with what is put in
        parts |= {f"frozen/{k}": v for k, v in self.denoiser.named_buffers() if f"{own}.{k}" not in self._pristine}
        for key in sorted(parts):
            digest.update(key.encode())
            digest.update(memoryview(parts[key].detach().float().cpu().contiguous().numpy()).cast("B"))
        return digest.hexdigest()

    # Pictures, latents and words

    @renamed_keywords(words="prompt_embeds", factors="lora_parameters")
    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompt_embeds: torch.Tensor,
        lora_parameters: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The denoiser's output (n, c, h, w); with `factors`, as if the LoRA's A and B were these (a frozen teacher's, say)."""
        hidden, more = self.family.arguments(prompt_embeds, self.picture_size, self.dtype)
        given = (noisy.to(self.dtype), timesteps, hidden)
        with self.precision():
            if lora_parameters is None:
                return self.denoiser(*given, **more).sample
            values = {adapters.inner_name(k): v for k, v in lora_parameters.items()}
            return torch.func.functional_call(self.denoiser, values, given, more).sample

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Words (n, tokens, d) for `predict`, with gradients to token rows that ask for them; see `Family.encode_prompts`."""
        with self.precision():
            return self.family.encode_prompts(self.vocabulary, prompts)

    @renamed_keywords(words="prompt_embeds")
    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """Of what `encode_prompts` returned, the states (n, tokens, d) of the prompts' own tokens."""
        return self.family.hidden_states(prompt_embeds)

    def sample_latents(self, prompts: list[str], latents: torch.Tensor, sampler: Sampler) -> torch.Tensor:
        """What the pipeline makes of noise (n, c, h, w) under these prompts, with the solver that it has now: latents."""
        with self.precision():
            return self.pipe(
                **self.family.sampling_arguments(prompts, sampler.guidance_scale),
                height=self.picture_size,
                width=self.picture_size,
                latents=latents,
                num_inference_steps=sampler.num_inference_steps,
                output_type="latent",  # decoded outside of mixed precision
            ).images

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of uint8 (n, h, w, 3) images, in the denoiser's scale, float32.

        A tiny autoencoder (TAESD) has no deviation: it is 0.
        """
        means, stds = [], []
        for part in self._few(np.ascontiguousarray(images)):
            x = torch.from_numpy(part).permute(0, 3, 1, 2).to(self.device, self.vae.dtype) / 127.5 - 1
            encoded = self.vae.encode(x)
            if hasattr(encoded, "latent_dist"):
                mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
            else:
                mean, std = encoded.latents, torch.zeros_like(encoded.latents)
            mean, std = self.family.normalised(mean.float(), std.float())
            means.append(mean)
            stds.append(std)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> np.ndarray:
        """Pictures (n, h, w, 3), float32 in [0, 1], of latents in the denoiser's scale."""
        out = []
        for part in self._few(latents):
            z = self.family.denormalised(part.to(self.vae.dtype))
            x = self.vae.decode(z.to(self.vae.dtype)).sample.float()
            out.append((x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
        return np.concatenate(out)

    def _few(self, things: Any) -> Iterator[Any]:
        """`things` in parts of a million pixels: an autoencoder needs far more memory for a picture than a denoiser."""
        n = max(1, MEGAPIXEL // self.picture_size**2)
        return (things[i : i + n] for i in range(0, len(things), n))


def _takes_prompts(install: Callable) -> bool:
    """Whether an `install` is of today's contract: that of cpbench 0.1 had no prompts."""
    given = inspect.signature(install).parameters.values()
    several = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in given)
    if several or len(given) > 3:
        return True
    warn_once("install(backbone, state, concepts)", "install(backbone, state, concepts, prompts)")
    return False


def fingerprint(backbone: Backbone) -> dict[str, str]:
    """Names, module types and bits of all parameters and buffers, and the tokenizer's length: what `restore` restores."""
    facts = {e.tokenizer_name: str(len(getattr(backbone.pipe, e.tokenizer_name))) for e in backbone.vocabulary.encoders}
    for part, root in backbone.parts():
        facts |= {f"{part}.{n}": type(m).__qualname__ for n, m in root.named_modules()}
        for n, t in [*root.named_parameters(), *root.named_buffers()]:
            bits = hashlib.sha256(t.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
            facts[f"{part}.{n}:"] = f"{bits} {t.requires_grad}"
    return facts
