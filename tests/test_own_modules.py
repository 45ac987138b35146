"""What a user's method builds on is in its run's hash, and runs as it is hashed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpbench import own_modules, runner
from cpbench.config import load_method

METHOD = """
from cpbench.method import Method
from helper import NUMBER

class Mine(Method):
    number = NUMBER

    def learn(self, backbone, task, state):
        import late

    def install(self, backbone, state, concepts): ...

    def phrase(self, concept, class_noun, state): ...
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    before = set(sys.modules)
    made = written(tmp_path / "one")
    monkeypatch.syspath_prepend(str(made))
    yield made
    for name in set(sys.modules) - before:
        if "helper" in name or name in ("late", "parts", "parts.deep") or name.startswith(own_modules.USER_FILE):
            del sys.modules[name]


def written(folder: Path, number: int = 1) -> Path:
    (folder / "parts").mkdir(parents=True)
    (folder / "mine.py").write_text(METHOD)
    (folder / "helper.py").write_text(f"import parts.deep\nNUMBER = {number}\n")
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "deep.py").write_text("X = 1\n")
    (folder / "late.py").write_text("Y = 1\n")
    (folder / "unused.py").write_text("Z = 1\n")
    return folder


@pytest.mark.parametrize(
    ("file", "moves"),
    [
        ("helper.py", True),
        ("parts/deep.py", True),
        ("parts/__init__.py", True),
        ("late.py", True),
        ("unused.py", False),
    ],
)
def test_helpers_are_in_the_hash_transitively(folder: Path, file: str, moves: bool) -> None:
    before = runner.code_hash(load_method(str(folder / "mine.py")))
    assert runner.code_hash(load_method(str(folder / "mine.py"))) == before
    with (folder / file).open("a") as there:
        there.write("# changed\n")
    assert (runner.code_hash(load_method(str(folder / "mine.py"))) != before) == moves


def test_a_helper_that_is_edited_within_a_process_runs_as_it_is_hashed(folder: Path) -> None:
    first = load_method(str(folder / "mine.py"))
    (folder / "helper.py").write_text("import parts.deep\nNUMBER = 2\n")  # of the same size, in the same second
    second = load_method(str(folder / "mine.py"))
    assert (first.number, second.number) == (1, 2)


def test_two_methods_with_helpers_of_one_name_get_their_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = load_method(str(folder / "mine.py"))
    other_folder = written(tmp_path / "two", number=7)
    monkeypatch.syspath_prepend(str(other_folder))
    other = load_method(str(other_folder / "mine.py"))
    assert (one.number, other.number) == (1, 7)
    assert runner.code_hash(other) != runner.code_hash(load_method(str(folder / "mine.py")))
