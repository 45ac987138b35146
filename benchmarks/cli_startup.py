"""CPU seconds of `cpbench --help`, compared with bare Python and `import torch`.

    python benchmarks/cli_startup.py [--repeat 7]

User and system time of the child process, minimum of several runs, to reduce the influence of other load.
"""

import argparse
import os
import subprocess
import sys

COMMANDS = {
    "cpbench --help": [
        "-c",
        "import sys; sys.argv = ['cpbench', '--help']; from cpbench.cli import main; main()",
    ],
    "python -c pass": ["-c", "pass"],
    'python -c "import torch"': ["-c", "import torch"],
}


def cpu_seconds(arguments: list[str]) -> float:
    before = os.times()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return (after.children_user - before.children_user) + (after.children_system - before.children_system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=7, help="runs per command (the first is a warm-up)")
    repeat = max(2, parser.parse_args().repeat)
    # in turn, so that a change of load affects all commands equally
    rounds = [{name: cpu_seconds(code) for name, code in COMMANDS.items()} for _ in range(repeat)]
    best = {name: min(r[name] for r in rounds[1:]) for name in COMMANDS}
    reference = best["cpbench --help"]
    for name, seconds in best.items():
        print(f"{name:<26}{seconds:7.3f} s   cpbench --help takes {reference / seconds:6.2f} times as long")


if __name__ == "__main__":
    main()
