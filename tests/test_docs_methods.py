"""docs/methods.md says of every method what its class says: that it is there, its cost, what it carries, whose data it sees."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from learners import SHORT

from cpbench import config
from cpbench.backbones.backbone import Backbone
from cpbench.method import TENSOR_TYPES, Options, State
from cpbench.registry import built_in_methods, facts_of, load_method, summary_of
from cpbench.running import counting

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "methods.md").read_text()  # its places: tests/test_doc_tables.py
METHODS = built_in_methods()
HEADS = "method", "paper", "idea", "replay-free", "carries", "UNet evaluations per task", "task 1", "task 10"
HEADS += "place on the miniature", "tested against"
LEVELS = "paper's numbers", "official code's behaviour", "equation only", "our reading"


def tables() -> list[list[list[str]]]:
    """Every table of the page, its head first: cells by row."""
    found = re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)
    cells = [[[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()] for table in found]
    return [[head, *rows] for head, _, *rows in cells]


def table(*heads: str) -> list[list[str]]:
    (found,) = (rows for head, *rows in tables() if head == list(heads))
    return found


def told(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


ROWS = {told(row[0])[0]: dict(zip(HEADS, row, strict=True)) for row in table(*HEADS)}
SYMBOLS = {told(symbol)[0]: told(option)[0] for symbol, option in table("symbol", "option") if symbol != "`t`"}
QUIRKS = [
    (method, told(option)[0], told(default)[0])
    for methods, option, default, _ in table("method", "option", "default", "what it switches")
    for method in told(methods)
]


def cost(formula: str, options: Options, t: int) -> int:
    """A formula of the page: names beside each other are multiplied, [x] is 1 where x holds."""
    words = re.sub(r"(?<=[\w)\]]) (?=[\w(\[])", " * ", formula.replace("[", "(").replace("]", ")"))
    values = {symbol: getattr(options, option) for symbol, option in SYMBOLS.items() if hasattr(options, option)}
    return int(eval(words, {"__builtins__": {}}, {"min": min, "t": t} | values))


def test_the_page_has_exactly_the_methods_there_are() -> None:
    assert sorted(ROWS) == METHODS and len(table(*HEADS)) == len(METHODS)
    choosing = TEXT.partition("## Which one to choose")[2].partition("\n## ")[0]
    named = [m for group in re.findall(r"^\*\*[^*]+\*\*: ([^.]*)\.", choosing, re.MULTILINE) for m in told(group)]
    assert sorted(named) == METHODS  # each in one group


@pytest.mark.parametrize("name", METHODS)
def test_the_cost_is_what_is_counted(tiny: Backbone, make_task: Callable, name: str) -> None:
    """The formula, of short tasks; and the page's numbers are the formula's, of the miniature's preset."""
    _, kind, preset = config.resolve({"method": name, "sequence": "dreambench10", "backbone": "miniature"})
    (formula,) = told(ROWS[name]["UNet evaluations per task"])
    few = {
        "steps": 3,
        "batch_size": 2,
        "token_steps": 2,
        "fisher_samples": 3,
        "dsc_steps": 2,
        "caption_samples": 2,
        "rank": 2,
    }
    few |= {
        "prior_pictures": 3,
        "prior_inference_steps": 2,
        "replay_pictures": 2,
        "replay_inference_steps": 3,
        "crops": 1,
    }
    fields, few = kind.Options.model_fields, few | {"candidates": 3}
    options = kind.Options(**{k: v for k, v in few.items() if k in fields and fields[k].default != 0})
    concepts = ("dog", "backpack", "vase", "dog2")
    tasks = [make_task(tiny, concept, t) for t, concept in enumerate(concepts, 1)]
    counts = counting.count(kind, options, tasks, tiny)
    assert counts == [cost(formula, options, t) for t in range(1, 5)]
    for t in (1, 10):
        assert int(ROWS[name][f"task {t}"]) == cost(formula, preset, t)


@pytest.mark.parametrize("name", METHODS)
def test_replay_free_is_what_the_method_says(name: str) -> None:
    method = load_method(name)
    expected = "no" if method.sees_earlier_data else method.replays or "yes"
    assert (expected == "generated") == ("replays pictures" in summary_of(name))
    assert ROWS[name]["replay-free"] == expected
    assert ("all LoRAs are mixed" in summary_of(name)) == ("keeps every LoRA" in ROWS[name]["idea"])


@pytest.mark.parametrize("name", METHODS)
def test_it_carries_what_it_is_said_to_carry(tiny: Backbone, make_task: Callable, name: str) -> None:
    """Kinds of tensors after two tasks; those with a + are as large again after the second."""
    kind = load_method(name)
    method = kind(kind.Options(**{k: v for k, v in SHORT.items() if k in kind.Options.model_fields}))
    state, sizes = State(), []
    for number, concept in enumerate(("dog", "backpack"), 1):
        state = method.learn(tiny, make_task(tiny, concept, number), state)
        tiny.restore()
        sizes.append(state.bytes_by_type())
    assert sizes[1].keys() == sizes[0].keys() and all(sizes[1][k] in (size, 2 * size) for k, size in sizes[0].items())
    found = {f"`{k}`" + ("+" if sizes[1][k] == 2 * size else "") for k, size in sizes[0].items()}
    assert set(ROWS[name]["carries"].split(", ")) == (found or {"nothing"})
    assert set(told(ROWS[name]["carries"])) <= set(TENSOR_TYPES)


@pytest.mark.parametrize(("name", "option", "default"), QUIRKS)
def test_quirks_are_options_with_these_defaults(name: str, option: str, default: str) -> None:
    value = load_method(name).Options.model_fields[option].default
    assert (str(value).lower() if isinstance(value, bool) else value) == default


def test_every_row_says_what_it_was_tested_against() -> None:
    levels = re.findall(r"^\| \*([^*]+)\* \|", TEXT, re.MULTILINE)
    assert tuple(levels) == LEVELS
    for row in ROWS.values():
        level = re.match(r"\*([^*]+)\*.*: ", row["tested against"])[1]
        assert level in LEVELS[1:]  # no run on published weights has been made


def test_the_leaderboard_says_the_same() -> None:
    """And what is read of a file without importing it is what its class says."""
    assert set(ROWS) == set(built_in_methods())
    for name, row in ROWS.items():
        facts, kind = facts_of(name), load_method(name)
        assert facts["tested_against"] == kind.tested_against == re.match(r"\*([^*]+)\*", row["tested against"])[1]
        assert facts.get("replays", "") == kind.replays == ("generated" if row["replay-free"] == "generated" else "")
        assert facts.get("sees_earlier_data", False) == kind.sees_earlier_data == (row["replay-free"] == "no")


def test_links_lead_somewhere() -> None:
    docs = Path(__file__).parent.parent / "docs"
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)#][^)]*)\)", TEXT)]
    assert links and [link for link in links if not (docs / link).exists()] == []
