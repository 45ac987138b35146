"""What a method trains that is told to adapt the whole model: Theta, all its weights, or one LoRA in its place.

Either goes on from task to task. Theta is carried whole: 3.4 GB on Stable Diffusion, written after every task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from cpbench.backbones import adapters
from cpbench.backbones.backbone import Backbone
from cpbench.errors import UserError
from cpbench.method import Options, State, Task
from cpbench.moved import old_names

if TYPE_CHECKING:
    import torch

    from cpbench.backbones.backbone import Backbone


class WeightsOrLoraOptions(Options):
    """Options of a method that trains the weights, or with adapter=lora a LoRA, at a rate of its own."""

    adapter: Literal["full", "lora"] = Field("full", description="what is trained: full, all weights; lora, a LoRA")
    learning_rate: float = Field(5e-6, gt=0, description="of the weights with adapter=full")
    lora_learning_rate: float = Field(1e-4, gt=0, description="of A and B with adapter=lora")
    rank: int = Field(8, ge=1, description="rank of A and B with adapter=lora; alpha is the same")
    target_modules: tuple[str, ...] = Field(
        adapters.ATTENTION, description="layers (roles, or ends of their names) that get a LoRA with adapter=lora"
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
    """(Theta by its names in a state, and with its rate): what `put_back` left in the backbone, else a new one.

    with_words: the text encoders' weights, but for their token tables, are Theta's as well.
    """
    if o.adapter == "lora":
        lora_parameters = backbone.lora_parameters or backbone.add_lora(
            o.rank, o.target_modules, task.generator("lora")
        )
        return {f"adapter/{k}": v for k, v in lora_parameters.items()}, (
            o.lora_learning_rate,
            list(lora_parameters.values()),
        )
    weights = backbone.weights or backbone.replace_weights(whole(backbone, with_words))
    return {f"weights/{k}": v for k, v in weights.items()}, (o.learning_rate, list(weights.values()))


def whole(backbone: Backbone, with_words: bool) -> dict[str, torch.Tensor]:
    """All weights by the names of `replace_weights`: the UNet's, and the text encoders' but for their token tables."""
    weights = dict(backbone.denoiser.named_parameters())
    tables = {id(encoder.table.weight) for encoder in backbone.vocabulary.encoders}
    for part, encoder in backbone.vocabulary.named_encoders() if with_words else ():
        weights |= {f"{part}.{name}": p for name, p in encoder.named_parameters() if id(p) not in tables}
    return weights


def load_trainables(backbone: Backbone, state: State, o: WeightsOrLoraOptions) -> None:
    """What the last task left: all weights, or A and B; nothing before the first."""
    if weights := state.tensors_of("weights"):
        backbone.replace_weights(weights)
    if lora_parameters := state.tensors_of("adapter"):
        backbone.add_lora(o.rank, o.target_modules, values=lora_parameters)


def refuse_if_too_large(method: str, o: WeightsOrLoraOptions, backbone: Backbone) -> None:
    """UserError where all weights are to be trained and do not fit."""
    if o.adapter == "full":
        refuse_full_training(method, backbone, "use --set adapter=lora")


def lora(state: State, o: WeightsOrLoraOptions) -> dict[str, torch.Tensor] | None:
    """What `Method.lora` returns."""
    return state.tensors_of("adapter") if o.adapter == "lora" else None


def device_memory(device: torch.device) -> int:
    """Bytes of memory that the device has in all."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def refuse_full_training(method: str, backbone: Backbone, instead: str) -> None:
    """UserError if the UNet's weights with gradients and AdamW's two moments, all in float32, do not fit the device."""
    n = sum(p.numel() for p in backbone.denoiser.parameters())
    need, there = 16 * n, device_memory(backbone.device)
    if need > there:
        raise UserError(
            f"method {method}: trains all {n / 1e9:.1f} billion weights of the UNet, {need / 1e9:.0f} GB with gradients and "
            f"AdamW's moments, and {backbone.device.type} has {there / 1e9:.0f} GB; {instead}"
        )


__getattr__ = old_names(__name__)
