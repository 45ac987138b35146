"""The diagonal Fisher information of named tensors, its running sum over tasks, and the penalty of EWC.

Kirkpatrick et al. 2017 (elastic weight consolidation) with the running Fisher of Schwarz et al. 2018 (online EWC). Each
task's Fisher is scaled to mean 1 before it is added. Its own scale is that of the task's loss, so that without scaling
a single task could dominate the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from cpbench.learning.flat import joined

LARGEST_SCALE = 2.0**16  # of a loss in float16; as torch's GradScaler begins
Tensors = Mapping[str, torch.Tensor]


def squared_gradients(
    loss: torch.Tensor, parameters: Tensors, retain_graph: bool = False, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """(d loss / d phi_j)^2 of every entry; zero where the loss does not depend on a tensor.

    dtype: the precision that the loss was computed in. Gradients below 6e-8 are 0 in float16, so that there the loss is
    multiplied by the largest power of two, up to LARGEST_SCALE, with which all gradients are finite, and these are divided by it.
    """
    scale = LARGEST_SCALE if dtype == torch.float16 else 1.0
    while True:
        gradients = torch.autograd.grad(
            loss if scale == 1 else loss * scale,
            list(parameters.values()),
            retain_graph=retain_graph or scale > 1,
            allow_unused=True,
        )
        if scale == 1 or all(g is None or bool(torch.isfinite(g).all()) for g in gradients):
            break
        scale /= 2
    unscaled = [None if g is None else g.detach() if scale == 1 else g.detach() / scale for g in gradients]
    pairs = zip(parameters.items(), unscaled, strict=True)
    return {k: torch.zeros_like(p) if g is None else g.square() for (k, p), g in pairs}


def estimate(
    samples: Iterable[Sequence[torch.Tensor]], parameters: Tensors, dtype: torch.dtype = torch.float32
) -> list[dict[str, torch.Tensor]]:
    """Empirical diagonal Fishers: the squared gradients of each loss, averaged over samples.

    samples: the losses of one example each, as a sequence with one entry per Fisher. A sample must not be a batch: the
    square of a batch's mean gradient is too small. dtype: the backbone's, see `squared_gradients`; the parameters are
    float32 in all precisions.
    """
    sums: list[dict[str, torch.Tensor]] = []
    count = 0
    for losses in samples:
        count += 1
        more = [i + 1 < len(losses) for i in range(len(losses))]
        squares = [squared_gradients(loss, parameters, m, dtype) for loss, m in zip(losses, more, strict=True)]
        del losses  # else this sample's graph stays in memory while the next one is built
        if sums:
            for total, square in zip(sums, squares, strict=True):
                torch._foreach_add_(list(total.values()), [square[k] for k in total])
        else:
            sums = squares
    return [{k: v / count for k, v in total.items()} for total in sums]


def flat(tensors: Tensors) -> torch.Tensor:
    """All entries as one vector, tensors in the order of their names."""
    return torch.cat([v.reshape(-1) for _, v in sorted(tensors.items())])


def online(
    running: Tensors | None, new: Tensors, decay: float = 1.0, normalise: bool = True
) -> dict[str, torch.Tensor]:
    """F_bar = decay * F_bar + F / mean(F), the mean over all entries of all tensors; without `normalise` + F."""
    scale = flat(new).mean().clamp(min=1e-30) if normalise else 1.0
    return {k: (decay * running[k] if running else 0.0) + v / scale for k, v in new.items()}


def penalty(fisher: Tensors, parameters: Tensors, anchor: Tensors) -> torch.Tensor:
    """1/2 sum_j F_j (phi_j - phi*_j)^2, the sum over the entries of `parameters`.

    It is computed on vectors of all entries: a few operations, however many tensors there are.
    """
    return 0.5 * weighted_distance(fisher, parameters, anchor)


def weighted_distance(weights: Tensors, parameters: Tensors, anchor: Tensors) -> torch.Tensor:
    """sum_j w_j (phi_j - phi*_j)^2, the sum over the entries of `parameters`."""
    w, fixed = (joined([tensors[name] for name in parameters]) for tensors in (weights, anchor))
    return (w * (joined(list(parameters.values())) - fixed).square()).sum()


def cosine(a: Tensors, b: Tensors) -> float:
    """Cosine similarity of two Fishers: 1 if one is a multiple of the other."""
    x, y = flat(a).cpu().double(), flat(b).cpu().double()  # squared gradients are small, their squares smaller
    return float(x @ y / (x.norm() * y.norm()))
