"""The leaderboard from run records written by hand."""

import io
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from cpbench.errors import UserError
from cpbench.files import short_hash
from cpbench.leaderboard import board, reference
from cpbench.leaderboard import figures as leaderboard_figures
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.metrics.scores import SCORES as METRICS
from cpbench.metrics.summary import summaries
from cpbench.records import tables
from cpbench.records.measures_table import COLUMNS
from cpbench.records.record import SCHEMA
from cpbench.version import SCORES

FIGURES = (
    "final_average",
    "plasticity",
    "forgetting",
    "backward_transfer",
    "normalised_retention",
    "gap_closed",
    "share_lost",
)


ROOT = Path(__file__).resolve().parents[1]
CODE = {"scores": SCORES, "versions": {}}
FILES = {f"leaderboard.{kind}" for kind in ("md", "html", "csv", "json")}


def summary(retention: float | None, **others: float | None) -> dict[str, dict[str, float | None]]:
    dino = dict.fromkeys(FIGURES, 0.5) | {"normalised_retention": retention} | others
    text = dict.fromkeys(FIGURES, 0.25) | {"normalised_retention": None, "gap_closed": None}  # text has no ceiling
    return {"dino": dino, "clip_i": dict.fromkeys(FIGURES, 0.75), "clip_t": text}


