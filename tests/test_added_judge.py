"""A package with a method, a sequence and a judge, built and installed, runs; its judge is that of docs/adding-a-judge.md."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cpbench.errors import UserError
from cpbench.judges import added
from cpbench.judges.identity import COMPARED
from cpbench.metrics import scores
from cpbench.metrics.scores import Score
from cpbench.records.record import JudgeFacts
from cpbench.running.prepare import added_judges

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "adding-a-judge.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
PACKAGE = """packages = ["cpbench_nothing"]

[tool.setuptools.package-data]
cpbench_nothing = ["*.yaml"]
"""
MORE = """
[project.entry-points."cpbench.methods"]
nothing = "cpbench_nothing:Nothing"

[project.entry-points."cpbench.sequences"]
two = "cpbench_nothing:SEQUENCE"
"""
METHOD = '''"""Nothing is learned."""

from pathlib import Path

from cpbench.method import Method, Options, State

SEQUENCE = Path(__file__).with_name("cpbench_nothing.yaml")


class Nothing(Method):
    Options = Options

    def learn(self, backbone, task, state):
        return State({}, {"concepts": [*state.concepts, task.concept]})

    def install(self, backbone, state, concepts, prompts):
        pass

    def phrase(self, concept, class_noun, state):
        return class_noun
'''


def block(kind: str) -> str:
    return next(code for found, code in BLOCKS if found == kind)


def command(*words: str | Path, cwd: Path, path: Path | None = None) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(short: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the package is installed in."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    (package := source / "cpbench_nothing").mkdir()
    (source / "pyproject.toml").write_text(block("toml") + PACKAGE + MORE)
    (source / "cpbench_colours.py").write_text(block("python"))
    (package / "__init__.py").write_text(METHOD)
    (package / "cpbench_nothing.yaml").write_text(short.read_text().replace("name: short", "name: two"))
    command("-m", "build", "--wheel", "--no-isolation", "--outdir", source / "dist", source, cwd=source)
    (wheel,) = (source / "dist").glob("*.whl")
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    command(*pip, cwd=source)
    return target


@pytest.fixture(scope="module")
def out(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs with and without the judge, their leaderboard and the first one's report."""
    folder = tmp_path_factory.mktemp("out")
    given = ("--sequence", "two", "--no-overlap", "--output", "results/runs")
    for more in (("--judge", "colours"), ()):
        command("-m", "cpbench", "run", "--method", "nothing", *given, *more, cwd=folder, path=installed)
    command("-m", "cpbench", "leaderboard", cwd=folder, path=installed)
    command("-m", "cpbench", "report", judged(folder), cwd=folder, path=installed)
    command("-m", "cpbench", "score", unjudged(folder), "--judge", "colours", cwd=folder, path=installed)
    return folder


def runs(folder: Path) -> dict[bool, Path]:
    """The two run folders, by whether the judge was asked."""
    files = sorted((folder / "results" / "runs").rglob("run.json"))
    return {"colours" in json.loads(file.read_text())["judges"]: file.parent for file in files}


def judged(folder: Path) -> Path:
    return runs(folder)[True]


def unjudged(folder: Path) -> Path:
    return runs(folder)[False]


