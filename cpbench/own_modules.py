"""The modules of a user's own that a method's file imports: they move its scores as the file itself does.

They are found in the source, not among what is imported by now: another method that was loaded before in the same
process, or an import inside a function that nobody has called yet, must not decide what a run's hash is.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

PACKAGE = "cpbench"
BASELINES = "cpbench.baselines."
USER_FILE = "cpbench_user_"  # what the module of a user's file is called, and its stem behind it
INSTALLED = {"site-packages", "dist-packages"}  # in the path of what is not the user's own, if below the same folder
_used: dict[str, tuple[Path, str]] = {}  # helpers by name, with their file and its SHA-256, as this process runs them


def helpers(module: ModuleType) -> dict[str, Path]:
    """By module name the files that a method's module builds on, itself left out, and what those build on.

    Counted are the built-in methods; for a file of the user's own, what lies in its folder or below; for a method of an
    installed package, the rest of that package.
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

    found: dict[str, Path] = {}
    todo = [(package, start)]
    while todo:
        package, file = todo.pop()
        for other in _imported(file, package):
            path = _file_of(other, root)
            if path is None or other in found or path == start or not counts(other, path):
                continue
            found[other] = path
            todo.append((other if path.name == "__init__.py" else other.rpartition(".")[0], path))
    return dict(sorted(found.items()))


def _imported(file: Path, package: str) -> Iterator[str]:
    """The full names of all modules that a file may import, anywhere in it; packages before what is in them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):  # which importing it tells better
        return
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}".strip(".") for alias in node.names]  # a module, or what one holds
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))


def _file_of(name: str, folder: Path) -> Path | None:
    """A module's source: of one that is imported where it is from, else where it would be in the folder."""
    there = getattr(sys.modules.get(name), "__file__", None)
    if name in sys.modules:
        return Path(os.path.abspath(there)) if there and there.endswith(".py") else None
    base = folder.joinpath(*name.split("."))
    for file in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if file.is_file():
            return file
    return None


def note(module: ModuleType) -> None:
    """Keep in mind what a user's file that was just imported builds on, for `forget_old`."""
    for name, file in helpers(module).items():
        if name in sys.modules and not name.startswith(BASELINES):
            _used[name] = (file, _sha256(file))


def forget_old(folder: Path) -> None:
    """Before a user's file in `folder` is imported: have helpers imported anew that were edited, or are another folder's.

    Python would go on with the module of that name which it has, so that a run's hash were of code that did not run.
    """
    old = {
        name
        for name, (file, digest) in _used.items()
        if not (file.is_file() and _sha256(file) == digest and Path(os.path.abspath(folder)) in file.parents)
    }
    if not old:
        return
    for name, (_, _) in list(_used.items()):  # all of them: one that stayed would hold on to what another was
        del _used[name]
        module = sys.modules.pop(name, None)
        if name in old and (compiled := getattr(module, "__cached__", None)):
            with contextlib.suppress(OSError):  # it is known by its source's size and second, which may be the same
                os.unlink(compiled)
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            vars(sys.modules[parent]).pop(last, None)
    importlib.invalidate_caches()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