def record(method: str, retention: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    """A run.json as the runner writes it, as far as the leaderboard reads it. Its hash is that of its facts."""
    plain = {
        "schema": SCHEMA,
        "status": "finished",
        "config": {"backbone": "miniature", "seed": 0, "order": 0},
        "facts": {"method": method} | CODE,
        "sequence": {"name": "seq", "version": 1, "concepts": ["a", "b"]},
        "pictures": "drawn",
        "judges": judges("dino", "clip"),
        "sees_earlier_data": False,
        "measures": {},
        "costs": {
            "0": {"generation_seconds": 9.0},
            "1": cost(2000, 1.5),
            "2": cost(3000, 2.5),
        },
        "figures": summary(retention),
    }
    made = plain | changes
    return {"hash": short_hash(made["facts"])} | made


def variant(method: str, code: str) -> dict[str, Any]:
    """Changes of a record: of a run of that method by other code, which has another hash."""
    return {"facts": {"method": method, "source": code} | CODE}


def judges(dino: str, clip: str) -> dict[str, dict[str, str]]:
    return {k: {"model": v, "weights_sha256": f"{v:f<64}"} for k, v in (("dino", dino), ("clip", clip))}


def cost(carried: int, seconds: float) -> dict[str, Any]:
    return {
        "state_bytes": {"adapter": carried - 500, "token": 500},
        "state_parameters": carried // 4,
        "trainable_parameters": carried // 4,
        "learning_evaluations": 40,
        "learning_seconds": seconds,
    }


def write(folder: Path, *records: dict[str, Any] | str) -> None:
    """Runs 0, 1, ...: the records, and beside each a scores.csv that its summary can be computed from."""
    for n, content in enumerate(records):
        path = folder / f"run-{n}" / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        if not isinstance(content, str):
            tables.write_scores(path.with_name("scores.csv"), scores_with(content))


def scores_with(made: dict[str, Any]) -> pd.DataFrame:
    """One picture a cell. By DINO with the final average, retention and forgetting of the record's summary; NaN for None."""
    nan = float("nan")
    found = made["figures"] if isinstance(made["figures"], dict) else {}
    metrics = {m: {k: v if isinstance(v, float) else nan for k, v in found.get(m, {}).items()} for m in METRICS}
    names = (made["sequence"] or {}).get("concepts", [])[:9]
    lines = []
    for metric, figures in metrics.items():
        final, lost = (figures.get(k, 0.0) for k in ("final_average", "forgetting"))
        if not isinstance(final, float | int) or abs(final) > 1:
            continue
        lost = min(lost, 1 - final)
        kept, gap = figures.get("normalised_retention", nan), 0.05  # from the end to the ceiling
        if metric != "dino":
            lost, kept = 0.0, 0.0
        floor = final - kept * gap / (1 - kept) if metric == "dino" and kept == kept else final
        if metric == "dino" and kept == kept:
            lines += [(0, "real", c, "real", 0, metric, final + gap) for c in names]
        for t in range(len(names) + 1):
            for j, c in enumerate(names, 1):
                if t in (0, *range(j, len(names) + 1)):
                    value = floor if t == 0 else final if t == len(names) else final + lost
                    lines.append((t, "cell", c, "p", 0, metric, value))
    return pd.DataFrame(lines, columns=SCORE_COLUMNS)


def seed(n: int, order: int = 0) -> dict[str, Any]:
    return {"config": {"backbone": "miniature", "seed": n, "order": order}}


def made(folder: Path) -> tuple[pd.DataFrame, str]:
    """The CSV and the Markdown that `write` makes of the runs in `folder`."""
    board.write(folder, folder / "out")
    csv = folder / "out" / "leaderboard.csv"
    return pd.read_csv(csv, dtype={"hash": str}), csv.with_suffix(".md").read_text()


def markdown_tables(text: str) -> dict[str, list[dict[str, str]]]:
    """By heading, the rows of each pipe table. AssertionError if a row has more or fewer cells than the head."""
    found: dict[str, list[dict[str, str]]] = {}
    heading, head = "", None
    for line in [*text.splitlines(), ""]:
        if line.startswith("## "):
            heading = line[3:]
        if not line.startswith("|"):
            head = None
            continue
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if head is None:
            head, found[heading] = cells, []
        elif all(re.fullmatch(":?-+:?", c) for c in cells):
            assert len(cells) == len(head)
        else:
            found[heading].append(dict(zip(head, cells, strict=True)))
    return found


def test_seeds_and_orders_of_equal_settings_are_averaged(tmp_path: Path) -> None:
    a, b, c = (record("lora", **seed(*s)) for s in ((0, 0), (1, 0), (0, 1)))
    a["figures"], b["figures"], c["figures"] = (
        summary(r, final_average=f, forgetting=g) for r, f, g in ((0.2, 0.60, 0.1), (0.4, 0.66, 0.2), (0.9, 0.75, None))
    )
    b["costs"] = {"1": cost(5000, 6.0)}
    write(tmp_path, a, b, c)
    csv, text = made(tmp_path)
    (row,) = csv.to_dict("records")
    assert (row["sequence"], row["method"], row["hash"], row["runs"]) == ("seq v1", "lora", a["hash"], 3)
    assert row["dino_normalised_retention"] == pytest.approx(0.5, abs=2e-5)  # of scores with six places
    assert row["dino_final_average"] == 0.67
    assert row["dino_forgetting"] == 0.15  # of the two runs where it is defined
    assert pd.isna(row["clip_t_normalised_retention"]) and row["clip_t_final_average"] == 0.25
    assert row["carried_kB"] == pytest.approx((3 + 5 + 3) / 3, abs=1e-6)  # of the last state, the largest
    assert row["trainable_parameters"] == pytest.approx((750 + 1250 + 750) / 3, abs=1e-6)
    assert row["learning_seconds"] == pytest.approx((4 + 6 + 4) / 3, abs=1e-6)
    assert row["learning_unet_evaluations"] == pytest.approx((80 + 40 + 80) / 3, abs=1e-6)
    assert "seed" not in csv and "order" not in csv
    ((shown,),) = markdown_tables(text).values()
    assert shown["method"] == "lora" and shown["runs"] == "3" and shown["settings"] == a["hash"]
    assert shown["DINO final"] == "0.670 ± 0.075" and shown["DINO over tasks"].startswith("0.667 ± ")
    assert (shown["forgetting"], shown["retention"]) == ("0.150 ± 0.071", "0.500 ± 0.361")
    assert (shown["CLIP-I final"], shown["CLIP-T final"]) == ("0.750 ± 0.000", "0.250 ± 0.000")
    assert (shown["state size, MB"], shown["state size, M params"]) == ("0.00367", "0.000917")
    assert (shown["learning, min"], shown["UNet evaluations"]) == ("0.0778", "66.7")


def test_other_settings_have_rows_of_their_own(tmp_path: Path) -> None:
    runs = [record("lora"), record("lora", **variant("lora", "x")), record("lora", **variant("lora", "y"))]
    write(tmp_path, *runs)
    csv, _ = made(tmp_path)
    assert sorted(csv["hash"]) == sorted(run["hash"] for run in runs) and list(csv["runs"]) == [1, 1, 1]


def test_settings_that_are_not_the_usual_ones_are_named(tmp_path: Path) -> None:
    other = {"changed": {"adapter": "lora", "use_class_noun": True, "steps": 5}, **variant("lora", "x")}
    worse = {"figures": summary(0.1, final_average=0.4)}
    write(tmp_path, record("lora", 0.2, changed={}), record("lora", **(worse | other)))
    csv, text = made(tmp_path)
    assert list(csv["method"]) == ["lora", "lora adapter=lora use_class_noun=true steps=5"]
    assert "| lora adapter=lora use_class_noun=true steps=5 | 1 |" in text


def drawings(run: Path, *concepts: str) -> None:
    for concept in concepts:
        folder = run / "task-00" / "pictures" / concept
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(folder / "real.png")


def test_pictures_of_one_concept_are_shown_where_there_are_any(tmp_path: Path) -> None:
    write(tmp_path, record("second", 0.1), record("bare", 0.3), record("first", 0.9), record("again", 0.9, **seed(1)))
    for n in (0, 2):
        drawings(tmp_path / f"run-{n}", "a", "b")
    _, text = made(tmp_path)
    assert "(methods-seq-v1-miniature-drawn-a.png)" in text
    grid = Image.open(tmp_path / "out" / "methods-seq-v1-miniature-drawn-a.png")
    assert grid.height == 34 + 2 * 100  # of the runs that have their pictures
    board.write(tmp_path, tmp_path / "out", concept="b")
    assert "(methods-seq-v1-miniature-drawn-b.png)" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_an_unknown_concept_gets_the_near_match(tmp_path: Path) -> None:
    names = {"sequence": {"name": "seq", "version": 1, "concepts": ["backpack", "dog"]}}
    write(tmp_path, record("lora", **names))
    with pytest.raises(UserError, match="'bakpack': did you mean 'backpack'"):
        board.write(tmp_path, tmp_path / "out", concept="bakpack")


def test_what_is_kept_for_reference_are_tables_and_grids(tmp_path: Path) -> None:
    runs, kept = tmp_path / "runs", tmp_path / "reference"
    for sequence in ("seq", "other"):
        of = {"sequence": {"name": sequence, "version": 1, "concepts": ["a", "b"]}}
        write(runs / sequence, record("lora", **of), record("base", status="running"))
        (runs / sequence / "run-0" / "measures.csv").write_text("row,measure,concept,value\n2,identified,a,0.5\n")
        names = ("matrix-dino.csv", "report.html")
        names += ("task-01/state.safetensors", "task-01/pictures/0.png")
        for name in names:
            path = runs / sequence / "run-0" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        Image.new("RGB", (30, 20), "red").save(runs / sequence / "run-0" / "grid.png")
    write(kept / "third", record("l2"))
    assert reference.keep(runs, kept) == 2
    found = {f.relative_to(kept).as_posix() for f in kept.rglob("*") if f.is_file()}
    files = ("run.json", "scores.csv.gz", "measures.csv.gz", "grid.webp")
    assert found == {f"{s}/run-0/{n}" for s in ("seq", "other") for n in files} | FILES | {
        f"third/run-0/{name}" for name in ("run.json", "scores.csv")
    }
    assert Image.open(kept / "seq" / "run-0" / "grid.webp").size == (30, 20)
    for name in ("scores.csv", "measures.csv"):
        assert tables.table_bytes(kept / "seq" / "run-0" / name) == (runs / "seq" / "run-0" / name).read_bytes()
    first = (kept / "seq" / "run-0" / "scores.csv.gz").read_bytes()
    assert reference.keep(runs, kept) == 2 and (kept / "seq" / "run-0" / "scores.csv.gz").read_bytes() == first


def test_a_large_grid_is_kept_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), np.uint8)
    kept = reference.thumbnail(Image.fromarray(noise))
    assert len(kept) <= reference.MOST_THUMBNAIL
    width, height = Image.open(io.BytesIO(kept)).size
    assert 50 < width < 1200 and width / height == pytest.approx(4 / 3, rel=0.02)


