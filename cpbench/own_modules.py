"""The part of a run's hash that depends on a method's code: versions of built-in methods, source of the user's own.

The user's own modules that a method's file imports affect its scores as much as the file itself.

They are found in the source, not in sys.modules: a method that the same process loaded before, or an import inside a
function that has not been called yet, must not change a run's hash.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cpbench.version import SCORES

PACKAGE = "cpbench"
BASELINES = "cpbench.baselines."
USER_FILE = "cpbench_user_"  # the name of a user's module begins with this, followed by the file's stem
INSTALLED = {
    "site-packages",
    "dist-packages",
}  # in paths of packages that are not the user's own, if they are below the same folder
_used: dict[str, tuple[Path, str]] = {}  # helpers by name, with their file and its SHA-256, as this process runs them


def identity(method: type) -> dict[str, Any]:
    """The facts about a method's code that affect its scores.

    scores: SCORES, the version of everything that methods share. versions: by name, those of the built-in methods that the
    class is, extends, or (in a user's file) imports from. source: for a class in a user's file or in a package, the hash of
    its code (see `source_hash`); a `version` of such a class is ignored.
    """
    built_in = {c.__module__: c for c in method.__mro__ if c.__module__.startswith(BASELINES)}
    facts: dict[str, Any] = {"scores": SCORES}
    is_own = not method.__module__.startswith(BASELINES)
    if is_own:
        module = sys.modules[method.__module__]
        files = helpers(module)
        for name in files:
            if name.startswith(BASELINES) and name not in built_in:
                built_in[name] = next(c for c in _classes(importlib.import_module(name)) if "version" in vars(c))
        facts["source"] = source_hash(
            {"": Path(os.path.abspath(module.__file__ or ""))}
            | {name: file for name, file in files.items() if not name.startswith(BASELINES)}
        )
    versions = {name.removeprefix(BASELINES): vars(c)["version"] for name, c in built_in.items()}
    return facts | {"versions": dict(sorted(versions.items()))}


def _classes(module: ModuleType) -> list[type]:
    return [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__]


def source_hash(files: dict[str, Path]) -> str:
    """SHA-256 over Python files, by their modules' names, whatever their comments, docstrings and layout."""
    sources = {name: normalised(file.read_bytes()) for name, file in sorted(files.items())}
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def normalised(source: bytes | str) -> str:
    """Python source without comments, layout and strings that stand alone (docstrings, of fields too), the same in every Python."""
    tree = _Alike().visit(ast.parse(source))
    for node in ast.walk(tree):
        for part in ("body", "orelse", "finalbody"):
            if isinstance(lines := getattr(node, part, None), list):
                statements = [statement for statement in lines if not _says_nothing(statement)]
                # a body must not become empty
                setattr(
                    node,
                    part,
                    statements if statements or part != "body" or isinstance(node, ast.Module) else [ast.Pass()],
                )
    return ast.unparse(ast.fix_missing_locations(tree))


class _Alike(ast.NodeTransformer):
    """f-strings become calls, since Python 3.12 and 3.11 quote their parts differently."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Call:
        parts: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                value = self.generic_visit(value)
                conversion = [ast.Constant(value.conversion), value.format_spec or ast.Constant(None)]
                parts.append(ast.Tuple([value.value, *conversion], ast.Load()))
            elif parts and isinstance(
                parts[-1], ast.Constant
            ):  # the number of pieces that text is parsed into differs too
                parts[-1] = ast.Constant(parts[-1].value + value.value)
            elif value.value:  # 3.12 has empty ones
                parts.append(ast.Constant(value.value))
        return ast.Call(ast.Name("f", ast.Load()), parts, [])


def _says_nothing(line: ast.AST) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def helpers(module: ModuleType) -> dict[str, Path]:
    """By module name, the files that a method's module imports, directly or indirectly, without the module itself.

    These are counted: built-in methods; for a user's file, files in its folder or below; for a method of an installed
    package, the rest of that package.
    """
    start = Path(os.path.abspath(module.__file__ or ""))
    whole = start.name == "__init__.py"
    name = module.__name__
    if name.startswith(USER_FILE):
        package, root = "", start.parent
    else:
        package = name if whole else name.rpartition(".")[0]
        root = start.parents[len(package.split(".")) if package else 0]
    folders = {root, Path(os.path.realpath(start)).parent}

    def counts(other: str, file: Path) -> bool:
        if other.partition(".")[0] == PACKAGE:
            return other.startswith(BASELINES)
        if not name.startswith(USER_FILE):
            return other.partition(".")[0] == name.partition(".")[0]
        below = [folder for folder in folders if folder in file.parents]
        return bool(below) and not INSTALLED & set(file.relative_to(below[0]).parts)

    modules: dict[str, Path] = {}
    todo = [(package, start)]
    while todo:
        package, file = todo.pop()
        for other in _imported(file, package):
            path = _file_of(other, root)
            if path is None or other in modules or path == start or not counts(other, path):
                continue
            modules[other] = path
            todo.append((other if path.name == "__init__.py" else other.rpartition(".")[0], path))
    return dict(sorted(modules.items()))


def _imported(file: Path, package: str) -> Iterator[str]:
    """The full names of all modules that a file may import, anywhere in it; packages before what is in them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # importing the file gives a better error
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]  # a module, or a name in one
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _file_of(name: str, folder: Path) -> Path | None:
    """A module's source file: where it was imported from, else where it would be in the folder."""
    origin = getattr(sys.modules.get(name), "__file__", None)
    if name in sys.modules:
        return Path(os.path.abspath(origin)) if origin and origin.endswith(".py") else None
    base = folder.joinpath(*name.split("."))
    for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if file.is_file():
            return file
    return None


def note(module: ModuleType) -> None:
    """Record the helpers of a user's file that was just imported, for `forget_old`."""
    for name, file in helpers(module).items():
        if name in sys.modules and not name.startswith(BASELINES):
            _used[name] = (file, _sha256(file))


def forget_old(folder: Path) -> None:
    """Before a user's file in `folder` is imported, forget helpers that were edited or are in another folder.

    Python would reuse the module of that name, and a run's hash would describe code that did not run.
    """
    old = {
        name
        for name, (file, digest) in _used.items()
        if not (file.is_file() and _sha256(file) == digest and Path(os.path.abspath(folder)) in file.parents)
    }
    if not old:
        return
    for name, (_, _) in list(_used.items()):  # all of them: a helper that stays would keep a reference to an old one
        del _used[name]
        module = sys.modules.pop(name, None)
        if name in old and (compiled := getattr(module, "__cached__", None)):
            with contextlib.suppress(OSError):  # its key is the source's size and second, which may be the same
                os.unlink(compiled)
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(last, None)
    importlib.invalidate_caches()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
