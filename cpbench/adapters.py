"""LoRA on chosen projections (by peft) and learnable token rows, put into a backbone and taken out without a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from cpbench.backbones import Backbone

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class TokenRows(nn.Module):
    """An embedding table with extra rows held as their own parameters, so that no other row can move.

    Ids below the table's length look up the table; id length + i is row i of `rows`, of which `part` is this table's.
    """

    def __init__(self, table: nn.Embedding, rows: Mapping[str, nn.Parameter], part: slice = slice(None)):
        super().__init__()
        self.table, self.rows, self.part = table, rows, part

    @property
    def weight(self) -> torch.Tensor:
        """The table's own weight: transformers asks an embedding for its dtype and device."""
        return self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = self.table.num_embeddings
        out = self.table(ids.clamp(max=length - 1))
        if not self.rows:
            return out
        extra = torch.stack([row[self.part] for row in self.rows.values()]).to(out.dtype)
        return torch.where((ids >= length).unsqueeze(-1), extra[(ids - length).clamp(min=0)], out)


def matching_modules(root: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """Names of the linear and convolution layers whose path ends with one of `target_modules`.

    Raises ValueError if one of the targets matches nothing: a silent miss would train less than was asked for.
    """
    wanted, found, hit = tuple(target_modules), [], set()
    for name, module in root.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            ends = [w for w in wanted if name == w or name.endswith("." + w)]
            if ends:
                found.append(name)
                hit.update(ends)
    missed = [w for w in wanted if w not in hit]
    if missed:
        raise ValueError(f"target_modules: no layer's name ends with {', '.join(map(repr, missed))}")
    return found


def add_lora(
    root: nn.Module,
    names: list[str],
    rank: int,
    generator: torch.Generator | None = None,
    values: Mapping[str, torch.Tensor] | None = None,
) -> dict[str, nn.Parameter]:
    """Wrap the named layers in peft's LoRA with alpha = rank, so that the weight change is A B (METHODS.md 0.9).

    New factors start as peft's do (A uniform Kaiming, B zero) but from `generator`; `values`, by the same names as the
    result, restores saved ones. Returns the factors by name "layer.lora_A" and "layer.lora_B".
    """
    if generator is None and values is None:
        raise ValueError("add_lora: give a generator for new factors, or the values of saved ones")
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):  # peft initialises from the global generator; ours must not move
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names, init_lora_weights=True), root)
    sides = [f"{name}.{side}" for name in names for side in ("lora_A", "lora_B")]
    factors = {side: root.get_parameter(inner_name(side)) for side in sides}
    for factor in factors.values():
        factor.data = factor.data.float()  # peft gives them the layer's precision, in which small steps are lost
    with torch.no_grad():
        for name, factor in factors.items():
            if values is not None:
                factor.copy_(values[name])
            elif name.endswith("lora_A"):
                fan_in = factor[0].numel()
                fresh = torch.rand(factor.shape, generator=generator) * 2 - 1
                factor.copy_(fresh / fan_in**0.5)
    return factors


def inner_name(factor: str) -> str:
    """peft's name for the parameter that `add_lora` calls "layer.lora_A"."""
    return f"{factor}.default.weight"


def set_parameter(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, parameter)


def remove_lora(root: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Put the original layers back and drop what peft left on the model."""
    for name, module in originals.items():
        parent, _, leaf = name.rpartition(".")
        setattr(root.get_submodule(parent), leaf, module)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in root.__dict__:
            delattr(root, attribute)


# LoRAs as what they stand for: the change of the weights W, in the shape of W (out, in, ...)


def products(factors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A B of every layer, in the shape of its W: peft's lora_B (out, r, ...) @ lora_A (r, in, ...)."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in factors)
    pairs = {layer: (factors[f"{layer}.lora_A"], factors[f"{layer}.lora_B"]) for layer in layers}
    return {layer: (B.flatten(1) @ A.flatten(1)).view(len(B), *A.shape[1:]) for layer, (A, B) in pairs.items()}


def sum_of_products(loras: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """sum_t A_t B_t of every layer; empty where there is no LoRA."""
    total: dict[str, torch.Tensor] = {}
    for factors in loras:
        for layer, product in products(factors).items():
            total[layer] = total.get(layer, 0) + product
    return total


def side_by_side(loras: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One LoRA whose product is sum_t A_t B_t: the factors of all, beside each other; empty where there is no LoRA."""
    names = loras[0] if loras else ()
    return {k: torch.cat([factors[k] for factors in loras], 0 if k.endswith("lora_A") else 1) for k in names}


def add_to_weights(backbone: Backbone, changes: Mapping[str, torch.Tensor]) -> None:
    """W + change for the weights of the named layers; see `Backbone.replace_weights`."""
    names = {f"{layer}.weight": change for layer, change in changes.items()}
    backbone.replace_weights({k: backbone.unet.get_parameter(k) + v for k, v in names.items()})
