"""The leaderboard's rows: averages over a configuration's runs, and intervals."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cpbench.errors import UserError
from cpbench.leaderboard import figures
from cpbench.leaderboard.entries import Run, by_concept
from cpbench.metrics import equal_text
from cpbench.metrics.comparison import Key
from cpbench.metrics.figures import FIGURES, Figure, table_figures
from cpbench.metrics.intervals import FEWEST_SEEDS, bootstrap, t_interval
from cpbench.metrics.scores import MAIN, among
from cpbench.metrics.scores import SCORES as SCORES_OF_PICTURES
from cpbench.records import measures_table
from cpbench.records.record import is_built_in, is_own
from cpbench.registry import facts_of
from cpbench.version import SCORES

NO_INTERVAL = (math.nan, math.nan)
FINAL_SCORE = f"{MAIN}_final_average"
EARLIER_MARK = "†"  # after a method whose runs have another SCORES
MEASURE_COLUMNS = {  # in measures.csv
    "identified": "identified",
    "prior_drift": "moved",
    "unrelated_moved": "unrelated_moved",
    "unrelated_text": "unrelated_text",
}
FEWEST_UNITS = 3  # fewest concepts or nouns for an interval


@dataclass
class Row:
    """A configuration of a method: its runs, mean and standard deviation of each number, intervals of scores.

    scores: the SCORES of its runs; 0 if the current code may not reproduce their numbers.
    """

    method: str
    hash: str  # of its runs; the first of several, which may differ in paths or batch size
    scores: int
    replay_free: str  # yes, generated, no
    tested_against: str
    runs: list[Run]
    mean: dict[str, float]
    std: dict[str, float]  # NaN for one run
    low: dict[str, float]  # 95 % interval of the mean, scores only; NaN without one
    high: dict[str, float]
    rank: int | None = None
    compared: int = 0  # number of other rows it was compared with
    below: int = 0  # number of other methods, not rows, that are shown to be worse

    @property
    def over(self) -> str:
        """What its intervals cover: "concepts" for one run, "seeds" (and orders) for three or more, else "-"."""
        if not any(math.isfinite(bound) for bound in self.low.values()):
            return "-"
        return "concepts" if len(self.runs) == 1 else "seeds"

    @property
    def family(self) -> str:
        """Its method without the settings, which it shares with its variants."""
        return self.method.split(" ")[0].removesuffix("*")

    @property
    def label(self) -> str:
        """Its method, marked if its SCORES is not the current one."""
        return self.method + (EARLIER_MARK if self.scores != SCORES else "")

    def pictures(self, part: str) -> dict[tuple[int, int], dict[Key, float]]:
        """DINO of each picture by (seed, order); part: "finals", "learned" or "since", see `Run`."""
        return {run.seed_and_order: getattr(run, part) for run in self.runs}


# Numbers of a run


def figure_names() -> list[str]:
    """Names of the figures of a single run, those with an interval first, as in leaderboard.csv."""
    return [figure.name for figure in sorted(table_figures(), key=lambda figure: figure.resampled is None)]


def score_columns(run: Run, isolated: Run | None) -> dict[str, float]:
    """All scores and measures of a run; NaN if undefined or not measured. isolated: its reference for intransigence."""
    columns: dict[str, float | None] = {}
    for metric in among({*SCORES_OF_PICTURES, *run.figures}):
        columns |= {f"{metric}_{k}": run.figures.get(metric, {}).get(k) for k in figure_names()}
    columns |= {f"{MAIN}_{figure.name}": value for figure, value in picture_figures(run, isolated)}
    columns |= equal_text.means(run.equal_text)
    columns |= {column: run.measures.get(measure) for column, measure in MEASURE_COLUMNS.items()}
    return {k: math.nan if v is None else float(v) for k, v in columns.items()}


def cost_columns(run: Run) -> dict[str, float]:
    task_costs = [cost for _, cost in sorted(run.record.costs.items())]
    seconds = sum(cost.learning_seconds for cost in task_costs)
    carried = float(sum(task_costs[-1].state_bytes.values())) if task_costs else 0.0
    columns = {
        "carried_MB": carried / 1e6,
        "carried_kB": carried / 1e3,
        "carried_parameters": task_costs[-1].state_parameters if task_costs else 0.0,
        "trainable_parameters": max((cost.trainable_parameters for cost in task_costs), default=0.0),
        "learning_unet_evaluations": sum(cost.learning_evaluations for cost in task_costs),
        "learning_seconds": seconds,
        "learning_minutes": seconds / 60,
    }
    return {k: float(v) for k, v in columns.items()}


# Intransigence


def isolated_runs(rows: Sequence[Sequence[Run]]) -> list[Run]:
    """The scored runs of `isolated` with its default settings; [] without such a row.

    If a group has several such rows, for example from different code versions, it is the one with the most runs, so that
    all other rows have the same reference.
    """
    candidates = [[run for run in row if run.learned] for row in rows if is_isolated(row[0])]
    return max(candidates, key=len, default=[])  # the first on a tie: rows are sorted by hash


def is_isolated(run: Run) -> bool:
    record = run.record
    return record.facts.method == "isolated" and not record.changed and not is_own(record)


def isolated_run(run: Run, isolated: Sequence[Run]) -> Run | None:
    """The run of `isolated` with the same seed, and the same order if there is one. It learns every concept alone."""
    seed, order = run.seed_and_order
    same_seed = [reference for reference in isolated if reference.seed_and_order[0] == seed]
    return min(
        same_seed,
        key=lambda reference: (reference.seed_and_order[1] != order, reference.seed_and_order[1]),
        default=None,
    )


def picture_figures(run: Run, isolated: Run | None) -> list[tuple[Figure, float]]:
    """The figures that need single pictures or another run, by DINO; NaN if a concept has no picture."""
    concepts = run.record.sequence.concepts
    values = {name: in_concepts(pictures, concepts) for name, pictures in picture_sets(run, isolated).items()}
    T = len(concepts)
    R = np.full((T + 1, T), np.nan)
    np.fill_diagonal(R[1:], values["learned"])
    R[T] = in_concepts(run.finals, concepts)
    return [(figure, figure.value(R, **values)) for figure in FIGURES.values() if not figure.in_a_run]


def picture_sets(run: Run, isolated: Run | None) -> dict[str, dict[Key, float]]:
    """The sets of pictures that `Figure.interval` reads."""
    return {"learned": run.learned, "since": run.since, "isolated": isolated.learned if isolated else {}}


def in_concepts(pictures: dict[Key, float], concepts: Sequence[str]) -> list[float]:
    """The mean of each concept's pictures, as in a matrix cell; NaN without a picture."""
    means = by_concept(pictures)
    return [means.get(c, math.nan) for c in concepts]


