"""The functions that compute the model card's figures: pure functions of arrays."""

from __future__ import annotations

import numpy as np


def psnr(error: float) -> float:
    """Decibels of a mean squared error on a scale of -1 to 1."""
    return float(10 * np.log10(4 / error))


def pca_error(train: np.ndarray, test: np.ndarray, patch: int, components: int) -> float:
    """Mean squared error of `test` rebuilt from the leading components of `train`'s patches; uint8 (n, 64, 64, 3)."""

    def cut(images: np.ndarray) -> np.ndarray:
        n, k = len(images), 64 // patch
        x = images.astype(np.float32) / 127.5 - 1
        return x.reshape(n, k, patch, k, patch, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, patch * patch * 3)

    a, b = cut(train), cut(test)
    mean = a.mean(0)
    _, vectors = np.linalg.eigh((a - mean).T @ (a - mean))
    basis = vectors[:, -components:]
    residual = (b - mean) - (b - mean) @ basis @ basis.T
    return float((residual**2).mean())


def nearest_neighbour(vectors: np.ndarray, individual: np.ndarray) -> float:
    """Share of pictures whose nearest other picture shows the same individual; vectors (n, d) of unit length."""
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    return float((individual[similar.argmax(1)] == individual).mean())


def identity_auc(vectors: np.ndarray, noun: np.ndarray, individual: np.ndarray, place: np.ndarray) -> float:
    """AUC of "same individual, other place" over "another of the same class, same place" by cosine."""
    similar = vectors @ vectors.T
    upper = np.triu(np.ones_like(similar, dtype=bool), 1)
    same = upper & (individual[:, None] == individual) & (place[:, None] != place)
    other = upper & (individual[:, None] != individual) & (noun[:, None] == noun) & (place[:, None] == place)
    positive, negative = similar[same], np.sort(similar[other])
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / 2 / len(negative))


def zero_shot(images: np.ndarray, texts: np.ndarray, text_labels: np.ndarray, labels: np.ndarray) -> float:
    """Share of images (n, d) nearest to their own label's mean text; texts (m, d), all of unit length.

    Labels are numbers; images and texts labelled -1 are left out. As CLIP's own zero-shot test: the prompts of a label
    are averaged (Radford et al. 2021, section 3.1.4).
    """
    distinct = np.unique(text_labels[text_labels >= 0])
    means = np.stack([texts[text_labels == label].mean(0) for label in distinct])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    labelled = labels >= 0
    return float((distinct[(images[labelled] @ means.T).argmax(1)] == labels[labelled]).mean())


def share_of_the_way(scores: np.ndarray, start: np.ndarray, ceiling: np.ndarray) -> float:
    """The share of the gap from row 0 to the ceiling that was closed, a ratio of sums; one number per individual, each (n,)."""
    return float((scores - start).sum() / (ceiling - start).sum())
