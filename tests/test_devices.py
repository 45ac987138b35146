"""GPUs of others are left alone, each number is of the right device, and small models get few threads."""

import os
import re
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cpbench import output
from cpbench.backbones import loading
from cpbench.backbones.backbone import Backbone
from cpbench.errors import UserError
from cpbench.judges import inception
from cpbench.learning import fisher
from cpbench.running import cost, devices, engines, overlap, prepare, sweep

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """gpus(count, visible): a machine that torch finds so many GPUs on, with this CUDA_VISIBLE_DEVICES."""

    def pretend(count: int, visible: str | None = None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return pretend


# Sweeps


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [
        (2, None, ["0", "1"]),
        (2, "2,3", ["2", "3"]),
        (2, " 3 , 2 ", ["3", "2"]),
        (1, "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"]),
        (1, "MIG-41b3359c-e721-56e5-8009-12e5797ed514", ["MIG-41b3359c-e721-56e5-8009-12e5797ed514"]),
        (1, "2,-1,3", ["2"]),  # CUDA ignores what follows a name that is none
    ],
)
def test_a_sweep_keeps_to_the_gpus_that_it_was_given(gpus: Any, count: int, visible: str | None, names: list) -> None:
    gpus(count, visible)
    assert engines.resources_for("auto", ["miniature"], None, 1, 1.0).gpus == names
    halves = engines.resources_for("cuda", ["miniature"], None, 1, 0.5)
    assert halves.gpus == names * 2 and halves.jobs == 2 * count
    assert engines.resources_for("cuda", ["miniature"], 1, 1, 1.0).jobs == 1
    assert engines.resources_for("cpu", ["miniature"], 3, 1, 1.0).gpus == []


