"""Tab completes commands, options, methods, sequences, backbones and runs, and imports no torch for it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpbench.concepts import sequences
from cpbench.registry import built_in_methods

ROOT = Path(__file__).resolve().parents[1]
# what the shell's script does, and what was imported for it
CODE = """
import json, sys
from cpbench.cli import main
sys.argv = ["cpbench"]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = {"torch", "diffusers", "transformers", "open_clip", "timm", "pandas", "scipy", "matplotlib", "skia"}
FOLDER = "results/runs/quick3/miniature/base/4bf85951/order0-seed0"


def completed(folder: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    shell = {"_CPBENCH_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment = os.environ | shell | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", CODE], cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert sorted(HEAVY & set(json.loads(ended.stderr.splitlines()[-1]))) == []
    return [line.partition(",")[2] for line in ended.stdout.splitlines() if line.startswith("plain,")]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("cpbench", "le"), ["leaderboard"]),
        (("cpbench", "run", "--method", ""), built_in_methods()),
        (("cpbench", "run", "--method", "seq"), ["seqlora"]),
        (("cpbench", "run", "--sequence", "dream"), [n for n in sequences.names() if n.startswith("dream")]),
        (("cpbench", "plan", "--backbone", "sd1"), ["sd14", "sd15"]),
        (("cpbench", "sweep", "--methods", "isol"), ["isolated"]),
        (("cpbench", "describe", "quick"), ["quick3"]),
        (("cpbench", "list", "ru"), ["runs"]),
        (("cpbench", "report", "results/ru"), [FOLDER]),
        (("cpbench", "compare", "results/runs/quick3", ""), [FOLDER]),
        (("cpbench", "sample", "results/runs/q"), [FOLDER]),
        (("cpbench", "run", "--verb"), ["--verbose"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_names_are_completed(tmp_path: Path, words: tuple[str, ...], offered: list[str]) -> None:
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "run.json").touch()
    assert [name for name in completed(tmp_path, *words) if name in offered] == offered
    if words[-1]:
        assert all(name.startswith(words[-1]) for name in completed(tmp_path, *words))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(call: Callable, shell: str) -> None:
    code, script, said = call("completion", shell)
    assert (code, said) == (0, "")
    assert f"_CPBENCH_COMPLETE={shell}_complete" in script and "%(" not in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
def test_bash_completes_with_it(call: Callable, tmp_path: Path) -> None:
    """In a bash that reads the script, with the program of this environment."""
    script = call("completion", "bash")[1]
    program = tmp_path / "bin" / "cpbench"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cpbench "$@"\n')
    program.chmod(0o755)
    lines = [script, "COMP_WORDS=(cpbench run --method textu)", "COMP_CWORD=3", "_cpbench_completion cpbench"]
    text = "\n".join([*lines, 'echo "${COMPREPLY[@]}"'])
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash"], input=text, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.split() == ["textualinversion"], ended.stderr


def test_another_shell_is_one_line(call: Callable) -> None:
    code, _, line = call("completion", "tcsh")
    assert code == 2 and "'tcsh'" in line and "'bash'" in line
