"""Errors in the user's input: one line that says what is wrong, why, and what to do."""

from collections.abc import Iterable
from difflib import SequenceMatcher

MOST_LISTED = 12  # more choices than this do not fit one line
MOST_SUGGESTED = 3
SIMILAR = 0.6  # difflib's default cutoff
MOST_SHOWN = 80  # characters of the user's own word


class UserError(Exception):
    """Bad input: the message says what is wrong, why, and what to do. The command line exits with code 2.

    The message is always one line: line breaks in it, such as those of a quoted name, become spaces.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


def quoted(value: object) -> str:
    """The value as the user wrote it, quoted, with control characters escaped, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."


def did_you_mean(name: object, choices: Iterable[str], noun: str, hint: str = "", most: int = MOST_LISTED) -> UserError:
    """The error for an unknown name, to be raised by the caller.

    name: what the user wrote; choices: the valid names; noun: what a name stands for, in the singular, such as "method".
    Similar names are suggested, ignoring case; so are names that contain the user's, and the other way round. If nothing
    is similar, up to `most` choices are listed; if there are more, `hint` (a sentence) says where to find them, or, without
    a hint, the command `cpbench list <noun>s`. A given hint also follows the suggestions and the list.
    """
    choices = list(dict.fromkeys(choices))
    close = _close(str(name), choices)
    head = f"unknown {noun} {quoted(name)}"
    if close:
        sentences = [f"{head}: did you mean {_either(close)}?", hint]
    elif not choices:
        sentences = [f"{head}: there is no {noun} here.", hint]
    elif len(choices) <= most:
        sentences = [f"{head}: the {noun}s are {', '.join(choices)}.", hint]
    else:
        sentences = [f"{head}:", hint or f"`cpbench list {noun}s` shows all {len(choices)}."]
    return UserError(" ".join(filter(None, sentences)))


def _close(name: str, choices: list[str]) -> list[str]:
    """Up to three choices, the most similar first; those that contain the name, or are contained in it, come last."""
    lowered = name.lower()
    # Choices that differ in case only must all survive, so the map goes to lists.
    by_lower: dict[str, list[str]] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), []).append(choice)
    # Not get_close_matches: it turns the order of equally good choices round.
    ratio = {c: SequenceMatcher(None, c, lowered).ratio() for c in by_lower}
    similar = sorted((c for c in ratio if ratio[c] >= SIMILAR), key=lambda c: -ratio[c])[:MOST_SUGGESTED]
    # One or two letters occur in nearly everything: no sign of what was meant.
    holds = [c for c in by_lower if (len(lowered) > 2 and lowered in c) or (len(c) > 2 and c in lowered)]
    return [c for lower in dict.fromkeys(similar + holds) for c in by_lower[lower]][:MOST_SUGGESTED]


def _either(names: list[str]) -> str:
    """'a', 'b' or 'c'."""
    names = [quoted(n) for n in names]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


class DamagedState(UserError):
    """A damaged state file."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: is damaged: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple:  # so that it can be pickled from another process
        return DamagedState, (self.path, self.reason)


class RulesError(RuntimeError):
    """A method broke the rules of the benchmark."""


class ReplayError(RulesError):
    """A method that must not see earlier data accessed it, or has it in its state."""
