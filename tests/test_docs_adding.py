"""docs/adding-a-method.md works as it stands: its files are written, its commands run, and a row of the leaderboard comes out."""

import contextlib
import csv
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from cpbench.cli.options import cli
from cpbench.concepts import images
from cpbench.config import resolve
from cpbench.errors import ReplayError, RulesError, UserError
from cpbench.learning import training
from cpbench.method import TENSOR_TYPES, State, Task
from cpbench.registry import built_in_methods, load_method, method_names
from cpbench.running import audit, task
from cpbench.running.prepare import Run, prepare

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "adding-a-method.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines()]
# what makes the page's runs short, with a sequence of two concepts; given again, a setting is the last one's
SHORT = "--set steps=2 --set batch_size=1 --set rank=2"
SHORT += " --rows 2 --no-overlap --set evaluation.num_inference_steps=1 --set evaluation.pictures_per_prompt=1"
REFUSED = TEXT.partition("## What is refused")[2].partition("\n## ")[0]


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
    for name, code in (("distil.py", block("python")), ("test_distil.py", block("python", 1))):
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
    assert said["cpbench leaderboard"].count("distil") >= 2
    lines = (folder / "results/leaderboard.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|") and "distil" in line]
    assert len(rows) == 2 and sum("distillation_weight=0" in row for row in rows) == 1
    for row in rows:
        _, method, runs, _, dino, *_ = (cell.strip() for cell in row.strip("|").split("|"))
        assert "own file" in method and runs == "1" and -1 < float(dino.split()[0]) < 1
    with (folder / "results/leaderboard.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


def test_what_it_says_of_the_runs(folder: Path, said: dict[str, str]) -> None:
    described = said["cpbench describe ./distil.py"]
    assert "arXiv 1606.09282" in described and "distillation_weight" in described
    assert re.search(
        rf"learning +{2 * (1 + 3 + 3)} UNet evaluations", said["cpbench plan --method ./distil.py --sequence quick3"]
    )
    runs = list(folder.glob("results/runs/short/miniature/distil/*/order0-seed0"))
    assert len(runs) == 2
    for run in runs:
        curve = (run / "task-02" / "curve.csv").read_text().splitlines()[0].split(",")
        assert {"denoising", "distillation", "distance"} <= set(curve)
        assert (run / "grid.png").is_file() and (run / "curves.png").is_file()
    assert "1 passed" in said["python -m pytest -q test_distil.py"]


def test_the_entry_point_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((group, entries),) = tomllib.loads(block("toml"))["project"]["entry-points"].items()
    info = tmp_path / "cpbench_distil-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cpbench-distil\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    (tmp_path / "distil.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "distil", raising=False)
    assert "distil" in method_names()
    assert load_method("distil").__name__ == "Distil"
    monkeypatch.delitem(sys.modules, "distil")


def test_the_idea_is_not_a_built_in_method_and_all_types_are_listed() -> None:
    assert "distil" not in built_in_methods()
    table = TEXT.partition("| type | contents |")[2].partition("\n\n")[0]
    cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(TENSOR_TYPES)


# What is refused: each done, and told as the page says

OTHER = "from cpbench.method import Method\n\n\nclass Second(Method):\n    pass\n"


@pytest.fixture(scope="module")
def run(short: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the method that does nothing, ready and not begun."""
    given = {"method": "base", "sequence": str(short), "output": tmp_path_factory.mktemp("out"), "device": "cpu"}
    return prepare(*resolve(given))


@pytest.fixture
def distil(tmp_path: Path) -> Path:
    (tmp_path / "distil.py").write_text(block("python"))
    return tmp_path / "distil.py"


def state_with(name: str, tensor: torch.Tensor) -> State:
    return State({name: tensor}, {"concepts": ["dog"]})


def two_classes(run: Run, distil: Path) -> None:
    distil.write_text(block("python") + OTHER)
    load_method(str(distil))


def unknown_option(run: Run, distil: Path) -> None:
    resolve({"method": str(distil), "sequence": "quick3", "options": {"step": 3}})


def no_kind(run: Run, distil: Path) -> None:
    task.check(run, 1, state_with("word/dog", torch.zeros(1)))


def another_concepts_picture(run: Run, distil: Path) -> None:
    with audit.learning_only("dog", [distil.parent], run.config.output):
        distil.read_text()


def another_concepts_drawing(run: Run, distil: Path) -> None:
    with audit.learning_only("dog", [], run.config.output):
        images.rendered("dog2")


def hidden_picture(run: Run, distil: Path) -> None:
    task.check(run, 1, state_with("mask/m", torch.from_numpy(run.images["dog"].copy()).float()))


def kept_picture(run: Run, distil: Path) -> None:
    task.check(run, 1, state_with("pictures/dog", torch.zeros(1)))


def changed_weight(run: Run, distil: Path) -> None:
    layer = run.backbone.denoiser.conv_in
    original, layer.weight = layer.weight, torch.nn.Parameter(2 * layer.weight.detach())
    try:
        run.backbone.restore()
    finally:
        layer.weight = original


def pristine_parameter(run: Run, distil: Path) -> None:
    it = Task(1, "dog", "dog", run.images["dog"], 0)
    training.train(
        run.backbone, it, training.denoising(run.backbone, "dog"), [(1.0, [run.backbone.denoiser.conv_in.bias])], 1, 1
    )


def no_number(run: Run, distil: Path) -> None:
    task.check(run, 1, state_with("adapter/a", torch.tensor(float("nan"))))


def no_loss(run: Run, distil: Path) -> None:
    it, row = (
        Task(1, "dog", "dog", run.images["dog"], 0),
        run.backbone.add_token("<v1>", run.backbone.word_embedding("dog")),
    )
    try:
        training.train(run.backbone, it, lambda batch: {"loss": (row * float("nan")).sum()}, [(1.0, [row])], 1, 1)
    finally:
        run.backbone.restore()


FAULTS = [
    two_classes, unknown_option, no_kind, another_concepts_picture, another_concepts_drawing, hidden_picture, kept_picture,
    changed_weight, pristine_parameter, no_number, no_loss,
]  # fmt: skip
TOLD = [m for cell in re.findall(r"^\| (`[^|]+) \|", REFUSED, re.MULTILINE) for m in re.findall(r"`([^`]+)`", cell)]


def test_every_message_of_the_page_has_its_fault() -> None:
    assert len(TOLD) == len(FAULTS)


@pytest.mark.parametrize(("fault", "message"), list(zip(FAULTS, TOLD, strict=False)), ids=[f.__name__ for f in FAULTS])
def test_it_is_told_as_the_page_says(fault: Callable[[Run, Path], None], message: str, run: Run, distil: Path) -> None:
    pattern = ".*".join(map(re.escape, message.split("...")))  # "..." is what varies
    with pytest.raises((UserError, RulesError, ReplayError), match=pattern):
        fault(run, distil)
