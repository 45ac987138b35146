"""The page of a run: its numbers are the run's, it is one file that loads nothing, and it copes with half a run."""

import base64
import copy
import html
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from cpbench.cli import main
from cpbench.concepts import sequences
from cpbench.config import resolve
from cpbench.errors import UserError
from cpbench.files import short_hash
from cpbench.metrics import figures as figure_objects
from cpbench.metrics import retention
from cpbench.metrics import summary as summary_module
from cpbench.metrics.intervals import bootstrap
from cpbench.metrics.matrices import SCORE_COLUMNS
from cpbench.metrics.scores import SCORES as METRICS
from cpbench.records import tables as results
from cpbench.records.measures_table import CONFUSION
from cpbench.records.record import SCHEMA
from cpbench.report import data as report_data
from cpbench.report import page as html_report
from cpbench.report import pictures, plots
from cpbench.report import tables as report_tables
from cpbench.version import SCORES

PROMPTS = ["a {} in the snow", "a {} on the beach", "a {} with a city in the background", "a purple {}"]  # quick3's
QUICK3 = sequences.load("quick3")
CONCEPTS = ["dog", "backpack", "dog2"]
NOUNS = {"dog": "dog", "backpack": "backpack", "dog2": "dog"}
EVIL = "<script>alert(1)</script>"
VOID = {"meta", "link", "img", "input", "br", "wbr"}
FIGURES = ("final_average", "plasticity", "forgetting", "backward_transfer", "normalised_retention", "gap_closed")


# A run folder made by hand


