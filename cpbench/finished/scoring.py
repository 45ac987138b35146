"""`cpbench score`: judges a run's saved pictures again, with other judges; nothing is generated, the run is not changed.

Embeddings are cached in RUN/embeddings by the pictures' content, so each judge embeds a picture once. Results are in
RUN/scored/<judges>/: scores.csv, matrices (also by other pair rules, see `pair_rules`), measures.csv,
identification.csv and judges.json.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpbench.concepts import held_out, images, sequences
from cpbench.config import RunConfig
from cpbench.errors import UserError, did_you_mean
from cpbench.files import write_atomically, write_json
from cpbench.finished import load, pair_rules
from cpbench.judges import identity as judge_identity
from cpbench.judges.added import names as judges_of_packages
from cpbench.judges.embeddings import Embeddings
from cpbench.judges.published import PUBLISHED
from cpbench.judges.select import load_judges
from cpbench.metrics import matrices
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.output import say
from cpbench.records import measures_table, recorded_paths, tables
from cpbench.records.folder import RunFolder
from cpbench.records.reading import find, read
from cpbench.records.record import Facts, Record
from cpbench.running import cells, judging, measures
from cpbench.running.cells import pictures_of
from cpbench.running.judging import reference_rows
from cpbench.running.prepare import added_judges, generation_settings, judges_for_measures

MOST_OF_A_NAME = 40  # characters of a judge's name in the folder's name


def judges_by_type(names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """(published judges by type, "clip" or "dino"; judges of installed packages).

    UserError for an unknown name, or two judges of one type.
    """
    judge_names: dict[str, str] = {}
    package_judges = judges_of_packages()
    for name in names:
        if name in package_judges:
            continue
        if name not in PUBLISHED:
            raise did_you_mean(
                name, [*PUBLISHED, *package_judges], "judge", "--clip and --dino take files and folders."
            )
        judge_type = PUBLISHED[name].judge_type
        if judge_type in judge_names:
            raise UserError(
                f"--judge {name}: {judge_names[judge_type]} is also a {judge_type} judge; pass at most one of each type"
            )
        judge_names[judge_type] = name
    return judge_names, [name for name in names if name in package_judges]


def rescore(
    run: Path,
    clip: str | None,
    dino: str | None,
    data: str | None = None,
    device: str = "cpu",
    clip_preprocessing: str | None = None,
    dino_preprocessing: str | None = None,
    clip_activation: str | None = None,
    added: Sequence[str] = (),
) -> tuple[Path, list[str], int]:
    """Score a run's pictures. Returns (the folder of the results, the concepts, the last row).

    clip, dino and the arguments after device: see `select.load_judges`; added: judges of packages, in addition to the run's.
    A judge that is not passed is the run's, with the run's preprocessing. UserError if the run, its sequence or its
    concepts' pictures have changed.
    """
    folder = find(run)
    record = read(folder)
    config, _, _ = load.recorded_config(record, folder)
    judges_used = [judge for judge, other in (("clip", clip), ("dino", dino)) if not other]
    if any(getattr(config, judge) is None for judge in judges_used):  # then it may be in the backbone's folder
        judges_used.append("backbone")
    recorded_paths.refuse_missing(record, folder, ("sequence", *judges_used))
    facts = facts_of(record, folder)
    sequence = sequence_of(config, facts, folder)
    training, references = real_pictures(config, facts, sequence, folder, data)
    # the run's preprocessing belongs to its judge, not to another one
    judges = load_judges(
        config.backbone,
        clip or config.clip,
        dino or config.dino,
        device,
        clip_preprocessing or (None if clip else config.clip_preprocessing),
        dino_preprocessing or (None if dino else config.dino_preprocessing),
        clip_activation or (None if clip else config.clip_activation),
    )
    judges |= added_judges([*config.judges, *added], device)
    cached_judges = judges_for_measures(folder, judges, device)
    _, per_prompt = generation_settings(config, sequence)
    rows = [t for t in cells.rows_of(config, len(sequence.concepts)) if RunFolder(folder).task(t).all_pictures.is_dir()]
    if not rows:
        raise UserError(f"run {folder}: its pictures are not there; run it again, or name another")
    try:
        lines = [
            line
            for t in rows
            for line in score_row(folder, sequence, t, per_prompt, (training, references), cached_judges, config)
        ]
        partial = set(rows) - set(cells.whole_rows(config, len(sequence.concepts)))
        measurements = measures.measure(
            folder,
            sequence,
            rows,
            per_prompt,
            references,
            cached_judges,
            partial,
            training=training,
            are_drawn=images.are_rendered(sequence.concepts, config.backbone),
        )
        by_rules = pair_rules.matrices(folder, sequence, rows, per_prompt, references, cached_judges)
    finally:
        for judge in cached_judges.values():
            judge.save()
    target = RunFolder(folder).scored("-".join(folder_name(judge.identity) for judge in judges.values()))
    scores = pd.DataFrame(lines, columns=SCORE_COLUMNS)
    concepts = [c.name for c in sequence.concepts]
    tables.write_scores(target.scores, scores)
    for metric, table in (matrices.matrices(scores, concepts) | by_rules).items():
        write_atomically(target.matrix(metric), table.to_csv(float_format="%.6f").encode())
    measures_table.write(target.path, measurements)
    for line in measures.refusals(measurements.refused):
        say(line)
    write_json(target.judges, {name: judge.identity for name, judge in judges.items()})
    return target.path, concepts, max(rows)


def folder_name(identity: dict[str, Any]) -> str:
    """A judge's part of the folder's name: the model's name, shortened, and a key of everything its scores depend on."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", identity["model"])[:MOST_OF_A_NAME].strip("-.")
    return f"{model}-{judge_identity.key(judge_identity.counted(identity))}"


