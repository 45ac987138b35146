"""Thousands of broken inputs to what reads files of others: a result or one line, and nothing written elsewhere.

`make fuzz` goes on for CPBENCH_FUZZ_SECONDS (half an hour), shared by the tests here; without it each takes a few inputs.
"""

import contextlib
import copy
import gzip
import hashlib
import io
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save

from cpbench import config
from cpbench.cli import describing
from cpbench.concepts import images, sequences
from cpbench.errors import UserError
from cpbench.files import FILE_NAME, read_json, short_hash
from cpbench.finished import load as finished
from cpbench.judges import embeddings
from cpbench.judges.embeddings import Embeddings
from cpbench.judges.select import load_judges
from cpbench.leaderboard import board
from cpbench.method import State
from cpbench.metrics import matrices
from cpbench.metrics.matrices import reference_row
from cpbench.records import curves, measures_table
from cpbench.records import tables as results
from cpbench.records.measures_table import read_confusion
from cpbench.records.reading import parsed
from cpbench.records.tables import table_bytes
from cpbench.registry import built_in_methods
from cpbench.report import data as report_data
from cpbench.report import paired_runs
from cpbench.report import tables as report_tables
from cpbench.running import sweep

ROOT = Path(__file__).resolve().parents[1]
SECONDS = float(os.environ.get("CPBENCH_FUZZ_SECONDS", "0"))
LONGEST_LINE = 6000  # characters; names of 5000 are among what is tried
FEW = settings(
    max_examples=300 if SECONDS else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def again(test: Callable[[], None]) -> None:
    """The test once, and where there is time for more, again and again with other inputs."""
    tests = sum(name.startswith("test_") for name in globals())
    end = time.monotonic() + SECONDS / tests
    test()
    while time.monotonic() < end:
        test()


# Nothing is written but in one folder, no process is started, nothing is unpickled

_allowed: str | None = None
_seen: list[str] = []
CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "os.link", "os.rename", "os.chmod")
NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