def record(concepts: list[str], prompts: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    """A run.json as the runner writes it."""
    options = {"rank": 4, "steps": 7, "batch_size": 2, "learning_rate": 0.001, "token_learning_rate": 0.002}
    judge = {"model": "m", "weights_sha256": "ab" * 32, "preprocessing": "resize 64", "library": "timm 1"}
    made = {
        "schema": SCHEMA,
        "status": "finished",
        "reason": "",
        "config": {"method": "seqlora", "sequence": "quick3", "backbone": "miniature", "seed": 3, "order": 0}
        | {"options": options, "evaluation": {"batch_size": 16, "guidance_scale": None}, "output": None},
        "changed": {"rank": 4},
        "facts": {"method": "seqlora", "pictures_per_prompt": 2, "dtype": "torch.float32", "picture_size": 64}
        | {"scores": SCORES, "versions": {"seqlora": 1}}
        | {"sampler": {"num_inference_steps": 10, "guidance_scale": 4.0}, "options": options},
        "sequence": {"name": "quick3", "version": QUICK3.version, "concepts": concepts}
        | {"class_nouns": {c: NOUNS.get(c, "thing") for c in concepts}}
        | {"prompts": dict.fromkeys(concepts, PROMPTS if prompts is None else prompts)},
        "pictures": "drawn",
        "sees_earlier_data": False,
        "judges": {
            "clip": judge | {"model": "a clip"},
            "dino": judge | {"model": "a dino", "weights_sha256": "cd" * 32},
        },
        "backbone": {"kind": "pipeline"},
        "made_on": [{"device": "cpu", "threads": 1, "learning": [], "row": []}],
        "costs": {"0": {"generation_seconds": 1.5}}
        | {
            str(t): {
                "learning_seconds": 2.0 * t,
                "learning_evaluations": 100 * t,
                "state_bytes": {"a": 4000 * t},
            }
            for t in range(1, len(concepts) + 1)
        },
        "figures": {},
        "files": {},
        "versions": {"cpbench": "0.1.0", "torch": "2.0"},
        "commit": "c0ffee" * 6,
    }
    made |= changes
    return {"hash": short_hash(made["facts"])} | made


def scores_of(concepts: list[str], prompts: list[str], rows: list[int], seed: int = 0) -> pd.DataFrame:
    chance, out = np.random.default_rng(seed), []
    for t in rows:
        for j, c in enumerate(concepts, 1):
            for p in prompts if t == 0 or j <= t else []:
                for k in (0, 1):
                    values = chance.uniform(0.1, 0.9, 3) - 0.05 * max(0, t - j)
                    out += [(t, "cell", c, p, k, m, v) for m, v in zip(METRICS, values, strict=True)]
    out += [(0, "real", c, "", 0, m, 0.95) for c in concepts for m in ("dino", "clip_i")]
    out += [(0, "oracle", c, prompts[0], 0, m, 0.85) for c in concepts for m in METRICS]
    return pd.DataFrame(out, columns=SCORE_COLUMNS)


def picture(file: Path, seed: int, size: int = 64) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (max(8, size // 8),) * 2 + (3,), np.uint8)
    Image.fromarray(small).resize((size, size)).save(file)


def make_run(
    folder: Path,
    concepts: list[str] | None = None,
    prompts: list[str] | None = None,
    rows: list[int] | None = None,
    size: int = 64,
    seed: int = 0,
    **changes: Any,
) -> Path:
    concepts, prompts = concepts or CONCEPTS, prompts or PROMPTS
    rows = list(range(len(concepts) + 1)) if rows is None else rows
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record(concepts, prompts, **changes)))
    scores = scores_of(concepts, prompts, rows, seed)
    results.write_scores(folder / "scores.csv", scores)
    for t in rows:
        for j, c in enumerate(concepts, 1):
            if (t == 0 or j <= t) and report_data.FILE_NAME.fullmatch(c):
                for k in range(len(prompts)):
                    picture(folder / f"task-{t:02d}" / "pictures" / c / f"{k:02d}-0.png", 100 * t + 10 * j + k, size)
                if t == 0:
                    picture(folder / "task-00" / "pictures" / c / "real.png", j, size)
        if t:
            (folder / f"task-{t:02d}").mkdir(exist_ok=True)
            steps = np.arange(6)
            curve = pd.DataFrame({"phase": "train", "step": steps, "loss": 1 / (steps + t), "gradient_norm": 0.1 * t})
            curve.assign(token_norm=10.0**steps).to_csv(folder / f"task-{t:02d}" / "curve.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return html_report.write([run])[0].read_text()


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without plots, where they are not what is tested."""
    monkeypatch.setattr(plots, "inline", lambda *given: "<svg></svg>")


# Reading it back


class Tree(HTMLParser):
    """Tables by caption (rows of cells' texts), everything that can load something, texts, and ids."""

    def __init__(self, text: str):
        super().__init__()
        self.stack: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.captions: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.tables.append([])
            self.captions.append("")
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text.append(data)
        if "caption" in self.stack:
            self.captions[-1] += data
        elif "td" in self.stack or "th" in self.stack:
            self.tables[-1][-1][-1] += data

    def table(self, caption: str) -> list[list[str]]:
        (found,) = [t for t, c in zip(self.tables, self.captions, strict=True) if c == caption]
        return [[cell.strip() for cell in row] for row in found]

    def values(self, tag: str, name: str) -> list[str]:
        return [v for t, n, v in self.attributes if (t, n) == (tag, name)]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{round(value, 3) + 0.0:.3f}"


def matrix(run: Path, metric: str, concepts: list[str]) -> pd.DataFrame:
    scores = pd.read_csv(run / "scores.csv")
    own = scores[(scores["kind"] == "cell") & (scores["metric"] == metric)]
    return own.pivot_table(index="row", columns="concept", values="value").reindex(
        index=range(len(concepts) + 1), columns=concepts
    )


# What is on it


def test_matrices_are_those_of_the_scores(run: Path, page: str) -> None:
    tree = Tree(page)
    for metric, caption in (
        ("dino", "DINO: identity"),
        ("clip_i", "CLIP-I: likeness of the picture"),
        ("clip_t", "CLIP-T: likeness to the prompt's words"),
    ):
        head, *rows = tree.table(caption)
        assert head == ["model", *CONCEPTS, "mean"]
        expected = matrix(run, metric, CONCEPTS)
        for t in range(4):
            seen = expected.loc[t].to_numpy()[: t or 3]
            values = [shown(v) if t == 0 or j <= t else "" for j, v in enumerate(expected.loc[t], 1)]
            assert rows[t] == [f"task {t}" if t else "untouched", *values, shown(seen.mean())]
        references = {row[0]: row[1:] for row in rows[4:]}
        assert references["oracle"] == ["0.850"] * 4
        assert references.get("real") == (None if metric == "clip_t" else ["0.950"] * 4)


def test_figures_are_those_of_the_matrices(run: Path, page: str) -> None:
    (table,) = [t for t in Tree(page).tables if t and t[0][0] == "figure"]
    found = {row[0].strip(" ↑↓"): row[1:4] for row in table[1:]}
    R = matrix(run, "dino", CONCEPTS).to_numpy()
    expected = figure_objects.values(R, ceiling=np.full(3, 0.95))
    intervals = summary_module.intervals(results.read_scores(run / "scores.csv"), CONCEPTS, 3)["dino"]
    for name in FIGURES:
        low, high = intervals[name]
        cell = f"{shown(expected[name])} {shown(low)} to {shown(high)}"
        assert found[figure_objects.FIGURES[name].heading()][0] == cell, name
    assert float(found["forgetting, noise floor"][0]) > 0 and "forward transfer" not in found
    assert found["retention"][2] == "-"  # of texts, which have no ceiling
    assert f"{R[-1].mean():.3f}" in Tree(page).words.partition("Run and results method")[0]  # in the first sentence


def test_it_says_what_ran_and_how_to_run_it_again(page: str, tmp_path: Path) -> None:
    words = Tree(page).words
    for said in (
        "seqlora rank=4",
        f"quick3 v{QUICK3.version}, 3 concepts, rendered stand-ins",
        "10 steps, guidance 4.0",
        record(CONCEPTS, PROMPTS)["hash"],
    ):
        assert said in words, said
    for said in (
        "cd" * 32,
        "ab" * 32,
        "resize 64",
        "c0ffee" * 6,
        "Chaudhry et al. 2018",
        "4 prompts per concept, 2 pictures",
    ):
        assert said in words, said
    codes = [html.unescape(c) for c in re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)]
    assert (
        codes[0]
        == "cpbench run --method seqlora --sequence quick3 --backbone miniature --seed 3 --order 0 --set rank=4"
    )
    (tmp_path / "again.yaml").write_text(codes[1])
    config, _, options = resolve({}, tmp_path / "again.yaml")
    assert (config.method, config.sequence, config.seed) == ("seqlora", "quick3", 3)
    assert (options.rank, options.steps, options.learning_rate) == (4, 7, 0.001)
    assert yaml.safe_load(codes[1])["options"]["token_learning_rate"] == 0.002


def test_the_time_lapse_has_each_picture_in_its_place(run: Path, page: str) -> None:
    tree = Tree(page)
    texts = [p.replace("{}", "…") for p in PROMPTS]
    assert [i for t, n, i in tree.attributes if (t, n) == ("input", "name")] == ["prompt"] * 4
    for words in texts:
        head, *rows = tree.table(f"seqlora rank=4: “{words}”")
        assert head == ["real", "untouched", "task 1dog", "task 2backpack", "task 3dog2"]
        assert [row[0] for row in rows] == CONCEPTS and [len(row) for row in rows] == [5, 5, 4]
    scores = pd.read_csv(run / "scores.csv").query("kind == 'cell'")
    scores = scores.set_index(["row", "concept", "prompt", "index", "metric"])["value"]
    first = tree.table("seqlora rank=4: “a … in the snow”")[1]
    assert first[1:] == [f"{scores.loc[(t, 'dog', PROMPTS[0], 0, 'dino')]:.2f}" for t in range(4)]
    alts = tree.values("img", "alt")
    for said in (
        "dog, the untouched model: a dog in the snow",
        "dog2, after task 3: a purple dog",
        "backpack, a real picture",
    ):
        assert said in alts, said
    image = next(
        s
        for s, a in zip(tree.values("img", "src"), alts, strict=True)
        if a == "backpack, after task 2: a purple backpack"
    )
    there = np.asarray(Image.open(io.BytesIO(base64.b64decode(image.partition(",")[2]))), float)
    real = np.asarray(Image.open(run / "task-02" / "pictures" / "backpack" / "03-0.png"), float)
    assert np.abs(there - real).mean() < 12  # that picture, but for what WebP takes away


def test_curves_and_cost_are_there(page: str) -> None:
    tree = Tree(page)
    labels = [v for t, n, v in tree.attributes if (t, n) == ("svg", "aria-label")]
    assert {"Plot: DINO", "Plot: CLIP-I", "Plot: CLIP-T", "Plot: dog", "Plot: backpack", "Plot: dog2"} <= set(labels)
    assert {"Plot: train: loss", "Plot: train: gradient_norm", "Plot: train: token_norm"} <= set(labels)
    (cost,) = [t for t in tree.tables if t and t[0][:2] == ["task", "learning, s"]]
    assert [row[0] for row in cost[1:]] == ["0", "1", "2", "3", "all"]
    head, total = cost[0], cost[-1]
    assert total[head.index("learning, s")] == "12.0"
    assert total[head.index("UNet evaluations, learning")] == "600"
    assert total[head.index("state size, kB")] == "12"
    assert "mathdefault" not in page  # a logarithmic axis, whose labels are no formulas


# One file


def assert_self_contained(text: str) -> None:
    tree = Tree(text)
    for tag, name, value in tree.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "data", "action", "srcset", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert "script" not in {t for t, *_ in tree.attributes} and "<script" not in text
    assert "@import" not in text and not re.search(r"url\((?!#)", text) and "http:" not in text and "https:" not in text
    assert "default-src 'none'" in text
    ids = [v for _, n, v in tree.attributes if n == "id"]
    assert len(ids) == len(set(ids))  # those of inline plots too
    used = re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text)
    assert used and set(used) <= set(ids)


def test_it_loads_nothing_and_runs_nothing(page: str) -> None:
    assert_self_contained(page)
    assert len(page.encode()) < 1_000_000
    assert "/tmp" not in page and str(Path.home()) not in page


def test_the_same_run_gives_the_same_page(run: Path, page: str) -> None:
    assert html_report.write([run])[0].read_text() == page


def test_names_from_anybody_are_only_text(tmp_path: Path) -> None:
    concepts, prompts = ["cup", "dog", "vase"], [f"a {{}} {EVIL}", '"><img src=x onerror=alert(1)>']
    folder = make_run(tmp_path / "run", concepts, prompts)
    made = json.loads((folder / "run.json").read_text())
    made |= {"changed": {"rank": EVIL}, "commit": EVIL, "backbone": {EVIL: EVIL}, "versions": {EVIL: EVIL}}
    made["sequence"]["class_nouns"] = {"cup": EVIL, "dog": "dog", "vase": "$x_{1}$"}
    made["judges"]["dino"] |= {"model": EVIL, "preprocessing": EVIL, EVIL: EVIL}
    (folder / "run.json").write_text(json.dumps(made))
    curve = folder / "task-01" / "curve.csv"
    curve.write_text(f"phase,step,loss,{EVIL}\n{EVIL},0,1,2\n{EVIL},1,1,2\n")
    (folder / "identification.csv").write_text(f"row,concept,nearest,count\n3,dog,dog,5\n3,dog,{EVIL},3\n")
    text = html_report.write([folder], with_plots=True)[0].read_text()
    assert_self_contained(text)
    tree = Tree(text)
    assert tree.words.count(EVIL) > 10
    assert tree.table("DINO: identity")[0] == ["model", *concepts, "mean"]
    assert "onerror" not in {n for _, n, _ in tree.attributes}
    assert "$x_{1}$" in tree.words  # no formula either


def test_names_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ["cup", "dog"])
    read = report_data.read_run(folder)
    assert read.picture(0, "../../../secret", 0) is None and read.picture(0, "dog", 0) is not None
    for odd in ("../../../secret", "a/b", EVIL, ""):
        with pytest.raises(UserError, match="its run.json is not as cpbench writes it"):
            report_data.read_run(make_run(tmp_path / f"run{len(odd)}", [odd, "dog"]))


