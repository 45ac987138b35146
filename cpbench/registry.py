"""Methods and their presets. A method is built in, added by a package, or a file of the user's own."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import os
import re
import sys
import traceback
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from cpbench import own_modules
from cpbench.concepts import sequences
from cpbench.errors import UserError, did_you_mean
from cpbench.miniature import EMBEDDED, FLOW

if TYPE_CHECKING:
    from cpbench.method import Method

ENTRY_POINTS = "cpbench.methods"
REQUIRED = ("learn", "install", "phrase")  # of a method
PROVENANCE = "_provenance"  # in a preset: where its values are from
_PresetLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, ten times as fast, where PyYAML was built with it
PAPERS = "sd"  # the preset of Stable Diffusion, over which those of other families are


def baselines_folder() -> Any:
    try:
        return resources.files("cpbench.baselines")
    except ModuleNotFoundError:  # a checkout that is not installed
        return Path(__file__).resolve().parent.parent / "baselines"


def built_in_methods() -> list[str]:
    return sorted(
        f.name[:-3] for f in baselines_folder().iterdir() if f.name.endswith(".py") and not f.name.startswith("_")
    )


def method_names() -> list[str]:
    added = [e.name for e in metadata.entry_points(group=ENTRY_POINTS)]
    return sorted({*built_in_methods(), *added})


def summary_of(name: str) -> str:
    """The first line of a built-in method's docstring, without importing it."""
    text = (baselines_folder() / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


def load_method(name: str) -> type[Method]:
    """A method's class, from a built-in name, an entry point, or the path of a file that defines one Method subclass."""
    from cpbench.method import Method

    if name in built_in_methods():
        module = importlib.import_module(f"cpbench.baselines.{name}")
    elif name.endswith(".py"):
        module = _module_from(Path(name))
    else:
        entry = sequences.added_by_package(ENTRY_POINTS, name, "method")
        if entry is None:
            hint = "You can also pass the path of a Python file that defines a Method."
            if os.path.isfile(f"{name}.py"):
                hint = f"There is a file {name}.py; add the ending to its name."
            raise did_you_mean(name, method_names(), "method", hint)
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:  # any error of a foreign package
            problem = f"method {name}: the package that adds it ({entry.value})"
            raise UserError(f"{problem} cannot be imported: {error}; repair or uninstall it") from error
        if isinstance(loaded, type):
            return _whole(loaded, name)
        module = loaded
    classes = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == module.__name__
    ]
    if len(classes) != 1:
        those = f": {', '.join(c.__name__ for c in classes)}" if classes else ""
        raise UserError(
            f"method {name}: its file must define one subclass of cpbench.method.Method, but defines {len(classes)}{those}"
        )
    return _whole(classes[0], name)


def _whole(method: type[Method], name: str) -> type[Method]:
    """The class, if it has everything that a method needs; otherwise UserError."""
    from cpbench.method import Method

    if not issubclass(method, Method):
        raise UserError(
            f"method {name}: {method.__name__} is not a subclass of cpbench.method.Method; derive it from there"
        )
    if absent := [part for part in REQUIRED if getattr(method, part) is getattr(Method, part)]:
        raise UserError(f"method {name}: {method.__name__} lacks {' and '.join(absent)}; see docs/adding-a-method.md")
    if not any("Options" in vars(base) for base in method.__mro__ if base is not Method):
        raise UserError(
            f"method {name}: {method.__name__} does not define its options; give it `Options = <your options class>`, or, "
            "for a method without options, `Options = Options` (of cpbench.method)"
        )
    return method


@functools.cache
def facts_of(name: str) -> dict[str, Any]:
    """Facts in a built-in method's class (`tested_against`, `replays`, `sees_earlier_data`), read without importing it."""
    tree = ast.parse((baselines_folder() / f"{name}.py").read_text(encoding="utf-8"))
    facts: dict[str, Any] = {}
    for node in (line for statement in tree.body if isinstance(statement, ast.ClassDef) for line in statement.body):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            facts[node.targets[0].id] = node.value.value
    return facts


def _module_from(path: Path) -> Any:
    if not os.path.isfile(path):  # which, unlike pathlib's, is calm about a name too long to be a file's
        raise UserError(f"method {path}: there is no such file; check the path")
    name = own_modules.USER_FILE + re.sub(r"[^A-Za-z0-9]", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    own_modules.forget_old(path.parent)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        at = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(spec.origin)]
        line = getattr(error, "lineno", None) or (at[-1] if at else None)
        place = f", line {line}" if line else ""
        raise UserError(f"method {path}{place}: cannot be imported ({type(error).__name__}: {error})") from error
    own_modules.note(module)
    return module


def method_file(method: type[Method]) -> Path:
    return Path(inspect.getfile(method))


def preset(backbone: str, method: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """A method's preset on a backbone: tuned values if the backbone has a file, else the papers' for Stable Diffusion and
    over them its family's. The second miniature's are over the first's.

    Empty if there is none. An entry "method key=value" is added to the method's if `options` has that value.
    """
    from cpbench.backbones import families, hub

    backbone_name, settings = Path(backbone).name, {}
    presets = {file.name.removesuffix(".yaml"): file for file in (baselines_folder() / "presets").iterdir()}
    if backbone_name in presets and backbone_name not in families.PRESETS.values():
        layers = list(EMBEDDED) if backbone_name == FLOW else [backbone_name]
    else:
        layers = list(dict.fromkeys((PAPERS, families.PRESETS.get(hub.pipeline_class(backbone) or "", PAPERS))))
    for name in layers:
        table = yaml.load(presets[name].read_text(encoding="utf-8"), Loader=_PresetLoader) or {}
        settings |= table.get(method, {})
        for key, value in (options or {}).items():
            settings |= table.get(f"{method} {key}={str(value).lower() if isinstance(value, bool) else value}", {})
    return {k: v for k, v in settings.items() if k != PROVENANCE}


def changed(method: str, backbone: str, options: BaseModel) -> dict[str, Any]:
    """The options that differ from the method's preset and defaults: they distinguish its runs."""
    name = Path(method).stem
    tuned = preset(backbone, name, options.model_dump()) if method in method_names() else {}
    usual = {k: f.get_default(call_default_factory=True) for k, f in type(options).model_fields.items()} | tuned
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in usual.items()}
    return {k: v for k, v in options.model_dump(mode="json").items() if v != listed[k]}
