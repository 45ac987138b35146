"""Using what was learned: drawing with several concepts, and exports that plain diffusers draws the same pictures with."""

import ast
import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import architectures
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_architectures import CASES, SHORT, folders  # noqa: F401

import cpbench
from cpbench import backbones
from cpbench.backbones.backbone import Backbone
from cpbench.backbones.sampling import Sampler, SampleRequest, generate, noise
from cpbench.cli.options import cli
from cpbench.config import RunConfig
from cpbench.errors import UserError
from cpbench.finished.export import LORA_FILE, export
from cpbench.finished.load import TrainedRun, concepts_in, open_run, sample
from cpbench.method import Method, State
from cpbench.records import reading
from cpbench.records.pictures import read_picture
from cpbench.registry import load_method

NOUNS = {"dog": "dog", "backpack": "backpack"}


@pytest.fixture(scope="module", params=architectures.ARCHITECTURES)
def backbone(request: pytest.FixtureRequest, folders: Callable[..., Path]):  # noqa: F811
    return backbones.load(str(folders(request.param)))


LEARNERS = [c for c in CASES if c != "base"]


_states: dict[tuple[str, str], State] = {}


def learned(case: str, backbone: Backbone, make_task: Callable[..., object], folder: Path) -> TrainedRun:
    """Two concepts learned, once, by a method on an architecture, hard enough that one sees it."""
    name, chosen = CASES[case]
    if name == "cidm":
        chosen = {"mixing": "rows"}  # as released it is installed for each prompt, and cannot be exported
    kind = load_method(name)
    rates = {k: 1e-2 for k in ("learning_rate", "lora_learning_rate", "token_learning_rate")}
    if case == "raretoken":
        rates["learning_rate"] = 1e-3
    if case == "textualinversion":  # a row alone moves little
        rates["token_learning_rate"] = 1.0
    given = {k: v for k, v in (SHORT | rates).items() if k in kind.Options.model_fields} | chosen
    options, known = kind.Options(**given), _states.get((case, backbone.name))
    state = known or State()
    for number, concept in enumerate(NOUNS, 1) if known is None else ():
        state = kind(options).learn(backbone, make_task(backbone, concept, number), state)
        backbone.restore()
    _states[case, backbone.name] = state
    run = RunConfig(method=name, sequence="quick3", backbone=backbone.name, options=options.model_dump(mode="json"))
    return TrainedRun(folder, run, kind(options), state, backbone, NOUNS)


@pytest.fixture(params=LEARNERS)
def it(request: pytest.FixtureRequest, backbone, make_task: Callable[..., object], tmp_path: Path) -> TrainedRun:
    return learned(request.param, backbone, make_task, tmp_path)


@pytest.fixture(scope="module")
def first(folders: Callable[..., Path]):  # noqa: F811
    return backbones.load(str(folders(architectures.ARCHITECTURES[0])))


@pytest.fixture(params=LEARNERS)
def on_first(request: pytest.FixtureRequest, first, make_task: Callable[..., object], tmp_path: Path) -> TrainedRun:
    """Every method, on one architecture."""
    return learned(request.param, first, make_task, tmp_path)


@pytest.fixture
def one(first, make_task: Callable[..., object], tmp_path: Path) -> TrainedRun:
    return learned("seqlora", first, make_task, tmp_path)