def _hook(event: str, args: tuple) -> None:
    if _allowed is None:
        return
    paths: tuple = ()
    if event == "open":
        path, mode, flags = args
        writes = any(c in (mode or "") for c in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        paths = (path,) if writes else ()
    elif event in CHANGES:
        paths = args[:2] if event in ("os.rename", "os.link") else args[:1]
    elif event in NEVER:
        _seen.append(f"{event} {args}")
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            real = os.path.realpath(os.fsdecode(path))
            if not (real + os.sep).startswith(_allowed) and "__pycache__" not in real and real != os.devnull:
                _seen.append(f"{event} {real}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def nothing_outside(folder: Path) -> Iterator[None]:
    global _allowed
    _allowed = os.path.realpath(folder) + os.sep
    _seen.clear()
    try:
        yield
    finally:
        _allowed = None
    assert _seen == []


def result(folder: Path, read: Callable[..., Any], *args: Any) -> Any:
    """What `read` returns; None if it says in one line what is wrong. Any other error is a find."""
    with nothing_outside(folder), contextlib.redirect_stdout(io.StringIO()):
        try:
            return read(*args)
        except UserError as error:
            line = str(error)
    assert line.strip() and len(line.splitlines()) == 1 and "Traceback" not in line
    assert len(line) < LONGEST_LINE
    return None


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, where no name that comes up is one of a file."""
    monkeypatch.delenv("CPBENCH_DATA", raising=False)
    monkeypatch.setenv("CPBENCH_CACHE", "")
    (tmp_path / "start").mkdir()
    monkeypatch.chdir(tmp_path / "start")


# Inputs

TOKENS = [
    "&a", "*a", "!!int", "!!bool x", "!!binary", "!!python/object/apply:os.getcwd []", "!!set", "!!timestamp", "<<: *a",
    "? ", "- ", ": ", "{}", "[", "]", "{", "}", "|", ">", "---", "...", "#", ",", "'", '"', "''", "`", "\t", "\r\n", "\n", "\n\n",
    "\0", "\ufeff", "\x85", "\u2028", "\ud800", "\x1b[2J", "../", "..", "~", "~root", "/", "//", "\\", "%s", "{name}", "{0}",
    "1e400", "-1e400", ".inf", ".nan", "0x", "0o9", "1:1:1", "2024-13-45", "2024-01-01", "on", "null", "true", "Infinity", "NaN",
    "<b>", "|||", "[x](y)", "=1+1",
]  # fmt: skip
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2**31, 2**63, 10**400, -(10**400), 0.5, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", ".", "..", "../../x", "/", "/dev/zero", "~nobody", "a\0b", "a\nb", "\x1b[2J", "\u202e", "x" * 300, "x" * 5000,
    "<b>|`[x](y)", "{name}", "{}", "{0.__class__}", "[/bold]", "%s%n", "CON", "évé", "犬", "null", "miniature", "hub",
    [], [[]], [None], ["x", "x"], [1, "x", {}], {}, {"": ""}, {"a": {"b": {}}}, {"concepts": []}, [[[[[[]]]]]],
]  # fmt: skip
WORDS = st.text(max_size=12) | st.sampled_from([t for t in TOKENS if "\ud800" not in t])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.sampled_from(ODD)
TREES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4), max_leaves=12
)


@st.composite
def spoiled(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """One of the files with some bytes, words and pieces changed, gone, twice or in another place."""
    data = draw(st.sampled_from(whole))
    for _ in range(draw(st.integers(1, 6))):
        at, end = (draw(st.integers(0, len(data))) for _ in range(2))
        at, end = sorted((at, end))
        end = min(end, at + draw(st.sampled_from([1, 4, 20, 10**6])))
        how = draw(st.sampled_from(["flip", "cut", "end", "twice", "token", "bytes", "move"]))
        if how == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :]
        elif how == "cut":
            data = data[:at] + data[end:]
        elif how == "end":
            data = data[:at]
        elif how == "twice":
            data = data[:end] + data[at:end] + data[end:]
        elif how == "token":
            data = data[:at] + draw(st.sampled_from(TOKENS)).encode(errors="surrogatepass") + data[at:]
        elif how == "bytes":
            data = data[:at] + draw(st.binary(max_size=8)) + data[end:]
        else:
            data = data[at:end] + data[:at] + data[end:]
    return data[:100_000]


def change(draw: st.DrawFn, tree: Any, most: int = 3) -> Any:
    """A copy of the tree in which some entries are others, gone, or under another name."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        spot = tree
        while True:
            keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(spot[key], dict | list) and spot[key] and draw(st.integers(0, 3)):
                spot = spot[key]
                continue
            how = draw(st.integers(0, 5))
            if how == 0:
                del spot[key]
            elif how == 1 and isinstance(spot, dict):
                spot[draw(WORDS)] = spot.pop(key)
            else:
                spot[key] = copy.deepcopy(draw(st.sampled_from(ODD) | TREES))
            break
    return tree


def as_yaml(tree: Any) -> str:
    """By PyYAML where it can, else as JSON, which is YAML but for odd characters."""
    try:
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    except Exception:
        return json.dumps(tree, default=str)


# Sequences

MINE = {
    "name": "mine",
    "version": 1,
    "description": "my dog and my cup",
    "prompts": {"live": ["a {} in the snow", "a {} [b]"], "object": ["a wet {}"]},
    "images": {"folder": "photos/{name}"},
    "concepts": [
        {"name": "rex", "class_noun": "dog", "kind": "live"},
        {"name": "cup", "class_noun": "can", "kind": "object", "images": {"folder": "/data/cup", "drawn": True}},
    ],
    "evaluation": {
        "live": ["a {} in the snow"],
        "object": ["a wet {}"],
        "pictures_per_prompt": 2,
        "guidance_scale": 4.0,
        "photographs": {"num_inference_steps": 50},
    },
}


@cache
def built_in() -> list[bytes]:
    return [f.read_bytes() for f in sorted((ROOT / "tasks").rglob("*.yaml"))] + [as_yaml(MINE).encode()]


def read_sequence(folder: Path, data: bytes) -> None:
    """Read it, and do with it what is done before anything is spent."""
    path = folder / "any.yaml"
    path.write_bytes(data)
    began = time.monotonic()
    seq = result(folder, sequences.load, path)
    assert time.monotonic() - began < 20
    if seq is None:
        return
    sequences.content_hash(sequences.ordered(seq, 1))
    result(folder, describing.sequence, str(path))
    for concept in seq.concepts[:3]:
        assert ".." not in Path(concept.images or "").parts and FILE_NAME.fullmatch(concept.name)
        result(folder, images.load, concept, "sd15", 16)


def test_sequences_of_any_text(tmp_path: Path) -> None:
    @FEW
    @given(st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS) | st.text(max_size=5), max_size=40))
    def any_text(data: bytes | list[str]) -> None:
        read_sequence(tmp_path, data if isinstance(data, bytes) else "".join(data).encode(errors="surrogatepass"))

    again(any_text)


