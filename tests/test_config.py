"""Where a setting comes from, and how methods are found."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from cpbench import config, moved
from cpbench.config import parse_settings, resolve
from cpbench.errors import UserError
from cpbench.method import Method, Options
from cpbench.registry import built_in_methods, changed, load_method, method_file, method_names, preset, summary_of

ROOT = Path(__file__).parents[1]
PRESET = yaml.safe_load((ROOT / "baselines" / "presets" / "miniature.yaml").read_text())["seqlora"]
PRESET.pop("_provenance", None)

ONE = """
from pydantic import Field
from cpbench.method import Method, Options as Base

class Settings(Base):
    steps: int = Field(11, ge=1)
    rate: float = 0.5
    layers: tuple[str, ...] = ("a",)
    careful: bool = False

class Mine(Method):
    Options = Settings

    def learn(self, backbone, task, state): ...

    def install(self, backbone, state, concepts): ...

    def phrase(self, concept, class_noun, state): ...
"""


def complaint(action: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        action(*args, **kwargs)
    line = str(caught.value)
    assert line.strip() and len(line.splitlines()) == 1 and "Traceback" not in line
    return line


def write(folder: Path, text: str, name: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


# Layers


def test_preset_is_over_default_where_there_is_one() -> None:
    _, method, tuned = resolve({"method": "seqlora", "sequence": "quick3"})
    defaults = {name: field.default for name, field in method.Options.model_fields.items()}
    assert any(defaults[k] != (tuple(v) if isinstance(v, list) else v) for k, v in PRESET.items())
    expected = defaults | {k: tuple(v) if isinstance(v, list) else v for k, v in PRESET.items()}
    assert tuned.model_dump() == expected
    _, _, elsewhere = resolve({"method": "seqlora", "sequence": "quick3", "backbone": "some/other"})
    assert elsewhere.model_dump() == defaults


def test_the_papers_preset_holds_on_every_backbone_without_one_and_is_what_the_defaults_say() -> None:
    """Two places for one number: whoever changes one is told of the other."""
    papers = yaml.safe_load((ROOT / "baselines" / "presets" / "sd.yaml").read_text())
    for method, told in papers.items():
        assert told["_provenance"].keys() == {"values", "model"}
        values = {k: v for k, v in told.items() if k != "_provenance"}
        for backbone in ("sd15", "sdxl", "some/folder"):
            assert preset(backbone, method) == values
        defaults = load_method(method).Options().model_dump(mode="json")
        assert {k: defaults[k] for k in values} == values
    assert preset("miniature", "clora")["steps"] != papers["clora"]["steps"]


def test_config_file_is_over_preset_and_set_over_config_file(tmp_path: Path) -> None:
    said = {"method": "seqlora", "sequence": "quick3", "seed": 3, "options": {"steps": 7, "rank": 5}}
    said["evaluation"] = {"num_inference_steps": 4, "pictures_per_prompt": 9}
    file = write(tmp_path, yaml.safe_dump(said), "config.yaml")
    resolved, _, options = resolve({}, file)
    assert (options.steps, options.rank) == (7, 5) and PRESET["steps"] != 7
    assert options.batch_size == PRESET["batch_size"]
    assert (resolved.evaluation.num_inference_steps, resolved.evaluation.pictures_per_prompt) == (4, 9)
    assert resolved.evaluation.guidance_scale is None  # the sequence's own

    resolved, _, options = resolve({}, file, ("steps=8", "evaluation.num-inference-steps=6", "learning-rate=1e-5"))
    assert (options.steps, options.rank, options.learning_rate) == (8, 5, 1e-5)
    assert (resolved.evaluation.num_inference_steps, resolved.evaluation.pictures_per_prompt) == (6, 9)


def test_what_loads_a_backbone_may_stand_beside_loading(tmp_path: Path) -> None:
    """As on the command line, and as a sweep writes its jobs."""
    text = "{method: base, sequence: quick3, vae: some/vae, loading: {vae: other, resolution: 64}}"
    resolved, _, _ = resolve({"dtype": "float32"}, write(tmp_path, text, "config.yaml"))
    assert (resolved.loading.vae, resolved.loading.resolution, resolved.loading.dtype) == ("some/vae", 64, "float32")


@pytest.mark.parametrize("source", ["--set", "--config", "cpbench.run"])
def test_an_evaluation_setting_of_0_1_answers_by_its_new_name_and_warns(
    tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moved, "_warned", set())
    (tmp_path / "c.yaml").write_text("evaluation: {upper_triangle: true, batch_size: 3}\n")
    keywords = {"method": "base", "sequence": "quick3"}
    with pytest.warns(DeprecationWarning, match="evaluation.upper_triangle is evaluation.forward_transfer_cells now"):
        if source == "--set":
            resolved = resolve(keywords, settings=("evaluation.upper_triangle=true", "evaluation.batch_size=3"))[0]
        elif source == "--config":
            resolved = resolve(keywords, tmp_path / "c.yaml")[0]
        else:
            resolved = resolve(keywords | {"evaluation": {"upper_triangle": True, "batch_size": 3}})[0]
    assert resolved.evaluation.forward_transfer_cells is True and resolved.evaluation.batch_size == 3
    with pytest.raises(UserError, match="upper_triangle"):
        resolve(keywords, settings=("evaluation.upper_triangle=true", "evaluation.forward_transfer_cells=true"))


def test_command_line_is_over_config_file_unless_not_given(tmp_path: Path) -> None:
    file = write(tmp_path, "{method: seqlora, sequence: quick3, seed: 3, order: 2, output: there}", "config.yaml")
    resolved, _, _ = resolve({"seed": 5, "order": None, "sequence": "dreambench10"}, file)
    assert (resolved.method, resolved.sequence) == ("seqlora", "dreambench10")
    assert (resolved.seed, resolved.order, resolved.output) == (5, 2, Path("there"))
    assert (resolved.backbone, resolved.device) == ("miniature", "auto")  # said nowhere: the defaults


def test_resolved_options_are_complete_and_plain(tmp_path: Path) -> None:
    path = write(tmp_path, ONE, "mine.py")
    resolved, method, options = resolve({"method": str(path), "sequence": "quick3", "options": {"steps": 2}})
    assert method.__name__ == "Mine" and isinstance(options, method.Options)
    assert resolved.options == {"steps": 2, "rate": 0.5, "layers": ["a"], "careful": False}


@pytest.mark.parametrize(
    ("given_", "settings", "says"),
    [
        ({"method": "base"}, (), ["--sequence is missing", "list sequences"]),
        ({"sequence": "quick3"}, (), ["--method is missing"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("stpes=3",), ["'stpes'", "did you mean 'steps'"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("steps=abc",), ["steps", "'abc'", "whole number"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("steps=-1",), ["steps", "-1", "greater than or equal to 1"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("steps=[1, 2]",), ["steps", "[1, 2]"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("learning_rate=0",), ["learning_rate", "greater than 0"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("evaluation.batch=3",), ["evaluation", "'batch_size'"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("evaluation.batch_size=0",), ["batch_size", "0"]),
        ({"method": "seqlora", "sequence": "quick3", "seed": -1}, (), ["run: seed", "-1"]),
        ({"method": "seqlora", "sequence": "quick3", "options": [1]}, (), ["options: must be a mapping"]),
        ({"method": "seqlora", "sequence": "quick3", "evaluation": "fast"}, (), ["evaluation: must be a mapping"]),
        ({"method": "seqlora", "sequence": "quick3", "colour": 1}, (), ["run: unknown key 'colour'"]),
        ({"method": "base", "sequence": "quick3"}, ("steps=3",), ["'steps'", "method base"]),
        ({"method": "base", "sequence": "quick3", "output": "a\0b"}, (), ["run: output", "NUL"]),
        ({"method": "base", "sequence": "quick3", "vae": "a\0b"}, (), ["run: loading.vae", "NUL"]),
        ({"method": "x" * 5000 + ".py", "sequence": "quick3"}, (), ["method", "no such file"]),
        ({"method": "base", "sequence": "quick3", "backbone": "x" * 5000, "seed": 1e400}, (), ["run: seed"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("steps=1e400",), ["steps"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("steps=" + "9" * 4000,), ["--set", "4,000 digits"]),
        ({"method": "seqlora", "sequence": "quick3"}, ("learning_rate=.nan",), ["learning_rate"]),
    ],
)
def test_wrong_settings_are_one_line(given_: dict[str, Any], settings: tuple[str, ...], says: list[str]) -> None:
    line = complaint(resolve, given_, None, settings)
    assert [s for s in says if s not in line] == [], line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: [", "line 1: not valid YAML"),
        ("method: base\n\tseed: 1", "line 2: not valid YAML"),
        ("seed: 2024-13-45", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("base", "must be a mapping"),
        ("", "must be a mapping"),
        ("methd: base", "did you mean 'method'"),
        ("3: base", "unknown key 3"),
        ("method: base\nmethod: seqlora", "line 2: not valid YAML: the key 'method' occurs twice"),
        ("\n".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9 if n else 'x'}]" for n in range(20)), "more than 20,000 values"),
        ("seed: " + "9" * 4000, "a number of 4,000 digits"),
        ("method: !!int ''", "leave the tag out"),
        ("method: " + "x" * 300_000, "more than 256 kB"),
        ("seed: many", "seed: must be a whole number, not 'many'"),
        ("method: [base]", "method: must be text"),
        ("output: 5", "output: must be a path, not 5"),
        ("options: 3", "options: must be a mapping, such as {key: value}, not 3"),
        ("options: {3: 4}", "options.3: must be text"),
        ("evaluation: [1]", "evaluation: must be a mapping with the keys pictures_per_prompt, "),
        ("evaluation: {pictures_per_prompt: true}", "evaluation.pictures_per_prompt: must be a number, not True"),
        ("evaluation: {batch_sise: 3}", "evaluation: unknown key 'batch_sise': did you mean 'batch_size'?"),
        ("evaluation: {3: 4}", "evaluation: unknown key 3"),
        ("loading: {resolution: [64]}", "loading.resolution: must be a whole number"),
        ("rows: 3", "rows: must be a list, such as [a, b], not 3"),
        ("rows: [2, true]", "row 2: must be a number, not True"),
        ("fit: 3", "fit: must be 'crop' or 'pad', not 3"),
        ("colour: red", "unknown key 'colour': the keys are method, sequence, "),
        ("data: 'a\0b'", "not valid YAML"),
        ('data: "a\\0b"', "NUL"),
        ("method: !!binary YmFzZQ==", "not valid YAML"),
    ],
)
def test_broken_config_files_are_one_line_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    file = write(tmp_path, text, "config.yaml")
    line = complaint(resolve, {}, file)
    assert str(file) in line and says in line


def test_config_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file" in complaint(resolve, {}, tmp_path / "gone.yaml")
    assert "cannot be read" in complaint(resolve, {}, tmp_path)
    (tmp_path / "latin.yaml").write_bytes("method: café".encode("latin-1"))
    assert "not valid YAML" in complaint(resolve, {}, tmp_path / "latin.yaml")


# --set

KEYS = st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True)
# as people write them, with what is meant
NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map(lambda i: (str(i), i)),
    st.tuples(st.integers(-999, 999), st.integers(-30, 30), st.sampled_from("eE")).map(
        lambda w: (f"{w[0]}{w[2]}{w[1]}", w[0] * 10.0 ** w[1])
    ),
    st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 9)).map(
        lambda w: (f"{w[0]}.{w[1]:02d}e-{w[2]}", (w[0] + w[1] / 100) / 10.0 ** w[2])
    ),
    st.tuples(st.integers(-99, 99).filter(bool), st.integers(0, 99)).map(
        lambda w: (f"{w[0]}.{w[1]:02d}", math.copysign(abs(w[0]) + w[1] / 100, w[0]))
    ),
)
BOOLEANS = st.sampled_from([("true", True), ("false", False), ("True", True), ("no", False)])
WORDS = st.from_regex(r"[a-z]+[a-z0-9./]{0,8}", fullmatch=True).filter(
    lambda w: w not in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
)
SIMPLE = st.one_of(st.integers(-99, 99).map(lambda i: (str(i), i)), BOOLEANS, WORDS.map(lambda w: (w, w)))
LISTS = st.lists(SIMPLE, max_size=4).map(lambda xs: (f"[{', '.join(x for x, _ in xs)}]", [v for _, v in xs]))


@given(KEYS, st.one_of(NUMBERS, BOOLEANS, WORDS.map(lambda w: (w, w)), LISTS))
@example("rate", ("1e-4", 0.0001))
@example("rate", ("5E3", 5000.0))
@example("layers", ("[to_q, to_out.0]", ["to_q", "to_out.0"]))
def test_values_are_read_as_they_are_meant(key: str, value: tuple[str, Any]) -> None:
    text, meant = value
    read = parse_settings((f"{key}={text}",))[key]
    assert type(read) is type(meant)
    assert math.isclose(read, meant, rel_tol=1e-12) if isinstance(meant, float) else read == meant


@given(st.text(max_size=30))
@example("2024-13-45")
@example("[" * 3000)
@example("!!python/object/apply:os.getcwd []")
def test_any_value_is_read_or_is_one_line(text: str) -> None:
    try:
        assert list(parse_settings((f"key={text}",))) == ["key"]
    except UserError as error:
        assert len(str(error).splitlines()) == 1 and "--set" in str(error)


def test_settings_keep_their_order_and_split_at_the_first_sign() -> None:
    assert parse_settings(("a=1", "b-c=x=y", "a=2")) == {"a": 2, "b_c": "x=y"}
    assert parse_settings(()) == {}
    for bad in ("steps", "=3", ""):
        assert "key=value" in complaint(parse_settings, (bad,))


# Methods


def test_built_in_methods_are_the_files_of_baselines() -> None:
    files = {f.stem for f in (ROOT / "baselines").glob("*.py")} - {"__init__"}
    assert {"base", "seqlora", "isolated"} <= files
    assert set(built_in_methods()) == files <= set(method_names())
    for name in files:
        assert load_method(name).__module__ == f"cpbench.baselines.{name}"


def test_summaries_are_the_docstrings_first_lines_read_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in built_in_methods():
        monkeypatch.delitem(sys.modules, f"cpbench.baselines.{name}", raising=False)
        first = (ROOT / "baselines" / f"{name}.py").read_text().splitlines()[0]
        assert first.startswith('"""')
        assert summary_of(name) == first.strip('"')
        assert f"cpbench.baselines.{name}" not in sys.modules


