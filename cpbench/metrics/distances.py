"""Distances between sets of pictures: MMDs on judges' features, KID, DIV. Pure functions on numpy arrays.

A_mmd, F_mmd, CMMD and KID compare two sets and say nothing about fewer than 50 pictures per side. Concepts have 3 to 6 real
pictures: so they are pooled, in the order given, until both sides have 50 (`pools`), and the value is the mean over the
pools. Within a pool it does not matter which picture belongs to which concept: two concepts that change places cost nothing.
Only values of equal pools and equal numbers of pictures belong in one column.

Features are those the caller gives. cpbench's judges give unit vectors, on which a polynomial MMD is far smaller than on
CLIP's own: a report must say which.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cpbench.errors import UserError, did_you_mean
from cpbench.metrics.cosines import Array, cosine_self_pairs, directions

LEAST = 50  # pictures per side
SCALE = 1000  # of A_mmd, F_mmd and CMMD, as published; KID has none, as torchmetrics has it
SIGMA = 10.0  # CMMD's bandwidth
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000  # torchmetrics' defaults
# LPIPS's network -> the ImageNet weights in torchvision that it is built on
LPIPS_NETWORKS = {"alex": "AlexNet_Weights", "squeeze": "SqueezeNet1_1_Weights", "vgg": "VGG16_Weights"}
PAIRS_AT_ONCE = 32  # of LPIPS


@dataclass(frozen=True)
class Pooled:
    """A distance over pools of concepts: its name, the mean over the pools, and each pool's own value by its concepts."""

    name: str
    value: float
    pools: dict[tuple[str, ...], float]


# Of two sets of features


def polynomial_mmd(x: ArrayLike, y: ArrayLike, paired: bool = False) -> float:
    """Unbiased squared MMD of x (m, d) and y (n, d), kernel (x.y / d + 1)^3; NaN for fewer than 2 rows.

        mean_{i!=j} k(x_i, x_j) + mean_{i!=j} k(y_i, y_j) - 2 mean k(x_i, y_j)

    The kernel of KID (Binkowski et al. 2018) and the estimator of Gretton et al. 2012, eq. 3: around 0, so often
    negative, for two sets of one distribution. It takes all pictures to be drawn independently.

    paired: row i of y was drawn with the noise of row i of x. Then k(x_i, y_i) is left out of the last mean, as in
    Gretton et al. 2012, eq. 4; with it the estimate would be too low, and below 0 for a model that did not change,
    which without it has 0. ValueError if the shapes do not fit.
    """
    x, y = _features(x, y)
    m, n = len(x), len(y)
    if paired and m != n:
        raise ValueError(f"paired features must have the same number of rows; got {x.shape} and {y.shape}")
    if min(m, n) < 2:
        return float("nan")
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - np.trace(xx)) / (m * (m - 1)) + (yy.sum() - np.trace(yy)) / (n * (n - 1))
    across = (xy.sum() - np.trace(xy)) / (m * (m - 1)) if paired else xy.mean()
    return float(within - 2 * across)


def gaussian_mmd(x: ArrayLike, y: ArrayLike, sigma: float = SIGMA) -> float:
    """Biased squared MMD of the directions of x (m, d) and y (n, d), kernel exp(-|x - y|^2 / (2 sigma^2)).

    CMMD without its factor 1000: the estimator of the official code (google-research, cmmd/distance.py), which is
    Gretton et al. 2012, eq. 5. Never below 0, 0 for equal sets, and too high by about 2 (1 - mean kernel) / pictures:
    compare only equal numbers of pictures. A zero vector gives NaN, as does an empty set.
    """
    x, y = _features(x, y)
    x, y = directions(x, "x"), directions(y, "y")
    if not len(x) or not len(y):
        return float("nan")
    # On unit vectors |a - b|^2 = 2 - 2 a.b. The kernel is within 2% of 1: less 1, which cancels, it keeps its digits.
    xx, yy, xy = (np.expm1((a @ b.T - 1) / sigma**2).mean() for a, b in ((x, x), (y, y), (x, y)))
    return float(xx + yy - 2 * xy)


