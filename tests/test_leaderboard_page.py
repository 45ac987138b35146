"""leaderboard.html: the tables' numbers, one file that loads nothing, names of anybody, and in a browser sorting and filtering."""

import base64
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from test_html_report import Tree
from test_leaderboard import CONCEPTS, DRAWS, facts, make_run, markdown_tables, record, write

from cpbench.leaderboard import board as leaderboard
from cpbench.leaderboard.columns import ranks
from cpbench.leaderboard.pairs import PRIMARY
from cpbench.records import tables

EVIL = "<script>alert(1)</script>"


def page(folder: Path) -> str:
    leaderboard.write(folder, folder)
    return (folder / "leaderboard.html").read_text()


def boards(tree: Tree) -> list[list[list[str]]]:
    """The tables without those of who differs from whom, whose heads are numbers."""
    return [table for table in tree.tables if table[0][1:2] != ["1"]]


def board(tree: Tree, k: int = 0) -> list[dict[str, str]]:
    """The rows of a table, by head, without the soft hyphens."""
    heads, *rows = [[" ".join(cell.replace("\xad", "").split()) for cell in row] for row in boards(tree)[k]]
    return [dict(zip(heads, row, strict=True)) for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three methods and three draws, one of another backbone, one of another sequence, one that was stopped."""
    for method, mean in (("l2", 0.3), ("ewc", 0.5), ("genreplay", 0.7)):
        for draw in DRAWS:
            make_run(tmp_path / method / f"{draw}", method, mean, draw)
    joint = make_run(tmp_path / "joint", "joint", 0.9, sees_earlier_data=True, figures={}, measured=False)
    scores = tables.read_scores(joint / "scores.csv")
    scores.loc[scores["concept"] == CONCEPTS[0], "value"] = float("nan")  # so that it has no final score
    tables.write_scores(joint / "scores.csv", scores)
    other = {"facts": facts("ewc") | {"backbone": "00" * 32, "sequence": "11" * 32}}
    other["config"] = {"backbone": "sd15", "seed": 0, "order": 0}
    make_run(tmp_path / "sd15", "ewc", 0.4, **other)
    make_run(tmp_path / "stopped", "olora", 0.4, status="stopped")
    return tmp_path


def test_it_says_what_the_markdown_says(folder: Path) -> None:
    text = page(folder)
    tree, shown = Tree(text), markdown_tables((folder / "leaderboard.md").read_text())
    intervals = re.compile(r" -?[0-9.]+ to -?[0-9.]+| \\\[.*\\\]")  # as the page has them, and Markdown

    def bare(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{h: intervals.sub("", v).replace(" ", "") for h, v in row.items()} for row in rows]

    for k, rows in enumerate(shown.values()):
        assert bare(board(tree, k)) == bare(rows)
    assert " to " in board(tree)[1]["DINO final"]
    assert [row["method"] for row in board(tree)] == ["genreplay", "ewc", "l2", "joint*"]
    assert len(boards(tree)) == 3 and board(tree, 2)[0]["state"] == "stopped"
    assert ranks(PRIMARY) in tree.words
    (matrix,) = (table for table in tree.tables if table not in boards(tree))
    assert [row[0] for row in matrix[1:]] == ["1 genreplay", "2 ewc", "3 l2", "4 joint*"]
    assert matrix[1][1:] == ["", "+", "+", "?"] and matrix[3][1:] == ["-", "-", "", "?"]


def test_it_is_one_file_that_loads_nothing_and_runs_one_script(folder: Path) -> None:
    text = page(folder)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and policy.startswith("default-src 'none'")
    tree = Tree(text)
    loading = [v for t, n, v in tree.attributes if n in ("src", "srcset", "action", "data", "poster")]
    assert loading == [] and not [n for _, n, _ in tree.attributes if n.startswith("on") or n == "style"]
    assert {v for t, n, v in tree.attributes if n == "href" and t == "link"} == {"data:,"}
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert str(folder) not in text and text == page(folder)


def test_names_of_anybody_are_words(tmp_path: Path) -> None:
    odd = facts(f"{EVIL}\"'>") | {"dtype": EVIL, "sampler": {EVIL: EVIL}}
    judges = {EVIL: {"model": EVIL, "weights_sha256": EVIL, "preprocessing": EVIL}}
    config = {"backbone": f'/x/{EVIL.replace("/", "")}" onclick="x', "seed": 0, "order": 0}
    make_run(tmp_path / "a", "x", 0.4, facts=odd, judges=judges, config=config, changed={EVIL: EVIL})
    make_run(tmp_path / "b", "x", 0.4, facts=odd, status=EVIL, hash=EVIL)
    text = page(tmp_path)
    tree = Tree(text)
    assert text.count("<script>") == 1 and EVIL in tree.words
    assert not [n for _, n, _ in tree.attributes if n.startswith("on")]
    assert board(tree)[0]["method"].startswith(EVIL)


def test_a_method_leads_to_its_report_where_there_is_one(tmp_path: Path) -> None:
    there = make_run(tmp_path / "runs" / "a b" / "javascript:x%", "ewc", 0.6, (1, 0))
    make_run(tmp_path / "runs" / "first", "ewc", 0.6, (0, 0))
    make_run(tmp_path / "runs" / "none", "l2", 0.4)
    (there / "report.html").write_text("")
    output = tmp_path / "board"
    leaderboard.write(tmp_path / "runs", output)
    tree = Tree((output / "leaderboard.html").read_text())
    (link,) = [v for v in tree.values("a", "href") if not v.startswith("#")]
    assert link == "../runs/a%20b/javascript%3Ax%25/report.html"
    assert (output / urllib.parse.unquote(link)).resolve() == there / "report.html"


def test_one_row_without_measures(tmp_path: Path) -> None:
    write(tmp_path, record("lora"))
    (row,) = board(Tree(page(tmp_path)))
    assert [row[k] for k in ("rank", "method", "runs", "DINO final", "identified", "tested against")] == [
        *("-", "lora", "1", "0.500 0.50 to 0.50", "-", "-")
    ]


# In a browser

needs_chromium = pytest.mark.skipif(not browser.found(), reason="there is no Chromium here")
METHODS = """[...document.querySelector('table.board').tBodies[0].rows].filter(r => r.getClientRects().length)
    .map(r => r.cells[1].textContent)"""


@pytest.fixture(scope="module")
def seen() -> Iterator[browser.Page]:
    with browser.browser() as opened:
        yield opened


def head(name: str) -> str:
    return f"[...document.querySelectorAll('table.board thead button')].find(b => b.textContent === {json.dumps(name)})"


@needs_chromium
def test_the_page_fits_and_can_be_read(folder: Path, seen: browser.Page) -> None:
    page(folder)
    browser.check_legible(seen, folder / "leaderboard.html")
    seen.open(folder / "leaderboard.html", 400)
    assert seen.evaluate("(e => e.scrollWidth > e.clientWidth)(document.querySelector('.scroll'))")


@needs_chromium
def test_a_head_sorts(folder: Path, seen: browser.Page) -> None:
    page(folder)
    seen.open(folder / "leaderboard.html", 1600)
    by_rank = ["genreplay", "ewc", "l2", "joint*"]  # which has no final score, and so no rank
    assert seen.evaluate(METHODS) == by_rank
    seen.evaluate(f"{head('DINO final')}.click()")
    assert seen.evaluate(METHODS) == ["genreplay", "ewc", "l2", "joint*"]  # not defined: last
    assert seen.evaluate("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"
    seen.evaluate(f"{head('DINO final')}.focus()")
    seen.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    seen.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    assert seen.evaluate(METHODS) == ["l2", "ewc", "genreplay", "joint*"]
    assert seen.evaluate("document.querySelectorAll('[aria-sort]').length") == 1
    seen.evaluate(f"{head('method')}.click()")
    assert seen.evaluate(METHODS) == sorted(by_rank)
    seen.evaluate(f"{head('rank')}.click()")
    assert seen.evaluate(METHODS) == by_rank
    seen.evaluate(f"{head('UNet evaluations')}.click()")
    assert seen.evaluate(METHODS) == by_rank  # all alike
    assert seen.complaints() == []


@needs_chromium
def test_it_filters(folder: Path, seen: browser.Page) -> None:
    page(folder)
    seen.open(folder / "leaderboard.html", 1600)

    def choose(name: str, value: str) -> tuple[str, list[bool]]:
        seen.evaluate(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('change', {{bubbles: true}})) }})"
            f"(document.getElementById('filters').elements[{json.dumps(name)}])"
        )
        shown = "[...document.querySelectorAll('section.group')].map(e => e.getBoundingClientRect().height > 0)"
        return seen.evaluate("document.getElementById('count').textContent"), seen.evaluate(shown)

    assert choose("backbone", "sd15") == ("1 of 5 rows", [False, True])
    assert choose("backbone", "miniature") == ("4 of 5 rows", [True, False])
    assert choose("replay-free", "generated") == ("1 of 5 rows", [True, False])
    assert seen.evaluate(METHODS) == ["genreplay"]
    assert choose("backbone", "sd15") == ("0 of 5 rows", [False, False])
    choose("replay-free", "")
    assert choose("backbone", "") == ("5 of 5 rows", [True, True])
    assert choose("sequence", "seq v1") == ("5 of 5 rows", [True, True])
    assert seen.complaints() == []


@needs_chromium
def test_without_the_script_all_is_there(folder: Path, seen: browser.Page) -> None:
    page(folder)
    seen.call("Emulation.setScriptExecutionDisabled", value=True)
    seen.open(folder / "leaderboard.html", 1600)
    seen.call("Emulation.setScriptExecutionDisabled", value=False)  # from the next page on
    assert seen.evaluate(METHODS) == ["genreplay", "ewc", "l2", "joint*"]
    assert seen.evaluate("document.getElementById('filters').getClientRects().length") == 0
    assert seen.evaluate("document.querySelectorAll('button').length") == 0


@needs_chromium
def test_no_other_script_runs(folder: Path, seen: browser.Page) -> None:
    text = page(folder)
    (folder / "leaderboard.html").write_text(text.replace("</main>", "<script>document.title = 'x'</script></main>"))
    seen.open(folder / "leaderboard.html", 1600)
    assert seen.evaluate("document.title") == "Leaderboard - cpbench"
    assert any("Content Security Policy" in line for line in seen.complaints())
