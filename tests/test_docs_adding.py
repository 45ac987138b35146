"""docs/adding-a-method.md works as it stands: its files are written, its commands run, and a row of the leaderboard comes out."""

import contextlib
import csv
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from cpbench.cli.options import cli
from cpbench.method import KINDS
from cpbench.registry import built_in_methods, load_method, method_names

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "adding-a-method.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines()]
# what makes the page's runs short, with a sequence of two concepts; given again, a setting is the last one's
SHORT = "--set steps=2 --set batch_size=1 --set rank=2"
SHORT += " --rows 2 --no-overlap --set evaluation.num_inference_steps=1 --set evaluation.pictures_per_prompt=1"
REFUSED = TEXT.partition("## What is refused")[2].partition("\n## ")[0]
VARIES = r"'[^']*'|\d+|\.\.\.|\(latent\)|\b(?:image|nan|lwf|unet)\b|pictures/|: |; |method lwf|option"  # in a message


def block(kind: str, place: int = 0) -> str:
    return [code for found, code in BLOCKS if found == kind][place]


def does(command: str) -> str:
    """What a command says, in the folder where we are: cpbench's in this process, others in one of their own."""
    program, *words = shlex.split(command)
    if program == "cpbench":
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, f"{command}\n{done.output}"
        return done.output
    assert program == "python"
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mine")


@pytest.fixture(scope="module")
def said(folder: Path, short: Path) -> dict[str, str]:
    """The page's files in a folder, and what each of its commands says there."""
    for name, code in (("lwf.py", block("python")), ("test_lwf.py", block("python", 1)), ("lwf.yaml", block("yaml"))):
        assert f"`{name}`" in TEXT
        (folder / name).write_text(code)
    shorter = {"run": f"{SHORT} --sequence {short}", "plan": SHORT}
    with contextlib.chdir(folder):
        return {command: does(f"{command} {shorter.get(command.split()[1], '')}") for command in COMMANDS}


def test_the_commands_are_there() -> None:
    verbs = [command.split()[1] for command in COMMANDS]
    assert {"describe", "plan", "run", "leaderboard", "sweep", "-m"} == set(verbs)
    assert verbs.index("run") < verbs.index("leaderboard")


def test_a_row_of_the_leaderboard_comes_out(folder: Path, said: dict[str, str]) -> None:
    assert said["cpbench leaderboard"].count("lwf") >= 2
    lines = (folder / "results/leaderboard.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and "lwf" in line]
    assert len(rows) == 2 and sum("distillation_weight=0" in row for row in rows) == 1
    for row in rows:
        _, method, runs, dino, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        assert "own file" in method and runs == "1" and -1 < float(dino.split()[0]) < 1
    with (folder / "results/leaderboard.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_what_it_says_of_the_runs(folder: Path, said: dict[str, str]) -> None:
    described = said["cpbench describe ./lwf.py"]
    assert "arXiv 1606.09282" in described and "distillation_weight" in described
    assert re.search(
        rf"learning +{2 * (1 + 3 + 3)} UNet evaluations", said["cpbench plan --method ./lwf.py --sequence quick3"]
    )
    runs = list(folder.glob("results/runs/short/miniature/lwf/*/order0-seed0"))
    assert len(runs) == 3
    for run in runs:
        curve = (run / "task-02" / "curve.csv").read_text().splitlines()[0].split(",")
        assert {"denoising", "distillation", "distance"} <= set(curve)
        assert (run / "grid.png").is_file() and (run / "curves.png").is_file()
    assert "1 passed" in said["python -m pytest -q test_lwf.py"]


def test_the_entry_point_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((group, entries),) = tomllib.loads(block("toml"))["project"]["entry-points"].items()
    info = tmp_path / "cpbench_lwf-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cpbench-lwf\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    (tmp_path / "lwf.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lwf", raising=False)
    assert "lwf" in method_names()
    assert load_method("lwf").__name__ == "Lwf"
    monkeypatch.delitem(sys.modules, "lwf")


def test_the_idea_is_not_a_built_in_method_and_all_kinds_are_told() -> None:
    assert "lwf" not in built_in_methods()
    kinds = TEXT.partition("| kind | what |")[2].partition("\n\n")[0]
    told = re.findall(r"^\| (`[^|]*) \|", kinds, re.MULTILINE)
    assert sorted(kind for cell in told for kind in re.findall(r"`(\w+)`", cell)) == sorted(KINDS)


@pytest.mark.parametrize("cell", re.findall(r"^\| (`[^|]+) \|", REFUSED, re.MULTILINE))
def test_messages_are_those_of_the_code(cell: str) -> None:
    """Every stretch of words of a message, between what varies in it, stands in the harness."""
    code = "\n".join(re.sub(r'"\s*\n\s*f?"', "", f.read_text()) for f in (ROOT / "cpbench").rglob("*.py"))
    for message in re.findall(r"`([^`]+)`", cell):
        for part in re.split(VARIES, message):
            words = part.strip(" ,?")
            assert words in code, words
