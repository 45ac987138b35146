"""run.json: the one schema of a run's record, which the runner builds and everything else reads.

A record may come from anybody, so every field is checked; `reading` finds and reads them, `upgrade` has those of earlier versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, StrictBool, model_validator

from cpbench.concepts.schema import MOST_CONCEPTS
from cpbench.errors import quoted
from cpbench.files import FILE_NAME
from cpbench.judges import identity
from cpbench.registry import built_in_methods, facts_of

SCHEMA: Final = 3
MOST_CHARACTERS = 2000  # of a name, of a method with all its settings too
Status = Literal["running", "stopped", "failed", "finished"]


def text(value: object) -> str:
    """ValueError for anything but printable text of at most MOST_CHARACTERS."""
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(f"{quoted(value)} is no name")
    if len(value) > MOST_CHARACTERS:
        raise ValueError(f"{quoted(value)} has {len(value)} characters, and may have {MOST_CHARACTERS}")
    return value


def whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{quoted(value)} is no whole number")
    return value


def checked_number(value: object) -> int | float:
    """A whole number stays one: a hash is over what was written."""
    if type(value) is float or (type(value) is int and abs(value) < 2**63):
        return value
    raise ValueError(f"{quoted(value)} is no number")


def scalar(value: object) -> str | bool | int | float | None:
    if value is None or isinstance(value, bool):
        return value
    return checked_number(value) if isinstance(value, int | float) else text(value)


def file_name(value: str) -> str:
    if not FILE_NAME.fullmatch(value):
        raise ValueError(f"{quoted(value)} cannot be part of a file's name")
    return value


def different(value: list[str]) -> list[str]:
    if len(set(value)) < len(value):
        raise ValueError("a concept occurs twice")
    return value


Text = Annotated[str, PlainValidator(text)]
Name = Annotated[Text, AfterValidator(file_name)]
Whole = Annotated[int, PlainValidator(whole)]
Number = Annotated[int | float, PlainValidator(checked_number)]
Scalar = Annotated[str | bool | int | float | None, PlainValidator(scalar)]
Figures = dict[Text, dict[Text, Number | None]]  # by score and figure; None where it is not defined
Intervals = dict[Text, dict[Text, Annotated[list[Number], Field(min_length=2, max_length=2)] | None]]


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    def as_json(self) -> dict[str, Any]:
        """What was given for it, as it is written."""
        return self.model_dump(mode="json", exclude_unset=True)


class Open(Part):
    """Keeps what it has no field for."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Config(Open):
    """The resolved configuration, a `RunConfig`; here is what is read of it without loading one."""

    backbone: Text
    seed: Whole
    order: Whole
    method: Text = ""
    sequence: Text = ""
    judges: list[Text] = []
    options: dict[Text, Any] = {}
    evaluation: dict[Text, Any] = {}
    loading: dict[Text, Any] = {}


class SequenceFacts(Part):
    name: Name
    version: Whole
    concepts: Annotated[list[Name], Field(min_length=1, max_length=MOST_CONCEPTS), AfterValidator(different)]
    """In the order learned."""
    class_nouns: dict[Name, Text] = {}
    prompts: dict[Name, list[Text]] = {}
    """By concept its evaluation prompts, in the order of the pictures' numbers."""


class JudgeFacts(Open):
    """Whose scores they are: weights, and by which rules. The library's version moves no score."""

    model: Text
    weights_sha256: Text
    library: Text = ""
    preprocessing: Text = ""
    feature: Text = ""
    pair_rule: Text = ""
    text_rule: Text = ""
    architecture: Text = ""
    tokenizer: Text = ""

    @property
    def compared(self) -> dict[str, Any]:
        """What runs of one table agree in: without what older records do not say, where that is known."""
        facts = identity.abridged(self.as_json())
        later = ("architecture", "tokenizer")
        return {key: facts.get(key, "") for key in identity.COMPARED if facts.get(key) or key not in later}

    @property
    def counted(self) -> dict[str, Any]:
        """What moves a score, with what older records do not say, where that is known."""
        return identity.counted(identity.completed(self.as_json()))


