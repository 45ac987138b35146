"""cpbench is made of wings: an import goes down the list of docs/architecture.md and never up, and nowhere in a circle."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from cpbench import learning
from cpbench.leaderboard.figures import COMPUTED_BY

ROOT = Path(__file__).resolve().parents[1]
# From the top: what is further down may not know what is further up.
ORDER = (
    "cli", "leaderboard", "report", "finished", "miniature/pretrain", "running", "config",
    "records", "registry", "own_modules", "metrics", "judges", "learning", "method", "backbones", "concepts", "miniature", "remembered", "yaml_files",
    "validation", "files", "torchvision_compat", "output", "fitted_table", "numbers", "version", "errors",
)  # fmt: skip
ANYWHERE = ("__init__", "__main__", "moved")  # the package's own door, and what leads from old names to new ones


def modules() -> dict[str, Path]:
    """By dotted name every module of cpbench."""
    files = sorted((ROOT / "cpbench").rglob("*.py"))
    names = [f.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for f in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def wing_of(name: str) -> str:
    inner = name.split(".")[1:] or ["__init__"]
    return "miniature/pretrain" if inner[:2] == ["miniature", "pretrain"] else inner[0]


def imports(name: str, file: Path, known: set[str], anywhere: bool) -> Iterator[str]:
    """The modules of cpbench that one imports when it is imported; `anywhere`: in its functions and for types too."""
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if anywhere else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            full = [f"{base}.{alias.name}" for alias in node.names]
            yield from (f if f in known else base for f in full if f in known or base in known)


def test_every_module_is_in_a_wing_of_the_order() -> None:
    assert {wing_of(name) for name in modules()} - set(ANYWHERE) == set(ORDER)


def test_no_import_goes_up() -> None:
    known, wrong = modules(), []
    for name, file in known.items():
        if wing_of(name) in ANYWHERE:
            continue
        for other in imports(name, file, set(known), anywhere=True):
            here, there = wing_of(name), wing_of(other)
            if there not in ANYWHERE and ORDER.index(there) < ORDER.index(here):
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_no_import_is_part_of_a_circle() -> None:
    known = modules()
    graph = {
        name: set(imports(name, file, set(known), anywhere=False)) - {"cpbench", name} for name, file in known.items()
    }
    TopologicalSorter(graph).prepare()  # CycleError names the circle


# The two doors of method files

DOORS = ("cpbench.method", "cpbench.learning")


def printed_methods() -> list[tuple[str, str]]:
    """(where, code) of every method that README and docs print."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        found += [(page.name, code) for code in blocks if re.search(r"^class \w+\(.*\):", code, re.MULTILINE)]
    return found


METHODS = [(f.name, f.read_text()) for f in sorted((ROOT / "baselines").glob("*.py"))] + printed_methods()


@pytest.mark.parametrize(("where", "code"), METHODS, ids=[name for name, _ in METHODS])
def test_method_files_import_from_two_doors(where: str, code: str) -> None:
    """And from baselines that they extend: then the module, or the very names that stand among a class's bases."""
    tree, handed_on = ast.parse(code), set(learning.__all__)
    bases = {ast.unparse(base) for it in ast.walk(tree) if isinstance(it, ast.ClassDef) for base in it.bases}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("cpbench") for alias in node.names), where
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("cpbench"):
            continue
        for name in (alias.name for alias in node.names):
            if node.module.startswith("cpbench.baselines."):
                assert name in bases, f"{where} takes {name} from a baseline, and extends it not"
            elif node.module == "cpbench.baselines":
                assert any(base.startswith(f"{name}.") for base in bases), f"{where} imports {name}, and extends it not"
            elif node.module == "cpbench":
                assert f"cpbench.{name}" in DOORS, where
            else:
                assert node.module in DOORS, f"{where}: {node.module}"
                assert node.module == "cpbench.method" or name in handed_on, f"{where}: {name} is not handed on"


def test_the_door_hands_on_what_there_is_and_nothing_twice() -> None:
    assert len(METHODS) > 22 and len(learning.__all__) == len(set(learning.__all__))
    assert all(hasattr(learning, name) for name in learning.__all__)


# The page


def test_the_page_about_the_wings_has_them_in_their_order() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| wing |") : text.index("Beside them")]
    named = [it.strip("/").removesuffix(".py") for it in re.findall(r"^\| `([\w./]+)` \|", table, re.MULTILINE)]
    assert named == list(ORDER)
    for file in re.findall(r"`((?:cpbench|baselines|tests)/[\w./]+)`", text):
        assert (ROOT / file).exists(), file
    rows = dict(re.findall(r"^\| `(\w+/)` \| (.*) \|$", table, re.MULTILINE))
    for wing, words in rows.items():
        for file in re.findall(r"`(\w+\.py)`", words):
            assert (ROOT / "cpbench" / wing / file).is_file(), f"{wing}{file}"


def test_remembered_figures_are_known_by_all_code_that_computes_them() -> None:
    """Of cpbench.metrics and of the reader of tables: else an edit would leave yesterday's figures in a leaderboard."""
    known = modules()
    todo, needed = ["cpbench.metrics.summary", "cpbench.records.tables"], set()
    while todo:
        name = todo.pop()
        needed.add(name)
        todo += [it for it in imports(name, known[name], set(known), anywhere=True) if it not in needed]
    computing = {name for name in needed if name.startswith("cpbench.metrics.") or name == "cpbench.records.tables"}
    assert {it.__name__ for it in COMPUTED_BY} == computing
