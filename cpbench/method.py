"""What a method is: a function of (state, this concept). And what it is given (Task) and may carry (State).

    state_t = method.learn(backbone, task_t, state_{t-1})           # state_0 is empty
    method.install(backbone, state_t, concepts, prompts)
    method.phrase(concept, class_noun, state_t)

A method is one class in one file of `baselines/`, or of the user's own. The runner makes a new one for every task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from cpbench.errors import DamagedState, UserError, quoted
from cpbench.files import seed_of
from cpbench.moved import old_attribute, old_names

if TYPE_CHECKING:
    import numpy as np
    import torch

    from cpbench.backbones.backbone import Backbone

STATE_TENSORS, STATE_RECORD = "state.safetensors", "state.json"  # in the folder of its task
TENSOR_TYPES = ("adapter", "token", "fisher", "anchor", "mask", "weights", "generated", "pictures")
SCHEMA = 1


class NotDefined(Exception):
    """A method cannot do this by its nature (two isolated concepts in one picture, say): the cell is "not defined"."""


class Options(BaseModel):
    """Base of a method's options: unknown keys and wrong types are errors, the descriptions of fields are help.

    only: of options that count under some values of others alone, which: {"rank": {"adapter": ("lora",)}}; the values may be
    POSITIVE. That of a base class holds as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    only: ClassVar[Mapping[str, Mapping[str, tuple | str]]] = {}

    def without_effect(self) -> dict[str, str]:
        """Of options that change nothing under the values of others: {option: which value makes it so}."""
        found = {}
        tables = [vars(kind)["only"] for kind in type(self).__mro__ if "only" in vars(kind)]
        for name, conditions in (pair for table in tables for pair in table.items()):
            for other, values in conditions.items():
                value = getattr(self, other)
                if not (value > 0 if values == POSITIVE else value in values):
                    found[name] = f"{other}={str(value).lower() if isinstance(value, bool) else value}"
        return found


POSITIVE = "above 0"


