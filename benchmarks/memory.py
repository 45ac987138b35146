"""Memory of one process over a run of fifty tasks: it must not grow with them.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/memory.py

Runs seqlora over the concepts of miniature50, with few steps and one prompt, and prints the resident memory after every fifth task, and the
growth a task from task 10 on by least squares. What a state itself grows by (a token a task) is printed beside it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import psutil
import yaml

from cpbench import runner, sequences
from cpbench.config import resolve


def main() -> None:
    seen: list[float] = []
    learn = runner.learn_task

    def watched(run, t, state, reporter):
        out = learn(run, t, state, reporter)
        seen.append(psutil.Process().memory_info().rss / 1e6)
        return out

    runner.learn_task = watched
    options = {"steps": 2, "batch_size": 1}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fifty.yaml"
        fifty = yaml.safe_load((sequences._tasks() / "miniature50.yaml").read_text())
        one = {kind: fifty["evaluation"][kind][:1] for kind in ("live", "object")}
        file.write_text(yaml.safe_dump(fifty | {"name": "fifty", "evaluation": one | {"num_inference_steps": 1}}))
        given = {"method": "seqlora", "sequence": str(file), "options": options}
        run = runner.execute(*resolve(given | {"output": Path(folder), "overlap": False}))
        sizes = [sum(run.costs[t]["carried_bytes"].values()) for t in (1, len(seen))]
    for t in range(5, len(seen) + 1, 5):
        print(f"task {t}: {seen[t - 1]:.0f} MB")
    late = np.arange(10, len(seen))
    print(f"growth from task 10 on: {np.polyfit(late, np.array(seen)[10:], 1)[0]:.3f} MB a task")
    print(f"the state itself: {sizes[0] / 1e6:.3f} MB after task 1, {sizes[1] / 1e6:.3f} MB after task {len(seen)}")


if __name__ == "__main__":
    main()
