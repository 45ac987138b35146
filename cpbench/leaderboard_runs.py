"""Runs as the leaderboard reads them: run.json and scores.csv of every folder, with care, for they may come from anybody."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    StrictFloat,
    ValidationError,
    model_validator,
)

from cpbench import config, judge_identity, leaderboard_figures, measures, results
from cpbench.comparison import Key
from cpbench.errors import quoted
from cpbench.records.upgrade import SCHEMA
from cpbench.records.upgrade import read as read_record
from cpbench.sequences import FILE_NAME

if TYPE_CHECKING:
    import pandas as pd

MOST_CONCEPTS = 500  # of a sequence in a record
ROUNDED = 1e-4  # what is written of a score may be off by
ROUGHLY = 1e-3  # and what half precision may put a cosine above 1 by
MEASURED = {"identified": 1, "moved": 2}  # what is shown of measures.csv, and the most it can be
MOST_NAMED = 3  # of many runs in a line
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

    _older = model_validator(mode="before")(judge_identity.abridged)

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


# Runs


@dataclass(frozen=True)
class Run:
    """One folder. state: why it does not count, "" if it does; sees_earlier_data: see the function of that name.

    Of DINO, picture by picture: finals, the last row; learned, each concept right after its own task; since, the mean over
    all rows from then on. figures: by metric, `report.summaries`; measured: by measure, the mean at the end, {} where
    nothing was measured; both of the tables, and of runs that count alone.
    """

    folder: Path
    path: str  # below the folder of results
    record: Record
    method: str
    sees_earlier_data: bool
    state: str
    finals: dict[Key, float]
    learned: dict[Key, float]
    since: dict[Key, float]
    figures: leaderboard_figures.Summary
    measured: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What its row is called by, whatever the hash."""
        record = self.record
        return (sequence_of(record), Path(record.config.backbone).name, record.pictures, judges_of(record))

    @property
    def settings(self) -> str:
        """Eight digits of what tells its row from others: the method, its options, and the versions of what computed."""
        facts = self.record.facts
        return results.hash8([self.method, facts.options, facts.scores, facts.versions, facts.source])

    @property
    def draw(self) -> tuple[int, int]:
        return self.record.config.seed, self.record.config.order


