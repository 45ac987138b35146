"""Each case in a process of its own: an operator, once defined, stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SITE = Path(torch.__file__).parents[1]

APPLY = "from cpbench import torchvision_compat\napplied = torchvision_compat.apply()\n"
OPS = "import torch\nops = [hasattr(torch.ops.torchvision, name) for name in ('nms', 'qnms')]\n"


def python(code: str, *flags: str, path: Path = ROOT) -> subprocess.CompletedProcess:
    """Runs code with `path`, then the repository, in front of the installed packages."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(path), str(ROOT)])}
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, env=env, cwd=path, capture_output=True, text=True, timeout=300)


def output(code: str, *flags: str, path: Path = ROOT) -> str:
    done = python(code, *flags, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def fake_torchvision(folder: Path, extension: Path | None) -> Path:
    """A package named torchvision whose C extension is a given file."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").touch()
    if extension is not None:
        (folder / "torchvision" / "_C.so").symlink_to(extension)
    return folder


@pytest.fixture(scope="module")
def broken() -> bool:
    """Whether torchvision, installed here, dies on import when nobody helps."""
    done = python("import torchvision")
    if done.returncode != 0:
        assert "operator torchvision::nms does not exist" in done.stderr
    return done.returncode != 0


def test_import_dies_without_the_cure_and_works_with_it(broken):
    if not broken:
        pytest.skip("torchvision loads by itself in this installation")
    code = APPLY + "import torchvision, open_clip, timm\nprint(applied, torchvision_compat.apply())"
    assert output(code) == "True True"


def test_cure_leaves_a_working_torchvision_alone(broken):
    if broken:
        pytest.skip("torchvision's C extension does not load in this installation")
    assert output(APPLY + "import torchvision, open_clip, timm\nprint(applied)") == "False"


def test_patched_torchvision_has_transforms_and_says_that_it_has_no_nms(broken):
    if not broken:
        pytest.skip("torchvision loads by itself in this installation")
    code = (
        APPLY
        + """
import torch, torchvision
print(tuple(torchvision.transforms.CenterCrop(4)(torch.zeros(3, 8, 8)).shape))
try:
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except RuntimeError as error:
    print(str(error).split(".")[0])
"""
    )
    assert output(code).splitlines() == ["(3, 4, 4)", "Couldn't load custom C++ ops"]


def test_cure_works_after_a_failed_import(broken):
    if not broken:
        pytest.skip("torchvision loads by itself in this installation")
    code = "try:\n    import torchvision\nexcept RuntimeError:\n    pass\n" + APPLY
    assert output(code + "import torchvision, timm\nprint(applied)") == "True"


def test_extension_that_loads_is_left_alone(tmp_path):
    loadable = next((SITE / "torch" / "lib").glob("libtorch_global_deps.*"))
    path = fake_torchvision(tmp_path, loadable)
    code = APPLY + OPS + "print(applied, ops, len(torch.ops.loaded_libraries))"
    assert output(code, path=path) == "False [False, False] 1"


@pytest.mark.parametrize("extension", [Path(__file__), None], ids=["not a library", "missing"])
def test_extension_that_does_not_load_is_worked_around(tmp_path, extension):
    path = fake_torchvision(tmp_path, extension)
    assert output(APPLY + OPS + "print(applied, ops)", path=path) == "True [True, True]"


def test_operators_that_exist_are_left_alone(tmp_path):
    path = fake_torchvision(tmp_path, None)
    code = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
    assert output(code + APPLY + "print(applied)", path=path) == "False"


def test_only_the_operator_that_is_missing_is_defined(tmp_path):
    path = fake_torchvision(tmp_path, None)
    code = """
import torch
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
    assert output(code + APPLY + OPS + "print(applied, ops)", path=path) == "True [True, True]"


def test_torchvision_already_imported_is_left_alone(tmp_path):
    path = fake_torchvision(tmp_path, None)
    assert output("import torchvision\n" + APPLY + OPS + "print(applied, ops)", path=path) == "False [False, False]"


def test_absent_torchvision_is_no_error(tmp_path):
    for entry in SITE.iterdir():  # the same installation, torchvision taken out
        if not entry.name.startswith(("torchvision", "__editable__", "_virtualenv")):
            (tmp_path / entry.name).symlink_to(entry)
    found = "import importlib.util, sys\nfound = importlib.util.find_spec('torchvision')\n"
    code = APPLY + found + "print(applied, found, 'torch' in sys.modules)"
    assert output(code, "-S", path=tmp_path) == "False None False"
