"""Where everything in a run's folder is; nothing else says its files' names.

    <sequence>/<backbone>/<method>/<hash>/order<o>-seed<s>/
        run.json                 settings, facts, status, costs and figures
        scores.csv               one line a measurement; measures.csv, identification.csv, matrix-<metric>.csv
        grid.png, curves.png     pictures beside each other, training curves; report.html on demand
        task-00/, task-01/, ...  a row each: see `TaskFolder`
        embeddings/              what judges said of the pictures
        classifier/, scored/     the classifier's matrix, other judges' scores, on demand

A table is a .csv, or a .csv.gz where it is kept for good; see `tables`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpbench.method import STATE_RECORD, STATE_TENSORS

RECORD, SCORES, ROW, LOCK, REPORT = "run.json", "scores.csv", "row.json", ".lock", "report.html"
REAL = "real.png"
TABLES = (SCORES, "measures.csv", "identification.csv")  # all else that a page shows is computed from these


def run_folder(output: Path, sequence: str, backbone: str, method: str, run_hash: str, order: int, seed: int) -> Path:
    return output / sequence / backbone / method / run_hash / f"order{order}-seed{seed}"


def picture_cache(output: Path) -> Path:
    """Of all runs below an output folder: every picture that was drawn, by what made it."""
    return output / ".cache" / "pictures"


@dataclass(frozen=True)
class TaskFolder:
    """What is kept of task t, 1 to T, and of row t, 0 to T."""

    path: Path

    @property
    def state(self) -> Path:
        """The state's tensors; `State.load` reads them with the record beside them."""
        return self.path / STATE_TENSORS

    @property
    def state_record(self) -> Path:
        return self.path / STATE_RECORD

    @property
    def dropped(self) -> Path:
        """There if the state's tensors were taken off the disk on purpose."""
        return self.path / "dropped"

    @property
    def cost(self) -> Path:
        """What learning cost, and on what it was done."""
        return self.path / "cost.json"

    @property
    def curve(self) -> Path:
        return self.path / "curve.csv"

    @property
    def scores(self) -> Path:
        return self.path / SCORES

    @property
    def row(self) -> Path:
        """The row's cost, and the checksums of its scores, state and pictures; written last."""
        return self.path / ROW

    @property
    def all_pictures(self) -> Path:
        return self.path / "pictures"

    def pictures(self, name: str) -> Path:
        """The folder of a cell's pictures: a concept's, or a pair's."""
        return self.all_pictures / name

    def of_noun(self, noun: str) -> Path:
        """The folder of a plain class noun's pictures, which may have any characters, apart from concepts."""
        return self.path / "prior" / ("".join(c if c.isalnum() else "-" for c in noun).strip("-") or "noun")

    def unrelated(self, part: str) -> Path:
        """The folder of pictures of no concept: of a part of `unrelated.prompts`."""
        return self.path / "unrelated" / part.replace(" ", "-")

    def real(self, name: str) -> Path:
        """A training picture of a concept, in row 0."""
        return self.pictures(name) / REAL


def picture_name(prompt: int, index: int) -> str:
    """Of the picture `index` of a cell's prompt number `prompt`."""
    return f"{prompt:02d}-{index}.png"


@dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / RECORD

    @property
    def scores(self) -> Path:
        return self.path / SCORES

    @property
    def measures(self) -> Path:
        return self.path / TABLES[1]

    @property
    def identification(self) -> Path:
        """Whom each picture is nearest to, by DINO."""
        return self.path / TABLES[2]

    @property
    def grid(self) -> Path:
        return self.path / "grid.png"

    @property
    def thumbnail(self) -> Path:
        """The grid of a run that is kept for good, made small."""
        return self.path / "grid.webp"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def report(self) -> Path:
        return self.path / REPORT

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def classifier(self) -> Path:
        """The folder of the diffusion classifier's matrix, and in it what follows."""
        return self.path / "classifier"

    @property
    def classifier_record(self) -> Path:
        return self.classifier / "classifier.json"

    @property
    def classifier_counts(self) -> Path:
        return self.classifier / "confusion.csv"

    @property
    def classifier_matrix(self) -> Path:
        return self.classifier / "matrix.csv"

    @property
    def lock(self) -> Path:
        return self.path / LOCK

    @property
    def holder(self) -> Path:
        """Who has the lock."""
        return self.path / ".holder.json"

    def matrix(self, name: str) -> Path:
        return self.path / f"matrix-{name}.csv"

    @property
    def all_scored(self) -> Path:
        return self.path / "scored"

    def scored(self, judges: str) -> RunFolder:
        """Where the scores of other judges are, with matrices and judges.json of their own."""
        return RunFolder(self.all_scored / judges)

    @property
    def judges(self) -> Path:
        """In a folder of `scored`: which judges they are."""
        return self.path / "judges.json"

    def task(self, t: int) -> TaskFolder:
        return TaskFolder(self.path / f"task-{t:02d}")

    def tasks(self) -> Iterator[TaskFolder]:
        """Those that are there, in their order."""
        yield from map(TaskFolder, sorted(self.path.glob("task-*")))

    def shown(self) -> Iterator[Path]:
        """The tables and pictures of the run's own folder that are there."""
        for pattern in ("*.csv", "*.png"):
            yield from sorted(file for file in self.path.glob(pattern) if file.is_file())


def runs_below(folder: Path) -> Iterator[Path]:
    """The run folders in a folder, in their order."""
    yield from (file.parent for file in sorted(folder.glob(f"**/{RECORD}")))
