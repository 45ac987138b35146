"""Keys and values of the prompt, computed once per pipeline call and not once per step.

A UNet's cross-attention multiplies the prompt's hidden states by W_K and W_V in every step, and both stay the same for
the whole of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from cpbench.backbones import adapters
from cpbench.backbones.families import layers_by_role


@contextmanager
def remembered(denoiser: nn.Module) -> Iterator[None]:
    """A context in which keys and values of a prompt are computed at the first call of `denoiser` with its hidden states.

    A later call remembers them if it gets the very same tensor, as it does in a pipeline's steps. Pictures are the same
    bit for bit. Nothing is remembered for layers that read something else, or for an unknown network.
    """
    layers = {name: denoiser.get_submodule(name) for name in prompt_layers(denoiser)}
    holders = {name: _Remembered() for name in layers}
    hidden: torch.Tensor | None = None

    def remember(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        nonlocal hidden
        states = kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2]
        if states is not hidden:
            hidden = states
            for name, holder in holders.items():
                holder.output = layers[name](states)

    hook = denoiser.register_forward_pre_hook(remember, with_kwargs=True)
    for name, holder in holders.items():
        adapters.put_at(denoiser, name, holder)
    try:
        yield
    finally:
        hook.remove()
        for name, layer in layers.items():
            adapters.put_at(denoiser, name, layer)


def prompt_layers(denoiser: nn.Module) -> list[str]:
    """Names of the layers whose only input is the prompt's hidden states as the denoiser is called with them."""
    if getattr(denoiser, "caption_projection", None) is not None:  # they read its output
        return []
    endings = layers_by_role(denoiser).get("text_keys_values", ())
    names = [name for name, _ in denoiser.named_modules() if name.endswith(tuple(f".{end}" for end in endings))]
    return [name for name in names if _reads_prompt(denoiser.get_submodule(name.rpartition(".")[0]))]


def _reads_prompt(attention: Any) -> bool:
    """Whether an attention of diffusers reads the hidden states unchanged: some are of the picture, some are normed."""
    return bool(getattr(attention, "is_cross_attention", False)) and getattr(attention, "norm_cross", None) is None


class _Remembered(nn.Module):
    """In the place of a layer: the output that it had for the present prompts, whatever the input."""

    output: torch.Tensor

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.output
