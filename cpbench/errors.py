"""What cpbench says when the user's input is wrong: one line, with the way out."""

from collections.abc import Iterable
from difflib import SequenceMatcher

MOST_LISTED = 12  # more choices than this do not fit one line
MOST_NEAR = 3
ALIKE = 0.6  # difflib's own cutoff
MOST_SHOWN = 80  # characters of the user's own word


class UserError(Exception):
    """Bad input: names the thing, the reason and what to do. The command line exits with 2 on it.

    The message is always one line: line breaks in it, such as those of a quoted name, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def quoted(value: object) -> str:
    """The value as the user wrote it, quoted, with control characters escaped, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def near(name: object, choices: Iterable[str], what: str, cure: str = "", most: int = MOST_LISTED) -> UserError:
    """The error for an unknown name, to be raised by the caller.

    name: what the user wrote; choices: what could have been meant; what: the singular noun for it,
    such as "method". Near matches ignore case and include substrings, either way round. Without one, up to
    `most` choices are listed; of more, `cure` (a sentence) says where they are, and without a cure the command
    `cpbench list <what>s`. A cure given is said in the other two cases as well.
    """
    choices = list(dict.fromkeys(choices))
    close = _close(str(name), choices)
    head = f"unknown {what} {quoted(name)}"
    if close:
        said = [f"{head}: did you mean {_either(close)}?", cure]
    elif not choices:
        said = [f"{head}: there is no {what} here.", cure]
    elif len(choices) <= most:
        said = [f"{head}: the {what}s are {', '.join(choices)}.", cure]
    else:
        said = [f"{head}:", cure or f"`cpbench list {what}s` shows all {len(choices)}."]
    return UserError(" ".join(filter(None, said)))


def _close(name: str, choices: list[str]) -> list[str]:
    """Up to three choices, the most alike first; those that hold the name, or are held by it, come last."""
    wanted = name.lower()
    # Choices that differ in case only must all survive, so the map goes to lists.
    by_lower: dict[str, list[str]] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), []).append(choice)
    # Not get_close_matches: it turns the order of equally good choices round.
    ratio = {c: SequenceMatcher(None, c, wanted).ratio() for c in by_lower}
    alike = sorted((c for c in ratio if ratio[c] >= ALIKE), key=lambda c: -ratio[c])[:MOST_NEAR]
    # One or two letters occur in nearly everything: no sign of what was meant.
    holds = [c for c in by_lower if (len(wanted) > 2 and wanted in c) or (len(c) > 2 and c in wanted)]
    return [c for lower in dict.fromkeys(alike + holds) for c in by_lower[lower]][:MOST_NEAR]


def _either(names: list[str]) -> str:
    """'a', 'b' or 'c'."""
    names = [quoted(n) for n in names]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class DamagedState(UserError):
    """A state file that is not whole, by its path."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: is damaged: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:  # as it comes back from another process
        return DamagedState, (self.path, self.reason)


class RulesError(RuntimeError):
    """A method did what methods may not do."""


class ReplayError(RulesError):
    """A method that must not see earlier data reached for it, or carries it."""
