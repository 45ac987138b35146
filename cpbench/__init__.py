"""cpbench: a benchmark harness for continual personalization of text-to-image diffusion models."""

from __future__ import annotations

import contextlib
from typing import Any

from cpbench import moved

__version__ = "0.2.0"
moved.answer_for_old_names()


def run(*, progress: bool = False, **settings: Any) -> dict[str, Any]:
    """Run one configuration, or resume it, and return its results as pandas tables.

    progress: print what `cpbench run` prints; by default nothing is printed.
    settings: the fields of `cpbench.config.RunConfig`: method, sequence, backbone, seed, order, output, options, ...

    Returns {"scores": long form, "matrices": {metric: retention matrix}, "folder": path of the run folder}.
    Raises cpbench.errors.UserError for invalid input.
    """
    from cpbench import output
    from cpbench.config import resolve
    from cpbench.errors import speaking_of_arguments
    from cpbench.metrics import matrices
    from cpbench.records import tables
    from cpbench.running.runner import execute

    with output.opened() if progress else contextlib.nullcontext(), speaking_of_arguments():
        finished_run = execute(*resolve(settings))
    scores = tables.read_scores(finished_run.at.scores)
    return {
        "scores": scores,
        "matrices": matrices.matrices(scores, finished_run.concepts),
        "folder": finished_run.folder,
    }
