"""`make bench`: the methods over a sequence, two runs at a time with one thread each, then the leaderboard."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

# a method and the settings that are not its usual ones; the longest first, so that no core is idle at the end
QUICK = ("dcscore", "raretoken", "clora", "seqlora", "isolated", "base")
WHOLE = (
    "dcscore",
    "dcscore variant=ewc-dc",
    "dcscore variant=ewc",
    "raretoken",
    "raretoken adapter=lora",
    "clora",
    "clora keep_noun=true",
    "seqlora",
    "isolated",
    "base",
)
LOG_EVERY_SECONDS = 60.0
USUAL = Path("results/runs")


def log_of(what: str, sequence: str, output: Path) -> Path:
    return output / "logs" / f"{sequence}-{what.replace(' ', '-')}.log"


def one(what: str, sequence: str, output: Path) -> tuple[int, float]:
    """Run one method in a process of its own, its words to a log. Returns (exit code, seconds)."""
    began, log = time.monotonic(), log_of(what, sequence, output)
    method, *settings = what.split()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    chosen = [word for setting in settings for word in ("--set", setting)]
    with log.open("w") as file:
        command = [sys.executable, "-m", "cpbench", "run", "--method", method, "--sequence", sequence, *chosen]
        command += ["--output", str(output)]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    return code, time.monotonic() - began


def last_line(log: Path) -> str:
    """The last line with words in a log: what the run is doing."""
    if not log.exists():
        return "waiting"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if " % " in line or line.startswith(("finished", "cpbench:", "folder"))]
    return (told or lines or ["starting"])[-1]


def follow(jobs: dict[Future, str], sequence: str, output: Path) -> None:
    """Say how each run is doing until all are done: a live table on a terminal, a line a minute in a log."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    def table() -> Table:
        shown = Table(box=None, show_header=False)
        for what in jobs.values():
            shown.add_row(what, last_line(log_of(what, sequence, output)))
        return shown

    if Console().is_terminal:
        with Live(table(), refresh_per_second=2) as live:
            while wait(jobs, timeout=1).not_done:
                live.update(table())
            live.update(table())
        return
    while waiting := wait(jobs, timeout=LOG_EVERY_SECONDS).not_done:
        for job in waiting:
            print(f"{jobs[job]}: {last_line(log_of(jobs[job], sequence, output))}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m cpbench.bench")
    parser.add_argument("--quick", action="store_true", help="a short sequence with few prompts")
    parser.add_argument("--output", type=Path, default=USUAL, help="where run folders go")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="runs at a time")
    asked = parser.parse_args()
    sequence, runs = ("quick3", QUICK) if asked.quick else ("dreambench10", WHOLE)
    began = time.monotonic()
    (asked.output / "logs").mkdir(parents=True, exist_ok=True)
    for what in runs:
        log_of(what, sequence, asked.output).unlink(missing_ok=True)
    print(f"{', '.join(runs)} over {sequence}, {asked.jobs} at a time; logs in {asked.output / 'logs'}", flush=True)
    with ThreadPoolExecutor(asked.jobs) as pool:
        jobs = {pool.submit(one, what, sequence, asked.output): what for what in runs}
        try:
            follow(jobs, sequence, asked.output)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            print("interrupted; the same command goes on from the last whole tasks", file=sys.stderr)
            return 130
    failed = 0
    for job, what in jobs.items():
        code, seconds = job.result()
        print(f"{what}: {'done' if code == 0 else f'FAILED with exit code {code}'} in {seconds / 60:.1f} min")
        if code:
            failed += 1
            print(log_of(what, sequence, asked.output).read_text(errors="replace")[-2000:])
    if failed < len(runs):
        from cpbench.leaderboard import write

        folder = asked.output.parent if asked.output == USUAL else asked.output
        write(folder, folder)
    print(f"{(time.monotonic() - began) / 60:.1f} min in all")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
