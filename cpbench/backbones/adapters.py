"""LoRA on chosen projections (by peft), put into a backbone and taken out without a trace.

Two relatives of LoRA, by peft as well. Per layer, with W_0 frozen:

    vera  W = W_0 + diag(b) B diag(d) A             b, d are trained; A, B are random, frozen, and shared by all layers
    dora  W = m (W_0 + A B) / || W_0 + A B ||       A, B and m are trained, one m and one norm an output

VeRA: Kopiczko et al. 2024 (ICLR, arXiv 2310.11454); DoRA: Liu et al. 2024 (ICML, arXiv 2402.09353), whose norm gets no
gradient (their 4.3).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from cpbench.backbones.families import layers_by_role
from cpbench.errors import UserError
from cpbench.moved import old_names, renamed_keywords

if TYPE_CHECKING:
    from cpbench.backbones.backbone import Backbone
    from cpbench.backbones.families.family import Role

# roles of layers, for which each family knows the names
ATTENTION: tuple[Role, ...] = ("attention",)
TEXT_ATTENTION: tuple[Role, ...] = ("text_attention",)
TEXT_KEYS_VALUES: tuple[Role, ...] = ("text_keys_values",)
AdapterType = Literal["lora", "vera", "dora"]
TRAINED = {  # of a layer, by peft's names
    "lora": ("lora_A", "lora_B"),
    "vera": ("vera_lambda_b", "vera_lambda_d"),
    "dora": ("lora_A", "lora_B", "lora_magnitude_vector"),
}


def matching_modules(root: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """Names of the linear and convolution layers whose path ends with one of `target_modules`, or that have such a role.

    Raises ValueError if one of the targets matches nothing: a silent miss would train less than was asked for.
    """
    roles = layers_by_role(root)
    wanted, found, hit = [end for target in target_modules for end in roles.get(target, (target,))], [], set()
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


@renamed_keywords(kind="adapter_type")
def add_lora(
    root: nn.Module,
    names: list[str],
    rank: int,
    generator: torch.Generator | None = None,
    values: Mapping[str, torch.Tensor] | None = None,
    adapter_type: AdapterType = "lora",
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Wrap the named layers in peft's LoRA with alpha = rank, so that the weight change is A B (METHODS.md 0.9).

    New factors start as peft's do (A uniform Kaiming, B zero) but from `generator`; `values`, by the same names as the
    result, restores saved ones. Returns the factors by name "layer.lora_A" and "layer.lora_B".

    kind: of DoRA the result has m as well, which starts as the norms of W; of VeRA b, zero, and d, 0.1 as peft starts it,
    with the A and B of `projections(seed, ...)`; see `refuse_convolutions`.
    """
    if generator is None and values is None and adapter_type != "vera":
        raise ValueError("add_lora: give a generator for new factors, or the values of saved ones")
    from peft import LoraConfig, VeraConfig, VeraModel, inject_adapter_in_model

    given = {"r": rank, "target_modules": names}
    W = {name: root.get_parameter(f"{name}.weight") for name in names}
    with torch.random.fork_rng(devices=[]):  # peft initialises from the global generator; ours must not move
        if adapter_type == "vera":
            VeraModel(root, VeraConfig(**given), "default")  # the only way in: its layers share A and B
        else:
            config = LoraConfig(**given, lora_alpha=rank, init_lora_weights=True, use_dora=adapter_type == "dora")
            inject_adapter_in_model(config, root)
    sides = [f"{name}.{side}" for name in names for side in TRAINED[adapter_type]]
    lora_parameters = {side: root.get_parameter(inner_name(side)) for side in sides}
    for parameter in lora_parameters.values():
        parameter.data = parameter.data.float()  # peft gives them the layer's precision, in which small steps are lost
    with torch.no_grad():
        for name, parameter in lora_parameters.items():
            if values is not None:
                parameter.copy_(values[name])
            elif name.endswith("lora_A"):
                fan_in = parameter[0].numel()
                fresh = torch.rand(parameter.shape, generator=generator) * 2 - 1
                parameter.copy_(fresh / fan_in**0.5)
            elif name.endswith("lora_magnitude_vector"):  # peft's is in the layer's precision; this is in float32
                norms = root.get_submodule(f"{name}.default").get_weight_norm
                parameter.copy_(norms(W[name.rpartition(".")[0]].float(), 0, 1))
    if adapter_type == "vera":
        A, B = projections(seed, rank, max(w.shape[1] for w in W.values()), max(len(w) for w in W.values()))
        for name, w in W.items():
            layer = root.get_submodule(name)
            layer.vera_A["default"], layer.vera_B["default"] = A.to(w.device), B.to(w.device)
    return lora_parameters


def inner_name(parameter: str) -> str:
    """peft's name for the parameter that `add_lora` calls "layer.lora_A", say; VeRA's vectors are no layers of their own."""
    return f"{parameter}.default" if ".vera_" in parameter else f"{parameter}.default.weight"


def refuse_convolutions(method: str, root: nn.Module, target_modules: Sequence[str]) -> None:
    """UserError if one of `target_modules` means a convolution: peft has VeRA for linear layers alone."""
    roles = layers_by_role(root)
    there = ["." + name for name, module in root.named_modules() if isinstance(module, nn.Conv2d)]
    odd = [w for w in target_modules for end in roles.get(w, (w,)) if any(name.endswith("." + end) for name in there)]
    if odd:
        rest = ", ".join([w for w in target_modules if w not in odd] or ATTENTION)
        raise UserError(
            f"method {method}: adapter=vera is for linear layers, and target_modules has convolutions ({', '.join(odd)}); "
            f"use --set 'target_modules=[{rest}]'"
        )


