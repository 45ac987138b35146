"""Draw the charts of README.md and docs/findings.md from the committed runs, as `cpbench leaderboard --chart` draws them.

    python benchmarks/doc_charts.py

Of dreambench10's table with the most rows: all of them, and README's ten (`doc_tables.TEN`).
"""

from __future__ import annotations

from doc_tables import REFERENCE, ROOT, TEN

from cpbench.leaderboard.chart import draw
from cpbench.leaderboard.entries import read_runs
from cpbench.leaderboard.groups import Group, group_runs


def largest_table(methods: tuple[str, ...] = ()) -> Group:
    groups = group_runs(read_runs(REFERENCE), methods=methods)
    return max((g for g in groups if g.sequence.startswith("dreambench10 v")), key=lambda group: len(group.rows))


def main() -> None:
    for methods, name in (
        ((), "findings-methods.png"),
        (tuple(m.removesuffix("*") for m in TEN), "results-methods.png"),
    ):
        draw(largest_table(methods), ROOT / "docs" / name)
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
