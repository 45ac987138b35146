"""Prompts that are encoded once: those without a trained word, while no text encoder is trained either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from cpbench.backbones.backbone import Backbone

MOST = 256  # prompts; of Stable Diffusion XL each takes 0.6 MB


def encoded(backbone: Backbone, prompts: Sequence[str]) -> torch.Tensor:
    """Prompt embeddings (n, tokens, d); of equal prompts one is encoded."""
    distinct = list(dict.fromkeys(prompts))
    prompt_embeds = backbone.encode_prompts(distinct)
    if len(distinct) == 1:
        return prompt_embeds.expand(len(prompts), -1, -1)
    places = {prompt: k for k, prompt in enumerate(distinct)}
    return torch.stack([prompt_embeds[places[prompt]] for prompt in prompts])


@contextmanager
def encoding_once(backbone: Backbone) -> Iterator[None]:
    """A context in which `backbone.encode_prompts` remembers what does not change."""
    backbone.encoded = EncodedPrompts(backbone)
    try:
        yield
    finally:
        backbone.encoded = None


class EncodedPrompts:
    """The embeddings of prompts, for as long as the added words are the same and nothing in them is trained."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.states: dict[str, torch.Tensor] = {}
        self.words: tuple = ()

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """As `Backbone.encode_prompts`."""
        words = tuple((name, id(v), v._version) for name, v in self.backbone.token_embeddings.items())
        if words != self.words:
            self.states, self.words = {}, words
        fresh = [p for p in dict.fromkeys(prompts) if p not in self.states]
        if not fresh:
            return torch.stack([self.states[p] for p in prompts])
        if any(self.is_trained(p) for p in prompts):
            return self.backbone.encode_anew(prompts)
        with torch.no_grad():
            prompt_embeds = self.backbone.encode_anew(fresh)
        states = self.states | dict(zip(fresh, prompt_embeds, strict=True))
        if len(states) <= MOST:
            self.states = states
        return torch.stack([states[p] for p in prompts])

    def is_trained(self, prompt: str) -> bool:
        """Whether the prompt's embedding depends on what is trained: a word in it, or the weights of an encoder."""
        vocabulary = self.backbone.vocabulary
        if any(p.requires_grad for _, encoder in vocabulary.named_encoders() for p in encoder.parameters()):
            return True
        trained = {name for name, v in vocabulary.token_embeddings.items() if v.requires_grad}
        for encoder in vocabulary.encoders if trained else ():
            ids = set(vocabulary.ids(encoder, [prompt]).flatten().tolist())
            if any(encoder.ids[name] in ids for name in trained):
                return True
        return False