def facts_of(record: Record, folder: Path) -> Facts:
    """The facts of a record. UserError if the pictures' hashes or size are missing."""
    if record.facts.images is None or record.facts.picture_size is None:
        raise UserError(
            f"run {folder}: its run.json does not say the training pictures' hashes and size; run it again, or name another"
        )
    return record.facts


def real_pictures(
    config: RunConfig, facts: Facts, sequence: sequences.Sequence, folder: Path, data: str | None
) -> tuple[held_out.Pictures, held_out.Pictures]:
    """(training pictures, references) of each concept, uint8 (n, h, w, 3), by name, as `held_out.load`.

    UserError if they are not those that the run learned from and was scored against.
    """
    held = config.evaluation.held_out
    if facts.references is None:  # also a run from before there were others than the training pictures
        held = 0
    training, references = held_out.load(
        sequence.concepts, config.backbone, facts.picture_size, held, data or config.data, config.fit
    )
    for pictures, hashes in ((training, facts.images), (references, facts.references)):
        changed = [c for c in pictures if hashes is not None and images.content_hash(pictures[c]) != hashes.get(c)]
        if changed:
            raise UserError(
                f"run {folder}: the pictures of {changed[0]} are not those it learned from or was scored against; pass their folder with --data"
            )
    return training, references


def sequence_of(config: RunConfig, facts: Facts, folder: Path) -> sequences.Sequence:
    """The run's sequence in its order. UserError if the sequence has changed."""
    sequence = sequences.load(config.sequence)
    if sequences.content_hash(sequence) != facts.sequence:
        raise UserError(f"run {folder}: sequence {config.sequence} has changed since the run; run it again")
    return sequences.ordered(sequence, config.order)


def score_row(
    folder: Path,
    sequence: sequences.Sequence,
    t: int,
    per_prompt: int,
    real: tuple[held_out.Pictures, held_out.Pictures],
    cached_judges: dict[str, Embeddings],
    config: RunConfig,
) -> list[tuple]:
    """Row t as `rows.evaluate_row` would write it, from the pictures on disk; NaN where there is none."""
    lines, (training, references) = [], real
    for cell in cells.cells_of(config, sequence, t, per_prompt):
        pictures_by_sample = pictures_of(RunFolder(folder).task(t), cell)
        if pictures_by_sample:
            pictures = np.stack(
                [
                    pictures_by_sample.get(w, np.zeros_like(next(iter(pictures_by_sample.values()))))
                    for w in cell.samples
                ]
            )
            lines += judging.score_cell(t, cell, cell.cell_type, pictures, references, cached_judges)
        else:
            lines += [
                (t, cell.cell_type, cell.name, *w, m, float("nan"))
                for m in judging.cell_metrics(cell.cell_type, cached_judges)
                for w in cell.samples
            ]
        if t == 0 and cell.cell_type == "cell":
            are_drawn = images.is_rendered(cell.concepts[0], config.backbone)
            lines += reference_rows(cell, references, cached_judges, config.seed if are_drawn else None, training)
    return lines
