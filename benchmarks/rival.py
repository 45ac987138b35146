"""Run another project's script under today's libraries and time its optimiser's steps; the benchmarks against it call this.

    python benchmarks/rival.py STEPS.json SCRIPT [ARGUMENTS]

Before the script, as `__main__` in the present folder: torch without torchvision's operators is repaired as cpbench does it,
and transformers' CLIP returns features as a tensor again. The time after each optimiser step goes to STEPS.json.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cpbench import torchvision_compat


def repair() -> None:
    """Make today's libraries answer as they did when the scripts were written."""
    torchvision_compat.apply()
    from transformers import CLIPModel

    features = CLIPModel.get_image_features

    def get_image_features(*args: Any, **kwargs: Any) -> Any:
        output = features(*args, **kwargs)
        return getattr(output, "pooler_output", output)

    CLIPModel.get_image_features = get_image_features


def main() -> None:
    steps_file, script, *arguments = sys.argv[1:]
    repair()
    from torch.optim.optimizer import register_optimizer_step_post_hook

    times: list[float] = []
    register_optimizer_step_post_hook(lambda *_: times.append(time.perf_counter()))
    sys.argv = [script, *arguments]
    sys.path[:0] = [os.getcwd(), str(Path(script).resolve().parent)]
    runpy.run_path(script, run_name="__main__")
    Path(steps_file).write_text(json.dumps(times))


def seconds_per_step(steps_file: Path) -> float:
    """Mean seconds between the first and the last step of a script that `main` ran."""
    times = json.loads(steps_file.read_text())
    return (times[-1] - times[0]) / (len(times) - 1)


if __name__ == "__main__":
    main()
