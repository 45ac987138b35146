"""Trainables of a method that adapts the whole model: all its weights (Theta), or one LoRA in place of them.

Each task continues from the last one. The state holds all of Theta: 3.4 GB on Stable Diffusion, written after each
task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.errors import UserError
from cpbench.learning.class_preservation import ClassPreservationOptions
from cpbench.method import RecipeOptions, State, Task
from cpbench.moved import old_names

if TYPE_CHECKING:
    import torch

    from cpbench.backbones.backbone import Backbone


class WeightsOrLoraOptions(ClassPreservationOptions, RecipeOptions):
    """Options of a method that trains all weights, or, with adapter=lora, one LoRA with its own learning rate."""

    adapter: Literal["full", "lora"] = Field("full", description="full: train all weights; lora: train a LoRA")
    learning_rate: float = Field(5e-6, gt=0, description="learning rate of the weights (adapter=full)")
    lora_learning_rate: float = Field(1e-4, gt=0, description="learning rate of the LoRA factors (adapter=lora)")
    rank: int = Field(8, ge=1, description="rank of the LoRA (adapter=lora); alpha is the same")
    target_modules: tuple[str, ...] = Field(
        adapters.ATTENTION, description="layers with a LoRA (adapter=lora): roles, or endings of layer names"
    )

    only: ClassVar = {
        "learning_rate": {"adapter": ("full",)},
        "lora_learning_rate": {"adapter": ("lora",)},
        "rank": {"adapter": ("lora",)},
        "target_modules": {"adapter": ("lora",)},
    }


Group = tuple[float, list[torch.Tensor]]


def init_trainables(
    backbone: Backbone, task: Task, o: WeightsOrLoraOptions, with_words: bool = False
) -> tuple[dict, Group]:
    """(the trainables by their names in a state, their group for `train`): those of `load_trainables`, else new ones.

    with_words: Theta includes the text encoders' weights, except their token tables.
    """
    if o.adapter == "lora":
        lora_parameters = backbone.lora_parameters or backbone.add_lora(
            o.rank, o.target_modules, task.generator("lora")
        )
        return {f"adapter/{k}": v for k, v in lora_parameters.items()}, (
            o.lora_learning_rate,
            list(lora_parameters.values()),
        )
    weights = backbone.weights or backbone.replace_weights(all_weights(backbone, with_words))
    return {f"weights/{k}": v for k, v in weights.items()}, (o.learning_rate, list(weights.values()))


def all_weights(backbone: Backbone, with_words: bool) -> dict[str, torch.Tensor]:
    """The weights of the UNet, and of the text encoders except their token tables, by the names of `replace_weights`."""
    weights: dict[str, torch.Tensor] = dict(backbone.denoiser.named_parameters())
    tables = {id(encoder.table.weight) for encoder in backbone.vocabulary.encoders}
    for part, encoder in backbone.vocabulary.named_encoders() if with_words else ():
        weights |= {f"{part}.{name}": p for name, p in encoder.named_parameters() if id(p) not in tables}
    return weights


def load_trainables(backbone: Backbone, state: State, o: WeightsOrLoraOptions) -> None:
    """Put the last task's weights or LoRA into the backbone; nothing before the first task."""
    if weights := state.tensors_of("weights"):
        backbone.replace_weights(weights)
    if lora_parameters := state.tensors_of("adapter"):
        backbone.add_lora(o.rank, o.target_modules, values=lora_parameters)


def refuse_if_too_large(method: str, o: WeightsOrLoraOptions, backbone: Backbone) -> None:
    """UserError if all weights are to be trained and do not fit into the device's memory."""
    if o.adapter == "full":
        refuse_full_training(method, backbone, "use --set adapter=lora")


def lora(state: State, o: WeightsOrLoraOptions) -> dict[str, torch.Tensor] | None:
    """The result for `Method.lora`: the LoRA, or None with adapter=full."""
    return state.tensors_of("adapter") if o.adapter == "lora" else None


def device_memory(device: torch.device) -> int:
    """Total memory of the device in bytes."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def refuse_full_training(method: str, backbone: Backbone, hint: str) -> None:
    """UserError if the UNet's float32 weights, gradients and two AdamW moments do not fit into the device's memory."""
    n = sum(p.numel() for p in backbone.denoiser.parameters())
    needed, memory = 16 * n, device_memory(backbone.device)
    if needed > memory:
        raise UserError(
            f"method {method}: trains all {n / 1e9:.1f} billion weights of the UNet, {needed / 1e9:.0f} GB with gradients and "
            f"AdamW's moments, and {backbone.device.type} has {memory / 1e9:.0f} GB; {hint}"
        )


__getattr__ = old_names(__name__)