def test_a_compressed_table_is_the_table(tmp_path: Path) -> None:
    """And one that is cut, or no gzip at all, is damaged as any other."""
    for name in ("plain", "kept"):
        make_run(tmp_path / name, "ewc", 0.5)
    for name in ("scores.csv", "measures.csv"):
        tables.keep_table(tmp_path / "kept" / name, tmp_path / "kept")
        (tmp_path / "kept" / name).unlink()
        assert tables.table_hash(tmp_path / "kept" / name) == tables.table_hash(tmp_path / "plain" / name)
    (group,) = groups_in(tmp_path)  # one run, and its copy
    assert len(group["rows"]) == 1 and len(group["rows"][0]["runs"]) == 1
    shutil.rmtree(tmp_path / "plain")
    (alone,) = groups_in(tmp_path)
    assert alone["rows"][0]["mean"] == group["rows"][0]["mean"]
    file = tmp_path / "kept" / "scores.csv.gz"
    whole = file.read_bytes()
    for broken in (whole[:-9], whole[: len(whole) // 2], b"no gzip", b"", whole[:40] + b"\0" + whole[41:]):
        file.write_bytes(broken)
        assert tables.read_scores(tmp_path / "kept" / "scores.csv") is None


def test_a_kept_run_gives_way_to_another_of_its_name_alone(tmp_path: Path) -> None:
    runs, kept = tmp_path / "runs", tmp_path / "reference"
    version = {"name": "seq", "version": 2, "concepts": ["a"]}
    write(runs / "new", record("lora", sequence=version, **variant("lora", "x")))
    write(kept / "same", record("lora", sequence=version), record("lora", sequence=version, **seed(1)))
    write(kept / "old", record("lora"))  # over version 1
    write(kept / "third", record("lora", sequence=version | {"name": "third"}))
    assert reference.keep(runs, kept) == 1
    found = {f.parent.relative_to(kept).as_posix() for f in kept.glob("**/run.json")}
    assert found == {"new/run-0", "same/run-1", "old/run-0", "third/run-0"}


def test_best_final_comes_first_and_undefined_last(tmp_path: Path) -> None:
    rows = {"worst": -0.5, "undefined": None, "best": 0.9, "second": 0.1}
    write(tmp_path, *(record(name, **final(value)) for name, value in rows.items()))
    csv, text = made(tmp_path)
    expected = ["best", "second", "worst", "undefined"]
    assert list(csv["method"]) == expected
    ((*shown,),) = markdown_tables(text).values()
    assert [r["method"] for r in shown] == expected
    assert [r["DINO final"].split(" ")[0] for r in shown] == ["0.900", "0.100", "-0.500", "-"]
    assert [r["rank"] for r in shown] == ["-"] * 4  # of two concepts there are no ranks


def test_each_sequence_backbone_and_kind_of_pictures_has_a_table(tmp_path: Path) -> None:
    other = {"sequence": {"name": "seq", "version": 2, "concepts": ["a"]}}
    elsewhere = {"config": {"backbone": "/models/sd15", "seed": 0, "order": 0}, "pictures": "photographs"}
    write(tmp_path, record("a"), record("b", **other), record("c", **elsewhere), record("d", pictures="photographs"))
    tables = markdown_tables(made(tmp_path)[1])
    assert {heading: [r["method"] for r in rows] for heading, rows in tables.items()} == {
        "seq v1 on miniature (drawn stand-ins)": ["a"],
        "seq v1 on miniature (photographs)": ["d"],
        "seq v1 on sd15 (photographs)": ["c"],
        "seq v2 on miniature (drawn stand-ins)": ["b"],
    }


def test_scores_of_other_judges_are_in_a_table_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, record("a"), record("b", judges=judges("dinov2", "clip")))
    csv, text = made(tmp_path)
    assert list(csv["judges"]) == ["clip [clipffff], dino [dinoffff]", "clip [clipffff], dinov2 [dinov2ff]"]
    parts = text.split("## ")[1:]
    assert ["dinov2" in p for p in parts] == ["| b |" in p for p in parts] == [False, True]
    assert ["| a |" in p for p in parts] == [True, False]


def test_methods_that_see_earlier_data_are_marked(tmp_path: Path) -> None:
    write(tmp_path, record("joint", sees_earlier_data=True), record("lora"))
    csv, text = made(tmp_path)
    assert set(csv["method"]) == {"joint*", "lora"}
    assert "Methods with * see earlier data" in text


def test_only_whole_finished_runs_count(tmp_path: Path) -> None:
    unfinished = [record("lora", 0.0, status=s, **seed(7)) for s in ("running", "failed", "stopped", "interrupted")]
    foreign = [record("lora", 0.0, schema=99, **seed(8)), '{"schema": 1', "[1, 2]", "null", "3", "{}"]
    write(tmp_path, record("lora", 0.5), *unfinished, *foreign)
    csv, _ = made(tmp_path)
    assert list(csv["runs"]) == [1] and list(csv["dino_final_average"]) == [0.5]


# Records from strangers


def left_out(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("left out ")]


STRANGE = {
    "damaged": '{"schema": 1, "status": "fini',
    "nested without end": "[" * 10**5,
    "not a mapping": "[1, 2]",
    "of another schema": json.dumps({"schema": 99}),
    "without a sequence": {"sequence": None},
    "sequence of wrong types": {"sequence": {"name": 3, "version": "1", "concepts": []}},
    "sequence with a path": {"sequence": {"name": "../../x", "version": 1, "concepts": []}},
    "version that is huge": {"sequence": {"name": "seq", "version": 10**400, "concepts": []}},
    "concept with a path": {"sequence": {"name": "seq", "version": 1, "concepts": ["../../x"]}},
    "concepts by the thousand": {"sequence": {"name": "seq", "version": 1, "concepts": ["x"] * 1000}},
    "seed that is text": {"config": {"backbone": "miniature", "seed": "0", "order": 0}},
    "backbone that is a list": {"config": {"backbone": ["miniature"], "seed": 0, "order": 0}},
    "judges that are a list": {"judges": ["dino"]},
    "judges without a model": {"judges": {"dino": {}}},
    "method of thousands of letters": {"facts": {"method": "x" * 5000} | CODE},
    "method of two lines": {"facts": {"method": "x\n# y"} | CODE},
    "hash that is a number": {"hash": 1},
    "summary that is text": {"figures": {"dino": dict.fromkeys(FIGURES, "much")}},
    "summary of huge numbers": {"figures": {"dino": dict.fromkeys(FIGURES, 10**400)}},
    "summary that is a list": {"figures": []},
    "costs that are text": {"costs": {"1": {"learning_seconds": "long"}}},
    "costs that are a list": {"costs": [3]},
    "pictures of another kind": {"pictures": "../../x"},
    "pictures that are a list": {"pictures": ["drawn"]},
    "changes that are a list": {"changed": ["x"]},
    "concepts that are none": {"sequence": {"name": "seq", "version": 1, "concepts": []}},
    "a concept that occurs twice": {"sequence": {"name": "seq", "version": 1, "concepts": ["a", "b", "a"]}},
}


@pytest.mark.parametrize("what", STRANGE)
def test_a_strange_record_is_left_out_and_said_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    strange = STRANGE[what]
    write(tmp_path, strange if isinstance(strange, str) else record("stranger", **strange), record("lora"))
    csv, text = made(tmp_path)
    assert list(csv["method"]) == ["lora"] and "stranger" not in text
    (line,) = left_out(capsys.readouterr().out)
    assert str(tmp_path / "run-0") in line and "run.json" in line and len(line) < 900


def test_only_strange_records_are_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "{", record("lora", figures=3))
    with pytest.raises(UserError, match="no finished run"):
        board.write(tmp_path, tmp_path / "out")
    assert len(left_out(capsys.readouterr().out)) == 2


