"""A compiled forward against the eager one: the same outputs, once per size of batch, whatever weights are installed."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cpbench.backbones.backbone import Backbone
from cpbench.backbones.compiling import CompiledForward, obstacle
from cpbench.backbones.sampling import Sampler, SampleRequest
from cpbench.config import checked, resolve
from cpbench.records.record import Cost
from cpbench.running import compilation, picture_cache
from cpbench.running.prepare import prepare
from cpbench.running.rows import generate_cells, generation_groups
from cpbench.running.writing import Writer

needs_compiler = pytest.mark.skipif(bool(obstacle(torch.device("cpu"))), reason="no C++ compiler to compile with")


class TwoLayers(nn.Module):
    """A denoiser in small: a convolution of the latents, and keys of the prompt in one more layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.to_k = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(6, 4)
        self.requires_grad_(False)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor):
        keys = self.to_k(encoder_hidden_states).mean(1)
        return (nn.functional.silu(self.conv(sample)) * keys[:, :, None, None] + timestep / 1000,)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    torch._dynamo.reset()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
    torch._dynamo.reset()


@needs_compiler
@torch.no_grad()
@pytest.mark.slow
def test_the_compiled_forward_computes_the_same_and_is_compiled_once(cache: Path) -> None:
    """Of two sizes one is compiled; weights are exchanged by new parameters, and by other plain layers, as merging does."""
    torch.manual_seed(0)
    network = TwoLayers()
    compiled, eager = CompiledForward(network, {4}), network.forward
    for exchange in range(4):
        if exchange:
            network.conv.weight = nn.Parameter(torch.randn(4, 4, 3, 3), requires_grad=False)
        if exchange > 1:
            network.to_k = nn.Linear(6, 4).requires_grad_(False)
        for size in (4, 3, 4):
            arguments = (torch.randn(size, 4, 8, 8), torch.tensor(100 * exchange), torch.randn(size, 5, 6))
            with compiled.installed():
                (output,) = network(*arguments)
            torch.testing.assert_close(output, eager(*arguments)[0], rtol=2e-6, atol=2e-6)
    assert compiled.graphs == compiled.anew == 1 and compiled.seconds > 0
    assert "forward" not in vars(network) and any((cache / "compiled").iterdir())
    torch._dynamo.reset()  # as a new process begins
    again = CompiledForward(network, {4})
    with again.installed():
        (output,) = network(*arguments)
    torch.testing.assert_close(output, eager(*arguments)[0], rtol=2e-6, atol=2e-6)
    assert (again.graphs, again.anew) == (1, 0)


def test_without_a_tool_the_obstacle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    compiler_search = __import__("torch._inductor.cpp_builder", fromlist=["cpp_compiler_search"]).cpp_compiler_search
    getattr(compiler_search, "cache_clear", lambda: None)()
    assert obstacle(torch.device("cpu")) == "there is no C++ compiler"
    assert "mps" in obstacle(torch.device("mps"))


# What is planned


def planned(choice: str, tiny: Backbone, tmp_path: Path, **changes: object) -> SimpleNamespace:
    """What `compiled_forward` reads of a run: one row of `cells` cells of ten pictures, in batches of four."""
    cells = [SimpleNamespace(cell_type="cell", pictures=10, templates=["a {}", "the {}"])] * int(
        changes.get("cells", 1)
    )
    return SimpleNamespace(
        config=checked({"method": "seqlora", "sequence": "quick3", "compile": choice}, "run"),
        backbone=tiny,
        sampler=Sampler(5, 4.0, 4),
        rows=[0, 1],
        cells_of=lambda t: cells,
        options=None,
        method_class=lambda options: SimpleNamespace(per_prompt=changes.get("per_prompt", False)),
        notes=[],
    )


def test_work_is_counted_by_size_of_batch(tiny: Backbone, tmp_path: Path) -> None:
    """Two rows of one cell of ten pictures: four batches of 4 and two of 2, each doubled by guidance."""
    unit = compilation.SECONDS["cpu"] * sum(p.numel() for p in tiny.denoiser.parameters()) * 8 * 8
    seconds = compilation.planned_seconds(planned("auto", tiny, tmp_path))
    assert seconds == pytest.approx({8: 4 * 8 * 5 * unit, 4: 2 * 4 * 5 * unit})
    one_by_one = compilation.planned_seconds(planned("auto", tiny, tmp_path, per_prompt=True))
    assert one_by_one == pytest.approx({8: (2 + 2) * 8 * 5 * unit, 4: 4 * 5 * unit, 2: 2 * 2 * 5 * unit})


