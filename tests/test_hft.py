"""HFT: of every block half of the tensors, rounded down, stay as they were, others in each task."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from learners import Learned

from cpbench.backbones.backbone import Backbone
from cpbench.baselines.hft import HalfFineTuning, half


@given(st.dictionaries(st.sampled_from(["a", "b.c", "b.d", ""]), st.integers(1, 9), min_size=1), st.integers(0, 99))
def test_half_of_each_block_rounded_down(sizes: dict[str, int], seed: int) -> None:
    """Leaves x0, x1, ... of each block, with a weight and, every second, a bias."""
    blocks: dict[str, list[str]] = {}
    for block, leaves in sizes.items():
        for k in range(leaves):
            prefix = f"{block}." if block else ""
            blocks.setdefault(block, []).append(f"{prefix}x{k}.weight")
            if k % 2:
                blocks[block].append(f"{prefix}x{k}.bias")
    names = [name for members in blocks.values() for name in members]
    frozen = half(names, torch.Generator().manual_seed(seed))
    assert frozen == half(names, torch.Generator().manual_seed(seed)) and frozen <= set(names)
    for members in blocks.values():
        assert len(frozen & set(members)) == len(members) // 2


@pytest.fixture(scope="module")
def three(three_tasks: Callable) -> list[Learned]:
    return three_tasks(HalfFineTuning, prior_pictures=2, prior_inference_steps=1)


def test_the_frozen_half_stays_bit_for_bit(tiny: Backbone, three: list[Learned]) -> None:
    before = {name: p.detach() for name, p in tiny.denoiser.named_parameters()}
    halves = []
    for at in three:
        weights = at.state.tensors_of("weights")
        stayed = {name for name, w in weights.items() if torch.equal(w, before[name])}
        blocks: dict[str, list[str]] = {}
        for name in weights:
            blocks.setdefault(name.rpartition(".")[0].rpartition(".")[0], []).append(name)
        for members in blocks.values():
            assert len(stayed & set(members)) >= len(members) // 2
        assert len(stayed) < 0.6 * len(weights)
        assert at.trained == sum(w.numel() for name, w in weights.items() if name not in stayed)
        halves.append(stayed)
        before = weights
    assert halves[0] != halves[1] != halves[2]
