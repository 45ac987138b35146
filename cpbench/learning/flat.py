"""Trained parameters as one vector in memory, so that what is done with all of them is one operation and not one per layer.

A LoRA on all attention layers is 256 small tensors on Stable Diffusion 1.5 and over a thousand on its XL. Within
`training.train` the tensors of a group are views, one after the other, into one vector (a block); clipping, AdamW and
penalties work on the vector. Every parameter stays the object it was, with its name, its shape and its own gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn

# Entries. The tensors of a larger group, all weights of a network, are large themselves; a second copy of their
# gradients would cost more than it saves.
LARGEST = 2**27
Gradients = Mapping[int, torch.Tensor]  # by the parameter's id


class Join(torch.autograd.Function):
    """The parameters of a block as its vector, without a copy; backward, the vector's gradient in parts."""

    @staticmethod
    def forward(ctx: Any, vector: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.shapes = [p.shape for p in parameters]
        return vector.detach()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *in_parts(gradient, ctx.shapes)


class Block:
    """Parameters that are views into one vector, in their order, until they are moved elsewhere.

    value: the vector, which the optimiser moves, and whose `grad` it reads. dtype: the precision of the layers that use
    the parameters.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], dtype: torch.dtype):
        self.parameters, self.shapes, self.dtype = list(parameters), [p.shape for p in parameters], dtype
        self.value = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
        for parameter, part in zip(self.parameters, in_parts(self.value.detach(), self.shapes), strict=True):
            parameter.data = part
            parameter.block = self
        self._joined: torch.Tensor | None = None

    @property
    def joined(self) -> torch.Tensor:
        """The vector as a function of the parameters; the same tensor throughout a step."""
        if self._joined is None:
            self._joined = Join.apply(self.value.detach(), *self.parameters)
        return self._joined

    def begin_step(self) -> None:
        """A new graph from the parameters to `joined`, and to what layers of another precision compute with.

        For these the vector is cast as a whole. Its part is the parameter's attribute `step_view`, see
        `lora_layers.step_view`. In the parameters' own precision layers use the parameters themselves.
        """
        self._joined = None
        if self.dtype == self.value.dtype:
            return
        for parameter, part in zip(self.parameters, in_parts(self.joined.to(self.dtype), self.shapes), strict=True):
            parameter.step_view = part

    def end(self) -> None:
        """Take the attributes of the steps from the parameters."""
        for parameter in self.parameters:
            for attribute in ("block", "step_view"):
                vars(parameter).pop(attribute, None)

    def vector(self, gradients: Gradients) -> torch.Tensor | None:
        """These gradients as one vector, 0 for a parameter without; None if there are none. Not copied if they are one."""
        parts = [gradients.get(id(p)) for p in self.parameters]
        if all(part is None for part in parts):
            return None
        if (vector := as_one(parts)) is not None:
            return vector
        pairs = zip(parts, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if part is None else part).reshape(-1) for part, p in pairs])


def in_parts(vector: torch.Tensor, shapes: Sequence[torch.Size]) -> list[torch.Tensor]:
    """Consecutive views of these shapes into a vector of as many entries."""
    parts = vector.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def as_one(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The vector that contiguous tensors are consecutive parts of; None if they are not."""
    present = [part for part in parts if part is not None]
    if len(present) < len(parts) or not all(part.is_contiguous() for part in present):
        return None
    first, sizes = present[0], [part.numel() for part in present]
    begins = accumulate(sizes[:-1], initial=first.storage_offset())
    at = first.untyped_storage().data_ptr()
    pairs = zip(present, begins, strict=True)
    if all(p.untyped_storage().data_ptr() == at and p.storage_offset() == begin for p, begin in pairs):
        return first.as_strided((sum(sizes),), (1,))
    return None


def joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """All entries as one vector with a gradient to each tensor; not copied if they are all parameters of a block."""
    block = getattr(tensors[0], "block", None)
    if block is not None and [id(t) for t in tensors] == [id(p) for p in block.parameters]:
        return block.joined
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def stacks(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[list[str], torch.Tensor]]:
    """(names in their order, their tensors stacked) for each shape among the tensors."""
    by_shape: dict[torch.Size, list[str]] = {}
    for name in sorted(tensors):
        by_shape.setdefault(tensors[name].shape, []).append(name)
    for names in by_shape.values():
        yield names, torch.stack([tensors[name] for name in names])