def test_the_report_says_on_what_a_run_was_computed(tmp_path: Path) -> None:
    """Every kind of machine once, as the runner records it by task."""
    one = {"device": "cpu", "threads": 1, "processor": "AMD AVX2", "versions": {"torch": "2.13.0"}}
    made = [one | {"learning": [1], "row": [0, 1]}, one | {"threads": 2, "learning": [2, 3], "row": [2, 3]}]
    now = report_data.read_run(make_run(tmp_path / "now", made_on=made))
    assert dict(report_tables.facts(now))["device"] == "cpu, 1 thread; cpu, 2 threads"
    page = html_report.page([now])
    assert "made on.1.processor" in page and "AMD AVX2" in page and "cpu, 1 thread; cpu, 2 threads" in page


def test_a_picture_made_anew_in_the_same_process_is_shown_anew(tmp_path: Path) -> None:
    file, seen = tmp_path / "picture.png", []
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(file.with_name("new.png"))
        file.with_name("new.png").replace(file)
        seen.append(pictures.encoded(file, 64, 90))
    assert None not in seen and seen[0] != seen[1]
    assert Image.open(io.BytesIO(seen[1])).convert("RGB").getpixel((32, 32))[2] > 200


def test_a_run_at_true_size_stays_below_five_megabytes(
    tmp_path: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    concepts = [f"thing{k}" for k in range(10)]
    prompts = [f"a {{}} in place {k}" for k in range(12)]
    folder = make_run(tmp_path / "run", concepts, prompts, rows=[0, 10], size=16)
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)  # nothing is harder to compress
    buffer = io.BytesIO()
    Image.fromarray(noise).resize((512, 512)).save(buffer, "PNG")
    (tmp_path / "noise.png").write_bytes(buffer.getvalue())
    read, real = pictures.encoded, tmp_path / "noise.png"
    monkeypatch.setattr(pictures, "encoded", lambda file, side, quality: read(real, side, quality))
    monkeypatch.setattr(html_report, "MOST_BYTES", 500_000)
    text = html_report.page([report_data.read_run(folder)])
    assert len(text.encode()) < 500_000
    assert re.search(r"[1-9]\d* of 12 prompts are shown to keep the page below 5 MB", text)
    monkeypatch.setattr(html_report, "MOST_BYTES", 4_500_000)
    text = html_report.page([report_data.read_run(folder)])
    assert 500_000 < len(text.encode()) < 5_000_000


