"""LoRA by peft on selected layers, added to a backbone and removed without a trace.

Also two relatives of LoRA, by peft. Per layer, with W_0 frozen:

    vera  W = W_0 + diag(b) B diag(d) A             b, d are trained; A, B are random, frozen, and shared by all layers
    dora  W = m (W_0 + A B) / || W_0 + A B ||       A, B and m are trained, one m and one norm per output

VeRA: Kopiczko et al. 2024 (ICLR, arXiv 2310.11454); DoRA: Liu et al. 2024 (ICML, arXiv 2402.09353), whose norm gets no
gradient (their 4.3).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from cpbench.backbones import lora_layers
from cpbench.backbones.families import layers_by_role
from cpbench.backbones.quantization import dense, is_quantized
from cpbench.errors import UserError
from cpbench.moved import old_names, renamed_keywords

if TYPE_CHECKING:
    from cpbench.backbones.backbone import Backbone
    from cpbench.backbones.families.family import Role

# roles of layers; each family has the names
ATTENTION: tuple[Role, ...] = ("attention",)
TEXT_ATTENTION: tuple[Role, ...] = ("text_attention",)
TEXT_KEYS_VALUES: tuple[Role, ...] = ("text_keys_values",)
AdapterType = Literal["lora", "vera", "dora"]
TRAINED = {  # the trained parameters of a layer, by peft's names
    "lora": ("lora_A", "lora_B"),
    "vera": ("vera_lambda_b", "vera_lambda_d"),
    "dora": ("lora_A", "lora_B", "lora_magnitude_vector"),
}


def matching_modules(root: nn.Module, target_modules: Iterable[str]) -> list[str]:
    """Names of the linear and convolution layers with one of these roles or name endings.

    Raises ValueError if a target matches no layer; otherwise fewer layers than expected would be trained silently.
    """
    roles = layers_by_role(root)
    endings, names, matched = [end for target in target_modules for end in roles.get(target, (target,))], [], set()
    for name, module in root.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            ends = [w for w in endings if name == w or name.endswith("." + w)]
            if ends:
                names.append(name)
                matched.update(ends)
    missed = [w for w in endings if w not in matched]
    if missed:
        raise ValueError(f"target_modules: no layer's name ends with {', '.join(map(repr, missed))}")
    return names


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

    A new LoRA starts as in peft (A uniform Kaiming, B zero), but from `generator`; `values`, by the same names as the
    result, restores a saved one. Returns the parameters by name "layer.lora_A" and "layer.lora_B".

    adapter_type: with "dora" the result also has m, which starts as the norms of W. With "vera" it has b, which starts
    at zero, and d, at 0.1 as in peft, with the A and B of `projections(seed, ...)`; convolutions are refused, see
    `refuse_convolutions`.
    """
    if generator is None and values is None and adapter_type != "vera":
        raise ValueError("add_lora: pass a generator for a new LoRA, or the values of a saved one")
    from peft import LoraConfig, VeraConfig, VeraModel, inject_adapter_in_model

    refuse_quantized(root, adapter_type)
    settings = {"r": rank, "target_modules": names}
    W = {name: root.get_parameter(f"{name}.weight") for name in names}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft uses the global generator, which must not advance, and warns that a quantized layer cannot be merged
        if any(map(is_quantized, W.values())):
            warnings.simplefilter("ignore", UserWarning)
        if adapter_type == "vera":
            VeraModel(root, VeraConfig(**settings), "default")  # peft's only way: the layers share A and B
        else:
            config = LoraConfig(**settings, lora_alpha=rank, init_lora_weights=True, use_dora=adapter_type == "dora")
            inject_adapter_in_model(config, root)
    if adapter_type == "lora":
        lora_layers.give_own_forward(root, names)
    sides = [f"{name}.{side}" for name in names for side in TRAINED[adapter_type]]
    lora_parameters = {side: root.get_parameter(inner_name(side)) for side in sides}
    for parameter in lora_parameters.values():
        parameter.data = parameter.data.float()  # peft uses the layer's precision, in which small steps are lost
    with torch.no_grad():
        for name, parameter in lora_parameters.items():
            if values is not None:
                parameter.copy_(values[name])
            elif name.endswith("lora_A"):
                fan_in = parameter[0].numel()
                uniform = torch.rand(parameter.shape, generator=generator) * 2 - 1
                parameter.copy_(uniform / fan_in**0.5)
            elif name.endswith("lora_magnitude_vector"):  # peft computes it in the layer's precision; this is float32
                norms = root.get_submodule(f"{name}.default").get_weight_norm
                parameter.copy_(norms(dense(W[name.rpartition(".")[0]]).float(), 0, 1))
    if adapter_type == "vera":
        A, B = projections(seed, rank, max(w.shape[1] for w in W.values()), max(len(w) for w in W.values()))
        for name, w in W.items():
            layer = root.get_submodule(name)
            layer.vera_A["default"], layer.vera_B["default"] = A.to(w.device), B.to(w.device)
    return lora_parameters