def test_sequences_that_are_spoiled(tmp_path: Path) -> None:
    @FEW
    @given(spoiled(built_in()))
    def spoiled_files(data: bytes) -> None:
        read_sequence(tmp_path, data)

    again(spoiled_files)


def test_sequences_that_are_nearly_right(tmp_path: Path) -> None:
    @FEW
    @given(st.data())
    def nearly_right(data: st.DataObject) -> None:
        read_sequence(tmp_path, as_yaml(change(data.draw, MINE)).encode(errors="surrogatepass"))

    again(nearly_right)


# Configurations

ASKED = {
    "method": "seqlora",
    "sequence": "quick3",
    "backbone": "miniature",
    "seed": 1,
    "order": 0,
    "output": "out",
    "device": "cpu",
    "data": "photos",
    "fit": "crop",
    "loading": {"dtype": "auto", "resolution": 64, "revision": "main", "vae": "some/vae", "offload": False},
    "allow_pickle": False,
    "keep_states": "all",
    "options": {"steps": 3, "rank": 2, "learning_rate": 0.001, "target_modules": ["to_q", "to_k"]},
    "evaluation": {"pictures_per_prompt": 1, "guidance_scale": 4.0, "batch_size": 4},
}


GRID = {
    "methods": ["seqlora", "seqlora steps=4 evaluation.batch_size=2"],
    "sequences": ["quick3"],
    "backbones": ["miniature"],
    "seeds": [0, 1],
    "orders": [0],
    "common": {k: v for k, v in ASKED.items() if k not in ("method", "sequence", "backbone", "seed", "order")},
}
SETTINGS = ("evaluation.num_inference_steps=2", "learning_rate=0.01")


@st.composite
def written(draw: st.DrawFn, tree: Any) -> bytes:
    """A YAML file that says nearly this, or that was spoiled, or any other."""
    if draw(st.booleans()):
        return as_yaml(change(draw, tree)).encode(errors="surrogatepass")
    return draw(spoiled([as_yaml(tree).encode()]) | TREES.map(as_yaml).map(str.encode) | st.binary(max_size=50))