# What is missing


def test_rows_that_were_not_drawn(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rows=[0, 1, 3])
    text = html_report.write([folder])[0].read_text()
    tree = Tree(text)
    rows = tree.table("DINO: identity")
    assert rows[3] == ["task 2", "-", "-", "", "-"] and rows[4][0] == "task 3"
    assert "not evaluated" in tree.values("td", "title")
    assert "Rows 2 of the matrices were not evaluated" in tree.words
    assert tree.table("seqlora rank=4: “a … in the snow”")[0] == ["real", "untouched", "task 1dog", "task 3dog2"]
    (table,) = [t for t in tree.tables if t and t[0][0] == "figure"]
    assert {row[0].strip(" ↑↓"): row[1] for row in table[1:]}["plasticity"] == "-"


def test_a_cell_that_is_not_defined_and_a_picture_that_failed(tmp_path: Path, fast: None) -> None:
    folder = make_run(tmp_path / "run")
    scores = results.read_scores(folder / "scores.csv")
    undefined = (scores["row"] == 3) & (scores["concept"] == "dog")
    blank = (scores["row"] == 1) & (scores["prompt"] == PROMPTS[0]) & (scores["index"] == 0)
    scores.loc[undefined | blank, "value"] = np.nan
    results.write_scores(folder / "scores.csv", scores)
    shutil.rmtree(folder / "task-03" / "pictures" / "dog")
    tree = Tree(html_report.write([folder])[0].read_text())
    assert tree.table("DINO: identity")[4][1] == "-" and "undefined" in tree.values("td", "title")
    assert tree.table("seqlora rank=4: “a … in the snow”")[1][2:] == [
        "blank",
        tree.table("seqlora rank=4: “a … in the snow”")[1][3],
        "undefined",
    ]


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "scores": (lambda f: (f / "scores.csv").write_text("row,kind\n1"), "scores.csv is damaged"),
    "no scores": (lambda f: (f / "scores.csv").unlink(), "There are no scores yet"),
    "curve": (lambda f: (f / "task-02" / "curve.csv").write_bytes(b"\xff\0,,\n1"), "training curves of tasks 2 are damaged"),
    "identification": (lambda f: (f / "identification.csv").write_text("a,b\n1,2\n"), "identification.csv is damaged"),
    "picture": (lambda f: (f / "task-01" / "pictures" / "dog" / "00-0.png").write_bytes(b"\x89PNG\r\n"), "no picture"),
    "pictures": (lambda f: [shutil.rmtree(p) for p in f.glob("task-*/pictures")], "Retention matrices"),
    "other prompts": (lambda f: rewrite(f, lambda r: r["sequence"].update(prompts={"dog": ["x"]})), "does not contain the prompts"),
    "no prompts": (lambda f: rewrite(f, lambda r: r["sequence"].update(prompts={})), "does not contain the prompts"),
    "interrupted": (lambda f: rewrite(f, lambda r: r.update(status="failed", reason="out of luck")), "out of luck"),
}  # fmt: skip