def inner_name(parameter: str) -> str:
    """peft's name of a parameter that `add_lora` calls "layer.lora_A"; VeRA's vectors are not layers in peft."""
    return f"{parameter}.default" if ".vera_" in parameter else f"{parameter}.default.weight"


def refuse_convolutions(method: str, root: nn.Module, target_modules: Sequence[str]) -> None:
    """UserError if one of `target_modules` matches a convolution, since peft has VeRA for linear layers only."""
    roles = layers_by_role(root)
    convolutions = ["." + name for name, module in root.named_modules() if isinstance(module, nn.Conv2d)]
    refused = [
        w
        for w in target_modules
        for end in roles.get(w, (w,))
        if any(name.endswith("." + end) for name in convolutions)
    ]
    if refused:
        usable = ", ".join([w for w in target_modules if w not in refused] or ATTENTION)
        raise UserError(
            f"method {method}: adapter=vera is for linear layers, and target_modules has convolutions ({', '.join(refused)}); "
            f"use --set 'target_modules=[{usable}]'"
        )


def refuse_quantized(root: nn.Module, adapter_type: str) -> None:
    """UserError for a relative of LoRA beside quantized weights: peft has them for whole ones only."""
    if adapter_type != "lora" and any(map(is_quantized, root.parameters())):
        raise UserError(f"adapter={adapter_type}: needs weights that are not quantized; leave out --quantization")


def put_at(root: nn.Module, name: str, thing: nn.Module | nn.Parameter) -> None:
    """Replace the layer or parameter with this dotted name."""
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, thing)


def remove_lora(root: nn.Module, originals: Mapping[str, nn.Module]) -> None:
    """Put the original layers back and remove peft's attributes from the model."""
    for name, module in originals.items():
        put_at(root, name, module)
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        if attribute in root.__dict__:
            delattr(root, attribute)


def is_lora(lora_parameters: Mapping[str, torch.Tensor]) -> bool:
    """Whether all parameters are A and B of a plain LoRA, and not of a relative."""
    return all(name.endswith((".lora_A", ".lora_B")) for name in lora_parameters)


# LoRAs as weight deltas, in the shape of W (out, in, ...)


