"""One place knows the files of a run's folder."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cpbench.records.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
KNOWING = ("cpbench/records/folder.py", "cpbench/method.py")  # a state's two files are the contract's own


def names() -> set[str]:
    """Of every file and folder that RunFolder and TaskFolder know."""
    run = RunFolder(Path("run"))
    found: set[str] = set()
    for at in (run, run.task(3)):
        for name in dir(type(at)):
            if isinstance(getattr(type(at), name), property):
                found |= {part for part in getattr(at, name).relative_to(at.path).parts}
    return found - {"pictures", "embeddings", "classifier", "dropped"}  # words that mean other things as well


def written(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of every path's piece that code writes: strings, but for docstrings, and the first piece of f-strings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_names_are_those_that_a_folder_has() -> None:
    assert {"run.json", "scores.csv", "state.safetensors", "row.json", "cost.json", "curve.csv", ".lock"} <= names()


@pytest.mark.parametrize("code", ['folder / "run.json"', 'f"task-{t:02d}"', 'glob("**/row.json")'])
def test_a_path_that_is_written_elsewhere_is_seen(code: str) -> None:
    assert wrong(ast.parse(code))


def wrong(tree: ast.AST) -> list[tuple[int, str]]:
    known = names()
    return [
        (line, text)
        for line, text in written(tree)
        if text in known or text.startswith("task-") or text.startswith("**/") and text[3:] in known
    ]


def test_no_other_file_of_cpbench_writes_them() -> None:
    found = []
    for file in sorted((ROOT / "cpbench").rglob("*.py")):
        if (place := file.relative_to(ROOT).as_posix()) not in KNOWING:
            found += [f"{place}:{line}: {text}" for line, text in wrong(ast.parse(file.read_text()))]
    assert found == []


def test_a_finished_run_has_what_its_folder_says(short_run: Callable[..., Path]) -> None:
    folder = short_run("seqlora")
    at = RunFolder(folder)
    for file in (at.record, at.scores, at.measures, at.identification, at.grid, at.matrix("dino")):
        assert file.is_file(), file
    for task in (at.task(1), at.task(2)):
        for file in (task.state, task.state_record, task.cost, task.curve, task.scores, task.row, task.all_pictures):
            assert file.exists(), file
    assert at.task(0).real("dog").is_file() and set(at.shown()) == {*folder.glob("*.csv"), *folder.glob("*.png")}