def rewrite(folder: Path, change: Callable[[dict], Any]) -> None:
    made = json.loads((folder / "run.json").read_text())
    change(made)
    (folder / "run.json").write_text(json.dumps(made))


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_missing_or_damaged_is_said(tmp_path: Path, fast: None, what: str) -> None:
    folder = make_run(tmp_path / "run")
    spoil, says = BROKEN[what]
    spoil(folder)
    text = html_report.write([folder])[0].read_text()
    assert says in Tree(text).words
    assert '<h2 id="made">Definitions' in text


def test_half_a_run(tmp_path: Path) -> None:
    """Stopped in task 2: no scores.csv of the whole yet, costs in the tasks' own files."""
    folder = make_run(tmp_path / "run", rows=[0, 1], status="running", costs={})
    (folder / "scores.csv").unlink()
    for t, rows in ((0, [0]), (1, [1])):
        part = scores_of(CONCEPTS, PROMPTS, rows)
        results.write_scores(folder / f"task-{t:02d}" / "scores.csv", part if t == 0 else part[part["kind"] == "cell"])
    (folder / "task-01" / "cost.json").write_text('{"cost": {"learning_seconds": 7.5, "carried_bytes": {"a": 3}}}')
    (folder / "task-01" / "row.json").write_text('{"cost": {"pictures_drawn": "x", "drawing_seconds": 3}}')
    tree = Tree(html_report.write([folder])[0].read_text())
    assert "not finished (status: running): evaluated up to task 1 of 3" in tree.words
    assert [row[0] for row in tree.table("DINO: identity")][:3] == ["model", "untouched", "task 1"]
    (cost,) = [t for t in tree.tables if t and t[0][:2] == ["task", "learning, s"]]
    assert cost[1][:3] == ["1", "7.5", "-"]  # a file of which a part is no number is not believed


def test_nothing_but_a_record(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(record(CONCEPTS, status="running", costs={})))
    words = Tree(html_report.write([tmp_path])[0].read_text()).words
    assert "There are no scores yet" in words and "No task has been evaluated yet" in words


@pytest.mark.parametrize("name", ["grid.png", "grid.webp"])
def test_a_folder_kept_without_pictures_shows_its_grid(name: str, tmp_path: Path, fast: None) -> None:
    folder = make_run(tmp_path / "run")
    for t in range(4):
        shutil.rmtree(folder / f"task-{t:02d}")
    picture(folder / name, 1, 128)
    picture(folder / "curves.png", 2, 128)
    tree = Tree(html_report.write([folder])[0].read_text())
    kept = ["The time-lapse grid of seqlora rank=4", "The training curves of seqlora rank=4"]
    assert [alt for alt in tree.values("img", "alt") if alt in kept] == kept
    assert "Training curves and norms" in tree.words


