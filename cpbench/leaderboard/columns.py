"""The leaderboard's columns: which there are, how their numbers are written, and what is said of them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cpbench.leaderboard.rows import Group, Row
from cpbench.metrics.figures import FIGURES, Figure
from cpbench.metrics.scores import MAIN, SCORES, Score, among
from cpbench.numbers import number


def amount(value: float) -> str:
    """Three digits that count, but never fewer than a whole number has."""
    return "-" if math.isnan(value) else f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


@dataclass(frozen=True)
class Column:
    key: str  # of Row.mean
    head: str
    description: str
    form: Callable[[float], str] = number
    scale: float = 1.0
    high: bool = True  # whether more is better

    def mean_and_std(self, row: Row) -> tuple[str, str]:
        """The mean, and, of a score over several runs, its standard deviation."""
        mean, std = (values.get(self.key, math.nan) * self.scale for values in (row.mean, row.std))
        return self.form(mean), "" if self.form is amount or math.isnan(std) else self.form(std)

    def interval(self, row: Row) -> tuple[float, float] | None:
        """Of a score; None where there is none, or it has no end, or there is no score."""
        low, high = (bounds.get(self.key, math.nan) * self.scale for bounds in (row.low, row.high))
        return (low, high) if all(map(math.isfinite, (row.mean.get(self.key, math.nan), low, high))) else None

    def cell(self, row: Row) -> str:
        return " ± ".join(filter(None, self.mean_and_std(row)))

    def bracket(self, row: Row, digits: int = 3) -> str:
        """The interval, to stand behind the number: " [0.583, 0.719]"; "" where there is none."""
        bounds = self.interval(row)
        return f" [{', '.join(number(bound, digits) for bound in bounds)}]" if bounds else ""


FINAL = FIGURES["final_average"]
FINAL_SAYS = {"clip_t": "plain cosine of picture and prompt at the end"}  # not CLIPScore, which is 2.5 times that
MEASURE_AND_COST_COLUMNS = (
    Column("identified", "identified", "share of pictures at the end that are nearest to their own concept, of all the sequence's"),
    Column("prior_drift", "prior drift", "mean 1 - cosine of pictures of plain class nouns at the end to the untouched model's; lower is better", high=False),
    Column("carried_MB", "carried MB", "megabytes of the state after the last task", amount, high=False),
    Column("carried_parameters", "carried M par.", "millions of numbers in that state", amount, 1e-6, high=False),
    Column("learning_minutes", "learning min", "minutes to learn the sequence; they depend on the machine", amount, high=False),
    Column("learning_unet_evaluations", "UNet evaluations", "pictures that went through the UNet to learn the sequence, a step's way back not counted; they do not depend on the machine", amount, high=False),
)  # fmt: skip


def board_columns(groups: Sequence[Group]) -> list[Column]:
    """Figures by DINO that have a column, the final average by the other scores that are there, measures and costs."""
    metrics = {metric for group in groups for row in group.rows for run in row.runs for metric in run.figures}
    other_scores = [it for it in among({*SCORES, *metrics}).values() if it.name != MAIN]
    by_main = sorted((it for it in FIGURES.values() if it.column is not None), key=lambda it: it.column)
    return [
        *(figure_column(it, SCORES[MAIN]) for it in by_main),
        *(figure_column(FINAL, it) for it in other_scores),
        *MEASURE_AND_COST_COLUMNS,
    ]


def figure_column(figure: Figure, score: Score) -> Column:
    description = figure.sentence(score.title)
    head = figure.heading(score.title)
    if figure is FINAL:
        head, description = f"{score.title} final", FINAL_SAYS.get(score.name, description)
    return Column(f"{score.name}_{figure.name}", head, description, high=figure.higher_is_better is True)


IN_TERMINAL = (
    "dino_final_average", "dino_backward_transfer", "dino_normalised_retention", "clip_t_final_average", "carried_MB",
    "learning_unet_evaluations",
)  # fmt: skip

RANKS = (
    "Rank: 1 + the number of rows that are shown to be better: whose paired difference in final DINO (same concept, prompt and noise, in the "
    "seeds and orders of both) has a 95 % interval wholly above 0, and p below 0.05 by a sign-flip test over concepts, which fewer "
    "than six concepts never reach. It is about these concepts' kind, not about other training seeds, and not corrected for the "
    "number of pairs. “~”: not compared with every row; “-”: with none, or without a final score."
)
MORE = (
    "Rows are ordered by final DINO; a row whose pictures scatter widely may have a better rank than one above it. Numbers are means ± standard deviation over runs (seeds, orders) with equal settings.",
    "Beside or below a score is its 95 % interval, and in a column of its own what it is over: the two kinds answer two questions. Over "
    "concepts, of one run, it is a bootstrap of concepts (of plain nouns for prior drift), then prompts, then pictures, and says where "
    "the mean over other such concepts would lie (of few concepts it is too narrow: of ten it holds the truth some 89 times in 100, of "
    "five 83). Over seeds, of three or more runs, it is Student's t over the runs, and says where the mean over other seeds and orders "
    "would lie for these concepts. Of two runs there is none, nor of one run's noise floor of forgetting.",
    "Methods with * see earlier data: they are not replay-free; “generated” replays pictures that the method drew itself. "
    "Tested against: what the code of a method of cpbench's own was compared with; see docs/methods.md. Methods with † were run "
    "by code whose numbers today's cpbench is not known to give again: by an older version, or before something that moves them changed.",
)
