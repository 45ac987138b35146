"""One short run, in processes that can be killed: at a moment, or at the n-th file they write."""

import atexit
import functools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

PATTERNS = ("scores.csv", "matrix-*.csv", "*.png", "task-*/scores.csv", "task-*/state.*", "task-*/curve.csv")
PATTERNS += ("task-*/pictures/*/*.png",)
LORA = {"rank": 128, "steps": 4, "batch_size": 2, "target_modules": ["to_q", "to_v"], "learning_rate": 1e-3}
SEQUENCE = """
name: short
version: 1
concepts:
  - {name: dog, class_noun: dog, kind: live}
  - {name: backpack, class_noun: backpack, kind: object}
  - {name: dog2, class_noun: dog, kind: live}
evaluation: {live: ["a {} in the snow"], object: ["a {} in the snow"], pictures_per_prompt: 1, num_inference_steps: 2}
"""
CONCEPTS = ("dog", "backpack", "dog2")


@functools.cache
def small() -> Path:
    """A folder with a pipeline of random weights, the miniature's judges in it, and each concept's pictures: made once."""
    from conftest import build_tiny
    from PIL import Image

    from cpbench.backbones.hub import MINIATURE
    from cpbench.concepts import images

    folder = Path(tempfile.mkdtemp(prefix="cpbench-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (build_tiny(folder) / "judges").symlink_to(MINIATURE / "judges")
    for concept in CONCEPTS:
        (folder / "concepts" / concept).mkdir(parents=True)
        for k, picture in enumerate(images.rendered(concept)):
            Image.fromarray(picture).save(folder / "concepts" / concept / f"{k}.png")
    return folder


def server() -> Any:
    """Processes are forks of one that has imported everything, and done nothing: a second each, not ten."""
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where the server looks for what it is to import
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    return context


def given(folder: Path, output: Path, **more: Any) -> dict[str, Any]:
    """What is run: `SEQUENCE`, its pictures as photographs, on a backbone that takes a third of the miniature's time."""
    file = folder / "short.yaml"
    if not file.exists():
        file.write_text(f"{SEQUENCE}images: {{folder: '{small() / 'concepts'}/{{name}}'}}\n")
    backbone, options = str(small() / "pipeline"), LORA | {"token_learning_rate": 1e-3}
    return {
        "method": "seqlora",
        "sequence": str(file),
        "output": output,
        "backbone": backbone,
        "options": options,
    } | more


def go(words: dict[str, Any], log: Path, die_at: int | None = None, die_on: str = "") -> None:
    """The run, its words to `log`. die_at: kill this process at the n-th rename; die_on: at that of this file, after it.

    At an odd n before the rename, at an even one after it.
    """
    import torch

    from cpbench import files
    from cpbench.config import resolve
    from cpbench.running.runner import execute

    torch.set_num_threads(1)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    count, replace = 0, os.replace

    def counted(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if die_at is not None and (count, count % 2) == (die_at, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if count == die_at or (die_on and Path(target).name == die_on):
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = counted
    execute(*resolve(words))
    (log.parent / "renames").write_text(str(count))
    sys.stdout.flush()
    os._exit(0)  # no more can happen to the files


def go_poisoned(words: dict[str, Any], log: Path) -> None:
    """The run, while somebody else seeds and uses the global generators."""
    import random

    import numpy as np
    import torch

    from cpbench import files

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(12345)
    replace = os.replace

    def poisoned(source: Any, target: Any) -> None:
        replace(source, target)
        torch.rand(random.randrange(1, 5)), np.random.rand(3)
        torch.manual_seed(random.randrange(1000))

    files.os.replace = poisoned
    go(words, log)


def go_while_the_folder_vanishes(words: dict[str, Any], log: Path) -> None:
    """The run, while its output folder goes away, as a mount does, when task 2 is learned."""
    from cpbench import files

    replace, output = os.replace, Path(words["output"])

    def vanishing(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).parts[-2:] == ("task-02", "state.json"):
            output.rename(output.with_name("gone"))

    files.os.replace = vanishing
    go(words, log)


def contents(output: Path) -> dict[str, bytes]:
    """The bytes of all that a run must come to, by path below its folder."""
    (folder,) = (f.parent for f in output.glob("**/run.json"))
    found = [f for pattern in PATTERNS for f in sorted(folder.glob(pattern)) if ".damaged-" not in f.name]
    return {str(f.relative_to(folder)): f.read_bytes() for f in found}


def go_command(words: list[str], log: Path) -> None:
    """The command line, as `cpbench WORDS` starts it, with standard output and errors to `log`."""
    import torch

    from cpbench.cli import main

    torch.set_num_threads(1)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["cpbench", *words]
    main()
