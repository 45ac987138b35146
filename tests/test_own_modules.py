"""A run's hash has versions of what cpbench ships; of a user's method what it says and builds on, and that is what runs."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpbench import own_modules
from cpbench.own_modules import identity
from cpbench.registry import built_in_methods, load_method
from cpbench.version import SCORES

ROOT = Path(__file__).parent.parent

METHOD = """
from cpbench.method import Method, Options
from helper import NUMBER

class Mine(Method):
    Options = Options

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
    before = identity(load_method(str(folder / "mine.py")))
    assert before.keys() == {"scores", "versions", "source"} and before["versions"] == {}
    assert identity(load_method(str(folder / "mine.py"))) == before
    with (folder / file).open("a") as there:
        there.write("# a comment\n")
    assert identity(load_method(str(folder / "mine.py"))) == before
    with (folder / file).open("a") as there:
        there.write("CHANGED = 1\n")
    assert (identity(load_method(str(folder / "mine.py"))) != before) == moves


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
    assert identity(other) != identity(load_method(str(folder / "mine.py")))


# Versions


def test_every_built_in_method_states_its_version() -> None:
    for name in built_in_methods():
        kind = load_method(name)
        assert type(vars(kind)["version"]) is int and vars(kind)["version"] >= 1, name
        found = identity(kind)
        assert found["scores"] == SCORES and found["versions"][name] == kind.version and "source" not in found, name


def test_a_method_has_the_versions_of_all_that_it_extends(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name: load_method(name) for name in built_in_methods()}
    before = {name: identity(kind) for name, kind in kinds.items()}
    assert before["magmax"]["versions"].keys() == {"magmax", "mergeinit", "seqlora"}
    monkeypatch.setattr(kinds["mergeinit"], "version", 2)
    assert {name for name, kind in kinds.items() if identity(kind) != before[name]} == {"mergeinit", "magmax"}


EXTENDS = """
from cpbench.baselines.ewc import Ewc

class Mine(Ewc):
    version = 7
"""
IMPORTS = """
from cpbench.method import Method, Options

class Mine(Method):
    Options = Options

    version = 7

    def learn(self, backbone, task, state):
        from cpbench.baselines.clora import CLora

    def install(self, backbone, state, concepts): ...

    def phrase(self, concept, class_noun, state): ...
"""


@pytest.mark.parametrize(("text", "built_in"), [(EXTENDS, ("ewc", "seqlora")), (IMPORTS, ("clora",))])
def test_a_users_method_has_its_own_source_and_the_versions_of_what_it_builds_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, built_in: tuple[str, ...]
) -> None:
    (tmp_path / "mine.py").write_text(text)
    before = identity(load_method(str(tmp_path / "mine.py")))
    assert set(before["versions"]) >= set(built_in) and "mine" not in before["versions"]
    for name in built_in:
        with monkeypatch.context() as changed:
            changed.setattr(load_method(name), "version", 2)
            assert identity(load_method(str(tmp_path / "mine.py"))) != before, name
    (tmp_path / "mine.py").write_text(text.replace("version = 7", "version = 8"))
    after = identity(load_method(str(tmp_path / "mine.py")))
    assert after["source"] != before["source"] and after["versions"] == before["versions"]


# The source

SAID = '''
"""What it is."""
from __future__ import annotations
import math

class A(B, key=1):
    """Doc."""

    rate: float = 1e-4
    """of a field"""

    def f(self, x, /, *rest, deep: int = 2, **more) -> str:
        """Doc."""
        if x > 3 and not rest or (deep := 4):
            return f"{x!r:>{deep}} of {more['a']} {{}} {math.pi:.3f}" + 'it\\'s' + "\\n\\u00e9"
        elif x == 2 ** -1:
            yield from (a @ b for a, b in zip(rest, rest, strict=True) if a)
        else:
            "alone"
        for i in range(3):
            pass
        else:
            raise ValueError("x") from None
        try:
            with open(x) as g, open(x):
                lambda a, b=2: (a, *b)
        except* (OSError, KeyError) as error:
            del error
        finally:
            print(b"bytes", 1_000, 0x10, 1e10, 1j, ..., -x ** 2, (1,), {**more}, [*rest], x[1:2, ::3])
        match x:
            case {"a": [1, *_]} | A(b=2) if x:
                async def h(): await x

    @property
    def empty(self):
        """Doc."""
'''


def test_comments_docstrings_and_layout_do_not_count() -> None:
    other = SAID.replace("    ", "\t").replace("pass", "pass  # nothing").replace('"""Doc."""', "'Another.'")
    other = other.replace("import math\n", "import math\n\n\n# more\n").replace('"""of a field"""', "")
    said = own_modules.normalised(SAID)
    assert other != SAID and own_modules.normalised(other) == said
    for word, instead in (("1e-4", "2e-4"), (":>{", ":<{"), ("'it", "'It"), ("** -1", "** -2"), ("deep:", "wide:")):
        assert word in SAID and own_modules.normalised(SAID.replace(word, instead)) != said
    compile(said, "x", "exec")


def test_every_python_says_the_same() -> None:
    """Of a text with much of the grammar, and of all methods that cpbench ships."""
    others = [p for p in (shutil.which(f"python3.{minor}") for minor in (11, 12, 13, 14)) if p]
    there = [p for p in others if subprocess.run([p, "-c", "import ast"], capture_output=True).returncode == 0]
    if len(there) < 2:
        pytest.skip("there is only one Python of 3.11 and later")
    texts = [SAID, *(f.read_text() for f in sorted((ROOT / "baselines").glob("*.py")))]
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from cpbench.own_modules import normalised
print("\\0".join(map(normalised, sys.stdin.read().split("\\0"))))
"""
    command = ["-I", "-c", program]
    said = [subprocess.run([p, *command], input="\0".join(texts), capture_output=True, text=True) for p in there]
    assert [it.stderr for it in said] == [""] * len(said)
    assert len({it.stdout for it in said}) == 1 and said[0].stdout.count("\0") == len(texts) - 1
