"""A finished run is recognised without loading a model, and only while nothing that it depends on has changed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import undisturbed

from cpbench import remembered
from cpbench.config import requested
from cpbench.running import receipts

WITHOUT_TORCH = """
import sys
from cpbench.cli import main
try:
    main()
finally:
    assert "torch" not in sys.modules and "diffusers" not in sys.modules
"""


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable) -> dict[str, Any]:
    """The settings of a run that has just finished, on photographs and a backbone in folders, with a receipt."""
    monkeypatch.setattr(receipts, "SETTLED_SECONDS", -1e9)  # its files are younger than this process
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "cache"))
    settings = undisturbed.given(tmp_path, tmp_path / "out")
    settings = {k: str(v) for k, v in settings.items() if k != "options"} | {"method": "base", "device": "cpu"}
    words = [w for k, v in settings.items() for w in (f"--{k}", v)]
    code, _, text = call("run", *words)
    assert code == 0, text
    return settings | {"words": words}


def request_of(settings: dict[str, Any], **changes: Any) -> Any:
    return requested({k: v for k, v in settings.items() if k != "words"} | changes)


def test_a_finished_run_is_recognised_without_torch(finished: dict[str, Any], tmp_path: Path, call: Callable) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "run", *finished["words"]]
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=dict(os.environ))
    assert again.returncode == 0, again.stderr
    (line,) = again.stdout.strip().splitlines()
    (record,) = (tmp_path / "out").glob("**/run.json")
    assert line.startswith(f"finished already: {record.parent} ")


def test_a_relative_output_and_a_report_change_nothing(
    finished: dict[str, Any], tmp_path: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word if word != str(tmp_path / "out") else "out" for word in finished["words"]]
    settings = finished | {"output": "out"}
    assert receipts.finished_folder(request_of(settings)) is None  # another folder to start from is another request
    code, text, _ = call("run", *words)
    assert code == 0 and text.splitlines()[-1].startswith("finished already: ")
    folder = receipts.finished_folder(request_of(settings))
    assert folder is not None
    code, _, text = call("report", str(folder))
    assert code == 0, text
    assert receipts.finished_folder(request_of(settings)) == folder


def test_any_change_is_checked_in_the_full_way(finished: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    folder = receipts.finished_folder(request_of(finished))
    assert folder is not None and (folder / "run.json").is_file()
    for changes in ({"seed": 1}, {"order": 1}, {"rows": (0,)}, {"fit": "pad"}, {"device": "auto"}):
        assert receipts.finished_folder(request_of(finished, **changes)) is None

    def known() -> bool:
        return receipts.finished_folder(request_of(finished)) is not None

    for file in (
        Path(finished["sequence"]),
        undisturbed.small() / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors",
        undisturbed.small() / "pipeline" / "scheduler" / "scheduler_config.json",
        folder / "scores.csv",
        folder / "run.json",
        next(folder.glob("task-01/**/*.png")),
    ):
        data, status = file.read_bytes(), file.stat()
        mode = status.st_mode
        file.chmod(0o644)
        file.write_bytes(data)
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # a tool that hides what it did
        assert not known(), file
        file.chmod(mode)
        renew(finished, folder)
        assert known()
    extra = undisturbed.small() / "concepts" / "dog" / "more.png"
    extra.write_bytes(next(extra.parent.glob("*.png")).read_bytes())
    try:
        assert not known()
    finally:
        extra.unlink()
    assert known()
    monkeypatch.setenv("CPBENCH_DATA", str(tmp_path))
    assert not known()


def renew(settings: dict[str, Any], folder: Path) -> None:
    """Write the receipt again, as a run that was found to be finished in the full way does."""
    request = request_of(settings)
    receipt = {
        "inputs": receipts.digest_of(receipts.input_files(request)),
        "results": receipts.digest_of(receipts.results_of(folder)),
        "folder": str(folder),
    }
    remembered.remember(receipts.TOPIC, receipts.key_of(request), receipt)


def test_what_cannot_be_known_cheaply_has_no_receipt(finished: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("")
    for changes in ({"method": str(own)}, {"backbone": "sd15"}, {"clip": "clip-vit-b32"}, {"judges": ("mine",)}):
        assert receipts.input_files(request_of(finished, **changes)) is None
    assert (
        receipts.input_files(request_of(finished, sequence="dreambench10")) is None
    )  # photographs that are searched for
    assert receipts.input_files(request_of(finished, sequence="dreambench10", backbone="miniature")) is not None


def test_files_that_changed_since_the_process_began_give_no_receipt(tmp_path: Path) -> None:
    file = tmp_path / "new"
    file.touch()
    assert not receipts._are_settled(receipts.status_of([file]))
