"""Learn every method's second task from saved states, in an interpreter of its own: what `test_determinism` starts twice.

python tests/second_task.py BACKBONE STATES PICTURES: prints by method the SHA-256 of all tensors of its state, and the
largest norm that a gradient had before it was clipped.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from learners import SHORT, SMALL

from cpbench.backbones import loading
from cpbench.method import Method, State, Task
from cpbench.registry import built_in_methods, load_method

CONCEPTS = (("dog", "dog"), ("vase", "vase"))


def method_of(name: str) -> Method:
    """The method with a few steps, at rates that show."""
    kind = load_method(name)
    chosen = SHORT | {"steps": 4, "batch_size": 1, "rank": 2} | {k: v for k, v in SMALL.items() if "rate" in k}
    return kind(kind.Options(**{k: v for k, v in chosen.items() if k in kind.Options.model_fields}))


def learn(name: str, backbone: Any, number: int, pictures: np.ndarray, before: State) -> tuple[State, float]:
    """(state after this task, the largest norm of a gradient)."""
    norms = [0.0]

    def log(step: int, **figures: Any) -> None:
        norms.append(figures.get("gradient_norm", 0.0))

    task = Task(number, *CONCEPTS[number - 1], pictures[2 * number - 2 : 2 * number], 0, log)
    try:
        return method_of(name).learn(backbone, task, before), max(norms)
    finally:
        backbone.restore()


def main(folder: str, states: str, pictures: str) -> None:
    torch.set_num_threads(1)
    backbone, both, out = loading.load(folder), np.load(pictures), {}
    for name in built_in_methods():
        after, norm = learn(name, backbone, 2, both, State.load(Path(states) / name))
        digest = hashlib.sha256()
        for key, tensor in sorted(after.tensors.items()):
            digest.update(key.encode() + tensor.detach().contiguous().numpy().tobytes())
        out[name] = [digest.hexdigest(), norm]
    print(json.dumps(out))


if __name__ == "__main__":
    main(*sys.argv[1:])