def products(lora_parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A B of each layer, in the shape of its W: peft's lora_B (out, r, ...) @ lora_A (r, in, ...).

    Layers of equal shapes are multiplied together, as one batch of matrices.
    """
    layers = dict.fromkeys(name.rpartition(".")[0] for name in lora_parameters)
    by_shapes: dict[tuple[torch.Size, torch.Size], list[str]] = {}
    for layer in sorted(layers):
        shapes = (lora_parameters[f"{layer}.lora_A"].shape, lora_parameters[f"{layer}.lora_B"].shape)
        by_shapes.setdefault(shapes, []).append(layer)
    by_layer: dict[str, torch.Tensor] = {}
    for (shape, _), names in by_shapes.items():
        A, B = (torch.stack([lora_parameters[f"{layer}.{side}"] for layer in names]) for side in ("lora_A", "lora_B"))
        stacked = (B.flatten(2) @ A.flatten(2)).view(len(names), B.shape[1], *shape[1:])
        by_layer |= dict(zip(names, stacked.unbind(), strict=True))
    return {layer: by_layer[layer] for layer in layers}


def sum_of_products(loras: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """sum_t A_t B_t of each layer; empty without LoRAs."""
    total: dict[str, torch.Tensor] = {}
    for lora_parameters in loras:
        for layer, product in products(lora_parameters).items():
            total[layer] = total.get(layer, 0) + product
    return total


def side_by_side(loras: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One LoRA whose product is sum_t A_t B_t: all factors concatenated along the rank; empty without LoRAs."""
    names = loras[0] if loras else ()
    return {
        k: torch.cat([lora_parameters[k] for lora_parameters in loras], 0 if k.endswith("lora_A") else 1) for k in names
    }


@renamed_keywords(changes="weight_deltas")
def add_to_weights(backbone: Backbone, weight_deltas: Mapping[str, torch.Tensor]) -> None:
    """Replace the weights W of the named layers by W + delta; see `Backbone.replace_weights`."""
    names = {f"{layer}.weight": delta for layer, delta in weight_deltas.items()}
    backbone.replace_weights({k: dense(backbone.denoiser.get_parameter(k)) + v for k, v in names.items()})


# VeRA and DoRA as LoRA or weights


def projections(seed: int, rank: int, width: int, height: int) -> tuple[torch.Tensor, torch.Tensor]:
    """VeRA's A (rank, width) and B (height, rank) for the largest layer; smaller layers use their first part.

    Uniform Kaiming as in peft, but from a generator with this seed.
    """
    g = torch.Generator().manual_seed(seed)
    A, B = (torch.rand(shape, generator=g) * 2 - 1 for shape in ((rank, width), (height, rank)))
    return A * (6 / width) ** 0.5, B * (6 / rank) ** 0.5


def vera_facts(root: nn.Module, vectors: Iterable[str], seed: int) -> dict[str, Any]:
    """The arguments of `vera_as_lora` besides the vectors with these names in `root`."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in vectors)
    return {"seed": seed, "widths": {layer: root.get_submodule(layer).in_features for layer in layers}}


def vera_as_lora(vectors: Mapping[str, torch.Tensor], seed: int, widths: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """The LoRA diag(d) A, diag(b) B of each layer, on the CPU. widths: the layers' input sizes."""
    b, d = ({layer: vectors[f"{layer}.{side}"].cpu() for layer in widths} for side in TRAINED["vera"])
    rank, height = len(next(iter(d.values()))), max(map(len, b.values()))
    A, B = projections(seed, rank, max(widths.values()), height)
    lora_parameters = {}
    for layer, width in widths.items():
        lora_parameters[f"{layer}.lora_A"] = d[layer][:, None] * A[:, :width]
        lora_parameters[f"{layer}.lora_B"] = b[layer][:, None] * B[: len(b[layer])]
    return lora_parameters


def dora_weights(root: nn.Module, lora_parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """m (W + A B) / || W + A B || of each layer of a pristine `root`, by the names of `Backbone.replace_weights`."""
    weights = {}
    for layer, product in products(lora_parameters).items():
        V = dense(root.get_parameter(f"{layer}.weight")).detach() + product
        scale = lora_parameters[f"{layer}.lora_magnitude_vector"].flatten() / V.flatten(1).norm(dim=1)
        weights[f"{layer}.weight"] = scale.view(-1, *[1] * (V.ndim - 1)) * V
    return weights


__getattr__ = old_names(__name__)