class Facts(Open):
    """All that moves a score. The run's hash is over it; a record may be older than one of the optional ones."""

    method: Text
    """The method's name; of a user's file that file's, without its ending."""
    scores: Whole
    """The SCORES that it was computed with; 0 where today's code is not known to give these numbers."""
    versions: dict[Text, Whole]
    """Of the method's class and of every built-in that it extends."""
    source: Text | None = None
    """Hash of a user's own method, see `own_modules`."""
    options: dict[Text, Any] = {}
    sequence: Text | None = None
    """Hash of the sequence's content."""
    images: dict[Text, Text] | None = None
    """By concept the hash of its training pictures, as they are given to the method."""
    references: dict[Text, Text] | None = None
    """By concept the hash of the pictures that identity is scored against; None: the training pictures."""
    backbone: Text | None = None
    """Hash of the weights and configs that are loaded."""
    judges: dict[Text, Any] = {}
    """By name what moves a score of a judge, see `judges.identity.counted`."""
    sampler: dict[Text, Scalar] | None = None
    pictures_per_prompt: Whole | None = None
    dtype: Text | None = None
    picture_size: Whole | None = None
    """Side of a picture in pixels."""
    rows: list[Whole] | None = None
    """The rows of the matrix that were asked for; None is all."""
    diagonal: StrictBool = False
    """Whether the rows left out have the concept of their own task."""
    adapter_scales: list[Number] = []
    """The strengths at which the last row has its concepts besides; see `metrics.equal_text`."""


class Conditions(Open):
    """On what some of the tasks were computed, see `machine.facts`."""

    device: Text | None = None
    threads: Whole | None = None
    versions: dict[Text, Scalar] | None = None
    learning: list[Whole] = []
    """Tasks that were learned on it."""
    row: list[Whole] = []
    """Rows that were made on it."""


class Cost(Part):
    """Of one task: learning it, and making the row of the matrix after it."""

    learning_seconds: Number = 0.0
    learning_evaluations: Number = 0
    """Evaluations of the denoiser, forward passes only; a batch of n is n."""
    generation_seconds: Number = 0.0
    generation_evaluations: Number = 0
    pictures_generated: Number = 0
    pictures_reused: Number = 0
    """Pictures that another row or run had generated."""
    installations: Number = 0
    """How often the method's state was put into the model: once per cell, or per prompt where that decides what is put in."""
    generation_compiled: StrictBool = False
    """Whether the denoiser was compiled for some of the batches."""
    compile_seconds: Number = 0.0
    """Of generation_seconds: the calls that compiled the denoiser."""
    compiled_anew: Number = 0
    """Graphs that were compiled and not taken from the cache."""
    judging_seconds: Number = 0.0
    trainable_parameters: Number = 0
    state_parameters: Number = 0
    """Entries of all tensors of the state after the task."""
    state_bytes: dict[Text, Number] = {}
    """Bytes of the state's tensors by type."""
    peak_memory_bytes: Number = 0

    @property
    def seconds(self) -> float:
        return float(self.learning_seconds + self.generation_seconds + self.judging_seconds)


