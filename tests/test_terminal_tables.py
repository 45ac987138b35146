"""Every table of the program at 60, 80 and 120 columns: no cell is cut, and the columns that tell the rows apart are there."""

import ast
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from rich.text import Text

from cpbench.cli import describing, info
from cpbench.cli.doctor import Finding
from cpbench.cli.options import cli
from cpbench.concepts import sequences
from cpbench.finished import classifier_matrix
from cpbench.fitted_table import LONGEST_WORD, FittedTable, compact, unwrapped
from cpbench.leaderboard import compared_methods, entries
from cpbench.leaderboard.groups import group_runs
from cpbench.leaderboard.text import terminal_tables
from cpbench.records import runs, terminal
from cpbench.records.reading import read
from cpbench.records.record import Cost
from cpbench.registry import built_in_methods
from cpbench.report import paired_runs
from cpbench.running import progress, sweep
from cpbench.running.engines import Job, Outcome, SweepPaths

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "results" / "reference"
TEN = next((REFERENCE / "dreambench10" / "miniature" / "seqlora").glob("*/order0-seed0"))
OTHER = next((REFERENCE / "dreambench10" / "miniature" / "ewc").glob("*/order0-seed0"))
WIDTHS = (60, 80, 120)
ELSEWHERE = {"cpbench/fitted_table.py"}  # what tables are made of


