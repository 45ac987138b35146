"""Convolutions on channels_last tensors while the denoiser is in use, where that is faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# (device, precision): convolutions and group norms of these have kernels that read channels_last without a copy
FASTER = {
    ("cpu", torch.float32),
    ("cpu", torch.bfloat16),
    ("cuda", torch.bfloat16),
    ("cuda", torch.float16),
}


@contextmanager
def channels_last(root: nn.Module) -> Iterator[None]:
    """A context in which the frozen convolutions of `root` have their weights in channels_last, so that activations follow.

    Values, shapes and the parameters themselves stay; only strides differ, and are as before afterwards. Nothing
    happens where FASTER does not have the device and precision of a weight.
    """
    weights = [m.weight for m in root.modules() if isinstance(m, nn.Conv2d) and not m.weight.requires_grad]
    weights = [w for w in weights if (w.device.type, w.dtype) in FASTER and w.is_contiguous()]
    for weight in weights:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for weight in weights:
            weight.data = weight.data.contiguous()