EXTREME = [float("nan"), float("inf"), float("-inf"), 1e308, -1e308, 0]


@pytest.mark.parametrize("value", EXTREME)
def test_extreme_costs_are_shown(tmp_path: Path, value: float) -> None:
    costs = {"costs": {"1": cost(1000, value)}}
    write(tmp_path, record("odd", **costs), record("odd", **costs, **seed(1)), record("lora"))
    csv, text = made(tmp_path)
    assert sorted(csv["method"]) == ["lora", "odd"] and sorted(csv["runs"]) == [1, 2]
    ((*shown,),) = markdown_tables(text).values()
    assert len(shown) == 2


def test_numbers_too_large_for_json_are_infinite(tmp_path: Path) -> None:
    write(tmp_path, record("lora", costs={"1": cost(1000, 12345.0)}))
    file = tmp_path / "run-0" / "run.json"
    file.write_text(file.read_text().replace("12345.0", "1e400"))
    assert made(tmp_path)[0]["learning_seconds"].tolist() == [float("inf")]


def test_names_are_words_in_markdown_and_part_of_no_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<img src=x> | [a](http://b) `c` ../../d"
    odd = record("x", facts={"method": hostile} | CODE, changed={"a|b": "<i>"})
    odd["config"]["backbone"] = "../.. /[e](f)|<u>"
    odd["judges"] = {"dino": {"model": hostile, "weights_sha256": "<b>|`<b>|"}}
    write(tmp_path / "results", odd)
    drawings(tmp_path / "results" / "run-0", "a")
    before = {f for f in tmp_path.rglob("*")}
    board.write(tmp_path / "results", tmp_path / "out")
    assert left_out(capsys.readouterr().out) == []
    new = {f for f in tmp_path.rglob("*")} - before
    names = FILES | {"methods-seq-v1-e-f-u-drawn-a.png"}
    assert {f.relative_to(tmp_path / "out").name for f in new} - {""} == names
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    for line in text.splitlines():
        if not line.startswith("!["):
            assert "<" not in line and "http://" not in line and not re.search(r"(?<!\\)[\[`]", line), line
    (row,) = [line for line in text.splitlines() if "&lt;img" in line and line.startswith("|")]
    assert len(re.findall(r"(?<!\\)\|", row)) == 25  # a row of twenty-four cells


@pytest.mark.parametrize("how", ["words", "half", "bomb", "a folder"])
def test_broken_pictures_of_others_make_no_grid_and_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    write(tmp_path, record("lora"))
    drawings(tmp_path / "run-0", "a")
    file = tmp_path / "run-0" / "task-00" / "pictures" / "a" / "real.png"
    if how == "bomb":
        Image.new("1", (10_000, 10_000)).save(file)
    elif how == "a folder":
        file.unlink()
        file.mkdir()
    else:
        file.write_bytes(b"words" if how == "words" else file.read_bytes()[:40])
    csv, text = made(tmp_path)
    assert list(csv["method"]) == ["lora"] and ".png" not in text and not list(tmp_path.glob("out/*.png"))
    (line,) = left_out(capsys.readouterr().out)
    assert "picture" in line


def final(value: float | None, **changes: Any) -> dict[str, Any]:
    return {"figures": summary(0.5, final_average=value, forgetting=0.0)} | changes


def test_own_run_stands_in_for_the_reference_run_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the hash: after an edit of the code the two have different ones."""
    kept = [
        record("lora", **final(0.3), **variant("lora", "a")),
        record("base", **final(0.0)),
        record("lora", **final(0.4, **seed(5))),
    ]
    own = [record("lora", **final(f), **variant("lora", code)) for f, code in ((0.5, "b"), (0.6, "c"))]
    write(tmp_path / "reference", *kept)
    write(tmp_path / "runs", *own)
    csv, _ = made(tmp_path)
    found = set(zip(csv["method"], csv["hash"], csv["dino_final_average"], strict=True))
    expected = [(kept[1], 0.0), (own[0], 0.5), (own[1], 0.6), (kept[2], 0.4)]
    assert found == {(run["facts"]["method"], run["hash"], value) for run, value in expected} and len(csv) == 4
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "replaced by yours" in line]
    assert line.endswith("reference/run-0 by runs/run-0 and runs/run-1")


def test_the_same_run_again_stands_in_for_the_reference_run(tmp_path: Path) -> None:
    write(tmp_path / "reference", record("lora", **final(0.3)), record("lora", **final(0.7, **seed(1))))
    write(tmp_path / "runs", record("lora", **final(0.5)))
    csv, _ = made(tmp_path)
    assert list(csv["runs"]) == [2] and list(csv["dino_final_average"]) == [0.6]


def test_each_sequence_has_its_grid_whatever_the_seeds_of_others(tmp_path: Path) -> None:
    other = {"sequence": {"name": "other", "version": 1, "concepts": ["b"]}} | seed(3)
    write(tmp_path, record("lora"), record("lora", **other))
    drawings(tmp_path / "run-0", "a")
    drawings(tmp_path / "run-1", "b")
    made(tmp_path)
    assert {f.name for f in (tmp_path / "out").glob("*.png")} == {
        "methods-seq-v1-miniature-drawn-a.png",
        "methods-other-v1-miniature-drawn-b.png",
    }


def test_other_evaluation_settings_are_named(tmp_path: Path) -> None:
    drawn = {"num_inference_steps": 5, "guidance_scale": None, "batch_size": 16}
    write(tmp_path, record("lora", config={"backbone": "miniature", "seed": 0, "order": 0, "evaluation": drawn}))
    assert list(made(tmp_path)[0]["method"]) == ["lora evaluation.num_inference_steps=5"]


def test_made_again_it_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, record("lora"), record("base"))
    made(tmp_path)
    before = {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()}
    made(tmp_path)
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == before
    assert set(before) == FILES


@pytest.mark.parametrize("what", ["no folder", "empty", "only unfinished"])
def test_nothing_to_show_is_one_line_with_the_folder(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "results"
    if what != "no folder":
        folder.mkdir()
    if what == "only unfinished":
        write(folder, record("lora", status="running"))
    with pytest.raises(UserError) as caught:
        board.write(folder, tmp_path / "out")
    assert str(folder) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


# From whole run folders

CONCEPTS = ["dog", "vase", "cat", "can", "boot", "bowl"]
PROMPTS = ["a {} in the snow", "a purple {}", "a {} on the beach"]


def make_run(
    folder: Path,
    method: str,
    mean: float,
    draw: tuple[int, int] = (0, 0),
    rows: list[int] | None = None,
    measured: bool = True,
    **more: Any,
) -> Path:
    """A run folder with run.json, scores.csv and measures.csv, whose last row is about as good as `mean`."""
    seed, order = draw
    chance = np.random.default_rng([seed, order, *method.encode()])
    names = [CONCEPTS[k] for k in np.random.default_rng(order).permutation(len(CONCEPTS))] if order else CONCEPTS
    lines = [("real", c, "real", metric, 0, 0, 0.9) for c in names for metric in METRICS]
    for row in range(len(names) + 1) if rows is None else rows:
        for c in names if row in (0, len(names)) else names[:row]:
            level = 0.1 if row == 0 else mean + 0.1 * CONCEPTS.index(c) / len(CONCEPTS)
            lines += [
                ("cell", c, p, metric, row, k, round(float(np.clip(level + 0.15 * chance.standard_normal(), -1, 1)), 6))
                for p in PROMPTS
                for k in (0, 1)
                for metric in METRICS
            ]
    table = pd.DataFrame(lines, columns=["kind", "concept", "prompt", "metric", "row", "index", "value"])
    tables.write_scores(folder / "scores.csv", table)
    costs = {str(t): cost(2000 + 1000 * t, 60.0 * t + seed) for t in range(1, len(names) + 1)}
    whole = {
        "config": {"backbone": "miniature", "seed": seed, "order": order, "method": method},
        "facts": facts(method),
        "sequence": {"name": "seq", "version": 1, "concepts": names},
        "costs": costs,
        "figures": summaries(table, names, len(names)) if rows is None else {},
    }
    made = record(method) | whole | more
    made["hash"] = more.get("hash", short_hash(made["facts"]))
    (folder / "run.json").write_text(json.dumps(made))
    if measured:
        lines = [(len(names), "identified", c, 0.5 + min(seed, 4) / 8) for c in names]
        lines += [(len(names), "moved", c, 0.25) for c in names] + [(len(names), "copied", names[0], 0.0)]
        pd.DataFrame(lines, columns=COLUMNS).to_csv(folder / "measures.csv", index=False)
    return folder


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the record of a run, whose hash stays that of its facts."""
    made = json.loads((folder / "run.json").read_text())
    change(made)
    (folder / "run.json").write_text(json.dumps(made | {"hash": short_hash(made["facts"])}))


def facts(method: str) -> dict[str, Any]:
    return {
        "method": method,
        **CODE,
        "sequence": "5e" * 32,
        "images": {c: f"{k:064x}" for k, c in enumerate(CONCEPTS)},
        "backbone": "bb" * 32,
        "judges": {"clip": "c1" * 32, "dino": "d1" * 32},
        "sampler": {"num_inference_steps": 10, "guidance_scale": 4.0, "batch_size": 16},
        "pictures_per_prompt": 2,
        "dtype": "torch.float32",
        "picture_size": 64,
    }


def groups_in(folder: Path) -> list[dict[str, Any]]:
    board.write(folder, folder / "out")

    def constant(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads((folder / "out" / "leaderboard.json").read_text(), parse_constant=constant)["groups"]


COSTS = {"carried_MB", "carried_kB", "carried_parameters", "trainable_parameters"} | {
    f"learning_{it}" for it in ("unet_evaluations", "seconds", "minutes")
}
DRAWS = [(0, 0), (1, 0), (0, 1)]


def test_numbers_are_those_of_the_scores(tmp_path: Path) -> None:
    folders = {m: [make_run(tmp_path / m / f"{d}", m, v, d) for d in DRAWS] for m, v in (("l2", 0.4), ("ewc", 0.6))}
    (group,) = groups_in(tmp_path)
    csv = pd.read_csv(tmp_path / "out" / "leaderboard.csv").set_index("method")
    for method, own in folders.items():
        expected: dict[str, list[float]] = {}
        for folder in own:
            order = json.loads((folder / "run.json").read_text())["sequence"]["concepts"]
            table = pd.read_csv(folder / "scores.csv")
            for metric, part in table[table["kind"] == "cell"].groupby("metric"):
                R = part.pivot_table(index="row", columns="concept", values="value")[order].to_numpy()
                T = len(order)
                lost = [max(R[i][j] for i in range(j + 1, T)) - R[T][j] for j in range(T - 1)]
                values = {
                    "final_average": R[T].mean(),
                    "plasticity": np.mean([R[j + 1][j] for j in range(T)]),
                    "forgetting": np.mean(lost),
                    "backward_transfer": np.mean([R[T][j] - R[j + 1][j] for j in range(T - 1)]),
                    "normalised_retention": (R[T] - R[0]).sum() / (0.9 - R[0]).sum(),
                }
                if metric == "dino":
                    values["over_tasks"] = np.mean([R[j + 1 :, j].mean() for j in range(T)])
                for k, v in values.items():
                    if (metric, k) != ("clip_t", "normalised_retention"):
                        expected.setdefault(f"{metric}_{k}", []).append(v)
        (row,) = [r for r in group["rows"] if r["method"] == method]
        for key, values in expected.items():
            assert row["mean"][key] == pytest.approx(np.mean(values), abs=2e-6), key
            assert row["std"][key] == pytest.approx(np.std(values, ddof=1), abs=3e-6), key
            assert csv.loc[method, key] == pytest.approx(row["mean"][key], abs=1e-6)
            assert csv.loc[method, f"{key}_std"] == pytest.approx(row["std"][key], abs=1e-6)
        mean = row["mean"]
        assert (mean["identified"], mean["prior_drift"]) == (pytest.approx(0.5 + 1 / 24, abs=1e-6), 0.25)
        assert (mean["carried_MB"], mean["carried_parameters"]) == (0.008, 2000)  # of the last task
        assert mean["learning_minutes"] == pytest.approx((21 * 60 + 2) / 60, abs=1e-6)  # 6 tasks; seed 1 takes 6 s more
        assert mean["learning_unet_evaluations"] == 6 * 40
        assert sorted((r["path"], r["seed"], r["order"]) for r in row["runs"]) == sorted(
            (f"{method}/{d}", *d) for d in DRAWS
        )


FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sequence": lambda r: r["facts"].update(sequence="00" * 32),
    "images": lambda r: r["facts"]["images"].update(dog="ff" * 32),
    "pictures": lambda r: r.update(pictures="photographs"),
    "backbone": lambda r: r["facts"].update(backbone="00" * 32),
    "judge's weights": lambda r: r["judges"]["dino"].update(weights_sha256="00" * 32),
    "judge's preprocessing": lambda r: r["judges"]["clip"].update(preprocessing="resize 32"),
    "steps": lambda r: r["facts"]["sampler"].update(num_inference_steps=50),
    "guidance": lambda r: r["facts"]["sampler"].update(guidance_scale=1.0),
    "pictures a prompt": lambda r: r["facts"].update(pictures_per_prompt=1),
    "precision": lambda r: r["facts"].update(dtype="torch.bfloat16"),
    "picture size": lambda r: r["facts"].update(picture_size=32),
    "rows": lambda r: r["facts"].update(rows=[0, 3]),
    "what is not recorded": lambda r: r["facts"].pop("picture_size"),
}


@pytest.mark.parametrize("fact", FACTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_runs_that_cannot_be_compared_are_never_in_one_table(tmp_path: Path, fact: str, seed: int) -> None:
    make_run(tmp_path / "a", "l2", 0.4)
    other = make_run(tmp_path / "b", "ewc", 0.8, (seed, 0))
    changed(other, FACTS[fact])
    both = groups_in(tmp_path)
    assert sorted([row["method"] for row in group["rows"]] for group in both) == [["ewc"], ["l2"]]
    assert [row["rank"] for group in both for row in group["rows"]] == [1, 1]
    assert both[0]["id"] != both[1]["id"] and both[0]["comparable"] != both[1]["comparable"]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    one_name = both[0]["pictures"] == both[1]["pictures"]
    assert text.count("Not comparable with the other tables of this name") == (2 if one_name else 0)


ALIKE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "batch": lambda r: r["facts"]["sampler"].update(batch_size=4),
    "library": lambda r: r["judges"]["dino"].update(library="timm 99"),
    "every row by name": lambda r: r["facts"].update(rows=list(range(7))),
    "order of images": lambda r: r["facts"].update(images=dict(reversed(r["facts"]["images"].items()))),
    "name of the backbone": lambda r: r["config"].update(backbone="/models/a-copy"),
    "device": lambda r: r.update(device={"kind": "cuda", "threads": 8}),
}


@pytest.mark.parametrize("fact", ALIKE)
def test_what_moves_no_score_keeps_nobody_apart(tmp_path: Path, fact: str) -> None:
    make_run(tmp_path / "a", "l2", 0.4)
    other = make_run(tmp_path / "b", "ewc", 0.8)
    changed(other, ALIKE[fact])
    (group,) = groups_in(tmp_path)
    assert [(row["rank"], row["method"]) for row in group["rows"]] == [(1, "ewc"), (2, "l2")]


def since_learned(folder: Path) -> pd.Series:
    """DINO of each picture, the mean over the rows since its concept was learned."""
    table = pd.read_csv(folder / "scores.csv")
    order = json.loads((folder / "run.json").read_text())["sequence"]["concepts"]
    cells = table[(table["kind"] == "cell") & (table["metric"] == "dino")]
    cells = cells[cells["row"] >= cells["concept"].map({c: t for t, c in enumerate(order, 1)})]
    return cells.groupby(["concept", "prompt", "index"])["value"].mean()


def by_signs(means: pd.Series) -> float:
    """The share of all choices of signs of concepts' mean differences whose sum is as far from 0."""
    sums = [
        abs(sum(s * d for s, d in zip(signs, means, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(means))
    ]
    return sum(it >= abs(means.sum()) - 1e-12 for it in sums) / len(sums)


def test_who_failed_at_a_concept_has_no_rank_and_outranks_nobody(tmp_path: Path) -> None:
    for method, level in (("l2", 0.4), ("ewc", 0.6)):
        make_run(tmp_path / method, method, level)
    failed = make_run(tmp_path / "olora", "olora", 0.9, figures=summary(None, final_average=None))
    scores = tables.read_scores(failed / "scores.csv")
    scores.loc[scores["concept"] == CONCEPTS[0], "value"] = float("nan")
    tables.write_scores(failed / "scores.csv", scores)
    (group,) = groups_in(tmp_path)
    assert [(row["method"], row["rank"], row["compared"]) for row in group["rows"]] == [
        ("ewc", 1, 1),
        ("l2", 2, 1),
        ("olora", None, 0),
    ]


def test_figures_that_the_scores_do_not_have_count_for_nothing(tmp_path: Path) -> None:
    """Neither those of a record that was changed, nor scores that are not the record's."""
    make_run(tmp_path / "a", "l2", 0.4)
    make_run(tmp_path / "b", "ewc", 0.4, figures=summary(0.5, final_average=0.999))
    other = make_run(tmp_path / "c", "olora", 0.4)
    made = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps(made | {"files": {"scores.csv": "00" * 32}}))
    (group,) = groups_in(tmp_path)
    assert [row["method"] for row in group["rows"]] == ["l2"]
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "its run.json tells of a final DINO of 0.999, its scores.csv of 0.4" in text
    assert "its scores.csv is not the one that its run.json tells of" in text


def test_ranks_by_brute_force(tmp_path: Path) -> None:
    levels = {"a": 0.50, "b": 0.47, "c": 0.44, "d": 0.52, "e": 0.2, "f": 0.36, "g": 0.51}
    draws = dict.fromkeys(levels, DRAWS) | {"b": [(0, 0)], "f": [(1, 0), (5, 0)], "g": [(0, 1), (7, 7)]}
    scores = {
        m: {d: since_learned(make_run(tmp_path / m / f"{d}", m, level, d)) for d in draws[m]}
        for m, level in levels.items()
    }
    (group,) = groups_in(tmp_path)
    found = {}
    for a, b in itertools.combinations(levels, 2):
        both = sorted(set(draws[a]) & set(draws[b]))
        if both:
            differences = pd.concat([scores[a][d] - scores[b][d] for d in both], axis=1)
            by_prompt = differences.groupby(level=[0, 1]).mean()
            means = by_prompt.groupby(level=0).mean().mean(axis=1)
            test = stats.ttest_1samp(means, 0)
            found[a, b] = (means.mean(), test.pvalue, *test.confidence_interval(0.95), by_signs(means))
    adjusted = stats.false_discovery_control([p for _, p, *_ in found.values()])
    expected = dict.fromkeys(levels, 1)
    for ((a, b), (mean, _, low, high, _)), p in zip(found.items(), adjusted, strict=True):
        if p <= 0.05 and (low > 0.01 or high < -0.01):
            expected[b if mean > 0 else a] += 1
    assert {row["method"]: row["rank"] for row in group["rows"]} == expected
    assert len(set(expected.values())) > 2 and max(expected.values()) == len(levels)
    order = [-row["mean"]["dino_over_tasks"] for row in group["rows"]]
    assert order == sorted(order)
    shown = markdown_tables((tmp_path / "out" / "leaderboard.md").read_text())["seq v1 on miniature (drawn stand-ins)"]
    assert {row["method"]: row["rank"] for row in shown} == {m: f"{r}{'~' * (m in 'bfg')}" for m, r in expected.items()}
    names = [row["method"] for row in group["rows"]]
    assert len(group["pairs"]) == len(found)
    for pair in group["pairs"]:
        a, b = (names[k] for k in pair["rows"])
        mean, p, low, high, of_signs = found[a, b] if (a, b) in found else found[b, a]
        turn = 1 if (a, b) in found else -1
        assert (pair["difference"], pair["p"], pair["p_of_signs"]) == pytest.approx(
            (turn * mean, p, of_signs), abs=2e-6
        )
        assert [pair["low"], pair["high"]] == pytest.approx(sorted((turn * low, turn * high)), abs=2e-6)
    compared = {row["method"]: row["compared"] for row in group["rows"]}  # b, f and g have no draw in common
    assert compared == {"a": 6, "b": 4, "c": 6, "d": 6, "e": 6, "f": 4, "g": 4}


def test_without_a_common_draw_there_is_no_rank(tmp_path: Path) -> None:
    for seed, method in enumerate(("l2", "ewc")):
        make_run(tmp_path / method, method, 0.3 + seed / 2, (seed, 0))
    (group,) = groups_in(tmp_path)
    assert [(row["method"], row["rank"], row["compared"]) for row in group["rows"]] == [
        ("ewc", None, 0),
        ("l2", None, 0),
    ]


def test_what_is_not_whole_is_listed_apart(tmp_path: Path) -> None:
    make_run(tmp_path / "good", "l2", 0.4)
    make_run(tmp_path / "stopped", "ewc", 0.9, rows=[0, 1, 2], status="interrupted")
    make_run(tmp_path / "hole", "olora", 0.9, rows=[0, 1, 2, 4, 5, 6])
    make_run(tmp_path / "wanted", "magmax", 0.9, rows=[0, 6], facts=facts("magmax") | {"rows": [0, 6]})
    cut = make_run(tmp_path / "cut", "clora", 0.9, (1, 0))
    (cut / "scores.csv").write_bytes((cut / "scores.csv").read_bytes()[:-3])
    new = make_run(tmp_path / "new", "stamina", 0.9, rows=[0], status="running")
    (new / "task-00").mkdir()
    (new / "scores.csv").rename(new / "task-00" / "scores.csv")
    assert [[row["method"] for row in group["rows"]] for group in groups_in(tmp_path)] in (
        [["l2"], ["magmax"]],
        [["magmax"], ["l2"]],
    )  # every row that was asked for is there
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    states = {row["method"]: (row["seed"], row["state"]) for row in markdown_tables(text)["Excluded runs"]}
    assert states == {
        "ewc": ("0", "stopped: 3 of 7 rows exist"),
        "olora": ("0", "6 of 7 rows exist"),
        "clora": ("1", "its scores.csv is damaged"),
        "stamina": ("0", "running: 1 of 7 rows exist"),
    }
    whole = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert {it["method"] for it in whole["unfinished"]} == set(states)


def test_replay_free_and_tested_against(tmp_path: Path) -> None:
    own = {"backbone": "miniature", "seed": 0, "order": 0, "method": "./genreplay.py"}
    make_run(tmp_path / "1", "genreplay", 0.4)
    make_run(tmp_path / "2", "joint", 0.4, sees_earlier_data=True)
    make_run(tmp_path / "3", "genreplay", 0.4, config=own)
    make_run(tmp_path / "4", "not-ours", 0.4)
    (group,) = groups_in(tmp_path)
    assert {row["method"]: (row["replay_free"], row["tested_against"]) for row in group["rows"]} == {
        "genreplay": ("generated", "our reading"),
        "genreplay (own file)": ("yes", "-"),
        "joint*": ("no", "our reading"),
        "not-ours": ("yes", "-"),
    }


def test_a_copy_under_another_name_of_its_backbone_counts_once(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "l2", 0.4)
    make_run(tmp_path / "b", "l2", 0.4, config={"backbone": "/models/a-copy", "seed": 0, "order": 0})
    ((row,),) = (group["rows"] for group in groups_in(tmp_path))
    assert [run["path"] for run in row["runs"]] == ["b"] and row["rank"] == 1


@pytest.mark.parametrize("name", ["x" * 1999, "€" * 300])
def test_names_too_long_for_a_file_make_no_grid(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "a", "l2", 0.4, config={"backbone": name, "seed": 0, "order": 0})
    (group,) = groups_in(tmp_path)
    assert group["backbone"] == name and group["grid"] is None


def test_a_grid_is_kept_where_the_pictures_are_not(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "l2", 0.4)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "methods-seq-v1-miniature-drawn-dog.png").write_bytes(b"kept")
    (group,) = groups_in(tmp_path)
    assert group["grid"] == "methods-seq-v1-miniature-drawn-dog.png"
    assert f"({group['grid']})" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert (tmp_path / "out" / group["grid"]).read_bytes() == b"kept"


def test_older_runs_have_no_measures(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "l2", 0.4, measured=False)
    (group,) = groups_in(tmp_path)
    assert group["rows"][0]["mean"]["identified"] is None
    ((shown,),) = markdown_tables((tmp_path / "out" / "leaderboard.md").read_text()).values()
    assert (shown["identified"], shown["language drift"], shown["rank"]) == ("-", "-", "1")


def test_leaderboard_json_has_what_it_should(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "l2", 0.4)
    make_run(tmp_path / "b", "ewc", 0.4, costs={"1": cost(1000, float("inf"))})
    make_run(tmp_path / "c", "ewc", 0.4, status="failed")
    (group,) = groups_in(tmp_path)
    whole = json.loads((tmp_path / "out" / "leaderboard.json").read_text())
    assert set(whole) == {"schema", "groups", "unfinished"} and whole["schema"] == 4
    assert set(group) == {
        *("id", "sequence", "backbone", "pictures", "judges", "comparable", "grid", "rows"),
        *("ranked_by", "pairs"),
    }
    (pair,) = group["pairs"]
    assert pair["rows"] == [0, 1] and pair["verdict"] == "open" and pair["low"] < pair["difference"] < pair["high"]
    assert (pair["concepts"], pair["endings"], group["ranked_by"]) == (6, 1, "over-tasks")
    assert group["comparable"]["sampler"] == {"num_inference_steps": 10, "guidance_scale": 4}
    for row in group["rows"]:
        assert set(row) == {
            *("rank", "compared", "below", "method", "hash", "over", "replay_free", "scores", "tested_against"),
            *("runs", "mean", "std", "low", "high"),
        }  # fmt: skip
        for values in (row["mean"], row["std"], row["low"], row["high"]):
            assert all(v is None or round(v, 6) == v for v in values.values())
        assert row["mean"].keys() == row["std"].keys() > row["low"].keys() == row["high"].keys()
        assert row["mean"].keys() - row["low"].keys() == COSTS
    assert set(whole["unfinished"][0]) == {"path", "seed", "order", "method", "hash", "sequence", "backbone", "state"}
    assert str(tmp_path) not in json.dumps(whole)


def test_in_a_log_a_row_is_one_line_and_a_name_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = {
        "target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
        "learning_rate": 0.00001,
        "variant": "[bold]x[/]",
    }
    make_run(tmp_path / "a", "l2", 0.4, changed=changed)
    make_run(tmp_path / "b", "ewc", 0.4, status="failed")
    groups_in(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if re.match(" +1 +l2 ", line))
    assert all(word in row for word in ("target_modules=", "to_out.0", "learning_rate=1e-05", "variant=[bold]x[/]")), (
        row
    )
    assert any("failed" in line for line in lines)


def test_the_committed_leaderboard_is_that_of_the_committed_runs(tmp_path: Path) -> None:
    """Byte for byte, as `make leaderboard` makes it; the grids were made where the pictures are, and are kept."""
    kept, copy = Path(__file__).parent.parent / "results" / "reference", tmp_path / "reference"
    shutil.copytree(kept, copy)
    for name in FILES:
        (copy / name).unlink()
    board.write(copy, copy)
    for name in FILES:
        assert (copy / name).read_bytes() == (kept / name).read_bytes(), f"{name}: run `make leaderboard`"


# What a record says is not believed


def rewritten(run: Path, **changes: Any) -> None:
    """Change the record of a run, its hash too if that is among the changes."""
    made = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(made | changes))


