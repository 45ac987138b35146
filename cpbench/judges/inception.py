"""Inception-v3's pooled features, which KID and FID are of by definition, where its weights are at hand.

Nothing is downloaded: they are where torch-fidelity and torchmetrics keep them, in torch's hub folder. Without them KID is
taken on the run's DINO judge, and named so.
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
    """The weights' file; None where it, or torch-fidelity, is not at hand."""
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

    def __init__(self, file: Path):
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        from cpbench.files import file_hash

        try:
            torch.load(file, weights_only=True)  # torch-fidelity's own loading would run any code in it
            self.network = FeatureExtractorInceptionV3("inception", ["2048"], str(file))
        except Exception as error:  # whatever a broken pickle raises
            raise UserError(
                f"{file}: not Inception's weights ({type(error).__name__}); remove it, and KID is by DINO"
            ) from None
        self.identity: dict[str, Any] = {"model": "inception-v3", "weights_sha256": file_hash(file)}

    def images(self, pictures: np.ndarray) -> np.ndarray:
        """Features (n, 2048) of pictures (n, h, w, 3), uint8."""
        import torch

        batch = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            return torch.cat([self.network(part)[0] for part in batch.split(AT_ONCE)]).numpy()
