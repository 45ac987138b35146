"""How many runs share a GPU: by the memory of a rehearsal, on pretended GPUs."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import undisturbed
from test_devices import gpus  # noqa: F401

from cpbench import output
from cpbench.running import engines, gpu_sharing, overlap, sweep
from cpbench.running.gpu_sharing import CONTEXT_BYTES, MARGIN, MOST_RUNS, Need

GB = 10**9


@pytest.mark.parametrize("peaks", [[1], [3, 20], [60], [139], [300], [0.01]])
@pytest.mark.parametrize("most", [1, 3, 99])
def test_as_many_runs_as_the_memory_holds_of_the_largest(peaks: list[float], most: int) -> None:
    memory = 140 * GB
    by_hand = 1
    while by_hand < min(most, MOST_RUNS) and (by_hand + 1) * (max(peaks) * GB * MARGIN + CONTEXT_BYTES) <= memory:
        by_hand += 1
    assert gpu_sharing.runs_that_fit([Need(int(peak * GB), memory) for peak in peaks], most) == by_hand


@pytest.mark.parametrize("runs", range(1, 20))
def test_a_share_is_one_that_so_many_runs_have(runs: int) -> None:
    share = gpu_sharing.share_of(runs)
    assert int(1 / share) == runs and runs * round(share * 10_000) <= 10_000  # Ray counts ten-thousandths


def test_runs_that_differ_in_seed_and_order_are_rehearsed_once(tmp_path: Path) -> None:
    grid = sweep.Grid(methods=("base", "isolated rank=2"), sequences=("quick3",), seeds=(0, 1), orders=(0, 1))
    settings = sweep.settings_to_rehearse(grid, tmp_path)
    asked: list[str] = []

    def need_of(settings: dict[str, Any]) -> Need | None:
        asked.append(settings["method"])
        return None if settings["method"] == "isolated" and len(asked) > 2 else Need(10 * GB, 80 * GB)

    assert len(settings) == 8 and gpu_sharing.runs_per_gpu(settings, 99, need_of) == 6
    assert asked == ["base", "isolated"]
    with output.collected() as lines:
        assert gpu_sharing.runs_per_gpu(settings, 99, need_of) == 1  # one that cannot be rehearsed
    assert lines == ["GPU memory: isolated could not be rehearsed, so each run gets a GPU of its own"]


def test_a_sweep_here_shares_its_gpus(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(gpu_sharing, "measured_apart", lambda settings: Need(25 * GB, 80 * GB))
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    settings = [{"method": "base"}]
    gpus(2)
    for jobs, threads, runs in ((None, 1, 2), (2, 1, 1), (4, 1, 2), (None, 8, 1)):  # as memory, --jobs, cores allow
        share = sweep.automatic_share("auto", settings, jobs, threads)
        resources = engines.resources_for("auto", ["miniature"], jobs, threads, share)
        assert resources.gpus == ["0", "1"] * runs and resources.jobs == min(jobs or 99, 2 * runs)
    assert sweep.automatic_share("cuda:1", settings, None, 1) == 0.5
    gpus(0)
    assert sweep.automatic_share("auto", settings, None, 1) == 1.0


@pytest.mark.parametrize(("free", "fits"), [(34, True), (30, False)])
def test_one_gpu_for_both_only_where_memory_allows(
    free: float,
    fits: bool,
    gpus: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus(1)
    monkeypatch.setattr("cpbench.running.plan.rehearsed_peak", lambda run: 13 * GB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int((free - 4) * GB), 80 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 4 * GB)  # this process may use it again
    run: Any = SimpleNamespace(
        config=SimpleNamespace(overlap=True),
        backbone=SimpleNamespace(device=torch.device("cuda:0")),
        rows=[0],
        generation_work=lambda t: 1,
    )
    with output.collected() as lines:
        assert overlap.overlap_device(run) == ("cuda:0" if fits else None)
    assert len(lines) == (0 if fits else 1) and all(
        "33.2 GB of cuda:0, which has 30.0 GB free" in line for line in lines
    )


def test_a_rehearsal_is_of_a_process_of_its_own_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = undisturbed.given(tmp_path, tmp_path / "out") | {"device": "cpu"}
    need = gpu_sharing.measured_apart(settings)
    assert need is not None and 10**8 < need.peak < need.memory
    monkeypatch.setattr(gpu_sharing.subprocess, "run", lambda *words, **more: pytest.fail("rehearsed again"))
    assert gpu_sharing.measured_apart(settings | {"seed": 5}) == need


@pytest.mark.slow
def test_ray_gives_each_run_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that says it has a GPU; the rehearsal is one that only says a number."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    ray.init(num_cpus=2, num_gpus=1, log_to_driver=False, logging_level="error", include_dashboard=False)
    try:
        monkeypatch.setattr(engines, "_rehearsed_on_a_worker", lambda settings, folder: Need(20 * GB, 80 * GB))
        resources = engines.Resources(1, 1, 1.0, rehearsed=[{"method": "base"}, {"method": "base", "seed": 1}])
        engine = engines.OnRay(engines.SweepPaths(tmp_path), resources, None, None)
        assert engine.gpus == pytest.approx(0.3333)
        assert engines.OnRay(engines.SweepPaths(tmp_path), engines.Resources(1, 1, 0.5), None, None).gpus == 0.5
    finally:
        ray.shutdown()


@pytest.mark.parametrize(("value", "code"), [("auto", 0), ("0.5", 0), ("1", 0), ("2", 2), ("0", 2), ("all", 2)])
def test_the_share_is_a_number_up_to_one_or_automatic(call: Callable, value: str, code: int) -> None:
    words = ["--methods", "base", "--sequences", "quick3", "--gpus-per-run", value, "--dry-run"]
    assert call("sweep", *words)[0] == code
