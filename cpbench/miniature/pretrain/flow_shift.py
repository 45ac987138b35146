"""By which shift of its training times does a transformer learn an individual best? Asked before the long training.

    python -m cpbench.miniature.pretrain.flow_shift --work .train

For each shift a transformer goes through the first stage of training, from the same seed, and then learns four individuals
of miniature-val6 by two mechanisms. Prints the share of the way from the class noun's pictures to the references.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from cpbench.backbones import loading
from cpbench.backbones.hub import MINIATURE
from cpbench.files import read_json, write_json
from cpbench.judges.local import load_dino
from cpbench.numbers import number

from .. import flow_folder
from ..world import subject
from . import flow, mechanisms
from .measures import share_of_the_way

SHIFTS = (1.0, 3.0, 5.0)
PEOPLE = ("val_dog", "val_backpack", "val_cat", "val_sneaker")
ASKED = ("K, V of cross-attention and token", "LoRA on all attention")


def transformer(shift: float, work: Path, report=print) -> Path:
    """The folder of a transformer after the first stage with this shift; trained once."""
    folder = work / f"shift-{shift:g}" / "transformer"
    if not flow.stage_of(folder):
        inputs = flow.materials(work, MINIATURE, "cpu", report)
        trained = flow.train_stage(flow.STAGES[0], None, *inputs, folder.parent, "cpu", report, shift)
        flow.save(trained, folder, 1)
    return folder


def shares(shift: float, work: Path, report=print, seed: int = 0) -> dict[str, float]:
    """The share of the way by each mechanism, with a transformer of this shift, which is its learning's shift too.

    seed: of what is learned and drawn.
    """
    file = work / f"shift-{shift:g}" / f"shares-{seed}.json"
    if (remembered := read_json(file)) is not None:
        return remembered
    people = {name: subject(name) for name in PEOPLE}
    dino = load_dino(MINIATURE / "judges" / "dino")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pipeline"
        flow_folder.write(MINIATURE, transformer(shift, work, report), folder, shift)
        backbone = loading.load(str(folder))
        start = np.array(mechanisms.scores(backbone, dino, None, people, seed))
        ceiling = np.array(mechanisms.ceilings(dino, people))
        out = {}
        for name in ASKED:
            learned = np.array(mechanisms.scores(backbone, dino, mechanisms.MECHANISMS[name], people, seed))
            out[name] = share_of_the_way(learned, start, ceiling)
    write_json(file, out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, default=Path(".train"))
    parser.add_argument("--shift", type=float, action="append", help="Ask for this one alone. Repeatable.")
    parser.add_argument("--seed", type=int, default=0, help="Of what is learned and drawn.")
    arguments = parser.parse_args()
    work = arguments.work
    torch.set_num_threads(1)
    for shift in arguments.shift or SHIFTS:
        for name, share in shares(shift, work, seed=arguments.seed).items():
            print(f"shift {shift:g}, {name}: {number(share)}", flush=True)


if __name__ == "__main__":
    main()
