"""The leaderboard's columns, the format of their numbers, and the notes below the tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cpbench.leaderboard.groups import Group
from cpbench.leaderboard.pairs import RankingScore
from cpbench.leaderboard.rows import Row
from cpbench.metrics.figures import FIGURES, Figure
from cpbench.metrics.scores import MAIN, SCORES, Score, among
from cpbench.numbers import number


def amount(value: float) -> str:
    """Three significant digits, or all digits of the integer part."""
    return "-" if math.isnan(value) else f"{value:,.0f}" if 100 <= abs(value) < 1e12 else f"{value:.3g}"


@dataclass(frozen=True)
class Column:
    key: str  # of Row.mean
    head: str
    description: str
    form: Callable[[float], str] = number
    scale: float = 1.0
    high: bool = True  # whether higher is better

    def mean_and_std(self, row: Row) -> tuple[str, str]:
        """The mean and, for a score over several runs, its standard deviation."""
        mean, std = (values.get(self.key, math.nan) * self.scale for values in (row.mean, row.std))
        return self.form(mean), "" if self.form is amount or math.isnan(std) else self.form(std)

    def interval(self, row: Row) -> tuple[float, float] | None:
        """(low, high) of a score; None without a score or a finite interval."""
        low, high = (bounds.get(self.key, math.nan) * self.scale for bounds in (row.low, row.high))
        return (low, high) if all(map(math.isfinite, (row.mean.get(self.key, math.nan), low, high))) else None

    def cell(self, row: Row) -> str:
        return " ± ".join(filter(None, self.mean_and_std(row)))

    def bracket(self, row: Row, digits: int = 3) -> str:
        """The interval as a suffix: " [0.583, 0.719]"; "" without one."""
        bounds = self.interval(row)
        return f" [{', '.join(number(bound, digits) for bound in bounds)}]" if bounds else ""


FINAL = FIGURES["final_average"]
FINAL_SAYS = {"clip_t": "cosine of picture and prompt after the last task, not rescaled"}  # CLIPScore is 2.5 times that
MEASURE_AND_COST_COLUMNS = (
    Column("identified", "identified", "share of final pictures whose nearest concept, among all of the sequence, is their own"),
    Column("prior_drift", "language drift", "mean 1 - cosine between final pictures of plain class nouns and the untouched model's; lower is better", high=False),
    Column("unrelated_moved", "unrelated drift", "the same for ten or more prompts without a learned word, in other places than the evaluation's; lower is better", high=False),
    Column("unrelated_text", "unrelated CLIP-T", "change of the same pictures' CLIP-T from the untouched model's; negative: they say less of the prompt"),
    Column("carried_MB", "state size, MB", "size of the state after the last task, in megabytes", amount, high=False),
    Column("carried_parameters", "state size, M params", "size of the state after the last task, in millions of numbers", amount, 1e-6, high=False),
    Column("learning_minutes", "learning, min", "time for learning the sequence; depends on the machine", amount, high=False),
    Column("learning_unet_evaluations", "UNet evaluations", "number of pictures passed through the UNet while learning the sequence, forward passes only; does not depend on the machine", amount, high=False),
)  # fmt: skip


LATER_MEASURES = ("unrelated_moved", "unrelated_text")  # of no run before cpbench 0.3
EQUAL_TEXT_COLUMNS = (
    Column("dino_at_90", "DINO at 90 % of CLIP-T", "largest final DINO at a strength of what was learned with which CLIP-T is at least 90 % of the untouched model's; mean over the concepts that reach it, and ranks by it put rows that not all concepts reach last"),
    Column("dino_at_95", "DINO at 95 % of CLIP-T", "the same at 95 %"),
    Column("dino_area", "DINO over CLIP-T", "the same averaged from 80 to 100 %; where no strength reaches a share, the untouched model's DINO counts"),
)  # fmt: skip


def board_columns(groups: Sequence[Group]) -> list[Column]:
    """All columns: figures by DINO, the final average by every other score, then measures and costs."""
    all_rows = [row for group in groups for row in group.rows]
    present_keys = {key for row in all_rows for key in LATER_MEASURES if math.isfinite(row.mean.get(key, math.nan))}
    metrics = {metric for group in groups for row in group.rows for run in row.runs for metric in run.figures}
    other_scores = [item for item in among({*SCORES, *metrics}).values() if item.name != MAIN]
    by_main = sorted((item for item in FIGURES.values() if item.column is not None), key=lambda item: item.column)
    return [
        *(figure_column(item, SCORES[MAIN]) for item in by_main),
        *(figure_column(FINAL, item) for item in other_scores),
        *(
            EQUAL_TEXT_COLUMNS
            if any(run.equal_text for group in groups for row in group.rows for run in row.runs)
            else ()
        ),
        *(
            column
            for column in MEASURE_AND_COST_COLUMNS
            if column.key not in LATER_MEASURES or column.key in present_keys
        ),
    ]


def figure_column(figure: Figure, score: Score) -> Column:
    description = figure.sentence(score.title)
    head = figure.heading(score.title)
    if figure is FINAL:
        head, description = f"{score.title} final", FINAL_SAYS.get(score.name, description)
    return Column(f"{score.name}_{figure.name}", head, description, high=figure.higher_is_better is True)


IN_TERMINAL = (
    "dino_over_tasks", "dino_final_average", "dino_normalised_retention", "clip_t_final_average", "carried_MB",
    "learning_unet_evaluations",
)  # fmt: skip


def ranks(score: RankingScore) -> str:
    """What the ranks of a table by this score are."""
    return (
        f"Rank, by {score.title}: 1 + the number of rows that are shown to be better; “methods below”: the number of other methods, "
        "not rows, that are shown to be worse. Two rows differ if Student's t over the concepts' differences (paired by prompt and noise, "
        "over the seeds and orders of both) survives Benjamini and Hochberg's procedure at 5 % over all pairs of the table and the 95 % "
        "interval lies beyond ±0.01; they are alike if the 90 % interval lies within ±0.05; else it is open. Of four or more seeds and "
        "orders these are a second random factor beside the concepts; of fewer, what is shown is shown given these endings. No rank under "
        "six concepts. “~”: not compared with every row. “-”: not compared with any row, or no score."
    )


MORE = (
    "Rows are sorted by the score that they are ranked by. A row whose scores vary widely can have a better rank than the row above it. Numbers are means ± "
    "standard deviations over runs (seeds and orders) with the same settings.",
    "Next to or below a score is its 95 % interval; the column “intervals over” says what it covers. “concepts”, for one run: a "
    "bootstrap over concepts (plain nouns for language drift), prompts and pictures. It estimates the mean over other concepts of this "
    "kind, and is too narrow for few concepts: its coverage is about 89 % for ten concepts and 83 % for five (the intervals behind ranks are Student's, which covered the truth in "
    "93 to 99 of 100 simulated tables of three to thirty concepts, tests/test_verdicts.py). “seeds”, for three or "
    "more runs: a t-interval over runs. It estimates the mean over other seeds and orders for these concepts. For two runs there is no "
    "interval, and for one run none for the noise floor of forgetting.",
    "Methods with * see earlier data, so they are not replay-free. “generated” means replay of pictures that the method generated itself. "
    "“Tested against” is what the code of a built-in method was compared with; see docs/methods.md. † marks runs whose numbers the "
    "current cpbench may not reproduce: they come from an older version, or precede a change that affects them.",
)