def test_planned_batches_are_those_that_the_denoiser_gets(short: Path, tmp_path: Path) -> None:
    """Of an untouched model's row: concepts, nouns and pairs, two batches of them with something left over."""
    values = {"method": "seqlora", "sequence": str(short), "output": tmp_path, "evaluation": {"batch_size": 3}}
    run = prepare(*resolve(values, settings=("evaluation.pictures_per_prompt=4",)))
    sizes: Counter[int] = Counter()
    run.backbone.denoiser.register_forward_pre_hook(lambda module, arguments: sizes.update([len(arguments[0])]))
    with Writer(run.backbone.device) as writer:
        for group in generation_groups(run.cells_of(0)):
            generate_cells(run, group, None, writer)
    assert compilation.planned_batches(run, 0) == sizes and 6 in sizes and len(sizes) > 1
    plain = compilation.planned_batches(run, 1)
    assert max(plain) == 6, "the method installs once for all prompts"


def test_only_sizes_that_repay_it_are_compiled_and_on_means_at_least_one() -> None:
    enough = compilation.SECONDS_COMPILING / compilation.SHARE_SAVED
    work = {8: 0.99 * enough, 32: 1.01 * enough, 4: 2 * enough}
    assert compilation.sizes_to_compile(work, False) == compilation.sizes_to_compile(work, True) == [4, 32]
    assert compilation.sizes_to_compile({8: 1.0, 4: 2.0}, False) == []
    assert compilation.sizes_to_compile({8: 1.0, 4: 2.0}, True) == [4]
    assert compilation.sizes_to_compile({}, True) == []
    assert len(compilation.sizes_to_compile(dict.fromkeys(range(9), enough * 2), False)) == compilation.MOST_SIZES


def test_a_small_run_is_compiled_only_if_it_is_asked_for(
    tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "obstacle", lambda device: "")
    assert compilation.compiled_forward(planned("auto", tiny, tmp_path)) is None
    assert compilation.compiled_forward(planned("off", tiny, tmp_path)) is None
    assert compilation.compiled_forward(planned("on", tiny, tmp_path)).sizes == {8}
    monkeypatch.setattr(compilation, "obstacle", lambda device: "there is no C++ compiler")
    run = planned("on", tiny, tmp_path)
    assert compilation.compiled_forward(run) is None
    assert run.notes == ["the denoiser is not compiled: there is no C++ compiler"]


def test_yaml_reads_on_and_off_as_booleans() -> None:
    base = {"method": "seqlora", "sequence": "quick3"}
    assert checked(base | {"compile": True}, "run").compile == "on"
    assert checked(base | {"compile": False}, "run").compile == "off"
    assert checked(base, "run").compile == "auto"


def test_compiled_pictures_are_cached_apart(tiny: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of a size that is not compiled is the same batch with and without."""
    cell = [SampleRequest("a dog", 0, "dog", "a {}", index) for index in range(3)]
    sampler = Sampler(1, 4.0, 2)

    def generated_anew() -> int:
        with Writer(tiny.device) as writer:
            return picture_cache.generate_once(tiny, cell, sampler, tmp_path, writer)[2]

    assert generated_anew() == 3
    monkeypatch.setattr(tiny, "compiled", SimpleNamespace(sizes={6}, installed=nullcontext))
    assert generated_anew() == 0
    tiny.compiled.sizes = {4}
    assert generated_anew() == 3


def test_what_compiling_took_is_told_of_all_rows() -> None:
    costs = {0: Cost(compile_seconds=80.2, compiled_anew=1), 1: Cost(), 2: Cost(compile_seconds=20.1, compiled_anew=1)}
    assert "took 100 s of generation (new" in compilation.cost_line(costs)
    assert "took 9 s of generation (from the cache)" in compilation.cost_line({0: Cost(compile_seconds=9.0)})
    assert compilation.cost_line({0: Cost()}) == ""
