"""The scores: numbers per picture, computed from a judge's embeddings, each of them one object.

The runner, the tables, the report and the leaderboard take names, titles and functions from `SCORES`: a new score is one
entry of it, or of an installed package's SCORES (see docs/adding-a-judge.md).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from cpbench.errors import UserError, quoted
from cpbench.judges import added
from cpbench.metrics.cosines import cosine_self_pairs, mean_products, paired_cosine
from cpbench.output import say

MAIN = "dino"  # identity: rows are ranked by it, and single pictures are shown with it
# A name is part of file names and columns; "x_first" and "x_second" are x for either concept of a picture with two.
NAME = re.compile(r"(?!.*_(?:first|second)$)[a-z][a-z0-9_]{0,39}")
TAKEN = ("both",)  # of pictures of two concepts, see `running.multi_concept`


@dataclass(frozen=True)
class Score:
    """One number per picture, by one judge; higher is better (give a distance a minus sign).

    name: its key in scores.csv and run.json. title: its heading in tables. says: a phrase for what it measures. judge: the
    name of its judge. against: what a picture is compared with: "pictures", the real ones of its concept, or "words", its
    prompt with the class noun.

    of: its function of two sets of the judge's embeddings, of generated pictures (n, d) and of what they are compared with,
    real pictures (m, d) or prompts (n, d), to (n,). ceiling: the score of the real pictures (m, d) among themselves; None:
    no ceiling. is_cosine: whether it lies between -1 and 1; a table with other values is refused.

    ValueError for a name that is not allowed.
    """

    name: str
    title: str
    says: str
    judge: str
    against: Literal["pictures", "words"]
    of: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
    ceiling: Callable[[ArrayLike], float] | None = None
    is_cosine: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name) or self.name in TAKEN:
            raise ValueError(
                f"score {quoted(self.name)}: not a valid name; use at most 40 of a-z, 0-9 and _, not ending in _first or _second"
            )
        if self.against not in ("pictures", "words"):
            raise ValueError(f"score {self.name}: cannot be against {quoted(self.against)}; make it pictures or words")


SCORES: dict[str, Score] = {
    score.name: score
    for score in (
        Score(
            name="clip_i",
            title="CLIP-I",
            says="likeness of the picture",
            judge="clip",
            against="pictures",
            of=mean_products,
            ceiling=cosine_self_pairs,
            is_cosine=True,
        ),
        Score(
            name="clip_t",
            title="CLIP-T",
            says="likeness to the prompt's words",
            judge="clip",
            against="words",
            of=paired_cosine,
            is_cosine=True,
        ),
        Score(
            name="dino",
            title="DINO",
            says="identity",
            judge="dino",
            against="pictures",
            of=mean_products,
            ceiling=cosine_self_pairs,
            is_cosine=True,
        ),
    )
}


def of_judges(judges: Collection[str]) -> list[Score]:
    """The scores of these judges: built-in ones, then those of judges that packages add.

    UserError as in `of_package`, and if two judges have a score with the same name.
    """
    scores = [score for score in SCORES.values() if score.judge in judges]
    for name in dict.fromkeys(judges):
        for score in () if name in added.RESERVED else of_package(name):
            if other := next((known_score for known_score in scores if known_score.name == score.name), None):
                raise UserError(
                    f"judges {other.judge} and {name} both have a score {score.name}; leave one of them out"
                )
            scores.append(score)
    return scores


def of_package(judge: str) -> list[Score]:
    """The scores of a judge that an installed package adds. UserError if the judge or its scores are not valid."""
    scores = getattr(added.module(judge), "SCORES", None)
    if not isinstance(scores, tuple | list) or not scores or not all(isinstance(entry, Score) for entry in scores):
        raise UserError(
            f"judge {judge}: its SCORES must be one or more of cpbench.metrics.Score; see docs/adding-a-judge.md"
        )
    for score in scores:
        if score.judge != judge:
            raise UserError(
                f"judge {judge}: its score {score.name} names the judge {quoted(score.judge)}; make it {judge}"
            )
        if score.name in SCORES:
            raise UserError(f"judge {judge}: its score {score.name} has the name of a built-in score; rename it")
    return list(scores)


def among(names: Collection[str]) -> dict[str, Score]:
    """The scores among these names, by name: built-in ones, then those of installed packages. Other names are ignored.

    Packages are loaded only for a name that is not built in; one that cannot be loaded is named in a line, and its scores are
    not read from tables.
    """
    scores = {name: score for name, score in SCORES.items() if name in names}
    if all(name in scores for name in names):
        return scores
    for judge in added.names():
        try:
            package_scores = of_package(judge)
        except UserError as error:
            _say_once(f"{error}; its scores are left out")
            continue
        scores |= {score.name: score for score in package_scores if score.name in names and score.name not in scores}
    return scores


@functools.cache
def _say_once(line: str) -> None:
    say(line)


def main_first(names: Collection[str]) -> list[str]:
    """The names of `among`, in a report's order: identity first."""
    return sorted(among(names), key=lambda name: name != MAIN)


def title_of(name: str) -> str:
    """The title of a score; any other name is returned as it is."""
    score = among([name]).get(name)
    return score.title if score else name
