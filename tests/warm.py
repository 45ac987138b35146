"""Everything a run imports, imported: what the processes of `undisturbed.server` are forked from."""

from cpbench import torchvision_compat

torchvision_compat.apply()

import diffusers  # noqa: E402, F401
import open_clip  # noqa: E402, F401
import peft  # noqa: E402, F401
import timm  # noqa: E402, F401
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402, F401
from transformers import CLIPTextModel, CLIPTokenizer  # noqa: E402, F401

import cpbench.learning  # noqa: E402, F401
import cpbench.miniature.world  # noqa: E402, F401
import cpbench.running.runner  # noqa: E402, F401
