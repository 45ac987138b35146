"""What doctor says is what is there."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cpbench.backbones import hub
from cpbench.cli import doctor
from cpbench.cli.options import cli

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth"


@pytest.fixture(autouse=True)
def an_empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CPBENCH_DATA", raising=False)


def found(data: str | None = None) -> dict[str, doctor.Finding]:
    return {f.subject: f for f in doctor.findings(data)}


def test_versions_devices_and_the_miniature_are_those_of_this_machine() -> None:
    it = found()
    assert it["torch"].state == metadata.version("torch") and it["torch"].good
    assert it["backbone miniature"].good and hub.hash_folder(hub.MINIATURE)[:8] in it["backbone miniature"].state
    assert it["cuda" if not torch.cuda.is_available() else "cuda:0"].good == torch.cuda.is_available()


def test_what_is_not_in_the_cache_comes_with_what_to_do() -> None:
    it = found()
    for what in (*(f"backbone {n}" for n in hub.BUILT_IN), "judge clip-vit-b-32", "judge dino-vit-s-16"):
        assert not it[what].good and "not in the hub's cache" in it[what].state and it[what].advice
    gated, free = it["backbone sd35-medium"].advice, it["backbone sdxl"].advice
    assert "accept its licence" in gated and "hf auth login" in gated and "licence" not in free


def test_a_backbone_in_the_cache_is_found(tmp_path: Path) -> None:
    repository, revision, *_ = hub.BUILT_IN["sd15"]
    snapshot = tmp_path / "cache" / f"models--{repository.replace('/', '--')}" / "snapshots" / revision
    snapshot.mkdir(parents=True)
    shutil.copy(hub.MINIATURE / "model_index.json", snapshot)  # the index alone is no model
    it = found()["backbone sd15"]
    assert not it.good and it.state == "in part in the hub's cache"
    shutil.copytree(hub.MINIATURE, snapshot, dirs_exist_ok=True, ignore=shutil.ignore_patterns("judges"))
    it = found()
    assert it["backbone sd15"].good and not it["backbone sd14"].good


def test_photographs_are_found_or_the_way_to_them_told(tmp_path: Path) -> None:
    missing = found(str(tmp_path))["photographs of DreamBooth"]
    assert not missing.good and "git clone https://github.com/google/dreambooth" in missing.advice
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"DreamBooth's photographs are not at {PHOTOGRAPHS}")
    assert found(str(PHOTOGRAPHS))["photographs of DreamBooth"].state.startswith("all 30 subjects")


def test_the_command_prints_a_line_for_each() -> None:
    done = CliRunner().invoke(cli, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 0
    for what in ("python", "torch", "backbone sdxl", "judge dinov2-vit-s-14", "photographs of DreamBooth"):
        assert what in done.output


@pytest.mark.slow
def test_doctor_says_what_a_script_of_ones_own_must_do_where_torchvision_does_not_load() -> None:
    """In processes of their own: what this one has worked around stays worked around."""
    alone = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, timeout=300)
    it = found()["torchvision"]
    assert it.good == (alone.returncode == 0)
    if alone.returncode == 0:
        return
    (code,) = re.findall(r"`(from cpbench import [^`]*)`", it.advice)
    code = "\n".join(part.strip() for part in code.split(";"))
    script = f"{code}\nfrom diffusers import StableDiffusionPipeline"
    env = os.environ | {"PYTHONPATH": str(Path(doctor.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr
    assert f"torchvision=={metadata.version('torchvision').partition('+')[0]}" in it.advice
