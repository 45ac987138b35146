"""The same command gives the same bytes in another process: no sum follows the order of an unordered container."""

import hashlib
import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import second_task
import torch
from PIL import Image

from cpbench.backbones.backbone import Backbone
from cpbench.concepts import images
from cpbench.method import State, _checksum
from cpbench.registry import built_in_methods

WHOLE_WEIGHTS = ("raretoken", "dreambooth")  # whose clipped norm is a sum over hundreds of tensors


@pytest.fixture(scope="module")
def twice(_loaded, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list]]:
    """What two fresh interpreters say of every method's second task, from one saved state."""
    folder = tmp_path_factory.mktemp("second")
    backbone: Backbone = _loaded(str(tiny_folder))
    size = (backbone.picture_size, backbone.picture_size)
    both = np.stack(
        [np.asarray(Image.fromarray(p).resize(size)) for c, _ in second_task.CONCEPTS for p in images.rendered(c)[:2]]
    )
    np.save(folder / "pictures.npy", both)
    for name in built_in_methods():
        second_task.learn(name, backbone, 1, both, State())[0].save(folder / "states" / name)
    words = [sys.executable, second_task.__file__, tiny_folder, folder / "states", folder / "pictures.npy"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    out = []
    for seed in ("1", "2"):  # of Python's hashes, which decide the order of its sets
        done = subprocess.run(words, capture_output=True, text=True, env=env | {"PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr[-2000:]
        out.append(json.loads(done.stdout.splitlines()[-1]))
    return out


@pytest.mark.parametrize("name", built_in_methods())
def test_a_task_comes_out_the_same_in_two_fresh_interpreters(twice: list[dict[str, list]], name: str) -> None:
    first, second = twice
    assert first[name] == second[name]


@pytest.mark.parametrize("name", WHOLE_WEIGHTS)
def test_the_gradients_of_whole_weights_were_clipped(twice: list[dict[str, list]], name: str) -> None:
    """Else their norm, and the order of its sum, would decide nothing."""
    assert twice[0][name][1] > 1


def test_a_state_has_one_order_whatever_its_files(tmp_path: Path) -> None:
    values = {f"adapter/{c}": torch.full((2,), float(i)) for i, c in enumerate("dacbe")}
    State(values, {}).save(tmp_path)
    record = json.loads((tmp_path / "state.json").read_text())
    for names in itertools.islice(itertools.permutations(values), 0, 120, 17):
        head = {n: {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]} for i, n in enumerate(names)}
        text = json.dumps(head).encode()
        data = struct.pack("<Q", len(text)) + text + b"".join(values[n].numpy().tobytes() for n in names)
        (tmp_path / "state.safetensors").write_bytes(data)
        bare = {k: v for k, v in record.items() if k != "checksum"} | {"sha256": hashlib.sha256(data).hexdigest()}
        (tmp_path / "state.json").write_text(json.dumps(bare | {"checksum": _checksum(bare)}))
        loaded = State.load(tmp_path).tensors
        assert list(loaded) == sorted(values)
        assert all(torch.equal(loaded[n], values[n]) for n in values)
