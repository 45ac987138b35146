"""The random pipelines that tests run on are the same in every process, so that a test's figures are."""

from pathlib import Path

import architectures
import pytest
import torch
import transformer_pipelines
from safetensors.torch import load_file

BUILDERS = dict.fromkeys(architectures.ARCHITECTURES, architectures.build) | transformer_pipelines.BUILDERS


@pytest.mark.parametrize("name", BUILDERS)
def test_a_small_pipeline_has_the_same_weights_whatever_was_drawn_before(name: str, tmp_path: Path) -> None:
    folders = []
    for number in range(2):
        torch.rand(1 + number)  # moves the global generator
        folders.append(BUILDERS[name](name, tmp_path / str(number)))
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.safetensors"))
    assert len(files) >= 3
    for file in files:
        one, other = (load_file(folder / file) for folder in folders)
        assert list(one) == list(other)
        assert all(torch.equal(one[key], other[key]) for key in one), file