def test_other_conventions_are_those_of_the_scores(run: Path, page: str) -> None:
    (rows,) = [rows for head, *rows in Tree(page).tables if head == ["quantity", "after the last task", "convention"]]
    cells = results.read_scores(run / "scores.csv").query("kind == 'cell'")
    expected = []
    for metric, title in (("dino", "DINO"), ("clip_i", "CLIP-I")):
        R = cells[cells["metric"] == metric].groupby(["row", "concept"])["value"].mean().unstack()[CONCEPTS].to_numpy()
        T = len(CONCEPTS)
        every = [max(R[i][j] for i in range(j + 1, T + 1)) - R[T][j] for j in range(T)]
        first = [R[j + 1][j] - R[T][j] for j in range(T - 1)]
        expected += [(f"forgetting, {title}", f"{sum(it) / len(it):.3f}") for it in (every, first)]
    last = cells[(cells["metric"] == "clip_t") & (cells["row"] == T)]
    expected.append(("CLIP-T × 2.5, final average", f"{2.5 * last.groupby('concept')['value'].mean().mean():.3f}"))
    assert [(name, value) for name, value, _ in rows] == expected


def spoiled(value: Any) -> Iterator[Any]:
    """Copies of a record, each with one value, at any depth, that is of another kind, or gone."""
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            for other in (None, [], {}, "x\n<", -1, 1e308, float("nan"), True, [[{}]], {"a": {"b": [1]}}, 10**30):
                yield value | {key: other}
            for inner in spoiled(value[key]):
                yield value | {key: inner}


