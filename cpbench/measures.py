"""What a run's pictures say beyond the matrices: who is taken for whom, what became of plain nouns, copies, variety.

Everything is computed from the pictures on disk by one judge, so it can be computed again, or by another judge. The table
has a line for every (row, measure, concept or noun):

    identified   share of a concept's pictures that are nearest to its own real pictures, of all the sequence's
    copied       share of them nearer to a real picture than real pictures are to each other
    diversity    mean 1 - cosine of pictures of one prompt; only where a prompt has two
    pres         of plain nouns: mean cosine of "a dog" with the real pictures of the dogs learned so far (DreamBooth's)
    pres_before  the same of what the untouched model draws
    moved        1 - cosine of "a dog" now and as the untouched model draws it from the same noise
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpbench import copying, distances, prior_drift, results
from cpbench.cells import Cell, of_row
from cpbench.identification import identify
from cpbench.sampling import is_blank, read_picture
from cpbench.sequences import Sequence

COLUMNS = ["row", "measure", "concept", "value"]
CONFUSION = ["row", "concept", "nearest", "count"]
Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """table: columns COLUMNS; confusion: columns CONFUSION, pictures drawn for a concept by whose they look like most."""

    table: pd.DataFrame
    confusion: pd.DataFrame


def folder_of(task: Path, cell: Cell) -> Path:
    """Where the pictures of a cell are: plain nouns, which may have any characters, apart from concepts."""
    if cell.kind == "prior":
        return task / "prior" / ("".join(c if c.isalnum() else "-" for c in cell.name).strip("-") or "noun")
    return task / "pictures" / cell.name


def pictures_of(task: Path, cell: Cell) -> dict[tuple[str, int], np.ndarray]:
    """By (template, index) the pictures that are there and are more than one colour."""
    found = {}
    for template, k in cell.which:
        picture = read_picture(folder_of(task, cell) / f"{cell.templates.index(template):02d}-{k}.png")
        if picture is not None and not is_blank(picture):
            found[template, k] = picture
    return found


def measure(
    folder: Path, sequence: Sequence, rows: list[int], per_prompt: int, real: Mapping[str, np.ndarray], embed: Embed
) -> Measured:
    """Measure the rows of a run folder. real: each concept's pictures (n, h, w, 3); embed: to unit vectors (n, d)."""
    references = {c.name: embed(real[c.name]) for c in sequence.concepts}
    untouched: dict[str, dict] = {}
    lines, confusion = [], []
    for t in rows:
        embedded: dict[tuple[str, str], dict] = {}
        for cell in of_row(sequence, t, per_prompt):
            if cell.kind != "pair" and (pictures := pictures_of(folder / f"task-{t:02d}", cell)):
                vectors = embed(np.stack(list(pictures.values())))
                embedded[cell.kind, cell.name] = dict(zip(pictures, vectors, strict=True))
        drawn = {name: vectors for (kind, name), vectors in embedded.items() if kind == "cell"}
        nouns = {name: vectors for (kind, name), vectors in embedded.items() if kind == "prior"}
        if t == 0:
            untouched = nouns
        if drawn:
            found = identify({k: np.stack(list(v.values())) for k, v in drawn.items()}, references)
            lines += [(t, "identified", c, share) for c, share in found.per_concept.items()]
            for i, concept in enumerate(found.drawn):
                confusion += [
                    (t, concept, other, int(n)) for other, n in zip(found.concepts, found.counts[i], strict=True)
                ]
        for concept, vectors in drawn.items():
            lines.append(
                (t, "copied", concept, copying.share_copied(np.stack(list(vectors.values())), references[concept]))
            )
            lines.append((t, "diversity", concept, variety(vectors)))
        learned = sequence.concepts[:t]
        for noun, vectors in nouns.items():
            both = [key for key in vectors if key in untouched.get(noun, {})]
            if not both:
                continue
            before, now = (np.stack([side[key] for key in both]) for side in (untouched[noun], vectors))
            own = [references[c.name] for c in learned if c.class_noun == noun]
            drift = prior_drift.prior_drift(before, now, np.concatenate(own) if own else before)
            lines.append((t, "moved", noun, drift.means["moved"]))
            if own:
                lines.append((t, "pres", noun, drift.means["pres_after"]))
                lines.append((t, "pres_before", noun, drift.means["pres_before"]))
    return Measured(pd.DataFrame(lines, columns=COLUMNS), pd.DataFrame(confusion, columns=CONFUSION))


def variety(vectors: Mapping[tuple[str, int], np.ndarray]) -> float:
    """Mean over the prompts that have two pictures or more of `distances.diversity`; NaN without one."""
    prompts = dict.fromkeys(template for template, _ in vectors)
    groups = [np.stack([v for (template, _), v in vectors.items() if template == p]) for p in prompts]
    values = [distances.diversity(group) for group in groups if len(group) > 1]
    return float(np.mean(values)) if values else float("nan")


def write(folder: Path, measured: Measured) -> None:
    """measures.csv and identification.csv."""
    for name, table in (("measures.csv", measured.table), ("identification.csv", measured.confusion)):
        results.write_atomically(folder / name, table.to_csv(index=False, float_format="%.6f").encode())


def read(folder: Path) -> pd.DataFrame | None:
    """measures.csv of a run; None where there is none or it is not whole."""
    kinds = {"row": int, "measure": str, "concept": str, "value": float}
    return results.read_table(folder / "measures.csv", kinds)


def read_confusion(folder: Path) -> pd.DataFrame | None:
    """identification.csv of a run; None where there is none or it is not whole."""
    kinds = {"row": int, "concept": str, "nearest": str, "count": int}
    return results.read_table(folder / "identification.csv", kinds)


def summary(table: pd.DataFrame, t: int) -> dict[str, float]:
    """Of row t, by measure, the mean over concepts or nouns, those that are defined; {} where nothing is."""
    means = table[(table["row"] == t) & table["value"].notna()].groupby("measure")["value"].mean()
    return {str(k): round(float(v), 6) for k, v in means.items()}