def test_method_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path, ONE + "\nfrom cpbench.baselines.base import Base as Other\n", "mine.py")
    found = load_method(str(path))
    assert (found.__name__, issubclass(found, Method)) == ("Mine", True)  # what is imported does not count
    assert method_file(found) == path


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "defines 0"),
        (ONE + "class Second(Mine):\n    pass\n", "defines 2"),
        ("import no_such_package_of_this_name\n", "ModuleNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def f(:\n", "SyntaxError"),
        (None, "no such file"),
    ],
)
def test_files_without_one_method_are_one_line_with_the_path(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    line = complaint(load_method, str(path))
    assert str(path) in line and says in line


@pytest.mark.parametrize(("name", "meant"), [("seqlra", "seqlora"), ("SeqLoRA", "seqlora"), ("isolate", "isolated")])
def test_unknown_methods_get_near_matches(name: str, meant: str) -> None:
    assert f"did you mean '{meant}'" in complaint(load_method, name)


def test_installed_package_adds_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ONE, "added_method.py")
    info = tmp_path / "added-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
    lines = ["by_class = added_method:Mine", "by_module = added_method", "gone = added_method:Gone"]
    (info / "entry_points.txt").write_text("\n".join(["[cpbench.methods]", *lines]) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"by_class", "by_module", "gone", "seqlora"} <= set(method_names())
    assert method_names() == sorted(method_names())
    assert load_method("by_class") is load_method("by_module") is sys.modules["added_method"].Mine
    line = complaint(load_method, "gone")
    assert "added_method:Gone" in line and "uninstall" in line