def kernel_inception_distance(x: ArrayLike, y: ArrayLike, seed: int = 0) -> float:
    """KID (Binkowski et al. 2018) by torchmetrics, on features x (m, d) and y (n, d) instead of Inception's.

    The mean over 100 subsets of size 1000 of the unbiased polynomial MMD; of fewer pictures the subsets are as large as
    the smaller side. Subsets are sampled with `seed`; torch's global generator is left as it was. NaN for fewer than 2 rows.
    UserError if torchmetrics is not installed.
    """
    x, y = _features(x, y)
    size = min(len(x), len(y), KID_SUBSET_SIZE)
    if size < 2:
        return float("nan")
    import torch

    kid = _torchmetrics("KID").image.kid
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # that features are kept in memory
        torch.default_generator.manual_seed(seed)
        whole = size == len(x) == len(y)  # then all subsets are the same
        metric = kid.KernelInceptionDistance(torch.nn.Identity(), 1 if whole else KID_SUBSETS, size)
        metric.update(torch.from_numpy(x), real=True)
        metric.update(torch.from_numpy(y), real=False)
        return float(metric.compute()[0])


# Over the concepts learned so far


def pools(x: Mapping[str, ArrayLike], y: Mapping[str, ArrayLike], name: str, least: int = LEAST) -> list[list[str]]:
    """Concepts in the order of `x`, in groups with at least `least` rows on both sides; [] without concepts.

    x, y: features (n, d) by concept. A group is closed as soon as it is large enough; what is left over at the end
    joins the last one. UserError, with the distance's name, if all concepts together are not enough; ValueError if the
    sides have different concepts.
    """
    if x.keys() != y.keys():
        raise ValueError(f"both sides must have the same concepts; got {sorted(x)} and {sorted(y)}")
    groups: list[list[str]] = [[]]
    for concept in x:
        groups[-1].append(concept)
        if all(sum(len(side[c]) for c in groups[-1]) >= least for side in (x, y)):
            groups.append([])
    remainder = groups.pop()
    if groups:
        groups[-1] += remainder
    elif remainder:
        one, other = (sum(len(side[c]) for c in remainder) for side in (x, y))
        scope = f"all {len(remainder)} concepts pooled" if len(remainder) > 1 else "of one concept"
        raise UserError(
            f"{name}: {one} and {other} pictures, {scope}, are too few: it needs {least} per side; "
            "learn more concepts or generate more pictures per prompt"
        )
    return groups


def a_mmd(real: Mapping[str, ArrayLike], generated: Mapping[str, ArrayLike]) -> Pooled:
    """A_mmd x1000: unbiased polynomial MMD^2 of real and generated CLIP features (n, d) by concept, mean over pools.

    C-LoRA (Smith et al. 2024), whose mean is over concepts: `generated` is what the last model generates for every concept. Kernel,
    factor and pools are our reading: the papers' texts were not at hand. Lower is better.
    """
    return _pooled("A_mmd", real, generated, lambda x, y: SCALE * polynomial_mmd(x, y))


def f_mmd(
    after_own_task: Mapping[str, ArrayLike], after_last_task: Mapping[str, ArrayLike], paired: bool = True
) -> Pooled:
    """F_mmd x1000: unbiased polynomial MMD^2 of pictures generated right after learning and after the last task.

    after_own_task, after_last_task: CLIP features (n, d) by concept, of all concepts but the last learned (C-LoRA, Smith et al. 2024; kernel,
    factor and pools are our reading). NaN for none: after one task nothing can be forgotten. paired: row i of both was
    generated from the same noise, as in cpbench; see `polynomial_mmd`. A method that learned nothing has 0: read it together
    with A_mmd. Lower is better.
    """
    return _pooled("F_mmd", after_own_task, after_last_task, lambda x, y: SCALE * polynomial_mmd(x, y, paired))


def cmmd(real: Mapping[str, ArrayLike], generated: Mapping[str, ArrayLike]) -> Pooled:
    """CMMD x1000 (Jayasumana et al. 2024): Gaussian kernel, sigma 10, on unit CLIP features (n, d) by concept.

    Published values are of CLIP ViT-L/14@336 on 30 thousand pictures; with another CLIP and 50 pictures the numbers are
    no match for them. Lower is better.
    """
    return _pooled("CMMD", real, generated, lambda x, y: SCALE * gaussian_mmd(x, y))


def kid(real: Mapping[str, ArrayLike], generated: Mapping[str, ArrayLike], judge: str, seed: int = 0) -> Pooled:
    """KID on a judge's features (n, d) by concept, named "KID-<judge>": KID alone, for judge "", is Inception's. No factor of 1000.

    UserError if torchmetrics is not installed. Lower is better.
    """
    return _pooled(
        f"KID-{judge}" if judge else "KID", real, generated, lambda x, y: kernel_inception_distance(x, y, seed)
    )


