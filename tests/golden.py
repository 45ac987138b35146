"""The golden runs: methods over two concepts with two steps on one thread, and what came out of them.

`python tests/golden.py FOLDER` makes them in FOLDER and prints their digest; `make golden` keeps it in tests/golden: for every
kind of processor the SHA-256 of all state tensors and of scores.csv, and, for kinds that are not there, the scores and a
sketch of every tensor. Whoever changes what is learned, generated or judged raises SCORES and makes them anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from cpbench.registry import built_in_methods

HERE = Path(__file__).parent / "golden"
METHODS = built_in_methods()
SKETCH = 4  # numbers kept of a tensor
SEQUENCE = """
name: golden
version: 1
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: vase, class_noun: vase, kind: object}
evaluation:
  live: ["a {} wearing a red hat"]
  object: ["a wet {}"]
  pictures_per_prompt: 1
  num_inference_steps: 2
  compositions: ["a {} and a {} in the snow"]
"""
FEW: dict[str, Any] = {"steps": 2, "batch_size": 2, "token_steps": 2, "fisher_samples": 2, "dsc_steps": 2}
FEW |= {"prior_pictures": 2, "prior_inference_steps": 1, "replay_pictures": 1, "replay_inference_steps": 1, "crops": 1}
FEW |= {"caption_samples": 1, "merge_steps": 1}


def sketch(name: str, tensor: Any) -> list[float]:
    """SKETCH random projections of a tensor: their differences are as large, on average, as those of the tensors."""
    import numpy as np

    from cpbench.files import seed_of

    flat = tensor.double().numpy().ravel()
    generator = np.random.default_rng(seed_of("sketch", name))
    out = np.zeros(SKETCH)
    for at in range(0, len(flat), 2**16):
        part = flat[at : at + 2**16]
        out += (generator.integers(0, 2, size=(SKETCH, len(part)), dtype=np.int8) * 2.0 - 1) @ part
    return [float(f"{v:.6g}") for v in out / SKETCH**0.5]


def run(method: str, folder: Path) -> dict[str, Any]:
    """One golden run: {"scores": scores.csv, "tensors": {task/name: SHA-256}, "sketches", "norms", "curves": CSV by task}."""
    import cpbench
    from cpbench.method import State
    from cpbench.registry import load_method

    file = folder / "golden.yaml"
    file.write_text(SEQUENCE)
    options = {k: v for k, v in FEW.items() if k in load_method(method).Options.model_fields}
    given = {
        "backbone": "miniature",
        "device": "cpu",
        "overlap": False,
        "keep_states": "all",
        "output": folder / "runs",
    }
    done = cpbench.run(method=method, sequence=str(file), options=options, **given)["folder"]
    out: dict[str, Any] = {"scores": (done / "scores.csv").read_text(), "tensors": {}, "sketches": {}, "norms": {}}
    curves = [(done / task / "curve.csv") for task in ("task-01", "task-02")]
    out["curves"] = [file.read_text() if file.is_file() else "" for file in curves]
    for task in ("task-01", "task-02"):
        for name, tensor in State.load(done / task).tensors.items():
            key = f"{task}/{name}"
            out["tensors"][key] = hashlib.sha256(f"{tensor.shape}".encode() + tensor.numpy().tobytes()).hexdigest()
            out["sketches"][key] = sketch(name, tensor)
            out["norms"][key] = float(f"{float(tensor.double().norm()):.6g}")
    return out


def digest(out: dict[str, Any]) -> dict[str, str]:
    """The two SHA-256 that are compared where the processor is known."""
    states = json.dumps(out["tensors"], sort_keys=True).encode()
    return {"scores": hashlib.sha256(out["scores"].encode()).hexdigest(), "states": hashlib.sha256(states).hexdigest()}


def main() -> None:
    """Make all golden runs in the folder that is named; with --keep, keep what came out."""
    import torch

    from cpbench.records.machine import processor
    from cpbench.running import runner

    torch.set_num_threads(1)
    runner.ornament = lambda target, make: None  # no picture of curves: it takes as long as the learning
    folder = Path(sys.argv[1])
    made = {method: run(method, folder) for method in METHODS}
    (folder / "made.json").write_text(json.dumps({"processor": processor(), "made": made}))
    if "--keep" not in sys.argv:
        return
    HERE.mkdir(exist_ok=True)
    name = processor().replace(" ", "-")
    (HERE / f"{name}.json").write_text(
        json.dumps({method: digest(out) for method, out in made.items()}, indent=1, sort_keys=True) + "\n"
    )
    for method, out in made.items():  # of the kind of processor that was last made on; another only differs by rounding
        (HERE / f"{method}-scores.csv").write_text(out["scores"])
        rows = {k: [out["norms"][k], *out["sketches"][k]] for k in out["tensors"]}
        (HERE / f"{method}-tensors.json").write_text(
            "{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(rows.items())) + "\n}\n"
        )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