@dataclass(frozen=True)
class Task:
    """One step of a sequence, all that `learn` is given: arrays, words and generators. No paths, no sequence.

    number: t, 1-based; concept: the subject's name; images: uint8 (n, height, width, 3); seed: the run's;
    log: called with a step, the name of its phase and its figures, for the training curve.
    """

    number: int
    concept: str
    class_noun: str
    images: np.ndarray
    seed: int
    log: Callable[..., None] = field(default=lambda step, **figures: None, repr=False)

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator seeded by (seed, purpose, concept); asked twice, it starts again."""
        import torch

        return torch.Generator().manual_seed(seed_of(self.seed, purpose, self.concept))


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


@dataclass
class State:
    """Everything a method carries from task to task. Nothing else survives.

    tensors: by name "kind/rest", kind one of KINDS, so that what is carried can be counted by kind.
    facts: whatever JSON holds; `facts["concepts"]` lists the concepts learned, in order.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def concepts(self) -> list[str]:
        return self.facts.get("concepts", [])

    # of cpbench 0.1, until 0.3
    part = old_attribute("State.part", "tensors_of")
    bytes_by_kind = old_attribute("State.bytes_by_kind", "bytes_by_type")

    def tensors_of(self, prefix: str, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
        """The tensors whose names start with "prefix/", by the rest of their names, on `device`."""
        return {k[len(prefix) + 1 :]: v.to(device) for k, v in self.tensors.items() if k.startswith(prefix + "/")}

    def bytes_by_type(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name, tensor in self.tensors.items():
            tensor_type = name.split("/", 1)[0]
            sizes[tensor_type] = sizes.get(tensor_type, 0) + tensor.numel() * tensor.element_size()
        return sizes

    def save(self, folder: Path, bound: Mapping[str, Any] | None = None) -> str:
        """Write state.safetensors, then state.json with its checksum; each atomically. Returns the tensors' SHA-256.

        bound: what this state belongs to (the runner's: run, seed, order, task, the checksum of the state before); it goes
        into the checked record, and `load` can ask for it. Raises ValueError for a tensor without a declared kind.
        """
        from safetensors.torch import save

        from cpbench.files import write_atomically

        for name in self.tensors:
            if name.split("/", 1)[0] not in TENSOR_TYPES or "/" not in name:
                raise ValueError(
                    f"state tensor {name!r} has no kind; begin its name with one of {', '.join(TENSOR_TYPES)} and '/'"
                )
        # cloned, since safetensors refuses two names for one memory (an anchor that is the adapter, say)
        data = save({k: v.detach().cpu().contiguous().clone() for k, v in self.tensors.items()})
        write_atomically(folder / STATE_TENSORS, data)
        digest = hashlib.sha256(data).hexdigest()
        record = {"schema": SCHEMA, "sha256": digest, "facts": self.facts}
        if bound is not None:
            record["bound"] = dict(bound)
        record = json.loads(json.dumps(record))
        words = json.dumps({**record, "checksum": _checksum(record)}, indent=1, sort_keys=True)
        write_atomically(folder / STATE_RECORD, words.encode())
        return digest

    @staticmethod
    def load(folder: Path, bound: Mapping[str, Any] | None = None) -> State:
        """Read a state back, its tensors in the order of their names, whatever the file's.

        bound: what it must belong to, see `save`. FileNotFoundError if there is none; DamagedState, naming the file, if it
        is not whole, is of something else, or holds a number that is none.
        """
        import torch
        from safetensors.torch import load

        record = _record(folder, bound)
        tensors = folder / STATE_TENSORS
        if not tensors.is_file():
            raise DamagedState(tensors, "it is missing")
        data = tensors.read_bytes()
        if hashlib.sha256(data).hexdigest() != record["sha256"]:
            raise DamagedState(tensors, "its checksum is not the one recorded")
        try:
            loaded = load(data)
        except Exception as error:  # the checksum is whole, and what it is of is not: the library raises many types
            raise DamagedState(tensors, f"it cannot be read as safetensors ({error})") from None
        for name, tensor in loaded.items():
            known = (
                tensor if tensor.dtype in (torch.float32, torch.float16, torch.bfloat16) else tensor.to(torch.float64)
            )
            if not torch.isfinite(known).all():
                raise DamagedState(tensors, f"{name} holds no numbers (NaN or infinity)")
        # the library gives them in another order at every call, and a method's sums follow it
        return State(dict(sorted(loaded.items())), record["facts"])

    @staticmethod
    def checksum(folder: Path, bound: Mapping[str, Any] | None = None) -> str:
        """What tells one state from another: the checksum of its record, which stays when its tensors are dropped.

        Raises as `load` does; the tensors are not read.
        """
        return _checksum(_record(folder, bound))


def _record(folder: Path, bound: Mapping[str, Any] | None) -> dict[str, Any]:
    """What state.json says, checked; see `State.load`."""
    words = folder / STATE_RECORD
    try:
        record = json.loads(words.read_text())
        checksum = record.pop("checksum", None)
        schema, facts = record["schema"], record["facts"]
        concepts, expected = facts.get("concepts", []), _checksum(record)
        record["sha256"]
    except (IsADirectoryError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedState(words, f"it is not a whole state record ({error})") from None
    if checksum != expected:
        raise DamagedState(words, "its checksum is not the one recorded")
    if isinstance(schema, int) and schema != SCHEMA:  # no damage, and not to be done again by this version
        whose = "a newer" if schema > SCHEMA else "an older"
        raise UserError(
            f"{words}: its schema is {schema}, and this cpbench reads {SCHEMA}: {whose} one wrote it; use that, or "
            "name another --output"
        )
    if schema != SCHEMA:
        raise DamagedState(words, f"its schema is {quoted(schema)}, and this cpbench reads {SCHEMA}")
    if not isinstance(concepts, list) or not all(isinstance(c, str) for c in concepts):
        raise DamagedState(words, f"its concepts are no list of names, but {quoted(concepts)}")
    if bound is not None:
        own = record.get("bound")
        if not isinstance(own, dict):
            raise DamagedState(words, "it does not say which run it belongs to")
        if other := [k for k, v in bound.items() if own.get(k) != v]:
            k = other[0]
            raise DamagedState(words, f"it belongs to something else: its {k} is {quoted(own.get(k))}, not {bound[k]}")
    return record


class Method:
    """Base of all methods. A subclass gives `Options` and the three functions below.

    Class facts, for tables and docs. sees_earlier_data: joint training, replay of given pictures; replays: "generated" if it
    learns from pictures of earlier concepts that it generated; tested_against: what its code was compared with, in the words
    of docs/methods.md; search: what `cpbench tune` searches, {settings that make it a variant, "": the method itself:
    {option: {"log": (low, high)} or {"choices": (...)}}}, the preset's value first. version, of cpbench's own methods
    alone: a number in every run's hash, raised by hand when the class's file changes what is learned or generated. A file
    of a user's own needs none: what it says is in the hash.
    """

    version: ClassVar[int]
    Options: ClassVar[type[Options]] = Options
    sees_earlier_data: ClassVar[bool] = False
    replays: ClassVar[str] = ""
    tested_against: ClassVar[str] = ""
    search: ClassVar[Mapping[str, Mapping[str, Mapping[str, tuple]]]] = {}

    def __init__(self, options: Options | None = None):
        self.options = options if options is not None else self.Options()

    def check(self, backbone: Backbone) -> None:
        """Raise UserError, before anything is spent, where this method cannot work on this backbone and device."""

    def learn(self, backbone: Backbone, task: Task, state: State) -> State:
        """Learn one concept; `state` is what the last task returned, an empty one before the first."""
        raise NotImplementedError

    @property
    def per_prompt(self) -> bool:
        """Whether what is installed depends on the prompt: then it is installed once for each of them."""
        return False

    def install(self, backbone: Backbone, state: State, concepts: Sequence[str], prompts: Sequence[str] = ()) -> None:
        """Ready a pristine backbone to draw: () plain prompts, (c,) one concept, (c, d) two in one picture.

        prompts: (), or where `per_prompt` the one text as it will be encoded, phrases put in. Raises NotDefined where the
        method has no way to do it.
        """
        raise NotImplementedError

    def phrase(self, concept: str, class_noun: str, state: State) -> str:
        """The words that stand for a learned concept in a prompt, e.g. "<v3> dog"."""
        raise NotImplementedError

    def lora(self, state: State, concepts: Sequence[str]) -> dict[str, torch.Tensor] | None:
        """What `install` puts into the UNet as one LoRA with alpha = rank, by name "layer.lora_A"; {} if it puts nothing.

        None where it is whole weights: then a pipeline is exported. Raises NotDefined as `install` does.
        """
        return None


__getattr__ = old_names(__name__)
