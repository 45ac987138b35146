"""Pretraining of the miniature: `cpbench pretrain [vae|unet|clip|dino]`."""

from cpbench import torchvision_compat

torchvision_compat.apply()
