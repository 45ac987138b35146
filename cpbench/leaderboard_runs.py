"""Runs as the leaderboard reads them: run.json and scores.csv of every folder, with care, for they may come from anybody."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    ValidationError,
)

from cpbench import results
from cpbench.comparison import Key
from cpbench.errors import quoted
from cpbench.sequences import FILE_NAME

if TYPE_CHECKING:
    import pandas as pd

MOST_CONCEPTS = 500  # of a sequence in a record
ROUNDED = 1e-4  # what is written of a score may be off by
MOST_SAID = 2000  # characters of a name, of a method with all its settings too


# What is read of a run.json


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


def in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("an interval is [low, high]")
    return value


Text = Annotated[str, PlainValidator(text)]
Name = Annotated[Text, AfterValidator(file_name)]
Whole = Annotated[int, PlainValidator(whole)]
Number = StrictFloat  # whole numbers too, and NaN and infinities, but no text
Interval = Annotated[tuple[Number, Number], AfterValidator(in_order)]


class Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Figures(Part):
    """The summary of one metric: `report.FIGURES` and what needs more than its matrix; None is not defined."""

    final_average: Number | None = None
    plasticity: Number | None = None
    forgetting: Number | None = None
    backward_transfer: Number | None = None
    normalised_retention: Number | None = None
    gap_closed: Number | None = None
    share_lost: Number | None = None
    forgetting_from_noise: Number | None = None
    forward_transfer: Number | None = None


class Summary(Part):
    dino: Figures = Figures()
    clip_i: Figures = Figures()
    clip_t: Figures = Figures()


class Bounds(Part):
    """The run's own 95 % interval of each figure of one metric, (low, high); None is not defined, or not drawn."""

    final_average: Interval | None = None
    plasticity: Interval | None = None
    forgetting: Interval | None = None
    backward_transfer: Interval | None = None
    normalised_retention: Interval | None = None
    gap_closed: Interval | None = None
    share_lost: Interval | None = None


class Intervals(Part):
    dino: Bounds = Bounds()
    clip_i: Bounds = Bounds()
    clip_t: Bounds = Bounds()


class Measures(Part):
    identified: Number | None = None
    moved: Number | None = None


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
    concepts: Annotated[list[Name], Field(max_length=MOST_CONCEPTS)] = []


class JudgeFacts(Part):
    """Whose scores they are: weights, and by which rules. The library's version moves no score."""

    model: Text
    weights_sha256: Text
    preprocessing: Text = ""
    feature: Text = ""
    pair_rule: Text = ""
    text_rule: Text = ""


class Facts(Part):
    """Of what moves a score that which is not the method's own; a record may be older than one of these."""

    method: Text
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
    intervals: Intervals = Intervals()  # which older records lack
    measures: Measures = Measures()
    files: dict[str, Text] = {}  # SHA-256 of the tables beside it, by name

    @property
    def rows(self) -> list[int]:
        """The rows of the matrix that a whole run has."""
        last = len(self.sequence.concepts)
        chosen = range(last + 1) if self.facts.rows is None else self.facts.rows
        return sorted({0, last, *(t for t in chosen if t <= last)})


# Runs


@dataclass(frozen=True)
class Run:
    """One folder. state: why it does not count, "" if it does.

    Of DINO, picture by picture: finals, the last row; learned, each concept right after its own task; since, the mean over
    all rows from then on.
    """

    folder: Path
    path: str  # below the folder of results
    record: Record
    method: str
    state: str
    finals: dict[Key, float]
    learned: dict[Key, float]
    since: dict[Key, float]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What its row is called by, whatever the hash."""
        record = self.record
        return (sequence_of(record), Path(record.config.backbone).name, record.pictures, judges_of(record))

    @property
    def draw(self) -> tuple[int, int]:
        return self.record.config.seed, self.record.config.order


def records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every run below `folder`, by path. What cannot be read is named in a line, and left out."""
    found = []
    for file in sorted(folder.glob("**/run.json")):
        record = results.read_json(file)
        if not isinstance(record, dict) or record.get("schema") != results.SCHEMA:
            skip(file.parent, f"its run.json is damaged, or not of schema {results.SCHEMA}")
        else:
            found.append((file.parent, record))
    return found


