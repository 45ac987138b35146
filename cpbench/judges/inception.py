"""Inception-v3's pooled features, on which KID and FID are defined, if its weights are at hand.

Nothing is downloaded: the weights are in torch's hub folder, where torch-fidelity and torchmetrics store them. Without them
KID is computed on the run's DINO judge, and named so.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np

from cpbench.errors import UserError

AT_ONCE = 16  # pictures


def weights() -> Path | None:
    """The file of the weights; None without it or without torch-fidelity."""
    from cpbench import torchvision_compat

    if importlib.util.find_spec("torch_fidelity") is None:
        return None
    torchvision_compat.apply()
    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(URL_INCEPTION_V3).path).name)
    return file if file.is_file() else None


class Inception:
    """The 2048 pooled features, by torch-fidelity; used like a judge, but its features are not unit vectors."""

    name = "inception"

    def __init__(self, file: Path, device: Any = "cpu"):
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        from cpbench.files import file_hash

        try:
            torch.load(file, weights_only=True)  # torch-fidelity's own loading would run code in the file
            network = FeatureExtractorInceptionV3("inception", ["2048"], str(file))
        except Exception as error:  # a broken pickle may raise anything
            raise UserError(
                f"{file}: not Inception's weights ({type(error).__name__}); remove it, and KID is computed with DINO"
            ) from None
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.identity: dict[str, Any] = {"model": "inception-v3", "weights_sha256": file_hash(file)}

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Features (n, 2048) of pictures (n, h, w, 3), uint8."""
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return torch.cat([self.network(part.to(self.device))[0].cpu() for part in batch.split(AT_ONCE)]).numpy()