def text_of(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else Text.from_markup(str(cell)).plain


def printed(table: object, width: int) -> str:
    console = Console(width=width, file=StringIO(), highlight=False)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


# Every table


def job(k: int) -> Job:
    return Job(f"dreambench10-miniature-dcscore-variant_ewc_dc-order{k}-seed1{k}", {"method": "dcscore"})


def sweep_table(folder: Path) -> FittedTable:
    """One run finished, one at work, one failed, one waiting."""
    jobs, paths, futures = [job(k) for k in range(4)], SweepPaths(folder), {}
    (folder / "sweep").mkdir(exist_ok=True)
    for k, one in enumerate(jobs):
        futures[one.name] = Future()
        if k in (0, 2):
            futures[one.name].set_result(Outcome(0 if k == 0 else 1, 321.0))
    progress = {"stage": "task 12 of 50: generating colorful_sneaker", "share": 0.4, "left": 5000.0}
    paths.file(jobs[1], "progress").write_text(json.dumps(progress))
    return sweep.table(jobs, futures, paths)


def outcome_table(folder: Path) -> FittedTable:
    settings = {"method": "seqlora", "sequence": "quick3"}
    jobs = [Job(job(k).name, settings) for k in range(3)]
    codes = (0, 1, None)
    return sweep.outcome_table(jobs, {j.name: Outcome(c, 50.0) for j, c in zip(jobs, codes, strict=True)}, folder)


def dry_run_table(folder: Path) -> FittedTable:
    first, second = (sweep.JobEstimate(job(k), k == 1, [12345, None][k], 987654, 3600.0) for k in range(2))
    return sweep.dry_run_table([first, second])


def leaderboard(folder: Path) -> list[FittedTable]:
    found = entries.read_runs(REFERENCE / "dreambench10" / "miniature")
    return terminal_tables(group_runs(found), found[:2], 120)


def classifier_tables(folder: Path) -> list[FittedTable]:
    names = read(TEN).sequence.concepts
    matrix = pd.DataFrame(np.tril(np.full((11, 10), 0.123), -1), index=range(11), columns=names)
    return classifier_matrix.tables(matrix)


def costs(folder: Path) -> FittedTable:
    figures = dict.fromkeys(("learning_seconds", "generation_seconds", "judging_seconds"), 12345.6)
    counts = dict.fromkeys(("learning_evaluations", "generation_evaluations", "pictures_generated"), 123456)
    more = {"trainable_parameters": 865_000_000, "state_bytes": {"lora": 10**9}, "peak_memory_bytes": 80 * 10**9}
    return terminal.cost_table({t: Cost(**figures, **counts, **more) for t in range(3)})


def comparison(folder: Path) -> FittedTable:
    compared, row, comparisons, _ = paired_runs.compare_runs(TEN, OTHER)
    return paired_runs.comparison_table(compared, row, comparisons)


def compared_by_method(folder: Path) -> list[FittedTable]:
    groups = compared_methods.groups_of(REFERENCE, "dreambench10", None)
    compared = compared_methods.compare_methods(groups, "dcscore variant=ewc", "textualinversion")
    return [compared_methods.method_table(*entry, "dcscore variant=ewc", "textualinversion") for entry in compared]


def compared_figures(folder: Path) -> FittedTable:
    compared, row, _, _ = paired_runs.compare_runs(TEN, OTHER)
    return paired_runs.figure_table(compared, row)


def composition(folder: Path) -> FittedTable:
    means = dict.fromkeys(("dino", "clip_i", "clip_t", "both"), 0.123)
    return terminal.composition_table({"0": means, "10": means})


FINDINGS = [
    Finding("judge clip-vit-l-14", "not in the hub's cache", False, "downloaded on first use, or pass --clip FILE.safetensors"),
    Finding("photographs of DreamBooth", "all 30 subjects in /home/somebody/a/long/path/to/data/dreambooth/dataset"),
]  # fmt: skip

# function that makes a table: tables of it
TABLES: dict[str, Callable[[Path], FittedTable | list[FittedTable]]] = {
    "cpbench/records/terminal.py:matrix_table": lambda _: terminal.run_tables(TEN, read(TEN).sequence.concepts, 10),
    "cpbench/records/terminal.py:summary_table": lambda _: terminal.run_tables(TEN, read(TEN).sequence.concepts, 10)[
        -1
    ],
    "cpbench/records/terminal.py:composition_table": composition,
    "cpbench/records/terminal.py:cost_table": costs,
    "cpbench/records/runs.py:runs_table": lambda _: runs.runs_table(runs.runs_in(REFERENCE)),
    "cpbench/finished/classifier_matrix.py:tables": classifier_tables,
    "cpbench/report/paired_runs.py:comparison_table": comparison,
    "cpbench/leaderboard/compared_methods.py:method_table": compared_by_method,
    "cpbench/report/paired_runs.py:figure_table": compared_figures,
    "cpbench/leaderboard/text.py:terminal_tables": leaderboard,
    "cpbench/running/sweep.py:table": sweep_table,
    "cpbench/running/sweep.py:outcome_table": outcome_table,
    "cpbench/running/sweep.py:dry_run_table": dry_run_table,
    "cpbench/cli/describing.py:options_table": lambda _: [
        describing.options_table(describing.method_facts(name)["options"])
        for name in built_in_methods()
        if name != "base"  # it has none
    ],
    "cpbench/cli/describing.py:concepts_table": lambda _: [
        describing.concepts_table(sequences.load(name).concepts) for name in sequences.names()
    ],
    "cpbench/cli/info.py:names_table": lambda _: [
        info.names_table(info._known(noun)) for noun in ("methods", "sequences", "backbones")
    ],
    "cpbench/cli/info.py:findings_table": lambda _: info.findings_table(FINDINGS),
}


def makers() -> Iterator[str]:
    """Every function of cpbench that makes a table."""
    for file in sorted((ROOT / "cpbench").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and name not in ELSEWHERE:
                calls = {ast.unparse(n.func).rpartition(".")[2] for n in ast.walk(node) if isinstance(n, ast.Call)}
                assert "Table" not in calls, f"{name}:{node.name} makes a table that may cut cells: use FittedTable"
                if calls & {"FittedTable", "compact"}:
                    yield f"{name}:{node.name}"


def test_every_table_of_the_program_is_here() -> None:
    assert set(makers()) == set(TABLES)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[FittedTable]]:
    folder = tmp_path_factory.mktemp("sweep")
    made = {name: make(folder) for name, make in TABLES.items()}
    return {name: table if isinstance(table, list) else [table] for name, table in made.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", TABLES)
def test_no_cell_is_cut_and_key_columns_are_whole(tables: dict, name: str, width: int) -> None:
    for table in tables[name]:
        assert table.rows
        text = printed(table, width)
        lines = text.splitlines()
        assert max(map(len, lines)) <= width and "…" not in text
        left_out = re.search(r"not shown at this width: (.*)", " ".join(text.split()))
        heads = [" ".join(text_of(column.header).split()) for column in table.columns]
        kept = [k for k, head in enumerate(heads) if not left_out or head not in left_out[1].split("; ")]
        assert 0 in kept or heads[0] == "rank"
        if any("method" in head for head in heads):
            assert {"method", "key", "concept", "run"} & {heads[k] for k in kept}
        words = {word for k in kept for cell in table.columns[k].cells for word in text_of(cell).split()}
        assert [word for word in words if len(word) <= LONGEST_WORD and word not in text] == []
        keys = [text_of(cell) for cell in table.columns[0].cells if table.columns[0].no_wrap]
        assert [key for key in keys if not any(key in line for line in lines)] == []


def test_the_leaderboard_has_its_methods_at_every_width(tables: dict) -> None:
    (board, *_) = tables["cpbench/leaderboard/text.py:terminal_tables"]
    for width in WIDTHS:
        text = printed(board, width)
        for method in ("seqlora", "textualinversion", "dcscore", "classdiffusion"):
            assert re.search(rf"^ *\d+ +{method}\b.* \d\.\d\d\d", text, re.MULTILINE), (method, width)
    assert "not shown at this width" in printed(board, 60) and "not shown" not in printed(board, 120)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_progress_of_a_run_is_whole(width: int) -> None:
    console = Console(width=width, file=StringIO(), force_terminal=True, color_system=None)
    live = progress.bar(console)
    live.add_task("task 3 of 10: generating colorful_sneaker", total=100, completed=42)
    text = printed(live.get_renderable(), width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert {"task", "generating", "colorful_sneaker", "42", "%", "0:00:00", "left", "-:--:--"} <= set(text.split())


# How a table adapts


def words_table(**options: object) -> FittedTable:
    table = compact("a title", **options)
    for head in ("name", "one", "two"):
        table.add_column(head, no_wrap=True)
    table.add_row("a" * 20, "b" * 20, "c" * 20)
    return table


def test_columns_that_do_not_fit_are_left_out_and_named() -> None:
    text = printed(words_table(drop=("one", "two")), 50)
    assert "a" * 20 in text and "c" * 20 in text and "bb" not in text
    assert text.rstrip().endswith("not shown at this width: one")
    text = printed(words_table(drop=("one", "two")), 40)
    assert "a" * 20 in text and "not shown at this width: one; two" in " ".join(text.split())
    assert "not shown" not in printed(words_table(drop=("one", "two")), 70)


def test_or_continued_below_with_the_first_column_again() -> None:
    text = printed(words_table(split=True), 50)
    assert text.count("a" * 20) == 2 and "b" * 20 in text and "c" * 20 in text and text.count("a title") == 1


def test_or_each_row_becomes_lines() -> None:
    lines = [line.rstrip() for line in printed(words_table(), 50).splitlines()]
    assert lines == ["a title", "a" * 20, f"  one  {'b' * 20}", f"  two  {'c' * 20}"]


def test_elsewhere_a_row_is_one_line_and_whole() -> None:
    table = FittedTable(box=None, show_header=False, drop=("",))
    table.add_column()
    table.add_column()
    table.add_row("name", Text("words [of] " * 60))
    (line,) = unwrapped(table)
    assert line.split() == ["name", *(["words", "[of]"] * 60)]


# Help and lists


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_summary_of_a_command_is_a_whole_sentence(width: int) -> None:
    import click

    with click.Context(cli, info_name="cpbench", terminal_width=width) as context:
        text = cli.get_help(context)
    assert "..." not in text.partition("Commands:")[2]
    joined = " ".join(text.partition("Commands:")[2].split())
    for name, command in cli.commands.items():
        sentence = " ".join((command.help or "").partition("\n\n")[0].split()).split(". ")[0].rstrip(".")
        assert f"{name} {sentence}." in joined, name


@pytest.mark.parametrize("noun", ["methods", "sequences", "backbones"])
def test_a_piped_list_is_one_line_per_name(call: Callable, noun: str) -> None:
    code, shown, _ = call("list", noun)
    assert code == 0 and [line.split()[0] for line in shown.splitlines()] == list(info._known(noun))
    for line, description in zip(shown.splitlines(), info._known(noun).values(), strict=True):
        assert line.endswith(description.rstrip())


# JSON


def snake_case(value: object, free: bool = False) -> None:
    """Keys are names in snake_case; below "matrices", "matrix", "prompts" and "settings" they are names of things."""
    if isinstance(value, dict):
        for key, inner in value.items():
            assert free or re.fullmatch(r"[a-z][a-z0-9_]*(_[kM]B)?", key), key
            snake_case(inner, free or key in ("matrices", "matrix", "prompts", "settings", "comparable"))
    elif isinstance(value, list):
        for inner in value:
            snake_case(inner, free)


@pytest.mark.parametrize(
    "words",
    [
        ("doctor", "--data", "nowhere"),
        ("list", "methods"),
        ("list", "sequences"),
        ("list", "backbones"),
        ("list", "runs", "--output", REFERENCE),
        ("describe", "dcscore"),
        ("describe", "dreambench10"),
        ("describe", "sd15"),
        ("compare", TEN, OTHER),
        ("sweep", "--grid", "bench-quick", "--dry-run"),
        ("leaderboard", REFERENCE / "quick3", "--output", "board"),
    ],
    ids=lambda words: f"{words[0]}-{words[1]}" if isinstance(words, tuple) else None,
)
def test_what_a_table_has_can_be_read_as_json(call: Callable, words: tuple[object, ...]) -> None:
    code, shown, said = call(*words, "--json")
    assert code == 0, said
    value = json.loads(shown)
    assert value
    snake_case(value)


def test_the_json_says_what_the_table_says(call: Callable, tmp_path: Path) -> None:
    listed = json.loads(call("list", "runs", "--output", REFERENCE / "quick3", "--json")[1])
    folder = next(run for run in listed if run["method"] == "seqlora")
    record = read(Path(folder["folder"]))
    assert folder["dino_final_average"] == record.figures["dino"]["final_average"]
    options = json.loads(call("describe", "ewc", "--json")[1])["options"]
    assert next(o for o in options if o["key"] == "steps")["default"] > 0
    _, shown, said = call("leaderboard", REFERENCE / "quick3", "--output", "board", "--json")
    assert json.loads(shown) == json.loads((tmp_path / "board" / "leaderboard.json").read_text())
    assert "wrote " in said and "rank" not in said


def test_json_of_a_sweep_is_for_its_dry_run(call: Callable) -> None:
    code, shown, line = call("sweep", "--grid", "bench-quick", "--json")
    assert (code, shown) == (2, "") and "--dry-run" in line and "`cpbench list runs --json`" in line