def test_two_packages_of_one_methods_name_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them ran was left to the order of the packages."""
    write(tmp_path, ONE, "added_method.py")
    for package, value in (("one", "added_method:Mine"), ("two", "added_method")):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[cpbench.methods]\nmine = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    line = complaint(load_method, "mine")
    assert "added_method:Mine (package one)" in line and "added_method (package two)" in line and "uninstall" in line


# What tells two runs of a method apart


class Needs(Options):
    folder: str
    words: tuple[str, ...] = ("a", "b")
    rate: float = 1.0


def test_options_unlike_the_defaults_or_the_preset_are_the_changed_ones() -> None:
    assert changed("mine.py", "miniature", Needs(folder="x")) == {"folder": "x"}  # it has no default
    other = Needs(folder="x", words=["a"], rate=1)
    assert changed("mine.py", "miniature", other) == {"folder": "x", "words": ["a"]}
    presets = yaml.safe_load((Path(__file__).parents[1] / "baselines" / "presets" / "miniature.yaml").read_text())
    for method in built_in_methods():
        _, _, options = config.resolve({"method": method, "sequence": "quick3"})
        assert changed(method, "miniature", options) == {}, method
    _, _, options = config.resolve({"method": "dcscore", "sequence": "quick3"}, None, ("variant=ewc",))
    assert changed("dcscore", "miniature", options) == {"variant": "ewc"}  # its rates come from a preset as well
    assert options.ewc_weight == presets["dcscore variant=ewc"]["ewc_weight"] != presets["dcscore"]["ewc_weight"]
    _, _, options = config.resolve({"method": "dcscore", "sequence": "quick3"}, None, ("variant=ewc", "ewc_weight=3.0"))
    assert options.ewc_weight == 3
    _, _, options = config.resolve({"method": "clora", "sequence": "quick3"}, None, ("use_class_noun=true", "rank=3"))
    assert changed("clora", "miniature", options) == {"use_class_noun": True, "rank": 3}
    assert options.forgetting_weight == float(presets["clora use_class_noun=true"]["forgetting_weight"])
    assert set(changed("clora", "some/folder", options)) >= {"steps", "forgetting_weight"}  # no preset there