def test_config_files(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    config.resolve(ASKED)

    @FEW
    @given(written(ASKED), st.booleans())
    def config_files(text: bytes, more: bool) -> None:
        path.write_bytes(text)
        found = result(tmp_path, config.resolve, {}, path, SETTINGS if more else ())
        if found is not None:
            assert config.resolve(json.loads(found[0].model_dump_json())) == found  # as its record says it

    again(config_files)


def test_grid_files(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"

    def jobs(more: bool) -> list[sweep.Job]:
        grid, output = sweep.grid_from(str(path), dict.fromkeys(sweep.AXES), None, SETTINGS if more else (), {})
        assert isinstance(output, Path)
        return sweep.jobs_of(grid)

    path.write_text(as_yaml(GRID))
    assert len(jobs(True)) == 4

    @FEW
    @given(written(GRID), st.booleans())
    def grid_files(text: bytes, more: bool) -> None:
        path.write_bytes(text)
        for job in result(tmp_path, jobs, more) or ():
            assert len(f"{job.name}.progress".encode()) < 256 and "/" not in job.name
            assert yaml.safe_load(yaml.safe_dump(job.settings)) == job.settings

    again(grid_files)


def test_settings_of_the_command_line(tmp_path: Path) -> None:
    methods = built_in_methods()
    keys = st.sampled_from(
        ["steps", "rank", "learning-rate", "target_modules", "evaluation.batch_size", "evaluation.", "."]
    )
    values = TREES.map(as_yaml) | WORDS | st.sampled_from(TOKENS)

    @FEW
    @given(
        st.sampled_from(methods),
        st.lists(st.tuples(keys | WORDS, st.sampled_from(["=", "", "=="]), values), max_size=3),
    )
    def settings_of(method: str, pairs: list[tuple[str, str, str]]) -> None:
        asked = {"method": method, "sequence": "quick3"}
        result(tmp_path, config.resolve, asked, None, tuple("".join(p) for p in pairs))

    again(settings_of)


# Results


@cache
def kept() -> Path:
    """A small run as the runner wrote it."""
    return sorted((ROOT / "results" / "reference").glob("quick3/**/run.json"))[0].parent


@cache
def record() -> dict[str, Any]:
    """Its run.json."""
    it = json.loads((kept() / "run.json").read_text())
    it["sequence"] |= {"class_nouns": {c: "dog" for c in it["sequence"]["concepts"]}}
    return it


def read_run(folder: Path, text: bytes) -> None:
    run, out = folder / "results" / "run", folder / "out"
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.json").write_bytes(text)
    read_json(run / "run.json")
    result(out, board.write, folder / "results", out)
    if (out / "leaderboard.md").exists():
        for line in (out / "leaderboard.md").read_text().splitlines():
            # no HTML and no link but the pictures'
            assert not re.search(r"<[a-z/!]|(?<!\\)\]\((?!methods-[A-Za-z0-9_.-]+\.png\))|(?<!\\)`", line), line
        page = (out / "leaderboard.html").read_text()
        assert page.count("<script") == 1 and "<img" not in page
        for file in out.iterdir():
            file.unlink()
    result(out, finished.open_run, run)  # there is no state: nothing is loaded


def true_hash(made: Any) -> Any:
    """The record with the hash of its facts, which anybody can write."""
    facts = made.get("facts") if isinstance(made, dict) else None
    return made | {"hash": short_hash(facts)} if isinstance(facts, dict) else made


def test_records_of_runs(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "results" / "run").mkdir(parents=True)
    for name in ("scores.csv", "measures.csv"):
        (tmp_path / "results" / "run" / name).write_bytes(table_bytes(kept() / name))
    pictures = tmp_path / "results" / "run" / "task-00" / "pictures" / record()["sequence"]["concepts"][0]
    pictures.mkdir(parents=True)
    (pictures / "real.png").write_bytes((ROOT / "docs" / "isolated-dreambench10.webp").read_bytes()[:1000])
    whole = [json.dumps(record()).encode()]

    @FEW
    @given(st.data())
    def records(data: st.DataObject) -> None:
        how = data.draw(st.integers(0, 4))
        if how == 0:
            text = data.draw(spoiled(whole))
        else:
            made = data.draw(TREES) if how == 1 else change(data.draw, record())
            text = json.dumps(true_hash(made) if data.draw(st.integers(0, 3)) else made, default=str).encode()
        read_run(tmp_path, text)

    again(records)


def test_tables_of_scores(tmp_path: Path) -> None:
    found = sorted((ROOT / "results" / "reference").glob("**/scores.csv.gz"))[:2]
    whole = [gzip.decompress(f.read_bytes())[:3000] for f in found]
    path = tmp_path / "scores.csv"

    @FEW
    @given(spoiled(whole) | st.binary(max_size=200), st.booleans())
    def tables(data: bytes, is_compressed: bool) -> None:
        if is_compressed:
            path.unlink(missing_ok=True)
            path.with_name("scores.csv.gz").write_bytes(
                data if len(data) % 2 else gzip.compress(data)[: 20 + len(data)]
            )
        else:
            path.write_bytes(data)
        with nothing_outside(tmp_path):
            scores = results.read_scores(path)
            if scores is None:
                return
            matrices.matrices(scores, ["dog", "backpack"])
            reference_row(scores, "real", "dino", ["dog"])
            again_path = tmp_path / "again.csv"
            results.write_scores(again_path, scores)
            assert results.read_scores(again_path) is not None

    again(tables)


def test_tables_of_measures(tmp_path: Path) -> None:
    lines = "1,identified,dog,0.5\n1,A_mmd,,12.25\n1,moved,stuffed animal,\n"
    whole = [f"row,measure,concept,value\n{lines}".encode(), b"row,concept,nearest,count\n1,dog,cat,3\n1,dog,dog,5\n"]

    @FEW
    @given(spoiled(whole) | st.binary(max_size=200))
    def tables(data: bytes) -> None:
        for name, read in (("measures.csv", measures_table.read), ("identification.csv", read_confusion)):
            (tmp_path / name).write_bytes(data)
            with nothing_outside(tmp_path):
                table = read(tmp_path)
                if table is not None and name == "measures.csv":
                    assert all(isinstance(v, float) for v in measures_table.summary(table, 1).values())

    again(tables)


TABLES = "scores.csv", "measures.csv", "identification.csv"


def test_runs_with_any_tables(tmp_path: Path) -> None:
    """Leaderboard, report and comparison of a sound record and tables that are not."""
    run, out = tmp_path / "results" / "run", tmp_path / "out"
    run.mkdir(parents=True)
    out.mkdir()
    (run / "run.json").write_text(json.dumps({k: v for k, v in record().items() if k != "files"}))
    whole = {name: table_bytes(kept() / name) for name in TABLES}

    @FEW
    @given(st.data())
    def tables(data: st.DataObject) -> None:
        for name, content in whole.items():
            (run / name).write_bytes(data.draw(st.just(content) | spoiled([content])))
        result(out, board.write, tmp_path / "results", out)
        shown = result(out, report_data.read_run, run)
        with nothing_outside(out):
            assert all(isinstance(it, dict) for it in (shown.summary, shown.intervals))
            report_tables.heat_tables(shown, report_tables.scales([shown]), 100)
            report_tables.summary_rows(shown)
            report_tables.confusion(shown)
        result(out, paired_runs.compare_runs, run, kept())

    again(tables)


def test_training_curves(tmp_path: Path) -> None:
    """As `report` reads them, and as the runner plots them at the end of a run."""
    run = tmp_path / "run"
    (run / "task-01").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps(record()))
    lines = "train,0,0.5,1,\ntrain,1,0.25,1e-9,\nfisher,0,,,3\ntrain,2,nan,-inf,\n"
    whole = [f"phase,step,loss,norm,fisher\n{lines}".encode(), b"phase,step,loss\ntrain,0,0.5\n"]
    concepts = record()["sequence"]["concepts"]
    header = b"phase,step,loss,loss,\xce\xb1$x$\n"
    cells = st.sampled_from(
        ["train", "", "0", "-1", "1.5", "1e308", "-1e308", "1e-320", "nan", "inf", "$\\frac{", "a" * 300]
    )
    rows = st.lists(st.lists(cells, min_size=5, max_size=5).map(",".join), max_size=6)

    @FEW
    @given(spoiled(whole) | st.binary(max_size=200) | rows.map(lambda it: header + "\n".join([*it, ""]).encode()))
    def a_curve(data: bytes) -> None:
        (run / "task-01" / "curve.csv").write_bytes(data)
        shown = report_data.from_record(parsed(record()), run)
        with nothing_outside(run):
            report_data.add_curves(shown)
        assert list(shown.curves.columns) == ["task", "phase", "step", "figure", "value"]
        with matplotlib_at_rest(), nothing_outside(run):
            curves.plot(run, concepts, run / "curves.png")

    again(a_curve)


@contextlib.contextmanager
def matplotlib_at_rest() -> Iterator[None]:
    """Without its warnings, and its fonts found before."""
    from matplotlib import font_manager

    font_manager.findfont("sans")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_embeddings(tmp_path: Path) -> None:
    """What is kept of a judge's embeddings is what the judge says, or is made again."""
    judge = load_judges("miniature")["dino"]
    pictures = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), np.uint8)
    expected = judge.images(pictures)
    first = Embeddings(tmp_path, judge)
    first.images(pictures[:2])
    first.save()
    whole = first.file.read_bytes()
    tensors = load(whole)
    with safe_open(first.file, framework="np") as opened:
        said = opened.metadata()
    shapes = st.sampled_from([(), (0,), (1,), (5,), (64,), (2, 64), expected.shape[1:], (*expected.shape[1:], 1)])
    kinds = st.sampled_from(["float32", "float16", "float64", "int64", "bool"])

    @FEW
    @given(st.data())
    def kept_ones(data: st.DataObject) -> None:
        if data.draw(st.booleans()):
            first.file.write_bytes(data.draw(spoiled([whole]) | st.binary(max_size=200)))
            sound = True  # checked by their hash
        else:  # of another shape or kind, with or without a hash that is right, as anybody can make it
            shape, kind = data.draw(shapes), data.draw(kinds)
            others = {k: np.full(shape, data.draw(st.sampled_from([0, 1, np.nan])), np.float64) for k in tensors}
            with np.errstate(invalid="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                others = {k: v.astype(kind) for k, v in others.items()}
            right = data.draw(st.booleans())
            facts = change(data.draw, said, 1) if not right else said | {"sha256": embeddings._digest(others)}
            facts = {str(k): str(v) for k, v in facts.items()}
            first.file.write_bytes(save(others, {k: v for k, v in facts.items() if "\0" not in k + v}))
            sound = not right or shape != expected.shape[1:] or kind != "float32"
        with nothing_outside(tmp_path):
            found = Embeddings(tmp_path, judge).images(pictures)
        assert found.shape == expected.shape
        if sound:
            assert np.allclose(found, expected, atol=1e-5)

    again(kept_ones)


def test_states(tmp_path: Path) -> None:
    State({"adapter/a": torch.arange(6.0).reshape(2, 3), "token/dog": torch.ones(5)}, {"concepts": ["dog"]}).save(
        tmp_path
    )
    words, tensors = tmp_path / "state.json", tmp_path / "state.safetensors"
    whole_record, whole_words, whole_tensors = json.loads(words.read_text()), words.read_bytes(), tensors.read_bytes()

    @FEW
    @given(st.data())
    def states(data: st.DataObject) -> None:
        content = data.draw(st.just(whole_tensors) | spoiled([whole_tensors]))
        tensors.write_bytes(content)
        if data.draw(st.booleans()):
            words.write_bytes(data.draw(spoiled([whole_words])))
        else:  # with checksums that are right, as anybody can make them
            made = change(data.draw, whole_record | {"sha256": hashlib.sha256(content).hexdigest()}, 2)
            made.pop("checksum", None)
            checksum = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
            words.write_text(json.dumps(made | {"checksum": checksum}))
        state = result(tmp_path, State.load, tmp_path)
        if state is not None:
            assert all(isinstance(c, str) for c in state.concepts) and state.bytes_by_type() is not None

    again(states)


def test_json_of_any_kind(tmp_path: Path) -> None:
    path = tmp_path / "cost.json"

    @FEW
    @given(TREES.map(lambda tree: json.dumps(tree, default=str).encode()) | st.binary(max_size=50))
    def any_json(data: bytes) -> None:
        path.write_bytes(data)
        with nothing_outside(tmp_path):
            read_json(path)

    again(any_json)
