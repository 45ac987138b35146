"""A variable is called by a noun for what it holds: `paths`, `comparison`, `settings`; never by one of `FORBIDDEN`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# A participle, pronoun or question word says what was done to a value, or that there is one, but not what it is: a reader
# must go back to where it was assigned. `found` may be a path, a method or an interval, and `it` may be anything.
PARTICIPLES = """
asked chosen done drawn found given gone kept known lacking left lost made measured missing read said seen sent shown stored
taken told wanted written
"""
PRONOUNS = "each every it its mine others ours own rest theirs"
ADVERBS = "here how now still then there what when where which who whom whose why"  # and question words
ADJECTIVES = "alike far idle near odd"  # where they stand for a thing
FORBIDDEN = frozenset(" ".join((PARTICIPLES, PRONOUNS, ADVERBS, ADJECTIVES)).split())
# A key of YAML is the name of the field that reads it.
KEYS = {("cpbench/concepts/schema.py", "drawn")}
FILES = sorted(f.relative_to(ROOT).as_posix() for top in ("cpbench", "baselines") for f in (ROOT / top).rglob("*.py"))


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a module names itself: what it assigns, loops over, takes as a parameter, or calls `as`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(
            node.ctx, ast.Store
        ):  # in comprehensions, `for` and `with` as well
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.lineno, node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def forbidden(source: str) -> list[tuple[int, str]]:
    return [(line, name) for line, name in names(ast.parse(source)) if name.strip("_") in FORBIDDEN]


@pytest.mark.parametrize("file", FILES)
def test_variables_are_called_by_nouns(file: str) -> None:
    assert [(line, name) for line, name in forbidden((ROOT / file).read_text()) if (file, name) not in KEYS] == []


def test_every_way_to_name_a_thing_is_seen() -> None:
    source = """
from os import path as it
def f(given, *rest, how=1, **own):
    found = [each for each in given if (odd := each)]
    for what in found:
        with open(what) as kept:
            try:
                there, (here, _) = kept
            except OSError as why:
                raise
    return lambda which: which
"""
    words = "it given rest how own found each odd what kept there here why which"
    assert {name for _, name in forbidden(source)} == set(words.split())
    assert forbidden("paths.found = given(it=made)") == []  # attributes and arguments are somebody else's names
