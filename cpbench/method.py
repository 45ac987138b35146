"""The contract of a method: a function of a state and one concept. `Task` is its input, `State` is what it carries.

    state_t = method.learn(backbone, task_t, state_{t-1})           # state_0 is empty
    method.install(backbone, state_t, concepts, prompts)
    method.phrase(concept, class_noun, state_t)

A method is one class in one file, in `baselines/` or anywhere else. The runner makes a new method object for every
task.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from cpbench.errors import DamagedState, UserError, quoted
from cpbench.files import MOST_JSON, read_limited, seed_of
from cpbench.moved import old_attributes, old_names

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cpbench.backbones.backbone import Backbone

STATE_TENSORS, STATE_RECORD = "state.safetensors", "state.json"  # in the folder of its task
TENSOR_TYPES = ("adapter", "token", "fisher", "anchor", "mask", "weights", "generated", "pictures")
SCHEMA = 1


class NotDefined(Exception):
    """The method cannot do this by its nature, such as two isolated concepts in one picture: the cell is "not defined"."""


class Options(BaseModel):
    """Base of a method's options. Unknown keys and wrong types are errors; `cpbench describe` shows descriptions.

    only: the options that count only for some values of another option: {"rank": {"adapter": ("lora",)}}. POSITIVE
    stands for all values above 0. The table of a base class holds as well.

    later: the options that a method got after its first runs, each with the value that does what was done before; at
    that value an option is not part of a run's identity, so that earlier runs stay the same runs. Base classes count too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    only: ClassVar[Mapping[str, Mapping[str, tuple | str]]] = {}
    later: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def identifying(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Of a run's options by name, those that are part of its identity."""
        later = {key: value for base in cls.__mro__ for key, value in vars(base).get("later", {}).items()}
        return {key: value for key, value in options.items() if key not in later or later[key] != value}

    def without_effect(self) -> dict[str, str]:
        """The options that change nothing, each with the value of the other option that is the reason."""
        reasons = {}
        tables = [vars(base)["only"] for base in type(self).__mro__ if "only" in vars(base)]
        for name, conditions in (pair for table in tables for pair in table.items()):
            for condition, values in conditions.items():
                value = getattr(self, condition)
                if not (value > 0 if values == POSITIVE else value in values):
                    reasons[name] = f"{condition}={str(value).lower() if isinstance(value, bool) else value}"
        return reasons


POSITIVE = "above 0"
AnyOptions = Options  # for annotations inside of Method, where Options is a class attribute


@dataclass(frozen=True)
class Recipe:
    """What all methods' training loops have in common. The defaults are the harness's own; see `RecipeOptions`."""

    stratified_times: bool = True
    mirrored_pictures: bool = True
    weight_decay: float = 0.0


class RecipeOptions(Options):
    """Options of a method that trains by `cpbench.learning.train`."""

    stratified_times: bool = Field(
        True,
        description="the times of a batch are of equal parts of all times, one of each; false: each is drawn alone",
    )
    mirrored_pictures: bool = Field(True, description="half of the pictures of a batch are mirrored")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay of all that is trained")

    later: ClassVar = {"stratified_times": True, "mirrored_pictures": True, "weight_decay": 0.0}

    @property
    def recipe(self) -> Recipe:
        return Recipe(self.stratified_times, self.mirrored_pictures, self.weight_decay)


def recipe_of(options: Options) -> Recipe:
    """The recipe of a method's options; the harness's own where it has none."""
    return options.recipe if isinstance(options, RecipeOptions) else Recipe()


@dataclass(frozen=True)
class Task:
    """One step of a sequence. It holds arrays, text and generators, but no paths and nothing about other concepts.

    number: t, counted from 1. concept: the subject's name. images: uint8 (n, height, width, 3). seed: the run's seed.
    log: called as log(step, phase="train", loss=...) for a point of the training curve. recipe: that of the method's
    options, which the training loop reads. used_words: those of the evaluation's prompts and of all class nouns, which
    no concept may be called by.
    """

    number: int
    concept: str
    class_noun: str
    images: np.ndarray
    seed: int
    log: Callable[..., None] = field(default=lambda step, **figures: None, repr=False)
    recipe: Recipe = Recipe()
    used_words: frozenset[str] = frozenset()

    def generator(self, purpose: str) -> torch.Generator:
        """A new CPU generator, seeded by (seed, purpose, concept): the same purpose gives the same numbers again."""
        import torch

        return torch.Generator().manual_seed(seed_of(self.seed, purpose, self.concept))

    def shared_generator(self, *purpose: str | int) -> torch.Generator:
        """A new CPU generator, seeded by (seed, purpose) alone: all tasks of a run get the same numbers from it."""
        import torch

        return torch.Generator().manual_seed(seed_of(self.seed, *purpose))


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@old_attributes(part="tensors_of", bytes_by_kind="bytes_by_type")
@dataclass
class State:
    """Everything a method carries from task to task. Nothing else survives.

    tensors: by names that begin with a type of TENSOR_TYPES and a slash, "token/dog"; sizes are counted by type.
    facts: anything that JSON can hold; `facts["concepts"]` lists the learned concepts in order.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts learned so far, in order."""
        return self.facts.get("concepts", [])

    def tensors_of(self, prefix: str, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """The tensors whose names start with "prefix/", on `device`, by their names without it."""
        return {k[len(prefix) + 1 :]: v.to(device) for k, v in self.tensors.items() if k.startswith(prefix + "/")}

    def bytes_by_type(self) -> dict[str, int]:
        """Size in bytes of all tensors of each type: {"adapter": 159744, "token": 1024}."""
        sizes: dict[str, int] = {}
        for name, tensor in self.tensors.items():
            tensor_type = name.split("/", 1)[0]
            sizes[tensor_type] = sizes.get(tensor_type, 0) + tensor.numel() * tensor.element_size()
        return sizes

    def save(self, folder: Path, bound: Mapping[str, Any] | None = None) -> str:
        """Write state.safetensors, then state.json with its checksum, each atomically. Returns the tensors' SHA-256.

        bound: the run, seed, order, task and previous state that this state belongs to. It becomes part of the checked
        record, and `load` can require it. Raises ValueError for a tensor whose name does not begin with a type.
        """
        return self.serialized(bound).write(folder)

    def serialized(self, bound: Mapping[str, Any] | None = None) -> SerializedState:
        """The bytes that `save` writes, in memory; raises as it does."""
        from safetensors.torch import save

        for name in self.tensors:
            if name.split("/", 1)[0] not in TENSOR_TYPES or "/" not in name:
                raise ValueError(
                    f"state tensor {name!r} has no type; begin its name with one of {', '.join(TENSOR_TYPES)} and '/'"
                )
        # cloned: safetensors refuses two names for the same memory, such as an anchor that is the adapter
        data = save({k: v.detach().cpu().contiguous().clone() for k, v in self.tensors.items()})
        record = {"schema": SCHEMA, "facts": self.facts} | ({} if bound is None else {"bound": dict(bound)})
        return SerializedState(data, json.loads(json.dumps(record)))

    @staticmethod
    def load(folder: Path, bound: Mapping[str, Any] | None = None) -> State:
        """Read a state, with its tensors in the order of their names.

        bound: what it must belong to, see `save`. Raises FileNotFoundError if there is no state, and DamagedState,
        which names the file, if the state is incomplete, belongs to something else, or holds NaN or infinity.
        """
        record = _record(folder, bound)
        tensors = folder / STATE_TENSORS
        if not tensors.is_file():
            raise DamagedState(tensors, "it is missing")
        data = tensors.read_bytes()
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise DamagedState(tensors, "its checksum is not the one recorded")
        return State(_tensors_in(data, tensors), record["facts"])

    @staticmethod
    def checksum(folder: Path, bound: Mapping[str, Any] | None = None) -> str:
        """The checksum of a state's record, which identifies the state even after its tensors are deleted.

        Raises as `load` does. The tensors are not read.
        """
        return _checksum(_record(folder, bound))


@dataclass(frozen=True)
class SerializedState:
    """A state as the bytes of its two files: what reads them need not wait until they are on disk.

    tensors: the bytes of state.safetensors. record: what state.json holds, without the checksums.
    """

    tensors: bytes = field(repr=False)
    record: dict[str, Any]

    def write(self, folder: Path) -> str:
        """Write state.safetensors, then state.json with its checksum, each atomically. Returns the tensors' SHA-256."""
        from cpbench.files import write_atomically

        write_atomically(folder / STATE_TENSORS, self.tensors)
        digest = hashlib.sha256(self.tensors).hexdigest()
        record = self.record | {"sha256": digest}
        text = json.dumps({**record, "checksum": _checksum(record)}, indent=1, sort_keys=True)
        write_atomically(folder / STATE_RECORD, text.encode())
        return digest

    def state(self, folder: Path) -> State:
        """The state that `State.load` reads from the folder once it is written there; raises as it does."""
        return State(_tensors_in(self.tensors, folder / STATE_TENSORS), copy.deepcopy(self.record["facts"]))


def _tensors_in(data: bytes, file: Path) -> dict[str, torch.Tensor]:
    """The tensors in a state's bytes, in the order of their names. DamagedState, which names the file, for NaN or infinity."""
    import torch
    from safetensors.torch import load

    try:
        loaded = load(data)
    except Exception as error:  # the checksum matches and the content is broken: the library raises many types
        raise DamagedState(file, f"it cannot be read as safetensors ({error})") from None
    for name, tensor in loaded.items():
        numbers = tensor if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16) else tensor.to(torch.float64)
        if not torch.isfinite(numbers).all():
            raise DamagedState(file, f"{name} holds no numbers (NaN or infinity)")
    # the library returns them in another order at every call, and the order of a method's sums would follow
    return dict(sorted(loaded.items()))


def _record(folder: Path, bound: Mapping[str, Any] | None) -> dict[str, Any]:
    """The content of state.json, checked; see `State.load`."""
    file = folder / STATE_RECORD
    try:
        data = read_limited(file, MOST_JSON)
        if data is None and file.exists():
            raise ValueError("it is no file, or too large to be one")
        record = json.loads(file.read_bytes() if data is None else data)  # the first raises FileNotFoundError
        checksum = record.pop("checksum", None)
        schema, facts = record["schema"], record["facts"]
        concepts, expected = facts.get("concepts", []), _checksum(record)
        record["sha256"]
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedState(file, f"it is not a whole state record ({error})") from None
    if checksum != expected:
        raise DamagedState(file, "its checksum is not the one recorded")
    if isinstance(schema, int) and schema != SCHEMA:  # not damaged, and this version must not learn the task again
        writer = "a newer" if schema > SCHEMA else "an older"
        raise UserError(
            f"{file}: its schema is {schema}, and this cpbench reads {SCHEMA}: {writer} one wrote it; use that, or "
            "pass another --output"
        )
    if schema != SCHEMA:
        raise DamagedState(file, f"its schema is {quoted(schema)}, and this cpbench reads {SCHEMA}")
    if not isinstance(concepts, list) or not all(isinstance(c, str) for c in concepts):
        raise DamagedState(file, f"its concepts are no list of names, but {quoted(concepts)}")
    if bound is not None:
        owner = record.get("bound")
        if not isinstance(owner, dict):
            raise DamagedState(file, "it does not say which run it belongs to")
        if differing := [k for k, v in bound.items() if owner.get(k) != v]:
            k = differing[0]
            raise DamagedState(file, f"it belongs to something else: its {k} is {quoted(owner.get(k))}, not {bound[k]}")
    return record


class Method:
    """Base of all methods. A subclass defines `Options` and the functions `learn`, `install` and `phrase`.

    Class attributes for tables and docs:

    sees_earlier_data: it keeps pictures of earlier concepts (joint training, replay of real pictures).
    replays: "generated" if it learns from pictures of earlier concepts that it generated itself.
    tested_against: what its code was compared with, in the terms of docs/methods.md.
    search: the ranges for `cpbench tune`: {variant: {option: {"log": (low, high)} or {"choices": (...)}}}. A variant is
        "key=value" of an option, or "" for the method itself. The preset's value is the first trial.
    version: only for cpbench's own methods: part of the run's hash, raised by hand when the file changes what is
        learned or generated. A user's own file needs none: its source is part of the hash.
    """

    version: ClassVar[int]
    Options: ClassVar[type[Options]] = Options
    sees_earlier_data: ClassVar[bool] = False
    replays: ClassVar[str] = ""
    tested_against: ClassVar[str] = ""
    search: ClassVar[Mapping[str, Mapping[str, Mapping[str, tuple]]]] = {}

    def __init__(self, options: AnyOptions | None = None):
        self.options = options if options is not None else self.Options()

    def check(self, backbone: Backbone) -> None:
        """Raise UserError if the method cannot work on this backbone and device. Called before anything is computed."""

    def learn(self, backbone: Backbone, task: Task, state: State) -> State:
        """Learn one concept and return the next state. state: what the last task returned, empty before the first."""
        raise NotImplementedError

    @property
    def per_prompt(self) -> bool:
        """Whether `install` depends on the prompt: if so, it is called once per prompt."""
        return False

    def install(self, backbone: Backbone, state: State, concepts: Sequence[str], prompts: Sequence[str] = ()) -> None:
        """Prepare a pristine backbone to generate these concepts: (), (c,), or (c, d) for two in one picture.

        prompts: (), or, if `per_prompt` is true, the one prompt as it will be encoded, with its phrases. Raises
        NotDefined if the method cannot do this.
        """
        raise NotImplementedError

    def phrase(self, concept: str, class_noun: str, state: State) -> str:
        """The words that stand for a learned concept in a prompt: "<v3> dog"."""
        raise NotImplementedError

    def lora(self, state: State, concepts: Sequence[str]) -> dict[str, torch.Tensor] | None:
        """The LoRA that `install` adds to the denoiser, with alpha = rank, by name "layer.lora_A"; {} if it adds none.

        None if it changes whole weights: then `cpbench export` writes a pipeline. Raises NotDefined as `install` does.
        """
        return None


__getattr__ = old_names(__name__)