def test_figures_are_of_the_tables_whatever_the_record_says(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "l2", 0.4)
    before = groups_in(tmp_path)[0]["rows"][0]
    told = json.loads((run / "run.json").read_text())["figures"]
    invented = {m: figures | dict.fromkeys(("plasticity", "forgetting"), 0.99) for m, figures in told.items()}
    lines = {m: {"final_average": [0.9, 0.95]} for m in METRICS}
    rewritten(run, figures=invented, intervals=lines, measures={"identified": 1.0, "moved": 0.0})
    after = groups_in(tmp_path)[0]["rows"][0]
    assert (after["mean"], after["low"], after["high"]) == (before["mean"], before["low"], before["high"])
    assert after["mean"]["dino_plasticity"] == pytest.approx(told["dino"]["plasticity"], abs=1e-4)


def out_of_range(run: Path) -> None:
    scores = pd.read_csv(run / "scores.csv")
    scores.loc[scores["metric"] == "clip_t", "value"] = 1.01
    scores.to_csv(run / "scores.csv", index=False)


NOT_COUNTED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bare record": (lambda run: (run / "scores.csv").unlink(), "its scores.csv is missing"),
    "another hash": (lambda run: rewritten(run, hash="00000000"), "another hash than its facts"),
    "no cosine": (out_of_range, "a cosine is between -1 and 1"),
}