def test_records_of_anybody_are_a_page_or_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: None) -> None:
    folder = make_run(tmp_path / "run", ["dog"], PROMPTS)
    read, pages = report_data.read_run(folder), 0
    monkeypatch.setattr(pictures, "encoded", lambda *given: None)
    every = [copy.deepcopy(r) for r in spoiled(read.record.as_json())]
    assert len(every) > 500
    for made in every[:: max(1, len(every) // 60)]:
        (folder / "run.json").write_text(json.dumps(made))
        try:
            assert "</html>" in html_report.page([report_data.read_run(folder)])
            pages += 1
        except UserError as error:
            assert "run.json" in str(error)
    assert pages > 20


# Several


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    facts = record(CONCEPTS)["facts"]
    names = ("seqlora", "isolated", "clora")
    return [
        make_run(tmp_path / n, seed=k, facts=facts | {"method": n}, changed={}, hash=f"{k}" * 8)
        for k, n in enumerate(names)
    ]


def test_runs_side_by_side(three: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "both.html"
    assert html_report.write(three, target) == [target]
    text = target.read_text()
    assert_self_contained(text)
    tree = Tree(text)
    for name, folder in zip(("seqlora", "isolated", "clora"), three, strict=True):
        assert len(tree.table(f"{name}: “a … on the beach”")) == 4
        R = matrix(folder, "dino", CONCEPTS).to_numpy()
        (summary,) = [
            t for t, c in zip(tree.tables, tree.captions, strict=True) if c == "DINO: identity" and t[0][0] == "run"
        ]
        row = next(r for r in summary if r[0] == name)
        figures = [cell.partition(" ")[0] for cell in row[1:3]]  # their intervals behind them
        assert figures == [shown(retention.final_average(R)), shown(retention.plasticity(R))]
    assert tree.captions.count("DINO: identity") == 4  # the figures, and a matrix each
    labels = [v for t, n, v in tree.attributes if (t, n) == ("svg", "aria-label")]
    assert labels.count("Plot: DINO") == 1 and labels.count("Plot: train: loss") == 3  # curves together, training apart


def test_names_of_runs_differ_by_what_is_needed(tmp_path: Path, fast: None) -> None:
    config = record(CONCEPTS)["config"]
    folders = [make_run(tmp_path / str(k), config=config | {"seed": k}) for k in (0, 1)]
    words = Tree(html_report.write([*folders, folders[0]], tmp_path / "x.html")[0].read_text()).words
    assert f"2 runs on quick3 v{QUICK3.version}" in words  # one named twice is one
    assert "seqlora rank=4 (seed 0, order 0)" in words and "different seeds" in words


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a")
    other = record(CONCEPTS)["judges"]
    other["dino"]["weights_sha256"] = "ee" * 32
    for name, changes, says in (
        ("judges", {"judges": other}, "their judges differ"),
        ("pictures", {"pictures": "photographs"}, "photographs"),
        ("sequence", {"sequence": record(["dog"])["sequence"]}, "choose runs of the same sequence"),
    ):
        folder = make_run(tmp_path / name, **changes)
        with pytest.raises(UserError, match=says):
            html_report.write([first, folder], tmp_path / "x.html")


# Intervals, plots, confusion


def test_intervals_hold_the_mean_and_need_three() -> None:
    chance = np.random.default_rng(1)
    values = np.column_stack([chance.normal(0.5, 0.1, 40), np.r_[0.1, 0.2, [np.nan] * 38], np.full(40, 0.3)])
    low, high = plots.interval(values)
    assert low[0] < values[:, 0].mean() < high[0]
    error = values[:, 0].std() / np.sqrt(40)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert np.isnan(low[1]) and np.isnan(high[1])
    assert (low[2], high[2]) == pytest.approx((0.3, 0.3))
    assert plots.interval(values)[0] == pytest.approx(low, nan_ok=True)  # the same every time


def test_changes_since_learning() -> None:
    R = np.array([[0.1, 0.2], [0.8, np.nan], [0.5, 0.9]])
    assert plots.changes(R) == pytest.approx(np.array([[0.0, -0.3], [0.0, np.nan]]), nan_ok=True)


def test_inks_can_be_read_on_every_shade() -> None:
    def luminance(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return float(
            np.dot([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb], (0.2126, 0.7152, 0.0722))
        )

    for anchors in (plots.HEAT, plots.HEAT_DARK):
        for colour in plots.shades(anchors, plots.LEVELS):
            high, low = sorted((luminance(colour), luminance(plots.ink_on(colour))), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5  # what WCAG asks of small text


def test_plots_as_files(run: Path, tmp_path: Path) -> None:
    page, folder = html_report.write([run], tmp_path / "page.html", with_plots=True)
    assert folder == tmp_path / "page-plots"
    names = {"forgetting", "concepts", "training", "time-lapse", *(f"matrix-{m}" for m in METRICS)}
    assert {f.name for f in folder.iterdir()} == {f"{n}.{e}" for n in names for e in ("png", "svg")}
    for file in folder.glob("*.png"):
        assert min(Image.open(file).size) > 150
    assert all("<svg" in f.read_text() for f in folder.glob("*.svg"))


def test_confusion_where_there_is_a_table_of_it(run: Path, page: str, tmp_path: Path, fast: None) -> None:
    assert "Confusion" not in page
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    rows = [(3, "dog", "dog", 6), (3, "dog", "dog2", 2), (3, "backpack", "backpack", 8), (3, "dog2", "dog", 8)]
    pd.DataFrame([*rows, (1, "dog", "dog", 8)], columns=CONFUSION).to_csv(folder / "identification.csv", index=False)
    tables = [
        t
        for t in Tree(html_report.write([folder])[0].read_text()).tables
        if t and t[0][0] == "prompt" and t[0][-1] == "correct"
    ]
    assert tables[0] == [
        ["prompt", *CONCEPTS, "correct"],
        ["dog", "6", "0", "2", "75 %"],
        ["backpack", "0", "8", "0", "100 %"],
        ["dog2", "8", "0", "0", "0 %"],
    ]
    assert tables[1] == [["prompt", "dog", "correct"], ["dog", "8", "100 %"]]


# The command


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable:
    monkeypatch.chdir(tmp_path)

    def called(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cpbench", "report", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        said = capsys.readouterr()
        return code, said.out, said.err

    return called


def test_the_command_prints_the_path(call: Callable, run: Path, tmp_path: Path, fast: None) -> None:
    assert call(run.parent) == (0, f"{run / 'report.html'}\n", "")  # the only run below
    assert call(run, "--output", "a/b.html")[:2] == (0, "a/b.html\n")
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert call(run, other)[:2] == (0, "report.html\n")
    (tmp_path / "results").mkdir()
    assert call(run, other)[:2] == (0, "results/report.html\n")


def test_wrong_input_is_one_line_and_exit_code_2(call: Callable, run: Path, tmp_path: Path) -> None:
    for name, text in (
        ("cut", '{"schema": 1, "sta'),
        ("schema", '{"schema": 7}'),
        ("list", "[]"),
        ("empty", '{"schema": 1}'),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "file").write_text("")
    (tmp_path / "bare").mkdir()
    for words in (["cut"], ["schema"], ["list"], ["empty"], ["gone"], ["bare"], ["."], ["file"], [run, "--output", "bare"], [], [run, "--output", "file/x.html"]):  # fmt: skip
        code, out, said = call(*words)
        assert code == 2 and out == "", (words, said)
        assert len(said.splitlines()) == 1 and said.startswith("cpbench: ") and "Traceback" not in said, said


def test_a_finished_run_stays_finished(run: Path, tmp_path: Path) -> None:
    """A run answers for the files beside its run.json: a page or a plot there must not be one of them."""
    from cpbench.records.folder import RunFolder
    from cpbench.running.bookkeeping import shown_files

    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    before = shown_files(RunFolder(folder))
    html_report.write([folder], with_plots=True)
    assert (folder / "report-plots" / "forgetting.png").exists() and shown_files(RunFolder(folder)) == before


# In a browser


@pytest.mark.skipif(not browser.found(), reason="there is no Chromium here")
def test_in_a_browser(run: Path, page: str, three: list[Path], tmp_path: Path) -> None:
    side_by_side = html_report.write(three, tmp_path / "both.html")[0]
    with browser.browser() as seen:
        for file in (run / "report.html", side_by_side):
            browser.check_legible(seen, file)
        seen.open(run / "report.html", 1600)
        visible = "[...document.querySelectorAll('.panel')].map(p => p.getBoundingClientRect().height > 0)"
        assert seen.evaluate(visible) == [True, False, False, False]
        seen.evaluate("document.querySelector('input[name=prompt]').focus()")
        seen.press("ArrowRight", 39)
        assert seen.evaluate(visible) == [False, True, False, False]  # by keyboard, and without a script
        seen.evaluate("document.querySelector('#gallery').closest('section').querySelectorAll('summary')[1].focus()")
        seen.press("Enter", 13)
        assert seen.complaints() == []


def test_measures_and_pairs_are_told_where_they_are(tmp_path: Path, fast: None) -> None:
    folder = make_run(tmp_path / "r")
    assert "Other measures" not in html_report.page([report_data.read_run(folder)])
    lines = [(t, "moved", noun, 0.1 * t + k) for t in range(4) for k, noun in enumerate(("cat", EVIL))]
    table = pd.DataFrame(lines, columns=["row", "measure", "concept", "value"])
    (folder / "measures.csv").write_text(table.to_csv(index=False))
    scores = results.read_scores(folder / "scores.csv")
    pairs = [
        (t, "pair", "dog+backpack", "a {} and a {}", 0, m, 0.25 + t) for t in (0, 3) for m in ("dino_first", "both")
    ]
    results.write_scores(folder / "scores.csv", pd.concat([scores, pd.DataFrame(pairs, columns=SCORE_COLUMNS)]))
    text = html_report.page([report_data.read_run(folder)])
    beyond = text[text.index('id="beyond"') : text.index('id="gallery"')]
    cells = re.findall(r"<tr><th scope=\"row\">([^<]*)</th>((?:<td>[^<]*</td>)+)", beyond)
    found = [(name, re.findall(r"<td>([^<]*)</td>", row)) for name, row in cells]
    moved = [("untouched", ["0.500"]), ("task 1", ["0.600"]), ("task 2", ["0.700"]), ("task 3", ["0.800"])]
    assert found == [*moved, ("untouched", ["0.250", "-", "-", "0.250"]), ("task 3", ["3.250", "-", "-", "3.250"])]

    more = [(3, "identified", c, v) for c, v in zip(("dog", "backpack", "dog2"), (0.2, 0.8, 0.5), strict=True)]
    table = pd.concat([table, pd.DataFrame([*more, (3, "A_mmd", "", 4.5)], columns=table.columns)])
    (folder / "measures.csv").write_text(table.to_csv(index=False))
    heads, *rows = next(t for t in Tree(html_report.page([report_data.read_run(folder)])).tables if "A_mmd ↓" in t[0])
    assert heads == ["model", "identified ↑", "language drift ↓", "A_mmd ↓"]
    found = bootstrap([0.2, 0.8, 0.5], ["a", "b", "c"])
    assert rows[3] == ["task 3", f"0.500 {found.low:.3f} to {found.high:.3f}", "0.800", "4.500"]

    table = pd.DataFrame([(3, "KID-dino", "", 0.000444)], columns=table.columns)
    (folder / "measures.csv").write_text(table.to_csv(index=False))
    pairs = [
        (3, "pair", pair, "a {} and a {}", 0, m, v)
        for pair, v in (("a+b", 0.1), ("b+c", 0.2), ("c+a", 0.6))
        for m in ("dino_first", "dino_second")
    ]
    results.write_scores(folder / "scores.csv", pd.concat([scores, pd.DataFrame(pairs, columns=SCORE_COLUMNS)]))
    tables = Tree(html_report.page([report_data.read_run(folder)])).tables
    assert ["model", "KID-dino × 1000 ↓"] in [t[0] for t in tables] and ["task 3", "0.444"] in [t[-1] for t in tables]
    found = bootstrap([0.1, 0.2, 0.6], ["a+b", "b+c", "c+a"])
    assert ["task 3", f"0.300 {found.low:.3f} to {found.high:.3f}", "-", "-", "-"] in [t[-1] for t in tables]

    (folder / "measures.csv").write_text("no table")
    assert "measures.csv is damaged and left out." in html_report.page([report_data.read_run(folder)])