def test_a_named_gpu_and_apples_get_one_run_at_a_time(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(4)
    named = engines.resources_for("cuda:1", ["miniature"], None, 1, 1.0)
    assert (named.jobs, named.gpus) == (1, [])  # the run finds the device by its own number
    assert engines.resources_for("cuda:1", ["miniature"], 8, 1, 0.5).jobs == 2
    with pytest.raises(UserError, match="cuda:7: this machine has no such device"):
        engines.resources_for("cuda:7", ["miniature"], None, 1, 1.0)
    gpus(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for device in ("mps", "auto"):
        assert engines.resources_for(device, ["miniature"], None, 1, 1.0).jobs == 1


def test_each_run_of_a_sweep_sees_its_own_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment of real processes, which here print it instead of running."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho $CUDA_VISIBLE_DEVICES\nsleep 0.5\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    paths = engines.SweepPaths(tmp_path)
    (tmp_path / "sweep").mkdir()
    engine = engines.Local(paths, engines.Resources(2, 1, 1.0, ["2", "MIG-x"]), None)
    jobs = [engines.Job(name, {}) for name in ("a", "b", "c")]
    assert [f.result().code for f in [engine.submit(job) for job in jobs]] == [0, 0, 0]
    engine.close()
    printed = [paths.file(job, "log").read_text().strip() for job in jobs]
    assert sorted(printed[:2]) == ["2", "MIG-x"] and printed[2] in ("2", "MIG-x")


def test_ray_chooses_the_gpu_itself(tmp_path: Path) -> None:
    grid = sweep.Grid(methods=("base",), sequences=("quick3",), common={"device": "cuda:1"})
    with pytest.raises(UserError, match="--device cuda:1: Ray chooses each run's GPU; leave out ':1'"):
        sweep.start(grid, tmp_path, "ray", None, None, 1, 1.0, None)


def test_a_second_gpu_is_used_only_if_it_is_asked_for(gpus: Any) -> None:
    gpus(2)
    for overlapped, device in ((None, None), (False, None), (True, "cuda:0")):
        run: Any = SimpleNamespace(
            config=SimpleNamespace(overlap=overlapped),
            backbone=SimpleNamespace(device=torch.device("cuda:1")),
            rows=[0],
            generation_work=lambda t: 10**6,
        )
        assert overlap.overlap_device(run) == device


# Numbers of the right device


def test_peak_memory_is_that_of_the_runs_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    devices_asked = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: devices_asked.append(device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: devices_asked.append(device) or 7)
    with cost.PeakMemory(torch.device("cuda:1")) as memory:
        pass
    assert memory.peak == 7 and devices_asked == [torch.device("cuda:1")] * 2


def test_inception_is_on_the_runs_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(inception, "weights", lambda: tmp_path / "weights")

    class Judge:
        name, identity = "inception", {"model": "inception-v3", "weights_sha256": "00"}

        def __init__(self, file: Path, device: Any) -> None:
            asked.append((file, device))

    monkeypatch.setattr(inception, "Inception", Judge)
    prepare.judges_for_measures(tmp_path, {}, torch.device("cuda:1"))
    assert asked == [(tmp_path / "weights", torch.device("cuda:1"))]


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16)]
)
def test_bfloat16_only_where_the_gpu_computes_in_it(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V100 and T4 emulate it; the capability is asked of the run's device, not of the current one."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: asked.append(device) or capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert loading.pick_dtype("auto", "cuda:1", lambda: 10**9) == expected and asked == ["cuda:1"]


def test_no_tensor_becomes_double_before_it_is_on_the_cpu() -> None:
    """Apple's GPUs have no float64."""
    wrong = re.compile(r"^(?!.*\.cpu\(\).*\.double\(\)).*\.(double\(\)|to\(torch\.float64\)).*\.(cpu|numpy)\(\)")
    files = [f for top in ("cpbench", "baselines") for f in (ROOT / top).rglob("*.py")]
    assert [f"{f}: {line}" for f in files for line in f.read_text().splitlines() if wrong.search(line)] == []


# The Fisher in float16


def losses(parameters: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """Mean squared errors of a small network with float32 parameters that computes in `dtype`, as the backbones do."""
    g = torch.Generator().manual_seed(1)
    for _ in range(4):
        x, target = (torch.randn(64, 64, generator=g) for _ in range(2))
        h = torch.tanh(x.to(dtype) @ parameters["a"].to(dtype))
        out = (h @ parameters["b"].to(dtype)).float()
        yield [(out - target).square().mean() * 3e-5]  # a mean over a latent of ordinary size has such gradients


def network() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {k: (torch.randn(64, 64, generator=g) * 0.05).requires_grad_() for k in ("a", "b")}


def test_the_fisher_of_float16_is_nearly_that_of_float32() -> None:
    (reference,) = fisher.estimate(losses(phi := network(), torch.float32), phi)
    (unscaled,) = fisher.estimate(losses(phi, torch.float16), phi)
    (scaled,) = fisher.estimate(losses(phi, torch.float16), phi, torch.float16)
    zeros = [float((fisher.flat(F) == 0).float().mean()) for F in (reference, unscaled, scaled)]
    assert zeros[0] == 0 and zeros[1] > 0.05 and zeros[2] == 0
    assert fisher.cosine(scaled, reference) > 0.9999 > fisher.cosine(unscaled, reference)
    ratio = fisher.flat(scaled) / fisher.flat(reference)
    assert float(ratio.quantile(0.05)) > 0.9 and float(ratio.quantile(0.95)) < 1.1


def test_a_gradient_that_would_overflow_is_scaled_less() -> None:
    phi = {"w": torch.tensor([2.0], requires_grad=True)}
    loss = (phi["w"].half() * 300).float().sum()
    for retained in (True, False):
        squares = fisher.squared_gradients(loss, phi, retained, torch.float16)
        assert float(squares["w"]) == pytest.approx(300.0**2)


# Threads


def lines_and_threads(backbone: Any) -> tuple[list[str], int]:
    with output.collected() as lines, devices.few_threads(backbone):
        return lines, torch.get_num_threads()


def test_small_models_get_few_threads_unless_the_user_chose(tiny: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in devices.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before, usual = torch.get_num_threads(), len(os.sched_getaffinity(0))
    try:
        if usual > 1:
            torch.set_num_threads(usual)
            (line,), threads = lines_and_threads(tiny)
            assert threads == 1 and f"threads: 1 instead of {usual}" in line and "OMP_NUM_THREADS" in line
            assert torch.get_num_threads() == usual
            monkeypatch.setattr(devices, "SMALL", 10)  # as if the model were large
            assert lines_and_threads(tiny) == ([], usual)
            monkeypatch.undo()
            monkeypatch.setenv("OMP_NUM_THREADS", str(usual))
            assert lines_and_threads(tiny) == ([], usual)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        torch.set_num_threads(97)  # not torch's own number
        assert lines_and_threads(tiny) == ([], 97)
        torch.set_num_threads(1)
        assert lines_and_threads(tiny) == ([], 1)
    finally:
        torch.set_num_threads(before)


# On a GPU: `make test-gpu`


@pytest.mark.gpu
def test_on_a_gpu_memory_and_precision_are_of_the_device() -> None:
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    with cost.PeakMemory(device) as memory:
        torch.zeros(2**20, device=device)
    assert memory.peak >= 4 * 2**20
    assert loading.computes_bfloat16(str(device)) == (torch.cuda.get_device_capability(device) >= (8, 0))
    assert len(devices.visible_gpus()) == torch.cuda.device_count()


@pytest.mark.gpu
def test_on_a_gpu_a_run_finishes_with_inception_on_its_device(tmp_path: Path) -> None:
    import undisturbed

    import cpbench

    settings = undisturbed.given(tmp_path, tmp_path / "out") | {"device": "cuda:0"}
    folder = cpbench.run(**settings)["folder"]
    assert (folder / "scores.csv").is_file()
