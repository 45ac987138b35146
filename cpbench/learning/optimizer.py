"""AdamW (Kingma, Ba 2015; Loshchilov, Hutter 2019) on blocks of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from cpbench.learning.flat import LARGEST, Block, Gradients, in_parts

FUSED = ("cpu", "cuda")  # devices with a fused AdamW


class Optimizer:
    """AdamW for groups of (learning rate, parameters by name); a group is moved as one vector, see `flat.Block`.

    What it does to each parameter is what torch's AdamW does to it alone: one that gets no gradient in a step is not
    moved, nor are its moments. When parameters of a block begin to differ in this, the block is taken apart.
    """

    def __init__(
        self,
        groups: Sequence[tuple[float, Mapping[str, nn.Parameter]]],
        layers_dtype: torch.dtype,
        weight_decay: float = 0.0,
    ):
        self.named = {name: p for _, group in groups for name, p in group.items()}
        self.blocks: list[Block] = []
        moved = []
        for rate, group in groups:
            blocks = in_blocks(list(group.values()), layers_dtype)
            self.blocks += blocks
            whole = [block.value for block in blocks]
            moved.append({"params": whole or list(group.values()), "lr": rate})
        fused = all(p.device.type in FUSED for p in self.named.values())
        self.adamw = torch.optim.AdamW(moved, weight_decay=weight_decay, fused=fused)
        self.without: dict[int, list[int]] = {}  # by a block's id: its parameters that have had no gradient yet
        self.decays = weight_decay > 0  # which moves a parameter without a gradient too, in a block
        self.apart: set[int] = set()  # ids of blocks that were taken apart

    def __enter__(self) -> Optimizer:
        return self

    def __exit__(self, *error: object) -> None:
        for block in self.blocks:
            block.end()

    def begin_step(self) -> None:
        """Before the terms of a step are computed."""
        for block in self.blocks:
            block.begin_step()

    def receive(self, terms: Sequence[Mapping[str, torch.Tensor]], scale: float = 1.0, keep: bool = False) -> None:
        """Take the gradients of the step: the sum over terms, each by the parameter's name, times `scale`.

        keep: leave the tensors as they are; without it, they may be used as memory for the step.
        """
        by_id = [{id(self.named[name]): g for name, g in term.items()} for term in terms]
        used: set[int] = set()  # autograd may return the same memory for two parameters
        for p in self.named.values():
            if not hasattr(p, "block"):
                p.grad = total([term[id(p)] for term in by_id if id(p) in term], scale, keep, used)
        for block in self.blocks:
            vectors = [vector for term in by_id if (vector := block.vector(term)) is not None]
            self._receive(block, by_id, total(vectors, scale, keep, used))

    def _receive(self, block: Block, terms: Sequence[Gradients], vector: torch.Tensor | None) -> None:
        parts = [None] * len(block.parameters) if vector is None else in_parts(vector, block.shapes)
        without = [k for k, p in enumerate(block.parameters) if not any(id(p) in term for term in terms)]
        for k, (parameter, part) in enumerate(zip(block.parameters, parts, strict=True)):
            parameter.grad = None if k in without else part
        block.value.grad = vector
        if vector is None or id(block) in self.apart:
            return
        if self.without.setdefault(id(block), without) != without or (without and self.decays):
            self._take_apart(block, self.without[id(block)])

    def _take_apart(self, block: Block, without: Sequence[int]) -> None:
        """From now on move each parameter by itself; those `without` had no gradient in any step so far."""
        self.apart.add(id(block))
        (group,) = [g for g in self.adamw.param_groups if any(p is block.value for p in g["params"])]
        group["params"] = [p for p in group["params"] if p is not block.value] + block.parameters
        if not (state := self.adamw.state.pop(block.value, None)):
            return
        moments = {key: in_parts(state[key], block.shapes) for key in ("exp_avg", "exp_avg_sq")}
        for k, parameter in enumerate(block.parameters):
            if k not in without:
                moments_of_one = {key: parts[k].clone() for key, parts in moments.items()}
                self.adamw.state[parameter] = {"step": state["step"].clone(), **moments_of_one}

    def clip(self) -> torch.Tensor:
        """Clip the gradient of all parameters together to norm 1. Returns its norm before, a scalar."""
        return nn.utils.clip_grad_norm_([p for group in self.adamw.param_groups for p in group["params"]], 1.0)

    def step(self, scaler: Any) -> None:
        scaler.step(self.adamw)
        scaler.update()

    @torch.no_grad()
    def put_back(self, before: Mapping[str, torch.Tensor], moving: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
        """Undo the step in the entries that `moving(name, m)` leaves out, m the first moment; moments stay."""
        moments = {id(p): state["exp_avg"] for p, state in self.adamw.state.items()}
        for block in self.blocks:
            if id(block.value) in moments:
                parts = in_parts(moments[id(block.value)], block.shapes)
                moments |= {id(p): m for p, m in zip(block.parameters, parts, strict=True)}
        for name, p in self.named.items():
            if id(p) in moments:
                p.data.copy_(torch.where(moving(name, moments[id(p)]), p, before[name]))

    def values(self) -> dict[str, torch.Tensor]:
        """The parameters by name, as they are now: copies."""
        copies = {id(p): p.detach().clone() for p in self.named.values() if not hasattr(p, "block")}
        for block in self.blocks:
            parts = in_parts(block.value.detach().clone(), block.shapes)
            copies |= {id(p): part for p, part in zip(block.parameters, parts, strict=True)}
        return {name: copies[id(p)] for name, p in self.named.items()}


def in_blocks(parameters: Sequence[nn.Parameter], layers_dtype: torch.dtype) -> list[Block]:
    """The parameters as blocks, one per precision and device; none if there are too many entries, or no parameters."""
    if sum(p.numel() for p in parameters) > LARGEST:
        return []
    sorts: dict[tuple, list[nn.Parameter]] = {}
    for parameter in parameters:
        sorts.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return [Block(members, layers_dtype) for members in sorts.values()]


def total(gradients: Sequence[torch.Tensor], scale: float, keep: bool, used: set[int]) -> torch.Tensor | None:
    """Their sum times `scale`, None of none: in memory of its own, since it is clipped in place, which joins `used`."""
    if not gradients:
        return None
    out = gradients[0] if len(gradients) == 1 else torch.stack(list(gradients)).sum(0)
    if scale != 1:
        out = out * scale
    elif keep or not out.is_contiguous() or out.untyped_storage().data_ptr() in used:
        out = out.clone(memory_format=torch.contiguous_format)
    used.add(out.untyped_storage().data_ptr())
    return out