def as_the_readme_says(folder: Path) -> object:
    """The pipeline of the README's code, all lines but the one that draws."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    *lines, last = code.strip().splitlines()
    assert last.startswith('pipe("a photo of a ')
    told: dict[str, object] = {}
    with contextlib.chdir(folder):
        exec("\n".join(lines), told)
    return told["pipe"]


def test_plain_diffusers_draws_the_same_with_what_was_exported(it: TrainedRun, tmp_path: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler

    backbone, alone = it.backbone, it.config.method in ("isolated", "cidm")  # whose LoRA depends on the concept
    written = export(it, tmp_path / "out", "dog" if alone else None)
    assert all(path.exists() for path in written)
    pipe = as_the_readme_says(tmp_path / "out")
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    plain = generate(backbone, [SampleRequest("a photo of a dog", 0, "dog", "x", 0)], Sampler(3, 4.0))[0] / 255
    for concept in ("dog",) if alone else NOUNS:
        want = SampleRequest(f"a photo of a {it.phrase(concept)}", 0, "dog", "x", 0)
        with backbone.installed(it.method, it.state, (concept,)):
            ours = generate(backbone, [want], Sampler(3, 4.0))[0] / 255
        theirs = architectures.drawn_by(pipe, backbone.picture_size, want.prompt, noise(backbone, want), 3, 4.0)
        assert np.abs(ours - theirs).max() < 2e-3 + 0.5 / 255
        assert np.abs(plain - theirs).max() > 0.02  # what was learned is in the picture


def test_an_export_into_a_folder_with_things_in_it_is_refused(one: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is not empty"):
        export(one, tmp_path / "out", "dog")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_what_cannot_be_used_together_says_so(on_first: TrainedRun, tmp_path: Path) -> None:
    if on_first.config.method != "isolated":
        pictures = sample(on_first, "a {dog} beside a {backpack}", 1, 0, 2, 4.0)
        assert pictures.shape == (1, on_first.backbone.picture_size, on_first.backbone.picture_size, 3)
        return
    with pytest.raises(UserError, match="choose one with --concept"):
        export(on_first, tmp_path / "out")
    with pytest.raises(UserError, match="name one concept"):
        sample(on_first, "a {dog} beside a {backpack}", 1, 0, 2, 4.0)


# Prompts


def test_a_prompt_names_concepts_in_braces() -> None:
    assert concepts_in("a {dog} and a {vase}, {dog} again", ["dog", "vase"]) == ("dog", "vase")
    assert concepts_in("a dog", ["dog"]) == ()
    with pytest.raises(UserError, match="did you mean 'dog'"):
        concepts_in("a {dgo} in the snow", ["dog", "vase"])
    with pytest.raises(UserError, match="write a concept as {dog}"):
        concepts_in("a {dog in the snow", ["dog"])


# A run, from the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = {"steps": 2, "batch_size": 1}
    evaluation = {"num_inference_steps": 2, "pictures_per_prompt": 1}
    given = {"method": "seqlora", "sequence": "quick3", "output": folder, "options": options, "rows": [3]}
    done = cpbench.run(**given, evaluation=evaluation)
    return done["folder"]


def test_a_runs_state_draws_any_prompt(run: Path, tmp_path: Path) -> None:
    told = ["sample", str(run), "--after", "2", "--prompt", "a {dog} with a {backpack}", "-n", "2"]
    told += ["--num-inference-steps", "2", "--output", str(tmp_path / "pictures")]
    done = CliRunner().invoke(cli, told, catch_exceptions=False)
    assert done.exit_code == 0
    pictures = [read_picture(Path(line)) for line in done.output.split()]
    assert len(pictures) == 2 and not np.array_equal(*pictures)
    it = open_run(run, 2, "cpu")
    assert list(it.nouns) == ["dog", "backpack"]
    assert np.array_equal(sample(it, "a {dog} with a {backpack}", 2, 0, 2, None), np.stack(pictures))


def test_a_runs_state_is_exported(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", str(run), str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    names = sorted(f.name for f in (tmp_path / "out").rglob("*.*"))
    assert names == ["README.md", LORA_FILE, "v1.safetensors", "v2.safetensors", "v3.safetensors"]


@pytest.mark.parametrize(
    ("after", "prompt", "said"),
    [(7, "a {dog}", "no state after task 7"), (1, "a {backpack}", "Learned at that point: dog")],
)
def test_what_is_not_there_is_named(run: Path, after: int, prompt: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sample(open_run(run, after, "cpu"), prompt, 1, 0, 2, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "--prompt", "a {vase}"], "unknown concept 'vase'"),
        (["export", "out", "--concept", "vase"], "unknown concept 'vase'"),
        (["export", "full"], "full: is not empty; pass a new folder"),
    ],
)
def test_what_is_wrong_is_said_before_the_backbone_is_loaded(
    words: list[str], said: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    monkeypatch.setattr("cpbench.finished.load.load_backbone", lambda *a: pytest.fail("loaded a model first"))
    code, _, text = call(words[0], str(run), *words[1:])
    assert code == 2 and said in text and len(text.strip().splitlines()) == 1


# A run from a stranger


@pytest.fixture
def theirs(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, without its pictures, to be spoiled."""
    return Path(shutil.copytree(run, tmp_path / "theirs", ignore=shutil.ignore_patterns("pictures")))


def change(folder: Path, *keys: str, value: object) -> None:
    """run.json with another value at the end of `keys`."""
    record = json.loads((folder / "run.json").read_text())
    spot = record
    for key in keys[:-1]:
        spot = spot[key]
    spot[keys[-1]] = value
    (folder / "run.json").write_text(json.dumps(record))


def refused(folder: Path, **given: object) -> str:
    with pytest.raises(UserError) as caught:
        open_run(folder, device="cpu", **given)
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and "Traceback" not in line
    return line


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("config",), None),
        (("config",), [1]),
        (("config", "seed"), "one"),
        (("config", "seed"), -1),
        (("config", "options"), [1]),
        (("config", "options"), {"steps": "many"}),
        (("config", "options"), {"own": 1}),
        (("config", "evaluation"), {"own": 1}),
        (("config", "loading"), "fast"),
        (("config", "method"), 3),
        (("config", "output"), "a\0b"),
        (("sequence",), None),
        (("sequence", "class_nouns"), ["dog"]),
        (("sequence", "class_nouns"), {"../../x": "dog"}),
        (("sequence", "class_nouns"), {"dog": {}}),
        (("sequence", "class_nouns"), {"dog": "dog\n# x"}),
        (("sequence", "class_nouns"), {"rex": "dog", "max": "dog", "cup": "cup"}),
        (("sequence", "class_nouns"), {}),
        (("facts",), None),
        (("facts", "backbone"), {"a": 1}),
    ],
)
def test_a_strange_record_is_one_line(theirs: Path, keys: tuple[str, ...], value: object) -> None:
    change(theirs, *keys, value=value)
    assert str(theirs) in refused(theirs)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "3", "{}", "[" * 10**5, '{"config": {}, "sequence": 1e400}']
)
def test_a_damaged_record_is_one_line(theirs: Path, content: str) -> None:
    (theirs / "run.json").write_text(content)
    assert f"run {theirs}: its run.json is " in refused(theirs)


