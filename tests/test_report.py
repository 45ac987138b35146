"""Tables and the picture of what was forgotten, from scores and pictures made by hand."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.table import Table

from cpbench.files import read_json
from cpbench.metrics import retention
from cpbench.metrics import summary as summary_module
from cpbench.metrics.figures import NOISE_SAMPLES
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.metrics.summary import summaries
from cpbench.numbers import number
from cpbench.records import tables, terminal
from cpbench.records.grid import method_grid, retention_grid
from cpbench.records.record import Cost

CONCEPTS = ["cup", "dog"]
DINO = {(0, "cup"): 0.2, (0, "dog"): 0.3, (1, "cup"): 0.6, (2, "cup"): 0.5, (2, "dog"): 0.8}
TEXT = {(0, "cup"): 0.1, (0, "dog"): 0.2, (1, "cup"): 0.3, (2, "cup"): 0.3, (2, "dog"): 0.4}
CEILING = {"cup": 0.9, "dog": 0.7}


def rows(metric: str, cells: dict[tuple[int, str], float]) -> list[tuple]:
    """Two pictures a cell, whose mean is the cell."""
    return [
        (row, "cell", concept, "p", k, metric, mean + (0.05 if k else -0.05))
        for (row, concept), mean in cells.items()
        for k in (0, 1)
    ]


@pytest.fixture
def scores() -> pd.DataFrame:
    real = [(0, "real", c, "", 0, "dino", v) for c, v in CEILING.items()]
    oracle = [(0, "oracle", c, "p", 0, "dino", 0.95) for c in CONCEPTS]
    return pd.DataFrame(rows("dino", DINO) + rows("clip_t", TEXT) + real + oracle, columns=SCORE_COLUMNS)


@pytest.fixture
def folder(scores: pd.DataFrame, tmp_path: Path) -> Path:
    tables.write_scores(tmp_path / "scores.csv", scores)
    return tmp_path


def cells(table: Table) -> list[list[str]]:
    """The table's rows, without markup."""
    columns = [[str(c).replace("[bold]", "").replace("[/bold]", "") for c in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


# The figures: R = [[.2, .3], [.6, nan], [.5, .8]], C = [.9, .7]
WHOLE = {
    "final_average": 0.65,  # (.5 + .8) / 2
    "plasticity": 0.7,  # (.6 + .8) / 2
    "forgetting": 0.1,  # .6 - .5
    "backward_transfer": -0.1,
    "normalised_retention": 0.8 / 1.1,  # (.3 + .5) / (.7 + .4)
    "gap_closed": 0.9 / 1.1,  # (.4 + .5) / (.7 + .4)
    "share_lost": 0.25,  # 1 - .3 / .4
}


def test_noise_in_forgetting_is_of_what_is_left_beside_rows_and_pictures(scores: pd.DataFrame) -> None:
    assert summaries(scores, CONCEPTS, 2)["dino"]["forgetting_from_noise"] == 0  # every row is shifted as a whole
    at = (scores["row"] == 1) & (scores["concept"] == "cup") & (scores["metric"] == "dino")
    scores.loc[at, "value"] = [0.9, 0.3]  # and now one picture gains what the other loses
    cup = np.array([[0.9, 0.3], [0.45, 0.55]])
    error = retention.standard_error(cup)
    assert error == pytest.approx(0.175 * math.sqrt(2))  # left: +-0.175; variance 4 x 0.175^2, of two pictures
    expected = retention.forgetting_from_noise([[math.nan] * 2, [error, math.nan], [math.nan] * 2], NOISE_SAMPLES)
    found = summaries(scores, CONCEPTS, 2)["dino"]["forgetting_from_noise"]
    assert found == pytest.approx(expected, abs=1e-6)
    assert abs(found) < error / 20  # of one row there is no maximum


def test_forward_transfer_needs_the_upper_triangle(scores: pd.DataFrame) -> None:
    assert summaries(scores, CONCEPTS, 2)["dino"]["forward_transfer"] is None
    before = [(1, "unlearned", "dog", "p", k, "dino", v) for k, v in enumerate((0.3, 0.4))]
    wider = pd.concat([scores, pd.DataFrame(before, columns=SCORE_COLUMNS)])
    found = summaries(wider, CONCEPTS, 2)
    assert found["dino"]["forward_transfer"] == pytest.approx(0.05)  # of dog alone: 0.35 less 0.3
    del found["dino"]["forward_transfer"]
    plain = summaries(scores, CONCEPTS, 2)
    assert found["dino"].items() <= plain["dino"].items()


def test_intervals_are_written_for_every_figure_that_has_one(scores: pd.DataFrame) -> None:
    found = summary_module.intervals(scores, CONCEPTS, 2)
    assert set(found) == {"dino", "clip_t"} and found["clip_t"]["gap_closed"] is None
    low, high = found["dino"]["final_average"]
    assert low < 0.65 < high and found["dino"]["forgetting"] == [0.1, 0.1]  # of one concept, whose pictures fell alike


def test_summary_figures_are_those_counted_by_hand(scores: pd.DataFrame) -> None:
    found = summaries(scores, CONCEPTS, 2)
    assert {k: found["dino"][k] for k in WHOLE} == pytest.approx(WHOLE, abs=1e-6)
    text = found["clip_t"]
    assert (text["final_average"], text["forgetting"]) == pytest.approx((0.35, 0.0), abs=1e-6)
    assert text["normalised_retention"] is None and text["gap_closed"] is None  # no real pictures: no ceiling


def test_summary_in_the_middle_of_a_run(scores: pd.DataFrame) -> None:
    found = summaries(scores[scores["row"] < 2], CONCEPTS, 1)["dino"]
    expected = {"final_average": 0.6, "plasticity": 0.6, "normalised_retention": 0.4 / 0.7, "gap_closed": 0.4 / 0.7}
    assert {k: found[k] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert found["forgetting"] is None and found["backward_transfer"] is None and found["share_lost"] is None


def test_tables_show_the_matrices_and_the_figures(folder: Path) -> None:
    text, dino, summary = terminal.run_tables(folder, CONCEPTS, 2)
    assert "CLIP-T" in str(text.title) and "DINO" in str(dino.title) and "after task 2" in str(dino.title)
    assert [str(c.header) for c in dino.columns[1:]] == CONCEPTS
    assert cells(dino) == [
        ["untouched", "0.200", "0.300"],
        ["task 1", "0.600", "-"],
        ["task 2", "0.500", "0.800"],
        ["real", "0.900", "0.700"],
        ["oracle", "0.950", "0.950"],
    ]
    assert len(cells(text)) == 3  # neither reference row: there are no scores of them
    heads = [str(c.header) for c in summary.columns]
    shown = {name.replace(" ", "_"): dict(zip(heads[1:], values, strict=True)) for name, *values in cells(summary)}
    bounds = summary_module.intervals(tables.read_scores(folder / "scores.csv"), CONCEPTS, 2)["dino"]
    for name, value in WHOLE.items():
        told, _, rest = shown[name.removeprefix("normalised_")]["DINO"].partition(" \\[")
        assert float(told) == pytest.approx(value, abs=5e-4)
        low, high = map(float, rest.removesuffix("]").split(", "))
        assert [low, high] == pytest.approx(bounds[name], abs=0.0051)
    assert shown["retention"]["CLIP-T"] == "-"
    assert shown["final_average"]["CLIP-T"].startswith("0.350")


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ([0.417, 0.662], r" \[0.42, 0.66]"),
        ([-0.5, 10.5], r" \[-0.50, 10.50]"),
        ([-0.001, 0.0], r" \[0.00, 0.00]"),
        (None, ""),
    ],
)
def test_bounds_have_two_digits(bounds: list[float] | None, told: str) -> None:
    assert terminal.between(bounds) == told


def test_the_tables_of_ten_concepts_fit_a_terminal_of_80() -> None:
    """No number is broken over two lines, nor cut."""
    from rich.console import Console

    folder = Path(__file__).parents[1] / "results/reference/dreambench10/miniature/seqlora/4bf85951/order0-seed0"
    learned = read_json(folder / "run.json")["sequence"]["concepts"]
    console = Console(width=80, record=True, file=io.StringIO())
    for table in terminal.run_tables(folder, learned, len(learned)):
        console.print(table)
    text = console.export_text()
    assert "…" not in text and "final average" in text
    for line in text.splitlines():
        if line.strip().startswith(("untouched", "task ")):
            assert all(len(cell.lstrip("-").partition(".")[2]) in (0, 3) for cell in line.split()[1:]), line


def test_negative_numbers_fit_a_terminal_of_80_as_well(monkeypatch: pytest.MonkeyPatch, scores: pd.DataFrame) -> None:
    from rich.console import Console

    names = [f"concept{j}" for j in range(10)]
    matrix = pd.DataFrame(-0.3104, index=range(11), columns=names)
    monkeypatch.setattr(terminal, "between", lambda _: r" \[-0.41, -0.20]")
    many = [scores.assign(metric=metric, value=-0.31) for metric in ("dino", "clip_i", "clip_t")]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal.matrix_table("DINO", matrix))
    console.print(terminal.summary_table(pd.concat(many), CONCEPTS, 2))
    text = console.export_text()
    assert "…" not in text and text.count("-0.310") == 110 + 3 * 2
    assert text.count("[-0.41, -0.20]") == 3 * 9


