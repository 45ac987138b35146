"""Does learning change the concept's word or the class noun? DINO right after each concept's own task.

    python benchmarks/nouns.py results/reference/dreambench10

For every run: similarity to the concept's real pictures of pictures generated for its phrase (the diagonal of the retention
matrix) and for the plain noun ("a photo of a dog", `pres` in measures.csv), averaged over the concepts that are the first of
their noun. Plain prompts are easier than a sequence's prompts, so compare methods, not the two columns.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cpbench.metrics.matrices import matrices
from cpbench.numbers import number
from cpbench.records import measures_table
from cpbench.records.folder import RunFolder
from cpbench.records.reading import finished_runs
from cpbench.records.record import Record, method_name
from cpbench.records.tables import read_scores


def run_scores(folder: Path, record: Record) -> tuple[float, float] | None:
    """Mean DINO right after learning for (the phrase, the plain noun); None for a run without plain nouns."""
    concepts, nouns = record.sequence.concepts, record.sequence.class_nouns
    table = measures_table.read(folder)
    if table is None:
        return None
    R = matrices(read_scores(RunFolder(folder).scores), concepts)["dino"]
    pres = table[table["measure"] == "pres"].set_index(["row", "concept"])["value"]
    first_concepts = [c for j, c in enumerate(concepts) if nouns[c] not in [nouns[k] for k in concepts[:j]]]
    rows = {c: concepts.index(c) + 1 for c in first_concepts}
    if not all((t, nouns[c]) in pres.index for c, t in rows.items()):
        return None
    return float(np.mean([R.loc[t, c] for c, t in rows.items()])), float(
        np.mean([pres[t, nouns[c]] for c, t in rows.items()])
    )


def scores_by_method(folder: Path) -> list[tuple[str, int, float, float]]:
    """(method, runs, phrase, plain noun), sorted by the score of the plain noun, highest first."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for path, record in finished_runs(folder):
        if pair := run_scores(path, record):
            scores.setdefault(method_name(record), []).append(pair)
    rows = [(method, len(values), *map(float, np.mean(values, axis=0))) for method, values in scores.items()]
    return sorted(rows, key=lambda row: -row[3])


def main(folder: Path) -> None:
    table = Table(title="DINO right after learning", title_justify="left")
    for head in ("method", "runs", "the concept's phrase", "the plain noun"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for method, runs, own_words, plain_noun in scores_by_method(folder):
        table.add_row(method, str(runs), number(own_words), number(plain_noun))
    Console().print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/reference/dreambench10"))