def put_at(root: nn.Module, name: str, thing: nn.Module | nn.Parameter) -> None:
    """A layer or parameter in the place of the one of this dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, thing)


def remove_lora(root: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Put the original layers back and drop what peft left on the model."""
    for name, module in originals.items():
        put_at(root, name, module)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in root.__dict__:
            delattr(root, attribute)


@contextmanager
def merged(
    root: nn.Module, originals: Mapping[str, nn.Module], lora_parameters: Mapping[str, torch.Tensor]
) -> Iterator[None]:
    """For as long as it lasts, plain layers with the weights W + A B where there are LoRA layers: the same, but faster.

    originals: the layers that were wrapped, by name; nothing in them changes. Of LoRA's own factors alone, see `is_lora`.
    """
    wrapped = {name: root.get_submodule(name) for name in originals}
    with torch.no_grad():
        for name, delta in products(lora_parameters).items():
            plain = copy.copy(originals[name])
            plain._parameters = dict(originals[name]._parameters)  # the copy's own; the tensors are not copied
            plain.weight = nn.Parameter(originals[name].weight + delta, requires_grad=False)
            put_at(root, name, plain)
    try:
        yield
    finally:
        for name, layer in wrapped.items():
            put_at(root, name, layer)


def is_lora(lora_parameters: Mapping[str, torch.Tensor]) -> bool:
    """Whether all of these are a LoRA's A and B, and not of one of its relatives."""
    return all(name.endswith((".lora_A", ".lora_B")) for name in lora_parameters)


# LoRAs as what they stand for: the change of the weights W, in the shape of W (out, in, ...)


def products(lora_parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A B of every layer, in the shape of its W: peft's lora_B (out, r, ...) @ lora_A (r, in, ...)."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in lora_parameters)
    pairs = {layer: (lora_parameters[f"{layer}.lora_A"], lora_parameters[f"{layer}.lora_B"]) for layer in layers}
    return {layer: (B.flatten(1) @ A.flatten(1)).view(len(B), *A.shape[1:]) for layer, (A, B) in pairs.items()}


def sum_of_products(loras: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """sum_t A_t B_t of every layer; empty where there is no LoRA."""
    total: dict[str, torch.Tensor] = {}
    for lora_parameters in loras:
        for layer, product in products(lora_parameters).items():
            total[layer] = total.get(layer, 0) + product
    return total


def side_by_side(loras: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One LoRA whose product is sum_t A_t B_t: the factors of all, beside each other; empty where there is no LoRA."""
    names = loras[0] if loras else ()
    return {
        k: torch.cat([lora_parameters[k] for lora_parameters in loras], 0 if k.endswith("lora_A") else 1) for k in names
    }


@renamed_keywords(changes="weight_deltas")
def add_to_weights(backbone: Backbone, weight_deltas: Mapping[str, torch.Tensor]) -> None:
    """W + change for the weights of the named layers; see `Backbone.replace_weights`."""
    names = {f"{layer}.weight": delta for layer, delta in weight_deltas.items()}
    backbone.replace_weights({k: backbone.denoiser.get_parameter(k) + v for k, v in names.items()})


# VeRA and DoRA as what they stand for


def projections(seed: int, rank: int, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """VeRA's A (rank, width) and B (height, rank) for the widest and the highest layer; others use their first part.

    Uniform Kaiming, as peft draws them, but from a generator that the seed alone decides on.
    """
    g = torch.Generator().manual_seed(seed)
    A, B = (torch.rand(shape, generator=g) * 2 - 1 for shape in ((rank, width), (height, rank)))
    return A * (6 / width) ** 0.5, B * (6 / rank) ** 0.5


def vera_facts(root: nn.Module, vectors: Iterable[str], seed: int) -> dict[str, Any]:
    """What `vera_as_lora` needs beside the vectors that are in `root`, of these names."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in vectors)
    return {"seed": seed, "widths": {layer: root.get_submodule(layer).in_features for layer in layers}}


def vera_as_lora(vectors: Mapping[str, torch.Tensor], seed: int, widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """The LoRA diag(d) A, diag(b) B of every layer, on the CPU. widths: the lengths of the layers' inputs."""
    b, d = ({layer: vectors[f"{layer}.{side}"].cpu() for layer in widths} for side in TRAINED["vera"])
    rank, height = len(next(iter(d.values()))), max(map(len, b.values()))
    A, B = projections(seed, rank, max(widths.values()), height)
    lora_parameters = {}
    for layer, width in widths.items():
        lora_parameters[f"{layer}.lora_A"] = d[layer][:, None] * A[:, :width]
        lora_parameters[f"{layer}.lora_B"] = b[layer][:, None] * B[: len(b[layer])]
    return lora_parameters


def dora_weights(root: nn.Module, lora_parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """m (W + A B) / || W + A B || of every layer of a pristine `root`, by the names of `Backbone.replace_weights`."""
    weights = {}
    for layer, product in products(lora_parameters).items():
        V = root.get_parameter(f"{layer}.weight").detach() + product
        scale = lora_parameters[f"{layer}.lora_magnitude_vector"].flatten() / V.flatten(1).norm(dim=1)
        weights[f"{layer}.weight"] = scale.view(-1, *[1] * (V.ndim - 1)) * V
    return weights


__getattr__ = old_names(__name__)
