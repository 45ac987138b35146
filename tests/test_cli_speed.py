"""`cpbench --help` is instant: nothing heavy is imported. The seconds: benchmarks/cli_startup.py."""

import json
import subprocess
import sys
from pathlib import Path

HEAVY = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "open_clip",
    "timm",
    "pandas",
    "scipy",
    "matplotlib",
    "skia",
    "pydantic",
}

CODE = """
import json, sys
from cpbench.cli import main
sys.argv = ["cpbench", "--help"]
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
print()
print(json.dumps([code, sorted(sys.modules)]))
"""


def test_help_imports_nothing_heavy():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    shown, _, last = done.stdout.rstrip().rpartition("\n")
    code, modules = json.loads(last)
    assert code == 0
    assert "Usage" in shown
    assert sorted(HEAVY & set(modules)) == []