@pytest.mark.parametrize("what", NOT_COUNTED)
def test_what_contradicts_itself_does_not_count(tmp_path: Path, what: str) -> None:
    make_run(tmp_path / "a", "l2", 0.4)
    change, said = NOT_COUNTED[what]
    change(make_run(tmp_path / "b", "ewc", 0.8))
    (group,) = groups_in(tmp_path)
    assert [row["method"] for row in group["rows"]] == ["l2"]
    (other,) = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["unfinished"]
    assert said in other["state"]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_two_runs_of_one_key_are_both_named_and_none_replaces_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: tuple[str, str]
) -> None:
    make_run(tmp_path / names[0], "l2", 0.4)
    make_run(tmp_path / names[1], "l2", 0.8)
    make_run(tmp_path / "c", "ewc", 0.5)
    (group,) = groups_in(tmp_path)
    assert [row["method"] for row in group["rows"]] == ["ewc"]
    (line,) = left_out(capsys.readouterr().out)
    assert "a and b" in line and "remove all but one" in line


def test_a_copy_of_a_run_counts_once_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, "l2", 0.4)
    (group,) = groups_in(tmp_path)
    assert [len(row["runs"]) for row in group["rows"]] == [1]
    assert "a and b are copies of the same run" in capsys.readouterr().out.replace("b and a", "a and b")