def records(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every run below `folder`, by path. What cannot be read is named in a line, and left out."""
    found = []
    for file in sorted(folder.glob("**/run.json")):
        record = read_record(file.parent)
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            skip(file.parent, f"its run.json is damaged, or not of a schema up to {SCHEMA}")
        else:
            found.append((file.parent, record))
    return found


def finished_runs(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, record) of every finished run below `folder`, by path."""
    return [(path, record) for path, record in records(folder) if record.get("status") == "finished"]


def skip(folder: Path, reason: str) -> None:
    say(f"left out {folder}: {reason}; run it again, or remove it")


def say(line: str) -> None:
    print("".join(c if c.isprintable() else " " for c in line))


def read(folder: Path) -> list[Run]:
    """Every run below `folder` that can be read, see `decided`. Records of other content are named in a line, and left out."""
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
    return decided(found)


def decided(found: list[Run]) -> list[Run]:
    """The runs, no two that count of one configuration, seed and order; what is done about such is said in a line each.

    Of copies, whose tables have the same bytes, one is kept. Of runs with other tables none counts: which of them is right
    cannot be told from here, and a row that is missing is noticed where a wrong one is not.
    """
    alike: dict[tuple, list[Run]] = {}
    for run in found:
        if not run.state:
            key = (results.hash8(comparable(run.record)), run.settings, run.draw, is_reference(run))
            alike.setdefault(key, []).append(run)
    kept, doubtful = [], []
    for runs in alike.values():
        # by path, so that the order in which they were found decides nothing
        *others, last = sorted(runs, key=lambda run: run.path)
        if all(tables(it) == tables(last) for it in others):
            kept.append(last)
            if others:
                say(f"counted once: {listed([last, *others])} are copies of one run")
            continue
        say(
            f"left out {listed([*others, last])}: one configuration, seed and order, and other scores; remove all but one"
        )
        for run in runs:
            rest = [it for it in runs if it is not run]
            doubtful.append(
                replace(run, state=f"of the same settings, seed and order as {listed(rest)}, and other scores")
            )
    kept = own_first(kept)
    return kept + doubtful + [run for run in found if run.state]


def own_first(runs: list[Run]) -> list[Run]:
    """Without the reference runs that the reader has runs of: of that method, seed and order, whatever their hashes."""
    own: dict[tuple, list[Run]] = {}
    for run in runs:
        if not is_reference(run):
            own.setdefault((run.key, run.method, run.draw), []).append(run)
    gone = [run for run in runs if is_reference(run) and (run.key, run.method, run.draw) in own]
    if gone:
        pairs = [f"{run.path} to {listed(own[run.key, run.method, run.draw])}" for run in gone[:MOST_NAMED]]
        more = [f"and {len(gone) - MOST_NAMED} more"] if len(gone) > MOST_NAMED else []
        say(f"reference runs that give way to yours: {'; '.join([*pairs, *more])}")
    return [run for run in runs if all(run is not it for it in gone)]


def listed(runs: list[Run]) -> str:
    """Their paths."""
    more = [f"{len(runs) - MOST_NAMED} more"] if len(runs) > MOST_NAMED else []
    return " and ".join([run.path for run in runs[:MOST_NAMED]] + more)


def tables(run: Run) -> list[str | None]:
    """SHA-256 of what its numbers are computed from; None for a table that is not there."""
    files = [run.folder / name for name in ("scores.csv", "measures.csv")]
    return [results.file_hash(file) if file.is_file() else None for file in files]


def is_reference(run: Run) -> bool:
    return "reference" in Path(run.path).parts


def run_of(folder: Path, path: str, given: dict[str, Any]) -> Run:
    """ValidationError, or ValueError, where the record is not as the runner writes it."""
    record = Record.model_validate(given)
    sees = sees_earlier_data(given)
    method = text(name_of(given)) + (" (own file)" if is_own(record) else "") + ("*" if sees else "")
    finals, learned, since, lacking = scores_of(folder, record)
    measured, odd = measures_of(folder, record)
    if record.status == "finished":
        lacking = contradiction(given) or lacking or odd
    figures: leaderboard_figures.Summary = {}
    if record.status == "finished" and not lacking:
        try:
            figures = leaderboard_figures.summary(folder, record.sequence.concepts)
        except ValueError as error:
            lacking = str(error)
    state = (("" if record.status == "finished" else f"{record.status[:40]}: ") + lacking).removesuffix(": ")
    return Run(folder, path, record, method, sees, state, finals, learned, since, figures, measured)


def contradiction(given: dict[str, Any]) -> str:
    """Why a record cannot be true, or ""."""
    if not given["is_sound"]:
        return "its run.json has another hash than its facts"
    chosen, method = given["config"].get("method"), given["facts"]["method"]
    if chosen and Path(chosen).stem != method:
        return f"its run.json has two methods, {quoted(chosen)} and {quoted(method)}"
    return ""


# What cpbench says of its own methods


@functools.cache
def known() -> dict[str, Any]:
    """presets/verified.yaml."""
    file = config.baselines_folder() / "presets" / "verified.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def is_built_in(given: dict[str, Any]) -> bool:
    """Whether a record is of a method of cpbench's: its name is one's, and the record says no file."""
    name = given["facts"]["method"]
    return name in known()["verified"] and given["config"].get("method") in (None, "", name)


def sees_earlier_data(given: dict[str, Any]) -> bool:
    """Whether the method sees earlier data: of a built-in one what cpbench knows of it, of others what the record says."""
    return bool(given["sees_earlier_data"]) or (
        is_built_in(given) and given["facts"]["method"] in known()["sees_earlier_data"]
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
    return ", ".join(f"{it.model} [{it.weights_sha256[:8]}]" for _, it in sorted(record.judges.items()))


def scores_of(folder: Path, record: Record) -> tuple[dict[Key, float], dict[Key, float], dict[Key, float], str]:
    """DINO by (concept, prompt, index) of the last row, right after a concept's own task, and the mean over all rows from
    then on, {} where a concept has no picture in one of them; and what of the rows is lacking.

    A record alone, without its scores.csv, does not count: anybody can write figures.
    """
    concepts, file = record.sequence.concepts, folder / "scores.csv"
    if not file.exists():
        there = [t for t in record.rows if (folder / f"task-{t:02d}" / "scores.csv").is_file()]
        if record.status == "finished":
            return {}, {}, {}, "its scores.csv is missing"
        return {}, {}, {}, f"{len(there)} of {len(record.rows)} rows are there"
    scores = results.read_scores(file)
    if scores is None:
        return {}, {}, {}, "its scores.csv is damaged"
    if record.files.get(file.name, results.file_hash(file)) != results.file_hash(file):
        return {}, {}, {}, "its scores.csv is not the one that its run.json tells of"
    if odd := no_cosine(scores):
        return {}, {}, {}, odd
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


def no_cosine(scores: pd.DataFrame) -> str:
    """Which score is none, or ""."""
    cosines = scores[scores["metric"].str.startswith(results.METRICS)]
    far = cosines[cosines["value"].abs() > 1 + ROUGHLY]
    if far.empty:
        return ""
    metric, value = far.iloc[0][["metric", "value"]]
    return f"its scores.csv has {metric[:40]} {value:g}, and a cosine is between -1 and 1"


def measures_of(folder: Path, record: Record) -> tuple[dict[str, float], str]:
    """By measure its mean in the last row, {} without measures.csv; and what is wrong with that table, or ""."""
    file = folder / "measures.csv"
    if not file.exists():
        return {}, ""
    table = measures.read(folder)
    if table is None:
        return {}, "its measures.csv is damaged"
    if record.files.get(file.name, results.file_hash(file)) != results.file_hash(file):
        return {}, "its measures.csv is not the one that its run.json tells of"
    for measure, most in MEASURED.items():
        values = table[table["measure"] == measure]["value"]
        far = values[(values < -ROUGHLY) | (values > most + ROUGHLY)]
        if len(far):
            return {}, f"its measures.csv has {measure} {far.iloc[0]:g}, which is between 0 and {most}"
    return measures.summary(table, len(record.sequence.concepts)), ""


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
        "judges": {name: it.model_dump(exclude=it.unsaid) for name, it in sorted(record.judges.items())},
        "sampler": None if facts.sampler is None else {k: v for k, v in facts.sampler.items() if k != "batch_size"},
        "pictures_per_prompt": facts.pictures_per_prompt,
        "dtype": facts.dtype,
        "picture_size": facts.picture_size,
        "rows": "all" if record.rows == list(range(last + 1)) else record.rows,
    }
