"""Comparable runs: groups of rows that may stand in one table, each with its ranks and the verdicts on its pairs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from cpbench.files import short_hash
from cpbench.leaderboard.entries import Run, comparable_facts
from cpbench.leaderboard.pairs import PRIMARY, Pair, RankingScore, ranked
from cpbench.leaderboard.rows import Row, isolated_runs, row_of
from cpbench.records.record import judge_names, sequence_name

PICTURE_SOURCES = {"drawn": "drawn stand-ins", "photographs": "photographs"}


@dataclass
class Group:
    """Comparable rows, the best first, and the facts that their runs share."""

    id: str
    facts: dict[str, Any]
    sequence: str
    backbone: str
    pictures: str
    judges: str
    rows: list[Row]
    ranked_by: RankingScore = PRIMARY
    pairs: dict[tuple[int, int], Pair] = field(default_factory=dict)  # of rows, by position
    size: int = 0  # number of rows of the whole table, from which ranks and verdicts are
    distinct_facts: list[str] = field(default_factory=list)  # those that differ from a group of the same title

    @property
    def title(self) -> str:
        return f"{self.sequence} on {self.backbone} ({PICTURE_SOURCES[self.pictures]})"

    def rank(self, row: Row) -> str:
        if row.rank is None:
            return "-"
        return str(row.rank) + ("~" if row.compared < self.size - 1 else "")

    def below(self, row: Row) -> str:
        """The number of methods that are shown to be worse; "-" for a row without a rank."""
        return "-" if row.rank is None else str(row.below)

    @property
    def concepts(self) -> list[str]:
        """In the sequence's own order, if one of the runs has it."""
        runs = [run for row in self.rows for run in row.runs]
        return min(runs, key=lambda run: run.record.config.order).record.sequence.concepts


def group_runs(runs: Sequence[Run], score: RankingScore = PRIMARY, methods: Collection[str] = ()) -> list[Group]:
    """The finished runs as rows in comparable groups, sorted by title.

    score: what rows are ranked by. methods: the rows to keep, named as in the table, without the star; all if it is empty. Ranks and
    verdicts are those of the whole table.
    """
    by_facts: dict[str, list[Run]] = {}
    for run in runs:
        if not run.state:
            by_facts.setdefault(short_hash(comparable_facts(run.record)), []).append(run)
    all_groups = []
    for key, members in by_facts.items():
        members.sort(key=lambda run: (run.seed_and_order, run.path))
        rows: dict[tuple[str, str], list[Run]] = {}
        for run in members:  # each seed and order occurs once, see `entries.without_duplicates`
            rows.setdefault((run.method, run.settings), []).append(run)
        first = min(members, key=lambda run: run.key)  # equal weights may have two names
        labels = (sequence_name(first.record), first.key[1], first.record.pictures, judge_names(first.record))
        by_name = sorted(rows.items())
        isolated = isolated_runs([row_runs for _, row_runs in by_name])
        all_rows = [row_of(row_runs, isolated) for _, row_runs in by_name]
        ranked_rows, pairs = ranked(all_rows, score)
        positions = [i for i, row in enumerate(ranked_rows) if not methods or row.method.replace("*", "") in methods]
        place = {i: k for k, i in enumerate(positions)}
        pairs = {(place[i], place[j]): pair for (i, j), pair in pairs.items() if i in place and j in place}
        if positions:
            rows_shown = [ranked_rows[i] for i in positions]
            facts = comparable_facts(first.record)
            all_groups.append(Group(key, facts, *labels, rows_shown, score, pairs, len(ranked_rows)))
    for group in all_groups:
        other_facts = [other.facts for other in all_groups if other is not group and other.title == group.title]
        group.distinct_facts = [k for k in group.facts if any(other[k] != group.facts[k] for other in other_facts)]
    return sorted(all_groups, key=lambda group: (group.title, group.judges, group.id))
