"""Numbers in README.md and docs/ are those of the committed leaderboard."""

import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import doc_tables  # noqa: E402

BOARD = pd.read_csv(ROOT / "results" / "reference" / "leaderboard.csv")


@pytest.mark.parametrize("page", doc_tables.PAGES)
def test_pages_have_the_leaderboards_numbers(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert doc_tables.MARKED.search(text) or doc_tables.PLACE.search(text)
    assert doc_tables.updated(page, BOARD) == text, "run python benchmarks/doc_tables.py"


def test_a_number_that_was_changed_by_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a rank, and a row too few."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = doc_tables.MARKED.search(text)[0]
    last = [line for line in table.splitlines() if line.startswith("|")][-1]
    for wrong in (table.replace(last, last.replace("| ", "| 9", 1)), table.replace(last + "\n", "")):
        assert wrong != table
        (tmp_path / "README.md").write_text(text.replace(table, wrong), encoding="utf-8")
        monkeypatch.setattr(doc_tables, "ROOT", tmp_path)
        assert doc_tables.updated("README.md", BOARD) == text


def test_a_table_by_hand() -> None:
    rows = pd.DataFrame(
        [
            {
                "rank": 1,
                "below": 4,
                "method": "joint*",
                "runs": 3,
                "dino_over_tasks": 0.65449,
                "dino_over_tasks_std": 0.0123,
            },
            {
                "rank": None,
                "below": 0,
                "method": "base",
                "runs": 1,
                "dino_over_tasks": 0.1,
                "dino_backward_transfer": -0.0001,
            },
        ]
    )
    for column, _ in doc_tables.COLUMNS.values():
        rows[column] = rows.get(column, float("nan"))
    head, _, first, second = doc_tables.table(rows).splitlines()
    assert head.startswith("| rank | methods below | method | runs | over tasks |")
    assert first.startswith("| 1 | 4 | joint\\* | 3 | 0.654 ± 0.012 | - |")
    assert second.startswith("| - | - | base | 1 | 0.100 | - | - | 0.000 |")