def finished_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every finished run below `folder`, by path."""
    return [(path, record) for path, record in records(folder) if record.get("status") == "finished"]


def skip(folder: Path, reason: str) -> None:
    line = f"left out {folder}: {reason}; run it again, or remove it"
    print("".join(c if c.isprintable() else " " for c in line))


def read(folder: Path) -> list[Run]:
    """Every run below `folder` that can be read, each once. Records of other content are named in a line, and left out."""
    found = []
    for path, record in records(folder):
        try:
            found.append(run_of(path, path.relative_to(folder).as_posix(), record))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc']))} = {quoted(first['input'])}: {first['msg']}"
            skip(path, f"its run.json is not as cpbench writes it ({reason})"[:400])
        except (ValueError, RecursionError) as error:  # a name too long with its settings; values nested without end
            skip(path, f"its run.json is not as cpbench writes it ({type(error).__name__}: {error})"[:400])
    whole_ones = {(run.key, run.method, run.record.hash, run.draw): run for run in found if not run.state}
    # a reference run gives way to one of the reader's own of that name, whatever their hashes
    own = {(run.key, run.method, run.draw) for run in whole_ones.values() if not is_reference(run)}
    kept = [r for r in whole_ones.values() if not (is_reference(r) and (r.key, r.method, r.draw) in own)]
    return kept + [run for run in found if run.state]


def is_reference(run: Run) -> bool:
    return "reference" in Path(run.path).parts


def run_of(folder: Path, path: str, given: dict[str, Any]) -> Run:
    """ValidationError, or ValueError, where the record is not as the runner writes it."""
    record = Record.model_validate(given)
    method = (
        text(name_of(given)) + (" (own file)" if is_own(record) else "") + ("*" if record.sees_earlier_data else "")
    )
    finals, learned, since, lacking = scores_of(folder, record)
    state = "" if record.status == "finished" else f"{record.status[:40]}: "
    return Run(folder, path, record, method, (state + lacking).removesuffix(": "), finals, learned, since)


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
    return ", ".join(f"{it.model} [{it.weights_sha256[:8]}]" for _, it in sorted(record.judges.items()))


def scores_of(folder: Path, record: Record) -> tuple[dict[Key, float], dict[Key, float], dict[Key, float], str]:
    """DINO by (concept, prompt, index) of the last row, right after a concept's own task, and the mean over all rows from
    then on, {} where a concept has no picture in one of them; and what of the rows is lacking.

    A record alone, without its scores.csv, is whole: it has its figures, and cannot be compared picture by picture.
    """
    concepts, file = record.sequence.concepts, folder / "scores.csv"
    if not file.exists():
        there = [t for t in record.rows if (folder / f"task-{t:02d}" / "scores.csv").is_file()]
        lacking = "" if record.status == "finished" else f"{len(there)} of {len(record.rows)} rows are there"
        return {}, {}, {}, lacking
    scores = results.read_scores(file)
    if scores is None:
        return {}, {}, {}, "its scores.csv is damaged"
    if record.files.get(file.name, results.file_hash(file)) != results.file_hash(file):
        return {}, {}, {}, "its scores.csv is not the one that its run.json tells of"
    cells = scores[(scores["kind"] == "cell") & (scores["metric"] == "dino") & scores["concept"].isin(concepts)]
    there = set(cells["row"]) & set(record.rows)
    lacking = "" if len(there) == len(record.rows) else f"{len(there)} of {len(record.rows)} rows are there"
    own = cells["concept"].map({c: t for t, c in enumerate(concepts, 1)})
    finals = by_picture(cells[cells["row"] == len(concepts)])
    told = record.summary.dino.final_average
    if told is not None and not lacking and not math.isclose(mean_of(finals), told, abs_tol=ROUNDED):
        other = f"its run.json tells of a final DINO of {told:.3f}, its scores.csv of {mean_of(finals):.3f}"
        return {}, {}, {}, other
    later = cells[cells["row"] >= own]
    means = later.groupby(["concept", "prompt", "index"], as_index=False)["value"].mean()
    whole = later.groupby(["row", "concept"])["value"].count().all()
    return finals, by_picture(cells[cells["row"] == own]), by_picture(means) if whole else {}, lacking


def by_concept(pictures: dict[Key, float]) -> dict[str, float]:
    """The mean of each concept's pictures, as a matrix has it."""
    of: dict[str, list[float]] = {}
    for (concept, _, _), value in sorted(pictures.items()):  # sorted: sums of equal bytes
        of.setdefault(concept, []).append(value)
    return {concept: sum(own) / len(own) for concept, own in of.items()}


def mean_of(finals: dict[Key, float]) -> float:
    """Mean over concepts of their pictures' means, as that of a matrix's row; NaN of nothing."""
    of = by_concept(finals)
    return sum(of.values()) / len(of) if of else math.nan


def by_picture(cells: pd.DataFrame) -> dict[Key, float]:
    """The values that are numbers, by (concept, prompt, index)."""
    lines = zip(cells["concept"], cells["prompt"], cells["index"], cells["value"], strict=True)
    return {(c, p, int(k)): float(v) for c, p, k, v in lines if math.isfinite(v)}


# What makes runs comparable


def comparable(record: Record) -> dict[str, Any]:
    """The facts in which runs must agree to be in one table. What a record is too old to say is None, and agrees with None.

    The order and the seed are not among them: they are what is averaged over. The number of pictures a pipeline call
    takes is not either: every picture has noise of its own.
    """
    facts, last = record.facts, len(record.sequence.concepts)
    return {
        "sequence": facts.sequence or f"{sequence_of(record)}: {', '.join(sorted(record.sequence.concepts))}",
        "images": None if facts.images is None else results.hash8(dict(facts.images)),
        "pictures": record.pictures,
        "backbone": facts.backbone or Path(record.config.backbone).name,
        "judges": {name: it.model_dump() for name, it in sorted(record.judges.items())},
        "sampler": None if facts.sampler is None else {k: v for k, v in facts.sampler.items() if k != "batch_size"},
        "pictures_per_prompt": facts.pictures_per_prompt,
        "dtype": facts.dtype,
        "picture_size": facts.picture_size,
        "rows": "all" if record.rows == list(range(last + 1)) else record.rows,
    }
