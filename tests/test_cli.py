"""The command line: one line and exit code 2 for whatever is wrong, help for whoever asks, layers of settings."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from PIL import Image

from cpbench.cli.options import cli
from cpbench.concepts import sequences
from cpbench.registry import built_in_methods, load_method, summary_of

ROOT = Path(__file__).parents[1]
Call = Callable[..., tuple[int, str, str]]

SEQUENCE = {
    "name": "mine",
    "version": 1,
    "images": {"folder": "photos/{name}"},
    "concepts": [{"name": "rex", "class_noun": "dog", "kind": "live"}],
    "evaluation": {"live": ["a {} in the snow"], "pictures_per_prompt": 1, "num_inference_steps": 2},
}


def complaint(call: Call, *words: object) -> str:
    """The one line that a wrong command is answered with."""
    code, _, said = call(*words)
    assert code == 2, said
    assert len(said.splitlines()) == 1 and said.startswith("cpbench: ") and "Traceback" not in said, said
    return said


RUN = ("run", "--method", "seqlora", "--sequence", "quick3")

# words, what the line must hold
WRONG = {
    "verb": (["rnu"], ["'rnu'", "did you mean 'run'"]),
    "option": ([*RUN, "--sede", "1"], ["--sede", "--seed"]),
    "option without its value": ([*RUN, "--seed"], ["--seed"]),
    "a word too much": ([*RUN, "more"], ["more"]),
    "seed that is no number": ([*RUN, "--seed", "one"], ["--seed", "one"]),
    "negative seed": ([*RUN, "--seed", "-1"], ["--seed", "-1"]),
    "negative order": ([*RUN, "--order", "-1"], ["--order", "-1"]),
    "no method": (["run", "--sequence", "quick3"], ["--method is missing", "cpbench list methods"]),
    "no sequence": (["run", "--method", "base"], ["--sequence is missing", "cpbench list sequences"]),
    "method": (["run", "--method", "seqlorra", "--sequence", "quick3"], ["did you mean 'seqlora'"]),
    "method file": (["run", "--method", "gone.py", "--sequence", "quick3"], ["gone.py", "no such file"]),
    "sequence": (["run", "--method", "base", "--sequence", "qick3"], ["did you mean 'quick3'"]),
    "sequence file": (["run", "--method", "base", "--sequence", "gone.yaml"], ["gone.yaml", "no such file"]),
    "backbone": ([*RUN, "--backbone", "miniatur"], ["did you mean 'miniature'"]),
    "backbone that is no pipeline": ([*RUN, "--backbone", "."], ["backbone .", "model_index.json"]),
    "device": ([*RUN, "--device", "cdua"], ["'cdua'", "did you mean 'cuda'"]),
    "option of the method": ([*RUN, "--set", "stpes=3"], ["method seqlora", "'stpes'", "did you mean 'steps'"]),
    "type of an option": ([*RUN, "--set", "steps=abc"], ["method seqlora", "steps", "'abc'", "whole number"]),
    "value of an option": ([*RUN, "--set", "steps=-1"], ["method seqlora", "steps", "-1"]),
    "evaluation option": ([*RUN, "--set", "evaluation.guidance=1"], ["evaluation", "did you mean 'guidance_scale'"]),
    "evaluation value": ([*RUN, "--set", "evaluation.batch_size=0"], ["evaluation", "batch_size", "0"]),
    "setting without a value": ([*RUN, "--set", "steps"], ["--set 'steps'", "key=value"]),
    "no layer at all": ([*RUN, "--set", "target_modules=[]"], ["target_modules", "empty"]),
    "word where a list belongs": (
        [*RUN, "--set", "target_modules=to_q"],
        ["target_modules: must be a list, such as [a, b]"],
    ),
    "truth where a number belongs": ([*RUN, "--set", "steps=true"], ["steps", "True", "number"]),
    "infinite setting": ([*RUN, "--set", "evaluation.guidance_scale=.inf"], ["guidance_scale", "finite"]),
    "option of a method without any": (
        ["run", "--method", "base", "--sequence", "quick3", "--set", "rank=2"],
        ["method base", "no options"],
    ),
    "device without that number": ([*RUN, "--device", "cpu:zz"], ["cpu:zz"]),
    "layer that the UNet lacks": ([*RUN, "--set", "target_modules=[to_q, to_w]"], ["target_modules", "'to_w'"]),
    "device that is not there": ([*RUN, "--device", "cpx"], ["'cpx'", "did you mean 'cpu'"]),
    "VeRA on convolutions": (
        ["run", "--method", "dcscore", "--sequence", "quick3", "--set", "adapter=vera"],
        ["adapter=vera", "(conv1, conv2)", "'target_modules=[attention, feed_forward]'"],
    ),
    "setting that is not YAML": ([*RUN, "--set", "steps=[1"], ["--set 'steps=[1'", "YAML"]),
    "config that is not there": ([*RUN, "--config", "gone.yaml"], ["gone.yaml", "no such file"]),
    "config that is a folder": ([*RUN, "--config", "."], ["--config .", "cannot be read"]),
    "list of what": (["list", "metods"], ["metods", "methods"]),
    "describe": (["describe", "dreambnch10"], ["did you mean 'dreambench10'"]),
    "describe a file": (["describe", "gone.yaml"], ["gone.yaml"]),
    "leaderboard of no folder": (["leaderboard", "--results", "gone"], ["gone", "does not exist"]),
    "part to train": (["pretrain", "vea"], ["vea", "vae"]),
    "no part to train": (["pretrain"], ["pass parts", "--all", "--card"]),
    "a part and all": (["pretrain", "vae", "--all"], ["pass parts", "--all", "--card"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_is_one_line_and_exit_code_2(call: Call, what: str) -> None:
    words, says = WRONG[what]
    line = complaint(call, *words)
    assert [s for s in says if s not in line] == [], line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: base\nseed: [\n", ["line 3", "not valid YAML"]),
        ("methd: base\n", ["'methd'", "did you mean 'method'"]),
        ("- base\n", ["must be a mapping"]),
        ("seed: many\n", ["seed", "'many'"]),
        ("options: {stpes: 3}\n", ["did you mean 'steps'"]),
        ("evaluation: {pictures: 3}\n", ["did you mean 'pictures_per_prompt'"]),
    ],
)
def test_wrong_config_file_is_one_line(call: Call, tmp_path: Path, text: str, says: list[str]) -> None:
    (tmp_path / "config.yaml").write_text(text)
    line = complaint(call, *RUN, "--config", "config.yaml")
    assert [s for s in says if s not in line] == [], line


def test_method_files_with_errors_are_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_such_package_of_this_name\n")
    assert "no_such_package_of_this_name" in complaint(call, "run", "--method", "mine.py", "--sequence", "quick3")
    assert "mine.py" in complaint(call, "describe", "mine.py")


def test_missing_and_broken_pictures_are_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SEQUENCE))
    words = ("run", "--method", "base", "--sequence", "mine.yaml", "--backbone", "miniature")
    folder = tmp_path / "photos" / "rex"
    line = complaint(call, *words)
    assert "concept rex" in line and str(folder) in line
    folder.mkdir(parents=True)
    assert "no pictures" in complaint(call, *words)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    assert str(folder / "b.jpg") in complaint(call, *words)
    assert not list(tmp_path.rglob("run.json"))


def test_output_below_a_file_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file/out" in complaint(call, *RUN, "--output", "file/out")


def test_leaderboard_of_nothing_is_one_line_and_of_something_is_written(call: Call, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    assert "no finished run" in complaint(call, "leaderboard")
    assert not list((tmp_path / "results").iterdir())
    (kept,) = (ROOT / "results" / "reference" / "quick3" / "miniature" / "base").glob("*/order0-seed0")
    shutil.copytree(kept, tmp_path / "results" / "run")
    final = json.loads((kept / "run.json").read_text())["figures"]["dino"]["final_average"]
    code, shown, _ = call("leaderboard", "--output", "board")
    # of the untouched model, whose rows are all the same, the score over tasks is the final one
    assert code == 0 and re.search(rf"base†? +1 +{final:.3f} ", shown)
    assert re.search(rf"\| base†? \| 1 \| - \| {final:.3f}", (tmp_path / "board" / "leaderboard.md").read_text())
    before = {f.name: f.read_bytes() for f in (tmp_path / "board").iterdir()}
    assert set(before) == {f"leaderboard.{kind}" for kind in ("md", "html", "csv", "json")}
    assert call("leaderboard", "results", "--output", "again")[0] == 0
    assert {f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()} == before
    assert "two results folders" in complaint(call, "leaderboard", "results", "--results", "board")


# Help


@pytest.mark.parametrize("verb", [None, *cli.commands])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_verb_has_help(call: Call, verb: str | None, flag: str) -> None:
    code, shown, said = call(*([verb] if verb else []), flag)
    assert (code, said) == (0, "")
    assert re.match(rf"Usage: .*cpbench {verb or re.escape('[OPTIONS]')}", shown)
    body = shown.split("\n", 1)[1]
    assert re.search(r"[A-Z][^.]+[.:]", body) or "Example:" in body  # a sentence, or an example
    command = cli.commands[verb] if verb else cli
    for option in (p for p in command.params if isinstance(p, click.Option) and p.name != "help"):
        assert option.opts[0].startswith("--") and option.opts[0] in shown
        assert option.help, option.opts


def test_help_of_all_names_every_verb_and_no_word_at_all_shows_it(call: Call) -> None:
    code, shown, _ = call("--help")
    assert code == 0 and all(re.search(rf"^  {verb}\b", shown, re.MULTILINE) for verb in cli.commands)
    assert call() == (0, shown, "")
    code, version, _ = call("--version")
    assert code == 0 and re.fullmatch(r"cpbench \d+\.\d+\.\d+\n", version)


# What there is


def test_list_names_all_there_is_with_its_first_line(call: Call) -> None:
    code, shown, said = call("list", "methods")
    assert (code, said) == (0, "")
    for file in (ROOT / "baselines").glob("[a-z]*.py"):
        first = file.read_text().splitlines()[0].strip('"').split()
        assert re.search(rf"^{file.stem} +{re.escape(' '.join(first[:3]))}", shown, re.MULTILINE), file.stem
    code, shown, said = call("list", "sequences")
    assert (code, said) == (0, "")
    for file in (ROOT / "tasks").glob("*.yaml"):
        assert re.search(rf"^{file.stem} +\w", shown, re.MULTILINE), file.stem
    assert re.match(r"miniature +\w", call("list", "backbones")[1])


@pytest.mark.parametrize("name", built_in_methods())
def test_describe_a_method_tells_its_docstring_and_every_option(call: Call, name: str) -> None:
    code, shown, said = call("describe", name)
    assert (code, said) == (0, "")
    told = " ".join(shown.split())
    assert told.startswith(summary_of(name)[:60])
    for key, field in load_method(name).Options.model_fields.items():
        rows = re.findall(rf"^ *{key} +(\S+)", shown, re.MULTILINE)  # a line of the docstring may begin with its name
        assert rows, key
        assert isinstance(field.default, tuple) or str(field.default) in rows


@pytest.mark.parametrize("name", sequences.names())
def test_describe_a_sequence_tells_its_concepts_and_prompts(call: Call, name: str) -> None:
    code, shown, said = call("describe", name)
    assert (code, said) == (0, "")
    told = " ".join(shown.split())
    given = yaml.safe_load((ROOT / "tasks" / f"{name}.yaml").read_text())
    for t, concept in enumerate(given["concepts"], start=1):
        assert re.search(rf"^ *{t} +{concept['name']} +{concept['class_noun']} ", shown, re.MULTILINE)
    for kind in set(sequences.SUBJECT_TYPES) & given["evaluation"].keys():
        assert all(prompt in told for prompt in given["evaluation"][kind])
    assert given["description"] in told


def test_what_stands_in_brackets_in_a_sequence_is_shown_as_it_stands(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        'name: mine\nversion: 1\ndescription: "[/bold] [red]words[/red]"\n'
        'concepts: [{name: rex, class_noun: "[/x] dog", kind: live, images: {folder: "/data/[/y]"}}]\n'
        'evaluation: {live: ["a {} in the snow"]}\n'
    )
    code, shown, _ = call("describe", "mine.yaml")
    assert code == 0 and "[/bold] [red]words[/red]" in shown and "[/x] dog" in shown and "/data/[/y]" in shown


def test_pickled_weights_are_refused_and_allowed_by_name(call: Call, tmp_path: Path, tiny_folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = shutil.copytree(tiny_folder, tmp_path / "theirs")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    words = (*RUN, "--backbone", "theirs")
    assert "diffusion_pytorch_model.bin" in (line := complaint(call, *words)) and "--allow-pickle" in line
    assert "diffusion_pytorch_model.bin" not in complaint(call, *words, "--allow-pickle", "--data", "gone")
    (folder / "unet" / "own.py").write_text("1 / 0")
    assert "--trust-remote-code" in complaint(call, *words, "--allow-pickle")
    assert "own.py" not in complaint(call, *words, "--allow-pickle", "--trust-remote-code", "--data", "gone")


def test_describe_a_file_and_the_backbone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SEQUENCE))
    code, shown, _ = call("describe", "mine.yaml")
    assert code == 0 and "rex" in shown and "photographs" in shown
    code, shown, _ = call("describe", "miniature")
    assert code == 0 and "miniature" in shown


# A run


def test_settings_come_from_the_command_line_over_the_file_over_the_preset(call: Call, tmp_path: Path) -> None:
    given = {
        "method": "seqlora",
        "sequence": "mine.yaml",
        "seed": 3,
        "options": {"steps": 7, "batch_size": 1, "rank": 2},
        "evaluation": {"num_inference_steps": 9, "pictures_per_prompt": 2},
    }
    drawn = {"images": {"drawn": True}, "concepts": [{"name": "cat", "class_noun": "cat", "kind": "live"}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SEQUENCE | drawn))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    settings = ("--set", "steps=1", "--set", "evaluation.num_inference_steps=2")
    code, shown, said = call("run", "--config", "config.yaml", "--seed", "1", *settings)
    assert (code, said) == (0, "")
    (file,) = tmp_path.glob("results/runs/mine/miniature/seqlora/*/order0-seed1/run.json")
    assert "task 1" in shown and "finished: " in shown and file.parent.name in shown
    record = json.loads(file.read_text())
    tuned = yaml.safe_load((ROOT / "baselines" / "presets" / "miniature.yaml").read_text())["seqlora"]
    wanted = {k: v for k, v in tuned.items() if k != "_provenance"} | {"steps": 1, "batch_size": 1, "rank": 2}
    assert {k: v for k, v in record["config"]["options"].items() if k in wanted} == wanted
    assert record["facts"]["pictures_per_prompt"] == 2
    assert record["facts"]["sampler"]["num_inference_steps"] == 2
    assert record["costs"]["1"]["learning_evaluations"] == 1
