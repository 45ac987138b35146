"""The checkout stays small: what can be made on demand is not kept."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = sorted(f.parent for f in (ROOT / "results" / "reference").glob("**/run.json"))


def test_what_git_keeps_is_below_58_megabytes() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no checkout of git")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    assert len(files) > 100 and sum(f.stat().st_size for f in files if f.is_file()) < 58_000_000


def test_a_reference_run_is_its_record_its_tables_and_a_small_grid() -> None:
    assert len(REFERENCE) >= 55
    most = {"run.json", "scores.csv.gz", "measures.csv.gz", "identification.csv.gz", "grid.webp"}
    for run in REFERENCE:
        names = {f.name for f in run.iterdir()}
        assert {"run.json", "scores.csv.gz"} <= names <= most, run
        assert not (run / "grid.webp").exists() or (run / "grid.webp").stat().st_size <= 25_000, run
        assert sum(f.stat().st_size for f in run.iterdir()) <= 80_000, run