def test_costs_of_each_task_are_shown() -> None:
    costs = {
        1: {
            "learning_seconds": 2.25,
            "generation_seconds": 1.0,
            "judging_seconds": 0.5,
            "learning_evaluations": 40,
            "generation_evaluations": 8,
            "pictures_generated": 2,
            "pictures_reused": 3,
            "trainable_parameters": 77,
            "state_bytes": {"adapter": 4000, "token": 1000},
            "peak_memory_bytes": 123_400_000,
        },
        0: {"generation_seconds": 4.0, "judging_seconds": 0.1, "generation_evaluations": 16, "pictures_generated": 4},
    }
    costs = {t: Cost.model_validate(cost) for t, cost in costs.items()}
    shown = cells(terminal.cost_table(costs))
    assert [row[0] for row in shown] == ["0", "1"]
    heads = [str(c.header) for c in terminal.cost_table(costs).columns]
    first, second = (dict(zip(heads, row, strict=True)) for row in shown)
    assert (first["learn s"], first["generate s"], first["generated"]) == ("0.0", "4.0", "4")
    assert second["evaluations"] == "48"
    assert (second["generated"], second["reused"], second["trained"]) == ("2", "3", "77")
    assert (second["state kB"], second["peak MB"]) == ("5", "123")


# The grid: cells of 96 pixels, 4 apart, right of names 118 wide and below heads 34 high
CELL, GAP, LEFT, TOP = 96, 4, 118, 34
FRAME = (210, 40, 40)