class Record(Part):
    schema_version: Annotated[Literal[3], Field(alias="schema")] = SCHEMA
    """SCHEMA; records of earlier versions are upgraded on reading."""
    status: Status
    """stopped: by a signal, such as Ctrl-C; `upgrade` reads "interrupted" of older records as stopped."""
    reason: Text = ""
    """Why it failed, or what stopped it."""
    config: Config
    changed: dict[Text, Any] = {}
    """The method's options that are not those of its preset."""
    folder: Text = ""
    """Absolute path of the run's folder, if `config` has absolute paths: with it they are found after a move."""
    facts: Facts
    hash: Text
    """`short_hash` of the facts."""
    is_sound: Annotated[StrictBool, Field(exclude=True)] = True
    """Not written: whether the hash was that of the facts, see `upgrade.today`."""
    sequence: SequenceFacts
    pictures: Literal["drawn", "photographs"]
    judges: dict[Text, JudgeFacts]
    sees_earlier_data: StrictBool
    backbone: dict[Text, Any] = {}
    """How it was loaded."""
    made_on: list[Conditions] = []
    costs: dict[Annotated[int, Field(ge=0)], Cost] = {}
    """By task; 0 is the untouched model's row."""
    figures: Figures = {}
    """By score and figure, of a finished run; readers compute them again from scores.csv."""
    intervals: Intervals = {}
    """Their 95 % intervals, [low, high]."""
    multi_concept: dict[Text, dict[Text, Number | None]] = {}
    """By row the mean scores of pictures of two concepts."""
    measures: dict[Text, Number] = {}
    """Means of measures.csv after the last task."""
    files: dict[Text, Text] = {}
    """SHA-256 of the tables and pictures beside it, by name."""
    versions: dict[Text, Text] = {}
    commit: Text | None = None

    @model_validator(mode="after")
    def _names_are_not_too_long(self) -> Record:
        text(method_name(self))
        return self

    def as_json(self) -> dict[str, Any]:
        """As it is written to run.json."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def references(self) -> Literal["training", "held-out", "partly held-out"]:
        """Which pictures identity is scored against: those that were learned from, or others of the same concept."""
        references, images = self.facts.references, self.facts.images or {}
        if references is None:
            return "training"
        return "partly held-out" if any(images.get(c) == digest for c, digest in references.items()) else "held-out"

    @property
    def is_finished(self) -> bool:
        return self.status == "finished"

    @property
    def whole_rows(self) -> list[int]:
        """The rows of the matrix in which a finished run has all concepts learned so far."""
        last = len(self.sequence.concepts)
        chosen_rows = range(last + 1) if self.facts.rows is None else self.facts.rows
        return sorted({0, last, *(t for t in chosen_rows if t <= last)})

    @property
    def rows(self) -> list[int]:
        """The rows of the matrix in which a finished run has a concept."""
        return list(range(len(self.sequence.concepts) + 1)) if self.facts.diagonal else self.whole_rows


def contradiction(record: Record) -> str:
    """Why a record cannot be true, or ""."""
    if not record.is_sound:
        return "its run.json has another hash than its facts"
    configured, method = record.config.method, record.facts.method
    if configured and Path(configured).stem != method:
        return f"its run.json has two methods, {quoted(configured)} and {quoted(method)}"
    return ""


def is_built_in(record: Record) -> bool:
    """Whether the method is one of cpbench's: it has the name of one, and the record names no file."""
    name = record.facts.method
    return name in built_in_methods() and record.config.method in ("", name)


def is_own(record: Record) -> bool:
    """Whether the method is a file of the user's."""
    return record.config.method.endswith(".py")


def sees_earlier_data(record: Record) -> bool:
    """Whether the method sees earlier data: of a built-in one what cpbench knows of it, of others what the record says."""
    return record.sees_earlier_data or (
        is_built_in(record) and bool(facts_of(record.facts.method).get("sees_earlier_data", False))
    )


def changed_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What of the evaluation's settings is not the usual; the number of pictures per pipeline call moves no score."""
    usual = {"batch_size", "adapter_scales", "held_out"} | (
        {"diagonal"} if evaluation.get("diagonal") is False else set()
    )
    return {f"evaluation.{k}": v for k, v in evaluation.items() if v is not None and k not in usual}


def method_name(record: Record) -> str:
    """The method with the settings that are not its usual ones: "raretoken adapter=lora"."""
    settings = record.changed | changed_evaluation(record.config.evaluation)
    return " ".join([record.facts.method, *(f"{k}={_as_word(v)}" for k, v in settings.items())])


def _as_word(value: object) -> str:
    """As it is typed after the = of --set, without spaces in a list of numbers."""
    if isinstance(value, bool):
        return str(value).lower()
    is_numbers = isinstance(value, list) and all(type(n) is int for n in value)
    return str(value).replace(" ", "") if is_numbers else str(value)


def method_label(record: Record) -> str:
    """The same as tables have it: a star marks a method that sees earlier data."""
    return method_name(record) + ("*" if sees_earlier_data(record) else "")


def sequence_name(record: Record) -> str:
    return f"{record.sequence.name} v{record.sequence.version}"


def judge_names(record: Record) -> str:
    """The judges by name, each with the beginning of its weights' hash."""
    return ", ".join(
        f"{identity.title(judge.as_json())} [{judge.weights_sha256[:8]}]" for _, judge in sorted(record.judges.items())
    )