def test_a_record_is_no_reason_to_run_code(theirs: Path, tmp_path: Path) -> None:
    code = theirs / "method.py"
    code.write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\n")
    change(theirs, "config", "method", value=str(code))
    line = refused(theirs)
    assert str(code) in line and "--trust-remote-code" in line and not (tmp_path / "marker").exists()
    assert "defines 0" in refused(theirs, trust_remote_code=True) and (tmp_path / "marker").exists()


def test_what_a_record_says_of_trust_does_not_count(theirs: Path) -> None:
    for option in ("allow_pickle", "trust_remote_code"):
        change(theirs, "config", "loading", option, value=True)
    loading = open_run(theirs, device="cpu").config.loading
    assert not loading.allow_pickle and not loading.trust_remote_code
    assert open_run(theirs, device="cpu", allow_pickle=True).config.loading.allow_pickle


def test_a_state_that_is_damaged_or_not_this_methods_is_one_line(theirs: Path) -> None:
    task = theirs / "task-03"
    state = State.load(task)
    (task / "state.json").unlink()
    assert "state.json" in refused(theirs)
    State({"adapter/odd": torch.ones(3)}, {"concepts": ["dog"]}).save(task)
    assert "its state is not one that seqlora can use" in refused(theirs)
    State({k: torch.ones(7, 5, 3) for k in state.tensors}, state.facts).save(task)
    assert "its state is not one that seqlora can use" in refused(theirs)
    State(state.tensors, {"concepts": ["../../x"]}).save(task)
    assert "concepts that run.json does not list" in refused(theirs)


class Words(Method):
    """A method whose words are what its state says."""

    def install(self, backbone: Backbone, state: State, concepts: tuple[str, ...]) -> None:
        for name, row in state.tensors_of("token").items():
            backbone.add_token(f"<{name}>", row)

    def phrase(self, concept: str, class_noun: str, state: State) -> str:
        return state.facts["phrase"]

    def lora(self, state: State, concepts: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {}


ODD_PATH = '../<b>/`x`"+str(1)+"'


def stranger(
    backbone: Backbone, folder: Path, word: str = "v", phrase: str = "<v> dog", noun: str = "dog"
) -> TrainedRun:
    state = State({f"token/{word}": backbone.word_embedding("dog")}, {"concepts": ["dog"], "phrase": phrase})
    config = RunConfig(method="words", sequence="quick3", backbone=ODD_PATH)
    return TrainedRun(folder, config, Words(), state, backbone, {"dog": noun})


@pytest.mark.parametrize("word", ["../../x", "a/b", "..", "x" * 300])
def test_words_of_a_state_are_part_of_no_path(tiny: Backbone, tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match="cannot name a file"):
        export(stranger(tiny, tmp_path, word), tmp_path / "deep" / "er" / "out")
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_words_of_a_record_are_only_words_in_the_readme(tiny: Backbone, tmp_path: Path) -> None:
    phrase = 'a | `b` ``` " + 1/0 + " <i>\n\n# c'
    export(stranger(tiny, tmp_path, phrase=phrase, noun="<img> | [a](http://b)"), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    strings = [n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant)]
    assert f"a photo of a {phrase}" in strings and ODD_PATH in strings and "`" not in code
    (row,) = [line for line in text.splitlines() if line.startswith("| dog ")]
    shown = r"a \| 'b' ''' " + '" + 1/0 + " <i> # c'
    assert row == rf"| dog | &lt;img&gt; \| \[a\](http&#58;//b) | `{shown}` |"
    assert "<b>" not in text.replace(code, "")


@pytest.mark.parametrize("prompt", ["{dog!r}", "{dog:>99999999}", "{dog.__class__}", "{dog[0]}", "{0}", "{}", "{dog"])
def test_a_prompt_is_no_format(tiny: Backbone, tmp_path: Path, prompt: str) -> None:
    with pytest.raises(UserError):
        sample(stranger(tiny, tmp_path), f"a {prompt}", 1, 0, 1, None)


def test_concepts_with_dots_stand_in_prompts_and_braces_that_are_doubled_stay(tiny: Backbone, tmp_path: Path) -> None:
    it = stranger(tiny, tmp_path)
    it.nouns = {"rex.2": "dog"}
    assert sample(it, "a {rex.2} in {{braces}}", 1, 0, 1, None).shape == (1, 32, 32, 3)


def test_a_folder_without_a_run_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="there is no run.json"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="there is no run.json"):
        open_run(tmp_path / ("x" * 300))
    assert reading.find(run.parents[1]) == run
