"""Names of cpbench 0.1 that have changed: they work until 0.3, and warn once.

Covered is what method files imported, and what README and docs/adding-a-method.md printed: modules by their old names,
tools that baselines held for others, and renamed functions, classes, attributes and keyword arguments.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

LAST = "0.3"
MODULES = {  # old module: the modules that have its names today, searched in this order
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
RENAMED = {  # module: its old names and what they are today, here or as a full path
    "cpbench.backbones.adapters": {"Kind": "AdapterType"},
    "cpbench.backbones.options": {"Loading": "BackboneConfig"},
    "cpbench.backbones.sampling": {"Wanted": "SampleRequest", "draw": "generate"},
    "cpbench.backbones.vocabulary": {"TokenRows": "TokenEmbeddings"},
    "cpbench.learning": {
        "Kind": "AdapterType",
        "Preservation": "SemanticPreservationOptions",
        "Prior": "PriorOptions",
        "Settings": "LoraOptions",
        "WeightsOrLora": "WeightsOrLoraOptions",
        "noise_scheduler": "cpbench.learning.old_names.noise_scheduler",
        "prior": "prior_preservation_term",
        "semantic": "semantic_preservation_term",
    },
    "cpbench.learning.lora": {
        "Settings": "LoraOptions",
        "add_tokens": "cpbench.learning.words.add_tokens",
        "token_of": "cpbench.learning.words.token_of",
    },
    "cpbench.learning.norms": {"of_lora": "lora_norm", "of_trained": "trained_norms"},
    "cpbench.learning.prior_preservation": {
        "Prior": "PriorOptions",
        "generated": "generate",
        "preservation": "denoising_term",
        "prior": "prior_preservation_term",
    },
    "cpbench.learning.semantic_preservation": {
        "Preservation": "SemanticPreservationOptions",
        "semantic": "semantic_preservation_term",
    },
    "cpbench.learning.structured_prompts": {
        "against_training": "training_format",
        "amplified": "augmented",
        "likeliest": "most_likely_background",
    },
    "cpbench.learning.weights_or_lora": {
        "WeightsOrLora": "WeightsOrLoraOptions",
        "begin": "init_trainables",
        "put_back": "load_trainables",
    },
    "cpbench.method": {"KINDS": "TENSOR_TYPES"},
}
BASELINES = {  # baseline: tools that it held for others in 0.1, and where they are; not those that it still uses
    "cpbench.baselines.seqlora": {
        "Settings": "cpbench.learning.lora.LoraOptions",
        "add_words": "cpbench.learning.words.add_words",
        "token_of": "cpbench.learning.words.token_of",
    },
}
_warned: set[str] = set()


def warn_once(old: str, new: str, stacklevel: int = 3) -> None:
    """Warn about an old name the first time it is used: a DeprecationWarning, and a line on the command line's output.

    stacklevel: as warnings.warn counts it.
    """
    if old not in _warned:
        from cpbench.output import say

        _warned.add(old)
        message = f"{old} is {new} now; the old name goes with cpbench {LAST}"
        say(f"warning: {message}")  # Python hides a DeprecationWarning from whoever uses the command line
        warnings.warn(message, DeprecationWarning, stacklevel)


def old_names(module: str) -> Callable[[str], Any]:
    """`__getattr__` for a module with entries in RENAMED. AttributeError for any other name, as without it."""

    def __getattr__(name: str) -> Any:
        today = RENAMED[module].get(name)
        if today is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        path = today if "." in today else f"{module}.{today}"
        warn_once(f"{module}.{name}", path)
        return _at(path)

    return __getattr__


def old_attributes(**new_names: str) -> Callable[[type[T]], type[T]]:
    """A decorator for a class that answers to old names of attributes and methods: `new_names[old]` is today's."""

    def decorate(owner: type[T]) -> type[T]:
        def answer(old: str, new: str) -> property:
            def get(instance: Any) -> Any:
                warn_once(f"{owner.__name__}.{old}", f"{owner.__name__}.{new}")
                return getattr(instance, new)

            return property(get)

        for old, new in new_names.items():
            setattr(owner, old, answer(old, new))
        return owner

    return decorate


def renamed_keywords(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for a function that also takes keyword arguments by their old names: `new_names[old]` is today's."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old in kwargs:
                    warn_once(f"{function.__qualname__}({old}=...)", f"{new}=...")
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def _at(path: str) -> Any:
    """What a full path names: "cpbench.learning.words.add_words"."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _from(places: Sequence[str], old: str, name: str) -> Any:
    """An attribute of an old module, from the first of the modules that has it today. AttributeError if none has."""
    for place in places:
        today = RENAMED.get(place, {}).get(name, name)
        module = importlib.import_module(place)
        if hasattr(module, today):
            warn_once(f"{old}.{name}", f"{place}.{today}", stacklevel=4)
            return getattr(module, today)
    raise AttributeError(f"module {old!r} has no attribute {name!r}")


class _OldModules(MetaPathFinder, Loader):
    """Finds the old modules, which are empty and hand out the new ones' names; and adds a baseline's former tools to it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name in MODULES:
            return ModuleSpec(name, self)
        if name in BASELINES and (spec := self._original_spec(name, path)) and spec.loader:
            spec.loader = _BaselineLoader(spec.loader)
            return spec
        return None

    def _original_spec(self, name: str, path: Any) -> ModuleSpec | None:
        finders = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        return next((spec for finder in finders if (spec := finder.find_spec(name, path, None))), None)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__

        def __getattr__(name: str) -> Any:
            if name.startswith("__"):  # what Python itself asks of a module
                raise AttributeError(f"module {old!r} has no attribute {name!r}")
            return _from(MODULES[old], old, name)

        vars(module)["__getattr__"] = __getattr__


class _BaselineLoader(Loader):
    """The loader of a baseline, which adds the tools that the baseline had in 0.1."""

    def __init__(self, original: Loader):
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.original.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.original.exec_module(module)
        baseline = module.__name__

        def __getattr__(name: str) -> Any:
            if (path := BASELINES[baseline].get(name)) is None:
                raise AttributeError(f"module {baseline!r} has no attribute {name!r}")
            warn_once(f"{baseline}.{name}", path)
            return _at(path)

        vars(module)["__getattr__"] = __getattr__


def answer_for_old_names() -> None:
    """Make the old modules importable; harmless when called again."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldModules())
