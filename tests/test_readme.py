"""README works as it stands, from top to bottom: its commands run, its method learns, its pictures and links are there."""

import contextlib
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from cpbench import config
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest, generate
from cpbench.cli.options import cli
from cpbench.concepts import images
from cpbench.method import State
from cpbench.metrics.matrices import matrices
from cpbench.records import tables
from cpbench.registry import load_method

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
DOCS = sorted((ROOT / "docs").glob("*.md"))
# the pages that README's own text has moved to, whose commands are those of README's kind
PAGES = ("README.md", "docs/running.md", "docs/reports.md", "docs/own-photographs.md", "docs/stable-diffusion.md")
ORDER = [
    "Install and first run", "Reading the result", "Results", "Your own photographs", "Your own method",
    "Stable Diffusion and others", "Documentation",
]  # fmt: skip
# what makes the runs short; given again, a setting is the last one's
SHORT = "--set steps=2 --set batch_size=1 --set rank=2 --rows 3 --no-overlap"
SHORT += (
    " --set evaluation.num_inference_steps=1 --set evaluation.pictures_per_prompt=1 --set evaluation.guidance_scale=1"
)


def lines(text: str) -> list[str]:
    """The console lines of a page, those that end with a backslash joined to the next, comments taken off."""
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [shlex.join(words) for line in blocks.splitlines() if (words := shlex.split(line, comments=True))]


def inline(text: str) -> list[str]:
    return re.findall(r"`(cpbench [a-z][^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


LINES = [line.removeprefix(".venv/bin/") for line in lines(TEXT)]
COMMANDS = [
    (page, line.removeprefix(".venv/bin/"))
    for page in PAGES
    for line in [*lines((ROOT / page).read_text()), *inline((ROOT / page).read_text())]
    if line.removeprefix(".venv/bin/").startswith("cpbench ")
]


def does(command: str) -> str:
    """What a command of cpbench says, in the folder where we are."""
    done = CliRunner().invoke(cli, shlex.split(command)[1:], catch_exceptions=False)
    assert done.exit_code == 0, f"{command}\n{done.output}"
    return done.output


# Commands


def test_there_are_commands() -> None:
    verbs = {line.split()[1] for line in LINES if line.startswith("cpbench ")}
    assert {"run", "report", "plan", "doctor", "leaderboard", "new-sequence", "sample", "export"} == verbs
    assert [line.split()[:2] for line in LINES[:3]] == [["make", "setup"], ["cpbench", "run"], ["cpbench", "report"]]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_understood(page: str, command: str) -> None:
    """By click, which knows every verb, flag and choice; `resolve` knows names and options."""
    _, verb, *words = shlex.split(command)
    if words and not any(word.isupper() for word in words):  # a name in capitals stands for something
        given = cli.commands[verb].make_context(verb, words).params
        if verb in ("run", "plan") and not str(given["method"]).endswith(".py") and given["sequence"] != "my.yaml":
            settings, chosen = given.pop("settings"), given.pop("config")
            for name in ("verbose", "as_json"):  # which say how it is printed
                given.pop(name, None)
            config.resolve(given, chosen, settings)
    assert verb in cli.commands


@pytest.mark.slow
def test_its_commands_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, in an empty folder, with few steps; in place of sd15, whose weights are not here, on the miniature."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, subject in (("rex", "dog"), ("mug", "vase")):  # pictures of some world
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, picture in enumerate(images.rendered(subject)):
            Image.fromarray(picture).resize((320, 256)).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "mine.py").write_text(method())
    targets, said = (ROOT / "Makefile").read_text(), {}
    with contextlib.chdir(tmp_path):
        for line in LINES:
            program, verb, *words = shlex.split(line)
            if program != "cpbench":  # installing is not for a test to do
                assert program in ("make", "git", "source") and (program != "make" or f"\n{verb}:" in targets)
                continue
            words = ["miniature" if word == "sd15" else word.replace("/sd15/", "/miniature/") for word in words]
            words = [word.replace("~", str(tmp_path)) for word in words]
            short = shlex.split(SHORT) if verb in ("run", "plan") else []
            if "my.yaml" in words and short:
                short[short.index("--rows") + 1] = "2"
            if "dreambench10" in words:  # as long with three concepts
                words[words.index("dreambench10")] = "quick3"
            if "dcscore" in words:
                short += shlex.split("--set dsc_steps=2 --set fisher_samples=2")
            said[line] = does(shlex.join(["cpbench", verb, *words, *short]))
    run, report, *_ = (said[line] for line in LINES[1:3])
    assert (
        "DINO after task 3" in run and "judges: miniature's CLIP (ResNet, 64 px), miniature's DINO (XCiT, 64 px)" in run
    )
    assert (tmp_path / report.strip()).name == "report.html" and (tmp_path / report.strip()).is_file()
    assert len(list((tmp_path / "sample").glob("*.png"))) == 4 and (tmp_path / "out" / "README.md").is_file()
    board = (tmp_path / "results" / "leaderboard.md").read_text()
    assert "| mine" in board and "| seqlora" in board
    assert "Scores by miniature's CLIP (ResNet, 64 px) and miniature's DINO (XCiT, 64 px) are not comparable" in board


