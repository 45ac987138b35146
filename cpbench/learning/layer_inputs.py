"""Inputs of layers while the model encodes a prompt or generates a picture: what merging methods fit weights to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler
from cpbench.learning import prior_preservation
from cpbench.method import Task

Receive = Callable[[str, torch.Tensor], None]


def as_rows(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A layer's input as rows (n, in), float32: tokens; of a convolution the patches of its places, (n, in k k).

    A row times W (out, in k k), transposed, is the layer's output at that token or place, without its bias.
    """
    x = x.detach().float()
    if isinstance(layer, nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return patches.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)


@contextmanager
def watched(root: nn.Module, layers: Sequence[str], receive: Receive) -> Iterator[None]:
    """A context in which each input of these layers comes to receive(layer, rows), see `as_rows`."""

    def hook(name: str) -> Callable:
        return lambda layer, inputs: receive(name, as_rows(layer, inputs[0]))

    handles = [root.get_submodule(name).register_forward_pre_hook(hook(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def while_generating(
    backbone: Backbone, task: Task, prompt: str, steps: int, purpose: str, layers: Sequence[str], receive: Receive
) -> None:
    """Generate a picture of the prompt, unguided, with the model in its present state; see `watched`.

    Layers must be plain ones: put in what was learned by `add_to_weights`. purpose: of the noise, with the task's seed
    and concept.
    """
    compiled, backbone.compiled = backbone.compiled, None  # compiled code does not call hooks that came after it
    try:
        with watched(backbone.denoiser, layers, receive):
            prior_preservation.generate(backbone, task, [prompt], Sampler(steps, guidance_scale=1.0), purpose)
    finally:
        backbone.compiled = compiled


@torch.no_grad()
def word_states(backbone: Backbone, prompts: Sequence[str], with_end: bool = True) -> torch.Tensor | None:
    """What layers of the role text_keys_values read at the learned words, and at the end of text if `with_end`.

    (s, d) of all prompts; None in joint attention.
    """
    texts = list(prompts)
    attended = backbone.attended(backbone.encode_prompts(texts))
    if attended is None:
        return None
    vocabulary = backbone.vocabulary
    encoder, rows = vocabulary.encoders[0], []
    tokens = zip(vocabulary.ids(encoder, texts), vocabulary.mask(encoder, texts), attended, strict=True)
    for ids, mask, states in tokens:
        places = vocabulary.added(encoder, ids).clone()
        places[int(mask.nonzero()[-1])] |= with_end
        rows.append(states[places[len(ids) - len(states) :]].float())  # tokens of an instruction have no states
    return torch.cat(rows)
