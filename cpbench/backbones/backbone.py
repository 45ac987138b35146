"""The backbone: a diffusers pipeline that methods may change and that is restored bit for bit after each use."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from cpbench.backbones import adapters, merging, prompt_layers
from cpbench.backbones.families import family_of
from cpbench.backbones.hub import MINIATURE as MINIATURE
from cpbench.backbones.hub import hash_folder as hash_folder
from cpbench.backbones.memory_format import channels_last
from cpbench.backbones.processes import process_of
from cpbench.backbones.processes.process import Process
from cpbench.backbones.quantization import dense, held, is_quantized
from cpbench.backbones.untrusted import loading
from cpbench.backbones.vocabulary import Vocabulary, WordEncoders
from cpbench.errors import RulesError
from cpbench.moved import old_attributes, renamed_keywords, warn_once

if TYPE_CHECKING:
    from cpbench.backbones.compiling import CompiledForward
    from cpbench.backbones.sampling import Sampler

MEGAPIXEL = 2**20


@old_attributes(unet="denoiser", rows="token_embeddings", factors="lora_parameters")
class Backbone:
    """A diffusers pipeline and its parts: denoiser, autoencoder, vocabulary, family and process.

    Methods change it only by `add_lora`, `add_token` and `replace_weights`; `restore` undoes these changes and refuses
    any other. lora_parameters, token_embeddings and weights hold what was added. unet_evaluations: the number of
    pictures that went through the denoiser, in training and in sampling. trainable_parameters: how many the last task
    trained. installations: how often a method's state was put in. offload: see `generating`. compiled: the denoiser's forward for sampling, if it is to be compiled.
    """

    computes: ClassVar[bool] = True  # false for a backbone that only counts evaluations

    def __init__(
        self,
        pipe: Any,
        name: str,
        device: str = "cpu",
        weights_hash: str = "",
        picture_size: int | None = None,
        offload: bool = False,
        instructed: bool = True,
    ):
        """instructed: with the pipeline's own instruction to a language model before each prompt, where it has one."""
        self.offload = offload
        self.pipe, self.name, self.device, self.weights_hash = pipe, name, torch.device(device), weights_hash
        self.family = family_of(pipe)
        if not instructed:
            self.family.instruct(False)
        self.picture_size = picture_size or self.family.picture_size
        self.denoiser: nn.Module = getattr(pipe, self.family.denoiser)
        self.dtype = self.denoiser.dtype
        self.vae: nn.Module = pipe.vae
        self.vocabulary = Vocabulary(pipe, self.family.tokenizers, self.family.max_lengths, self.family.prepared)
        self._process = process_of(pipe.scheduler, self.family.density)
        for _, part in self.parts():
            part.requires_grad_(False).eval().to(device)
        self._originals: dict[str, nn.Module] = {}
        self.lora_parameters: dict[str, nn.Parameter] = {}
        self.weights: dict[str, nn.Parameter] = {}
        self.unet_evaluations, self.installations = 0, 0
        self.trainable_parameters = 0
        self.encoded: Any = None  # remembers prompts while a method learns, see `learning.encoded_prompts`
        self.facts: dict[str, Any] = {}
        self.compiled: CompiledForward | None = None
        self.denoiser.register_forward_pre_hook(self._count, with_kwargs=True)
        # the tensors themselves, with torch's count of their in-place changes
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
        latents = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        self.unet_evaluations += len(latents)

    @property
    def process(self) -> Process:
        """The noise process of the pipeline's scheduler: noised latents, training target, solver."""
        if self._process.pipeline_scheduler is not self.pipe.scheduler:
            self._process = process_of(self.pipe.scheduler, self.family.density)
        return self._process

    @property
    def text_encoder(self) -> nn.Module:
        """The pipeline's first text encoder."""
        return self.pipe.text_encoder

    @property
    def tokenizer(self) -> Any:
        """The pipeline's first tokenizer, with the added words."""
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
    def learning_precision(self) -> Iterator[None]:
        """Mixed precision only where it is needed: where a method put float32 weights or a relative of LoRA into it.

        Our LoRA layers cast by themselves, and each loaded network is in one precision.
        """
        uniform = all(part.dtype == self.dtype for _, part in self.vocabulary.named_encoders())
        if uniform and not self.weights and adapters.is_lora(self.lora_parameters):
            yield
            return
        with self.precision():
            yield

    @contextmanager
    def generating(self) -> Iterator[None]:
        """The context for sampling: adapters are merged, all weights are in the pipeline's precision and convolutions in
        channels_last where that is faster, and keys and values of a prompt are computed once.

        With `offload`, diffusers moves idle networks to the CPU.
        """
        # a weight below an adapter is in the merged one
        learned = [(*self._part_of(name), self.as_loaded(name).dtype) for name in self.weights]
        with (
            merging.merged(self.denoiser, self._originals, self.lora_parameters, self.dtype),
            merging.rounded(learned),
            channels_last(self.denoiser),
            prompt_layers.remembered(self.denoiser),
            self.compiled.installed() if self.compiled else nullcontext(),
            self._taking_turns() if self.offload else nullcontext(),
        ):
            yield

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """A context in which diffusers moves the networks between the CPU and the device."""
        moved = [(m, n, b) for _, part in self.parts() for m in part.modules() for n, b in m._buffers.items()]
        unmerged = [o.weight for o in self._originals.values() if not is_quantized(o.weight)]  # not needed now
        for weight in unmerged:
            weight.data = weight.data.cpu()
        self.pipe.enable_model_cpu_offload(device=self.device)
        try:
            yield
        finally:
            self.pipe.remove_all_hooks()
            self.pipe.to(self.device)
            for weight in unmerged:
                weight.data = weight.data.to(self.device)
            for module, name, buffer in moved:  # moving creates new buffers, and `restore` expects the original ones
                module._buffers[name] = buffer

    @torch.no_grad()
    def check(self, num_inference_steps: int) -> None:
        """UserError for parts that do not work together, before anything expensive starts.

        It sets the solver's steps, adds a word, noises a latent, calls the denoiser once, and encodes and decodes the
        smallest picture. It generates no picture, uses no random generator, and leaves the backbone pristine.
        """
        evaluations, label = self.unet_evaluations, f"backbone {self.name}"
        scale, side = self.pipe.vae_scale_factor, self.family.smallest_side
        try:
            with loading(label):
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
                pictures, is_finite = self.decode_latents(mean)
                if pictures.shape != grey.shape:
                    raise ValueError(f"a decoded picture is {tuple(pictures.shape)}, and not {grey.shape}")
                for valid, part in ((predicted.isfinite().all(), self.family.denoiser), (is_finite, "vae")):
                    if not valid:
                        raise ValueError(f"the output of its {part} is NaN in {self.dtype}; try --dtype float32")
        finally:
            self.restore()
            self.unet_evaluations = evaluations

    # Changes by a method, and their undoing

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
        """Add a LoRA to the denoiser's layers with these roles or name endings. Returns its parameters by name.

        Names are "layer.lora_A". generator: for a new LoRA; values: a saved one, by the same names. adapter_type: "lora", "vera" or "dora"; see
        `adapters.add_lora`. seed: of VeRA's frozen projections.
        """
        if self._originals:
            raise RuntimeError("this backbone carries a LoRA already: restore() it first")
        names = adapters.matching_modules(self.denoiser, target_modules)
        self._originals = {n: self.denoiser.get_submodule(n) for n in names}
        self.lora_parameters = adapters.add_lora(self.denoiser, names, rank, generator, values, adapter_type, seed)
        return self.lora_parameters

    def add_token(self, token: str, value: torch.Tensor, word_encoders: WordEncoders = "all") -> nn.Parameter:
        """Add a word such as "<v1>" with the embedding `value` (d,). Returns the embedding as a new parameter.

        word_encoders: the text encoders that train it, see `Vocabulary.add`.
        """
        return self.vocabulary.add(token, value, word_encoders)

    def replace_weights(self, values: Mapping[str, torch.Tensor]) -> dict[str, nn.Parameter]:
        """Replace parameters by new ones with these values, until `restore`. Returns the new parameters by name.

        Names are those of the denoiser's parameters, or of a text encoder's after "text_encoder." or "text_encoder_2.".
        Call it before `add_lora` and `add_token`, which change the names of layers.
        """
        if self._originals:
            raise RuntimeError("replace_weights comes before add_lora: a layer with a LoRA has another name")
        for name, value in values.items():
            root, inner_name = self._part_of(name)
            original = root.get_parameter(inner_name)
            if value.shape != original.shape:
                raise ValueError(f"{name} is {tuple(original.shape)}, and its new value {tuple(value.shape)}")
            self.weights[name] = nn.Parameter(dense(value).detach().to(original.device, torch.float32, copy=True))
            adapters.put_at(root, inner_name, self.weights[name])
        return {name: self.weights[name] for name in values}

    def _part_of(self, name: str) -> tuple[nn.Module, str]:
        """(network, parameter's name in it) for a name of `replace_weights`."""
        part, _, inner_name = name.partition(".")
        encoders = dict(self.vocabulary.named_encoders())
        return (encoders[part], inner_name) if part in encoders else (self.denoiser, name)

    def as_loaded(self, name: str) -> nn.Parameter:
        """The original parameter with this name, as `replace_weights` takes it."""
        in_denoiser = self._part_of(name)[0] is self.denoiser
        return self._pristine[f"{self.family.denoiser}.{name}" if in_denoiser else name][0]

    def word_embedding(self, word: str) -> torch.Tensor:
        """Mean embedding (d,) of the tokens of an existing word."""
        return self.vocabulary.embedding(word)

    def piece_embedding(self, piece: str) -> torch.Tensor:
        """Embedding (d,) of a piece of the vocabulary, or of a word; see `Vocabulary.piece_embedding`."""
        return self.vocabulary.piece_embedding(piece)

    def random_embedding(self, generator: torch.Generator) -> torch.Tensor:
        """A random embedding (d,): normal, with the mean and standard deviation of the vocabulary's embeddings."""
        return self.vocabulary.random_embedding(generator)

    def train_only(self, parameters: Iterable[nn.Parameter]) -> None:
        """Of the added parameters, let only these require gradients. Original parameters never do."""
        trained = {id(p) for p in parameters}
        for parameter in (*self.token_embeddings.values(), *self.lora_parameters.values(), *self.weights.values()):
            parameter.requires_grad_(id(parameter) in trained)

    @torch.no_grad()
    def scale_changes(self, strength: float) -> bool:
        """Make every changed weight W of the denoiser W_0 + strength (W - W_0), until `restore`; added words stay.

        Returns whether there is something to scale: weights, or a LoRA of the plain kind.
        """
        names = [name for name in self.weights if self._part_of(name)[0] is self.denoiser]
        if not (names or self.lora_parameters) or not adapters.is_lora(self.lora_parameters):
            return False
        for name in names:
            W_0 = dense(self.as_loaded(name)).detach().float()
            self.weights[name].copy_(W_0 + strength * (self.weights[name] - W_0))
        for name, parameter in self.lora_parameters.items():
            if name.endswith(".lora_B"):
                parameter.mul_(strength)
        return True

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """A context with the weights as loaded, for a frozen teacher; words that were added stay."""
        adapted = {name: self.denoiser.get_submodule(name) for name in self._originals}
        for name, layer in self._originals.items():
            adapters.put_at(self.denoiser, name, layer)
        for name in self.weights:
            root, inner_name = self._part_of(name)
            adapters.put_at(root, inner_name, self.as_loaded(name))
        try:
            yield
        finally:
            for name, weight in self.weights.items():
                root, inner_name = self._part_of(name)
                adapters.put_at(root, inner_name, weight)
            for name, layer in adapted.items():
                adapters.put_at(self.denoiser, name, layer)

    def restore(self) -> None:
        """Undo all changes: parameters, module types and tokenizers as loaded. RulesError if other changes remain."""
        adapters.remove_lora(self.denoiser, self._originals)
        self._originals, self.lora_parameters = {}, {}
        self.vocabulary.restore()
        for name in self.weights:
            root, inner_name = self._part_of(name)
            adapters.put_at(root, inner_name, self.as_loaded(name))
        self.weights = {}
        self._refuse_changes()

    def _refuse_changes(self) -> None:
        """RulesError if a method changed, replaced, added or removed a tensor by other means than the functions above."""
        tensors = dict(self._tensors())
        replaced = [n for n, (tensor, _) in self._pristine.items() if tensors.get(n) is not tensor]
        self._refuse(self._changed_in_place() + replaced + [n for n in tensors if n not in self._pristine])

    def _changed_in_place(self) -> list[str]:
        return [n for n, (tensor, version) in self._pristine.items() if tensor._version != version]

    def _refuse(self, names: list[str]) -> None:
        if names:
            raise RulesError(
                f"it changed {names[0]} by itself; methods change the backbone by add_lora, add_token and replace_weights only"
            )

    @contextmanager
    def installed(
        self, method: Any, state: Any, concepts: tuple[str, ...], prompts: tuple[str, ...] = ()
    ) -> Iterator[None]:
        """A context in which `method` has prepared the backbone for `concepts`, see `Method.install`; pristine afterwards.

        state: None leaves the model untouched.
        """
        try:
            if state is not None:
                self.installations += 1
                if _takes_prompts(method.install):
                    method.install(self, state, concepts, prompts)
                else:
                    method.install(self, state, concepts)
                self._refuse(
                    self._changed_in_place()
                )  # else its pictures would be cached under the pristine weights' key
            yield
        finally:
            self.restore()

    def installed_hash(self) -> str:
        """SHA-256 of the backbone's weights and of everything added: equal hashes generate equal pictures."""
        digest = hashlib.sha256(self.weights_hash.encode())
        parts: dict[str, torch.Tensor] = {f"lora/{k}": v for k, v in self.lora_parameters.items()}
        parts |= {f"weight/{k}": v for k, v in self.weights.items()}
        parts |= {f"token/{k}": v for k, v in self.token_embeddings.items()}
        denoiser = self.family.denoiser
        # VeRA's projections are the only buffers that a change adds
        parts |= {f"frozen/{k}": v for k, v in self.denoiser.named_buffers() if f"{denoiser}.{k}" not in self._pristine}
        for key in sorted(parts):
            digest.update(key.encode())
            digest.update(memoryview(parts[key].detach().float().cpu().contiguous().numpy()).cast("B"))
        return digest.hexdigest()

    # Pictures, latents and prompts

    @renamed_keywords(words="prompt_embeds", factors="lora_parameters")
    def predict(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        prompt_embeds: torch.Tensor,
        lora_parameters: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The denoiser's output (n, c, h, w) for noisy latents (n, c, h, w), timesteps (n,) and embeddings (n, tokens, d).

        lora_parameters: used in place of the installed LoRA, for a frozen teacher.
        """
        size = noisy.shape[-1] * self.pipe.vae_scale_factor  # of the picture: `check` takes the smallest
        keywords = self.family.arguments(prompt_embeds, size, self.dtype)
        keywords["timestep"] = self.family.times(timesteps)
        inputs = (self.family.packed(noisy).to(self.dtype),)
        with self.learning_precision():
            if lora_parameters is None:
                return self.family.predicted(self.denoiser(*inputs, **keywords).sample)
            values = {adapters.inner_name(k): v for k, v in lora_parameters.items()}
            output = torch.func.functional_call(self.denoiser, values, inputs, keywords).sample
            return self.family.predicted(output)

    def encode_prompts(self, prompts: list[str]) -> torch.Tensor:
        """Prompt embeddings (n, tokens, d) for `predict`, with gradients to the trained token embeddings."""
        return self.encode_anew(prompts) if self.encoded is None else self.encoded.encode(prompts)

    def encode_anew(self, prompts: list[str]) -> torch.Tensor:
        """As `encode_prompts`, and never remembered from an earlier call."""
        with self.learning_precision():
            return self.family.encode_prompts(self.vocabulary, prompts)

    @renamed_keywords(words="prompt_embeds")
    def hidden_states(self, prompt_embeds: torch.Tensor) -> torch.Tensor:
        """The hidden states (n, tokens, d) of the prompts' tokens, from the result of `encode_prompts`."""
        return self.family.hidden_states(prompt_embeds)

    def attended(self, prompt_embeds: torch.Tensor) -> torch.Tensor | None:
        """What the layers of the role text_keys_values read, (n, tokens, d); None in joint attention."""
        return self.family.attended(prompt_embeds)

    def sample_latents(self, prompts: list[str], latents: torch.Tensor, sampler: Sampler) -> torch.Tensor:
        """Latents that the pipeline's present solver samples from noise (n, c, h, w) with these prompts.

        Within `generating`, which gives all weights one precision: no autocast is needed.
        """
        sampled = self.pipe(
            **self.family.sampling_arguments(prompts, sampler.guidance_scale),
            height=self.picture_size,
            width=self.picture_size,
            latents=self.family.packed(latents),
            num_inference_steps=sampler.num_inference_steps,
            output_type="latent",  # decoded in parts, see `decode_latents`
        ).images
        return self.family.predicted(sampled)

    @torch.no_grad()
    def encode_images(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of the latents of uint8 (n, h, w, 3) images, in the denoiser's scale, float32.

        For an autoencoder without a deviation (TAESD, Sana's) it is 0.
        """
        means, stds = [], []
        for part in self._few(np.ascontiguousarray(images)):
            x = torch.from_numpy(part).to(self.device).permute(0, 3, 1, 2).to(self.vae.dtype) / 127.5 - 1
            encoded = self.vae.encode(x)
            if hasattr(encoded, "latent_dist"):
                mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
            else:
                mean = encoded.latents if hasattr(encoded, "latents") else encoded.latent
                std = torch.zeros_like(mean)
            mean, std = self.family.normalised(mean.float(), std.float())
            means.append(mean)
            stds.append(std)
        return torch.cat(means), torch.cat(stds)

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(pictures, uint8 (n, h, w, 3); whether they are free of NaN, a bool ()) of latents in the denoiser's scale.

        Both are on the backbone's device, so that a quarter of the bytes is copied, and nothing is waited for.
        """
        pictures, is_finite = [], []
        for part in self._few(latents):
            z = self.family.denormalised(part.to(self.vae.dtype))
            x = self.vae.decode(z.to(self.vae.dtype)).sample.float()
            x = (x / 2 + 0.5).clamp(0, 1)
            is_finite.append(x.isfinite().all())
            pictures.append((x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())  # half to even
        return torch.cat(pictures), torch.stack(is_finite).all()

    def _few(self, things: Any) -> Iterator[Any]:
        """`things` in batches of a million pixels: an autoencoder needs more memory per picture than a denoiser."""
        n = max(1, MEGAPIXEL // self.picture_size**2)
        return (things[i : i + n] for i in range(0, len(things), n))


def _takes_prompts(install: Callable) -> bool:
    """Whether `install` takes prompts; in cpbench 0.1 it did not."""
    parameters = inspect.signature(install).parameters.values()
    has_varargs = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
    if has_varargs or len(parameters) > 3:
        return True
    warn_once("install(backbone, state, concepts)", "install(backbone, state, concepts, prompts)")
    return False


def fingerprint(backbone: Backbone) -> dict[str, str]:
    """Names, module types and hashes of all parameters and buffers, and the tokenizers' lengths."""
    facts = {e.tokenizer_name: str(len(getattr(backbone.pipe, e.tokenizer_name))) for e in backbone.vocabulary.encoders}
    for part, root in backbone.parts():
        facts |= {f"{part}.{n}": type(m).__qualname__ for n, m in root.named_modules()}
        for n, t in [*root.named_parameters(), *root.named_buffers()]:
            bits = hashlib.sha256()
            for tensor in held(t):
                bits.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
            facts[f"{part}.{n}:"] = f"{bits.hexdigest()} {t.requires_grad}"
    return facts
