"""Measures of a run's pictures beyond the matrices: confusion of concepts, copies, diversity, language drift.

Everything is computed from the pictures on disk, so it can be computed again, also by other judges. The table has a line
per (row, measure, concept or noun), by DINO unless stated otherwise:

    identified   share of a concept's pictures whose nearest real pictures, among all concepts', are its own
    copied       share of them that are nearer to a real picture than real pictures are to each other
    DIV-dino     mean 1 - cosine between pictures of one prompt, for prompts with two or more pictures; DIV-lpips-alex,
                 by LPIPS, if its weights are available
    pres         for plain nouns: mean cosine between "a dog" and the real pictures of the dogs learned so far (DreamBooth's)
    pres_before  the same for the untouched model's pictures
    moved        1 - cosine between "a dog" of this row and of the untouched model, from the same noise
    unrelated_moved   the same for prompts without a learned word ("part: prompt" in the concept's place, see `unrelated`),
                 in the first and the last row
    unrelated_text    the change of their CLIP-T from the untouched model's

and a line per (row, distance between sets), without a concept's name, for sets of 50 pictures or more, see `distances`:

    A_mmd, CMMD  between the real and the generated pictures of the concepts learned so far, by CLIP
    F_mmd        between the earlier concepts' pictures right after each one's task and in this row, by CLIP
    KID-dino     as A_mmd, by DINO; KID, by Inception, if its weights are available
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cpbench.concepts.sequences import Sequence
from cpbench.errors import UserError
from cpbench.metrics import copying, distances, language_drift
from cpbench.metrics.cosines import paired_cosine
from cpbench.metrics.identification import identify
from cpbench.records.folder import RunFolder
from cpbench.records.measures_table import COLUMNS, CONFUSION, Measurements
from cpbench.running.cells import cells_of_row, pictures_of
from cpbench.running.unrelated import UNRELATED

if TYPE_CHECKING:
    from cpbench.judges.embeddings import Embeddings

Features = dict[str, dict[tuple[str, int], np.ndarray]]  # by concept, by (template, index)


def measure(
    folder: Path,
    sequence: Sequence,
    rows: list[int],
    per_prompt: int,
    real: Mapping[str, np.ndarray],
    judges: Mapping[str, Embeddings],
    partial: Collection[int] = (),
    *,
    training: Mapping[str, np.ndarray] | None = None,
    are_drawn: bool = True,
) -> Measurements:
    """Measure the rows of a run folder.

    real: each concept's references (n, h, w, 3); training: the pictures that it was learned from, where they are others, of
    which copies are made. are_drawn: as in `cells_of_row`. judges: "dino", "clip", optionally "inception". partial: the rows that have the
    concept of their own task alone; a distance between sets, which is of all concepts learned so far, they do not have.
    """
    references = {c.name: judges["dino"].images(real[c.name]) for c in sequence.concepts}
    learned_from = {c: judges["dino"].images(pictures) for c, pictures in training.items()} if training else references
    untouched: Features = {}
    unrelated_before: tuple[Features, ...] = ({}, {})
    after_own_task: Features = {}  # by CLIP, the concepts right after their own tasks
    lines, confusion, refused = [], [], {}
    for t in rows:
        by_type: dict[str, dict[str, dict[tuple[str, int], np.ndarray]]] = {"cell": {}, "prior": {}, UNRELATED: {}}
        for cell in cells_of_row(sequence, t, per_prompt, are_drawn=are_drawn):
            if cell.cell_type in by_type and (pictures := pictures_of(RunFolder(folder).task(t), cell)):
                by_type[cell.cell_type][cell.name] = pictures
        pictures_by_concept, pictures_by_noun = by_type["cell"], by_type["prior"]
        by_dino = features(judges["dino"], pictures_by_concept)
        noun_features = features(judges["dino"], pictures_by_noun)
        untouched = untouched if t else noun_features
        if pictures_by_concept:
            identification = identify({k: np.stack(list(v.values())) for k, v in by_dino.items()}, references)
            lines += [(t, "identified", c, share) for c, share in identification.per_concept.items()]
            for i, concept in enumerate(identification.generated):
                confusion += [
                    (t, concept, other, int(n))
                    for other, n in zip(identification.concepts, identification.counts[i], strict=True)
                ]
        for concept, vectors in by_dino.items():
            share = copying.share_copied(np.stack(list(vectors.values())), learned_from[concept])
            lines.append((t, "copied", concept, share))
            name, value = variety(pictures_by_concept[concept], vectors)
            lines.append((t, name, concept, value))
        lines += [(t, *line) for line in drift_lines(noun_features, untouched, sequence, t, references)]
        unrelated_now = tuple(features(judges[name], by_type[UNRELATED]) for name in ("dino", "clip"))
        unrelated_before = unrelated_before if t else unrelated_now
        lines += [(t, *line) for line in unrelated_lines(unrelated_now, unrelated_before, judges["clip"])]
        if t in partial:
            after_own_task |= features(judges["clip"], pictures_by_concept)
        elif t and pictures_by_concept:
            values, refused = set_distances(
                pictures_by_concept, real, judges, after_own_task, sequence.concepts[t - 1].name
            )
            lines += [(t, name, "", value) for name, value in values.items()]
    return Measurements(pd.DataFrame(lines, columns=COLUMNS), pd.DataFrame(confusion, columns=CONFUSION), refused)


def features(judge: Embeddings, pictures: Mapping[str, Mapping[tuple[str, int], np.ndarray]]) -> Features:
    """Embeddings of pictures; both are keyed by name, then by (template, index)."""
    return {
        name: dict(zip(samples, judge.images(np.stack(list(samples.values()))), strict=True))
        for name, samples in pictures.items()
    }


def drift_lines(
    current: Features, untouched: Features, sequence: Sequence, t: int, references: Mapping[str, np.ndarray]
) -> list[tuple[str, str, float]]:
    """Language drift: (measure, noun, value) of plain nouns after task t."""
    lines = []
    for noun, vectors in current.items():
        samples = [key for key in vectors if key in untouched.get(noun, {})]
        if not samples:
            continue
        before, after = (np.stack([side[key] for key in samples]) for side in (untouched[noun], vectors))
        own_references = [references[c.name] for c in sequence.concepts[:t] if c.class_noun == noun]
        drift = language_drift.language_drift(
            before, after, np.concatenate(own_references) if own_references else before
        )
        lines.append(("moved", noun, drift.means["moved"]))
        if own_references:
            lines.append(("pres", noun, drift.means["pres_after"]))
            lines.append(("pres_before", noun, drift.means["pres_before"]))
    return lines


def unrelated_lines(
    current: tuple[Features, ...], untouched: tuple[Features, ...], clip: Embeddings
) -> list[tuple[str, str, float]]:
    """(measure, "part: prompt", value) of prompts without a learned word, means over the pictures of both rows.

    current, untouched: embeddings by DINO and by CLIP, by part.
    """
    lines = []
    for part, after in current[0].items():
        before = untouched[0].get(part, {})
        for prompt in dict.fromkeys(template for template, _ in after):
            samples = [key for key in after if key[0] == prompt and key in before]
            if not samples:
                continue
            old, new = (np.stack([side[key] for key in samples]) for side in (before, after))
            moved = language_drift.drift(old, new)
            words = clip.texts([prompt] * len(samples))
            old_text, new_text = (
                paired_cosine(np.stack([side[1][part][key] for key in samples]), words) for side in (untouched, current)
            )
            lines.append(("unrelated_moved", f"{part}: {prompt}", float(moved.mean())))
            lines.append(("unrelated_text", f"{part}: {prompt}", float((new_text - old_text).mean())))
    return lines


def set_distances(
    pictures: Mapping[str, Mapping[tuple[str, int], np.ndarray]],
    real: Mapping[str, np.ndarray],
    judges: Mapping[str, Embeddings],
    after_own_task: Features,
    newest: str,
) -> tuple[dict[str, float], dict[str, str]]:
    """A_mmd, CMMD, F_mmd and KID of a row: (values, reasons for those that cannot be computed).

    after_own_task: CLIP embeddings of each concept's pictures right after its own task; the newest concept is added.
    """
    kid, kid_judge = ("KID", "inception") if "inception" in judges else ("KID-dino", "dino")
    by_clip, for_kid = features(judges["clip"], pictures), features(judges[kid_judge], pictures)

    def sides(judge_name: str, generated: Features) -> tuple[dict, dict]:  # real and generated pictures
        real_features = {c: judges[judge_name].images(real[c]) for c in generated}
        return real_features, {c: list(vectors.values()) for c, vectors in generated.items()}

    # the same noise before and after
    samples = {c: [k for k in by_clip[c] if k in after_own_task[c]] for c in by_clip if c in after_own_task}
    before, after = ({c: [side[c][k] for k in samples[c]] for c in samples} for side in (after_own_task, by_clip))
    unknown = [c for c in by_clip if c not in after_own_task and c != newest]
    if newest in by_clip:
        after_own_task[newest] = by_clip[newest]
    todo: dict[str, Callable[[], distances.Pooled]] = {
        "A_mmd": lambda: distances.a_mmd(*sides("clip", by_clip)),
        "CMMD": lambda: distances.cmmd(*sides("clip", by_clip)),
        "F_mmd": lambda: distances.f_mmd(before, after),
        kid: lambda: distances.kid(*sides(kid_judge, for_kid), kid.removeprefix("KID").removeprefix("-")),
    }
    values, refused = {}, {}
    if unknown:
        refused["F_mmd"] = (
            f"{unknown[0]} has no pictures from right after its own task; generate all rows, or set evaluation.diagonal=true"
        )
        del todo["F_mmd"]
    for name, distance in todo.items():
        try:
            result = distance()
        except UserError as reason:
            refused[name] = str(reason).removeprefix(f"{name}: ")
        else:
            values |= {} if np.isnan(result.value) else {name: result.value}  # NaN: nothing can be forgotten yet
    return values, refused


def refusals(refused: Mapping[str, str]) -> list[str]:
    """One line per reason, with the measures it applies to."""
    names: dict[str, list[str]] = {}
    for name, reason in refused.items():
        names.setdefault(reason, []).append(name)
    return [f"not measured: {', '.join(metrics)}: {reason}" for reason, metrics in names.items()]


def variety(
    pictures: Mapping[tuple[str, int], np.ndarray], vectors: Mapping[tuple[str, int], np.ndarray]
) -> tuple[str, float]:
    """(name, value) of a concept's diversity (see `distances.div`): the mean over prompts that have two or more pictures.

    pictures (h, w, 3) and the DINO judge's vectors (d,) by (template, index). NaN without such a prompt.
    """
    values, name = [], distances.div_name("dino")
    for prompt in dict.fromkeys(template for template, _ in pictures):
        keys = [key for key in pictures if key[0] == prompt]
        if len(keys) > 1:
            group, embedded = (np.stack([of[key] for key in keys]) for of in (pictures, vectors))
            name, value = distances.div(group, embedded, "dino")
            values.append(value)
    return name, float(np.mean(values)) if values else float("nan")
