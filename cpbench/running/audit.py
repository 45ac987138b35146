"""Replay checks: while `learn` runs, other concepts' data cannot be opened; afterwards the state is searched for it.

Python's audit hooks see every `open` of this process, from any library that opens files through Python. The drawn
world raises its own audit event when a subject is requested by name. A method written to evade both (for example
through ctypes) can; the checks catch honest mistakes and lazy cheats.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cpbench.errors import ReplayError

if TYPE_CHECKING:
    import numpy as np
    import torch

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".npy", ".npz")
MOST_ALIKE = 0.9


_watch: dict | None = None
_hooked = False


def _hook(event: str, args: tuple) -> None:
    watch = _watch  # read once: another thread, such as the memory sampler, may be in here when the watch ends
    if watch is None:
        return
    if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
        path = os.path.realpath(os.fsdecode(args[0]))
        if any(path.startswith(folder) for folder in watch["folders"]):
            raise ReplayError(
                f"learn opened {path}: it holds another concept's pictures, or one that identity is scored against"
            )
        if path.startswith(watch["run"]) and path.lower().endswith(PICTURE_SUFFIXES):
            raise ReplayError(f"learn opened {path}: learn may not read the pictures of a run")
    elif event == "cpbench.subject" and args[0] != watch["concept"]:
        raise ReplayError(f"learn asked the drawn world for {args[0]!r} while learning {watch['concept']!r}")
    elif event == "cpbench.references":
        raise ReplayError(f"learn asked for the pictures of {args[0]!r} that identity is scored against")


@contextmanager
def learning_only(concept: str, other_data: Iterable[Path], run_root: Path) -> Iterator[None]:
    """Inside this context only the data of `concept` may be opened.

    Opening anything in `other_data` (folders and files), or a picture below `run_root`, raises ReplayError, as does asking the
    drawn world for another subject or for any references.
    """
    global _watch, _hooked
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked = True
    # single files as well: links in a folder, as in the hub's cache, lead out of it
    folders = [path if os.path.isfile(path) else path + os.sep for path in map(os.path.realpath, other_data)]
    _watch = {"concept": concept, "folders": folders, "run": os.path.realpath(run_root) + os.sep}
    try:
        yield
    finally:
        _watch = None


def unit(x: torch.Tensor) -> torch.Tensor:
    """The rows of x (m, n), centred and scaled to unit length; a constant row becomes 0."""
    centred = x - x.mean(1, keepdim=True)
    norm = centred.norm(dim=1, keepdim=True)
    # a centred constant row is only rounding error, with an arbitrary direction
    return centred / norm.clamp(min=1e-12) * (norm > 1e-6 * x.norm(dim=1, keepdim=True))


def correlations(slices: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Absolute correlations (m, r) of the rows of `slices` (m, n) and of `references` (r, n); 0 for a constant row."""
    return (unit(slices) @ unit(references).T).abs()


def highest_correlation(slices: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute correlation of the rows of `slices` (m, n) with the vector `reference` (n,)."""
    return float(correlations(slices, reference[None]).max())


def search_state(
    tensors: Mapping[str, torch.Tensor], concept_data: Mapping[str, tuple[np.ndarray, torch.Tensor]]
) -> None:
    """Raise ReplayError if a slice of a state tensor is a learned concept's image or latent, up to scale and offset.

    `concept_data` maps each concept to its images, uint8 (n, h, w, 3), and its latents (n, c, h', w').
    """
    import torch

    longest = max((tensor.numel() for tensor in tensors.values()), default=0)
    by_size: dict[int, list[tuple[str, str, torch.Tensor]]] = {}
    for concept, (images, latents) in concept_data.items():
        rows = torch.from_numpy(images).float()
        forms = [
            ("image", rows),
            ("image", rows.permute(0, 3, 1, 2)),
            ("image", rows.mean(-1)),
            ("latent", latents.float().cpu()),
        ]
        for form_name, form in forms:
            for vector in form.flatten(1) if form[0].numel() <= longest else ():  # no tensor holds a longer one
                by_size.setdefault(len(vector), []).append((concept, form_name, vector))
    # computed once, not per tensor: at 512 pixels they are as large as a small state
    units = {n: unit(torch.stack([vector for *_, vector in references])) for n, references in by_size.items()}
    for name, tensor in tensors.items():
        flat = tensor.detach().float().cpu().reshape(-1)
        for n, references in units.items():
            if not (count := len(flat) // n):
                continue
            highest = (unit(flat[: count * n].view(count, n)) @ references.T).abs().amax(0)
            if highest.max() > MOST_ALIKE:
                concept, form_name, _ = by_size[n][int(highest.argmax())]
                raise ReplayError(
                    f"state tensor {name!r} holds an {form_name} of concept {concept!r}: a state may not contain training data"
                )
