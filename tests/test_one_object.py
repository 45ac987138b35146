"""A figure, or a score, is one object: added to its table, it is in a run's record, its tables, its report and the leaderboard."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import cpbench
from cpbench.cli.options import cli
from cpbench.files import read_json
from cpbench.leaderboard import board
from cpbench.metrics import Figure, Score, figures, matrices
from cpbench.metrics.figures import FIGURES
from cpbench.metrics.scores import SCORES
from cpbench.records import tables, terminal

WORST = Figure(
    name="worst",
    title="worst of all",
    says="the lowest [{score} ]score of a concept at the end",
    higher_is_better=True,
    of=lambda R, ceiling: float(np.min(R[-1])),
    needs=("ceiling",),
    resampled=lambda columns: columns.last.min(1),
    column=9,
)
NEAREST = Score(
    name="nearest",
    title="DINO, nearest",
    says="likeness to the nearest real picture",
    judge="dino",
    against="pictures",
    of=lambda drawn, real: (drawn @ real.T).max(1),
    is_cosine=True,
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, short: Path, tmp_path: Path) -> Path:
    """The folder of a run that knows both."""
    monkeypatch.setitem(FIGURES, WORST.name, WORST)
    monkeypatch.setitem(SCORES, NEAREST.name, NEAREST)
    given = {"method": "base", "sequence": str(short), "output": tmp_path / "results", "overlap": False}
    return cpbench.run(**given)["folder"]


def test_one_object_is_everywhere(run: Path, tmp_path: Path) -> None:
    concepts = read_json(run / "run.json")["sequence"]["concepts"]
    scores = tables.read_scores(run / "scores.csv")
    cells = scores[(scores["kind"] == "cell") & (scores["row"] == len(concepts))]
    means = cells.groupby(["metric", "concept"])["value"].mean()
    record = read_json(run / "run.json")
    for metric in ("dino", "clip_t", "nearest"):
        lowest = min(means[metric, concept] for concept in concepts)
        assert record["figures"][metric]["worst"] == pytest.approx(lowest, abs=2e-6)
        low, high = record["intervals"][metric]["worst"]
        assert low <= high
    assert all(means["nearest", c] >= means["dino", c] for c in concepts)
    assert record["figures"]["nearest"]["normalised_retention"] is None  # it has no ceiling

    summary = terminal.run_tables(run, concepts, len(concepts))[-2]
    assert "worst of all" in list(summary.columns[0].cells)
    assert "DINO, nearest" in [str(column.header) for column in summary.columns]

    done = CliRunner().invoke(cli, ["report", str(run)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = (run / "report.html").read_text()
    for words in ("worst of all", "the lowest score of a concept at the end", "likeness to the nearest real picture"):
        assert words in page, words

    board.write(tmp_path / "results", tmp_path / "out")
    ((row),) = csv.DictReader((tmp_path / "out" / "leaderboard.csv").open())
    for metric in ("dino", "nearest"):
        assert float(row[f"{metric}_worst"]) == record["figures"][metric]["worst"]
        assert [float(row[f"{metric}_worst_{side}"]) for side in ("low", "high")] == record["intervals"][metric][
            "worst"
        ]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert (
        "| worst of all | DINO, nearest final |" not in text and "intransigence | worst of all | CLIP-I final" in text
    )
    assert "- worst of all: the lowest DINO score of a concept at the end." in text
    assert "DINO, nearest final" in text


def test_a_figure_that_needs_what_nothing_gives_is_told() -> None:
    for needs in (("oracle",), ("isolated", "ceiling")):
        with pytest.raises(ValueError, match="which nothing provides"):
            Figure("odd", "odd", "odd", None, lambda R: math.nan, needs=needs)


def test_what_is_no_score_is_in_no_matrix() -> None:
    """A table may come from anybody, and name anything."""
    lines = [(0, "cell", "dog", "p", 0, metric, 0.5) for metric in ("dino", "weight", "clip_i_first")]
    found = matrices.matrices(pd.DataFrame(lines, columns=matrices.SCORE_COLUMNS), ["dog"])
    assert list(found) == ["dino"]


def test_a_sentence_of_one_score_names_it() -> None:
    figure = FIGURES["normalised_retention"]
    assert figure.sentence("DINO").endswith("to the real pictures (DINO)")
    assert figure.sentence().endswith("to the real pictures")
    assert (
        FIGURES["over_tasks"].heading("DINO") == "DINO over tasks" and FIGURES["over_tasks"].heading() == "over tasks"
    )
    assert {it.name for it in figures.table_figures()} < {it.name for it in figures.in_a_run()} < FIGURES.keys()
