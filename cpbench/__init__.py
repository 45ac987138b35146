"""cpbench: a benchmark harness for continual personalization of text-to-image diffusion models."""

from __future__ import annotations

import contextlib
from typing import Any

from cpbench import moved

__version__ = "0.2.0"
moved.answer_for_old_names()


def run(*, progress: bool = False, **keywords: Any) -> dict[str, Any]:
    """Run (or go on with) one configuration, and return its results as pandas tables.

    progress: say on standard output what `cpbench run` says; else nothing is printed.

    Keywords are those of `cpbench.config.RunConfig`: method, sequence, backbone, seed, order, output, options, ...
    Returns {"scores": long form, "matrices": {metric: retention matrix}, "folder": path of the run folder}.
    Raises cpbench.errors.UserError for bad input.
    """
    from cpbench import output
    from cpbench.config import resolve
    from cpbench.metrics import matrices
    from cpbench.records import tables
    from cpbench.running.runner import execute

    with output.opened() if progress else contextlib.nullcontext():
        result = execute(*resolve(keywords))
    scores = tables.read_scores(result.at.scores)
    return {"scores": scores, "matrices": matrices.matrices(scores, result.concepts), "folder": result.folder}