def counted(picture: np.ndarray) -> dict[tuple[int, ...], float]:
    """Shares of a picture's pixels by colour, one pixel at a time."""
    found: dict[tuple[int, ...], float] = {}
    for pixel in picture.reshape(-1, 3).tolist():
        key = tuple(value // 64 for value in pixel)
        found[key] = found.get(key, 0.0) + 1 / (picture.size // 3)
    return found


def shared(a: np.ndarray, b: np.ndarray) -> float:
    ours, theirs = counted(a), counted(b)
    return sum(min(share, theirs.get(key, 0.0)) for key, share in ours.items())


def test_the_scores_are_those_of_the_kept_pictures(out: Path) -> None:
    from PIL import Image

    from cpbench.concepts import held_out, images
    from cpbench.records.folder import RunFolder, picture_name

    folder = judged(out)
    table = pd.read_csv(folder / "scores.csv")
    own = table[table["metric"].str.startswith("colours")]
    assert {(kind, metric) for kind, metric in zip(own["kind"], own["metric"], strict=True)} == {
        ("cell", "colours"), ("oracle", "colours"), ("real", "colours"), ("pair", "colours_first"), ("pair", "colours_second"),
    }  # fmt: skip
    real = held_out.further_drawings("dog", 8)
    for k in (0, 1):
        with Image.open(RunFolder(folder).task(2).pictures("dog") / picture_name(0, k)) as opened:
            picture = np.asarray(opened.convert("RGB"))
        expected = np.mean([shared(picture, it) for it in real])
        ((value,),) = own[(own["row"] == 2) & (own["concept"] == "dog") & (own["index"] == k)][["value"]].to_numpy()
        assert value == pytest.approx(expected, abs=1e-6)
    pairs = [shared(a, b) for a in images.rendered("dog") for b in real]  # what is learned from, against these
    ((ceiling,),) = own[(own["kind"] == "real") & (own["concept"] == "dog")][["value"]].to_numpy()
    assert ceiling == pytest.approx(np.mean(pairs), abs=1e-6)


def test_a_run_without_it_is_another_run_with_the_same_other_scores(out: Path) -> None:
    with_it, without = (pd.read_csv(folder / "scores.csv") for folder in (judged(out), unjudged(out)))
    assert judged(out).parent.name != unjudged(out).parent.name
    rest = with_it[~with_it["metric"].str.startswith("colours")].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, without)


def test_the_record_the_report_and_the_leaderboard_have_it(out: Path) -> None:
    record = json.loads((judged(out) / "run.json").read_text())
    table = pd.read_csv(judged(out) / "scores.csv")
    end = table[(table["kind"] == "cell") & (table["row"] == 2) & (table["metric"] == "colours")]
    final = end.groupby("concept")["value"].mean().mean()
    assert record["figures"]["colours"]["final_average"] == pytest.approx(final, abs=2e-6)
    assert record["facts"]["judges"]["colours"]["feature"].endswith("version 1")
    assert record["config"]["judges"] == ["colours"]
    with (out / "results" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["colours_final_average"] for row in rows) == [
        "",
        f"{record['figures']['colours']['final_average']:.6f}",
    ]
    assert len({row["group"] for row in rows}) == 2  # runs with other judges are not compared
    assert "| colours final |" in (out / "results" / "leaderboard.md").read_text()
    page = (judged(out) / "report.html").read_text()
    assert "colours: share of the picture in the colours of the real ones" in page
    assert "--judge colours" in page
    assert (judged(out) / "matrix-colours.csv").is_file()


def test_saved_pictures_are_scored_by_it(out: Path) -> None:
    """As they are in the run that asked it."""
    (scored,) = (unjudged(out) / "scored").iterdir()
    again, first = (pd.read_csv(folder / "scores.csv") for folder in (scored, judged(out)))
    pd.testing.assert_frame_equal(again, first, atol=2e-6, rtol=0)


# What is refused


def entry(monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(added, "module", lambda name: found)


def a_score(**changes: Any) -> Score:
    given = {"name": "x", "title": "x", "says": "x", "judge": "mine", "against": "pictures", "of": lambda a, b: a[:, 0]}
    return Score(**given | changes)


class Mine:
    name = "mine"
    identity = {"model": "m", "weights_sha256": "0"}

    def images(self, pictures: np.ndarray) -> np.ndarray:
        return np.zeros((len(pictures), 1))


def made(**changes: Any) -> Callable[[str], Any]:
    return lambda device: type("Changed", (Mine,), changes)()


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (lambda device: 1 / 0, "cannot be loaded .ZeroDivisionError"),
        (lambda device: None, "returned no judge with that name"),
        (made(name="other"), "returned no judge with that name"),
        (made(images=None), "returned no judge with that name"),
        (made(identity={"model": "m"}), "its identity lacks weights_sha256"),
        (made(identity={"model": "m", "weights_sha256": 0}), "must be a mapping of strings to strings"),
        (made(identity={**Mine.identity, "version": "2"}), "the key 'version' of its identity is not compared"),
    ],
)
def test_a_judge_that_is_none_is_told(load: Callable[[str], Any], told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, SimpleNamespace(load=load, SCORES=(a_score(),)))
    with pytest.raises(UserError, match=f"judge mine: .*{told}"):
        added.load("mine", "cpu")


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ((), "one or more of cpbench.metrics.Score"),
        (("x",), "one or more of cpbench.metrics.Score"),
        ((a_score(judge="clip"),), "its score x names the judge 'clip'"),
        ((a_score(name="dino"),), "its score dino has the name of a built-in score"),
    ],
)
def test_scores_that_are_none_are_told(theirs: Any, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, SimpleNamespace(load=made(), SCORES=theirs))
    with pytest.raises(UserError, match=told):
        scores.of_package("mine")


@pytest.mark.parametrize("changes", [{"name": "X"}, {"name": "a_first"}, {"name": "both"}, {"against": "sounds"}])
def test_an_odd_score_is_told(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not a valid name; use|make it pictures or words"):
        a_score(**changes)


def test_a_judge_that_nobody_adds_is_told() -> None:
    with pytest.raises(UserError, match="unknown judge 'colour'"):
        added.load("colour", "cpu")
    with pytest.raises(UserError, match="unknown judge 'clip'"):
        added.load("clip", "cpu")
    assert scores.among(["nonsense", "dino"]).keys() == {"dino"}


def test_what_is_compared_of_a_judge_is_what_the_leaderboard_reads() -> None:
    assert {*COMPARED, "library"} == set(JudgeFacts.model_fields)


def test_two_judges_with_one_score_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(added, "module", lambda name: SimpleNamespace(SCORES=(a_score(judge=name),)))
    with pytest.raises(UserError, match="judges mine and yours both have a score x"):
        scores.of_judges(["clip", "dino", "mine", "yours"])


def test_a_judge_of_words_without_words_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    entry(monkeypatch, SimpleNamespace(load=made(), SCORES=(a_score(against="words"),)))
    with pytest.raises(UserError, match="judge mine: its score x is against words, so it needs a method `texts`"):
        added_judges(["mine", "mine"], "cpu")
