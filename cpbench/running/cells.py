"""What is generated in a row: the concepts learned so far and, outside the matrix, pairs of concepts, class nouns and other prompts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpbench.concepts import images
from cpbench.concepts.sequences import Concept, Sequence
from cpbench.errors import UserError
from cpbench.metrics.equal_text import SCALED, scaled_name
from cpbench.records.folder import TaskFolder, picture_name
from cpbench.records.measures_table import recorded_pictures
from cpbench.records.pictures import is_blank, read_picture
from cpbench.running import multi_concept, unrelated
from cpbench.running.unrelated import UNRELATED

if TYPE_CHECKING:
    from cpbench.config import RunConfig

# DreamBench's class nouns; those that are not in the sequence show what is lost beyond it
NOUNS = (
    "backpack", "stuffed animal", "bowl", "can", "candle", "cat", "clock", "sneaker", "dog", "teapot", "glasses", "boot",
    "vase", "cartoon", "toy",
)  # fmt: skip
CELL_TYPES = ("cell", "unlearned", "pair", "prior", UNRELATED, SCALED)


@dataclass(frozen=True)
class Cell:
    """A group of pictures that is generated in a row: one concept, one pair of concepts, or one class noun.

    cell_type: "cell", a concept, an entry of the retention matrix; "unlearned", a cell above its diagonal, a concept that is
    not learned yet, prompted by its class noun; "pair", two concepts in one picture; "prior", a plain class noun; "unrelated",
    prompts without a learned word; "scaled", a concept with what was learned at another strength than 1. name: as in scores.csv; concepts: those whose pictures are scored; nouns: the words in the prompts when no method is installed.
    """

    cell_type: str
    name: str
    concepts: tuple[Concept, ...]
    nouns: tuple[str, ...]
    templates: tuple[str, ...]
    per_prompt: int
    strength: float = 1.0

    @property
    def learned(self) -> tuple[Concept, ...]:
        """The concepts whose learned words are in the prompts, in every row except 0."""
        return self.concepts if self.cell_type in ("cell", "pair", SCALED) else ()

    @property
    def pictures(self) -> int:
        return len(self.templates) * self.per_prompt

    @property
    def samples(self) -> list[tuple[str, int]]:
        """(template, index) of every picture, in order."""
        return [(template, k) for template in self.templates for k in range(self.per_prompt)]


def cells_of_row(
    sequence: Sequence, t: int, per_prompt: int, forward_transfer_cells: bool = False, are_drawn: bool = False
) -> list[Cell]:
    """The cells of row t: concepts learned so far (row 0: all), class nouns, and in the first and the last row pairs and unrelated prompts.

    Class nouns have one picture per prompt, unrelated prompts two. forward_transfer_cells: also the concepts not yet learned.
    are_drawn: whether the miniature draws the concepts, see `unrelated.prompts`.
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
    row_cells += [Cell("prior", noun, (), (noun,), test.class_noun_prompts, 1) for noun in nouns]
    prompts = unrelated.prompts(sequence, are_drawn) if t in (0, len(sequence.concepts)) else {}
    return row_cells + [Cell(UNRELATED, part, (), (), prompts[part], unrelated.PER_PROMPT) for part in prompts]


def words_of(sequence: Sequence) -> frozenset[str]:
    """Every word of the evaluation's prompts and of the class nouns, in small letters."""
    texts = [text for cell in cells_of_row(sequence, 0, 1) for text in (*cell.templates, *cell.nouns)]
    return frozenset(word for text in texts for word in re.findall("[a-z]+", text.lower()))


def whole_rows(config: RunConfig, last: int) -> list[int]:
    """The rows, for a sequence of `last` tasks, whose concepts, pairs and nouns are all generated: by default all rows.

    UserError for a row beyond the sequence.
    """
    rows = range(last + 1) if config.rows is None else config.rows
    if beyond := [t for t in rows if t > last]:
        raise UserError(f"rows: there is no row {max(beyond)}; the sequence has {last} task{'s' if last > 1 else ''}")
    return sorted({0, last, *rows})


def rows_of(config: RunConfig, last: int) -> list[int]:
    """The rows that have a cell: the whole ones and, with `evaluation.diagonal`, those that have their own concept alone."""
    rows = whole_rows(config, last)
    return list(range(last + 1)) if config.evaluation.diagonal else rows


def cells_of(config: RunConfig, sequence: Sequence, t: int, per_prompt: int) -> list[Cell]:
    """The cells of row t of `rows_of`, as a run is configured."""
    are_drawn = images.are_rendered(sequence.concepts, config.backbone)
    row_cells = cells_of_row(sequence, t, per_prompt, bool(config.evaluation.forward_transfer_cells), are_drawn)
    last = len(sequence.concepts)
    if t in whole_rows(config, last):
        return row_cells + (scaled(config, sequence, per_prompt) if t == last else [])
    concept = sequence.concepts[t - 1].name
    return [cell for cell in row_cells if cell.cell_type == "cell" and cell.name == concept]


def scaled(config: RunConfig, sequence: Sequence, per_prompt: int) -> list[Cell]:
    """The concepts once more, at each of the other strengths that the run is to have."""
    templates = {c.name: sequence.evaluation.prompts[c.subject_type] for c in sequence.concepts}
    return [
        Cell(SCALED, scaled_name(c.name, s), (c,), (c.class_noun,), templates[c.name], per_prompt, s)
        for s in config.evaluation.adapter_scales
        if s != 1
        for c in sequence.concepts
    ]


def picture_of(task: TaskFolder, cell: Cell, template: str, index: int) -> Path:
    """The file of one picture of a cell."""
    if cell.cell_type == "prior":
        folder = task.of_noun(cell.name)
    elif cell.cell_type == UNRELATED:
        folder = task.unrelated(cell.name)
    else:
        folder = task.pictures(cell.name)
    return folder / picture_name(cell.templates.index(template), index)


def pictures_of(task: TaskFolder, cell: Cell) -> dict[tuple[str, int], np.ndarray]:
    """The pictures on disk by (template, index), without those of a single colour.

    UserError for a picture whose hash is not the one that the row recorded.
    """
    pictures, recorded = {}, recorded_pictures(task.path)
    for template, k in cell.samples:
        file = picture_of(task, cell, template, k)
        picture = read_picture(file, digest := recorded.get(file.relative_to(task.path).as_posix()))
        if picture is None and digest is not None and file.exists():
            raise UserError(
                f"{file}: is not the picture that was generated there; run the same `cpbench run` again to regenerate it"
            )
        if picture is not None and not is_blank(picture):
            pictures[template, k] = picture
    return pictures