# What it says


def first_table() -> dict[str, list[float]]:
    """The table that the first run prints, by row."""
    (block,) = re.findall(r"```text\nDINO.*?```", TEXT, re.DOTALL)
    rows = re.findall(r"^ (\w+(?: \d)?) +((?:-|\d\.\d{3}) .*)$", block, re.MULTILINE)
    return {name: [float("nan") if cell == "-" else float(cell) for cell in cells.split()] for name, cells in rows}


def test_what_the_first_run_prints_is_what_the_committed_one_came_to() -> None:
    """Within what another processor changes: see docs/reproducibility.md."""
    (folder,) = (ROOT / "results" / "reference" / "quick3" / "miniature" / "seqlora").glob("*/order0-seed0")
    concepts = [it["name"] for it in yaml.safe_load((ROOT / "tasks" / "quick3.yaml").read_text())["concepts"]]
    scores, printed = tables.read_scores(folder / "scores.csv"), first_table()
    assert list(printed) == ["untouched", "task 1", "task 2", "task 3", "real", "oracle"]
    matrix = matrices(scores, concepts)["dino"].to_numpy()
    np.testing.assert_allclose([printed[name] for name in list(printed)[:4]], matrix, atol=0.05)
    np.testing.assert_allclose(printed["untouched"], matrix[0], atol=6e-4)


@pytest.mark.slow
def test_the_first_run_prints_what_it_says(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        said = [does(line) for line in LINES[1:3]]
        (scores,) = Path().glob("results/runs/quick3/miniature/seqlora/*/*/matrix-dino.csv")
        matrix = pd.read_csv(scores, index_col=0).to_numpy()[:4]
    assert "DINO after task 3" in said[0] and said[1].strip().endswith("report.html")
    np.testing.assert_allclose(list(first_table().values())[:4], matrix, atol=0.15)


def method() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    return code


def test_the_method_it_shows_learns_and_generates(tiny: Backbone, make_task, tmp_path: Path) -> None:
    assert method().count("\n") < 20
    (tmp_path / "mine.py").write_text(method())
    kind = load_method(str(tmp_path / "mine.py"))
    options, state = kind.Options(steps=2, batch_size=1), State()
    for number, concept in enumerate(("dog", "backpack"), 1):
        state = kind(options).learn(tiny, make_task(tiny, concept, number), state)
        tiny.restore()
    assert set(state.tensors) == {"token/dog", "token/backpack"}
    with tiny.installed(kind(options), state, ("dog",)):
        assert list(tiny.token_embeddings) == ["v1", "v2"]
        words = kind(options).phrase("dog", "dog", state)
        assert generate(tiny, [SampleRequest(f"a {words}", 0, "dog", "a {}", 0)], Sampler(1, 1.0)).std() > 0
    start = tiny.word_embedding("dog")
    assert not torch.equal(state.tensors["token/dog"], start)


# Its form


def test_it_is_short_and_in_order() -> None:
    assert TEXT.count("\n") <= 150
    assert re.findall(r"^## (.*)", TEXT, re.MULTILINE) == ORDER
    assert "**No run on\npublished weights has been made yet**" in TEXT.partition("## ")[0]


def test_code_fits_githubs_width() -> None:
    for page in (ROOT / "README.md", *(ROOT / name for name in PAGES)):
        for code in re.findall(r"```\w+\n(.*?)```", page.read_text(), re.DOTALL):
            assert max(map(len, code.splitlines())) <= 101, page


def test_its_pictures_are_small_and_as_wide_as_github_shows_them() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 3
    for name in pictures:
        assert (ROOT / name).stat().st_size < 300_000 and 830 <= Image.open(ROOT / name).width <= 1660


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files, and headings in them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        file, _, heading = link.partition("#")
        if "://" not in link:
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not heading or heading in anchors(target.read_text()), link


def test_it_links_to_every_page() -> None:
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXT)}
    assert {f"docs/{page.name}" for page in DOCS} <= links
