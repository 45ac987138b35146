"""run.json: what is read of it, with care, for it may come from anybody."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    model_validator,
)

from cpbench.errors import UserError, quoted
from cpbench.files import FILE_NAME
from cpbench.judges import identity
from cpbench.output import say
from cpbench.records.folder import RunFolder, runs_below
from cpbench.records.upgrade import SCHEMA
from cpbench.records.upgrade import read as read_record
from cpbench.registry import built_in_methods, facts_of


def find(run: Path) -> Path:
    """The run folder that is meant: `run` itself, or the only one below it."""
    if os.path.isfile(RunFolder(run).record):  # unlike pathlib's, calm about names too long to be a file's
        return run
    below = list(runs_below(run)) if os.path.isdir(run) else []
    if len(below) == 1:
        return below[0]
    if not below:
        raise UserError(f"run {run}: there is no run.json in it; name a run folder, e.g. below results/runs")
    raise UserError(f"run {run}: holds {len(below)} runs; name one of them, e.g. {below[0]}")


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


MOST_CONCEPTS = 500  # of a sequence in a record
MOST_SAID = 2000  # characters of a name, of a method with all its settings too


def text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MOST_SAID or not value.isprintable():
        raise ValueError(f"{quoted(value)} is no name")
    return value


def whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{quoted(value)} is no whole number")
    return value


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
Number = StrictFloat  # whole numbers too, and NaN and infinities, but no text


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Figures(Part):
    """Of a record's summary of one metric what its scores.csv must agree with; nothing of it is shown."""

    final_average: Number | None = None


class Summary(Part):
    dino: Figures = Figures()


class Cost(Part):
    carried_bytes: dict[str, Number] = {}
    carried_parameters: Number = 0.0
    trainable_parameters: Number = 0.0
    learning_unet_evaluations: Number = 0.0
    learning_seconds: Number = 0.0


class Config(Part):
    backbone: Text
    seed: Whole
    order: Whole
    method: Text = ""
    evaluation: dict[str, Any] = {}


class SequenceFacts(Part):
    name: Name
    version: Whole
    concepts: Annotated[list[Name], Field(min_length=1, max_length=MOST_CONCEPTS), AfterValidator(different)]


class JudgeFacts(Part):
    """Whose scores they are: weights, and by which rules. The library's version moves no score."""

    model: Text
    weights_sha256: Text
    preprocessing: Text = ""
    feature: Text = ""
    pair_rule: Text = ""
    text_rule: Text = ""
    architecture: Text = ""
    tokenizer: Text = ""

    _older = model_validator(mode="before")(identity.abridged)

    @property
    def unsaid(self) -> set[str]:
        return {key for key in ("architecture", "tokenizer") if not getattr(self, key)}


class Facts(Part):
    """Of what moves a score that which is not the method's own; a record may be older than one of these."""

    method: Text
    scores: Whole
    versions: dict[Text, Whole]
    source: Text | None = None
    options: dict[str, Any] = {}
    sequence: Text | None = None
    images: dict[Text, Text] | None = None
    backbone: Text | None = None
    sampler: dict[Text, Text | StrictBool | StrictFloat | None] | None = None
    pictures_per_prompt: Whole | None = None
    dtype: Text | None = None
    picture_size: Whole | None = None
    rows: list[Whole] | None = None


class Record(Part):
    status: Text
    hash: Text
    config: Config
    facts: Facts
    sequence: SequenceFacts
    pictures: Literal["drawn", "photographs"]
    judges: dict[Text, JudgeFacts]
    sees_earlier_data: StrictBool
    changed: dict[str, Any] = {}
    costs: dict[Annotated[int, Field(ge=0)], Cost]
    summary: Summary
    files: dict[str, Text] = {}  # SHA-256 of the tables beside it, by name

    @property
    def rows(self) -> list[int]:
        """The rows of the matrix that a whole run has."""
        last = len(self.sequence.concepts)
        chosen = range(last + 1) if self.facts.rows is None else self.facts.rows
        return sorted({0, last, *(t for t in chosen if t <= last)})


def records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every run below `folder`, by path. What cannot be read is named in a line, and left out."""
    found = []
    for path in runs_below(folder):
        record = read_record(path)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            skip(path, f"its run.json is damaged, or not of a schema up to {SCHEMA}")
        else:
            found.append((path, record))
    return found


def finished_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every finished run below `folder`, by path."""
    return [(path, record) for path, record in records(folder) if record.get("status") == "finished"]


def skip(folder: Path, reason: str) -> None:
    say(f"left out {folder}: {reason}; run it again, or remove it")


def contradiction(given: dict[str, Any]) -> str:
    """Why a record cannot be true, or ""."""
    if not given.get("is_sound"):
        return "its run.json has another hash than its facts"
    chosen, method = given["config"].get("method"), given["facts"]["method"]
    if chosen and Path(chosen).stem != method:
        return f"its run.json has two methods, {quoted(chosen)} and {quoted(method)}"
    return ""


def is_built_in(given: dict[str, Any]) -> bool:
    """Whether a record is of a method of cpbench's: its name is one's, and the record says no file."""
    name = given["facts"]["method"]
    return name in built_in_methods() and given["config"].get("method") in (None, "", name)


def sees_earlier_data(given: dict[str, Any]) -> bool:
    """Whether the method sees earlier data: of a built-in one what cpbench knows of it, of others what the record says."""
    return bool(given["sees_earlier_data"]) or (
        is_built_in(given) and facts_of(given["facts"]["method"]).get("sees_earlier_data", False)
    )


def is_own(record: Record) -> bool:
    """Whether the method is a file of the user's."""
    return record.config.method.endswith(".py")


def name_of(record: dict[str, Any]) -> str:
    """The method with the settings that are not its usual ones: "raretoken adapter=lora"."""
    chosen = {f"evaluation.{k}": v for k, v in record["config"].get("evaluation", {}).items()}
    chosen = {k: v for k, v in chosen.items() if v is not None and k != "evaluation.batch_size"}
    settings = [
        f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in (record.get("changed", {}) | chosen).items()
    ]
    return " ".join([record["facts"]["method"], *settings])


def sequence_of(record: Record) -> str:
    return f"{record.sequence.name} v{record.sequence.version}"


def judges_of(record: Record) -> str:
    """The judges by name, each with the beginning of its weights' hash."""
    return ", ".join(
        f"{identity.title(it.model_dump())} [{it.weights_sha256[:8]}]" for _, it in sorted(record.judges.items())
    )
