"""Old names of what moved: they answer until 0.3, and warn once.

What method files imported of cpbench 0.1 is here, and what README and docs/adding-a-method.md had: a module by its old name
is the new one, and the tools that baselines held for others are still found there.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

LAST = "0.3"
MODULES = {  # old: where its names are looked for, in this order
    "cpbench.adapters": ("cpbench.backbones.adapters", "cpbench.backbones.vocabulary"),
    "cpbench.diffusion_classifier": ("cpbench.learning.diffusion_classifier", "cpbench.learning.old_names"),
    "cpbench.fisher": ("cpbench.learning.fisher",),
    "cpbench.functional": ("cpbench.learning.functional",),
    "cpbench.images": ("cpbench.concepts.images",),
    "cpbench.norms": ("cpbench.learning.norms",),
    "cpbench.regularisation": ("cpbench.learning.prior_preservation", "cpbench.learning.old_names"),
    "cpbench.sampling": ("cpbench.backbones.sampling", "cpbench.records.pictures", "cpbench.running.picture_cache"),
    "cpbench.semantic_preservation": ("cpbench.learning.semantic_preservation",),
    "cpbench.sequences": ("cpbench.concepts.sequences", "cpbench.yaml_files"),
    "cpbench.structured_prompts": ("cpbench.learning.structured_prompts",),
    "cpbench.weights_or_lora": ("cpbench.learning.weights_or_lora",),
}
KIT = {  # names that a baseline had, and where they are; those that it uses itself are still found in it, without a word
    "cpbench.baselines.seqlora": ("cpbench.learning.lora", ("add_words",)),
}
_warned_names: set[str] = set()


def warn_once(old: str, new: str) -> None:
    """Warn about an old name the first time it is used: a DeprecationWarning, and a line on the command line's output."""
    if old not in _warned_names:
        from cpbench.output import say

        _warned_names.add(old)
        message = f"{old} is {new} now; the old name goes with cpbench {LAST}"
        say(f"warning: {message}")  # Python hides a DeprecationWarning from whoever uses the command line
        warnings.warn(message, DeprecationWarning, stacklevel=3)


def _from(places: Sequence[str], old: str, name: str) -> Any:
    for place in places:
        module = importlib.import_module(place)
        if hasattr(module, name):
            warn_once(f"{old}.{name}", f"{place}.{name}")
            return getattr(module, name)
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


class _Old(MetaPathFinder, Loader):
    """Finds the old modules, which hold nothing and answer for the new ones; and lets a baseline answer for its kit."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name in MODULES:
            return ModuleSpec(name, self)
        if name in KIT and (spec := self._real(name, path)) and spec.loader:
            spec.loader = _WithKit(spec.loader)
            return spec
        return None

    def _real(self, name: str, path: Any) -> ModuleSpec | None:
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        return next((spec for finder in finders if (spec := finder.find_spec(name, path, None))), None)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        places = MODULES[module.__name__]
        module.__getattr__ = lambda name: _answer(places, module.__name__, name)  # type: ignore[method-assign]


def _answer(places: Sequence[str], old: str, name: str) -> Any:
    if name.startswith("__"):  # what Python itself asks of a module
        raise AttributeError(f"module {old!r} has no attribute {name!r}")
    return _from(places, old, name)


class _WithKit(Loader):
    """The loader of a baseline, which adds that its kit is found where it was."""

    def __init__(self, real: Loader):
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.real.exec_module(module)
        place, names = KIT[module.__name__]

        def answer(name: str) -> Any:
            if name in names:
                return _from((place,), module.__name__, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__getattr__ = answer  # type: ignore[method-assign]


def answer_for_old_names() -> None:
    if not any(isinstance(finder, _Old) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Old())
