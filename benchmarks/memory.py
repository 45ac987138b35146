"""Memory of one process over a run of fifty tasks, which must not grow with their number.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/memory.py

Runs seqlora over the concepts of miniature50, with few steps and one picture per concept. After every fifth task it prints
the resident memory, the same after the allocator has released its free memory (glibc's malloc_trim), the bytes of all live
tensors and the number of live Python objects. At the end it prints the growth of the first two from task 10 on (least
squares) and the growth of the state itself (one token per task).
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml

from cpbench.concepts import sequences
from cpbench.config import resolve
from cpbench.running import runner
from cpbench.running.task import learn_task


def memory_use() -> dict[str, float]:
    """Memory use of this process in MB, and its number of Python objects."""
    gc.collect()
    objects = gc.get_objects()
    tensors = {o.untyped_storage().data_ptr(): o.untyped_storage().nbytes() for o in objects if type(o) is torch.Tensor}
    megabytes = {"resident": psutil.Process().memory_info().rss / 1e6}
    ctypes.CDLL(None).malloc_trim(0)
    megabytes["trimmed"] = psutil.Process().memory_info().rss / 1e6
    return megabytes | {"tensors": sum(tensors.values()) / 1e6, "objects": len(objects)}


def main() -> None:
    samples: list[dict[str, float]] = []
    learn = learn_task

    def watched(*arguments):
        state_out = learn(*arguments)
        samples.append(memory_use())
        return state_out

    runner.learn_task = watched
    options = {"steps": 2, "batch_size": 1}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fifty.yaml"
        fifty = yaml.safe_load((sequences.tasks_folder() / "miniature50.yaml").read_text())
        evaluation = {"num_inference_steps": 1, "pictures_per_prompt": 1}
        prompts = {subject_type: fifty["evaluation"][subject_type][:1] for subject_type in ("live", "object")}
        file.write_text(yaml.safe_dump(fifty | {"name": "fifty", "evaluation": prompts | evaluation}))
        settings = {"method": "seqlora", "sequence": str(file), "options": options}
        run = runner.execute(*resolve(settings | {"output": Path(folder), "overlap": False}))
        sizes = [sum(run.costs[t].state_bytes.values()) for t in (1, len(samples))]
    for t in range(5, len(samples) + 1, 5):
        sample = samples[t - 1]
        print(
            f"task {t}: {sample['resident']:.0f} MB resident, {sample['trimmed']:.0f} trimmed, {sample['tensors']:.1f} in tensors, "
            f"{sample['objects']} objects"
        )
    task_indices = np.arange(10, len(samples))
    for measure in ("resident", "trimmed"):
        growth = np.polyfit(task_indices, [sample[measure] for sample in samples[10:]], 1)[0]
        print(f"growth from task 10 on, {measure}: {growth:.3f} MB per task")
    print(f"the state itself: {sizes[0] / 1e6:.3f} MB after task 1, {sizes[1] / 1e6:.3f} MB after task {len(samples)}")


if __name__ == "__main__":
    main()