def colour(row: int, concept: int) -> tuple[int, int, int]:
    return 20 + 30 * row, 200 - 60 * concept, 120


def picture(folder: Path, t: int, name: str, shade: tuple[int, int, int], file: str = "00-0.png") -> None:
    path = folder / f"task-{t:02d}" / "pictures" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), shade).save(path)


@pytest.fixture
def grid(tmp_path: Path) -> np.ndarray:
    """The picture of a run of three tasks, every picture in a colour of its own."""
    names = ["cup", "dog", "vase"]
    for j, name in enumerate(names):
        picture(tmp_path, 0, name, colour(5, j), "real.png")
    for t in range(4):
        for j, name in enumerate(names[: t or 3]):
            picture(tmp_path, t, name, colour(t, j))
    picture(tmp_path, 1, "dog", (0, 0, 0))  # of a concept not learned yet: never shown
    retention_grid(tmp_path, names, tmp_path / "grid.png")
    return np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))


def inside(grid: np.ndarray, row: int, column: int) -> set[tuple[int, ...]]:
    """The colours of a cell, without the outermost pixels, which a frame may cover."""
    y, x = TOP + row * (CELL + GAP), LEFT + column * (CELL + GAP)
    part = grid[y + 3 : y + CELL - 3, x + 3 : x + CELL - 3].reshape(-1, 3)
    return {tuple(int(v) for v in p) for p in np.unique(part, axis=0)}


def test_grid_has_a_row_a_concept_and_a_column_a_task(grid: np.ndarray) -> None:
    assert grid.shape == (TOP + 3 * (CELL + GAP), LEFT + (3 + 2) * (CELL + GAP), 3)
    for j in range(3):
        assert inside(grid, j, 0) == {colour(5, j)}  # the real picture
        assert inside(grid, j, 1) == {colour(0, j)}  # the untouched model's
        for t in range(1, 4):
            expected = colour(t, j) if t >= j + 1 else (255, 255, 255)
            assert inside(grid, j, t + 1) == {expected}, (j, t)


