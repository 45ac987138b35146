"""The scores: what a judge's embeddings say of a picture, an object each.

The runner, the tables, the report and the leaderboard read from them what a score is called and computes: a new one is one
entry of `SCORES`, or of an installed package's, see docs/adding-a-judge.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import ArrayLike, NDArray

from cpbench.errors import UserError, quoted
from cpbench.judges import added
from cpbench.metrics.cosines import cosine_self_pairs, mean_products, paired_cosine

MAIN = "dino"  # identity: what rows are ranked by, and single pictures are shown with
# A name is part of files' names and of columns; "x_first" and "x_second" are x of either concept of two in a picture.
NAME = re.compile(r"(?!.*_(?:first|second)$)[a-z][a-z0-9_]{0,39}")
TAKEN = ("both",)  # of pictures of two concepts, see `running.multi_concept`


@dataclass(frozen=True)
class Score:
    """One number a picture, by one judge; higher is better (a distance is given with a minus).

    name: its key in scores.csv and run.json. title: how tables head it. says: of what it is, in a phrase. judge: the name of
    the judge that it is by. against: what a picture is compared with, "pictures", the real ones of its concept, or "words",
    its prompt with the class noun.

    of: its function of two sets of the judge's embeddings, drawn (n, d) and what they are compared with, real (m, d) or
    words (n, d): (n,). ceiling: of the real pictures' embeddings (m, d), what they score among themselves; None: no ceiling.
    is_cosine: it is between -1 and 1, and a table that says otherwise is not believed.

    ValueError for a name that cannot be one.
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
                f"score {quoted(self.name)}: make its name of a-z, 0-9 and _, at most 40, not ending in _first or _second"
            )
        if self.against not in ("pictures", "words"):
            raise ValueError(f"score {self.name}: is against {quoted(self.against)}; make it pictures or words")


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
    """The scores by these judges: built-in ones, then those of judges that packages add.

    UserError as `of_package`, and where two of them give a score of one name.
    """
    found = [score for score in SCORES.values() if score.judge in judges]
    for name in dict.fromkeys(judges):
        for score in () if name in added.RESERVED else of_package(name):
            if other := next((it for it in found if it.name == score.name), None):
                raise UserError(f"judges {other.judge} and {name} both give a score {score.name}; ask one of them")
            found.append(score)
    return found


def of_package(judge: str) -> list[Score]:
    """The scores that come with a judge of an installed package. UserError where it, or they, are not as they should be."""
    theirs = getattr(added.module(judge), "SCORES", None)
    if not isinstance(theirs, tuple | list) or not theirs or not all(isinstance(it, Score) for it in theirs):
        raise UserError(
            f"judge {judge}: its SCORES must be one or more of cpbench.metrics.Score; see docs/adding-a-judge.md"
        )
    for score in theirs:
        if score.judge != judge:
            raise UserError(f"judge {judge}: its score {score.name} is by {quoted(score.judge)}; make it by {judge}")
        if score.name in SCORES:
            raise UserError(f"judge {judge}: its score {score.name} is called as one of cpbench's own; rename it")
    return list(theirs)


def among(names: Collection[str]) -> dict[str, Score]:
    """By name the scores that are among these names: built-in ones, then those of installed packages; others are no scores.

    Packages are asked only for a name that is not built in, and one that cannot be asked is left out: tables are read
    without it.
    """
    found = {name: score for name, score in SCORES.items() if name in names}
    if all(name in found for name in names):
        return found
    for judge in added.names():
        try:
            theirs = of_package(judge)
        except UserError:
            continue
        found |= {score.name: score for score in theirs if score.name in names and score.name not in found}
    return found


def main_first(names: Collection[str]) -> list[str]:
    """`among`, in the order of a report: identity, then the others."""
    return sorted(among(names), key=lambda name: name != MAIN)


def title_of(name: str) -> str:
    """What a score is called; of what is no score its own name."""
    score = among([name]).get(name)
    return score.title if score else name
