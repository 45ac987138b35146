"""Pretraining of the miniature: `cpbench pretrain`."""

from cpbench import torchvision_compat

torchvision_compat.apply()