def test_frames_are_where_a_concept_was_learned_and_nowhere_else(grid: np.ndarray) -> None:
    ys, xs = np.nonzero((grid == FRAME).all(-1))
    found = {((y + 2 - TOP) // (CELL + GAP), (x + 2 - LEFT) // (CELL + GAP)) for y, x in zip(ys, xs, strict=True)}
    assert found == {(0, 2), (1, 3), (2, 4)}
    for row, column in found:
        y, x = TOP + row * (CELL + GAP), LEFT + column * (CELL + GAP)
        for edge in (grid[y - 1, x : x + CELL], grid[y + CELL, x : x + CELL]):
            assert (edge == FRAME).all()
        for edge in (grid[y : y + CELL, x - 1], grid[y : y + CELL, x + CELL]):
            assert (edge == FRAME).all()


def test_grid_of_a_run_cut_short_has_the_same_size_and_empty_cells(tmp_path: Path) -> None:
    picture(tmp_path, 0, CONCEPTS[0], (0, 0, 0), "real.png")
    retention_grid(tmp_path, CONCEPTS, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    assert grid.shape == (TOP + 2 * (CELL + GAP), LEFT + 4 * (CELL + GAP), 3)
    assert inside(grid, 0, 0) == {(0, 0, 0)}
    assert all(inside(grid, j, k) == {(255, 255, 255)} for j in (0, 1) for k in (1, 2, 3))


def test_rows_that_were_left_out_have_no_column(tmp_path: Path) -> None:
    """Three tasks, of which the second was not drawn: not even the frame of what was learned there."""
    names = ["cup", "dog", "vase"]
    for j, name in enumerate(names):
        picture(tmp_path, 0, name, colour(5, j), "real.png")
        for t in (0, 1, 3):
            if t == 0 or j < t:
                picture(tmp_path, t, name, colour(t, j))
    retention_grid(tmp_path, names, tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    assert grid.shape == (TOP + 3 * (CELL + GAP), LEFT + 4 * (CELL + GAP), 3)  # real, untouched, task 1, task 3
    assert [inside(grid, 0, k) for k in range(4)] == [{colour(t, 0)} for t in (5, 0, 1, 3)]
    ys, xs = np.nonzero((grid == FRAME).all(-1))
    assert {((y + 2 - TOP) // 100, (x + 2 - LEFT) // 100) for y, x in zip(ys, xs, strict=True)} == {(0, 2), (2, 3)}


def test_the_grid_of_methods_has_a_row_a_run_and_the_tasks_from_the_concepts_own_on(tmp_path: Path) -> None:
    names = ["cup", "dog", "vase"]
    for j, run in enumerate(("one", "two")):
        picture(tmp_path / run, 0, "dog", colour(5, j), "real.png")
        for t in (0, 1, 2, 3):
            picture(tmp_path / run, t, "dog", colour(t, j))
    runs = [(run, tmp_path / run) for run in ("one", "two", "none")]
    method_grid(runs, names, "dog", tmp_path / "methods.png")
    grid = np.asarray(Image.open(tmp_path / "methods.png").convert("RGB"))
    assert grid.shape == (TOP + 3 * (CELL + GAP), LEFT + 4 * (CELL + GAP), 3)  # real, untouched, task 2, task 3
    for j in range(2):
        assert [inside(grid, j, k) for k in range(4)] == [{colour(t, j)} for t in (5, 0, 2, 3)]
    assert all(inside(grid, 2, k) == {(255, 255, 255)} for k in range(4))
    ys, xs = np.nonzero((grid == FRAME).all(-1))
    assert {((y + 2 - TOP) // 100, (x + 2 - LEFT) // 100) for y, x in zip(ys, xs, strict=True)} == {(0, 2), (1, 2)}


def test_long_names_get_the_room_they_need(tmp_path: Path) -> None:
    name = "raretoken adapter=lora lora_learning_rate=0.002"
    picture(tmp_path, 0, "dog", (9, 9, 9), "real.png")
    method_grid([(name, tmp_path)], ["dog"], "dog", tmp_path / "methods.png")
    grid = np.asarray(Image.open(tmp_path / "methods.png").convert("RGB"))
    left = grid.shape[1] - 3 * (CELL + GAP)
    assert left > LEFT and (grid[TOP : TOP + CELL, left - 6 : left] == 255).all()  # the words end before the pictures
    assert (grid[TOP : TOP + CELL, left : left + CELL] == 9).all()


@pytest.mark.parametrize(("value", "shown"), [(0.12345, "0.123"), (-0.5, "-0.500"), (math.nan, "-"), (0.0, "0.000")])
def test_numbers_have_three_digits_and_undefined_is_not_zero(value: float, shown: str) -> None:
    assert number(value) == shown