# DIV


def diversity(pictures: ArrayLike) -> float:
    """Mean over pairs i != j of 1 - cosine, of embeddings (n, d) of one (concept, prompt); NaN for n < 2.

    0: all alike, as where the noise no longer counts. DIV with a judge in LPIPS's place. Higher is better. Ours.
    """
    return 1.0 - cosine_self_pairs(pictures)


def lpips_at_hand(network: str = "alex") -> bool:
    """Whether `div_lpips` can be taken: torchmetrics is installed and torch's hub folder has the network's weights.

    Nothing is downloaded, here or there. UserError for an unknown network.
    """
    import importlib.util

    if network not in LPIPS_NETWORKS:
        raise did_you_mean(network, LPIPS_NETWORKS, "LPIPS network")
    return importlib.util.find_spec("torchmetrics") is not None and _lpips_weights(network).is_file()


def div_lpips(pictures: NDArray[np.uint8] | list[NDArray[np.uint8]], network: str = "alex") -> float:
    """DIV: mean LPIPS over pairs i != j of pictures (n, h, w, 3), uint8, of one (concept, prompt); NaN for n < 2.

    DreamBooth (Ruiz et al. 2023); 0.391 with prior preservation and 0.371 without it there. LPIPS (Zhang et
    al. 2018) by torchmetrics; which network DreamBooth took is not known, "alex" is LPIPS's own default. Higher is
    better. UserError if torchmetrics or the network's weights are not at hand.
    """
    if not lpips_at_hand(network):
        raise UserError(
            f"DIV by LPIPS: needs torchmetrics (pip install 'cpbench[metrics]') and the weights {_lpips_weights(network)}"
        )
    if len(pictures) < 2:
        return float("nan")
    import torch

    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    pairs = torch.tensor(list(combinations(range(len(images)), 2)))
    metric = _lpips(network)
    metric.reset()
    with torch.no_grad():
        for part in pairs.split(PAIRS_AT_ONCE):
            metric.update(images[part[:, 0]], images[part[:, 1]])
        return float(metric.compute())


def div(
    pictures: NDArray[np.uint8] | list[NDArray[np.uint8]], embeddings: ArrayLike, judge: str, network: str = "alex"
) -> tuple[str, float]:
    """DIV of one (concept, prompt) and its name: "DIV-lpips-<network>" where LPIPS is at hand, else "DIV-<judge>".

    pictures (n, h, w, 3), uint8; embeddings (n, d): the judge's, of the same pictures. The two are on other scales.
    """
    name = div_name(judge, network)
    return name, diversity(embeddings) if name == f"DIV-{judge}" else div_lpips(pictures, network)


def div_name(judge: str, network: str = "alex") -> str:
    """What `div` is by: "DIV-lpips-<network>" where LPIPS is at hand, else "DIV-<judge>"."""
    return f"DIV-lpips-{network}" if lpips_at_hand(network) else f"DIV-{judge}"


def _pooled(
    name: str, x: Mapping[str, ArrayLike], y: Mapping[str, ArrayLike], distance: Callable[[Array, Array], float]
) -> Pooled:
    values = {}
    for group in pools(x, y, name):
        a, b = (np.concatenate([np.asarray(side[c], dtype=np.float64) for c in group]) for side in (x, y))
        values[tuple(group)] = distance(a, b)
    return Pooled(name, float(np.mean(list(values.values()))) if values else float("nan"), values)


def _features(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Both in double precision. ValueError unless they are (n, d) and equally wide."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ValueError(f"features must be (m, d) and (n, d) with d > 0; got {x.shape} and {y.shape}")
    return x, y


def _torchmetrics(name: str) -> Any:
    from cpbench import torchvision_compat

    torchvision_compat.apply()
    try:
        import torchmetrics.image.kid
        import torchmetrics.image.lpip
    except ImportError:
        raise UserError(f"{name}: needs torchmetrics; pip install 'cpbench[metrics]'") from None
    return torchmetrics


def _lpips_weights(network: str) -> Path:
    """Where torchvision looks for the network's weights before it downloads them."""
    from cpbench import torchvision_compat

    torchvision_compat.apply()
    import torch
    import torchvision

    url = getattr(torchvision.models, LPIPS_NETWORKS[network]).DEFAULT.url
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


@cache
def _lpips(network: str) -> Any:
    return _torchmetrics("DIV by LPIPS").image.lpip.LearnedPerceptualImagePatchSimilarity(network, normalize=True)