# Intervals


def run_intervals(run: Run, isolated: Run | None) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of one run over concepts, prompts and pictures.

    They cover its figures and, with at least FEWEST_UNITS concepts or nouns, the measures in MEASURE_COLUMNS.
    """
    intervals, bounds_by_metric = {}, {}
    with contextlib.suppress(ValueError):  # a table that no run writes
        bounds_by_metric = figures.bounds(run.folder, run.record.sequence.concepts)
    for metric, bounds in bounds_by_metric.items():
        intervals |= {f"{metric}_{k}": v for k, v in bounds.items() if k in figure_names() and v is not None}
    for figure, value in picture_figures(run, isolated):
        if figure.interval and not math.isnan(value):
            with contextlib.suppress(UserError):  # the two runs have no picture in common
                intervals[f"{MAIN}_{figure.name}"] = figure.interval(picture_sets(run, isolated))
    for name, by_its_concept in run.equal_text.items():
        values = {concept: value for concept, value in by_its_concept.items() if math.isfinite(value)}
        if len(values) >= FEWEST_UNITS:
            interval = bootstrap(list(values.values()), list(values))
            intervals[name] = (interval.low, interval.high)
    table, last_row = measures_table.read(run.folder), len(run.record.sequence.concepts)
    for key, measure in MEASURE_COLUMNS.items() if table is not None else ():
        values = table[(table["row"] == last_row) & (table["measure"] == measure)].dropna(subset="value")
        if len(values) >= FEWEST_UNITS:
            interval = bootstrap(values["value"], list(values["concept"]))
            intervals[key] = (interval.low, interval.high)
    return intervals


def intervals_of(table: pd.DataFrame, runs: Sequence[Run], isolated: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Intervals by column of `table` (runs, scores): for one run the bootstrap, for three or more a t-interval, for two none."""
    if len(runs) == 1:
        return run_intervals(runs[0], isolated_run(runs[0], isolated))
    if len(runs) < FEWEST_SEEDS:
        return {}
    t_intervals = {key: t_interval(table[key].dropna()) for key in table}
    return {key: (interval.low, interval.high) for key, interval in t_intervals.items()}


# Facts about a method


def tested_against(run: Run) -> str:
    name = run.record.facts.method
    return facts_of(name)["tested_against"] if is_ours(run) else "-"


def replay_free(run: Run) -> str:
    if run.sees_earlier_data:
        return "no"
    return facts_of(run.record.facts.method).get("replays") or "yes" if is_ours(run) else "yes"


def is_ours(run: Run) -> bool:
    return is_built_in(run.record)


# Rows


def row_of(runs: list[Run], isolated: Sequence[Run]) -> Row:
    """The row of these runs; isolated: the runs of `isolated`, their reference for intransigence."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about infinities, which a record may contain
        score_table = pd.DataFrame([score_columns(run, isolated_run(run, isolated)) for run in runs])
        table = pd.concat([score_table, pd.DataFrame([cost_columns(run) for run in runs])], axis=1)
        mean, std = table.mean().to_dict(), table.std().to_dict()
        bounds = intervals_of(score_table, runs, isolated)
    low, high = ({key: bounds.get(key, NO_INTERVAL)[side] for key in score_table} for side in (0, 1))
    record = min((run.record for run in runs), key=lambda record: record.hash)
    identity = (runs[0].method, record.hash, record.facts.scores, replay_free(runs[0]), tested_against(runs[0]))
    return Row(*identity, runs, mean, std, low, high)
