"""What is drawn in a row: every concept learned so far, and beside the matrix pairs of concepts and plain class nouns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpbench.concepts.sequences import Concept, Sequence
from cpbench.errors import UserError
from cpbench.records.folder import TaskFolder, picture_name
from cpbench.records.measures_table import recorded_pictures
from cpbench.records.pictures import is_blank, read_picture
from cpbench.running import multi_concept

# DreamBench's class nouns: some are in a sequence and some are not, which tells what is lost beyond it
NOUNS = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker", "dog", "teapot", "glasses", "boot",
    "vase", "cartoon", "toy",
)  # fmt: skip
CELL_TYPES = ("cell", "unlearned", "pair", "prior")


@dataclass(frozen=True)
class Cell:
    """One thing that is drawn in a row.

    kind: "cell", a concept, an entry of the retention matrix; "unlearned", a cell above its diagonal, a concept whose turn
    has not come, asked for by its class noun; "pair", two concepts in one picture; "prior", a plain class noun. name: as in
    scores.csv; concepts: who is scored; nouns: what stands in the prompts without a method.
    """

    cell_type: str
    name: str
    concepts: tuple[Concept, ...]
    nouns: tuple[str, ...]
    templates: tuple[str, ...]
    per_prompt: int

    @property
    def learned(self) -> tuple[Concept, ...]:
        """The concepts whose words are in the prompts, in every row but 0."""
        return self.concepts if self.cell_type in ("cell", "pair") else ()

    @property
    def pictures(self) -> int:
        return len(self.templates) * self.per_prompt

    @property
    def samples(self) -> list[tuple[str, int]]:
        """(template, index) of every picture, in their order."""
        return [(template, k) for template in self.templates for k in range(self.per_prompt)]


def cells_of_row(sequence: Sequence, t: int, per_prompt: int, forward_transfer_cells: bool = False) -> list[Cell]:
    """Row t: the concepts learned so far (row 0: all), in row 0 and the last the pairs, and the nouns, a picture a prompt.

    forward_transfer_cells: also those not yet learned, which forward transfer needs.
    """
    test = sequence.evaluation
    learned = sequence.concepts[:t] if t else sequence.concepts
    row_cells = [Cell("cell", c.name, (c,), (c.class_noun,), test.prompts[c.subject_type], per_prompt) for c in learned]
    for c in sequence.concepts[t:] if t and forward_transfer_cells else ():
        row_cells.append(Cell("unlearned", c.name, (c,), (c.class_noun,), test.prompts[c.subject_type], per_prompt))
    for a, b in multi_concept.concept_pairs(sequence) if t in (0, len(sequence.concepts)) else ():
        nouns = (a.class_noun, b.class_noun)
        row_cells.append(Cell("pair", f"{a.name}+{b.name}", (a, b), nouns, test.multi_concept_prompts, per_prompt))
    nouns = dict.fromkeys([*(c.class_noun for c in sequence.concepts), *NOUNS]) if test.class_noun_prompts else ()
    return row_cells + [Cell("prior", noun, (), (noun,), test.class_noun_prompts, 1) for noun in nouns]


def picture_of(task: TaskFolder, cell: Cell, template: str, index: int) -> Path:
    """The file of one picture of a cell."""
    folder = task.of_noun(cell.name) if cell.cell_type == "prior" else task.pictures(cell.name)
    return folder / picture_name(cell.templates.index(template), index)


def pictures_of(task: TaskFolder, cell: Cell) -> dict[tuple[str, int], np.ndarray]:
    """By (template, index) the pictures that are there and are more than one colour.

    UserError for a picture that is not the one that was drawn there, by what the row recorded.
    """
    pictures, recorded = {}, recorded_pictures(task.path)
    for template, k in cell.samples:
        file = picture_of(task, cell, template, k)
        picture = read_picture(file, digest := recorded.get(file.relative_to(task.path).as_posix()))
        if picture is None and digest is not None and file.exists():
            raise UserError(f"{file}: is not the picture that was drawn there; `cpbench run` again draws it anew")
        if picture is not None and not is_blank(picture):
            pictures[template, k] = picture
    return pictures
