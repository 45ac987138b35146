"""Whole runs on families of transformers: planned, run to their reports, and killed and resumed to the same bytes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import undisturbed
from test_methods_on_transformers import FAMILIES, FEW
from test_transformers import SIDE
from transformer_pipelines import BUILDERS

from cpbench.backbones.hub import MINIATURE
from cpbench.registry import built_in_methods, load_method

METHODS = [m if m == "dcscore" else pytest.param(m, marks=pytest.mark.slow) for m in built_in_methods()]
Call = Callable[..., tuple[int, str, str]]


QUICK = ("sana-600m",)  # the most unlike Stable Diffusion


@pytest.fixture(scope="module", params=[f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline = BUILDERS[request.param](request.param, tmp_path_factory.mktemp(request.param))
    (pipeline / "judges").symlink_to(MINIATURE / "judges")
    return pipeline


def given(folder: Path, tmp_path: Path, method: str) -> dict:
    options = {k: v for k, v in FEW.items() if k in load_method(method).Options.model_fields}
    words = undisturbed.given(tmp_path, tmp_path / "output", method=method, backbone=str(folder), options=options)
    return words | {"resolution": SIDE}


def run(words: dict, log: Path, die_on: str = "") -> int:
    process = undisturbed.server().Process(target=undisturbed.go, args=(words, log, None, die_on))
    process.start()
    process.join()
    assert process.exitcode == (-9 if die_on else 0), log.read_text()
    return process.exitcode


def flags(words: dict, folder: Path) -> list[str]:
    """What is run, as words of the command line."""
    settings = [w for key, value in words["options"].items() for w in ("--set", f"{key}={value}")]
    line = ["--method", words["method"], "--sequence", words["sequence"], "--backbone", str(folder)]
    return [*line, "--resolution", str(SIDE), *settings]


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_planned(folder: Path, tmp_path: Path, call: Call, method: str) -> None:
    code, plan, said = call("plan", *flags(given(folder, tmp_path, method), folder))
    assert code == 0 and "at the peak of a rehearsal" in plan, said


def test_dcscore_runs_to_a_report(folder: Path, tmp_path: Path, call: Call) -> None:
    words = given(folder, tmp_path, "dcscore")
    line = flags(words, folder)
    code, _, said = call("run", *line, "--output", str(words["output"]), "--no-overlap")
    assert code == 0, said
    (file,) = words["output"].rglob("run.json")
    code, _, said = call("report", str(file.parent))
    assert code == 0 and (file.parent / "report.html").stat().st_size > 10_000, said


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_a_killed_run_comes_to_what_it_would_have_come_to(folder: Path, tmp_path: Path, method: str) -> None:
    contents = {}
    for name in ("whole", "killed"):
        here = tmp_path / name
        here.mkdir()
        words = given(folder, here, method)
        if name == "killed":
            run(words, here / "log", die_on="state.json")
        run(words, here / "log")
        contents[name] = undisturbed.contents(here / "output")
    assert len(contents["whole"]) > 10 and contents["whole"] == contents["killed"]
