"""Fifty kills at random moments, in interpreters of their own: every run comes to the bytes of one that nobody disturbed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import undisturbed

KILLS, A_RUN = 17, 3  # of each kind, and at the most of one run
SHORT = ["num_inference_steps=1", "pictures_per_prompt=1"]
KINDS = {
    "seqlora": ["--method", "seqlora", "--set", "rank=2", "--set", "steps=6", "--set", "batch_size=2", "--no-overlap"],
    "raretoken": ["--method", "raretoken", "--set", "steps=3", "--set", "token_steps=2", "--set", "batch_size=1", "--no-overlap"],
    "overlap": ["--method", "seqlora", "--set", "rank=2", "--set", "steps=6", "--set", "batch_size=2", "--overlap"],
}  # fmt: skip


def start(kind: str, sequence: Path, output: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "cpbench", "run", *KINDS[kind], "--sequence", sequence, "--output", output]
    words += [w for choice in SHORT for w in ("--set", f"evaluation.{choice}")]
    with (output.parent / "log").open("ab") as log:
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(list(map(str, words)), stdout=log, stderr=log, env=env, start_new_session=True)


def finish(kind: str, sequence: Path, output: Path) -> dict[str, bytes]:
    process = start(kind, sequence, output)
    assert process.wait() == 0, (output.parent / "log").read_text()[-2000:]
    return undisturbed.contents(output)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments_it_comes_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    sequence = tmp_path / "short.yaml"
    sequence.write_text(undisturbed.SEQUENCE)
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    whole = finish(kind, sequence, tmp_path / "whole" / "output")
    length, moments, kills, n = time.monotonic() - began, random.Random(kind), 0, 0
    assert len(whole) > 20
    while kills < KILLS:
        n += 1
        output = tmp_path / str(n) / "output"
        output.parent.mkdir()
        for _ in range(A_RUN):
            process = start(kind, sequence, output)
            try:
                process.wait(moments.uniform(0.2, 0.95) * length)
                break  # it was done before
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # the process that makes rows dies with it
                process.wait()
                kills += 1
        assert finish(kind, sequence, output) == whole, n