def test_joint_is_marked_whatever_its_record_says(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "joint", 0.4, sees_earlier_data=False)
    (group,) = groups_in(tmp_path)
    assert [(row["method"], row["replay_free"]) for row in group["rows"]] == [("joint*", "no")]


def test_figures_are_remembered_by_their_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPBENCH_CACHE", str(tmp_path / "cache"))
    run = make_run(tmp_path / "runs" / "a", "l2", 0.4)
    concepts = json.loads((run / "run.json").read_text())["sequence"]["concepts"]
    first = leaderboard_figures.summary(run, concepts), leaderboard_figures.bounds(run, concepts)

    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "read_scores", never)
        assert (leaderboard_figures.summary(run, concepts), leaderboard_figures.bounds(run, concepts)) == first
        with pytest.raises(AssertionError):
            leaderboard_figures.summary(run, concepts[::-1])
    scores = pd.read_csv(run / "scores.csv")
    scores["value"] /= 2
    scores.to_csv(run / "scores.csv", index=False)
    assert leaderboard_figures.summary(run, concepts) != first[0]


def test_recorded_figures_come_out_again_of_the_tables() -> None:
    seen = 0
    for path in sorted((ROOT / "results" / "reference").glob("**/run.json")):
        made = json.loads(path.read_text())
        found = leaderboard_figures.summary(path.parent, made["sequence"]["concepts"])
        for metric, figures in made.get("summary", made.get("figures")).items():
            for name, value in figures.items():
                if value is not None:
                    assert found[metric][name] == pytest.approx(value, abs=1e-4), f"{path}: {metric} {name}"
                    seen += 1
    assert seen > 1000
